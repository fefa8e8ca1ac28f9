"""How much of this machine is in use, measured between heartbeats; see `man 5 proc`."""

from __future__ import annotations

import time
from pathlib import Path

from swarmpy.proto import objects_pb2

EVERY_S = 5.0
SMOOTHING = 0.25  # of the newest measurement; the rest is what was before: half a minute
PROC = Path("/proc")


class Meter:
    """Reads at most every few seconds; what it gives is smoothed."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._read_s = 0.0
        self._ticks: tuple[int, int] | None = None  # busy and all
        self._cpu: float | None = None
        self._memory = 0.0

    def usage(self, now_s: float | None = None) -> objects_pb2.MachineUse | None:
        """In percent; None until two readings are there, or where the kernel does not say."""
        now_s = time.monotonic() if now_s is None else now_s
        if self._ticks is None or now_s - self._read_s >= EVERY_S:
            self._read_s = now_s
            try:
                self._take(ticks_of((self._proc / "stat").read_text()), (self._proc / "meminfo").read_text())
            except (OSError, ValueError, LookupError):
                return None
        if self._cpu is None:
            return None
        return objects_pb2.MachineUse(
            cpu_percent=round(self._cpu * 100), memory_percent=round(self._memory * 100)
        )

    def _take(self, ticks: tuple[int, int], meminfo: str) -> None:
        before, self._ticks = self._ticks, ticks
        self._memory = memory_in_use(meminfo)
        if before is None or ticks[1] <= before[1]:
            return
        part = min(1.0, max(0.0, (ticks[0] - before[0]) / (ticks[1] - before[1])))
        self._cpu = part if self._cpu is None else SMOOTHING * part + (1 - SMOOTHING) * self._cpu


def ticks_of(stat: str) -> tuple[int, int]:
    """Busy ticks and all of them, of all CPUs. Guests are counted as their hosts' users already."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def memory_in_use(meminfo: str) -> float:
    """The part that could not be had without swapping."""
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines() if ":" in line}
    return 1 - sizes["MemAvailable"] / sizes["MemTotal"]
