"""What the node serves: Agent to managers, Blobs to other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from swarmpy.node.agent import pod
from swarmpy.node.agent.images import access_of
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.image import reference as references
from swarmpy.node.image.errors import AuthRequired, ImageError, ImageNotFound, NoSpace
from swarmpy.node.image.reference import ReferenceInvalid
from swarmpy.node.image.store import ImageStore, StoredImage
from swarmpy.node.runtime.errors import ContainerError, UnknownContainer
from swarmpy.node.runtime.request import LogLine
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import agent_pb2, agent_pb2_grpc, control_pb2, objects_pb2

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
PROGRESS_QUEUE = 256
DRAIN_S = 10.0
AGAIN_S = 0.5  # between looks for a container that is started again
READERS_MAX = 16  # of blobs, at once: the others wait their turn
SENT_ARCHIVE = re.compile(r"\S*/load-\w+")

Context = grpc.aio.ServicerContext[Any, Any]
# Not UNAVAILABLE for anything: that means this agent, to those who ask it.
CODES = {
    ImageNotFound: grpc.StatusCode.NOT_FOUND,
    AuthRequired: grpc.StatusCode.PERMISSION_DENIED,
    NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ReferenceInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownContainer: grpc.StatusCode.NOT_FOUND,
}
REFUSALS = (ImageError, ContainerError, ReferenceInvalid)


def code_of(error: Exception) -> grpc.StatusCode:
    return CODES.get(type(error), grpc.StatusCode.FAILED_PRECONDITION)


class AgentService(agent_pb2_grpc.AgentServicer, agent_pb2_grpc.BlobsServicer):
    """Logs and images of this node."""

    def __init__(
        self, runtime: Runtime, images: ImageStore, on_images: Callable[[], None],
        may_write: Callable[[str, bool], bool],
    ) -> None:  # fmt: skip
        """`may_write(container, ended)`: whether one that is not there yet, or has ended, may still write."""
        self._runtime, self._may_write = runtime, may_write
        self._images = images
        self._on_images = on_images
        self._readers = asyncio.Semaphore(READERS_MAX)

    async def Logs(
        self, request: agent_pb2.TaskLogsRequest, context: Context
    ) -> AsyncIterator[control_pb2.LogLine]:
        try:
            async for line in self._lines(request):
                yield control_pb2.LogLine(time_ns=line.time_ns, stderr=line.stderr, line=line.line)
        except ContainerError as error:
            await context.abort(code_of(error), str(error))

    async def _lines(self, request: agent_pb2.TaskLogsRequest) -> AsyncIterator[LogLine]:
        """Of one container; followed across its restarts in place."""
        container = pod.container_id(request.task_id, request.container)
        tail, since_ms, last_ns = request.tail, request.since_ms, 0
        while True:
            ended, known_ns = (
                True,
                last_ns,
            )  # several lines may have one time: only what was given is left out
            try:
                async for line in self._runtime.logs(
                    container, follow=request.follow, tail=tail, since_ms=since_ms, until_ms=request.until_ms
                ):
                    if line.time_ns > known_ns:
                        last_ns = line.time_ns
                        yield line
            except UnknownContainer:
                ended = False
                if not request.follow or not self._may_write(container, ended):
                    raise
            if not request.follow or not self._may_write(container, ended):
                return
            if request.until_ms and time.time() * 1000 > request.until_ms:
                return
            if ended:
                tail, since_ms = -1, max(since_ms, last_ns // 1_000_000)
            await asyncio.sleep(AGAIN_S)

    async def Resolve(self, request: agent_pb2.ResolveRequest, context: Context) -> agent_pb2.ResolveResponse:
        try:
            parsed = references.parse(request.reference)
            digest = await self._images.resolve(parsed, access=access_of(request.access))
            return agent_pb2.ResolveResponse(digest=digest, reference=str(parsed))
        except REFUSALS as error:
            await context.abort(code_of(error), str(error))
            raise AssertionError from error

    async def Pull(
        self, request: control_pb2.PullRequest, context: Context
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        async def work(report: Callable[..., None]) -> list[StoredImage]:
            parsed = references.parse(request.reference)
            return [await self._images.pull(parsed, progress=report, access=access_of(request.access))]

        only = request.reference
        async for progress in self._with_progress(work, context, only):
            yield progress

    async def Load(
        self, request_iterator: AsyncIterator[control_pb2.ImageChunk], context: Context
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        archive: Path | None = None
        try:
            descriptor, name = tempfile.mkstemp(prefix="load-", dir=self._images.temporary)
            archive = Path(name)
            reference = await self._receive(descriptor, request_iterator)
            loaded = archive

            async def work(report: Callable[..., None]) -> list[StoredImage]:
                return await self._images.load(loaded, reference=reference, progress=report)

            async for progress in self._with_progress(work, context):
                yield progress
        except OSError as error:
            await drained(request_iterator)
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the archive cannot be stored on this node: {error.strerror}",
            )
        finally:
            if archive is not None:
                archive.unlink(missing_ok=True)

    async def _receive(self, descriptor: int, chunks: AsyncIterator[control_pb2.ImageChunk]) -> str:
        reference = ""
        with os.fdopen(descriptor, "wb") as file:
            async for chunk in chunks:
                reference = reference or chunk.reference
                await asyncio.to_thread(file.write, chunk.data)
        return reference

    async def _with_progress(
        self,
        work: Callable[[Callable[..., None]], Awaitable[list[StoredImage]]],
        context: Context,
        only: str = "",
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        """`only`: the one reference to report, else every name of what came."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[control_pb2.ImageProgress | None] = asyncio.Queue(PROGRESS_QUEUE)

        def put(message: control_pb2.ImageProgress | None) -> None:
            if message is None or not queue.full():
                queue.put_nowait(message) if not queue.full() else None

        def report(status: str, blob: str = "", done_bytes: int = 0, total_bytes: int = 0) -> None:
            message = control_pb2.ImageProgress(
                status=status, blob=blob, done_bytes=done_bytes, total_bytes=total_bytes
            )
            loop.call_soon_threadsafe(put, message)

        task = asyncio.ensure_future(work(report))
        try:
            while not task.done():
                getter = asyncio.ensure_future(queue.get())
                await asyncio.wait({task, getter}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done() and (message := getter.result()) is not None:
                    yield message
                getter.cancel()
            stored = task.result()
            records = await self._records(stored, only)
            self._on_images()
            yield control_pb2.ImageProgress(status="stored", images=records)
        except REFUSALS as error:
            # The name of our temporary copy tells the user nothing.
            await context.abort(code_of(error), SENT_ARCHIVE.sub("as sent", str(error)))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _records(self, stored: list[StoredImage], only: str) -> list[objects_pb2.Image]:
        """A record per name: the same content may have several, and each is looked up by itself."""
        records = []
        for entry in stored:
            chunks = await self._images.chunk_list(entry.digest)
            for name in [only] if only else entry.references or [entry.digest]:
                top = "" if name == entry.digest else self._images.top(name)
                records.append(_image(entry, name, top or entry.digest, chunks))
        return records

    async def Prune(self, request: agent_pb2.PruneRequest, context: Context) -> agent_pb2.PruneResponse:
        freed = await self._images.gc(frozenset(request.keep_digests), unused=True)
        self._on_images()
        return agent_pb2.PruneResponse(freed_bytes=freed)

    async def Stat(self, request: agent_pb2.BlobStatRequest, context: Context) -> agent_pb2.BlobStatResponse:
        path = self._images.blob_path(request.digest)
        if path is None:
            return agent_pb2.BlobStatResponse(present=False)
        return agent_pb2.BlobStatResponse(present=True, size_bytes=path.stat().st_size)

    async def Read(
        self, request: agent_pb2.BlobReadRequest, context: Context
    ) -> AsyncIterator[agent_pb2.BlobChunk]:
        end = request.offset + request.length if request.length > 0 else 1 << 62
        path = self._images.readable(request.digest, request.offset, request.length)
        if path is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"blob {request.digest} is not on this node")
            return
        if request.length > 0:
            member = current_caller().node_id
            self._images.swarms.serving(member, request.digest, request.offset, request.length)
        async with self._readers:
            with path.open("rb") as file:
                file.seek(request.offset)
                while data := await asyncio.to_thread(file.read, min(CHUNK_BYTES, end - file.tell())):
                    self._images.swarms.sent_bytes += len(data)
                    yield agent_pb2.BlobChunk(data=data)


def _image(stored: StoredImage, name: str, digest: str, chunks: str) -> objects_pb2.Image:
    image = objects_pb2.Image(digest=digest, size_bytes=stored.size_bytes, chunks=chunks)
    image.meta.name = name
    image.platform.os, image.platform.architecture = stored.platform
    return image


async def drained(chunks: AsyncIterator[control_pb2.ImageChunk]) -> None:
    """Read what still comes: whom an abort meets in the middle of a write, gRPC tells of that and not why."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass
