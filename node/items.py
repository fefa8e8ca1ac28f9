"""Sets of assignment items, their digests and the deltas between them. Pure.

A set maps a key ("task/ID", "peer/ID", …) to a serialised Item. Its digest is the sum of
the items' SHA-256 modulo 2^256: it does not depend on order and changes with every item,
so both ends of a session can check that a delta led to the same set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache

from swarmpy.proto import dispatcher_pb2

Items = dict[str, bytes]
MODULUS = 1 << 256
MESSAGE_BYTES = 1 << 20


def encode(item: dispatcher_pb2.Item) -> bytes:
    return item.SerializeToString(deterministic=True)


@lru_cache(maxsize=100_000)
def weight(key: str, data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key.encode() + b"\0" + data).digest(), "big")


def digest(items: Mapping[str, bytes]) -> bytes:
    """The set's digest, 32 bytes; the empty set has b""."""
    return as_bytes(sum(weight(key, data) for key, data in items.items()) % MODULUS) if items else b""


def as_bytes(total: int) -> bytes:
    return total.to_bytes(32, "big")


def deltas(
    old: Mapping[str, bytes], new: Mapping[str, bytes], *, complete: bool
) -> Iterator[dispatcher_pb2.Assignments]:
    """Messages of about 1 MiB at most that lead from `old` to `new`.

    With `complete` the first one starts a set from nothing and `old` is ignored.
    """
    base: dict[str, bytes] = {} if complete else dict(old)
    changes = [(key, None) for key in base if key not in new]
    pending: list[tuple[str, bytes | None]] = [
        *changes,
        *((k, v) for k, v in new.items() if base.get(k) != v),
    ]
    first = True
    while pending or (first and complete):
        message = dispatcher_pb2.Assignments(
            applies_to=digest(base), type=dispatcher_pb2.ASSIGNMENT_INCREMENTAL
        )
        if first and complete:
            message.type = dispatcher_pb2.ASSIGNMENT_COMPLETE
        size = 0
        while pending and size < MESSAGE_BYTES:
            key, data = pending.pop(0)
            change = message.changes.add(key=key)
            if data is None:
                base.pop(key, None)
            else:
                change.item.MergeFromString(data)
                base[key] = data
                size += len(data) + len(key)
        message.results_in = digest(base)
        message.more = bool(pending)
        first = False
        yield message


def apply(items: Items, message: dispatcher_pb2.Assignments) -> Items | None:
    """The set after `message`, or None when it does not fit: ask for a complete one."""
    complete = message.type == dispatcher_pb2.ASSIGNMENT_COMPLETE
    if not complete and digest(items) != message.applies_to:
        return None
    result: Items = {} if complete else dict(items)
    for change in message.changes:
        if change.HasField("item"):
            result[change.key] = encode(change.item)
        else:
            result.pop(change.key, None)
    return result if digest(result) == message.results_in else None
