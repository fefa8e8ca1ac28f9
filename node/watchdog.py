"""Ends a process whose event loop has stopped turning, so that its supervisor starts it again.

A loop that hangs in a call answers nobody and still holds its ports, its lock and, in a manager, its
seat: worse than one that died. A thread looks at a number that the loop increments; after LIMIT_S of
its own looks without a change it writes every thread's stack to the log and exits with EXIT_WEDGED.

Time that the whole process did not run (SIGSTOP, a suspended machine) does not count: the thread counts
its looks, not the clock, and a stopped thread does not look.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator

EXIT_WEDGED = 72
LIMIT_S = 30.0  # far beyond what a busy or emulated machine takes for one step of a loop
LOOK_S = 2.0  # each look wakes two threads of an otherwise idle process


class Watchdog:
    """Watches the running loop from `start` to `stop`."""

    def __init__(self, name: str, limit_s: float, look_s: float = LOOK_S) -> None:
        self._name = name
        self._look_s = look_s
        self._looks_max = max(2, round(limit_s / look_s))
        self._turns = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        self._turns += 1
        self._timer = asyncio.get_running_loop().call_later(self._look_s, self._turn)

    def _watch(self) -> None:
        seen, looks = self._turns, 0
        while not self._over.wait(self._look_s):
            looks = looks + 1 if self._turns == seen else 0
            seen = self._turns
            if looks >= self._looks_max:
                self._end(looks * self._look_s)

    def _end(self, seconds: float) -> None:
        line = f"watchdog: the loop of {self._name} has not turned for {seconds:g} s, ending this process\n"
        with contextlib.suppress(OSError):
            os.write(2, line.encode())
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        os._exit(EXIT_WEDGED)


@contextlib.contextmanager
def watched(name: str) -> Iterator[None]:
    """The running loop is watched inside; `name` is the role."""
    watchdog = Watchdog(name, LIMIT_S)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
