"""conmon: the small parent of one container that outlives us.

It keeps the exit code, writes the log and reaps. Protocol of a creation: it starts, waits for a byte on the
start pipe, forks, runs `<runtime> create`, and answers one JSON line `{"data": pid | -1, "message": …}` on
the sync pipe. conmon dies of a broken sync pipe, so that pipe stays open until the answer is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import logs, oci, process, system
from swarmpy.node.runtime.errors import RuntimeFailure, from_runtime

CREATE_TIMEOUT_S = 60.0
END_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Places:
    """The files of one container that its monitor writes."""

    id: str
    bundle: Path
    exits: Path
    log: Path

    @property
    def pid_file(self) -> Path:
        return self.bundle / "pidfile"

    @property
    def monitor_pid_file(self) -> Path:
        return self.bundle / "conmon.pid"

    @property
    def exit_file(self) -> Path:
        return self.exits / self.id

    @property
    def control(self) -> Path:
        return self.bundle / "ctl"


def argv(
    program: str, runtime: oci.Oci, places: Places, *, tty: bool, stdin: bool, log: bool = True
) -> list[str]:
    bundle, name = str(places.bundle), places.id
    target = f"k8s-file:{places.log}" if log else "none"
    return [
        program, "--api-version", "1", "-c", name, "-u", name, "-n", name, "-b", bundle,
        "-r", runtime.program, f"--runtime-arg=--root={runtime.state}",
        "-p", str(places.pid_file), "-P", str(places.monitor_pid_file), "-l", target,
        "--exit-dir", str(places.exits), "--persist-dir", bundle, "--socket-dir-path", bundle,
        "--full-attach", "--no-sync-log", "--log-level", "warn",
        *(["-t"] if tty else []), *(["-i", "--leave-stdin-open"] if stdin else []),
    ]  # fmt: skip


async def create(
    program: str, runtime: oci.Oci, places: Places, *, tty: bool, stdin: bool, log: bool = True
) -> int:
    """Create the container under a new monitor; the pid of its first process, which waits for `start`."""
    what = f"create of container {places.id}"
    sync, start = process.Pipe(), process.Pipe()
    said = os.memfd_create("conmon")
    try:
        environment = {
            **oci.environment(), "_OCI_SYNCPIPE": str(sync.write), "_OCI_STARTPIPE": str(start.read),
        }  # fmt: skip
        child = process.spawn(
            argv(program, runtime, places, tty=tty, stdin=stdin, log=log),
            env=environment, output=said, pass_fds=(sync.write, start.read),
        )  # fmt: skip
        try:
            sync.close_write()
            start.close_read()
            with contextlib.suppress(BrokenPipeError):
                os.write(start.write, b"\0")
        finally:
            code = await process.finish(child, CREATE_TIMEOUT_S)
        answer = await process.read_line(sync.read, CREATE_TIMEOUT_S)
        return pid_of(
            answer, what, f"conmon ended with {code}: {process.tail(said).decode(errors='replace')}"
        )
    except TimeoutError as error:
        raise RuntimeFailure(f"{what}: no answer from conmon within {CREATE_TIMEOUT_S:g} s") from error
    finally:
        sync.close()
        start.close()
        os.close(said)


def pid_of(answer: bytes, what: str, otherwise: str) -> int:
    try:
        parsed = json.loads(answer)
        pid, message = int(parsed["data"]), str(parsed.get("message", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure(f"{what}: {otherwise}") from error
    if pid <= 0:
        raise from_runtime(what, message or otherwise)
    return pid


def read_exit(places: Places) -> tuple[int, int] | None:
    """(exit code, time in ms) once the monitor has written them."""
    try:
        with places.exit_file.open() as file:
            return int(file.read()), os.fstat(file.fileno()).st_mtime_ns // 1_000_000
    except (FileNotFoundError, ValueError):
        return None


def reopen_log(places: Places) -> None:
    """Ask the monitor to open its log anew, after a rename. OSError where it is gone."""
    fd = os.open(places.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(fd, b"2 0 0\n")
    finally:
        os.close(fd)


def rotate_log(places: Places, size_bytes: int, files_max: int) -> None:
    """Begin a new file where the log has grown beyond its size; 0 = the default, -1 files = none kept."""
    if files_max >= 0 and places.log.stat().st_size > (size_bytes or logs.ROTATE_BYTES):
        logs.rotate(places.log.parent, files_max or logs.FILES_MAX)
        reopen_log(places)


async def gone(pid: int, started: int) -> None:
    """A monitor ends by itself after its container; one that does not is ended."""
    if pid == 0 or system.start_time(pid) != started:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await asyncio.wait_for(process.readable(pidfd), END_TIMEOUT_S)
    except TimeoutError:
        system.kill_process(pid, started, signal.SIGKILL)
    finally:
        os.close(pidfd)


def monitor_pid(places: Places) -> int:
    """0 where the monitor never wrote it."""
    try:
        return int(places.monitor_pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def open_stdio(pid: int) -> None:
    """Let a program that is not root open /dev/stdout: its pipes belong to root otherwise."""
    for number in range(3):
        path = f"/proc/{pid}/fd/{number}"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                os.chmod(path, 0o666)  # noqa: S103 - only the container's own processes see it
