"""Reading and rotating container logs while conmon writes them.

Format, one line each: `<RFC 3339 time with nanoseconds> <stdout|stderr> <P|F> <text>`; P marks a piece of a
line that goes on. Rotation renames `ctr.log` to `.1` and `.1` to `.2`, then asks the monitor to open a new
file; until it does it goes on writing to the renamed one. A reader therefore follows the open file, and
moves to the next newer one only after it has seen that exist and has then read its own to the end.
"""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from swarmpy.node.runtime.inotify import Inotify
from swarmpy.node.runtime.request import LogLine

ROTATE_BYTES = 10 * 1024 * 1024
FILES_MAX = 3  # the written one and two older
BLOCK_BYTES = 256 * 1024
LINE_BYTES_MAX = 1024 * 1024
LINES_PER_TURN = 1000
TAIL_SLACK = 64  # lines read before the wanted ones, for pieces of the first


def files(directory: Path) -> list[Path]:
    """The log's files that exist, oldest first."""
    numbers = sorted(
        (int(name) for path in directory.glob("ctr.log.*") if (name := path.suffix[1:]).isdigit()),
        reverse=True,
    )
    names = [*(f"ctr.log.{number}" for number in numbers), "ctr.log"]
    return [path for name in names if (path := directory / name).exists()]


def rotate(directory: Path, files_max: int = FILES_MAX) -> None:
    """Shift the files by one; the caller then has the monitor open a new one."""
    if files_max == 1:
        (directory / "ctr.log").unlink(missing_ok=True)
    for number in range(files_max - 1, 0, -1):
        older = directory / f"ctr.log.{number}"
        newer = directory / ("ctr.log" if number == 1 else f"ctr.log.{number - 1}")
        if newer.exists():
            newer.rename(older)


class Parser:
    """Bytes of the format to lines; keeps what is incomplete until the rest comes."""

    def __init__(self) -> None:
        self._rest = b""
        self._partial: dict[bytes, bytes] = {b"stdout": b"", b"stderr": b""}
        self._second: tuple[bytes, int] = (b"", 0)

    def feed(self, data: bytes) -> Iterator[LogLine]:
        *complete, self._rest = (self._rest + data).split(b"\n")
        for raw in complete:
            if (line := self._line(raw)) is not None:
                yield line

    def flush(self) -> Iterator[LogLine]:
        """Lines that will never be completed: the container is gone."""
        now = self._second[1]
        for stream, text in self._partial.items():
            if text:
                yield LogLine(now, stream == b"stderr", text)
                self._partial[stream] = b""

    def _line(self, raw: bytes) -> LogLine | None:
        stamp, _, after = raw.partition(b" ")
        stream, _, tagged = after.partition(b" ")
        tag, _, text = tagged.partition(b" ")
        if stream not in self._partial or tag not in (b"F", b"P"):
            return None
        text = self._partial[stream] + text
        if tag == b"P" and len(text) < LINE_BYTES_MAX:
            self._partial[stream] = text
            return None
        self._partial[stream] = b""
        return LogLine(self._time_ns(stamp), stream == b"stderr", text)

    def _time_ns(self, stamp: bytes) -> int:
        """2026-01-31T23:59:59.123456789+00:00; the second is parsed once for all lines in it."""
        second, _, rest = stamp.partition(b".")
        digits = rest[:9]
        zone = rest[9:]
        if self._second[0] != second + zone:
            try:
                seconds = calendar.timegm(time.strptime(second.decode(), "%Y-%m-%dT%H:%M:%S")) - _offset_s(
                    zone
                )
            except ValueError:
                return self._second[1]
            self._second = (second + zone, seconds * 1_000_000_000)
        return self._second[1] + (int(digits) if digits.isdigit() else 0)


def _offset_s(zone: bytes) -> int:
    if len(zone) != 6:
        return 0
    sign = -1 if zone[:1] == b"-" else 1
    return sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)


