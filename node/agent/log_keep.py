"""How long the logs of ended tasks stay on the node: by age, and by size with the oldest going first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)
SWEEP_INTERVAL_S = 60.0
AGE_S_MAX = 7 * 24 * 3600.0
BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class DeadLog:
    """The log directory of a task that is no longer here."""

    path: Path
    written_s: float
    size_bytes: int


class LogKeep:
    """`is_known` says whether a container id belongs to a task of this node; its logs are never touched."""

    def __init__(
        self, directory: Path, is_known: Callable[[str], bool], *, age_s_max: float = AGE_S_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:  # fmt: skip
        self._directory, self._is_known = directory, is_known
        self._age_s_max, self._bytes_max = age_s_max, bytes_max

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            await self.sweep(time.time())

    async def sweep(self, now_s: float) -> list[str]:
        """Remove what is too old or too much; the ids."""
        known = {entry.name for entry in self._directory.iterdir() if self._is_known(entry.name)}
        found = await asyncio.to_thread(dead_logs, self._directory, known)
        removed = []
        for entry in too_much(found, now_s, self._age_s_max, self._bytes_max):
            if not self._is_known(entry.path.name):
                await asyncio.to_thread(shutil.rmtree, entry.path, ignore_errors=True)
                removed.append(entry.path.name)
        if removed:
            log.info("logs of ended tasks removed count=%d", len(removed))
        return removed


def dead_logs(directory: Path, known: Collection[str]) -> list[DeadLog]:
    """Blocks."""
    found = []
    for path in directory.iterdir():
        if path.name in known or not path.is_dir():
            continue
        with contextlib.suppress(FileNotFoundError):
            states = [file.stat() for file in path.iterdir()] or [path.stat()]
            size = sum(state.st_blocks * 512 for state in states)
            found.append(DeadLog(path, max(state.st_mtime for state in states), size))
    return found


def too_much(found: list[DeadLog], now_s: float, age_s_max: float, bytes_max: int) -> list[DeadLog]:
    """Those older than the age, and the oldest of the rest until what stays fits the size."""
    left = sum(entry.size_bytes for entry in found)
    removed = []
    for entry in sorted(found, key=lambda entry: entry.written_s):
        if now_s - entry.written_s > age_s_max or left > bytes_max:
            removed.append(entry)
            left -= entry.size_bytes
    return removed
