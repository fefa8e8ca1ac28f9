"""Snapshots between members: the file goes over in chunks, each acknowledged, resumable.

The sender keeps the file open, so compaction may unlink it meanwhile. The receiver writes
beside its own snapshots, checks the whole file, and only then gives it its name and hands
it to `install`; the answer to the last chunk is sent after that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from swarmpy.proto import raft_pb2
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.log import LogDamaged

log = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
ANSWER_TIMEOUT_S = 3.0
INSTALL_TIMEOUT_S = 60.0
TRIES = 10
QUEUE_MAX = 4

Send = Callable[[raft_pb2.SnapshotChunk], None]


class Sender:
    """One snapshot to one peer; feed `answered`, await `run`."""

    def __init__(self, path: Path, meta: raft_pb2.SnapshotMeta, send: Send) -> None:
        self._path = path
        self._meta = meta
        self._send = send
        self._answers: asyncio.Queue[int] = asyncio.Queue(QUEUE_MAX)

    def answered(self, response: raft_pb2.SnapshotResponse) -> None:
        if response.index == self._meta.index and not self._answers.full():
            self._answers.put_nowait(response.next_offset)

    async def run(self) -> bool:
        """True when the peer has installed it."""
        with self._path.open("rb") as file:
            size, offset, tries = self._path.stat().st_size, 0, 0
            while tries < TRIES:
                file.seek(offset)
                data = file.read(CHUNK_BYTES)
                chunk = raft_pb2.SnapshotChunk(meta=self._meta, offset=offset, data=data, size_bytes=size)
                self._send(chunk)
                last = offset + len(data) >= size
                try:
                    async with asyncio.timeout(INSTALL_TIMEOUT_S if last else ANSWER_TIMEOUT_S):
                        answer = await self._answers.get()
                except TimeoutError:
                    answer = offset
                if answer > size:
                    return True
                tries = 0 if answer > offset else tries + 1
                offset = answer
        return False


class Receiver:
    """Pieces in, installed snapshots out; one snapshot at a time."""

    def __init__(
        self,
        directory: Path,
        checkpoints: Checkpoints,
        *,
        wanted: Callable[[int], bool],
        install: Callable[[Path, raft_pb2.SnapshotMeta, str], Awaitable[None]],
        answer: Callable[[str, raft_pb2.SnapshotResponse], None],
    ) -> None:
        self._temporary = directory / "received.snapshot.tmp"
        self._checkpoints = checkpoints
        self._wanted, self._install, self._answer = wanted, install, answer
        self._queue: asyncio.Queue[raft_pb2.RaftMessage] = asyncio.Queue(QUEUE_MAX)
        self._file: BinaryIO | None = None
        self._from = ("", 0)  # sender and index of the file being received

    def put(self, message: raft_pb2.RaftMessage) -> None:
        if not self._queue.full():
            self._queue.put_nowait(message)

    async def run(self) -> None:
        try:
            while True:
                await self._take(await self._queue.get())
        finally:
            self._close()

    async def _take(self, message: raft_pb2.RaftMessage) -> None:
        chunk, sender = message.snapshot_chunk, message.sender
        if not self._wanted(chunk.meta.index):
            self._reply(sender, chunk, chunk.size_bytes + 1)
            return
        if (sender, chunk.meta.index) != self._from or self._file is None or chunk.offset == 0:
            self._close()
            self._file = self._temporary.open("wb")
            self._from = (sender, chunk.meta.index)
        if chunk.offset != self._file.tell():
            self._reply(sender, chunk, self._file.tell())
            return
        await asyncio.to_thread(self._file.write, chunk.data)
        offset = self._file.tell()
        if offset >= chunk.size_bytes:
            offset = await self._complete(sender, chunk)
        self._reply(sender, chunk, offset)

    async def _complete(self, sender: str, chunk: raft_pb2.SnapshotChunk) -> int:
        self._close()
        try:
            meta = await asyncio.to_thread(self._checkpoints.verify, self._temporary)
        except LogDamaged as error:
            log.warning("snapshot arrived damaged, asking again from=%s error=%s", sender, error)
            return 0
        path = await asyncio.to_thread(self._checkpoints.adopt, self._temporary, meta.index)
        await self._install(path, meta, sender)
        return chunk.size_bytes + 1

    def _reply(self, sender: str, chunk: raft_pb2.SnapshotChunk, next_offset: int) -> None:
        self._answer(sender, raft_pb2.SnapshotResponse(index=chunk.meta.index, next_offset=next_offset))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
