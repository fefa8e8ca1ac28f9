"""Freeing space in a node's image store: mark what is needed, sweep the rest.

Needed are the images that the caller names (those that containers run on, even if removed
here), images with a name unless told otherwise, and what running work holds. The list of
images is written before a blob goes, and a layer leaves its name by a rename: whenever the
process dies, what is listed is whole, and what was left over goes with the next sweep.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from swarmpy.node.image import manifest
from swarmpy.node.image.blobs import BlobDirectory
from swarmpy.node.image.catalog import Catalog, StoredImage
from swarmpy.node.image.errors import ImageError
from swarmpy.node.image.holds import Holds
from swarmpy.node.image.layers import LayerDirectory

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """What a store takes of its disk, in bytes."""

    images: int
    blob_bytes: int
    layer_bytes: int  # as the layers' own records say
    partial_bytes: int
    reclaimable_bytes: int
    disk_bytes: int
    disk_free_bytes: int


class InDisk(Protocol):
    def __call__(self, job: Callable[[], T]) -> Awaitable[T]: ...


class Collector:
    def __init__(
        self, root: Path, blobs: BlobDirectory, holds: Holds, catalog: Callable[[], Catalog],
        layers: Callable[[], LayerDirectory], change: Callable[[Callable[[], None]], Awaitable[None]],
        in_disk: InDisk,
    ) -> None:  # fmt: skip
        self._root = root
        self._blobs = blobs
        self._holds = holds
        self._catalog = catalog
        self._layers = layers
        self._change = change
        self._in_disk = in_disk

    # -- everything that is not needed ----------------------------------------------------

    async def gc(self, keep_digests: Iterable[str], *, unused: bool) -> int:
        keep = set(keep_digests)
        for image in self._doomed(keep, unused=unused):
            await self._change(partial(self._catalog().drop, image.digest))
        return await self._sweep(await self._live(keep))

    def _doomed(self, keep: set[str], *, unused: bool) -> list[StoredImage]:
        return [
            image
            for image in self._catalog().images()
            if not (keep & {image.digest, *image.indexes} or (image.references and not unused))
            and not self._holds.pins(image.digest)  # a shared layer of other work does not count
        ]

    async def _live(self, keep: set[str]) -> set[str]:
        live = await self._in_disk(partial(self._needed, keep))
        for image in self._catalog().images():  # again: one may have come meanwhile
            live |= {*image.blobs, *manifest.chain_ids(image.layers)}
        return live

    async def _sweep(self, live: set[str]) -> int:
        freed = self.forget_blobs([f"sha256:{p.name}" for p in self._blobs.blobs.iterdir()], live)
        layers = self._layers()
        for chain in layers.chains():
            if chain not in live and not self._holds.pins(chain) and layers.has(chain):
                freed += await self._drop_layer(chain)
        freed += self.forget_partial([f"sha256:{p.name}" for p in self._blobs.partials()], allowed=0)
        log.info("images collected freed_bytes=%d", freed)
        return freed

    def _needed(self, keep: Iterable[str]) -> set[str]:
        """Blobs and chains of images that are only in use, not in the catalog any more."""
        needed: set[str] = set()
        for digest in keep:
            for found in self._catalog().manifests_under(digest):
                with contextlib.suppress(ImageError, OSError):
                    image = self._catalog().read(found)
                    needed |= {digest, *image.blobs, *manifest.chain_ids(image.layers)}
        return needed

    async def _drop_layer(self, chain: str) -> int:
        async with self._holds.locked(chain):
            if self._holds.pins(chain) or not self._layers().has(chain):
                return 0
            return await self._in_disk(partial(self._layers().remove, chain))

    def forget_blobs(self, digests: Iterable[str], live: set[str] | None = None) -> int:
        """Remove blobs that no image and no other running work needs."""
        allowed = 0
        if live is None:
            live = {blob for image in self._catalog().images() for blob in image.blobs}
            allowed = 1  # the failed work's own pin
        doomed = [d for d in digests if d not in live and self._holds.pins(d) <= allowed]
        return sum(self._blobs.remove(digest) for digest in doomed)

    def forget_partial(self, digests: Iterable[str], allowed: int) -> int:
        doomed = [digest for digest in digests if self._holds.pins(digest) <= allowed]
        return sum(self._blobs.remove_partial(digest) for digest in doomed)

    # -- as much as is wanted ---------------------------------------------------------------

    async def relieve(self, keep_digests: Iterable[str], running: Iterable[str], wanted_bytes: int) -> int:
        """Free about `wanted_bytes`, what is cheapest to have again first; the bytes freed.

        Left-overs, then unpacked layers that no `running` image needs (their blobs stay), then
        images that are neither running nor to be kept, those not used for longest first.
        """
        keep, used = set(keep_digests), set(running)
        freed = await self._sweep(await self._live(keep | used))
        needed = await self._in_disk(partial(self._needed, used))
        for image in self._by_last_use():
            if freed >= wanted_bytes:
                return freed
            for chain in reversed(manifest.chain_ids(image.layers)):
                if chain not in needed and not self._holds.pins(chain):
                    freed += await self._drop_layer(chain)
        for image in self._by_last_use():
            if freed >= wanted_bytes:
                break
            if (keep | used) & {image.digest, *image.indexes} or self._holds.pins(image.digest):
                continue
            await self._change(partial(self._catalog().drop, image.digest))
            freed += await self._sweep(await self._live(keep | used))
        return freed

    def _by_last_use(self) -> list[StoredImage]:
        return sorted(self._catalog().images(), key=lambda image: self._last_use_s(image.digest))

    def _last_use_s(self, digest: str) -> float:
        """When the image was last wanted: its manifest's time, see `used`."""
        try:
            return self._blobs.path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def used(self, digest: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._blobs.path(digest))

    # -- looking ----------------------------------------------------------------------------

    async def usage(self, keep_digests: Iterable[str], *, unused: bool) -> Usage:
        """`reclaimable_bytes`: what a `gc` with these arguments would free."""
        keep = set(keep_digests)
        doomed = {image.digest for image in self._doomed(keep, unused=unused)}
        live = await self._in_disk(partial(self._needed, keep))
        for image in self._catalog().images():
            if image.digest not in doomed:
                live |= {*image.blobs, *manifest.chain_ids(image.layers)}
        return await self._in_disk(partial(self._measure, live))

    def _measure(self, live: set[str]) -> Usage:
        blobs = {f"sha256:{path.name}": _size(path) for path in self._blobs.blobs.iterdir()}
        layers = {chain: self._layer_bytes(chain) for chain in self._layers().chains()}
        partial_bytes = sum(_size(path) for path in self._blobs.partials())
        free = sum(size for name, size in {**blobs, **layers}.items() if self._is_free(name, live))
        disk = os.statvfs(self._root)
        return Usage(
            images=len(self._catalog().images()),
            blob_bytes=sum(blobs.values()),
            layer_bytes=sum(layers.values()),
            partial_bytes=partial_bytes,
            reclaimable_bytes=free,
            disk_bytes=disk.f_blocks * disk.f_frsize,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
        )

    def _is_free(self, digest: str, live: set[str]) -> bool:
        return digest not in live and not self._holds.pins(digest)

    def _layer_bytes(self, chain: str) -> int:
        try:
            return int(json.loads((self._layers().path(chain) / "meta.json").read_bytes())["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_blocks * 512
    return 0
