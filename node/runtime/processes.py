"""The processes of a container, as the node sees them."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import system, users
from swarmpy.node.runtime.inside import Inside

PROCESSES_MAX = 10_000
COMMAND_LENGTH_MAX = 4096


@dataclass(frozen=True)
class Process:
    pid: int
    parent_pid: int
    inner_pid: int
    user: str
    state: str
    command: str
    cpu_ns: int
    memory_bytes: int
    started_ms: int


def processes(inside: Inside) -> list[Process]:
    """By pid. Blocks."""
    inside.check()
    names = _user_names(inside)
    booted_ms = _booted_ms()
    found = (_process(pid, names, booted_ms) for pid in sorted(inside.group.members())[:PROCESSES_MAX])
    return [process for process in found if process is not None]


def _process(pid: int, names: dict[int, str], booted_ms: int) -> Process | None:
    """None for one that has ended meanwhile."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        status = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        arguments = system.command_line(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    said = dict(line.split(":", 1) for line in status if ":" in line)
    uid = int(said["Uid"].split()[1])
    ticks = os.sysconf("SC_CLK_TCK")
    command = " ".join(arguments) or f"[{head.partition('(')[2]}]"
    return Process(
        pid=pid, parent_pid=int(fields[1]), inner_pid=int(said["NSpid"].split()[-1]),
        user=names.get(uid, str(uid)), state=fields[0], command=command[:COMMAND_LENGTH_MAX],
        cpu_ns=(int(fields[11]) + int(fields[12])) * 10**9 // ticks,
        memory_bytes=int(said.get("VmRSS", "0").split()[0]) * 1024,
        started_ms=booted_ms + int(fields[19]) * 1000 // ticks,
    )  # fmt: skip


def _user_names(inside: Inside) -> dict[int, str]:
    """As the container calls them; the node's own name only for root."""
    with inside.root() as root_fd:
        rows = users.table(root_fd, "etc/passwd")
    names = {0: pwd.getpwuid(0).pw_name}
    names.update({int(row[2]): row[0] for row in rows if len(row) > 2 and row[2].isdecimal()})
    return names


def _booted_ms() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1]) * 1000
    return 0
