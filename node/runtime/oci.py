"""The OCI runtime: which program, how it is called, what it can be asked.

crun before runc: half the start time. On a hybrid cgroup host crun misreads the machine when
`/sys/fs/cgroup/unified/cgroup.controllers` is not empty; a wrapper script hides that file from it in a
private mount namespace. Any other program with runc's command line works with `runtime=`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from swarmpy.node.runtime import cgroups, process
from swarmpy.node.runtime.errors import ContainerError, MissingTool, RuntimeFailure, from_runtime

CALL_TIMEOUT_S = 60.0
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + SEARCH_PATH)


def environment() -> dict[str, str]:
    """A small constant environment: nothing of ours leaks into runtimes and monitors."""
    return {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "TZ": "UTC"}


class Oci:
    """Calls to one runtime program with one state directory."""

    def __init__(self, program: str, state: Path) -> None:
        self.program = program
        self.state = state

    @classmethod
    def choose(cls, wanted: str, run_dir: Path, layout: cgroups.Layout) -> Oci:
        names = ["crun", "runc"] if wanted == "auto" else [wanted]
        for name in names:
            program = find_program(name)
            if program is None:
                continue
            if Path(program).name == "crun" and needs_wrapper(layout):
                wrapper = write_wrapper(program, run_dir, layout)
                if wrapper is None:
                    continue
                program = wrapper
            return cls(program, run_dir / "oci")
        if wanted == "auto":
            raise MissingTool("no OCI runtime on this node: apt-get install crun (or runc)")
        raise MissingTool(f"OCI runtime {wanted!r}: not found; apt-get install crun, or check --runtime")

    def argv(self, *arguments: str) -> list[str]:
        return [self.program, f"--root={self.state}", *arguments]

    async def call(self, what: str, *arguments: str) -> bytes:
        done = await process.run(self.argv(*arguments), env=environment(), timeout_s=CALL_TIMEOUT_S)
        if done.code != 0:
            raise from_runtime(what, done.output.decode(errors="replace"))
        return done.output

    async def start(self, container_id: str) -> None:
        await self.call(f"start of container {container_id}", "start", container_id)

    async def delete(self, container_id: str) -> None:
        """Forget a container whose processes are gone; nothing happens for one not known."""
        if not (self.state / container_id).exists():
            return
        try:
            await self.call(f"delete of container {container_id}", "delete", "-f", container_id)
        except ContainerError:
            if (self.state / container_id).exists():
                raise

    async def status(self, container_id: str) -> str:
        """ "created", "running", "stopped", or "" for a container the runtime does not know."""
        if not (self.state / container_id).exists():
            return ""
        try:
            said = await self.call(f"state of container {container_id}", "state", container_id)
            return str(json.loads(said)["status"])
        except (ContainerError, ValueError, KeyError):
            return ""

    def exec_argv(self, container_id: str, process_file: Path, pid_file: Path) -> Sequence[str]:
        return self.argv("exec", "--process", str(process_file), "--pid-file", str(pid_file), container_id)


def needs_wrapper(layout: cgroups.Layout) -> bool:
    if layout.unified is None or layout.pure_v2:
        return False
    return bool((layout.unified / "cgroup.controllers").read_text().strip())


def write_wrapper(program: str, run_dir: Path, layout: cgroups.Layout) -> str | None:
    unshare, mount = find_program("unshare"), find_program("mount")
    if unshare is None or mount is None or layout.unified is None:
        return None
    hidden = shlex.quote(str(layout.unified / "cgroup.controllers"))
    inner = f'{mount} --bind /dev/null {hidden} && exec {shlex.quote(program)} "$@"'
    path = run_dir / "crun"
    text = (
        f'#!/bin/sh\nexec {unshare} --mount --propagation slave /bin/sh -c {shlex.quote(inner)} crun "$@"\n'
    )
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(text)
        fresh.chmod(0o700)
        fresh.replace(path)
    except OSError as error:
        raise RuntimeFailure(f"writing {path}: {error.strerror}") from error
    return str(path)
