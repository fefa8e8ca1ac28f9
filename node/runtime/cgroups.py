"""The control groups of one container: where they are, what they counted, how to end them.

Three layouts are met: pure v2 (one tree), hybrid (v1 controllers plus a v2 tree under `unified`), pure v1.
All use the same path `/swarmpy-<owner>/<id>` in every tree.

Under systemd with pure v2 that path begins in our unit's own subtree, where systemd started us in the unit's
leaf group (`Delegate=yes`, `DelegateSubgroup=daemon`, systemd 254 and later). An older systemd would start
us in the unit's group itself, which then could have no controllers for groups below, or once it has them could
not be started in again: there the groups are at the top, as those of other engines.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import spec_limits, system
from swarmpy.node.runtime.errors import RuntimeFailure, StartRejected
from swarmpy.node.runtime.request import Stats
from swarmpy.proto import types_pb2

ROOT = Path("/sys/fs/cgroup")
LEAF = "daemon"  # the unit's group that holds the daemon
NO_LIMIT_BYTES = 1 << 60  # what v1 calls no limit is above


@dataclass(frozen=True)
class Layout:
    """The mounted hierarchies; `controllers` maps a v1 controller's name to its tree."""

    unified: Path | None
    controllers: dict[str, Path]
    base: str = ""  # where our groups begin in the tree

    @property
    def pure_v2(self) -> bool:
        return self.unified is not None and not self.controllers

    def group(self, owner: str) -> str:
        """The path of the group that holds all of an owner's."""
        return f"{self.base}/swarmpy-{owner}"

    @property
    def swap_limits(self) -> bool:
        if "memory" in self.controllers:
            return (self.controllers["memory"] / "memory.memsw.limit_in_bytes").exists()
        return Path("/proc/swaps").exists()

    @property
    def trees(self) -> list[Path]:
        found = [*self.controllers.values(), *([self.unified] if self.unified else [])]
        return list(dict.fromkeys(path.resolve() for path in found))


def detect() -> Layout:
    unified: Path | None = None
    controllers: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4])
        kind, _, options = after.split(" ", 2)
        if not point.is_relative_to(ROOT):
            continue
        if kind == "cgroup2":
            unified = point
        elif kind == "cgroup":
            for name in options.split(" ")[-1].split(","):
                if name not in {"rw", "ro"}:
                    controllers[name.removeprefix("name=")] = point
    if unified is None or controllers:
        return Layout(unified, controllers)
    return Layout(unified, {}, delegated(unified, Path("/proc/self/cgroup").read_text()))


def delegated(tree: Path, own: str) -> str:
    """The path of the subtree that systemd gave us; "" where we are not in the leaf of one."""
    path = next((line.removeprefix("0::") for line in own.splitlines() if line.startswith("0::")), "")
    parent, _, leaf = path.rpartition("/")
    if leaf != LEAF or not parent:
        return ""
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(tree / parent.strip("/"), name) == b"1":
                return parent
    return ""


def path_for(layout: Layout, owner: str, parent: str, container_id: str) -> str:
    """Where a container's group is: below our own, or in a parent of the administrator's.

    Raises StartRejected where that parent does not exist: its limits are why it was named.
    """
    if not parent:
        return f"{layout.group(owner)}/{container_id}"
    if not any((tree / parent.lstrip("/")).is_dir() for tree in layout.trees):
        remedy = f"mkdir {layout.trees[0]}{parent} there, with the limits it is to have"
        raise StartRejected(f"container.cgroup_parent: {parent} does not exist on this node; {remedy}")
    return f"{parent.rstrip('/')}/swarmpy-{owner}-{container_id}"


