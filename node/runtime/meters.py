"""What containers use, read again and again at little cost: files are kept open and read at offset 0.

Counters are as the kernel keeps them; rates are made by whoever has two samples. What a kernel does not
count (block I/O without the controller, pressure without PSI) stays 0, and `pressure` says if it is known.

Most containers are idle most of the time: their programs sleep, and an init wakes once a second to look for
children (tini). What follows from something else is read where that moved. TCP opens and takes connections by
packets, which /proc/net/dev counts. Processes come and go, make pages another kind, ask for blocks and begin to
wait while they run: for a container that used less than a BUSY_PART-th of a core since the last sample, and less
before, these are as they were. Its memory as a whole, and the time in which its processes waited for a disk
that may hang, are read each time: so are the blocks of v2, which counts what the kernel writes back later. All
is read at the latest with every AFRESH_EVERY-th sample; no count is ever lost, it only comes later.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import time
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime.errors import RuntimeFailure
from swarmpy.node.runtime.inside import Inside

PAGE_BYTES = 4096  # the kernel gives a file of many records by pages, none quite full
FILE_BYTES_MAX = 1 << 20
AFRESH_EVERY = 10  # samples; limits change rarely, too
BUSY_PART = 5000
NO_LIMIT = 1 << 60
FILES_PER_METER = 16
PRESSURES = ("cpu.pressure", "memory.pressure", "io.pressure")


@dataclass  # not frozen: made for every container at every look, and a frozen one costs five times as much
class Sample:
    """One container at one moment; 0 as a limit = none. Nobody changes it."""

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
        self._cpu_ns = self._usage = self._memory = -1
        self._read_ns = 0
        self._was_busy = True  # between the last two samples
        self._pids = self._blocked_ns = 0
        self._waited = (0, 0)  # for a CPU, for memory
        self._net_text, self._net = b"", (0, 0)
        self._tcp = (0, 0)
        self._blocks_text, self._blocks = b"", (0, 0)
        self._end = select.poll()
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
            for name in PRESSURES:
                self._open(name, unified / path / name)
        self._counts_cpu = not self._files.keys().isdisjoint(("cpu.stat", "cpuacct.usage"))
        self._open("net", Path(f"/proc/{inside.pid}/net/dev"))
        self._open("snmp", Path(f"/proc/{inside.pid}/net/snmp"))
        try:
            self._watch()
        except RuntimeFailure:
            self.close()
            raise

    def _open(self, name: str, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _watch(self) -> None:
        """From here on the first process is meant whatever is given its pid later."""
        try:
            self._files["pidfd"] = os.pidfd_open(self._inside.pid)
        except OSError as error:
            raise RuntimeFailure(f"container {self._inside.id}: it has ended") from error
        self._inside.check()
        self._end.register(self._files["pidfd"], select.POLLIN)

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def sample(self) -> Sample:
        """What it has used by now. Raises RuntimeFailure once it has ended."""
        if self._end.poll(0):
            raise RuntimeFailure(f"container {self._inside.id}: it has ended")
        afresh = self._samples % AFRESH_EVERY == 0
        self._samples += 1
        if afresh:
            self._limits = self._read_limits()
        now_ns = time.time_ns()
        moved = self._is_busy(now_ns) or afresh
        self._read_memory(moved)
        self._read_network(afresh)
        if moved or self._layout.pure_v2:
            self._read_blocks()
        if moved:
            self._pids = _number(self._text("pids.current"))
            self._waited = self._pressure("cpu.pressure"), self._pressure("memory.pressure")
        cpu_limit, memory_limit, pids_limit = self._limits
        return Sample(
            time_ns=now_ns, cpu_ns=self._cpu_ns, memory_bytes=self._memory, pids=self._pids,
            received_bytes=self._net[0], sent_bytes=self._net[1],
            read_bytes=self._blocks[0], written_bytes=self._blocks[1], pressure="cpu.pressure" in self._files,
            cpu_pressure_ns=self._waited[0], memory_pressure_ns=self._waited[1],
            io_pressure_ns=self._blocked_ns, cpu_limit_nano=cpu_limit,
            memory_limit_bytes=memory_limit, pids_limit=pids_limit, connections=self._tcp[0],
            accepted=self._tcp[1],
        )  # fmt: skip

    def _is_busy(self, now_ns: int) -> bool:
        """Whether it ran, or waited for a disk, now or between the two samples before this one."""
        cpu_ns, blocked_ns = self._read_cpu_ns(), self._pressure("io.pressure")
        ran = (cpu_ns - self._cpu_ns) * BUSY_PART > now_ns - self._read_ns
        before = self._was_busy
        self._was_busy = ran or blocked_ns != self._blocked_ns or not self._counts_cpu
        self._cpu_ns, self._blocked_ns, self._read_ns = cpu_ns, blocked_ns, now_ns
        return self._was_busy or before

    def _text(self, name: str) -> bytes:
        fd = self._files.get(name, -1)
        if fd < 0:
            return b""
        try:
            text = os.pread(fd, PAGE_BYTES, 0)
            if len(text) < PAGE_BYTES // 2:
                return text
            while len(text) < FILE_BYTES_MAX and (more := os.pread(fd, PAGE_BYTES, len(text))):
                text += more
        except OSError:  # the container is being removed
            return b""
        return text

    def _read_cpu_ns(self) -> int:
        if self._layout.pure_v2:
            return _field(self._text("cpu.stat"), b"usage_usec") * 1000
        return _number(self._text("cpuacct.usage"))

    def _read_memory(self, moved: bool) -> None:
        """Without the page cache that the kernel would give back at once."""
        if self._layout.pure_v2:
            used, cache = _number(self._text("memory.current")), b"inactive_file"
        else:
            used, cache = _number(self._text("memory.usage_in_bytes")), b"total_inactive_file"
        if moved or used != self._usage:
            self._usage = used
            self._memory = max(0, used - _field(self._text("memory.stat"), cache))

    def _read_network(self, afresh: bool) -> None:
        text = self._text("net")
        moved = text != self._net_text
        if moved:
            self._net_text, self._net = text, net_counters(text)
        if moved or afresh:
            self._tcp = tcp_counters(self._text("snmp"))

    def _read_blocks(self) -> None:
        v2 = self._layout.pure_v2
        text = self._text("io.stat" if v2 else "blkio.throttle.io_service_bytes_recursive")
        if text != self._blocks_text:
            self._blocks_text, self._blocks = text, (blocks_v2 if v2 else blocks_v1)(text)

    def _pressure(self, name: str) -> int:
        _, _, total = self._text(name).partition(b"total=")
        return _number(total.partition(b"\n")[0]) * 1000

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


def net_counters(text: bytes) -> tuple[int, int]:
    """Bytes received and sent by all interfaces but the loopback, from /proc/PID/net/dev."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, counters = line.partition(b":")
        values = counters.split()
        if name.strip() != b"lo" and len(values) >= 9:
            received, sent = received + int(values[0]), sent + int(values[8])
    return received, sent


def tcp_counters(text: bytes) -> tuple[int, int]:
    """Open and accepted connections from /proc/PID/net/snmp: of the network namespace of the process."""
    lines = text[text.find(b"Tcp:") :].split(b"\n", 2)
    if len(lines) < 2 or not lines[1].startswith(b"Tcp:"):
        return 0, 0
    counters = dict(zip(lines[0].split(), lines[1].split(), strict=False))
    return int(counters.get(b"CurrEstab", 0)), int(counters.get(b"PassiveOpens", 0))


def blocks_v1(text: bytes) -> tuple[int, int]:
    """Bytes read and written on all devices, from blkio.throttle.io_service_bytes_recursive."""
    read = written = 0
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            read += int(words[2]) if words[1] == b"Read" else 0
            written += int(words[2]) if words[1] == b"Write" else 0
    return read, written


def blocks_v2(text: bytes) -> tuple[int, int]:
    """Bytes read and written on all devices, from io.stat."""
    read = written = 0
    for word in text.split():
        key, _, value = word.partition(b"=")
        read += int(value) if key == b"rbytes" else 0
        written += int(value) if key == b"wbytes" else 0
    return read, written


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
