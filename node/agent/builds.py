"""The agent's part in an upgrade: fetch the build that the cluster wishes, look at it, have it tried.

The leader's assignment names an image by digest; its one layer holds one file, a single-file executable
of swarmpy or a wheel. Blobs come from other nodes and are verified like every image's. What does not even
answer `--version` here, or lacks libraries, is refused before anything is stopped. Then the record says
"on trial" and the supervisor does the rest (node/builds, node/daemon). After that restart this agent, of
whichever build, says how it went and, for a build on trial, when the node is healthy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from swarmpy.node import builds
from swarmpy.node import config as node_config
from swarmpy.node.agent.images import AgentImages
from swarmpy.node.image.blobs import sync_path
from swarmpy.node.image.errors import ImageError
from swarmpy.proto import dispatcher_pb2, objects_pb2

log = logging.getLogger(__name__)
CHECK_TIMEOUT_S = 120.0  # at least; as long as the upgrade's patience where that is longer
GO_TIMEOUT_S = 30.0
HEALTHY_FOR_S = 3.0
LOOK_S = 0.5
BUILD_BYTES_MAX = 512 << 20
PROGRAM, WHEEL = "swarmpy", "swarmpy.whl"
WHEEL_CHECK = """
import swarmpy.cli.main, swarmpy.node.agent.process, swarmpy.node.manager.process, swarmpy.overlay.dns
from importlib.metadata import version
print("swarmpy", version("swarmpy"))
"""
FETCHING, TRYING = objects_pb2.BUILD_FETCHING, objects_pb2.BUILD_TRYING


class BuildRefused(Exception):
    """The build cannot run here; the message says why and what to do."""


class AgentBuilds:
    """`run` belongs to the agent's TaskGroup; `is_ready` says whether the node does all it should."""

    def __init__(
        self, paths: node_config.Paths, images: AgentImages, is_ready: Callable[[], Awaitable[bool]],
        describe_again: Callable[[], None],
    ) -> None:  # fmt: skip
        self._state = paths.state
        self._images = images
        self._is_ready = is_ready
        self._describe_again = describe_again
        self._own = os.environ.get(builds.BUILD_VARIABLE, "")
        self._wanted: dispatcher_pb2.BuildAssignment | None = None
        self._wake = asyncio.Event()
        self._doing: tuple[int, objects_pb2.BuildState] | None = None
        self._record = builds.load(self._state)

    def want(self, assignment: dispatcher_pb2.BuildAssignment | None) -> None:
        """What the leader wishes now."""
        self._wanted = assignment
        self._wake.set()

    def status(self) -> objects_pb2.BuildStatus:
        """For the node's description."""
        record = self._record
        status = objects_pb2.BuildStatus(digest=_digest(self._own), attempt=record.attempt)
        if self._doing is not None:
            status.attempt, status.state = self._doing
        elif record.trial is not None:
            status.state = TRYING
        elif record.failed:
            status.state, status.message = objects_pb2.BUILD_FAILED, record.failed
        return status

    async def run(self) -> None:
        if self._record.trial == self._own:
            await self._prove()
        elif self._record.trial is not None:  # the agent before ended between its last two steps
            self._tell_supervisor()
        await asyncio.to_thread(self._sweep)
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted = self._wanted
            if wanted is not None and wanted.attempt != self._record.attempt and self._record.trial is None:
                await self._act(wanted)

    async def _prove(self) -> None:
        """Say when the node is healthy, until the supervisor has decided."""
        healthy_s = 0.0
        while self._record.trial is not None:
            healthy_s = healthy_s + LOOK_S if await self._is_ready() else 0.0
            if healthy_s >= HEALTHY_FOR_S:
                text = builds.ready_text(self._own, self._record)
                await asyncio.to_thread(builds.ready_file(self._state).write_text, text)
            await asyncio.sleep(LOOK_S)
            self._record = await asyncio.to_thread(builds.load, self._state)
        log.info("build proved itself build=%s attempt=%d", self._own or "installed", self._record.attempt)
        self._describe_again()

    async def _act(self, wanted: dispatcher_pb2.BuildAssignment) -> None:
        digest, build = wanted.source.digest, wanted.source.digest.removeprefix("sha256:")
        log.info("build wished build=%s version=%s attempt=%d", digest, wanted.version, wanted.attempt)
        if build == self._own:
            await self._done(wanted.attempt, "")
            return
        self._say(wanted.attempt, FETCHING)
        try:
            if build:
                await self._images.copy(wanted.source)
                timeout_s = max(CHECK_TIMEOUT_S, wanted.patience_ms / 1000)
                await asyncio.to_thread(self._install, build, digest, wanted.version, timeout_s)
            self._say(wanted.attempt, TRYING)
            await self._confirmed(wanted.attempt)
        except (BuildRefused, ImageError, OSError) as error:
            await self._done(wanted.attempt, str(error))
            return
        try:
            await asyncio.to_thread(self._begin, build, wanted)
        except OSError as error:
            await self._done(wanted.attempt, f"the record cannot be written: {error}")

    def _say(self, attempt: int, state: objects_pb2.BuildState) -> None:
        self._doing = (attempt, state)
        self._describe_again()

    async def _confirmed(self, attempt: int) -> None:
        """Until the leader knows that this node is about to be away: it then waits longer for it."""
        try:
            async with asyncio.timeout(GO_TIMEOUT_S):
                while self._wanted is None or self._wanted.attempt != attempt or not self._wanted.go:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            raise BuildRefused(f"the leader did not confirm it within {GO_TIMEOUT_S:g} s") from None

    async def _done(self, attempt: int, problem: str) -> None:
        """The wish needs no restart, or cannot be fulfilled."""
        if problem:
            log.error("build refused attempt=%d error=%s", attempt, problem)
        record = self._record
        record.attempt, record.failed = attempt, problem
        try:
            await asyncio.to_thread(builds.save, self._state, record)
        except OSError as error:  # a full disk: after a restart it is tried again
            log.error("build not recorded attempt=%d error=%s", attempt, error)
        self._doing = None
        self._describe_again()

    def _begin(self, build: str, wanted: dispatcher_pb2.BuildAssignment) -> None:
        record = builds.load(self._state)
        if not self._own:
            record.installed = node_config.release()
            record.interpreter = os.environ.get("SWARMPY_BINARY") or sys.executable
        patience_s = wanted.patience_ms / 1000 or builds.PATIENCE_S
        record.began(build, wanted.attempt, patience_s)
        builds.save(self._state, record)
        self._record = record  # from now on it is the supervisor's
        log.info("build goes on trial build=%s attempt=%d", build or "installed", wanted.attempt)
        self._tell_supervisor()

    @staticmethod
    def _tell_supervisor() -> None:
        os.kill(int(os.environ["SWARMPY_SUPERVISOR"]), signal.SIGHUP)

    # -- on disk

    def _install(self, build: str, digest: str, version: str, timeout_s: float) -> None:
        """BuildRefused, OSError; blocks. What is there already was looked at before."""
        place = builds.directory(self._state) / build
        if (place / "checked").exists():
            return
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o755, parents=True)
        try:
            self._unpack(digest, place)
            launcher = builds.launcher(self._state, build)
            _check(launcher, version, timeout_s, is_wheel=(place / "lib").is_dir())
            _sync(place)
            (place / "checked").touch()
        except (BuildRefused, OSError):
            shutil.rmtree(place, ignore_errors=True)
            raise

    def _unpack(self, digest: str, place: Path) -> None:
        image = self._images.store.get(digest)
        if image is None:
            raise BuildRefused("its image vanished from this node while it was installed: upgrade again")
        manifest, _, _ = self._images.store.documents(image)
        layer = self._images.store.blob_path(manifest.layers[0].digest)
        if layer is None:
            raise BuildRefused("its layer vanished from this node while it was installed: upgrade again")
        with tarfile.open(layer) as archive:
            member = archive.next()
            if member is None or not member.isfile() or member.name not in {PROGRAM, WHEEL}:
                raise BuildRefused(
                    f"image {digest} holds no build of swarmpy: use `swarmpy upgrade --to FILE`"
                )
            if member.size > BUILD_BYTES_MAX:
                raise BuildRefused(f"the build has {member.size} bytes, at most {BUILD_BYTES_MAX}")
            content = archive.extractfile(member)
            assert content is not None
            with (place / "file").open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
        build = place.name
        lines = ["#!/bin/sh", f"export SWARMPY_BUILD={build} PYINSTALLER_RESET_ENVIRONMENT=1"]
        if member.name == PROGRAM:
            (place / "file").chmod(0o755)
            lines += [f"export SWARMPY_UNPACK_DIR={shlex.quote(str(place / 'unpacked'))}"]
            lines += [f'exec {shlex.quote(str(place / "file"))} "$@"']
        else:
            interpreter = _unpack_wheel(place)
            lines += [f"PYTHONPATH={shlex.quote(str(place / 'lib'))}${{PYTHONPATH:+:$PYTHONPATH}}"]
            lines += ["export PYTHONPATH", f'exec {shlex.quote(interpreter)} "$@"']
        launcher = place / "swarmpy"
        launcher.write_text("\n".join(lines) + "\n")
        launcher.chmod(0o755)

    def _sweep(self) -> None:
        """Builds that the node will not go back to."""
        place, record = builds.directory(self._state), self._record
        if not place.is_dir() or record.trial is not None:
            return
        for path in place.iterdir():
            if path.is_dir() and not path.is_symlink() and path.name not in {
                record.current, record.previous, self._own,
            }:  # fmt: skip
                shutil.rmtree(path, ignore_errors=True)


