"""What an earlier process left: adopt it, finish it, or remove it without a trace.

Order of the sweep: processes still in flight → control groups → runtime state → mounts, deepest first →
directories → exit files. Only things named after our own run directory, state directory or owner are
touched: many nodes may share one machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from swarmpy.node.runtime import bundle, cgroups, mounts, oci, system, userns
from swarmpy.node.runtime.errors import RuntimeFailure

log = logging.getLogger(__name__)
KILL_TIMEOUT_S = 10.0


def sweep(directories: bundle.Directories, layout: cgroups.Layout, owner: str, keep: set[str]) -> None:
    """Remove every trace of containers not in `keep`. Blocks; may be repeated."""
    kill_in_flight(directories.run / "oci", keep)
    for container_id in leftovers(directories, layout, owner) - keep:
        log.info("sweep container=%s", container_id)
        group = group_left(directories, layout, owner, container_id, keep)
        if group is not None and not group.remove(KILL_TIMEOUT_S):
            raise RuntimeFailure(
                f"container {container_id}: its processes do not end; look for blocked I/O on this node"
            )
        for directory in (directories.run / "oci" / container_id, directories.log / container_id):
            if directory.parent.name == "oci" and directory.exists():
                shutil.rmtree(directory)
        bundle.remove(directories, container_id)
    userns.sweep(directories.userns(owner), keep | {kept.partition(".")[0] for kept in keep})
    mounts_left = system.mounts_below(directories.containers)
    for point in mounts_left:
        if point.relative_to(directories.containers).parts[0] not in keep:
            system.umount(point, detach=True)


def sweep_all(directories: bundle.Directories, layout: cgroups.Layout, owner: str) -> None:
    """The same for every container, and the group that held them. Blocks."""
    sweep(directories, layout, owner, set())
    cgroups.Cgroup(layout, layout.group(owner)).remove(KILL_TIMEOUT_S)


def forget_run(directories: bundle.Directories) -> None:
    """Remove what is left of the run directory once nothing is recorded in it any more."""
    run = directories.run
    for directory in (directories.containers, directories.exits, run / "oci", run / "userns"):
        shutil.rmtree(directory, ignore_errors=True)
    for name in ("boot_id", *oci.WRAPPED, "runtime.lock"):
        (run / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other nodes of the machine have containers with ids of their own
        (run.parent / "ids").rmdir()


def group_left(
    directories: bundle.Directories, layout: cgroups.Layout, owner: str, container_id: str, keep: set[str]
) -> cgroups.Cgroup | None:
    """The control group to remove for a leftover: its own; a pod's as a whole only when nothing of it is kept."""
    state = bundle.read_state(directories, container_id)
    if state is not None:
        return cgroups.Cgroup(layout, state.cgroup)
    pod, _, name = container_id.partition(".")
    if any(kept.partition(".")[0] == pod for kept in keep):
        return cgroups.Cgroup(layout, f"{layout.group(owner)}/{pod}/{name}") if name else None
    return cgroups.Cgroup(layout, f"{layout.group(owner)}/{pod}")


def leftovers(directories: bundle.Directories, layout: cgroups.Layout, owner: str) -> set[str]:
    """Ids found in any place a container leaves traces in."""
    tops = [directories.containers, directories.data, directories.run / "oci", directories.exits]
    found = {entry.name for top in tops for entry in top.iterdir()}
    for top in cgroups.Cgroup(layout, layout.group(owner)).directories():
        found |= {entry.name for entry in top.iterdir() if entry.is_dir()}
    return found


def kill_in_flight(oci_state: Path, keep: Iterable[str] = ()) -> None:
    """End monitors and runtimes that use our state directory and serve no container in `keep`. Blocks."""
    kept = set(keep)
    root = f"--root={oci_state}"

    def wanted(arguments: list[str]) -> bool:
        ours = root in arguments or f"--runtime-arg={root}" in arguments
        return ours and not kept & set(arguments)

    kill_matching(wanted)


def kill_matching(wanted: Callable[[list[str]], bool]) -> None:
    """SIGKILL processes by command line until none is left: a killed parent may have started one more."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    own = os.getpid()
    while True:
        found = [
            (pid, system.start_time(pid))
            for pid in system.pids()
            if pid != own and wanted(system.command_line(pid))
        ]
        alive = [(pid, started) for pid, started in found if started is not None]
        if not alive:
            return
        for pid, started in alive:
            system.kill_process(pid, started, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeFailure(
                f"processes {[pid for pid, _ in alive]} do not end after SIGKILL; look for blocked I/O"
            )
        time.sleep(0.005)


def forget_other_boot(directories: bundle.Directories) -> None:
    """After a reboot nothing recorded in the run directory exists any more, whatever the files say."""
    marker = directories.run / "boot_id"
    now = system.boot_id()
    if marker.exists() and marker.read_text() != now:
        log.info("reboot noticed run_dir=%s", directories.run)
        mounts.unmount_all(directories.containers)
        for top in (directories.containers, directories.exits, directories.run / "oci"):
            shutil.rmtree(top)
            top.mkdir(mode=0o700)
    bundle.write_file(marker, now)