class Cgroup:
    """One path in every hierarchy."""

    def __init__(self, layout: Layout, path: str) -> None:
        self.layout = layout
        self.path = path

    def _in(self, controller: str) -> Path | None:
        tree = self.layout.controllers.get(controller)
        return tree / self.path.lstrip("/") if tree else None

    def _v2(self) -> Path | None:
        return self.layout.unified / self.path.lstrip("/") if self.layout.unified else None

    def directories(self) -> list[Path]:
        return [d for tree in self.layout.trees if (d := tree / self.path.lstrip("/")).is_dir()]

    def oom_kills(self) -> int:
        """Processes killed for want of memory; 0 also where the group is gone."""
        v1 = self._in("memory")
        if v1 is not None:
            return _field(v1 / "memory.oom_control", "oom_kill")
        v2 = self._v2()
        return _field(v2 / "memory.events", "oom_kill") if v2 else 0

    def stats(self) -> Stats:
        if self.layout.pure_v2:
            group = self._v2() or ROOT
            cpu_ns = _field(group / "cpu.stat", "usage_usec") * 1000
            memory = _number(group / "memory.current") - _field(group / "memory.stat", "inactive_file")
            return Stats(cpu_ns, max(0, memory), _number(group / "pids.current"))
        account, memory_v1, pids = self._in("cpuacct"), self._in("memory"), self._in("pids")
        memory = 0
        if memory_v1:
            cache = _field(memory_v1 / "memory.stat", "total_inactive_file")
            memory = max(0, _number(memory_v1 / "memory.usage_in_bytes") - cache)
        return Stats(
            cpu_ns=_number(account / "cpuacct.usage") if account else 0,
            memory_bytes=memory,
            pids=_number(pids / "pids.current") if pids else 0,
        )

    def change(self, wanted: types_pb2.ResourceRequirements) -> None:
        """Set the limits of the processes inside; all of them or, where one is refused, none. Blocks.

        Raises RuntimeFailure, also for a memory limit below what is in use: v2 would kill for it.
        """
        can = spec_limits.Abilities(self.layout.pure_v2, self.layout.swap_limits)
        if wanted.io_weight and not self._io_weight_files():
            raise RuntimeFailure(f"limits not changed: {self._no_io_weight()}")
        before: list[tuple[Path, str]] = []
        present = self._memory_limit()
        used, limit = self.stats().memory_bytes, wanted.limits.memory_bytes
        if limit and used > limit and (not present or limit < present):
            raise RuntimeFailure(_below_use(limit, used))
        for setting in spec_limits.settings(wanted, can, present):
            directory = self._v2() if can.pure_v2 else self._in(setting.controller)
            if directory is None or not (path := directory / setting.file).exists():
                if setting.needed:
                    _take_back(before)
                    raise RuntimeFailure(
                        f"limits not changed: this node's control groups have no {setting.file}"
                    )
                continue
            try:
                old = path.read_text().strip()
                value = setting.value or (
                    "\n" if can.pure_v2 else (path.parent.parent / path.name).read_text()
                )
                if value.strip() == old:
                    continue
                path.write_text(value)
            except OSError as error:
                _take_back(before)
                if error.errno == errno.EBUSY and setting.controller == "memory":
                    raise RuntimeFailure(_below_use(limit, self.stats().memory_bytes)) from error
                text = f"limits not changed: the kernel refuses {setting.value} in {setting.file}"
                raise RuntimeFailure(f"{text}: {error.strerror}") from error
            before.append((path, old))
        try:
            self._throttle(wanted, before)
        except StartRejected as error:
            _take_back(before)
            raise RuntimeFailure(f"limits not changed: {error}") from error

    def limit_io(self, wanted: types_pb2.ResourceRequirements) -> None:
        """Block I/O of a container that was just made: its share, and what it may do on single disks.

        Not left to the OCI runtime: some know only the file that kernels since 5.0 have not.
        Raises StartRejected where this node cannot do it.
        """
        if wanted.io_weight:
            files = self._io_weight_files()
            if not files:
                raise StartRejected(f"resources.{self._no_io_weight()}")
            for file in files:
                file.write_text(str(spec_limits.io_weight(file.name, wanted.io_weight)))
        self._throttle(wanted, [])

    def _throttle(self, wanted: types_pb2.ResourceRequirements, before: list[tuple[Path, str]]) -> None:
        """The limits of single disks; what was there is noted in `before`."""
        rates = {device_number(entry.device): spec_limits.rates(entry) for entry in wanted.io_devices}
        pure_v2 = self.layout.pure_v2
        directory = self._v2() if pure_v2 else self._in("blkio")
        names = spec_limits.throttle_files(pure_v2)
        if directory is None or not all((directory / name).exists() for name in names):
            if rates:
                remedy = "leave it out, or keep the service on nodes that have it by a constraint"
                raise StartRejected(
                    f"resources.io_devices: this node's control groups have no {names[0]}; {remedy}"
                )
            return
        present = {name: (directory / name).read_text() for name in names}
        for name, line, old in spec_limits.throttles(rates, present, pure_v2):
            try:
                (directory / name).write_text(line)
            except OSError as error:
                reason = (
                    "name the whole disk, not a part of it" if error.errno == errno.ENODEV else error.strerror
                )
                raise StartRejected(
                    f"resources.io_devices: the kernel refuses {line} in {name}: {reason}"
                ) from error
            before.append((directory / name, old))

    def _io_weight_files(self) -> list[Path]:
        directory = self._v2() if self.layout.pure_v2 else self._in("blkio")
        names = spec_limits.io_weight_names(self.layout.pure_v2)
        return [file for name in names if directory is not None and (file := directory / name).exists()]

    def _no_io_weight(self) -> str:
        names = " nor ".join(spec_limits.io_weight_names(self.layout.pure_v2))
        remedy = "leave it out, or keep the service on nodes that have one by a constraint"
        return f"io_weight: this node's control groups have neither {names}; {remedy}"

    def _memory_limit(self) -> int:
        """Bytes; 0 = none."""
        group = self._v2() if self.layout.pure_v2 else self._in("memory")
        if group is None:
            return 0
        limit = _number(group / ("memory.max" if self.layout.pure_v2 else "memory.limit_in_bytes"))
        return limit if limit < NO_LIMIT_BYTES else 0

    def contains(self, pid: int) -> bool:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        paths = [line.split(":", 2)[2] for line in lines]
        return any(path == self.path or path.startswith(self.path + "/") for path in paths)

    def kill(self) -> None:
        """SIGKILL to every member: by the kernel in one go, else one by one."""
        for directory in self.directories():
            if (switch := directory / "cgroup.kill").exists():
                with contextlib.suppress(OSError):
                    switch.write_text("1")
        for pid in self.members():
            system.kill_process(pid, None, signal.SIGKILL)

    def members(self) -> set[int]:
        return {pid for top in self.directories() for directory in _below(top) for pid in _pids(directory)}

    def remove(self, timeout_s: float) -> bool:
        """Kill what lives in it and remove it; False where a member did not die in time. Blocks."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.kill()
            results = [_remove_tree(directory) for directory in self.directories()]
            if all(results):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)


def device_number(path: str) -> str:
    """`8:0` for /dev/sda. Raises StartRejected where this node has no such disk."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise StartRejected(f"resources.io_devices: {path}: {error.strerror} on this node") from error
    if not stat.S_ISBLK(found.st_mode):
        raise StartRejected(f"resources.io_devices: {path} is no block device on this node")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _take_back(before: list[tuple[Path, str]]) -> None:
    """Write what was there, the last first; what cannot be written stays."""
    for path, value in reversed(before):
        with contextlib.suppress(OSError):
            path.write_text(value or "\n")


def _below_use(limit: int, used: int) -> str:
    return (
        f"limits not changed: the memory limit of {limit / 1024**2:.4g} MiB is below the {used / 1024**2:.4g} MiB in "
        "use; it is tried again, or restart the task"
    )


def _below(top: Path) -> Iterator[Path]:
    """The group and its sub-groups, deepest first."""
    for root, _, _ in os.walk(top, topdown=False):
        yield Path(root)


def _remove_tree(top: Path) -> bool:
    for directory in _below(top):
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
    return True


def _pids(directory: Path) -> list[int]:
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except OSError:  # removed meanwhile, or a threaded group
        return []


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
