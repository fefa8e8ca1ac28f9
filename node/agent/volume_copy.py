"""Receiving a volume: rounds of copying from its present home, until the managers say that it is still.

One per volume that this node is to receive. It reports how far it is; the managers decide what follows. A
source that cannot be reached for a while is asked again; a disk that is full ends the copy.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Callable

import grpc
from swarmpy.node.volume import transfer
from swarmpy.node.volume.errors import VolumeError, VolumeFailure, VolumeFull, from_os_error
from swarmpy.node.volume.local import LocalVolumes, Record, blocking
from swarmpy.proto import dispatcher_pb2, objects_pb2, volumes_pb2, volumes_pb2_grpc

log = logging.getLogger(__name__)
ROUNDS_MAX = 8  # while tasks run
SMALL_BYTES = 16 << 20
LAST_PAUSE_S = 0.1
LAST_ROUNDS_MAX = 5  # of a volume that nothing writes to: something else does
PATIENCE_S, PAUSE_S = 60.0, 0.2
ROUND_TIMEOUT_S = 24 * 3600.0
PROGRESS_S = 1.0
GATHER_BYTES, GATHER_PIECES = 4 << 20, 256
AGAIN = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.CANCELLED,
}  # fmt: skip


class Receiver:
    """`dial` opens a channel to (address, node id); `on_change` is called when `report` says something new."""

    def __init__(
        self,
        local: LocalVolumes,
        volume: dispatcher_pb2.VolumeAssignment,
        dial: Callable[[str, str], grpc.aio.Channel],
        on_change: Callable[[], None],
    ) -> None:
        self._local, self._dial, self._on_change = local, dial, on_change
        self._volume = volume
        self._still = asyncio.Event()
        self._state = objects_pb2.VOLUME_COPYING
        self._message = ""
        self._round = self._done = self._total = 0
        self._told_at = 0.0
        self.move = volume.move
        self.update(volume)
        self._task = asyncio.create_task(self._run(), name=f"receive {volume.id}")

    def update(self, volume: dispatcher_pb2.VolumeAssignment) -> None:
        """Another word of the managers about the same move."""
        self._volume = volume
        if volume.final:
            self._still.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def report(self) -> objects_pb2.VolumeReport:
        return objects_pb2.VolumeReport(
            volume_id=self._volume.id, state=self._state, message=self._message, move=self.move,
            round=self._round, done_bytes=self._done, total_bytes=self._total,
        )  # fmt: skip

    def _tell(self, state: objects_pb2.VolumeReportState, message: str = "") -> None:
        self._state, self._message = state, message
        self._told_at = time.monotonic()
        self._on_change()

    def _progress(self, more: int) -> None:
        self._done += more
        if time.monotonic() - self._told_at >= PROGRESS_S:
            self._tell(self._state)

    # --- the rounds --------------------------------------------------------------------------------

    async def _run(self) -> None:
        name = self._volume.name
        try:
            if self._is_here():
                self._tell(objects_pb2.VOLUME_COPIED)
                return
            place = await blocking(lambda: self._local.prepare_copy(self._record()))
            copy = await blocking(lambda: transfer.Copy(place))
            await self._while_running(copy)
            self._tell(objects_pb2.VOLUME_SYNCED)
            await self._still.wait()
            await self._last(copy)
            await blocking(copy.complete)
            await blocking(lambda: self._local.install(place, self._record()))
            log.info("volume received volume=%s name=%s rounds=%d", self._volume.id, name, self._round)
            self._tell(objects_pb2.VOLUME_COPIED)
        except (VolumeError, OSError) as error:  # whatever it is: nobody else would ever end this move
            failure = self._own_failure(error) if isinstance(error, OSError) else error
            log.warning("volume not received volume=%s name=%s error=%s", self._volume.id, name, failure)
            self._tell(objects_pb2.VOLUME_FAILED, str(failure))

    def _is_here(self) -> bool:
        """Whether an earlier agent completed this very move."""
        record = self._local.records.get(self._volume.id)
        return record is not None and record.move == self.move

    def _record(self) -> Record:
        volume = self._volume
        return self._local.record_of(
            volume.id, volume.name, dict(volume.options), dict(volume.labels), volume.move
        )

    async def _while_running(self, copy: transfer.Copy) -> None:
        """Rounds until little is new, or it does not get less."""
        before = 1 << 62
        for _ in range(ROUNDS_MAX):
            found = await self._patiently(copy, final=False)
            if found.fetch_bytes <= SMALL_BYTES or found.fetch_bytes > before * 0.7 or self._still.is_set():
                return
            before = found.fetch_bytes

    async def _last(self, copy: transfer.Copy) -> None:
        """Nothing writes any more: until a round finds nothing."""
        for _ in range(LAST_ROUNDS_MAX):
            found = await self._patiently(copy, final=True)
            if not found.changed:
                return
            await asyncio.sleep(LAST_PAUSE_S)
        raise VolumeFailure(
            f"volume {self._volume.name} changes on its node though its tasks are stopped: something outside the "
            "cluster writes to it"
        )

    async def _patiently(self, copy: transfer.Copy, *, final: bool) -> transfer.Round:
        """One round, begun again while the source cannot be reached."""
        failed_since = 0.0
        while True:
            progress = self._done
            try:
                return await self._one_round(copy, final=final)
            except grpc.aio.AioRpcError as error:
                details = error.details() or error.code().name
                if error.code() not in AGAIN:
                    raise VolumeFailure(f"its node cannot give the volume: {details}") from error
                now = time.monotonic()
                failed_since = now if self._done > progress or not failed_since else failed_since
                if now - failed_since > PATIENCE_S:
                    raise VolumeFailure(
                        f"its node has not given it for {PATIENCE_S:g} s: {details}"
                    ) from error
                log.info("round repeated volume=%s reason=%s", self._volume.id, details)
                await asyncio.sleep(PAUSE_S)
            except OSError as error:
                raise self._own_failure(error) from error

    def _own_failure(self, error: OSError) -> VolumeError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return VolumeFull(
                f"no space is left for volume {self._volume.name} in {self._local.top}: free some, then move it again"
            )
        return from_os_error(f"volume {self._volume.name} cannot be written to this node", error)

    async def _one_round(self, copy: transfer.Copy, *, final: bool) -> transfer.Round:
        self._round += 1
        self._done = self._total = 0
        channel = self._dial(self._volume.from_address, self._volume.from_id)
        try:
            stub = volumes_pb2_grpc.AgentVolumesStub(channel)
            request = volumes_pb2.TreeRequest(volume_id=self._volume.id, move=self.move, final=final)
            entries: list[volumes_pb2.TreeEntry] = []
            async for part in stub.Tree(request, timeout=ROUND_TIMEOUT_S):
                entries.extend(part.entries)
            found = await blocking(lambda: copy.compare(entries))
            self._total = found.fetch_bytes
            self._tell(self._state)
            vanished: set[bytes] = set()
            for batch in found.batches():
                vanished |= await self._fetch(stub, copy, found, batch)
            await blocking(lambda: copy.finish(found, vanished))
            await blocking(lambda: copy.keep(found.entries.values()))
            return found
        finally:
            await channel.close(None)

    async def _fetch(
        self,
        stub: volumes_pb2_grpc.AgentVolumesStub,
        copy: transfer.Copy,
        found: transfer.Round,
        batch: list[bytes],
    ) -> set[bytes]:
        """Some files, each put in its place when it came whole; those that vanished meanwhile."""
        basis = await blocking(lambda: copy.basis(found, batch))
        request = volumes_pb2.FilesRequest(
            volume_id=self._volume.id, move=self.move, paths=batch, basis=basis
        )
        writer = Writer(copy, found, batch, {entry.position for entry in basis})
        try:
            async for pieces in gathered(stub.Files(request, timeout=ROUND_TIMEOUT_S)):
                await blocking(lambda pieces=pieces: writer.take(pieces))  # type: ignore[misc]
                self._progress(sum(len(piece.data) for piece in pieces))
        finally:
            writer.close()
        if writer.ended != len(batch):
            raise VolumeFailure(f"its node sent {writer.ended} of {len(batch)} files")
        return writer.vanished


class Writer:
    """Writes what comes of a batch; blocks."""

    def __init__(
        self, copy: transfer.Copy, found: transfer.Round, batch: list[bytes], patched: set[int]
    ) -> None:
        self._copy, self._found, self._batch, self._patched = copy, found, batch, patched
        self._fd = self._position = -1
        self.ended = 0
        self.vanished: set[bytes] = set()

    def take(self, pieces: list[volumes_pb2.FileData]) -> None:
        for piece in pieces:
            if piece.position >= len(self._batch):
                raise VolumeFailure("its node sent a file that nobody asked for")
            if piece.vanished:
                self.vanished.add(self._batch[piece.position])
                self.ended += 1
                continue
            if piece.position != self._position:
                self.close()
                self._fd, self._position = self._open(piece.position), piece.position
            if piece.end:
                os.truncate(self._fd, piece.size_bytes)
                self.close()
                self._copy.place_file(piece.position, self._found.entries[self._batch[piece.position]])
                self.ended += 1
            else:
                data, written = piece.data or bytes(min(piece.zeros, transfer.PIECE_BYTES)), 0
                while written < len(data):
                    written += os.pwrite(self._fd, data[written:], piece.offset + written)

    def _open(self, position: int) -> int:
        if position in self._patched:
            return self._copy.open_patch(position, self._batch[position])
        return self._copy.open_incoming(position)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._position = -1


async def gathered(
    stream: AsyncIterator[volumes_pb2.FileData],
) -> AsyncIterator[list[volumes_pb2.FileData]]:
    """Small pieces together, so that each does not cost a change of threads."""
    pieces: list[volumes_pb2.FileData] = []
    size = 0
    async for piece in stream:
        pieces.append(piece)
        size += len(piece.data)
        if size >= GATHER_BYTES or len(pieces) >= GATHER_PIECES:
            yield pieces
            pieces, size = [], 0
    if pieces:
        yield pieces
