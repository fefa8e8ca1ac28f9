"""What can go wrong with an image, as one small tree; every message says what, where and what to do.

ImageError
├── ImageNotFound          no such image, tag or blob, here or at the registry
├── AuthRequired           the registry refuses these credentials, or wants some
├── RegistryUnreachable    no connection, no valid TLS, no sensible HTTP (retryable)
├── SourceFailed           one peer could not give a blob; the next source is asked
├── DigestMismatch         the bytes are not those that were asked for
├── ArchiveDamaged         an archive, manifest, config or layer that cannot be read
│   └── ArchiveHostile     one that tries to leave its directory or to exhaust the machine
├── NoSpace                the disk (or quota) is full; nothing was left behind
├── Unsupported            a valid thing that swarmpy does not do (and what to do instead)
└── StoreBusy              another process has this store open
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class ImageError(Exception):
    """Root of every error of this package."""

    retryable = False


class ImageNotFound(ImageError):
    pass


class AuthRequired(ImageError):
    pass


class RegistryUnreachable(ImageError):
    retryable = True


class SourceFailed(ImageError):
    """What a BlobSource raises, whatever its transport."""

    retryable = True


class DigestMismatch(ImageError):
    pass


class ArchiveDamaged(ImageError):
    pass


class ArchiveHostile(ArchiveDamaged):
    pass


class NoSpace(ImageError):
    retryable = True


class Unsupported(ImageError):
    pass


class StoreBusy(ImageError):
    pass


BY_NAME: dict[str, type[ImageError]] = {
    kind.__name__: kind
    for kind in (
        ImageError, ImageNotFound, AuthRequired, RegistryUnreachable, SourceFailed, DigestMismatch,
        ArchiveDamaged, ArchiveHostile, NoSpace, Unsupported, StoreBusy,
    )
}  # fmt: skip

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def full_disk_as_no_space(what: str, where: object) -> Iterator[None]:
    """Turn "no space left" inside the block into NoSpace; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise NoSpace(
            f"no space left for {what} in {where}: free some space (`swarmpy image rm`) and try again"
        ) from error