def _digest(build: str) -> str:
    return f"sha256:{build}" if build else ""


def _sync(place: Path) -> None:
    """What was looked at is what is there after a power cut."""
    for path in (*place.rglob("*"), place):
        if path.is_file() or path.is_dir():
            sync_path(path)


def _unpack_wheel(place: Path) -> str:
    """Into `lib`; says which Python runs it: the one that runs this, with the libraries it has."""
    import zipfile

    if getattr(sys, "frozen", False):
        raise BuildRefused(
            "this node runs swarmpy as a single file, which has no Python of its own for a wheel: "
            "upgrade with the single-file executable (make binary)"
        )
    try:
        with zipfile.ZipFile(place / "file") as wheel:
            if sum(entry.file_size for entry in wheel.infolist()) > BUILD_BYTES_MAX:
                raise BuildRefused(f"the wheel unpacks to more than {BUILD_BYTES_MAX} bytes")
            wheel.extractall(place / "lib")  # noqa: S202 (names are made harmless, the sum is bounded)
    except zipfile.BadZipFile as error:
        raise BuildRefused(f"the wheel is damaged: {error}") from error
    return sys.executable


def _check(launcher: Path, version: str, timeout_s: float, *, is_wheel: bool) -> None:
    """Whether the build starts at all here, and is what the cluster says it is."""
    asked = ["-P", "-m", "swarmpy.cli.main", "--version"]
    if is_wheel:
        asked = ["-P", "-c", WHEEL_CHECK]
    environment = builds.environment(launcher.parent.parent.parent)
    try:
        done = subprocess.run(
            [str(launcher), *asked], capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildRefused(
            f"it did not say its version within {timeout_s:g} s: give it more --patience"
        ) from None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["it said nothing"]
    if done.returncode and is_wheel and "ModuleNotFoundError" in said[0]:
        raise BuildRefused(
            f"the wheel needs what this node's Python does not have ({said[0]}): "
            "upgrade with the single-file executable (make binary), which carries everything"
        )
    if done.returncode:
        raise BuildRefused(f"it does not start here (exit code {done.returncode}): {said[0][:300]}")
    if done.stdout.strip() != f"swarmpy {version}":
        raise BuildRefused(f"it says that it is {done.stdout.strip()[:100]!r}, not 'swarmpy {version}'")
