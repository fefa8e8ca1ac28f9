"""Running programs: `subprocess` (vfork, never os.fork) and a pidfd per child on the event loop.

Output goes to a memfd, never to a pipe: a container that inherited a pipe would keep us waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from swarmpy.node.runtime.errors import MissingTool, RuntimeFailure, StartRejected, from_os_error

OUTPUT_BYTES_MAX = 64 * 1024
END_TIMEOUT_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    code: int
    output: bytes


async def readable(fd: int) -> None:
    """Wait until the descriptor has data, an end, or (a pidfd) a dead process."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await future
    finally:
        loop.remove_reader(fd)


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], output: int, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv), env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            pass_fds=tuple(pass_fds), start_new_session=True, cwd="/",
        )  # fmt: skip
    except FileNotFoundError as error:
        raise MissingTool(f"{argv[0]}: not found; install it or check PATH") from error
    except OSError as error:
        raise from_os_error(f"start of {argv[0]}", error) from error


async def finish(
    child: subprocess.Popen[bytes], timeout_s: float, *, end: Callable[[], None] | None = None
) -> int:
    """Exit code of a child; at the deadline, or when cancelled, the child is killed and reaped.

    `end` is a gentler way to end it, tried first.
    """
    pidfd = os.pidfd_open(child.pid)
    try:
        try:
            await asyncio.wait_for(readable(pidfd), timeout_s)
        except TimeoutError:
            if end is not None:
                end()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(readable(pidfd), END_TIMEOUT_S)
            raise
    finally:
        os.close(pidfd)
        if child.poll() is None:
            if end is not None:
                end()
            child.kill()
            child.wait()
    return child.wait()


async def run(argv: Sequence[str], *, env: Mapping[str, str], timeout_s: float) -> Finished:
    """Run to the end and return the exit code with the end of what it printed."""
    memory = os.memfd_create("output")
    try:
        child = spawn(argv, env=env, output=memory)
        try:
            code = await finish(child, timeout_s)
        except TimeoutError as error:
            said = tail(memory).decode(errors="replace")
            raise RuntimeFailure(f"{argv[0]}: no end within {timeout_s:g} s: {said}") from error
        return Finished(code, tail(memory))
    finally:
        os.close(memory)


def tail(memory: int) -> bytes:
    size = os.fstat(memory).st_size
    return os.pread(memory, OUTPUT_BYTES_MAX, max(0, size - OUTPUT_BYTES_MAX))


class Pipe:
    """A pipe whose ends are closed once each."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read, True)

    def close_read(self) -> None:
        self.read = self._close(self.read)

    def close_write(self) -> None:
        self.write = self._close(self.write)

    def close(self) -> None:
        self.close_read()
        self.close_write()

    @staticmethod
    def _close(fd: int) -> int:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        return -1


async def read_line(fd: int, timeout_s: float) -> bytes:
    """One line from a pipe; what there is where it ends without one. Not for pipes with more behind it."""
    os.set_blocking(fd, False)
    buffer = b""

    async def collect() -> None:
        nonlocal buffer
        while b"\n" not in buffer and len(buffer) < OUTPUT_BYTES_MAX:
            await readable(fd)
            chunk = os.read(fd, 8192)
            if not chunk:
                return
            buffer += chunk

    await asyncio.wait_for(collect(), timeout_s)
    return buffer.partition(b"\n")[0]


async def blocking(function: Callable[[], T]) -> T:
    """Run in a thread and, unlike `to_thread`, be sure it ended also when cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


def signal_number(name: str) -> int:
    """SIGTERM, TERM, 15, SIGRTMIN+3, "" = SIGTERM."""
    text = (name or "SIGTERM").upper()
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    base, _, offset = text.removeprefix("SIG").partition("+")
    found = signal.Signals.__members__.get("SIG" + base)
    if found is None or not (offset == "" or offset.isdecimal()):
        raise StartRejected(f"container.stop_signal: {name!r} is not a signal")
    return int(found) + int(offset or 0)
