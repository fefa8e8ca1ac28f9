"""Bring one image into the store, from a registry or from peers: the same steps, two senders.

    top document (index or manifest) -> manifest of this platform -> config, layers

Each blob is verified against its digest before it gets its name. Blobs that are
already here are not asked for again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from swarmpy.node.image import manifest
from swarmpy.node.image.blobs import BlobDirectory, Ingest
from swarmpy.node.image.errors import DigestMismatch, ImageNotFound, SourceFailed
from swarmpy.node.image.limits import MANIFEST_BYTES_MAX
from swarmpy.node.image.loading import Progress
from swarmpy.node.image.manifest import Descriptor

if TYPE_CHECKING:
    from swarmpy.node.image.registry import Registry

log = logging.getLogger(__name__)
T = TypeVar("T")
SOURCE_IDLE_S = 30.0
PARALLEL_BLOBS = 4
TICK_BYTES = 1024 * 1024


class BlobSource(Protocol):
    """A peer that has blobs.

    `read` yields the bytes of a blob from `offset` to its end (an async generator
    function fits). Whatever its transport raises must arrive as SourceFailed or
    OSError; a blob it does not have as ImageNotFound.
    """

    def read(self, digest: str, offset: int) -> AsyncIterator[bytes]: ...


class Sender(Protocol):
    async def document(self, digest: str) -> bytes:
        """A manifest or index, verified."""
        ...

    async def blob(self, blob: Descriptor, ingest: Ingest, tick: Callable[[int], None]) -> None:
        """Write the rest of a blob; the caller commits."""
        ...


class RegistrySender:
    def __init__(self, registry: Registry, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        self._registry = registry
        self._pool = pool
        self._stop = stop

    async def document(self, digest: str) -> bytes:
        return await in_pool(self._pool, partial(self._registry.manifest, digest), self._stop)

    async def blob(self, blob: Descriptor, ingest: Ingest, tick: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        told = 0

        def tick_in_loop(done: int) -> None:
            nonlocal told
            if done - told >= TICK_BYTES or done == blob.size:
                told = done
                loop.call_soon_threadsafe(tick, done)

        await in_pool(self._pool, partial(self._registry.blob, blob, ingest, tick_in_loop), self._stop)


class PeerSender:
    """Asks the sources in their order; the next continues where one failed."""

    def __init__(self, sources: Sequence[BlobSource], pool: ThreadPoolExecutor) -> None:
        self._sources = sources
        self._pool = pool

    async def document(self, digest: str) -> bytes:
        async def collect(source: BlobSource) -> bytes:
            data = bytearray()
            async for chunk in steadily(source, digest, 0):
                data += chunk
                if len(data) > MANIFEST_BYTES_MAX:
                    raise DigestMismatch(f"manifest {digest} is larger than {MANIFEST_BYTES_MAX} bytes")
            if manifest.sha256(bytes(data)) != digest:
                raise DigestMismatch(f"manifest {digest} arrived with other content")
            return bytes(data)

        return await self._first(digest, collect)

    async def blob(self, blob: Descriptor, ingest: Ingest, tick: Callable[[int], None]) -> None:
        never = threading.Event()

        async def receive(source: BlobSource) -> None:
            async for chunk in steadily(source, blob.digest, ingest.offset):
                await in_pool(self._pool, partial(ingest.write, chunk), never)
                tick(ingest.offset)
            if ingest.offset < blob.size:
                raise SourceFailed(f"blob {blob.digest} ended at byte {ingest.offset} of {blob.size}")
            ingest.verify()

        async def collect(source: BlobSource) -> None:
            continued = ingest.offset > 0
            try:
                await receive(source)
            except DigestMismatch:
                if not continued:
                    raise
                await receive(source)  # the wrong bytes may have come from the source before

        await self._first(blob.digest, collect)

    async def _first(self, digest: str, collect: Callable[[BlobSource], Awaitable[T]]) -> T:
        problem: Exception | None = None
        for source in self._sources:
            try:
                return await collect(source)
            except (SourceFailed, ImageNotFound, DigestMismatch, TimeoutError, OSError) as error:
                log.info("blob source failed digest=%s error=%s", digest, error)
                problem = error
        asked = len(self._sources)
        raise SourceFailed(
            f"no node of the cluster could give {digest} (asked {asked}): {problem or 'none is known'}"
        ) from problem


async def steadily(source: BlobSource, digest: str, offset: int) -> AsyncIterator[bytes]:
    """The source's chunks, with a deadline for each."""
    chunks = source.read(digest, offset)
    try:
        while True:
            async with asyncio.timeout(SOURCE_IDLE_S):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
            yield chunk
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


async def fetch_blobs(
    blobs: Sequence[Descriptor],
    directory: BlobDirectory,
    sender: Sender,
    lock: Callable[[str], AbstractAsyncContextManager[None]],
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    """All blobs, a few at a time; the first failure ends the others."""
    limit = asyncio.Semaphore(PARALLEL_BLOBS)

    async def one(blob: Descriptor) -> None:
        async with limit, lock(blob.digest):
            if directory.has(blob):
                progress("present", blob.digest, blob.size, blob.size)
                return
            await fetch_blob(blob, directory, sender, pool, progress)

    await all_or_first_error([one(blob) for blob in blobs])


async def fetch_blob(
    blob: Descriptor, directory: BlobDirectory, sender: Sender, pool: ThreadPoolExecutor, progress: Progress
) -> None:
    """Twice at most: a damaged transfer is not continued but begun anew once."""
    never = threading.Event()
    for attempt in (1, 2):
        ingest = Ingest(directory, blob)
        with ingest:
            await in_pool(pool, ingest.load, never)
            try:
                await sender.blob(
                    blob, ingest, lambda done: progress("downloading", blob.digest, done, blob.size)
                )
                await in_pool(pool, ingest.commit, never)
            except DigestMismatch:
                if attempt == 2:
                    raise
                continue
            progress("downloaded", blob.digest, blob.size, blob.size)
            return


async def all_or_first_error(jobs: Sequence[Awaitable[None]]) -> None:
    """Like a TaskGroup, but raises the first error itself, not a group of one."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION) if tasks else (set(), set())
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_pool(pool: ThreadPoolExecutor, job: Callable[[], T], stop: threading.Event) -> T:
    """Run a blocking job that ends soon after `stop` is set; on cancellation, wait for that end."""
    future = asyncio.get_running_loop().run_in_executor(pool, job)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        if not future.cancel():
            await asyncio.wait([future])
            if not future.cancelled() and isinstance(problem := future.exception(), Exception):
                log.debug("stopped job ended error=%s", problem)
        raise
