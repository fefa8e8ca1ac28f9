"""The images that this node exchanges with others right now: one board each, one transfer where it fetches."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from swarmpy.node.image.blobs import BlobDirectory
from swarmpy.node.image.board import Board, Update
from swarmpy.node.image.catalog import StoredImage
from swarmpy.node.image.chunks import ChunkList, parse
from swarmpy.node.image.errors import DigestMismatch, ImageNotFound, SourceFailed
from swarmpy.node.image.loading import Progress
from swarmpy.node.image.manifest import Descriptor
from swarmpy.node.image.swarm import Link, Parts, Transfer, usable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwarmSource:
    """From whom an image can be had in chunks."""

    chunks: str  # digest of the list of chunks, from the cluster's record
    holders: Sequence[str]  # node ids to begin with
    links: Callable[[str], Link | None]  # a way to a node; None: not a node that is known


@dataclass(frozen=True)
class Whereabouts:
    """How much of an image a node has."""

    present_bytes: int = 0
    total_bytes: int = 0
    complete: bool = False
    unpacked: bool = False


class Swarms:
    def __init__(self, blobs: BlobDirectory, pool: ThreadPoolExecutor) -> None:
        self.received: Counter[str] = Counter()  # bytes by node, since the start
        self.sent_bytes = 0
        self._blobs = blobs
        self._pool = pool
        self._transfers: dict[str, Transfer] = {}
        self._boards: dict[str, Board] = {}
        self._lists: dict[str, ChunkList] = {}  # of images that others fetch from here
        # Kept by who holds or waits for one, and by nobody else.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def fetch(
        self, image: str, blobs: Sequence[Descriptor], source: SwarmSource, tell: Progress,
        document: Callable[[str], Awaitable[bytes]],
    ) -> bytes:  # fmt: skip
        """All blobs, chunk by chunk; the list of chunks, or nothing where it cannot be done so."""
        try:
            data = await document(source.chunks)
            found = usable(data, source.chunks, image, blobs)
            if found is None:
                return b""
            async with self._locks.setdefault(image, asyncio.Lock()):
                transfer = Transfer(Parts(self._blobs, found), source.links, self._pool, tell)
                await self._run(image, transfer, source.holders)
        except (SourceFailed, ImageNotFound, DigestMismatch) as error:
            log.warning("not fetched in chunks image=%s error=%s", image, error)
            return b""
        return data

    async def _run(self, image: str, transfer: Transfer, holders: Sequence[str]) -> None:
        await transfer.prepare()
        self._transfers[image] = transfer
        self._boards[image] = transfer.board
        try:
            await transfer.run(holders)
        finally:
            del self._transfers[image]
            self.received.update(transfer.received)
            if transfer.board.complete:
                self._lists[image] = transfer.chunks
            else:
                # Those who listen find others; this node has nothing to promise any more.
                self._boards.pop(image, None)
            if self._boards.get(image) is transfer.board and transfer.board.idle:
                del self._boards[image]
                self._lists.pop(image, None)
            log.info(
                "image in chunks image=%s complete=%s from=%s", image, transfer.board.complete,
                " ".join(f"{node}:{size}" for node, size in sorted(transfer.received.items())) or "nobody",
            )  # fmt: skip

    async def exchange(self, image: str, member: str, held: StoredImage | None) -> AsyncIterator[Update]:
        """What the node `member` hears about an image; `held`: it is in this store."""
        board = self._boards.get(image)
        if board is None:
            if held is None:
                raise ImageNotFound(f"image {image} is neither on this node nor on its way to it")
            board = self._boards[image] = Board(complete=True)
            if held.chunks and image not in self._lists:
                self._lists[image] = parse(self._blobs.path(held.chunks).read_bytes(), f"chunks of {image}")
        updates = board.updates(member)
        try:
            async for update in updates:
                yield update
        finally:
            await updates.aclose()  # type: ignore[attr-defined]  # it is a generator
            if board.idle and image not in self._transfers and self._boards.get(image) is board:
                del self._boards[image]
                self._lists.pop(image, None)

    def progress(self, image: str) -> tuple[int, int]:
        """Bytes that are here and bytes in all, of an image on its way in; 0 and 0 of others."""
        transfer = self._transfers.get(image)
        return (0, 0) if transfer is None else transfer.progress()

    def serving(self, member: str, digest: str, offset: int, length: int) -> None:
        """A node was given a chunk: the others who fetch the image can have it from there."""
        for image, board in self._boards.items():
            if (found := self._lists.get(image)) is not None and board.complete:
                for number in found.covering(digest, offset, length):
                    board.claimed(number, member)

    def part(self, digest: str, offset: int, length: int) -> Path | None:
        """The file with these bytes of a blob that is on its way in, where they are here and right."""
        for transfer in self._transfers.values():
            if transfer.can_serve(digest, offset, length):
                return self._blobs.part(digest)
        return None
