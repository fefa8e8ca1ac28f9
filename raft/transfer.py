"""Snapshots between members: the frames go over in chunks, each acknowledged, resumable.

The sender opens its file's seals and keeps the file open, so compaction may unlink it
meanwhile. The receiver seals with its own keys, writes beside its own snapshots, checks the
whole file, and only then gives it its name and hands it to `install`; the answer to the last
chunk is sent after that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from swarmpy.proto import raft_pb2
from swarmpy.raft.checkpoint import Checkpoints, Writer
from swarmpy.raft.log import LogDamaged
from swarmpy.raft.segment import NO_SPACE

log = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
ANSWER_TIMEOUT_S = 3.0
TRIES = 10
INSTALL_TRIES = 20
QUEUE_MAX = 4
AGAIN = -1

Send = Callable[[raft_pb2.SnapshotChunk], bool]  # False: it was not sent, and nothing more is to be


class Sender:
    """One snapshot to one peer; feed `answered`, await `run`."""

    def __init__(self, checkpoints: Checkpoints, path: Path, send: Send) -> None:
        self._checkpoints, self._path = checkpoints, path
        self._send = send
        self._index = 0
        self._answers: asyncio.Queue[int] = asyncio.Queue(QUEUE_MAX)

    def lost(self) -> None:
        """What was sent last may be lost: send it again at once."""
        if not self._answers.full():
            self._answers.put_nowait(AGAIN)

    def answered(self, response: raft_pb2.SnapshotResponse) -> None:
        if response.index == self._index and not self._answers.full():
            self._answers.put_nowait(response.next_offset)

    async def run(self) -> bool:
        """True when the peer has installed it. Whatever gets no answer is sent again, the last piece too:
        a peer that has installed it meanwhile says so."""
        meta, size = await asyncio.to_thread(self._checkpoints.measure, self._path)
        self._index, offset, tries, last = meta.index, 0, 0, False
        source = Pieces(self._checkpoints, self._path)
        try:
            while tries < (INSTALL_TRIES if last else TRIES):
                data = await asyncio.to_thread(source.read, offset)
                if not self._send(
                    raft_pb2.SnapshotChunk(meta=meta, offset=offset, data=data, size_bytes=size)
                ):
                    break
                last = offset + len(data) >= size
                answer = await self._answer()
                if answer > size:
                    return True
                if answer == AGAIN:
                    answer = offset
                tries = 0 if answer > offset else tries + 1
                offset = answer
        finally:
            source.close()
        return False

    async def _answer(self) -> int:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._answers.get()
        except TimeoutError:
            return AGAIN


class Pieces:
    """Chunks at any offset of a snapshot's plain frames; forward reads are sequential."""

    def __init__(self, checkpoints: Checkpoints, path: Path) -> None:
        self._checkpoints, self._path = checkpoints, path
        self._buffer = bytearray()
        self._begin = 0  # offset of the buffer
        self._frames = checkpoints.plain(path)

    def read(self, offset: int) -> bytes:
        if offset < self._begin:
            self.close()
            self._buffer, self._begin = bytearray(), 0
            self._frames = self._checkpoints.plain(self._path)
        while self._begin + len(self._buffer) < offset + CHUNK_BYTES:
            frame = next(self._frames, None)
            if frame is None:
                break
            self._buffer += frame
            surplus = min(offset - self._begin, len(self._buffer))
            del self._buffer[:surplus]
            self._begin += surplus
        skip = offset - self._begin
        return bytes(self._buffer[skip : skip + CHUNK_BYTES])

    def close(self) -> None:
        self._frames.close()


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
        self._file: Writer | None = None
        self._offset = 0
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
            self._file, self._offset = self._checkpoints.writer(self._temporary), 0
            self._from = (sender, chunk.meta.index)
        if chunk.offset != self._offset:
            self._reply(sender, chunk, self._offset)
            return
        try:
            await asyncio.to_thread(self._file.feed, chunk.data)
            self._offset += len(chunk.data)
            if self._offset >= chunk.size_bytes:
                self._offset = await self._complete(sender, chunk)
        except LogDamaged as error:
            log.warning("snapshot arrived damaged, asking again from=%s error=%s", sender, error)
            self._close()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            log.warning("snapshot cannot be kept, no space from=%s error=%s", sender, error)
            self._close()
            self._temporary.unlink(missing_ok=True)
            return
        self._reply(sender, chunk, self._offset)

    async def _complete(self, sender: str, chunk: raft_pb2.SnapshotChunk) -> int:
        self._close()
        meta = await asyncio.to_thread(self._checkpoints.verify, self._temporary)
        path = await asyncio.to_thread(self._checkpoints.adopt, self._temporary, meta.index)
        await self._install(path, meta, sender)
        return chunk.size_bytes + 1

    def _reply(self, sender: str, chunk: raft_pb2.SnapshotChunk, next_offset: int) -> None:
        self._answer(sender, raft_pb2.SnapshotResponse(index=chunk.meta.index, next_offset=next_offset))

    def _close(self) -> None:
        self._offset = 0
        if self._file is not None:
            self._file.close()
            self._file = None
