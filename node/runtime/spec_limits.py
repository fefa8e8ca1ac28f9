"""Limits and reservations: as the OCI configuration says them, and as files of a control group. Pure.

`section` is for a container that is made. `settings` changes one that runs: what the kernel lets change
in place is CPU and its sets, memory, swap, pids, block I/O and the reservations, on v1 also
swappiness and what happens at the memory limit; the order of the files is the order in which the kernel takes
them (a swap limit may never be below the memory limit).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from swarmpy.node.runtime.errors import StartRejected
from swarmpy.proto import types_pb2

DEFAULT_PIDS = 4096
CPU_PERIOD_US = 100_000
DEFAULT_SHARES, DEFAULT_WEIGHT = 1024, 100
UNLIMITED = -1
# Which of them a kernel has depends on how it was built: BFQ's, those of io.cost (v2), of the former CFQ (v1).
IO_WEIGHTS = {"blkio.bfq.weight": 100, "blkio.weight": 500, "io.bfq.weight": 100, "io.weight": 100}
THROTTLES = (  # field, cgroup v1's file, v2's key in io.max
    ("read_bps", "blkio.throttle.read_bps_device", "rbps"),
    ("write_bps", "blkio.throttle.write_bps_device", "wbps"),
    ("read_iops", "blkio.throttle.read_iops_device", "riops"),
    ("write_iops", "blkio.throttle.write_iops_device", "wiops"),
)
Rates = tuple[int, ...]  # in the order of THROTTLES; 0 = no limit


@dataclass(frozen=True)
class Abilities:
    """What the control groups of this node can do."""

    pure_v2: bool = False
    swap_limits: bool = True


def section(wanted: types_pb2.ResourceRequirements, can: Abilities) -> dict[str, object]:
    """pids, memory and cpu of `linux.resources`; StartRejected for what this node cannot do."""
    check(wanted, can)
    limits, reserved = wanted.limits, wanted.reservations
    made: dict[str, object] = {}
    if pids := pids_limit(wanted):
        made["pids"] = {"limit": pids}
    if limits.memory_bytes or reserved.memory_bytes or wanted.HasField("swappiness"):
        made["memory"] = memory(wanted, can.swap_limits)
    bound = {"cpus": wanted.cpuset_cpus, "mems": wanted.cpuset_mems}
    if cpus := {**cpu(limits.nano_cpus, reserved.nano_cpus), **{k: v for k, v in bound.items() if v}}:
        made["cpu"] = cpus
    return made


def check(wanted: types_pb2.ResourceRequirements, can: Abilities) -> None:
    if can.pure_v2:
        for name in ("swappiness", "no_oom_kill"):
            if wanted.HasField("swappiness") if name == "swappiness" else wanted.no_oom_kill:
                remedy = "leave it out, or keep the service on nodes with v1 by a constraint"
                raise StartRejected(
                    f"resources.{name}: this node has cgroup v2, which cannot do it; {remedy}"
                )
    if wanted.swap_bytes > 0 and not can.swap_limits:
        remedy = "leave it out, or start the node's kernel with swapaccount=1"
        raise StartRejected(f"resources.swap_bytes: this node's kernel cannot limit swap; {remedy}")


def pids_limit(wanted: types_pb2.ResourceRequirements) -> int:
    return max(0, wanted.pids_limit or DEFAULT_PIDS)


def memory(wanted: types_pb2.ResourceRequirements, swap_limits: bool) -> dict[str, int | bool]:
    limit = wanted.limits.memory_bytes
    made: dict[str, int | bool] = {}
    if limit:
        made["limit"] = limit
        if swap_limits:
            made["swap"] = swap_total(wanted)
    if reserved := wanted.reservations.memory_bytes:
        made["reservation"] = min(reserved, limit) if limit else reserved
    if wanted.HasField("swappiness"):
        made["swappiness"] = wanted.swappiness
    if wanted.no_oom_kill:
        made["disableOOMKiller"] = True
    return made


def swap_total(wanted: types_pb2.ResourceRequirements) -> int:
    """Memory and swap together, as the configuration and cgroup v1 count it."""
    return UNLIMITED if wanted.swap_bytes < 0 else wanted.limits.memory_bytes + wanted.swap_bytes


def quota_us(limit_nano: int) -> int:
    return max(1000, limit_nano * CPU_PERIOD_US // 1_000_000_000)


def shares(reserved_nano: int) -> int:
    return min(262_144, max(2, reserved_nano * 1024 // 1_000_000_000))


def weight(reserved_nano: int) -> int:
    """cgroup v2's measure of the same, as the runtimes convert it."""
    return 1 + (shares(reserved_nano) - 2) * 9999 // 262_142


def cpu(limit_nano: int, reserved_nano: int) -> dict[str, int]:
    made = {}
    if limit_nano:
        made = {"period": CPU_PERIOD_US, "quota": quota_us(limit_nano)}
    if reserved_nano:
        made["shares"] = shares(reserved_nano)
    return made


def io_weight_names(pure_v2: bool) -> list[str]:
    """The files that a group of this kind may have; most kernels have one of them, or none."""
    return [name for name in IO_WEIGHTS if name.startswith("blkio.") is not pure_v2]


