"""Compressed streams by their first bytes: plain tar, gzip (isal) and zstd."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal, Protocol, cast

from isal import igzip, isal_zlib
from swarmpy.node.image.errors import ArchiveDamaged, ArchiveHostile, Unsupported

Compression = Literal["", "gzip", "zstd"]
CHUNK = 1024 * 1024
ZSTD_WINDOW_BYTES_MAX = 128 * 1024 * 1024
_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)
_OTHER = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x04\x22\x4d\x18": "lz4"}


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class MeteredStream:
    """Hashes and counts what passes; a stream that expands beyond reason is a bomb."""

    def __init__(self, stream: Stream, what: str, bytes_max: int) -> None:
        self._stream = stream
        self._what = what
        self._bytes_max = bytes_max
        self._hash = hashlib.sha256()
        self.count = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.count += len(data)
        if self.count > self._bytes_max:
            raise ArchiveHostile(
                f"{self._what}: it expands beyond {self._bytes_max} bytes (a compression bomb?)"
            )
        return data

    def digest(self) -> str:
        """Of the whole stream: what follows the archive's end counts too."""
        while self.read(CHUNK):
            pass
        return f"sha256:{self._hash.hexdigest()}"


def detect(head: bytes, what: str) -> Compression:
    """The compression that the first bytes announce; Unsupported for the others known."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    for magic, name in _OTHER.items():
        if head.startswith(magic):
            raise Unsupported(f"{what} is compressed by {name}: decompress it, or use gzip or zstd")
    return ""


@contextmanager
def opened(file: BinaryIO, what: str) -> Iterator[Stream]:
    """The decompressed bytes of `file`, from its start; damage is raised as ArchiveDamaged."""
    file.seek(0)
    compression = detect(file.read(8), what)
    file.seek(0)
    try:
        if compression == "gzip":
            with igzip.open(file, "rb") as stream:  # type: ignore[no-untyped-call]
                yield cast("Stream", stream)
        elif compression == "zstd":
            import zstandard

            decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
            try:
                with decompressor.stream_reader(file, read_across_frames=True, closefd=False) as stream:
                    yield cast("Stream", stream)
            except zstandard.ZstdError as error:
                raise ArchiveDamaged(f"{what}: damaged zstd data: {error}") from error
        else:
            yield file
    except (zlib.error, _ISAL_ERROR, EOFError) as error:
        raise ArchiveDamaged(f"{what}: damaged or truncated gzip data: {error}") from error
    except igzip.BadGzipFile as error:
        raise ArchiveDamaged(f"{what}: damaged gzip data: {error}") from error
