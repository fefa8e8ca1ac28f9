"""An agent that kills itself at its n-th step: run by test_runtime_kill_points, one process per step.

A step is whatever changes the machine: a file made, renamed or removed, a mount, a program started (before,
right after and a little later). Python's audit events and wrapped calls count them; at the chosen number
the process sends itself SIGKILL, as a crash would. The program imports everything once and forks for each
round that standard input asks for (first line: where and as whom); it says the step it died at.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from swarmpy.node.runtime import process, system, userns  # noqa: E402
from swarmpy.proto import types_pb2  # noqa: E402

from tests.integration.test_runtime_containers import Box  # noqa: E402

AUDITED = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "os.chown", "shutil.rmtree",
    "subprocess.Popen",
}  # fmt: skip
LATER_S = 0.008


class Counter:
    """Dies at step number `last`; the lock keeps the order of steps in several threads."""

    def __init__(self, last: int, said: int) -> None:
        self.last, self.said, self.count, self.phase, self.on = last, said, 0, "", False
        self.lock = threading.Lock()

    def step(self, what: str) -> None:
        if not self.on:
            return
        with self.lock:
            self.count += 1
            if self.count == self.last:
                os.write(self.said, f"{self.phase}: {what}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_TRUNC)
        )
        if self.on and (event in AUDITED or writes):
            self.step(f"{event} {str(arguments[0])[-60:]}")

    def around(self, module: Any, name: str, *, later: bool = False) -> None:
        """Steps before and after a function, and once more a little later."""
        function: Callable[..., Any] = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.step(f"before {name}")
            result = function(*arguments, **options)
            self.step(f"after {name}")
            if later and self.on:
                if self.count + 1 == self.last:
                    time.sleep(LATER_S)
                self.step(f"later than {name}")
            return result

        setattr(module, name, counted)


async def life(box: Box, counter: Counter, shared: Path) -> None:
    """One container from create to remove, with everything that could be left behind."""
    runtime = box.make()
    await runtime.open()
    mounts = [
        types_pb2.Mount(source=str(shared), target="/shared"),
        types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, target="/anonymous"),
        types_pb2.Mount(type=types_pb2.MOUNT_TMPFS, target="/scratch"),
    ]
    counter.on, counter.phase = True, "create"
    netns = box.base / "net-victim"
    ids = await runtime.pin_user("victim", {"net": netns})
    request = box.request("victim", "sleep", "1000", mounts=mounts, userns="auto")
    await runtime.create(replace(request, ids=ids, netns=netns))
    counter.phase = "start"
    await runtime.start("victim")
    counter.phase = "exec"
    await runtime.exec("victim", ["true"], timeout_s=20)
    counter.phase = "resize"
    await runtime.resize("victim", types_pb2.ResourceRequirements(pids_limit=99))
    counter.phase = "stop"
    await runtime.stop("victim", "SIGKILL", 1000)
    counter.phase = "remove"
    await runtime.remove("victim")
    counter.on = False
    await runtime.close()


def round_of(number: int, arguments: list[str]) -> None:
    counter = Counter(number, sys.stdout.fileno())
    sys.addaudithook(counter.audit)
    for name in ("mount", "umount", "mount_idmapped"):
        counter.around(system, name)
    counter.around(process, "spawn", later=True)
    counter.around(userns, "take")
    box = Box(Path(arguments[0]), arguments[2], arguments[1])
    asyncio.run(life(box, counter, Path(arguments[3])))
    os.write(sys.stdout.fileno(), f"end: {counter.count}\n".encode())


def main() -> None:
    arguments = sys.stdin.readline().split()  # not on the command line, where they would look like a leak
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            round_of(int(line), arguments)
            os._exit(0)
        os.waitpid(pid, 0)
        os.write(sys.stdout.fileno(), b"\n")


if __name__ == "__main__":
    main()
