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
from collections.abc import Mapping, Sequence
from pathlib import Path

from swarmpy.node.runtime import cgroups, process
from swarmpy.node.runtime.errors import (
    ContainerError,
    MissingTool,
    RuntimeFailure,
    StartRejected,
    from_runtime,
)

CALL_TIMEOUT_S = 60.0
KNOWN = ("crun", "runc", "crun-wasm", "youki", "runsc", "kata-runtime")
ONLY_FILES = ("crun", "crun-wasm", "runc")  # keep nothing but a directory per container
WRAPPED = ("crun", "crun-wasm")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + SEARCH_PATH)


def environment() -> dict[str, str]:
    """A small constant environment: nothing of ours leaks into runtimes and monitors."""
    return {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "TZ": "UTC"}


class Oci:
    """Calls to one runtime program with one state directory."""

    def __init__(self, program: str, state: Path) -> None:
        self.program = program  # makes and enters containers
        self.state = state
        wrapped = Path(program).parent == state.parent
        # What only signals a container or forgets it does not look at control groups: no wrapper is needed.
        self.plain = (find_program(Path(program).name) or program) if wrapped else program

    def argv(self, *arguments: str) -> list[str]:
        return [self.program, f"--root={self.state}", *arguments]

    async def call(self, what: str, *arguments: str) -> bytes:
        argv = [self.plain, f"--root={self.state}", *arguments]
        done = await process.run(argv, env=environment(), timeout_s=CALL_TIMEOUT_S)
        if done.code != 0:
            raise from_runtime(what, done.output.decode(errors="replace"))
        return done.output

    async def start(self, container_id: str) -> None:
        await self.call(f"start of container {container_id}", "start", container_id)

    async def delete(self, container_id: str) -> None:
        """Forget a container whose processes and control groups are gone; nothing happens for one not known.

        Of these runtimes only a directory is left by then: removing it needs no program.
        """
        if not (self.state / container_id).exists():
            return
        if Path(self.program).name in ONLY_FILES:
            await process.blocking(lambda: shutil.rmtree(self.state / container_id, ignore_errors=True))
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


class Choice:
    """The OCI runtimes of this node: the usual one, and those a container may ask for by name."""

    def __init__(
        self, wanted: str, configured: Mapping[str, str], run_dir: Path, layout: cgroups.Layout
    ) -> None:
        self._wanted, self._configured = wanted, configured
        self._run_dir, self._layout = run_dir, layout

    def default(self) -> Oci:
        """Raises MissingTool where the node has none."""
        names = ["crun", "runc"] if self._wanted == "auto" else [self._wanted]
        for name in names:
            if (found := self._find(name)) is not None:
                return found
        if self._wanted == "auto":
            raise MissingTool("no OCI runtime on this node: apt-get install crun (or runc)")
        raise MissingTool(
            f"OCI runtime {self._wanted!r}: not found; apt-get install crun, or check --runtime"
        )

    def named(self, name: str) -> Oci:
        """What `--runtime NAME` of a service means here; StartRejected where this node has it not."""
        program = self._configured.get(name, name if name in KNOWN else "")
        if not program and name == Path(self._wanted).name:
            program = self._wanted
        found = self._find(program) if program else None
        if found is None:
            have = self.names()
            remedy = 'install it, or name its program under "runtimes" in the node\'s node.json'
            raise StartRejected(
                f"container.runtime: {name!r} is not on this node, which has {', '.join(have) or 'none'}; {remedy}"
            )
        return found

    def names(self) -> list[str]:
        """What `named` finds now."""
        known = {
            Path(self._wanted).name: self._wanted,
            **dict(zip(KNOWN, KNOWN, strict=True)),
            **self._configured,
        }
        return sorted(name for name, program in known.items() if find_program(program))

    def _find(self, name: str) -> Oci | None:
        program = find_program(name)
        if program is not None and Path(program).name in WRAPPED and needs_wrapper(self._layout):
            program = write_wrapper(program, self._run_dir, self._layout)
        return None if program is None else Oci(program, self._run_dir / "oci")


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
    path = run_dir / Path(program).name
    text = f'#!/bin/sh\nexec {unshare} --mount --propagation slave /bin/sh -c {shlex.quote(inner)} {path.name} "$@"\n'
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(text)
        fresh.chmod(0o700)
        fresh.replace(path)
    except OSError as error:
        raise RuntimeFailure(f"writing {path}: {error.strerror}") from error
    return str(path)
