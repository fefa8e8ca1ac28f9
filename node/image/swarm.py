"""Fetching an image from several nodes at once, chunk by chunk (see chunks, picking, board).

What arrives goes to `parts/HEX` of its blob, at its place; a chunk counts once its hash is
right. A peer that sends anything else is not asked again for this image. One that breaks
off is asked again a little later, and what it owed comes from the others. When a blob's
chunks are all there, the whole is checked against its digest and gets its name. What an
ended fetch left in parts/ is checked and used by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from swarmpy.node.image import chunks, manifest
from swarmpy.node.image.blobs import BlobDirectory
from swarmpy.node.image.board import Board, Update, chunks_in
from swarmpy.node.image.chunks import BlobChunks, Chunk, ChunkList, chunk_bytes_for
from swarmpy.node.image.compression import CHUNK
from swarmpy.node.image.errors import (
    DigestMismatch,
    ImageError,
    ImageNotFound,
    SourceFailed,
    full_disk_as_no_space,
)  # fmt: skip
from swarmpy.node.image.loading import Progress
from swarmpy.node.image.manifest import Descriptor
from swarmpy.node.image.picking import Picker
from swarmpy.node.image.reference import is_digest
from swarmpy.node.image.transfer import in_pool

log = logging.getLogger(__name__)
PEERS_MAX = 12  # asked at a time
KNOWN_MAX = 256
CHUNK_TIMEOUT_S = 30.0
RETRY_S = 1.0
RETRIES_MAX = 5  # in a row, of one peer
NOBODY_S_MAX = 10.0
TICK_S = 0.25


class Link(Protocol):
    """Another node. What its transport raises arrives as SourceFailed, ImageNotFound or OSError."""

    def updates(self, image: str) -> AsyncIterator[Update]: ...

    async def chunk(self, digest: str, offset: int, length: int) -> bytes: ...


def make_list(image: str, blobs: Sequence[Descriptor], directory: BlobDirectory) -> ChunkList:
    """From blobs that are here. Blocking."""
    size = chunk_bytes_for(blobs)
    entries = []
    for blob in blobs:
        hashes = []
        with directory.path(blob.digest).open("rb", buffering=0) as file:
            while data := _read(file.fileno(), size):
                hashes.append(hashlib.sha256(data).hexdigest())
        entries.append(BlobChunks(blob.digest, blob.size, tuple(hashes)))
    return ChunkList(image, size, tuple(entries))


def _read(fd: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length and (more := os.read(fd, length - len(data))):
        data += more
    return bytes(data)


@dataclass
class _Peer:
    link: Link
    listener: asyncio.Task[None]
    requests: dict[asyncio.Task[None], Chunk] = field(default_factory=dict)


class Parts:
    """The blobs of one image on their way in, as files with holes."""

    def __init__(self, directory: BlobDirectory, of: ChunkList) -> None:
        self._directory = directory
        self.list = of
        self._blobs = {blob.digest: blob for blob in of.blobs}

    def path(self, digest: str) -> Path:
        return self._directory.part(digest)

    def is_present(self, digest: str) -> bool:
        return self._directory.has(Descriptor(digest, self._blobs[digest].size))

    def present(self) -> set[int]:
        """Chunks that are here already, of whole blobs and of an earlier fetch. Blocking."""
        found: set[int] = set()
        whole = {digest: self.is_present(digest) for digest in self._blobs}
        for chunk in self.list.chunks:
            if whole[chunk.digest] or self._is_right(chunk):
                found.add(chunk.number)
        return found

    def _is_right(self, chunk: Chunk) -> bool:
        try:
            with self.path(chunk.digest).open("rb") as file:
                file.seek(chunk.offset)
                return hashlib.sha256(file.read(chunk.length)).hexdigest() == chunk.sha256
        except FileNotFoundError:
            return False

    def write(self, chunk: Chunk, data: bytes) -> None:
        """DigestMismatch for what is not this chunk. Blocking."""
        if len(data) != chunk.length or hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise DigestMismatch(f"chunk {chunk.number} of blob {chunk.digest} came with other content")
        path = self.path(chunk.digest)
        with full_disk_as_no_space(f"blob {chunk.digest}", self._directory.root):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                view, offset = memoryview(data), chunk.offset
                while view:
                    written = os.pwrite(fd, view, offset)
                    view, offset = view[written:], offset + written
            finally:
                os.close(fd)

    def commit(self, digest: str) -> None:
        """Check the whole blob and give it its name. Blocking."""
        if self.is_present(digest):
            return
        path = self.path(digest)
        if not self._blobs[digest].size:
            path.touch()
        found = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                found.update(data)
        if f"sha256:{found.hexdigest()}" != digest:
            path.unlink(missing_ok=True)
            raise DigestMismatch(
                f"blob {digest} is wrong although its chunks are right: the list of chunks lies"
            )
        self._directory.commit_file(path, digest)


class Transfer:
    """One image on its way in; `board` is what others hear of it."""

    def __init__(
        self, parts: Parts, links: Callable[[str], Link | None], pool: ThreadPoolExecutor, tell: Progress
    ) -> None:
        self.board = Board()
        self.received: Counter[str] = Counter()  # bytes, by node
        self._parts = parts
        self._links = links
        self._pool = pool
        self._tell = tell
        self._wake = asyncio.Event()
        self._picker = Picker((), ())
        self._peers: dict[str, _Peer] = {}
        self._known: dict[str, float] = {}  # node -> when it may be asked again
        self._failures: Counter[str] = Counter()
        self._liars: set[str] = set()
        self._last_peer_s = time.monotonic()
        self._problem: Exception | None = None
        self._bytes: Counter[str] = Counter()  # of each blob, here
        self._sizes = {blob.digest: blob.size for blob in parts.list.blobs}
        self._ending: list[asyncio.Task[None]] = []

    def can_serve(self, digest: str, offset: int, length: int) -> bool:
        """Whether these bytes of a blob on its way in are here and right."""
        covering = self._parts.list.covering(digest, offset, length)
        return bool(covering) and self.board.have.issuperset(covering)

    @property
    def chunks(self) -> ChunkList:
        return self._parts.list

    def progress(self) -> tuple[int, int]:
        """Bytes here, bytes in all."""
        return self._bytes.total(), sum(self._sizes.values())

    async def prepare(self) -> None:
        """Find out what is here already; before anything else."""
        present = await in_pool(self._pool, self._parts.present, threading.Event())
        every = self._parts.list.chunks
        order = list(range(len(every)))
        random.shuffle(order)
        self._picker = Picker(present, order)
        self.board.have = present
        for number in present:
            self._bytes[every[number].digest] += every[number].length

    async def run(self, holders: Iterable[str]) -> None:
        """Until every blob is committed. SourceFailed when nobody is left who could give the rest."""
        self._known.update(dict.fromkeys(holders, 0.0))
        try:
            while self._picker.missing:
                self._keep_peers()
                self._ask()
                await self._pause()
                self._reap()
        finally:
            await self._hang_up()
        never = threading.Event()
        for blob in self._parts.list.blobs:
            await in_pool(self._pool, partial(self._parts.commit, blob.digest), never)
            self._tell("downloaded", blob.digest, blob.size, blob.size)
        self.board.completed()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        self._wake.clear()

    # -- peers --------------------------------------------------------------------------

    def _keep_peers(self) -> None:
        now = time.monotonic()
        candidates = [peer for peer, at in self._known.items() if at <= now and peer not in self._peers]
        random.shuffle(candidates)
        for node_id in candidates[: PEERS_MAX - len(self._peers)]:
            link = self._links(node_id)
            if link is None:
                del self._known[node_id]
                continue
            listener = asyncio.get_running_loop().create_task(self._listen(node_id, link))
            listener.add_done_callback(lambda _: self._wake.set())
            self._peers[node_id] = _Peer(link, listener)
            self._picker.join(node_id)
        if self._peers:
            self._last_peer_s = now
        elif not self._known or now - self._last_peer_s > NOBODY_S_MAX:
            raise SourceFailed(
                f"no node of the cluster could give the rest of {self._parts.list.image} "
                f"({self._picker.missing} chunks): {self._problem or 'none is known'}"
            )

    async def _listen(self, node_id: str, link: Link) -> None:
        count = len(self._parts.list.chunks)
        updates = link.updates(self._parts.list.image)
        try:
            async for update in updates:
                if update.complete and not self._picker.join(node_id).complete:
                    self._picker.completed(node_id)
                self._picker.got(node_id, chunks_in(update.have, count) if update.have else ())
                self._picker.got(node_id, (chunk for chunk in update.got if chunk < count))
                self._picker.claimed((c for c in update.claimed if c < count), _now_ms())
                self._learn(update.peers)
                self._wake.set()
        finally:
            if (close := getattr(updates, "aclose", None)) is not None:
                await close()

    def _learn(self, peers: Iterable[str]) -> None:
        for peer in peers:
            if len(self._known) < KNOWN_MAX and peer not in self._liars:
                self._known.setdefault(peer, 0.0)

    def _drop(self, node_id: str) -> None:
        peer = self._peers.pop(node_id)
        self._picker.leave(node_id)
        for task in (peer.listener, *peer.requests):
            task.cancel()
            self._ending.append(task)

    async def _hang_up(self) -> None:
        for node_id in list(self._peers):
            self._drop(node_id)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # -- chunks -------------------------------------------------------------------------

    def _ask(self) -> None:
        now_ms, nothing_left = _now_ms(), False
        peers = list(self._peers.items())
        random.shuffle(peers)
        for node_id, peer in sorted(peers, key=lambda entry: self._picker.join(entry[0]).complete):
            complete = self._picker.join(node_id).complete
            while not (complete and nothing_left):
                number = self._picker.choose(node_id, now_ms)
                if number is None:
                    break
                self._picker.asked(node_id, number, now_ms)
                if complete:
                    self.board.claimed(number, "self")
                chunk = self._parts.list.chunks[number]
                request = asyncio.get_running_loop().create_task(self._request(node_id, peer.link, chunk))
                request.add_done_callback(lambda _: self._wake.set())
                peer.requests[request] = chunk

    async def _request(self, node_id: str, link: Link, chunk: Chunk) -> None:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            data = await link.chunk(chunk.digest, chunk.offset, chunk.length)
        await in_pool(self._pool, partial(self._parts.write, chunk, data), threading.Event())
        self.received[node_id] += chunk.length
        self._failures[node_id] = 0
        self._picker.arrived(node_id, chunk.number)
        self.board.got(chunk.number)
        self._bytes[chunk.digest] += chunk.length
        self._tell("downloading", chunk.digest, self._bytes[chunk.digest], self._sizes[chunk.digest])

    def _reap(self) -> None:
        for node_id, peer in list(self._peers.items()):
            ended = [task for task in (peer.listener, *peer.requests) if task.done()]
            problem = next((e for task in ended if (e := task.exception()) is not None), None)
            if problem is not None or peer.listener.done():
                self._lose(node_id, problem)
                continue
            for task in ended:
                del peer.requests[task]

    def _lose(self, node_id: str, problem: BaseException | None) -> None:
        """Not to be asked for a while; never again if it lied. What is no peer's fault ends the fetch."""
        self._drop(node_id)
        match problem:
            case DigestMismatch():
                log.warning("peer sent wrong content, not asked again node=%s error=%s", node_id, problem)
                self._liars.add(node_id)
                del self._known[node_id]
            case SourceFailed() | TimeoutError() | None:
                self._failures[node_id] += 1
                log.info("peer lost node=%s error=%s", node_id, problem or "it ended the exchange")
                self._known[node_id] = time.monotonic() + RETRY_S
                if self._failures[node_id] > RETRIES_MAX:
                    del self._known[node_id]
            case ImageNotFound():
                log.info("peer does not have the image node=%s", node_id)
                del self._known[node_id]
            case _:
                raise problem
        self._problem = problem if isinstance(problem, Exception) else self._problem


def usable(data: bytes, digest: str, image: str, blobs: Sequence[Descriptor]) -> ChunkList | None:
    """The list in `data` if it is the one with this digest and of this image."""
    if not is_digest(digest) or manifest.sha256(data) != digest:
        return None
    try:
        found = chunks.parse(data, f"chunks of {image}")
    except ImageError as error:
        log.warning("list of chunks not usable image=%s error=%s", image, error)
        return None
    return found if found.fits(image, blobs) else None


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