def io_weight(file: str, wanted: int) -> int:
    """As the runtimes write it: io.weight goes from 1 to 10000, the others as far as the specification."""
    if not wanted:
        return IO_WEIGHTS[file]
    return 1 + (wanted - 10) * 9999 // 990 if file == "io.weight" else wanted


# --- block I/O of single devices ----------------------------------------------------------------


def throttle_files(pure_v2: bool) -> list[str]:
    return ["io.max"] if pure_v2 else [file for _, file, _ in THROTTLES]


def rates(wanted: types_pb2.DeviceLimits) -> Rates:
    return tuple(getattr(wanted, field) for field, _, _ in THROTTLES)


def throttles(
    wanted: Mapping[str, Rates], present: Mapping[str, str], pure_v2: bool
) -> Iterator[tuple[str, str, str]]:
    """(file, line to write, line that takes it back) until the devices ("8:0") have the wanted rates.

    `present` is what the files hold now: a device that is limited there and no longer wanted loses its limits.
    """
    if pure_v2:
        have = dict(map(_max_line, present["io.max"].splitlines()))
        for number in sorted(have.keys() | wanted.keys()):
            old, new = (found.get(number, (0,) * len(THROTTLES)) for found in (have, wanted))
            if new != old:
                yield "io.max", _max_text(number, new), _max_text(number, old)
        return
    for index, (_, file, _) in enumerate(THROTTLES):
        limited = {line.split()[0]: int(line.split()[1]) for line in present[file].splitlines()}
        for number in sorted(limited.keys() | wanted.keys()):
            before = limited.get(number, 0)
            after = wanted[number][index] if number in wanted else 0
            if after != before:
                yield file, f"{number} {after}", f"{number} {before}"


def _max_line(line: str) -> tuple[str, Rates]:
    """A line of io.max: `8:0 rbps=1048576 wbps=max riops=max wiops=max`."""
    number, *pairs = line.split()
    found = dict(pair.split("=", 1) for pair in pairs)
    values = (found.get(key, "max") for _, _, key in THROTTLES)
    return number, tuple(0 if value == "max" else int(value) for value in values)


def _max_text(number: str, values: Rates) -> str:
    pairs = (f"{key}={value or 'max'}" for (_, _, key), value in zip(THROTTLES, values, strict=True))
    return " ".join((number, *pairs))


# --- changes in place ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One file of a control group; `controller` names the v1 tree it is in. An empty value: the parent's."""

    controller: str
    file: str
    value: str
    needed: bool = False  # a group without this file cannot do what is wanted


def settings(
    wanted: types_pb2.ResourceRequirements, can: Abilities, present_memory_bytes: int
) -> Iterator[Setting]:
    """The files that make a running container's limits the wanted ones; 0 = it has no memory limit now."""
    check(wanted, can)
    limits, reserved = wanted.limits, wanted.reservations
    yield Setting("pids", "pids.max", str(pids_limit(wanted) or "max"))
    quota = quota_us(limits.nano_cpus) if limits.nano_cpus else UNLIMITED
    for file in io_weight_names(can.pure_v2):  # those that are there
        yield Setting("blkio", file, str(io_weight(file, wanted.io_weight)))
    for file, text in (("cpuset.cpus", wanted.cpuset_cpus), ("cpuset.mems", wanted.cpuset_mems)):
        yield Setting("cpuset", file, text, needed=bool(text))
    if can.pure_v2:
        yield Setting("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {CPU_PERIOD_US}")
        yield Setting(
            "cpu", "cpu.weight", str(weight(reserved.nano_cpus) if reserved.nano_cpus else DEFAULT_WEIGHT)
        )
        yield Setting("memory", "memory.low", str(reserved.memory_bytes))
        yield Setting("memory", "memory.max", str(limits.memory_bytes or "max"))
        if can.swap_limits:
            none = not limits.memory_bytes or wanted.swap_bytes < 0
            yield Setting("memory", "memory.swap.max", "max" if none else str(wanted.swap_bytes))
        return
    yield Setting("cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US))
    yield Setting("cpu", "cpu.cfs_quota_us", str(quota))
    yield Setting(
        "cpu", "cpu.shares", str(shares(reserved.nano_cpus) if reserved.nano_cpus else DEFAULT_SHARES)
    )
    yield Setting("memory", "memory.soft_limit_in_bytes", str(reserved.memory_bytes or UNLIMITED))
    both = [Setting("memory", "memory.limit_in_bytes", str(limits.memory_bytes or UNLIMITED))]
    if can.swap_limits:
        total = swap_total(wanted) if limits.memory_bytes else UNLIMITED
        both.append(Setting("memory", "memory.memsw.limit_in_bytes", str(total)))
    grows = present_memory_bytes > 0 and (
        not limits.memory_bytes or limits.memory_bytes > present_memory_bytes
    )
    yield from reversed(both) if grows else both
    yield Setting(
        "memory", "memory.swappiness", str(wanted.swappiness) if wanted.HasField("swappiness") else ""
    )
    yield Setting("memory", "memory.oom_control", str(int(wanted.no_oom_kill)))
