"""Running one more program inside a container, to its end or its deadline: health checks.

The program's pid is kept in a file of the bundle until it ended, so that neither a deadline, a cancellation
nor the death of this process leaves it running.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarmpy.node.runtime import bundle, cgroups, oci, process, system
from swarmpy.node.runtime.errors import RuntimeFailure
from swarmpy.node.runtime.inside import Inside
from swarmpy.node.runtime.request import ExecResult

_numbers = itertools.count(1)


async def run(
    inside: Inside, argv: Sequence[str], *, timeout_s: float, env: Sequence[str] = ()
) -> ExecResult:
    place, group = inside.place, inside.group
    name = f"exec-{os.getpid()}-{next(_numbers)}"
    process_file, pid_file = place / f"{name}.json", place / f"{name}.pid"
    pipe, output = process.Pipe(), bytearray()
    try:
        bundle.write_file(process_file, json.dumps(process_spec(place, argv, env)))
        command = inside.oci.exec_argv(inside.id, process_file, pid_file)
        child = process.spawn(command, env=oci.environment(), output=pipe.write)
        pipe.close_write()
        os.set_blocking(pipe.read, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.read, drain, pipe.read, output, loop)
        try:
            # The runtime reaps the program it started: it is given the time to, or a zombie of whoever
            # inherits it would hold up the end of the container's pid namespace.
            code: int | None = await process.finish(
                child, timeout_s, end=lambda: kill_by_file(pid_file, group)
            )
        except TimeoutError:
            code = None
        finally:
            kill_by_file(pid_file, group)
            drain(pipe.read, output, loop)
            loop.remove_reader(pipe.read)
        return ExecResult(code, bytes(output))
    except FileNotFoundError as error:
        raise RuntimeFailure(f"exec in container {inside.id}: it is being removed") from error
    finally:
        pipe.close()
        process_file.unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)


def process_spec(place: Path, argv: Sequence[str], env: Sequence[str]) -> dict[str, Any]:
    """The container's own process section with another program: same user, capabilities and limits."""
    section: dict[str, Any] = json.loads((place / "config.json").read_text())["process"]
    section.pop("consoleSize", None)
    merged = dict(entry.partition("=")[::2] for entry in [*section["env"], *env])
    values = [f"{name}={value}" for name, value in merged.items()]
    return {**section, "args": list(argv), "env": values, "terminal": False}


def drain(fd: int, output: bytearray, loop: asyncio.AbstractEventLoop) -> None:
    """Keep the first 64 KiB, read and drop the rest so that the writer never blocks."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(16):
            data = os.read(fd, 65536)
            if not data:
                loop.remove_reader(fd)
                return
            output += data[: max(0, process.OUTPUT_BYTES_MAX - len(output))]


def kill_by_file(pid_file: Path, group: cgroups.Cgroup, number: int = signal.SIGKILL) -> None:
    """Signal the program of a pid file, with its session, if it still lives in that container."""
    if session := session_of(pid_file, group):
        kill_session(session, group, number)


def session_of(pid_file: Path, group: cgroups.Cgroup) -> int:
    """The session of the program of a pid file; 0 where it has ended."""
    try:
        pid = int(pid_file.read_text())
        return os.getsid(pid) if group.contains(pid) else 0
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return 0


def kill_session(session: int, group: cgroups.Cgroup, number: int) -> None:
    for member in group.members():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(member) == session:
                system.kill_process(member, None, number)


def clear(place: Path, group: cgroups.Cgroup) -> None:
    """End what executions of an earlier process left in a container."""
    for pid_file in place.glob("exec-*.pid"):
        kill_by_file(pid_file, group)
        pid_file.unlink(missing_ok=True)
    for process_file in place.glob("exec-*.json*"):
        process_file.unlink(missing_ok=True)
