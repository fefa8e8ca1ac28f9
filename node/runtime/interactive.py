"""A program in a container with somebody at its streams: exec, and attach to the container's own program.

Execution: the OCI runtime stays as the parent of the program, so its exit code is the program's. Without a
terminal the program gets our pipes themselves. With one the runtime gets our pseudo-terminal, makes another
inside the container and copies between them; a new size is passed on by SIGWINCH. (runc reads the pipes
of programs itself: with it, one left in the background that holds them delays the end.)
Attachment: conmon's socket. It may not be read slowly: conmon would hold up the container's output for
everybody. What nobody fetches in time is kept up to a limit, then the attachment ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import termios
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmpy.node.runtime import bundle, execute, oci, process, users
from swarmpy.node.runtime.errors import (
    MissingTool,
    RuntimeFailure,
    StartRejected,
    from_os_error,
)
from swarmpy.node.runtime.inside import Inside

BLOCK_BYTES = 64 * 1024
PACKET_BYTES = 8 * 1024
BEHIND_BYTES_MAX = 8 * 1024 * 1024
HANGUP_TIMEOUT_S = 1.0
KILL_TIMEOUT_S = 5.0
STDOUT, STDERR = 1, 2
_numbers = itertools.count(1)


class NoProgram(StartRejected):
    """The program to run is not in the container, or is none; `code` is a shell's word for it."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Program:
    """What to run beside the container's own program."""

    argv: Sequence[str]
    tty: bool = False
    stdin: bool = False
    env: Sequence[str] = ()
    user: str = ""
    workdir: str = ""
    privileged: bool = False
    rows: int = 0
    columns: int = 0


