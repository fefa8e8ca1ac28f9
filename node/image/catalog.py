"""Which manifests are images, and which names they have: refs.json and what it refers to.

refs.json = {"version": 1, "images": {MANIFEST: [INDEX, …]}, "references": {NAME: TOP},
             "chunks": {MANIFEST: LIST}}
where LIST is the blob with the image's list of chunks, if there is one (see chunks), and TOP
the digest a name resolved to: an index, or the manifest itself. Everything else about an
image is read from its blobs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmpy.node.image import manifest
from swarmpy.node.image import reference as references
from swarmpy.node.image.blobs import BlobDirectory, write_atomically
from swarmpy.node.image.errors import ImageError, ImageNotFound, full_disk_as_no_space
from swarmpy.node.image.manifest import Manifest
from swarmpy.node.image.reference import Reference, ReferenceInvalid, is_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredImage:
    """An image whose blobs are all here."""

    digest: str  # of the manifest
    references: tuple[str, ...]  # normal form
    config: Mapping[str, Any] = field(repr=False)  # the whole OCI image config
    config_digest: str
    size_bytes: int  # of all blobs, as stored
    layers: tuple[str, ...]  # diff ids, lowest first
    platform: tuple[str, str]  # os, architecture
    indexes: tuple[str, ...] = ()  # index digests by which it is known too
    blobs: tuple[str, ...] = field(default=(), repr=False)  # every blob, itself and the indexes included
    chunks: str = ""  # digest of the list of its chunks


class Catalog:
    def __init__(self, directory: Path, blobs: BlobDirectory) -> None:
        self._file = directory / "refs.json"
        self._blobs = blobs
        self._images: dict[str, StoredImage] = {}
        self._names: dict[str, str] = {}
        self._indexes: dict[str, str] = {}

    # -- reading --------------------------------------------------------------------

    def images(self) -> list[StoredImage]:
        return [self._named(image) for image in self._images.values()]

    def find(self, text: str) -> StoredImage | None:
        """By manifest digest, index digest or any spelling of a reference; a digest decides."""
        if is_digest(text):
            digest = text
        else:
            try:
                reference = references.parse(text)
            except ReferenceInvalid:
                return None
            digest = reference.digest or self._names.get(str(reference), "")
        image = self._images.get(self._indexes.get(digest, digest))
        return None if image is None else self._named(image)

    def digests(self) -> set[str]:
        return {*self._images, *self._indexes}

    def top(self, name: str) -> str:
        """What a name resolved to: the digest of an index where there was one; "" for an unknown name."""
        return self._names.get(name, "")

    def read(self, digest: str, indexes: Iterable[str] = (), chunks: str = "") -> StoredImage:
        """Build the record from the blobs; ImageNotFound when one is missing."""
        what = f"image {digest}"
        data = self.document(digest)
        parsed = manifest.parse_document(data, what)
        if not isinstance(parsed, Manifest):
            raise ImageNotFound(f"{what} is an index, not a manifest")
        for blob in parsed.blobs:
            if not self._blobs.has(blob):
                raise ImageNotFound(f"{what}: its blob {blob.digest} is not here; pull it again")
        config = manifest.parse_config(self.document(parsed.config.digest), parsed, what)
        platform = manifest.platform_of(config)
        known = tuple(index for index in indexes if self._blobs.path(index).exists())
        chunks = chunks if chunks and self._blobs.path(chunks).exists() else ""
        return StoredImage(
            digest=digest,
            references=(),
            config=config,
            config_digest=parsed.config.digest,
            size_bytes=len(data) + sum(blob.size for blob in parsed.blobs),
            layers=tuple(config["rootfs"]["diff_ids"]),
            platform=(platform.os, platform.architecture),
            indexes=known,
            blobs=(digest, *known, *(blob.digest for blob in parsed.blobs), *([chunks] if chunks else [])),
            chunks=chunks,
        )

    def manifests_under(self, digest: str) -> list[str]:
        """The digest itself, or what an index lists; nothing if it is not here."""
        if not is_digest(digest):
            return []
        try:
            parsed = manifest.parse_document(self.document(digest), digest)
        except ImageError:
            return []
        return [digest] if isinstance(parsed, Manifest) else [e.descriptor.digest for e in parsed.entries]

    def manifest_of(self, image: StoredImage) -> Manifest:
        parsed = manifest.parse_document(self.document(image.digest), f"image {image.digest}")
        assert isinstance(parsed, Manifest)
        return parsed

    def document(self, digest: str) -> bytes:
        """A small blob; ImageNotFound when it is missing."""
        try:
            return self._blobs.path(digest).read_bytes()
        except FileNotFoundError:
            raise ImageNotFound(f"blob {digest} is not here; pull the image again") from None

    def _named(self, image: StoredImage) -> StoredImage:
        tops = {image.digest, *image.indexes}
        return replace(image, references=tuple(sorted(n for n, top in self._names.items() if top in tops)))

    # -- changing, in memory; `encoded` is what to write ----------------------------------

    def add(self, image: StoredImage, names: Iterable[Reference], top: str) -> None:
        if (known := self._images.get(image.digest)) is not None:
            indexes = tuple(dict.fromkeys((*known.indexes, *image.indexes)))
            blobs = tuple(dict.fromkeys((*known.blobs, *image.blobs)))
            image = replace(image, indexes=indexes, blobs=blobs, chunks=image.chunks or known.chunks)
        self._images[image.digest] = image
        for index in image.indexes:
            self._indexes[index] = image.digest
        for name in names:
            self._names[str(name)] = top

    def drop_name(self, reference: Reference) -> None:
        del self._names[str(reference)]

    def drop(self, digest: str) -> None:
        image = self._images.pop(digest)
        tops = {digest, *image.indexes}
        self._indexes = {index: found for index, found in self._indexes.items() if found != digest}
        self._names = {name: top for name, top in self._names.items() if top not in tops}

    # -- the file -------------------------------------------------------------------

    def encoded(self) -> bytes:
        images = {digest: list(image.indexes) for digest, image in self._images.items()}
        chunks = {digest: image.chunks for digest, image in self._images.items() if image.chunks}
        value = {"version": 1, "images": images, "references": self._names, "chunks": chunks}
        return json.dumps(value, indent=1, sort_keys=True).encode()

    def write(self, data: bytes) -> None:
        with full_disk_as_no_space("the list of images", self._file):
            write_atomically(self._file, data)

    def load(self) -> None:
        """What the file says, less what is not whole any more."""
        try:
            value = json.loads(self._file.read_bytes())
            images, names = dict(value["images"]), dict(value["references"])
            chunks = {k: v for k, v in dict(value.get("chunks", {})).items() if is_digest(str(v))}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            log.error("list of images unreadable, set aside file=%s error=%s", self._file, error)
            self._file.replace(self._file.with_suffix(".damaged"))
            return
        for digest, indexes in images.items():
            try:
                self.add(self.read(digest, indexes, chunks.get(digest, "")), (), digest)
            except (ImageError, OSError) as error:
                log.warning("image dropped, it is not whole digest=%s error=%s", digest, error)
        known = self.digests()
        self._names = {str(name): top for name, top in names.items() if top in known}
