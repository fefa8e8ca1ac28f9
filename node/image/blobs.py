"""Blobs on disk: `blobs/sha256/HEX`, written through `ingest/HEX`, committed by rename.

A name under blobs/ exists only with the whole, verified, synced content. What a
broken transfer left in ingest/ is continued by the next one; parts/ holds what comes in
chunks from several nodes (see swarm).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from swarmpy.node.image.compression import CHUNK
from swarmpy.node.image.errors import DigestMismatch, full_disk_as_no_space
from swarmpy.node.image.manifest import Descriptor
from swarmpy.node.image.reference import is_digest


class BlobDirectory:
    def __init__(self, directory: Path) -> None:
        self.root = directory
        self.blobs = directory / "blobs" / "sha256"
        self.ingest = directory / "ingest"
        self.parts = directory / "parts"

    def path(self, digest: str) -> Path:
        return self.blobs / _hex(digest)

    def part(self, digest: str) -> Path:
        """Where a blob lies while its chunks come from several nodes."""
        return self.parts / _hex(digest)

    def has(self, blob: Descriptor) -> bool:
        try:
            return self.path(blob.digest).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    def commit_bytes(self, data: bytes, digest: str) -> None:
        """Write a small, already verified blob."""
        with full_disk_as_no_space(f"blob {digest}", self.root):
            descriptor, name = tempfile.mkstemp(dir=self.root / "tmp")  # several may write the same one
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                self.commit_file(Path(name), digest)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise

    def commit_file(self, file: Path, digest: str) -> None:
        """Take over a complete, verified file of the same file system."""
        with full_disk_as_no_space(f"blob {digest}", self.root):
            sync_path(file)
            file.rename(self.path(digest))
            sync_path(self.blobs)

    def remove(self, digest: str) -> int:
        return _remove(self.path(digest))

    def remove_partial(self, digest: str) -> int:
        return _remove(self.ingest / _hex(digest)) + _remove(self.part(digest))

    def partials(self) -> list[Path]:
        """Files of blobs that are not whole."""
        return [*self.ingest.iterdir(), *self.parts.iterdir()]


class Ingest:
    """One blob on its way in. `offset` bytes are here already; commit verifies all."""

    def __init__(self, directory: BlobDirectory, blob: Descriptor) -> None:
        self._directory = directory
        self._blob = blob
        self._path = directory.ingest / _hex(blob.digest)
        self._file = self._path.open("a+b", buffering=0)
        self._hash = hashlib.sha256()
        self.offset = 0

    def __enter__(self) -> Self:
        return self

    def load(self) -> None:
        """Take over what an earlier transfer left; call before anything else."""
        self._file.seek(0)
        while data := self._file.read(CHUNK):
            self._hash.update(data)
            self.offset += len(data)
        if self.offset > self._blob.size:
            self.restart()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        if self.offset + len(data) > self._blob.size:
            self.restart()
            raise DigestMismatch(
                f"blob {self._blob.digest} is longer than the {self._blob.size} bytes announced"
            )
        with full_disk_as_no_space(f"blob {self._blob.digest}", self._directory.root):
            try:
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) :]
            except OSError:
                self._path.unlink(missing_ok=True)
                raise
        self._hash.update(data)
        self.offset += len(data)

    def restart(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.offset = 0

    def verify(self) -> None:
        """DigestMismatch, and all bytes are dropped, if these are not the blob's."""
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self._blob.digest or self.offset != self._blob.size:
            self.restart()
            raise DigestMismatch(
                f"blob {self._blob.digest} arrived as {actual}: the sender's copy is damaged or was replaced"
            )

    def commit(self) -> None:
        self.verify()
        self._directory.commit_file(self._path, self._blob.digest)


def sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def _hex(digest: str) -> str:
    assert is_digest(digest), digest  # it becomes a file name
    return digest.removeprefix("sha256:")


def _remove(path: Path) -> int:
    """Bytes freed, on disk: a file on its way in may have holes."""
    try:
        info = path.stat()
        size = min(info.st_size, info.st_blocks * 512) if info.st_blocks else info.st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
