"""Between the store and an archive: progress and stopping, clear words for a bad path, names."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from swarmpy.node.image import reference as references
from swarmpy.node.image.access import Stopped
from swarmpy.node.image.archive import ArchiveReader, Candidate, Tick
from swarmpy.node.image.errors import ArchiveDamaged, ImageNotFound
from swarmpy.node.image.limits import Limits
from swarmpy.node.image.manifest import Platform
from swarmpy.node.image.reference import Reference, ReferenceInvalid

log = logging.getLogger(__name__)
TICK_S = 0.1
# status ("downloading", "unpacking", …), blob digest, bytes done, bytes in all
Progress = Callable[[str, str, int, int], None]


def archive_job(
    archive: Path,
    work: Path,
    limits: Limits,
    platform: Platform,
    reference: str,
    progress: Progress | None,
    stop: threading.Event,
) -> Callable[[], list[Candidate]]:
    """What a thread has to do; it tells the loop now and then, and ends when stopped."""
    tick = _tick(asyncio.get_running_loop(), progress, stop, archive)

    def read() -> list[Candidate]:
        try:
            return ArchiveReader(archive, work, limits, tick).read(platform, reference=reference)
        except FileNotFoundError as error:
            if error.filename is None or Path(os.fsdecode(error.filename)) != archive:
                raise
            raise ArchiveDamaged(f"image archive {archive} does not exist") from error
        except IsADirectoryError as error:
            raise ArchiveDamaged(f"image archive {archive} is a directory, not an archive file") from error

    return read


def _tick(
    loop: asyncio.AbstractEventLoop, progress: Progress | None, stop: threading.Event, archive: Path
) -> Tick:
    last = 0.0

    def tick(done: int, total: int) -> None:
        nonlocal last
        if stop.is_set():
            raise Stopped(f"loading {archive} was stopped")
        now = time.monotonic()
        if progress is not None and now - last >= TICK_S:
            last = now
            loop.call_soon_threadsafe(progress, "loading", "", done, total)

    return tick


def names_of(candidate: Candidate) -> list[Reference]:
    """The archive's own names; one that is no reference is left out."""
    names = []
    for text in candidate.names:
        try:
            names.append(references.parse(text))
        except ReferenceInvalid as error:
            log.warning("name in an image archive ignored name=%r error=%s", text[:200], error)
    return names


def parsed(reference: Reference | str) -> Reference:
    if isinstance(reference, Reference):
        return reference
    try:
        return references.parse(reference)
    except ReferenceInvalid as error:
        raise ImageNotFound(str(error)) from error


def silent(status: str, blob: str, done: int, total: int) -> None:
    """No one watches."""
