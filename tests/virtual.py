"""An asyncio event loop in virtual time: sleeping costs nothing, and every run is the same.

When nothing is ready to run, the clock jumps to the next timer. If there is no timer
either, the program can never go on: that is a `Stuck` error instead of a hang.
Only for code without sockets, subprocesses and threads.

    result = run(main())            # like asyncio.run
    now_ms(loop)                    # the loop's clock, for code that takes now_ms
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
START_S = 1_000_000.0


class Stuck(Exception):
    """Every task waits, and no timer will wake one."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting, moves the clock forward."""

    def __init__(self) -> None:
        super().__init__()
        self.time_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("every task waits and no timer is set")
        self.time_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the selector's."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.time_s


def now_ms() -> int:
    """The running loop's clock in milliseconds."""
    return round(asyncio.get_running_loop().time() * 1000)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
