"""The list of an image's chunks, so that parts of it can come from several nodes at once. Pure.

A blob can be checked against its digest only when it is whole. So that a lying or damaged
peer is found at its first chunk, the node that brought the image into the cluster makes a
list with the SHA-256 of every chunk. The cluster's record holds the list's own digest:
whoever sends the list cannot change it either. Blobs stay what counts: each is checked
against its digest before it gets its name.

The list is JSON in a canonical form, so the same image gives the same list everywhere:
{"image": MANIFEST, "chunk_bytes": N, "blobs": [{"digest": …, "size": …, "chunks": HEX…}]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from swarmpy.node.image import manifest
from swarmpy.node.image.errors import ArchiveDamaged
from swarmpy.node.image.manifest import Descriptor
from swarmpy.node.image.reference import is_digest

CHUNK_BYTES_MIN = 1 << 20
CHUNKS_MAX = 16_384  # of one image: 1 MiB of hashes as text
_HEX = 64


@dataclass(frozen=True)
class Chunk:
    number: int  # through all blobs of the list
    digest: str  # of the blob
    offset: int
    length: int
    sha256: str  # hex


@dataclass(frozen=True)
class BlobChunks:
    digest: str
    size: int
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class ChunkList:
    image: str
    chunk_bytes: int
    blobs: tuple[BlobChunks, ...]

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        found: list[Chunk] = []
        for blob in self.blobs:
            for number, sha256 in enumerate(blob.hashes):
                offset = number * self.chunk_bytes
                length = min(self.chunk_bytes, blob.size - offset)
                found.append(Chunk(len(found), blob.digest, offset, length, sha256))
        return tuple(found)

    def covering(self, digest: str, offset: int, length: int) -> range:
        """The chunks with these bytes of a blob; empty where they are not all the blob's."""
        first = 0
        for blob in self.blobs:
            if blob.digest == digest:
                if not (length > 0 <= offset and offset + length <= blob.size):
                    break
                last = (offset + length - 1) // self.chunk_bytes
                return range(first + offset // self.chunk_bytes, first + last + 1)
            first += len(blob.hashes)
        return range(0)

    def encoded(self) -> bytes:
        blobs = [{"digest": b.digest, "size": b.size, "chunks": "".join(b.hashes)} for b in self.blobs]
        return manifest.canonical_json({"image": self.image, "chunk_bytes": self.chunk_bytes, "blobs": blobs})

    def fits(self, image: str, blobs: Sequence[Descriptor]) -> bool:
        """Whether this is the list of just this image."""
        known = {(blob.digest, blob.size) for blob in self.blobs}
        return self.image == image and known == {(blob.digest, blob.size) for blob in blobs}


def chunk_bytes_for(blobs: Sequence[Descriptor]) -> int:
    """A power of two that keeps the list short: 1 MiB up to about 16 GiB."""
    size = CHUNK_BYTES_MIN
    while sum(count_of(blob.size, size) for blob in blobs) > CHUNKS_MAX:
        size *= 2
    return size


def count_of(size: int, chunk_bytes: int) -> int:
    return -(-size // chunk_bytes)


def parse(data: bytes, what: str) -> ChunkList:
    """Checked in itself; ArchiveDamaged says what is wrong."""
    value = manifest.parse_json(data, what)
    if not isinstance(value, dict) or not isinstance(value.get("blobs"), list):
        raise ArchiveDamaged(f"{what}: not a list of chunks")
    image, chunk_bytes = value.get("image"), value.get("chunk_bytes")
    if not isinstance(image, str) or not is_digest(image):
        raise ArchiveDamaged(f"{what}: 'image' is no digest")
    if not isinstance(chunk_bytes, int) or isinstance(chunk_bytes, bool) or chunk_bytes < CHUNK_BYTES_MIN:
        raise ArchiveDamaged(f"{what}: 'chunk_bytes' is less than {CHUNK_BYTES_MIN}")
    found = ChunkList(image, chunk_bytes, tuple(_blob(entry, chunk_bytes, what) for entry in value["blobs"]))
    if sum(len(blob.hashes) for blob in found.blobs) > 2 * CHUNKS_MAX:
        raise ArchiveDamaged(f"{what}: more than {2 * CHUNKS_MAX} chunks")
    return found


def _blob(entry: object, chunk_bytes: int, what: str) -> BlobChunks:
    blob = manifest.descriptor_of(entry, what)
    assert isinstance(entry, dict)
    text = entry.get("chunks")
    if not isinstance(text, str) or len(text) != count_of(blob.size, chunk_bytes) * _HEX:
        raise ArchiveDamaged(f"{what}: {blob.digest} does not have a hash for each chunk")
    if not all(character in "0123456789abcdef" for character in text):
        raise ArchiveDamaged(f"{what}: a hash of {blob.digest} is not hexadecimal")
    hashes = tuple(text[start : start + _HEX] for start in range(0, len(text), _HEX))
    return BlobChunks(blob.digest, blob.size, hashes)
