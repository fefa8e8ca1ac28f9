"""The one place of the leader where any error of a planner becomes an answer, and the list of such errors.

A planner that fails for one key must not take the lead, and with it every other planner, away: the next leader
would fail in the same way. Running out of memory is the process's own trouble and stays fatal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from swarmpy.proto import objects_pb2

log = logging.getLogger(__name__)
T = TypeVar("T")
BACKOFF_FIRST_MS, BACKOFF_MAX_MS = 1_000, 60_000
SENTENCES_MAX = 20
WHY_MAX = 300  # characters


class Failed(Exception):
    """What a planner did not do, in words."""


def attempt(what: str, call: Callable[[], T]) -> T:
    """Call it; raises nothing but Failed and MemoryError."""
    try:
        return call()
    except MemoryError:
        raise
    except Exception as error:
        log.exception("planner failed what=%s", what)
        raise Failed(f"{type(error).__name__}: {error}") from error


class Troubles:
    """Which planners fail now, for which keys, and how often they ever did."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by planner, since this manager started
        self.changed = asyncio.Event()  # set at each change; whoever waits clears it
        self._now: dict[tuple[str, str], tuple[int, str]] = {}  # planner and key: times in a row, why

    def failed(self, planner: str, key: str, why: str) -> int:
        """Note a failure; how long to leave the key alone, in milliseconds."""
        self.counts[planner] += 1
        times = self._now.get((planner, key), (0, ""))[0] + 1
        self._now[planner, key] = times, why[:WHY_MAX]
        self.changed.set()
        return int(min(BACKOFF_FIRST_MS * 2 ** min(times - 1, 10), BACKOFF_MAX_MS))

    def mended(self, planner: str, key: str) -> None:
        if self._now.pop((planner, key), None) is not None:
            self.changed.set()

    def forget(self, planner: str) -> None:
        """The planner begins anew."""
        self._now = {where: trouble for where, trouble in self._now.items() if where[0] != planner}
        self.changed.set()

    def failing(self) -> Counter[str]:
        """How many keys each planner fails for now."""
        return Counter(planner for planner, _ in self._now)

    def sentences(self) -> list[str]:
        """One for each, for people; a bounded number."""
        return [
            f"planner {planner} fails for {key or 'the cluster'} ({times} times in a row, it tries again): {why}"
            for (planner, key), (times, why) in sorted(self._now.items())[:SENTENCES_MAX]
        ]

    def noted(self) -> list[objects_pb2.PlannerTrouble]:
        """One for each planner, as the store keeps it."""
        found: dict[str, objects_pb2.PlannerTrouble] = {}
        for (planner, key), (_, why) in sorted(self._now.items()):
            first = objects_pb2.PlannerTrouble(planner=planner, key=key, error=why)
            found.setdefault(planner, first).keys += 1
        return list(found.values())
