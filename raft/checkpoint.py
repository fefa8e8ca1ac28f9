"""Snapshots as files: written whole or not at all, checked whole before they are used.

`<index>.snapshot` is a magic, then frames `length | crc32 | payload`: the first is the
SnapshotMeta, the last is empty (the end), between them the state machine's chunks. A file
gets its name only when it is complete and synced, whether made here or received from a
leader; one older file is kept until the next.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from swarmpy.proto import raft_pb2
from swarmpy.raft.journal import ADVICE, Plain, Sealer, sync_directory
from swarmpy.raft.log import LogDamaged

MAGIC = b"SWPYSNP1"
FRAME = struct.Struct(">II")
FRAME_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """When to make a snapshot, and how much of the log to keep behind it."""

    snapshot_entries: int = 10_000
    snapshot_bytes: int = 64 * 1024 * 1024
    trailing_entries: int = 10_000
    trailing_bytes: int = 32 * 1024 * 1024


class Checkpoints:
    """The snapshot files of one directory. Blocking; safe to call from a thread."""

    def __init__(self, directory: Path, sealer: Sealer | None = None) -> None:
        self._directory = directory
        self._sealer = sealer or Plain()
        for leftover in directory.glob("*.snapshot.tmp*"):
            leftover.unlink()

    def path(self, index: int) -> Path:
        return self._directory / f"{index:016x}.snapshot"

    def newest(self) -> Path | None:
        return max(self._directory.glob("*.snapshot"), default=None)

    def write(self, meta: raft_pb2.SnapshotMeta, chunks: Iterator[bytes]) -> Path:
        path = self.path(meta.index)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(MAGIC)
            self._frame(file, 0, meta.SerializeToString())
            number = 0
            for number, chunk in enumerate((chunk for chunk in chunks if chunk), start=1):
                self._frame(file, number, chunk)
            self._frame(file, number + 1, b"")
        self.adopt(temporary, meta.index)
        return path

    def _frame(self, file: BinaryIO, number: int, payload: bytes) -> None:
        sealed = self._sealer.seal(payload, struct.pack(">QQ", 0, number)) if payload else b""
        file.write(FRAME.pack(len(sealed), zlib.crc32(sealed)))
        file.write(sealed)

    def adopt(self, temporary: Path, index: int) -> Path:
        """Give a complete file its name, durably, and let go of those before the last."""
        path = self.path(index)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(self._directory)
        for old in sorted(self._directory.glob("*.snapshot"))[:-2]:
            old.unlink()
        return path

    def verify(self, path: Path) -> raft_pb2.SnapshotMeta:
        """Read it to the end; LogDamaged says where it is not what was written."""
        frames = self._frames(path)
        meta = raft_pb2.SnapshotMeta.FromString(next(frames))
        for _ in frames:
            pass
        return meta

    def chunks(self, path: Path) -> Iterator[bytes]:
        frames = self._frames(path)
        next(frames)
        yield from frames

    def _frames(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LogDamaged(f"{path}: not a snapshot. {ADVICE}")
            number = 0
            while True:
                payload = self._read_frame(path, file, number)
                if not payload:
                    if number == 0 or file.read(1):
                        raise LogDamaged(f"{path}: does not end where it should. {ADVICE}")
                    return
                yield payload
                number += 1

    def _read_frame(self, path: Path, file: BinaryIO, number: int) -> bytes:
        where = file.tell()
        header = file.read(FRAME.size)
        length, crc = FRAME.unpack(header) if len(header) == FRAME.size else (FRAME_BYTES_MAX + 1, 0)
        payload = file.read(length) if length <= FRAME_BYTES_MAX else b""
        if length > FRAME_BYTES_MAX or len(payload) != length or zlib.crc32(payload) != crc:
            raise LogDamaged(f"{path}: damaged at byte {where}. {ADVICE}")
        return self._sealer.open(payload, struct.pack(">QQ", 0, number)) if payload else b""
