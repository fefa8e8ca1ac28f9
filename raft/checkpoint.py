"""Snapshots as files: written whole or not at all, checked whole before they are used.

`<index>.snapshot` is a head `magic | salt | key id | crc32`, then frames `length | crc32 |
sealed payload`: the first is the SnapshotMeta, the last is empty (the end), between them the
state machine's chunks. A file gets its name only when it is complete and synced, whether
made here or received from a leader; one older file is kept until the next. Between members
the same frames travel unsealed (TLS protects them): every member seals with its own keys.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from swarmpy.proto import raft_pb2
from swarmpy.raft.journal import ADVICE
from swarmpy.raft.log import LogDamaged
from swarmpy.raft.seal import SALT_BYTES, Keys, NoKeys, SealBroken, Stream
from swarmpy.raft.segment import sync_directory

MAGIC = b"SWPYSNP2"
HEAD = struct.Struct(">8s16sII")
FRAME = struct.Struct(">II")
FRAME_BYTES_MAX = 64 * 1024 * 1024
KIND = "snapshot"


@dataclass(frozen=True)
class Limits:
    """When to make a snapshot, and how much of the log to keep behind it."""

    snapshot_entries: int = 10_000
    snapshot_bytes: int = 64 * 1024 * 1024
    trailing_entries: int = 10_000
    trailing_bytes: int = 32 * 1024 * 1024


class Checkpoints:
    """The snapshot files of one directory. Blocking; safe to call from a thread."""

    def __init__(self, directory: Path, keys: Keys | None = None) -> None:
        self._directory = directory
        self._keys = keys or NoKeys()
        for leftover in directory.glob("*.snapshot.tmp*"):
            leftover.unlink()

    @property
    def current_key(self) -> int:
        return self._keys.current

    def path(self, index: int) -> Path:
        return self._directory / f"{index:016x}.snapshot"

    def all(self) -> list[Path]:
        """Newest first."""
        return sorted(self._directory.glob("*.snapshot"), reverse=True)

    def newest(self) -> Path | None:
        return max(self._directory.glob("*.snapshot"), default=None)

    def write(self, meta: raft_pb2.SnapshotMeta, chunks: Iterator[bytes]) -> Path:
        path = self.path(meta.index)
        temporary = path.with_name(path.name + ".tmp")
        try:
            with Writer(temporary, self._keys) as writer:
                writer.frame(meta.SerializeToString())
                for chunk in chunks:
                    if chunk:
                        writer.frame(chunk)
                writer.frame(b"")
            return self.adopt(temporary, meta.index)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def writer(self, temporary: Path) -> Writer:
        """For a snapshot that arrives in pieces."""
        return Writer(temporary, self._keys)

    def adopt(self, temporary: Path, index: int) -> Path:
        """Give a complete file its name, durably, and let go of those before the last."""
        path = self.path(index)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(self._directory)
        for old in self.all()[2:]:
            old.unlink()
        return path

    def retire(self, key_id: int) -> None:
        """Remove all but the newest that are not sealed with `key_id`."""
        for old in self.all()[1:]:
            if self.key_id(old) != key_id:
                old.unlink()
        sync_directory(self._directory)

    def key_ids(self) -> set[int]:
        return {self.key_id(path) for path in self.all()}

    def key_id(self, path: Path) -> int:
        with path.open("rb") as file:
            return read_head(path, file.read(HEAD.size))[1]

    def verify(self, path: Path) -> raft_pb2.SnapshotMeta:
        """Read it to the end; LogDamaged says where it is not what was written."""
        return self.measure(path)[0]

    def measure(self, path: Path) -> tuple[raft_pb2.SnapshotMeta, int]:
        """Verify; also how many bytes `plain` gives."""
        frames = self._frames(path)
        first = next(frames)
        try:
            meta = raft_pb2.SnapshotMeta.FromString(first)
        except DecodeError as error:
            raise LogDamaged(f"{path}: its first frame cannot be read ({error}). {ADVICE}") from error
        size = 2 * FRAME.size + len(first) + sum(FRAME.size + len(frame) for frame in frames)
        if path.suffix == ".snapshot" and path != self.path(meta.index):
            raise LogDamaged(f"{path}: holds the snapshot of index {meta.index}. {ADVICE}")
        return meta, size

    def chunks(self, path: Path) -> Iterator[bytes]:
        frames = self._frames(path)
        next(frames)
        yield from frames

    def plain(self, path: Path) -> Generator[bytes, None, None]:
        """The frames as they travel; close it when it is not read to the end."""
        for payload in self._frames(path):
            yield FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        yield FRAME.pack(0, 0)

    def _frames(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            salt, key_id = read_head(path, file.read(HEAD.size))
            if bool(key_id) != bool(self._keys.current):
                raise LogDamaged(f"{path}: sealed with key {key_id}. {ADVICE}")
            number = 0
            try:
                stream = self._keys.stream(key_id, KIND, salt)
                while payload := self._read_frame(path, file, stream, number):
                    yield payload
                    number += 1
            except SealBroken as error:
                raise LogDamaged(f"{path}: frame {number} cannot be opened: {error}. {ADVICE}") from None
            if number == 0 or file.read(1):
                raise LogDamaged(f"{path}: does not end where it should. {ADVICE}")

    def _read_frame(self, path: Path, file: BinaryIO, stream: Stream, number: int) -> bytes:
        where = file.tell()
        header = file.read(FRAME.size)
        length, crc = FRAME.unpack(header) if len(header) == FRAME.size else (FRAME_BYTES_MAX + 1, 0)
        payload = file.read(length) if length <= FRAME_BYTES_MAX else b""
        if length > FRAME_BYTES_MAX or len(payload) != length or zlib.crc32(payload) != crc:
            raise LogDamaged(f"{path}: damaged at byte {where}. {ADVICE}")
        return stream.open(number, payload)


class Writer:
    """Seals frames into a file under a temporary name."""

    def __init__(self, temporary: Path, keys: Keys) -> None:
        salt, key_id = secrets.token_bytes(SALT_BYTES), keys.current
        self._stream = keys.stream(key_id, KIND, salt)
        self._file = temporary.open("wb")
        head = HEAD.pack(MAGIC, salt, key_id, 0)[:-4]
        self._file.write(head + struct.pack(">I", zlib.crc32(head)))
        self._number = 0
        self._pending = bytearray()

    def frame(self, payload: bytes) -> None:
        sealed = self._stream.seal(self._number, payload)
        self._file.write(FRAME.pack(len(sealed), zlib.crc32(sealed)) + sealed)
        self._number += 1

    def feed(self, data: bytes) -> None:
        """Take plain frames as they travel, cut anywhere. LogDamaged."""
        pending = self._pending
        pending += data
        offset = 0
        while len(pending) - offset >= FRAME.size:
            length, crc = FRAME.unpack_from(pending, offset)
            begin, end = offset + FRAME.size, offset + FRAME.size + length
            if length > FRAME_BYTES_MAX:
                raise LogDamaged(f"a snapshot arrives with a frame of {length} bytes")
            if end > len(pending):
                break
            payload = bytes(pending[begin:end])
            if zlib.crc32(payload) != crc:
                raise LogDamaged("a snapshot arrives damaged")
            self.frame(payload)
            offset = end
        del pending[:offset]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_head(path: Path, data: bytes) -> tuple[bytes, int]:
    """Salt and key id."""
    if len(data) == HEAD.size:
        magic, salt, key_id, crc = HEAD.unpack(data)
        if magic == MAGIC and crc == zlib.crc32(data[:-4]):
            return salt, key_id
    raise LogDamaged(f"{path}: not a snapshot or its head is damaged. {ADVICE}")
