"""The line in front of a member's disk: what waits gathers, one thread, one fsync for all of it.

A disk that has been quick of late is written to by the loop itself when a batch is small and nothing
else waits: to hand a write to the thread and to hear of it again costs several times what a quick
fsync does. One slow write, and the thread has the next ones until the disk has been quick again.
A quick disk that suddenly hangs holds up the loop, once: its member is silent meanwhile, and if it led
and that lasts, another one leads.

What happens when the disk fills up. A spare segment normally lies ready; it can no longer be
made:

    low    this member would rather not lead: it hands the lead over; as a follower it goes on
    spent  no room for entries, only for last words (terms and votes): it takes no entries

Both end by themselves when a spare could be made. A write that found no room all the same
(DiskFull) touched nothing and is tried again; any other error ends the member.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from swarmpy.raft.core import Output
from swarmpy.raft.core_log import Entry
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import DiskFull, LogError

log = logging.getLogger(__name__)

SEAL_AFTER_S = 1.0
LOOK_S = 0.25
ENTRY_BYTES = 64
MARGIN_BYTES = 1024
QUICK_S = 0.002  # a write that took less was quick
QUICK_WRITES = 16  # so many quick ones in a row make a quick disk
SMALL_BYTES = 8 * 1024
HardState = tuple[int, str]


class Disk:
    def __init__(
        self,
        journal: Journal,
        *,
        on_written: Callable[[list[Output], HardState | None, Entry | None], None],
        on_low: Callable[[], None],
        on_fatal: Callable[[str], None],
    ) -> None:
        self.journal = journal
        self.low = False
        self._on_written, self._on_low, self._on_fatal = on_written, on_low, on_fatal
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, "raft-disk")
        self._line: list[Output] = []
        self._writing = self._stopped = self._refused = False
        self._rotated = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._written_s = 0.0
        self._quick = 0  # writes in a row
        self._others = 0  # who use the journal in the thread besides

    @property
    def busy(self) -> bool:
        return self._writing or bool(self._line)

    @property
    def spent(self) -> bool:
        return not self.takes(0)

    def takes(self, size_bytes: int) -> bool:
        """Whether entries of this size will find room."""
        if not self.low:
            return True
        waiting = sum(_size_bytes(out.entries) for out in self._line)
        return not self._refused and size_bytes + waiting + MARGIN_BYTES < self.journal.room_bytes

    def put(self, out: Output) -> None:
        """Write soon, and at once where that takes no time: `on_written` may be called before this returns."""
        self._line.append(out)
        if self._may_write_here(out):
            self._write_here(out)
        else:
            self._write()

    async def drained(self) -> None:
        await self._drained.wait()

    async def run(self, work: Callable[[], None]) -> None:
        """Between two batches."""
        self._others += 1
        try:
            await self._loop.run_in_executor(self._executor, work)
        finally:
            self._others -= 1

    async def keep(self) -> None:
        """Make spares, close the log in when it rests; until cancelled."""
        while True:
            await self._keep_spare()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._rotated.wait()
            self._rotated.clear()
            resting = not self.busy and self._loop.time() - self._written_s >= SEAL_AFTER_S
            if resting and not self.journal.sealed:
                await self.run(self.journal.seal)

    async def _keep_spare(self) -> None:
        if self.journal.has_spare and not self.low:
            return
        low, reason = False, ""
        try:
            await asyncio.to_thread(self.journal.make_spare)
        except DiskFull as error:
            low, reason = True, str(error)
        if low != self.low:
            self.low = low
            if low:
                log.error("raft disk is low reason=%s", reason)
            else:
                log.info("raft disk has room again")
            self._on_low()

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.to_thread(self._executor.shutdown)
        self.journal.close()

    def _may_write_here(self, out: Output) -> bool:
        if self._quick < QUICK_WRITES or self._writing or self._others or len(self._line) > 1 or self.low:
            return False
        size = _size_bytes(out.entries)
        return size <= SMALL_BYTES and size + MARGIN_BYTES < self.journal.room_bytes

    def _write_here(self, out: Output) -> None:
        self._line = []
        try:
            self._timed(out.hard_state, out.entries)
        except (OSError, LogError) as error:
            self._failed([out], error)
        else:
            self._succeeded([out], out.hard_state, out.entries)

    def _write(self) -> None:
        if self._writing or not self._line:
            return
        line, self._line = self._line, []
        hard_state = next((out.hard_state for out in reversed(line) if out.hard_state is not None), None)
        entries = [entry for out in line for entry in out.entries]
        self._writing = True
        self._drained.clear()
        work = partial(self._timed, hard_state, entries) if hard_state or entries else _nothing
        done = self._loop.run_in_executor(self._executor, work)
        done.add_done_callback(partial(self._done, line, hard_state, entries))

    def _timed(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Write, and note whether that was quick; in either thread."""
        began_s = time.monotonic()
        self.journal.write(hard_state, entries)
        self._quick = self._quick + 1 if time.monotonic() - began_s < QUICK_S else 0

    def _done(
        self,
        line: list[Output],
        hard_state: HardState | None,
        entries: Sequence[Entry],
        done: asyncio.Future[None],
    ) -> None:
        self._writing = False
        if done.cancelled() or self._stopped:
            return
        error = done.exception()
        if error is not None:
            self._failed(line, error)
            return
        self._succeeded(line, hard_state, entries)
        self._write()
        if not self._writing:
            self._drained.set()

    def _failed(self, line: list[Output], error: BaseException) -> None:
        if isinstance(error, DiskFull):
            self._again(line, error)
        else:
            self._on_fatal(f"cannot write the log: {error}. Free space or replace the disk, then start again")

    def _succeeded(self, line: list[Output], hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        self._refused = False
        self._written_s = self._loop.time()
        if not self.low and not self.journal.has_spare:
            self._rotated.set()
        self._on_written(line, hard_state, entries[-1] if entries else None)

    def _again(self, line: list[Output], error: DiskFull) -> None:
        """Nothing of it is on disk, nothing behind it may be: the line waits as it is."""
        self._line = line + self._line
        self._drained.clear()  # a write made here did not pass through `_write`
        if not self._refused:
            log.error("raft write waits for room reason=%s", error)
        self._refused = self.low = True
        self._on_low()
        self._loop.call_later(LOOK_S, self._write)


def _size_bytes(entries: Sequence[Entry]) -> int:
    return sum(len(entry.data) + ENTRY_BYTES for entry in entries)


def _nothing() -> None:
    """Keeps what waits for the disk in its order."""
