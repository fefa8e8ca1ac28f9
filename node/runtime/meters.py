"""What containers use, read again and again at little cost: files are kept open and read at offset 0.

Counters are as the kernel keeps them; rates are made by whoever has two samples. What a kernel does not
count (block I/O without the controller, pressure without PSI) stays 0, and `pressure` says if it is known.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime.errors import RuntimeFailure
from swarmpy.node.runtime.inside import Inside

READ_BYTES = 64 * 1024
LIMITS_EVERY = 5  # samples: limits change rarely
NO_LIMIT = 1 << 60
FILES_PER_METER = 16


@dataclass(frozen=True)
class Sample:
    """One container at one moment; 0 as a limit = none."""

    time_ns: int
    cpu_ns: int = 0
    memory_bytes: int = 0
    pids: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    pressure: bool = False
    cpu_pressure_ns: int = 0
    memory_pressure_ns: int = 0
    io_pressure_ns: int = 0
    cpu_limit_nano: int = 0
    memory_limit_bytes: int = 0
    pids_limit: int = 0
    connections: int = 0  # open TCP connections in its network
    accepted: int = 0  # TCP connections it took so far


class Meter:
    """The open files of one container."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._layout = inside.group.layout
        self._files: dict[str, int] = {}
        self._samples = 0
        self._limits = (0, 0, 0)
        path = inside.group.path.lstrip("/")
        unified, trees = self._layout.unified, self._layout.controllers
        if self._layout.pure_v2 and unified is not None:
            group = unified / path
            names = ("cpu.stat", "memory.current", "memory.stat", "pids.current", "io.stat")
            for name in (*names, "cpu.max", "memory.max", "pids.max"):
                self._open(name, group / name)
        else:
            for controller, name in (
                ("cpuacct", "cpuacct.usage"), ("memory", "memory.usage_in_bytes"), ("memory", "memory.stat"),
                ("pids", "pids.current"), ("blkio", "blkio.throttle.io_service_bytes_recursive"),
                ("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.cfs_period_us"),
                ("memory", "memory.limit_in_bytes"), ("pids", "pids.max"),
            ):  # fmt: skip
                if controller in trees:
                    self._open(name, trees[controller] / path / name)
        if unified is not None:
            for name in ("cpu.pressure", "memory.pressure", "io.pressure"):
                self._open(name, unified / path / name)
        self._open("net", Path(f"/proc/{inside.pid}/net/dev"))
        self._open("snmp", Path(f"/proc/{inside.pid}/net/snmp"))
        try:
            inside.check()
        except RuntimeFailure:
            self.close()
            raise

    def _open(self, name: str, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def sample(self) -> Sample:
        """What it has used by now. Raises RuntimeFailure once it has ended."""
        self._inside.check()
        if self._samples % LIMITS_EVERY == 0:
            self._limits = self._read_limits()
        self._samples += 1
        received, sent = self._network()
        read, written = self._blocks()
        cpu_limit, memory_limit, pids_limit = self._limits
        connections, accepted = tcp_counters(self._text("snmp"))
        return Sample(
            time_ns=time.time_ns(), cpu_ns=self._cpu_ns(), memory_bytes=self._memory(),
            pids=_number(self._text("pids.current")), received_bytes=received, sent_bytes=sent,
            read_bytes=read, written_bytes=written, pressure="cpu.pressure" in self._files,
            cpu_pressure_ns=self._pressure("cpu"), memory_pressure_ns=self._pressure("memory"),
            io_pressure_ns=self._pressure("io"), cpu_limit_nano=cpu_limit, memory_limit_bytes=memory_limit,
            pids_limit=pids_limit, connections=connections, accepted=accepted,
        )  # fmt: skip

    def _text(self, name: str) -> bytes:
        fd = self._files.get(name, -1)
        if fd < 0:
            return b""
        try:
            return os.pread(fd, READ_BYTES, 0)
        except OSError:  # the container is being removed
            return b""

    def _cpu_ns(self) -> int:
        if self._layout.pure_v2:
            return _field(self._text("cpu.stat"), b"usage_usec") * 1000
        return _number(self._text("cpuacct.usage"))

    def _memory(self) -> int:
        """Without the page cache that the kernel would give back at once."""
        if self._layout.pure_v2:
            used, cache = _number(self._text("memory.current")), b"inactive_file"
        else:
            used, cache = _number(self._text("memory.usage_in_bytes")), b"total_inactive_file"
        return max(0, used - _field(self._text("memory.stat"), cache))

    def _network(self) -> tuple[int, int]:
        received = sent = 0
        for line in self._text("net").splitlines()[2:]:
            name, _, counters = line.partition(b":")
            values = counters.split()
            if name.strip() != b"lo" and len(values) >= 9:
                received, sent = received + int(values[0]), sent + int(values[8])
        return received, sent

    def _blocks(self) -> tuple[int, int]:
        read = written = 0
        if self._layout.pure_v2:
            for word in self._text("io.stat").split():
                key, _, value = word.partition(b"=")
                read += int(value) if key == b"rbytes" else 0
                written += int(value) if key == b"wbytes" else 0
            return read, written
        for line in self._text("blkio.throttle.io_service_bytes_recursive").splitlines():
            words = line.split()
            if len(words) == 3:
                read += int(words[2]) if words[1] == b"Read" else 0
                written += int(words[2]) if words[1] == b"Write" else 0
        return read, written

    def _pressure(self, what: str) -> int:
        _, _, total = self._text(f"{what}.pressure").partition(b"total=")
        return _number(total.split(b"\n", 1)[0]) * 1000

    def _read_limits(self) -> tuple[int, int, int]:
        """(cores in 1e-9, bytes, pids)."""
        if self._layout.pure_v2:
            quota, _, period = self._text("cpu.max").partition(b" ")
            memory = self._text("memory.max")
        else:
            quota, period = self._text("cpu.cfs_quota_us"), self._text("cpu.cfs_period_us")
            memory = self._text("memory.limit_in_bytes")
        share = _number(quota) * 10**9 // (_number(period) or 1) if _number(quota) > 0 else 0
        limit = _number(memory)
        return share, limit if limit < NO_LIMIT else 0, _number(self._text("pids.max"))


class Meters:
    """The meters of many containers, for one reader.

    Files stay open for at most a quarter of those this process may open; beyond, each time anew.
    """

    def __init__(self, kept_max: int | None = None) -> None:
        self._meters: dict[str, Meter] = {}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._kept_max = soft // (4 * FILES_PER_METER) if kept_max is None else kept_max

    def keep(self, ids: set[str]) -> None:
        """Close those that are no longer asked for."""
        for container_id in self._meters.keys() - ids:
            self._meters.pop(container_id).close()

    def sample(self, inside: Inside) -> Sample:
        """Of a running container; RuntimeFailure for one that has ended."""
        meter = self._meters.get(inside.id)
        if meter is None:
            meter = Meter(inside)
            if len(self._meters) < self._kept_max:
                self._meters[inside.id] = meter
        kept = inside.id in self._meters
        try:
            return meter.sample()
        except RuntimeFailure:
            self._meters.pop(inside.id, None)
            kept = False
            raise
        finally:
            if not kept:
                meter.close()

    def close(self) -> None:
        self.keep(set())


@dataclass(frozen=True)
class Machine:
    """The whole machine at one moment."""

    time_ns: int
    busy_ns: int
    cpus: int
    memory_bytes: int
    memory_total_bytes: int
    load: float


def machine() -> Machine:
    """From /proc: memory in use is what cannot be had without swapping."""
    ticks = os.sysconf("SC_CLK_TCK")
    with open("/proc/stat", "rb") as file:
        fields = [int(word) for word in file.readline().split()[1:]]
    idle = fields[3] + fields[4]
    with open("/proc/meminfo", "rb") as file:
        text = file.read()
    total, available = (_field(text, name) * 1024 for name in (b"MemTotal:", b"MemAvailable:"))
    # guest time is counted in user time too
    return Machine(
        time.time_ns(), (sum(fields[:8]) - idle) * 10**9 // ticks, os.cpu_count() or 1,
        total - available, total, os.getloadavg()[0],
    )  # fmt: skip


def tcp_counters(text: bytes) -> tuple[int, int]:
    """Open and accepted connections from /proc/PID/net/snmp: of the network namespace of the process."""
    lines = [line.split() for line in text.splitlines() if line.startswith(b"Tcp:")]
    if len(lines) < 2:
        return 0, 0
    counters = dict(zip(lines[0], lines[1], strict=False))
    return int(counters.get(b"CurrEstab", 0)), int(counters.get(b"PassiveOpens", 0))


def _number(text: bytes) -> int:
    """0 for what is no number: `max`, or nothing."""
    try:
        return int(text)
    except ValueError:
        return 0


def _field(text: bytes, name: bytes) -> int:
    start = 0 if text.startswith(name + b" ") else text.find(b"\n" + name + b" ") + 1
    if start == 0 and not text.startswith(name + b" "):
        return 0
    return _number(text[start + len(name) :].split(None, 1)[0])
