"""What the node serves of its volumes: use, archives and restoring to managers; the tree and the files of a
volume that moves to the very node it moves to, and to no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn, TypeVar

import grpc
from swarmpy.node.agent.volumes import AgentVolumes, wanted_of
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.volume import archive, transfer, tree
from swarmpy.node.volume.errors import (
    VolumeBusy,
    VolumeError,
    VolumeFailure,
    VolumeFull,
    VolumeLost,
    VolumeRejected,
    from_os_error,
)
from swarmpy.node.volume.local import blocking
from swarmpy.proto import dispatcher_pb2, volumes_pb2, volumes_pb2_grpc

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
Piece = TypeVar("Piece")
# Not UNAVAILABLE for anything: that means this agent, to those who ask it.
CODES = (
    (VolumeFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (VolumeBusy, grpc.StatusCode.FAILED_PRECONDITION),
    (VolumeRejected, grpc.StatusCode.INVALID_ARGUMENT),
    (VolumeLost, grpc.StatusCode.NOT_FOUND),
)
FIRST_MESSAGE_TIMEOUT_S = 10.0
ASSIGNMENT_WAIT_S = 5.0
READER = "reader "  # begins the names of users that are no containers


class AgentVolumesService(volumes_pb2_grpc.AgentVolumesServicer):
    def __init__(self, volumes: AgentVolumes) -> None:
        self._volumes, self._local = volumes, volumes.local
        self._readers = 0
        self._restoring: set[str] = set()

    # --- for managers ------------------------------------------------------------------------------

    async def Usage(self, request: volumes_pb2.VolumeRequest, context: Context) -> volumes_pb2.VolumeUsage:
        volume_id = request.volume
        free = self._local.free_bytes()
        if not self._local.holds(volume_id):
            return volumes_pb2.VolumeUsage(free_bytes=free)
        try:
            async with self._opened(volume_id) as (_, users):
                found = await self._local.usage(volume_id)
        except (OSError, VolumeError) as error:
            await _abort(context, error)
        record = self._local.records[volume_id]
        return volumes_pb2.VolumeUsage(
            present=True, used_bytes=found.used_bytes, files=found.files, limit_bytes=record.limit_bytes,
            free_bytes=found.free_bytes, path=str(self._local.content(volume_id)),
            users=users,
        )  # fmt: skip

    async def Backup(
        self, request: volumes_pb2.VolumeRequest, context: Context
    ) -> AsyncIterator[volumes_pb2.VolumeData]:
        try:
            async with self._opened(request.volume) as (path, users):
                size = (await blocking(lambda: tree.usage(path))).used_bytes
                place = volumes_pb2.VolumePlace(volume_id=request.volume, users=users, used_bytes=size)
                yield volumes_pb2.VolumeData(place=place)
                async for data in stepwise(archive.pack(path)):
                    yield volumes_pb2.VolumeData(data=data)
        except (OSError, VolumeError) as error:
            await _abort(context, error)

    async def Restore(
        self, request_iterator: AsyncIterator[volumes_pb2.VolumeRestoreRequest], context: Context
    ) -> volumes_pb2.VolumeRestoreResponse:
        messages = aiter(request_iterator)
        try:
            first = await asyncio.wait_for(anext(messages), FIRST_MESSAGE_TIMEOUT_S)
            volume_id = first.start.volume
            async with self._opened(volume_id) as (_, users):
                with self._alone(volume_id):
                    files, size = await self._unpack(volume_id, messages)
        except (StopAsyncIteration, TimeoutError):
            await _abort(context, VolumeFailure("the call ended before the archive did: nothing was changed"))
        except (OSError, VolumeError) as error:
            await _abort(context, error)
        log.info("volume restored volume=%s files=%d bytes=%d", volume_id, files, size)
        place = volumes_pb2.VolumePlace(volume_id=volume_id, users=users)
        return volumes_pb2.VolumeRestoreResponse(place=place, files=files, bytes=size)

    async def _unpack(
        self, volume_id: str, messages: AsyncIterator[volumes_pb2.VolumeRestoreRequest]
    ) -> tuple[int, int]:
        unpacker = archive.Unpacker(self._local.own_fs(volume_id))
        try:
            await self._feed(unpacker, messages)
            return await blocking(unpacker.finish)
        finally:
            await blocking(unpacker.close)

    async def _feed(
        self, unpacker: archive.Unpacker, messages: AsyncIterator[volumes_pb2.VolumeRestoreRequest]
    ) -> None:
        while True:
            message = await anext(messages)
            if message.WhichOneof("message") == "end":
                return
            await blocking(lambda data=message.data: unpacker.feed(data))  # type: ignore[misc]

    async def _kept(self, volume_id: str) -> dispatcher_pb2.VolumeAssignment:
        """What the managers say of it: they may have said so only just now."""
        deadline = time.monotonic() + ASSIGNMENT_WAIT_S
        while True:
            volume = self._volumes.assigned(volume_id)
            if volume is not None and volume.part == dispatcher_pb2.VOLUME_KEEP:
                return volume
            if time.monotonic() > deadline:
                raise VolumeFailure("the volume is not on this node (any more): try again")
            await asyncio.sleep(0.05)

    @contextlib.contextmanager
    def _alone(self, volume_id: str) -> Iterator[None]:
        """One restore of a volume at a time: they prepare in the same place."""
        if volume_id in self._restoring:
            raise VolumeBusy("the volume is being restored already")
        volume = self._volumes.assigned(volume_id)
        if volume is not None and volume.to_id:
            raise VolumeBusy("the volume is being moved: wait until that is over")
        self._restoring.add(volume_id)
        try:
            yield
        finally:
            self._restoring.discard(volume_id)

    @contextlib.asynccontextmanager
    async def _opened(self, volume_id: str) -> AsyncIterator[tuple[Any, int]]:
        """(contents, how many containers have it) of a volume that is kept here, made if nothing used it yet."""
        volume = await self._kept(volume_id)
        users = sum(not user.startswith(READER) for user in self._local.users(volume_id))
        self._readers += 1
        reader = f"{READER}{self._readers}"
        path = await self._local.use(wanted_of(volume), reader)
        self._volumes.changed()
        try:
            yield path, users
        finally:
            await self._local.release(reader)

    # --- for the node that a volume moves to ---------------------------------------------------------

    async def Tree(
        self, request: volumes_pb2.TreeRequest, context: Context
    ) -> AsyncIterator[volumes_pb2.TreePart]:
        try:
            self._check_target(request.volume_id, request.move)
            async with self._opened(request.volume_id) as (path, users):
                if request.final and users:
                    raise VolumeBusy(f"{users} containers still use the volume")
                if request.final and request.volume_id in self._restoring:
                    raise VolumeBusy("the volume is being restored")
                async for part in stepwise(transfer.listing(path)):
                    yield part
        except (OSError, VolumeError) as error:
            await _abort(context, error)

    async def Files(
        self, request: volumes_pb2.FilesRequest, context: Context
    ) -> AsyncIterator[volumes_pb2.FileData]:
        try:
            self._check_target(request.volume_id, request.move)
            async with self._opened(request.volume_id) as (path, _):
                async for piece in stepwise(transfer.contents(path, request.paths, request.basis)):
                    yield piece
        except (OSError, VolumeError) as error:
            await _abort(context, error)

    def _check_target(self, volume_id: str, move: int) -> None:
        volume = self._volumes.assigned(volume_id)
        caller = current_caller().node_id
        if volume is None or volume.to_id != caller or volume.move != move:
            raise VolumeBusy(f"volume {volume_id} does not move to node {caller} as far as this node knows")


async def stepwise(pieces: Iterator[Piece]) -> AsyncIterator[Piece]:
    """A generator that blocks, each step in a thread."""
    try:
        while (piece := await blocking(lambda: next(pieces, None))) is not None:
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            await blocking(close)


async def _abort(context: Context, error: OSError | VolumeError) -> NoReturn:
    known = from_os_error("volume", error) if isinstance(error, OSError) else error
    code = next(
        (code for kind, code in CODES if isinstance(known, kind)), grpc.StatusCode.FAILED_PRECONDITION
    )
    await context.abort(code, str(known))
    raise AssertionError from error
