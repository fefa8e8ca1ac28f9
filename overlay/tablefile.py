"""Reads the DNS table's file as it grows; `nametable` has its lines."""

from __future__ import annotations

import logging
from pathlib import Path

from swarmpy.overlay.nametable import BadTable, Changes, Follower

log = logging.getLogger(__name__)


class TableFile:
    """What is read once is not read again, unless the file is another one or its checksum does not fit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._follower = Follower()
        self._stamp: tuple[int, int, int] | None = None
        self._followed, self._read_to = 0, 0  # the file that grows, by inode, and how far it was read

    def read(self, *, changed: bool = False) -> Changes | None:
        """What is new; None: nothing, or the file is damaged, and what was read stays.

        `changed`: it was written to, even if it looks the same.
        """
        stamp = self._read_stamp()
        if stamp is None or (stamp == self._stamp and not changed):
            return None
        before, self._stamp = self._stamp, stamp
        if stamp[0] == self._followed and stamp[2] >= self._read_to:
            try:
                changes = self._read_on()
                if changes.size or stamp == before:
                    return changes  # else it may be another file with the same number
            except (OSError, BadTable) as error:
                log.warning("dns table read anew path=%s error=%s", self.path, error)
        self._followed = 0
        try:
            changes = self._follower.read(self.path.read_bytes(), anew=True)
        except FileNotFoundError:
            return None
        except (OSError, BadTable) as error:
            log.error("dns table not usable, keeping the old one path=%s error=%s", self.path, error)
            return None
        self._read_to, self._followed = changes.size, stamp[0] if changes.checked else 0
        return changes

    def _read_on(self) -> Changes:
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            changes = self._follower.read(file.read(), anew=False)
        self._read_to += changes.size
        return changes

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
