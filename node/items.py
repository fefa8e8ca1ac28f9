"""Sets of assignment items, their digests and the deltas between them. Pure.

A set maps a key ("task/ID", "peer/ID", …) to a serialised Item. Its digest is the sum of
the items' SHA-256 modulo 2^256: it does not depend on order and changes with every item,
so both ends of a session can check that a delta led to the same set.

Messages are put together from serialised items, because a leader sends the same ones to a thousand nodes:
taking them apart and serialising them again for each costs twenty times as much.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from swarmpy.proto import dispatcher_pb2

Items = dict[str, bytes]
MODULUS = 1 << 256
MESSAGE_BYTES = 1 << 20
REMEMBERED_BYTES = 1 << 10  # of larger items no sum is kept: it would keep the item, too


def encode(item: dispatcher_pb2.Item) -> bytes:
    return item.SerializeToString(deterministic=True)


def weight(key: str, data: bytes) -> int:
    """What an item adds to the sum of its set."""
    return _remembered(key, data) if len(data) <= REMEMBERED_BYTES else _weight(key, data)


def _weight(key: str, data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key.encode() + b"\0" + data).digest(), "big")


_remembered = lru_cache(maxsize=20_000)(_weight)


def total_of(items: Mapping[str, bytes]) -> int:
    """The sum behind a set's digest."""
    return sum(weight(key, data) for key, data in items.items()) % MODULUS


def digest(items: Mapping[str, bytes]) -> bytes:
    """The set's digest, 32 bytes; the empty set has b""."""
    return as_digest(total_of(items))


def as_digest(total: int) -> bytes:
    return (total % MODULUS).to_bytes(32, "big") if total else b""


class Move(NamedTuple):
    """One key's way from an older set to a newer one."""

    change: bytes  # the ItemChange, as Assignments carries it
    shift: int  # by how much the sum behind the digest moves


def move(key: str, before: bytes | None, after: bytes | None) -> Move:
    """From one value of a key to another; None: there is none."""
    shift = 0 if before is None else -weight(key, before)
    return Move(change_of(key, after), shift if after is None else shift + weight(key, after))


def change_of(key: str, data: bytes | None) -> bytes:
    """A field `changes` of Assignments: the item as it is now, or without one, gone."""
    change = field(1, key.encode())
    return field(4, change if data is None else change + field(2, data))


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protobuf message, on the wire."""
    length, head = len(data), bytearray((number << 3 | 2,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + data


def moves(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[Move]:
    """What leads from one set to another: what goes first, then what comes or changes."""
    for key, data in old.items():
        if key not in new:
            yield move(key, data, None)
    for key, data in new.items():
        before = old.get(key)
        if before != data:
            yield move(key, before, data)


def deltas(
    old: Mapping[str, bytes], new: Mapping[str, bytes], *, complete: bool
) -> Iterator[dispatcher_pb2.Assignments]:
    """Messages of about 1 MiB at most that lead from `old` to `new`.

    With `complete` the first one starts a set from nothing and `old` is ignored.
    """
    base: Mapping[str, bytes] = {} if complete else old
    for message in messages(list(moves(base, new)), total_of(base), complete=complete):
        yield dispatcher_pb2.Assignments.FromString(message)


def messages(moved: Sequence[Move], total: int, *, complete: bool) -> Iterator[bytes]:
    """The moves as serialised Assignments of about 1 MiB at most; `total` is the sum of the set they start from."""
    position, first = 0, True
    while position < len(moved) or (first and complete):
        head = dispatcher_pb2.Assignments(
            applies_to=as_digest(total), type=dispatcher_pb2.ASSIGNMENT_INCREMENTAL
        )
        if first and complete:
            head.type = dispatcher_pb2.ASSIGNMENT_COMPLETE
        size, begin = 0, position
        while position < len(moved) and size < MESSAGE_BYTES:
            size += len(moved[position].change)
            total += moved[position].shift
            position += 1
        total %= MODULUS
        head.results_in = as_digest(total)
        head.more = position < len(moved)
        first = False
        # Serialised messages that follow each other are one message with the fields of both.
        yield b"".join([head.SerializeToString(), *(one.change for one in moved[begin:position])])


def apply(items: Items, message: dispatcher_pb2.Assignments, holds: bytes | None = None) -> Items | None:
    """The set after `message`, or None when it does not fit: ask for a complete one.

    `holds` is the digest of `items` where it is known; the result's is then `message.results_in`.
    """
    complete = message.type == dispatcher_pb2.ASSIGNMENT_COMPLETE
    holds = b"" if complete else digest(items) if holds is None else holds
    if not complete and holds != message.applies_to:
        return None
    result: Items = {} if complete else dict(items)
    total = int.from_bytes(holds, "big")
    for change in message.changes:
        key, before = change.key, result.pop(change.key, None)
        if before is not None:
            total -= _weight(key, before)
        if change.HasField("item"):
            result[key] = change.item
            total += _weight(key, result[key])
    return result if as_digest(total % MODULUS) == message.results_in else None
