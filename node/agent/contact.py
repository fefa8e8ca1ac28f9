"""How long this node has had no manager, and which of its tasks that ends (`--on-partition`, plan/partition).

Contact is counted from when a heartbeat was *sent* that a manager answered, by the clock that counts since boot,
which nobody sets and which goes on while the machine sleeps. It is kept in a file on tmpfs while tasks ask for it,
so that an agent that was killed does not begin anew. Where nothing is known, after a boot, there was none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from swarmpy.node.agent.machine import Local

log = logging.getLogger(__name__)
LOOK_S = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
RECORD = "{:<36} {:>20}\n"  # always as long: it is written over in place


def now_ms() -> int:
    """Since boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def overdue(tasks: Iterable[Local], silent_ms: int | None) -> list[str]:
    """The tasks that are to stop after a silence like this one (None: nobody knows for how long)."""
    return [
        local.task_id
        for local in tasks
        if not local.finished
        and not local.cut_off
        and local.wanted is not None
        and (after_ms := local.wanted.spec.stop_after_ms)
        and (silent_ms is None or silent_ms >= after_ms)
    ]


class Contact:
    """The last contact with a manager. `give_up` is called with the ids of tasks whose time is over."""

    def __init__(
        self, path: Path, tasks: dict[str, Local], give_up: Callable[[list[str], str], None]
    ) -> None:
        self._path = path
        self._tasks = tasks
        self._give_up = give_up
        self._boot = BOOT_ID.read_text().strip()
        self._heard_ms = self._kept_ms = self._kept()
        self._asked: bool | None = (
            None  # whether any task asks for it, at the last look; None: not looked yet
        )

    @property
    def silent_ms(self) -> int | None:
        return None if self._heard_ms is None else now_ms() - self._heard_ms

    def heard(self, sent_ms: int) -> None:
        """A manager answered what was sent then. A silence that was too long is not undone by that."""
        if self._asked is not False:
            self.look()
        self._heard_ms = max(sent_ms, self._heard_ms or 0)
        if self._asked:
            self._keep(self._heard_ms)

    def look(self) -> None:
        """Give up the tasks whose time is over. To be called whenever other tasks are wanted, before one begins."""
        self._asked = self._is_asked()
        if not self._asked:
            return
        if self._heard_ms is not None and self._heard_ms != self._kept_ms:
            self._keep(self._heard_ms)
        silent_ms = self.silent_ms
        if found := overdue(self._tasks.values(), silent_ms):
            how_long = "since it was started" if silent_ms is None else f"for {silent_ms // 1000} s"
            log.warning("cut off, tasks are stopped tasks=%s silent_ms=%s", ",".join(found), silent_ms)
            self._give_up(found, f"stopped by its node, which had no manager {how_long} (--on-partition)")

    async def run(self) -> None:
        while True:
            if (
                self._asked is not False
            ):  # else nothing is to be given up: hundreds of tasks are not looked through
                self.look()
            await asyncio.sleep(LOOK_S)

    def _is_asked(self) -> bool:
        return any(
            local.wanted is not None and local.wanted.spec.stop_after_ms and not local.finished
            for local in self._tasks.values()
        )

    def _kept(self) -> int | None:
        try:
            boot, heard = self._path.read_text(encoding="ascii").split()
            return int(heard) if boot == self._boot else None
        except (OSError, ValueError):
            return None

    def _keep(self, heard_ms: int) -> None:
        """A record that cannot be written ends tasks sooner after a restart, no more."""
        with contextlib.suppress(OSError):
            opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(opened, RECORD.format(self._boot, heard_ms).encode(), 0)
                self._kept_ms = heard_ms
            finally:
                os.close(opened)