class Cursor:
    """Reads a directory's log files as one stream, across rotations."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        self._newer_seen = False

    def read(self) -> bytes:
        """The next block, b"" where there is nothing more for now."""
        if self._file is None and not self._open(files(self._directory)[:1]):
            return b""
        while self._file is not None:
            if data := self._file.read(BLOCK_BYTES):
                return data
            if self._newer_seen:
                self._open(self._newer()[:1])
            elif self._newer():
                self._newer_seen = True
            else:
                break
        return b""

    def seek_last(self, lines: int) -> None:
        """Stand at most as far from the end as holds that many lines."""
        wanted = lines + TAIL_SLACK
        for path in reversed(files(self._directory)):
            if not self._open([path]):
                continue
            assert self._file is not None
            position = self._file.seek(0, os.SEEK_END)
            while position > 0:
                size = min(BLOCK_BYTES, position)
                position = self._file.seek(position - size)
                wanted -= self._file.read(size).count(b"\n")
                if wanted < 0:
                    self._file.seek(position)
                    if position > 0:
                        self._file.readline()
                    return
            self._file.seek(0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, paths: list[Path]) -> bool:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                fresh = path.open("rb", buffering=0)
                self.close()
                self._file, self._newer_seen = fresh, False
                return True
        return False

    def _newer(self) -> list[Path]:
        """Files written after the open one, oldest first; all of them where it was rotated away."""
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        existing = files(self._directory)
        for number, path in enumerate(existing):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), own):
                    return existing[number + 1 :]
        return existing


async def read(
    directory: Path,
    inotify: Inotify,
    changed: asyncio.Event,
    *,
    follow: bool,
    tail: int,
    since_ms: int,
    until_ms: int,
    ended: Callable[[], bool],
) -> AsyncIterator[LogLine]:
    """Lines of one container. tail -1 = all, 0 = none of the old; until_ms 0 = no limit.

    Whoever makes `ended` true sets `changed` too.
    """
    cursor, parser = Cursor(directory), Parser()
    subscription = inotify.subscribe(directory, lambda _: changed.set()) if follow else None
    since_ns, until_ns = since_ms * 1_000_000, until_ms * 1_000_000
    try:
        old, turn = _old_lines(cursor, parser, tail), 0
        while True:
            finished = ended()  # before the last read, so that nothing written before the end is missed
            for line in old:
                turn += 1
                if turn % LINES_PER_TURN == 0:
                    await asyncio.sleep(0)  # a long log must not hold up the heartbeat
                if until_ns and line.time_ns > until_ns:
                    return
                if line.time_ns >= since_ns:
                    yield line
            if not follow or finished:
                break
            changed.clear()
            old = _new_lines(cursor, parser)
            first = next(old, None)
            if first is not None:
                old = _chain(first, old)
                continue
            if not ended() and not await _wait(changed, until_ms):
                return
            old = _new_lines(cursor, parser)
        for line in parser.flush():
            if line.time_ns >= since_ns:
                yield line
    finally:
        cursor.close()
        if subscription is not None:
            inotify.unsubscribe(subscription)


async def _wait(changed: asyncio.Event, until_ms: int) -> bool:
    """False once `until_ms` has passed."""
    left_s = max(0.0, until_ms / 1000 - time.time()) if until_ms else None
    try:
        await asyncio.wait_for(changed.wait(), left_s)
    except TimeoutError:
        return False
    return True


def _chain(first: LogLine, rest: Iterator[LogLine]) -> Iterator[LogLine]:
    yield first
    yield from rest


def _new_lines(cursor: Cursor, parser: Parser) -> Iterator[LogLine]:
    while data := cursor.read():
        yield from parser.feed(data)


def _old_lines(cursor: Cursor, parser: Parser, tail: int) -> Iterator[LogLine]:
    if tail < 0:
        return _new_lines(cursor, parser)
    cursor.seek_last(tail)
    return iter(deque(_new_lines(cursor, parser), maxlen=tail))
