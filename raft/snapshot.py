"""A snapshot as a stream of bytes.

Layout: records, each a varint length and a SnapshotRecord: one header, the
objects, the answered requests (oldest first), one end. The end holds the number
of records before it and the SHA-256 of all bytes before it, so that a cut, a
flipped bit or bytes too many are all seen. Chunks cut the stream at CHUNK_BYTES,
regardless of records. Nothing is believed before the end has been checked.

Errors:
    SnapshotDamaged    the bytes are not a whole snapshot of a format we know
    StateTooNew        it is of a state that only newer versions understand (raft/levels)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from swarmpy.proto import store_pb2
from swarmpy.raft import levels
from swarmpy.raft.tables import Entity, Rows, copy_entity, in_order, unwrap, wrap

FORMAT = 1
CHUNK_BYTES = 1 << 20
RECORD_BYTES_MAX = 16 << 20
_VARINT_BYTES_MAX = 5


class SnapshotDamaged(Exception):
    """Say which snapshot when you report it; the remedy is to take one from another manager."""


@dataclass(frozen=True)
class Snapshot:
    header: store_pb2.SnapshotHeader
    entities: tuple[Entity, ...]
    requests: tuple[tuple[str, store_pb2.TransactionResult], ...]


def write(
    header: store_pb2.SnapshotHeader,
    kinds: list[Rows],
    requests: Mapping[str, store_pb2.TransactionResult],
) -> Iterator[bytes]:
    """Chunks of at most CHUNK_BYTES. What is given must not change while this is iterated.

    Sorting and encoding happen then, in whatever thread asks for the chunks.
    """
    header.format = FORMAT
    digest = hashlib.sha256()
    buffer = bytearray()
    records = 0
    for record in _records(header, kinds, requests):
        framed = _frame(record)
        digest.update(framed)
        buffer += framed
        records += 1
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    end = store_pb2.SnapshotEnd(records=records, sha256=digest.digest())
    buffer += _frame(store_pb2.SnapshotRecord(end=end))
    for start in range(0, len(buffer), CHUNK_BYTES):
        yield bytes(buffer[start : start + CHUNK_BYTES])


def read(chunks: Iterable[bytes]) -> Snapshot:
    """Parse and check a whole snapshot; raises SnapshotDamaged, StateTooNew."""
    digest = hashlib.sha256()
    header: store_pb2.SnapshotHeader | None = None
    entities: list[Entity] = []
    requests: list[tuple[str, store_pb2.TransactionResult]] = []
    frames = _frames(chunks)
    records = 0
    for framed, record in frames:
        kind = record.WhichOneof("record")
        if (kind == "header") != (records == 0):
            raise SnapshotDamaged(f"record {records} of the snapshot is {kind or 'empty'}: damaged order")
        if kind == "end":
            if record.end.records != records or record.end.sha256 != digest.digest():
                raise SnapshotDamaged("the snapshot's checksum does not match its content")
            if next(frames, None) is not None:
                raise SnapshotDamaged("the snapshot goes on after its end")
            assert header is not None
            return Snapshot(header, tuple(entities), tuple(requests))
        digest.update(framed)
        records += 1
        if kind == "header":
            header = record.header
            if header.format != FORMAT:
                raise SnapshotDamaged(f"the snapshot has format {header.format}, this version reads {FORMAT}")
            levels.check(header.state_level)
        elif kind == "object":
            entities.append(_entity(record))
        elif kind == "request":
            requests.append((record.request_id, record.request))
        else:
            raise SnapshotDamaged(f"record {records - 1} of the snapshot is of an unknown kind")
    raise SnapshotDamaged(f"the snapshot ends after {records} records without its end record: it is cut off")


def _records(
    header: store_pb2.SnapshotHeader,
    kinds: list[Rows],
    requests: Mapping[str, store_pb2.TransactionResult],
) -> Iterator[store_pb2.SnapshotRecord]:
    yield store_pb2.SnapshotRecord(header=header)
    for entity in in_order(kinds):
        yield store_pb2.SnapshotRecord(object=wrap(entity))
    for request_id, result in requests.items():
        yield store_pb2.SnapshotRecord(request=result, request_id=request_id)


def _entity(record: store_pb2.SnapshotRecord) -> Entity:
    try:
        return copy_entity(unwrap(record.object))
    except ValueError as error:
        raise SnapshotDamaged(f"the snapshot holds an object of an unknown kind: {error}") from error


def _frame(record: store_pb2.SnapshotRecord) -> bytes:
    body = record.SerializeToString(deterministic=True)
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _frames(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, store_pb2.SnapshotRecord]]:
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        start = 0
        while (span := _span(buffer, start)) is not None:
            body, end = span
            try:
                record = store_pb2.SnapshotRecord.FromString(buffer[body:end])
            except DecodeError as error:
                raise SnapshotDamaged("a record of the snapshot cannot be decoded") from error
            yield buffer[start:end], record
            start = end
        buffer = buffer[start:]
    if buffer:
        raise SnapshotDamaged(
            f"the snapshot is cut off in the middle of a record, {len(buffer)} bytes are left"
        )


def _span(buffer: bytes, start: int) -> tuple[int, int] | None:
    """Where the body of the record at `start` begins and ends; None if it is not all there yet."""
    length = 0
    for offset in range(_VARINT_BYTES_MAX):
        if start + offset >= len(buffer):
            return None
        byte = buffer[start + offset]
        length |= (byte & 0x7F) << 7 * offset
        if byte < 0x80:
            if length > RECORD_BYTES_MAX:
                raise SnapshotDamaged(f"a record claims {length} bytes, at most {RECORD_BYTES_MAX}")
            body = start + offset + 1
            return (body, body + length) if body + length <= len(buffer) else None
    raise SnapshotDamaged("the length of a record is not a number")