def process_spec(inside: Inside, program: Program) -> dict[str, Any]:
    """The container's process section, changed as asked; the seccomp filter is not part of it."""
    env = list(program.env)
    if program.tty and not any(entry.startswith("TERM=") for entry in env):
        env.insert(0, "TERM=xterm")
    section = execute.process_spec(inside.place, program.argv, env)
    section["terminal"] = program.tty
    if program.workdir:
        section["cwd"] = program.workdir
    if program.tty and program.rows and program.columns:
        section["consoleSize"] = {"height": program.rows, "width": program.columns}
    with inside.root() as root_fd:
        rootfs = Path(f"/proc/self/fd/{root_fd}")
        if program.user:
            user = users.resolve(rootfs, program.user, ())
            section["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}
            section["env"] = [entry for entry in section["env"] if not entry.startswith("HOME=")]
            section["env"].append(f"HOME={user.home}")
        path = next((e[5:] for e in section["env"] if e.startswith("PATH=")), "/usr/bin:/bin")
        try:
            users.require_program(rootfs, program.argv[0], path, section["cwd"])
        except StartRejected as error:
            text = (
                str(error).removeprefix("container.command: ").replace(" in the image", " in the container")
            )
            raise NoProgram(text, 126 if "executable" in text else 127) from error
    if program.privileged:
        names = sorted(bundle.kernel_capabilities())
        section["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
        section["noNewPrivileges"] = False
    return section


class Execution:
    """One program; `start`, then `output` to its end, then `wait`; always `close`."""

    def __init__(self, inside: Inside, program: Program, *, detached: bool = False) -> None:
        self._inside, self._program = inside, program
        # Files of executions that must not outlive us are found by their name after a crash.
        name = f"{'detached' if detached else 'exec'}-{os.getpid()}-s{next(_numbers)}"
        self._spec_file, self._pid_file = inside.place / f"{name}.json", inside.place / f"{name}.pid"
        self._outputs: dict[int, int] = {}  # descriptor -> STDOUT or STDERR
        self._input = -1
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._detached = detached

    async def start(self) -> None:
        """Raises ContainerError; NoProgram when there is nothing to run."""
        try:
            spec = await process.blocking(lambda: process_spec(self._inside, self._program))
            bundle.write_file(self._spec_file, json.dumps(spec))
            self._spawn()
        except FileNotFoundError as error:
            raise RuntimeFailure(f"container {self._inside.id}: it is being removed") from error
        except OSError as error:
            raise from_os_error(f"exec in container {self._inside.id}", error) from error

    def _spawn(self) -> None:
        inside, program = self._inside, self._program
        given: list[int] = []  # the child's ends: ours to close
        try:
            if program.tty:
                master, slave = os.openpty()
                given.append(slave)
                self._outputs[master] = STDOUT
                self._input = os.dup(master)
                set_size(master, program.rows, program.columns)
                streams = [slave, slave, slave]
            else:
                streams = [self._pipe_in(given) if program.stdin else subprocess.DEVNULL]
                if self._detached:
                    streams += [subprocess.DEVNULL, subprocess.DEVNULL]
                else:
                    streams += [self._pipe_out(given, STDOUT), self._pipe_out(given, STDERR)]
            argv = list(inside.oci.exec_argv(inside.id, self._spec_file, self._pid_file))
            self._child = subprocess.Popen(
                argv, env=oci.environment(), stdin=streams[0], stdout=streams[1], stderr=streams[2],
                start_new_session=True, cwd="/",
            )  # fmt: skip
        except FileNotFoundError as error:
            raise MissingTool(f"{inside.oci.program}: not found; install it") from error
        finally:
            for fd in given:
                os.close(fd)
        self._pidfd = os.pidfd_open(self._child.pid)
        for fd in [*self._outputs, *([self._input] if self._input >= 0 else [])]:
            os.set_blocking(fd, False)

    def _pipe_in(self, given: list[int]) -> int:
        read, self._input = os.pipe2(os.O_CLOEXEC)
        given.append(read)
        os.fchmod(read, 0o666)
        return read

    def _pipe_out(self, given: list[int], stream: int) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        given.append(write)
        self._outputs[read] = stream
        os.fchmod(write, 0o666)  # a program that is not root may open /dev/stdout
        return write

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(STDOUT or STDERR, bytes) until the program has ended; what others it left write is not waited for."""
        while self._outputs:
            ended = await self._ready()
            for fd, stream in list(self._outputs.items()):
                while (data := _read(fd)) is not None:
                    if not data:
                        del self._outputs[fd]
                        os.close(fd)
                        break
                    yield stream, data
            if ended:
                return

    async def _ready(self) -> bool:
        """Wait for output or the end; whether it has ended."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        watched = [*self._outputs, self._pidfd]
        try:
            for fd in watched:
                loop.add_reader(fd, ready.set)
            await ready.wait()
        finally:
            for fd in watched:
                loop.remove_reader(fd)
        return self._child is not None and self._child.poll() is not None

    async def write(self, data: bytes) -> None:
        """To the program's input; dropped once that is closed."""
        view = memoryview(data)
        while view and self._input >= 0:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                await _writable(self._input)
            except OSError:  # nobody reads any more
                self._close_input()

    async def end_input(self) -> None:
        if self._program.tty:
            await self.write(b"\x04")
        else:
            self._close_input()

    def _close_input(self) -> None:
        if self._input >= 0:
            fd, self._input = self._input, -1
            os.close(fd)

    def resize(self, rows: int, columns: int) -> None:
        if self._program.tty and self._input >= 0 and self._child is not None:
            set_size(self._input, rows, columns)
            if self._child.poll() is None:
                self._child.send_signal(signal.SIGWINCH)
                self._resize_inner(rows, columns)

    def _resize_inner(self, rows: int, columns: int) -> None:
        """The terminal in the container too: crun before 1.9 does not pass the size on."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            if not self._inside.group.contains(pid):
                return
            for number in range(3):
                fd = os.open(
                    f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
                )
                try:
                    if os.isatty(fd):
                        set_size(fd, rows, columns)
                        return
                finally:
                    os.close(fd)

    async def wait(self) -> int:
        """The program's exit code; 128 + n when a signal ended it."""
        assert self._child is not None
        while self._child.poll() is None:
            await process.readable(self._pidfd)
        code = self._child.returncode
        return 128 - code if code < 0 else code

    async def leave(self) -> None:
        """Wait for a program that goes on without us; cancelled, it goes on all the same."""
        try:
            await self.wait()
        except asyncio.CancelledError:
            self._child = None
            raise
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the program, gently first, and gives everything back."""
        self._close_input()
        for fd in self._outputs:
            os.close(fd)
        self._outputs.clear()
        if self._child is not None and self._child.poll() is None:
            session = execute.session_of(self._pid_file, self._inside.group)
            for number in (signal.SIGHUP, signal.SIGKILL):
                execute.kill_by_file(self._pid_file, self._inside.group, number)
                limit_s = HANGUP_TIMEOUT_S if number == signal.SIGHUP else KILL_TIMEOUT_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wait(), limit_s)
                    break
            else:
                self._child.kill()
                self._child.wait()
            if session:  # what the program left behind when it heard of the hang-up
                execute.kill_session(session, self._inside.group, signal.SIGKILL)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._spec_file.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)


class Attachment:
    """The streams of the container's own program, beside whoever else has them."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended = self._behind = False

    async def start(self) -> None:
        try:
            directory = os.open(self._inside.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # A socket's path may have 107 bytes, ours is longer.
                self._socket.connect(f"/proc/self/fd/{directory}/attach")
            finally:
                os.close(directory)
        except OSError as error:
            raise from_os_error(f"attach to container {self._inside.id}", error) from error
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            packet = self._socket.recv(PACKET_BYTES * 5)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet or self._bytes > BEHIND_BYTES_MAX:
            self._behind = bool(packet)
            self._finish()
        else:
            self._waiting.append((STDERR if packet[0] == 3 else STDOUT, packet[1:]))
            self._bytes += len(packet) - 1
        self._changed.set()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Until the program closes its streams. Raises RuntimeFailure for a reader far too slow."""
        while True:
            while self._waiting:
                stream, data = self._waiting.popleft()
                self._bytes -= len(data)
                yield stream, data
            if self._behind:
                raise RuntimeFailure(
                    f"attach to container {self._inside.id}: the output came faster than it was fetched; "
                    "attach again, or read the logs"
                )
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), PACKET_BYTES):
            with contextlib.suppress(OSError):  # the program is gone: the output says so
                await asyncio.get_running_loop().sock_sendall(
                    self._socket, data[start : start + PACKET_BYTES]
                )

    async def end_input(self) -> None:
        if self._inside.tty:
            await self.write(b"\x04")
        else:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def resize(self, rows: int, columns: int) -> None:
        """By the monitor; a size of no terminal does nothing."""
        if not self._inside.tty:
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._inside.place / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(fd, f"1 {rows & 0xFFFF} {columns & 0xFFFF}\n".encode())
            finally:
                os.close(fd)

    async def close(self) -> None:
        self._finish()

    def _finish(self) -> None:
        """Closed at once: the monitor waits for a socket that nobody reads."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        self._ended = True
        self._changed.set()


def set_size(fd: int, rows: int, columns: int) -> None:
    """The size of a terminal, for programs that draw."""
    if rows and columns:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))


def _read(fd: int) -> bytes | None:
    """None = nothing now, b"" = no more ever."""
    try:
        return os.read(fd, BLOCK_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # a terminal without a user end
        return b""


async def _writable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)
