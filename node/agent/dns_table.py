"""The file that the node's DNS process answers from: written whole once, then a change at a time.

What is appended is in `overlay.nametable`. The file is made anew, from its own live lines, when what was appended is
as much as what it began with; and from nothing by a new agent, after an error, or when somebody else wrote to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from swarmpy.node.config import append_private, write_private
from swarmpy.overlay import nametable
from swarmpy.overlay.nametable import Lines, ServiceEntry, Table

APPENDED_MIN_BYTES = 1 << 20


class DnsTable:
    """One per agent. `write` raises OSError, and the next one then writes everything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = Lines()
        self._stamp: tuple[int, int, int] | None = None  # of the file as it was left; None: write it whole
        self._head = Table()
        self._known: dict[str, bytes] = {}
        self._whole_bytes = 0

    @property
    def sum(self) -> str:
        """What the DNS process says it has, when it has the newest."""
        return self._lines.sum

    def forget(self) -> None:
        """Write everything the next time."""
        self._stamp = None

    def write(
        self, head: Table, services: Mapping[str, bytes], entry_of: Callable[[str], ServiceEntry]
    ) -> None:
        """Tell the DNS process: `services` says by key what an entry is made from, and so whether it changed."""
        stamp = self._stamp
        if stamp is None or stamp != read_stamp(self._path):
            self._write_whole(head, services, entry_of)
            return
        known, lines = self._known, self._lines
        gone = [key for key in known if key not in services]
        new = [key for key, data in services.items() if known.get(key) is not data and known.get(key) != data]
        if not gone and not new and head == self._head:
            return
        self._stamp = None  # unknown until all is done
        data = [lines.start(head.to_json())] if head != self._head else []
        data += [lines.drop(key) for key in gone]
        data += [lines.put(key, entry_of(key).to_json()) for key in new]
        data.append(lines.end())
        append_private(self._path, b"".join(data))
        self._head, self._known = head, dict(services)
        self._stamp = read_stamp(self._path)
        appended = (self._stamp[2] if self._stamp else 0) - self._whole_bytes
        if appended > max(self._whole_bytes, APPENDED_MIN_BYTES):
            self._shorten()

    def _write_whole(
        self, head: Table, services: Mapping[str, bytes], entry_of: Callable[[str], ServiceEntry]
    ) -> None:
        self._stamp, self._lines = None, Lines()
        data = [self._lines.start(head.to_json())]
        data += [self._lines.put(key, entry_of(key).to_json()) for key in services]
        self._replace(data)
        self._head, self._known = head, dict(services)

    def _shorten(self) -> None:
        """The same content without what was replaced since; a damaged file is written whole the next time."""
        before, self._stamp = self._lines.sum, None
        lines = Lines()
        data = [lines.start(self._head.to_json())]
        data += [lines.keep(key, line) for key, line in nametable.live(self._path.read_bytes()).items()]
        if lines.sum == before:
            self._lines = lines
            self._replace(data)

    def _replace(self, data: list[bytes]) -> None:
        whole = b"".join([*data, self._lines.end()])
        write_private(self._path, whole, sync=False)
        self._whole_bytes = len(whole)
        self._stamp = read_stamp(self._path)

    def problems(self) -> list[str]:
        """How the file differs from what was written; it is what a DNS process that starts will answer from."""
        if self._stamp is not None and read_stamp(self._path) == self._stamp:
            return []
        return ["the DNS table on disk is not what was written"]


def read_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
