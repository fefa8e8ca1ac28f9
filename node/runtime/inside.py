"""A handle on a running container, for whatever reaches into it: exec, attach, copy, forward, stats.

A process is meant by pid and start time; what is opened by pid is checked after opening, so that a pid
given to another process meanwhile leads nowhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import bundle, cgroups, oci, system
from swarmpy.node.runtime.errors import RuntimeFailure


@dataclass(frozen=True)
class Inside:
    """One running container: its first process, its files on the node, its control groups."""

    id: str
    pid: int
    pid_start: int
    tty: bool
    place: Path  # the bundle
    group: cgroups.Cgroup
    oci: oci.Oci
    first_id: int = 0  # the node's id that is 0 inside

    def check(self) -> None:
        """Raises RuntimeFailure once the container's first process is gone."""
        if system.start_time(self.pid) != self.pid_start:
            raise RuntimeFailure(f"container {self.id}: it has ended")

    @contextlib.contextmanager
    def opened(self, name: str, flags: int) -> Iterator[int]:
        """`/proc/PID/<name>` of the first process."""
        try:
            fd = os.open(f"/proc/{self.pid}/{name}", flags | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"container {self.id}: it has ended") from error
        try:
            self.check()
            yield fd
        finally:
            os.close(fd)

    def root(self) -> contextlib.AbstractContextManager[int]:
        """The root directory as the container's processes see it, volumes included."""
        return self.opened("root", os.O_PATH | os.O_DIRECTORY)

    def network(self) -> contextlib.AbstractContextManager[int]:
        """Its network namespace."""
        return self.opened("ns/net", os.O_RDONLY)


def inside_of(state: bundle.State, place: Path, group: cgroups.Cgroup, oci_: oci.Oci) -> Inside:
    """The handle on a started container; RuntimeFailure for one that does not run."""
    if state.phase != "started":
        raise RuntimeFailure(f"container {state.id}: it is {state.phase}, not running")
    return Inside(state.id, state.pid, state.pid_start, state.tty, place, group, oci_, state.first_id)
