"""The images of one node: load, pull, fetch from peers, unpack, tag, remove, collect.

    blobs/sha256/HEX   manifests, indexes, configs, layers: the only truth about content
    layers/CHAIN/      unpacked layers (see layers)
    ingest/HEX         blobs on their way in; continued after a crash
    parts/HEX          the same, coming in chunks from several nodes (see swarm)
    tmp/               anything unfinished; emptied on open
    refs.json          which manifests are images, and which names they have (see catalog)

Rules. One process has a store open. All bookkeeping happens on the event loop,
blocking work in threads or a child. An image is known only once all its blobs are
on disk. Running work pins what it relies on, so `gc` may run at any time. An
index (several platforms) resolves to this node's manifest; its digest is known
too, so that nodes of different kinds can share one digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from swarmpy.node.image import manifest, saving
from swarmpy.node.image import reference as references
from swarmpy.node.image.access import Access, Credentials, registry_client
from swarmpy.node.image.archive import Candidate
from swarmpy.node.image.blobs import BlobDirectory
from swarmpy.node.image.catalog import Catalog, StoredImage
from swarmpy.node.image.collect import Collector
from swarmpy.node.image.errors import (
    ImageError,
    ImageNotFound,
    NoSpace,
    StoreBusy,
    Unsupported,
    full_disk_as_no_space,
)  # fmt: skip
from swarmpy.node.image.holds import Holds
from swarmpy.node.image.layers import LayerDirectory
from swarmpy.node.image.limits import Limits
from swarmpy.node.image.loading import Progress, archive_job, names_of, silent
from swarmpy.node.image.loading import parsed as parsed_reference
from swarmpy.node.image.manifest import Descriptor, Index, Manifest, Platform
from swarmpy.node.image.reference import Reference, is_digest
from swarmpy.node.image.stack import Stack, Step
from swarmpy.node.image.swarm import make_list
from swarmpy.node.image.swarms import Swarms, SwarmSource, Whereabouts
from swarmpy.node.image.transfer import (
    BlobSource,
    PeerSender,
    RegistrySender,
    Sender,
    fetch_blobs,
    in_pool,
)  # fmt: skip

log = logging.getLogger(__name__)
INGEST_AGE_S_MAX = 24 * 3600
SPACE_RESERVE_BYTES = 16 * 1024 * 1024
T = TypeVar("T")
__all__ = ["Access", "BlobSource", "Credentials", "ImageStore", "Progress", "StoredImage"]
Images = list[StoredImage]
Digests = list[str]


class ImageStore:
    def __init__(
        self, directory: Path, *, limits: Limits | None = None, platform: Platform | None = None
    ) -> None:
        """`platform` is what pull and load choose from an index; this machine's by default."""
        directory = directory.absolute()
        self._directory = directory
        self._limits = limits or Limits()
        self._platform = platform or manifest.host_platform()
        self._blobs = BlobDirectory(directory)
        self._catalog = Catalog(directory, self._blobs)
        self._layers: LayerDirectory | None = None
        self._network = ThreadPoolExecutor(6, "image-network")
        self._disk = ThreadPoolExecutor(3, "image-disk")
        self._holds = Holds()
        self._saving = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self.swarms = Swarms(self._blobs, self._network)
        self.collector = Collector(
            directory,
            self._blobs,
            self._holds,
            lambda: self._catalog,
            self._opened,
            self._change,
            self._in_disk,
        )
        self._lock_fd = -1

    # -- life -------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the directories, take the store, drop what an earlier crash left."""
        await self._in_disk(self._open)

    def _open(self) -> None:
        with full_disk_as_no_space("the image store", self._directory):
            for path in (self._directory, self._blobs.blobs, self._blobs.ingest, self._blobs.parts):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)  # setuid files of images lie below
            self._take()
            self._layers = LayerDirectory(self._directory, self._limits)
            self._layers.layers.mkdir(mode=0o700, exist_ok=True)
            self._layers.empty_tmp()
        for path in self._blobs.partials():
            if time.time() - path.stat().st_mtime > INGEST_AGE_S_MAX:
                path.unlink()
        self._layers.drop_unsynced()
        self._catalog.load()

    def _take(self) -> None:
        if self._lock_fd >= 0:
            return
        self._lock_fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise StoreBusy(
                f"image store {self._directory} is in use by another process: ask that node's agent instead"
            ) from None

    async def close(self) -> None:
        """Wait for what runs in the background and give the store free."""
        await asyncio.gather(*self._background, return_exceptions=True)
        self._network.shutdown(wait=False, cancel_futures=True)
        self._disk.shutdown(wait=False, cancel_futures=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # -- reading ----------------------------------------------------------------------

    def get(self, digest_or_reference: str) -> StoredImage | None:
        return self._catalog.find(digest_or_reference)

    def list(self) -> Images:
        return self._catalog.images()

    def digests(self) -> Digests:
        """Manifests held, and the indexes by which they are known, sorted."""
        return sorted(self._catalog.digests())

    @property
    def temporary(self) -> Path:
        """A directory on the store's file system, emptied on open: for archives to be loaded."""
        return self._opened().tmp

    def top(self, reference: str) -> str:
        """The digest that a name led to, of the index where there was one; "" for an unknown name."""
        return self._catalog.top(str(parsed_reference(reference)))

    def blob_path(self, digest: str) -> Path | None:
        """Where a blob lies, to be served to a peer."""
        if not is_digest(digest):
            return None
        path = self._blobs.path(digest)
        return path if path.exists() else None

    def whereabouts(self, digest: str) -> Whereabouts:
        """How much of an image is here. Looks at the disk."""
        image = self.get(digest)
        if image is None:
            present, total = self.swarms.progress(digest)
            return Whereabouts(present, total)
        chains = manifest.chain_ids(image.layers)
        unpacked = all(self._opened().has(chain) for chain in chains)
        return Whereabouts(image.size_bytes, image.size_bytes, complete=True, unpacked=unpacked)

    def documents(self, image: StoredImage) -> tuple[Manifest, bytes, bytes]:
        """The manifest, and the bytes of manifest and config. Reads the disk; raises ImageNotFound."""
        return (
            self._catalog.manifest_of(image),
            self._catalog.document(image.digest),
            self._catalog.document(image.config_digest),
        )

    @contextlib.contextmanager
    def saved(self, images: Mapping[str, StoredImage]) -> Iterator[Iterator[bytes]]:
        """An archive of images by name ("" = none), piece by piece."""
        with self._holds.pinned(*(blob for image in images.values() for blob in image.blobs)):
            manifests = {image.digest: self._catalog.manifest_of(image) for image in images.values()}
            blobs = {blob: self._blobs.path(blob) for image in images.values() for blob in image.blobs}
            yield saving.archive(images, manifests, blobs)

    def readable(self, digest: str, offset: int, length: int) -> Path | None:
        """A file with these bytes of a blob (length 0: all of it), also of one that is still on its way."""
        if (whole := self.blob_path(digest)) is not None or not is_digest(digest):
            return whole
        return self.swarms.part(digest, offset, length)

    # -- bringing images in -------------------------------------------------------------

    async def load(self, archive: Path, *, reference: str = "", progress: Progress | None = None) -> Images:
        """`docker save`, OCI archive or root file system (which needs `reference`).

        With `reference` the archive must hold one image, which gets that name alone. Each result has
        the names of this archive only.
        """
        named = parsed_reference(reference) if reference else None
        stop = threading.Event()
        work = Path(tempfile.mkdtemp(dir=self._opened().tmp))
        try:
            job = archive_job(archive, work, self._limits, self._platform, reference, progress, stop)
            found = await in_pool(self._disk, job, stop)
            if named is not None and len(found) > 1:
                raise Unsupported(f"image archive {archive} has {len(found)} images: load it without a name")
            names = [[named] if named is not None else names_of(candidate) for candidate in found]
            images = []
            for candidate, of_it in zip(found, names, strict=True):
                stored = await self._take_over(candidate, of_it)
                # Not other names the content has here: the cluster may have moved them on.
                images.append(replace(stored, references=tuple(sorted({str(name) for name in of_it}))))
            return images
        finally:
            await asyncio.shield(self._in_disk(partial(shutil.rmtree, work, ignore_errors=True)))

    async def _take_over(self, candidate: Candidate, names: Sequence[Reference]) -> StoredImage:
        documents = {
            manifest.sha256(data): data for data in (candidate.manifest, *candidate.indexes, candidate.config)
        }
        digest = manifest.sha256(candidate.manifest)
        top = manifest.sha256(candidate.indexes[0]) if candidate.indexes else digest
        with self._holds.pinned(*documents, *candidate.layers):

            def commit() -> StoredImage:
                for layer, path in candidate.layers.items():
                    if not self._blobs.path(layer).exists():
                        self._blobs.commit_file(path, layer)
                for name, data in documents.items():
                    if not self._blobs.path(name).exists():
                        self._blobs.commit_bytes(data, name)
                return self._catalog.read(digest, [manifest.sha256(data) for data in candidate.indexes])

            return await self._known(commit, names, top, [*documents, *candidate.layers])

    async def resolve(self, reference: Reference | str, *, access: Access | None = None) -> str:
        """The digest that a reference has at its registry now; of the index where there is one."""
        parsed = parsed_reference(reference)
        if parsed.digest:
            return parsed.digest
        stop = threading.Event()
        registry = registry_client(parsed, access, stop)
        return await in_pool(self._network, registry.resolve, stop)

    async def check_registry(self, access: Access) -> None:
        """Raises AuthRequired, RegistryUnreachable or ReferenceInvalid."""
        parsed = references.parse(f"{access.registry}/check")
        stop = threading.Event()
        await in_pool(self._network, registry_client(parsed, access, stop).check, stop)

    async def pull(
        self,
        reference: Reference | str,
        *,
        platform: Platform | None = None,
        progress: Progress | None = None,
        access: Access | None = None,
    ) -> StoredImage:
        """From the registry in the reference. Its name moves to what the registry has now."""
        parsed = parsed_reference(reference)
        stop = threading.Event()
        registry = registry_client(parsed, access, stop)
        data = await in_pool(self._network, partial(registry.manifest, parsed.selector), stop)
        sender = RegistrySender(registry, self._network, stop)
        try:
            return await self._bring(data, sender, [parsed], platform, progress, str(parsed))
        finally:
            stop.set()

    async def fetch(
        self,
        digest: str,
        source: BlobSource | Sequence[BlobSource],
        progress: Progress | None = None,
        reference: Reference | str = "",
        swarm: SwarmSource | None = None,
    ) -> StoredImage:
        """From peers, by the digest of a manifest or index.

        With `swarm` in chunks from all nodes that have some; what cannot be had so, and
        without it, from the `source`s in their order.
        """
        if not is_digest(digest):
            raise ImageNotFound(f"{digest!r} is no image digest")
        names = [parsed_reference(reference)] if reference else []
        if (image := self.get(digest)) is not None:
            if names and str(names[0]) not in image.references:
                return await self.tag(digest, names[0])
            return image
        sender = PeerSender([*source] if isinstance(source, Sequence) else [source], self._network)
        data = await sender.document(digest)
        return await self._bring(data, sender, names, None, progress, str(reference or digest), swarm)

    async def _bring(
        self,
        top: bytes,
        sender: Sender,
        names: Sequence[Reference],
        platform: Platform | None,
        progress: Progress | None,
        what: str,
        swarm: SwarmSource | None = None,
    ) -> StoredImage:
        tell: Progress = progress or silent
        wanted = platform or self._platform
        documents = {manifest.sha256(top): top}
        digest, parsed = manifest.sha256(top), manifest.parse_document(top, what)
        if isinstance(parsed, Index):
            digest = parsed.choose(wanted, what).descriptor.digest
            documents[digest] = await sender.document(digest)
            parsed = manifest.parse_document(documents[digest], f"{what} ({digest})")
            if isinstance(parsed, Index):
                raise Unsupported(f"{what}: indexes nested in indexes")
        tell("found", digest, 0, sum(blob.size for blob in parsed.blobs))
        with self._holds.pinned(*documents, *(blob.digest for blob in parsed.blobs)):
            missing = [blob for blob in parsed.blobs if not self._blobs.has(blob)]
            self._check_space(missing, what)
            chunks = ""
            try:
                if swarm is not None and missing:
                    listed = await self.swarms.fetch(digest, parsed.blobs, swarm, tell, sender.document)
                    if listed:
                        chunks = manifest.sha256(listed)
                        documents[chunks] = listed
                await fetch_blobs(parsed.blobs, self._blobs, sender, self._holds.locked, self._network, tell)
            except NoSpace:
                self.collector.forget_blobs([blob.digest for blob in missing])
                self.collector.forget_partial([blob.digest for blob in missing], allowed=1)
                raise

            def commit() -> StoredImage:
                for name, data in documents.items():
                    if not self._blobs.path(name).exists():
                        self._blobs.commit_bytes(data, name)
                indexes = [name for name in documents if name not in {digest, chunks}]
                image = self._catalog.read(digest, indexes, chunks)
                if not manifest.platform_of(image.config).fits(wanted):
                    raise Unsupported(f"{what} is for {'/'.join(image.platform)}, this node is {wanted}")
                return image

            candidates = [*documents, *(blob.digest for blob in missing)]
            with self._holds.pinned(*([chunks] if chunks else [])):
                image = await self._known(commit, names, manifest.sha256(top), candidates)
        log.info("image brought digest=%s name=%s bytes=%d", digest, what, image.size_bytes)
        return image

    async def _known(
        self, commit: Callable[[], StoredImage], names: Sequence[Reference], top: str, fresh: Sequence[str]
    ) -> StoredImage:
        """Commit the last blobs and record the image; on failure nothing of it stays."""
        try:
            image = await self._in_disk(commit)
            await self._change(lambda: self._catalog.add(image, names, top))
        except (ImageError, OSError):
            self.collector.forget_blobs(fresh)
            raise
        found = self.get(image.digest)
        assert found is not None
        return found

    def _check_space(self, missing: Sequence[Descriptor], what: str) -> None:
        """Better no start than a stop half-way; what is here already counts."""
        disk = os.statvfs(self._directory)
        free, need = disk.f_bavail * disk.f_frsize, sum(blob.size for blob in missing)
        if need and need + SPACE_RESERVE_BYTES > free:
            raise NoSpace(
                f"no space for {what} in {self._directory}: {need >> 20} MiB to come, {free >> 20} MiB free; "
                "free some space (`swarmpy image rm`) and try again"
            )

    async def chunk_list(self, digest: str) -> str:
        """The digest of the list of an image's chunks, made now if there is none."""
        image = self.get(digest)
        if image is None:
            raise ImageNotFound(f"image {digest} is not on this node")
        if image.chunks:
            return image.chunks
        blobs = self._catalog.manifest_of(image).blobs
        with self._holds.pinned(*image.blobs):
            data = (await self._in_disk(partial(make_list, image.digest, blobs, self._blobs))).encoded()
            name = manifest.sha256(data)
            with self._holds.pinned(name):
                await self._in_disk(partial(self._blobs.commit_bytes, data, name))
                found = await self._in_disk(partial(self._catalog.read, image.digest, image.indexes, name))
                await self._change(lambda: self._catalog.add(found, [], found.digest))
        return name

    # -- unpacking -----------------------------------------------------------------------

    async def unpack(self, digest: str, progress: Progress | None = None) -> tuple[Path, ...]:
        """The image's layer directories, lowest first, ready as overlayfs lower layers."""
        image = self.get(digest)
        if image is None:
            raise ImageNotFound(f"image {digest} is not on this node; pull it first")
        layers, parsed, tell = self._opened(), self._catalog.manifest_of(image), progress or silent
        chains = manifest.chain_ids(image.layers)
        steps = [
            Step(self._blobs.path(blob.digest), image.layers[n], chains[n],
                 f"layer {n + 1} of {len(chains)} of image {digest}",
                 partial(tell, "unpacking", blob.digest, n, len(chains)))
            for n, blob in enumerate(parsed.layers)
        ]  # fmt: skip
        with self._holds.pinned(*image.blobs, *chains):
            await Stack(layers, self._holds, self._made, self._in_disk).unpack(steps)
        return tuple(layers.diff(chain) for chain in chains)

    # -- names and removal ---------------------------------------------------------------

    async def tag(self, digest_or_reference: str, reference: Reference | str) -> StoredImage:
        """Give an image one more name; a name moves if another image has it."""
        name = parsed_reference(reference)
        image = self.get(digest_or_reference)
        if image is None:
            raise ImageNotFound(f"image {digest_or_reference} is not on this node")
        top = digest_or_reference if digest_or_reference in image.indexes else image.digest
        await self._change(lambda: self._catalog.add(image, [name], top))
        found = self.get(image.digest)
        assert found is not None
        return found

    async def remove(self, reference_or_digest: str) -> None:
        """A name, and with the last one the image; a digest: the image with all names.

        Its data goes with the next `gc`, so containers that still run on it keep it.
        """
        image = self.get(reference_or_digest)
        if image is None:
            raise ImageNotFound(f"image {reference_or_digest} is not on this node; see `swarmpy image ls`")
        by_digest = is_digest(reference_or_digest)
        name = None if by_digest else references.parse(reference_or_digest)
        if name is None or str(name) not in image.references or image.references == (str(name),):
            await self._change(lambda: self._catalog.drop(image.digest))
        else:
            await self._change(lambda: self._catalog.drop_name(name))

    async def gc(self, keep_digests: Iterable[str] = (), *, unused: bool = False) -> int:
        """Free what no image needs; the bytes freed.

        Kept: images in `keep_digests` (those containers run on, even if removed
        here), images with a name unless `unused`, and what running work relies on.
        """
        return await self.collector.gc(keep_digests, unused=unused)

    def _made(self, chain: str) -> None:
        self._start(self._sync_layer(chain))

    async def _sync_layer(self, chain: str) -> None:
        try:
            inode = await self._in_disk(partial(self._opened().sync, chain))
            async with self._holds.locked(chain):
                await self._in_disk(partial(self._opened().mark_synced, chain, inode))
        except FileNotFoundError:
            return  # collected meanwhile
        except OSError as error:
            log.warning("layer not marked as synced chain=%s error=%s", chain, error)

    # -- bookkeeping ------------------------------------------------------------------

    def _opened(self) -> LayerDirectory:
        assert self._layers is not None, "open() the store first"
        return self._layers

    async def _change(self, change: Callable[[], None]) -> None:
        """Change the catalog and write it; a change that cannot be written is read back."""
        async with self._saving:
            change()
            try:
                await self._in_disk(partial(self._catalog.write, self._catalog.encoded()))
            except (ImageError, OSError):
                fresh = Catalog(self._directory, self._blobs)
                fresh.load()
                self._catalog = fresh
                raise

    async def _in_disk(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, job)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
