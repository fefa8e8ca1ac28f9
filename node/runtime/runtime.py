"""The containers of one node: created, started, watched, stopped, removed, and met again after a crash.

Life of a container: creating → created → starting → started → exited, written to `state.json` before each
step whose interruption must be noticed. `open` adopts the started, records the exit of the ended, and
removes everything else. Closing leaves the containers running under their monitors.

An exit is learnt from the exit file (inotify) or, should the monitor die, from the pidfd of the first
process: then the code is unknown. The code and the kernel's OOM count are stored before anything is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swarmpy.node.runtime import (
    bundle,
    cgroups,
    execute,
    logs,
    monitor,
    oci,
    pods,
    process,
    recover,
    system,
    userns,
)
from swarmpy.node.runtime.errors import (
    ContainerError,
    MissingTool,
    RuntimeFailure,
    StartRejected,
    UnknownContainer,
    from_os_error,
)
from swarmpy.node.runtime.inotify import Inotify
from swarmpy.node.runtime.inside import Inside, inside_of
from swarmpy.node.runtime.lock import RunLock
from swarmpy.node.runtime.request import ContainerRequest, ExecResult, Exit, Found, IdRange, LogLine, Stats
from swarmpy.proto import types_pb2

log = logging.getLogger(__name__)

ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
EXIT_FILE_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 10.0
ROTATE_INTERVAL_S = 5.0


class _Container:
    def __init__(self, state: bundle.State, places: monitor.Places) -> None:
        self.state, self.places = state, places
        self.lock = asyncio.Lock()
        self.exited = asyncio.Event()
        self.wakers: set[asyncio.Event] = set()
        self.pidfd = -1
        self.handle: tuple[bundle.State, Inside] | None = (
            None  # made once a state: statistics ask every second
        )


class Runtime:
    """One per node; `owner` must be unique on the machine. Used on one event loop.

    `runtimes` are OCI runtimes that containers may ask for by name, beside the well-known: name -> program.
    """

    def __init__(
        self, *, state_dir: Path, run_dir: Path, log_dir: Path, owner: str, runtime: str = "auto",
        runtimes: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._directories = bundle.Directories(state_dir.absolute(), run_dir.absolute(), log_dir.absolute())
        self._owner = owner
        self.pods = pods.Pods(self._directories.run, self._directories.state, owner)
        self._wanted_runtime, self._runtimes = runtime, dict(runtimes or {})
        self._containers: dict[str, _Container] = {}
        self._slots = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))
        self._lock = RunLock()
        self._rotation: asyncio.Task[None] | None = None
        self._layout: cgroups.Layout
        self._oci: oci.Oci
        self.choice: oci.Choice  # only after `open`
        self._userns: userns.Places
        self._conmon: str
        self._inotify: Inotify

    @property
    def description(self) -> str:
        """The OCI runtime in use; only after `open`."""
        return Path(self._oci.program).name

    # --- opening and closing --------------------------------------------------------------------

    async def open(self) -> list[Found]:
        """Check the tools, remove what a crash left, adopt what still runs. Call once."""
        self._layout = cgroups.detect()
        if not self._layout.trees:
            remedy = f"mount -t cgroup2 cgroup2 {cgroups.ROOT}"
            raise RuntimeFailure(f"no control groups at {cgroups.ROOT} in this mount namespace; {remedy}")
        self._conmon = conmon = oci.find_program("conmon") or ""
        if not conmon:
            raise MissingTool("conmon: not on this node; apt-get install conmon")
        try:
            self._directories.make()
            self._userns = self._directories.userns(self._owner)
            self._userns.make()
            await self._lock.take(self._directories.run / "runtime.lock")
            self.choice = oci.Choice(
                self._wanted_runtime, self._runtimes, self._directories.run, self._layout
            )
            self._oci = self.choice.default()
            await process.blocking(lambda: recover.forget_other_boot(self._directories))
        except OSError as error:
            raise from_os_error("opening the container runtime", error) from error
        self._inotify = Inotify()
        self._inotify.subscribe(self._directories.exits, self._exit_written)
        found = await self._adopt()
        self._rotation = asyncio.create_task(self._rotate_logs(), name="container log rotation")
        log.info("runtime open program=%s conmon=%s containers=%d", self._oci.program, conmon, len(found))
        return found

    async def _adopt(self) -> list[Found]:
        names = sorted(entry.name for entry in self._directories.containers.iterdir())
        states = [state for name in names if (state := bundle.read_state(self._directories, name))]
        for state in states:
            if await self._has_started(state):
                self._containers[state.id] = _Container(state, self._directories.places(state.id))
        await process.blocking(
            lambda: recover.sweep(self._directories, self._layout, self._owner, set(self._containers))
        )
        found = []
        for container in self._containers.values():
            await self._readopt(container)
            state = container.state
            found.append(Found(state.id, "exited" if state.exit else "running", state.exit, state.labels))
        return found

    async def _has_started(self, state: bundle.State) -> bool:
        if state.phase == "starting":  # died while asking the runtime: only it knows the answer
            return await self._oci_of(state).status(state.id) in {"running", "stopped", "paused"}
        return state.phase in {"started", "exited"}

    async def _readopt(self, container: _Container) -> None:
        state = container.state
        if state.exit:
            container.exited.set()
            return
        container.state = replace(state, phase="started")
        alive = system.start_time(state.pid) == state.pid_start
        monitored = system.start_time(state.monitor_pid) == state.monitor_start
        if alive and monitored:
            execute.clear(self._directories.places(state.id).bundle, self._cgroup(state))
            self._watch(container)
            return
        if alive:
            log.warning("monitor lost, container ended container=%s", state.id)
            await process.blocking(self._cgroup(state).kill)
            system.kill_process(state.pid, state.pid_start, signal.SIGKILL)
        if not self._settle(container) and monitored:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(container.exited.wait(), EXIT_FILE_TIMEOUT_S)
        if not container.exited.is_set():
            self._record(container, None, time.time_ns() // 1_000_000)

    async def close(self) -> None:
        """Stop watching. Containers keep running."""
        if self._rotation is not None:
            self._rotation.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rotation
            self._rotation = None
        for container in self._containers.values():
            self._unwatch(container)
        self._containers.clear()
        if hasattr(self, "_inotify"):
            self._inotify.close()
        self._lock.release()

    async def destroy(self) -> None:
        """Kill and remove every container of this owner; then close. Logs and volumes stay."""
        if self._rotation is None:
            await self.open()
        results = await asyncio.gather(*map(self.remove, list(self._containers)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                log.warning("remove failed, left to the sweep error=%s", result)
        await process.blocking(lambda: recover.sweep_all(self._directories, self._layout, self._owner))
        await process.blocking(self.pods.remove_all)
        await self.close()
        recover.forget_run(self._directories)

    # --- life of a container --------------------------------------------------------------------

    async def pin_user(self, container_id: str, others: Mapping[str, Path]) -> IdRange:
        """Give a container to come ids of its own; at `others` namespaces ("net", "ipc") of theirs are pinned.

        May be repeated; `remove` takes it back."""
        async with self._slots:
            return await process.blocking(lambda: userns.create(self._userns, container_id, others))

    def pids(self) -> dict[str, int]:
        """The first process of every container there is, running or not; 0 while it is being created."""
        return {container_id: known.state.pid for container_id, known in self._containers.items()}

    def has_user(self, container_id: str) -> bool:
        """Whether `pin_user` was called and nothing took it back."""
        return system.is_namespace(self._userns.pin(container_id))

    async def create(self, request: ContainerRequest) -> None:
        """Prepare and create; the program does not run yet. Done already for a known id."""
        if not ID.fullmatch(request.id):
            raise StartRejected(f"container id {request.id!r}: letters, digits, '_', '.', '-' only")
        while (known := self._containers.get(request.id)) is not None:
            async with known.lock:
                if self._containers.get(request.id) is known:
                    return
        state = self._new_state(request)
        container = _Container(state, self._directories.places(state.id))
        self._containers[request.id] = container
        async with container.lock, self._slots:
            created = False
            try:
                await self._create(container, request)
                created = True
            finally:
                if not created:
                    await self._erase(container)

    def _new_state(self, request: ContainerRequest) -> bundle.State:
        """Raises StartRejected for a runtime or a parent group that this node has not."""
        spec = request.spec
        path = cgroups.path_for(self._layout, self._owner, spec.cgroup_parent, request.group)
        kept = (spec.log.max_size_bytes, -1 if spec.log.driver == "none" else spec.log.max_files)
        return bundle.State(
            request.id, "creating", path, spec.tty, labels=dict(request.labels), log=kept,
            runtime=self.choice.named(spec.runtime).program if spec.runtime else "",
            resources=bundle.resources_text(request.resources),
            first_id=request.ids.first if request.ids else 0,
        )  # fmt: skip

    async def _create(self, container: _Container, request: ContainerRequest) -> None:
        places = container.places
        try:
            places.bundle.mkdir(mode=0o700, exist_ok=True)
            bundle.write_state(self._directories, container.state)
        except OSError as error:
            raise from_os_error(f"create of container {request.id}", error) from error
        runtime, group = self._oci_of(container.state), container.state.cgroup
        await process.blocking(
            lambda: bundle.prepare(self._directories, self._layout, request, group, runtime.program)
        )
        tty, stdin, log_kept = request.spec.tty, request.spec.open_stdin, container.state.log[1] >= 0
        pid = await monitor.create(self._conmon, runtime, places, tty=tty, stdin=stdin, log=log_kept)
        monitor_pid = monitor.monitor_pid(places)
        started, monitor_started = system.start_time(pid), system.start_time(monitor_pid)
        container.state = replace(
            container.state, phase="created", pid=pid, pid_start=started or 0,
            monitor_pid=monitor_pid, monitor_start=monitor_started or 0,
        )  # fmt: skip
        bundle.write_state(self._directories, container.state)
        if started is None or monitor_started is None:
            raise RuntimeFailure(f"create of container {request.id}: it ended before it was started")
        self._cgroup(container.state).limit_io(request.resources)
        monitor.open_stdio(pid)
        self._watch(container)

    async def start(self, container_id: str) -> int:
        """Run the program of a created container; its pid."""
        container = self._get(container_id)
        async with container.lock:
            if container.state.phase in {"created", "starting"}:
                self._write(container, phase="starting")
                async with self._slots:
                    await self._oci_of(container.state).start(container_id)
                if not container.exited.is_set():
                    self._write(container, phase="started")
            return container.state.pid

    async def wait(self, container_id: str) -> Exit:
        container = self._get(container_id)
        await container.exited.wait()
        return container.state.exit or Exit(None, False, time.time_ns() // 1_000_000)

    async def stop(self, container_id: str, signal_name: str, grace_ms: int) -> Exit:
        """Signal, wait `grace_ms`, then kill the whole control group."""
        container = self._get(container_id)
        number = process.signal_number(signal_name)
        if not container.exited.is_set():
            running = container.state.phase == "started"
            if running and system.kill_process(container.state.pid, container.state.pid_start, number):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(container.exited.wait(), grace_ms / 1000)
            if not container.exited.is_set():
                await self._kill(container)
        return await self.wait(container_id)

    async def _kill(self, container: _Container) -> None:
        state = container.state
        await process.blocking(self._cgroup(state).kill)
        system.kill_process(state.pid, state.pid_start, signal.SIGKILL)
        try:
            await asyncio.wait_for(container.exited.wait(), KILL_TIMEOUT_S)
        except TimeoutError as error:
            text = f"container {state.id}: pid {state.pid} does not end after SIGKILL; look for blocked I/O"
            raise RuntimeFailure(text) from error

    async def remove(self, container_id: str) -> None:
        """Kill if need be and delete all but the logs; nothing happens for an unknown id."""
        container = self._containers.get(container_id)
        if container is None:
            await process.blocking(lambda: userns.release(self._userns, container_id))
            return
        async with container.lock:
            if self._containers.get(container_id) is container:
                async with self._slots:
                    await self._erase(container)

    async def _erase(self, container: _Container) -> None:
        state, places = container.state, container.places
        if container.pidfd >= 0 and not container.exited.is_set():
            await self._kill(container)
        group = self._cgroup(state)

        def processes() -> None:
            if state.monitor_pid == 0 or container.pidfd < 0:
                recover.kill_matching(lambda arguments: self._serves(arguments, state.id))
            if not group.remove(KILL_TIMEOUT_S):
                raise RuntimeFailure(f"container {state.id}: its processes do not end; look for blocked I/O")

        await monitor.gone(state.monitor_pid, state.monitor_start)
        await process.blocking(processes)
        try:
            await self._oci_of(state).delete(state.id)
        except ContainerError as error:
            log.info("runtime state removed by hand container=%s error=%s", state.id, error)
            shutil.rmtree(self._oci.state / state.id, ignore_errors=True)
        await process.blocking(lambda: bundle.remove(self._directories, places.id))
        await process.blocking(lambda: userns.release(self._userns, places.id))
        self._unwatch(container)
        self._containers.pop(state.id, None)
        container.exited.set()
        for waker in container.wakers:
            waker.set()

    def _serves(self, arguments: list[str], container_id: str) -> bool:
        root = f"--root={self._oci.state}"
        return container_id in arguments and (root in arguments or f"--runtime-arg={root}" in arguments)

    def has_limits(self, container_id: str, resources: types_pb2.ResourceRequirements) -> bool:
        """False also for a container that is not here."""
        known = self._containers.get(container_id)
        return known is not None and known.state.resources == bundle.resources_text(resources)

    async def resize(self, container_id: str, resources: types_pb2.ResourceRequirements) -> None:
        """Change the limits of a container in place; nothing happens where they are these already."""
        container, wanted = self._get(container_id), bundle.resources_text(resources)
        async with container.lock:
            state = container.state
            if state.resources == wanted or state.phase not in {"created", "starting", "started"}:
                return
            await process.blocking(lambda: self._cgroup(state).change(resources))
            container.state = replace(container.state, resources=wanted)
            self._write(container, phase=container.state.phase)
            log.info("limits changed container=%s", container_id)

    # --- looking inside -------------------------------------------------------------------------

    def inside(self, container_id: str) -> Inside:
        """A handle on a running container; RuntimeFailure for one that does not run."""
        container = self._get(container_id)
        state = container.state
        if container.handle is None or container.handle[0] is not state:
            group, place = self._cgroup(state), container.places.bundle
            container.handle = state, inside_of(state, place, group, self._oci_of(state))
        return container.handle[1]

    async def exec(
        self, container_id: str, argv: Sequence[str], *, timeout_s: float, env: Sequence[str] = ()
    ) -> ExecResult:
        """Run a program in a running container to its end; code None = killed at the deadline."""
        return await execute.run(self.inside(container_id), argv, timeout_s=timeout_s, env=env)

    async def logs(
        self, container_id: str, *, follow: bool = False, tail: int = -1, since_ms: int = 0, until_ms: int = 0
    ) -> AsyncIterator[LogLine]:
        """Lines as written, also of a removed container while its log is kept. tail -1 = all."""
        directory = self._directories.places(container_id).log.parent
        if not directory.is_dir():
            raise UnknownContainer(container_id)
        container, changed = self._containers.get(container_id), asyncio.Event()
        wakers = set() if container is None else container.wakers
        wakers.add(changed)
        try:
            async for line in logs.read(
                directory, self._inotify, changed, follow=follow, tail=tail, since_ms=since_ms,
                until_ms=until_ms, ended=lambda: container is None or container.exited.is_set(),
            ):  # fmt: skip
                yield line
        finally:
            wakers.discard(changed)

    def remove_logs(self, container_id: str) -> None:
        if ID.fullmatch(container_id):
            shutil.rmtree(self._directories.log / container_id, ignore_errors=True)

    async def stats(self, container_id: str) -> Stats:
        return self._cgroup(self._get(container_id).state).stats()

    # --- watching -------------------------------------------------------------------------------

    def _get(self, container_id: str) -> _Container:
        try:
            return self._containers[container_id]
        except KeyError:
            raise UnknownContainer(container_id) from None

    def _cgroup(self, state: bundle.State) -> cgroups.Cgroup:
        return cgroups.Cgroup(self._layout, state.cgroup)

    def _oci_of(self, state: bundle.State) -> oci.Oci:
        return oci.Oci(state.runtime, self._oci.state) if state.runtime else self._oci

    def _write(self, container: _Container, *, phase: str) -> None:
        container.state = replace(container.state, phase=phase)
        try:
            bundle.write_state(self._directories, container.state)
        except OSError as error:
            raise from_os_error(f"state of container {container.state.id}", error) from error

    def _watch(self, container: _Container) -> None:
        """Learn of the end: by the exit file, or by the process when there never is one."""
        loop = asyncio.get_running_loop()
        try:
            container.pidfd = os.pidfd_open(container.state.pid)
        except ProcessLookupError:
            loop.call_later(EXIT_FILE_TIMEOUT_S, self._give_up, container)
        else:
            loop.add_reader(container.pidfd, self._process_ended, container)
        self._settle(container)

    def _unwatch(self, container: _Container) -> None:
        if container.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(container.pidfd)
            os.close(container.pidfd)
            container.pidfd = -1

    def _process_ended(self, container: _Container) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(container.pidfd)
        if not self._settle(container):
            loop.call_later(EXIT_FILE_TIMEOUT_S, self._give_up, container)

    def _give_up(self, container: _Container) -> None:
        known = self._containers.get(container.state.id) is container
        if known and not self._settle(container):
            log.warning("exit code unknown, the monitor is gone container=%s", container.state.id)
            self._record(container, None, time.time_ns() // 1_000_000)

    def _exit_written(self, name: str | None) -> None:
        for container in list(self._containers.values()) if name is None else [self._containers.get(name)]:
            if container is not None:
                self._settle(container)

    def _settle(self, container: _Container) -> bool:
        """Take over the exit file where there is one; whether the container has ended."""
        if container.exited.is_set():
            return True
        ended = monitor.read_exit(container.places)
        if ended is not None:
            self._record(container, *ended)
        return ended is not None

    def _record(self, container: _Container, code: int | None, finished_ms: int) -> None:
        oom = self._cgroup(container.state).oom_kills() > 0
        container.state = replace(container.state, phase="exited", exit=Exit(code, oom, finished_ms))
        try:
            bundle.write_state(self._directories, container.state)
        except OSError as error:  # kept in memory; the exit file is still there for the next process
            log.warning("exit not stored container=%s error=%s", container.state.id, error)
        container.exited.set()
        for waker in container.wakers:
            waker.set()

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_INTERVAL_S)
            for container in list(self._containers.values()):
                if not container.exited.is_set():
                    with contextlib.suppress(OSError):
                        monitor.rotate_log(container.places, *container.state.log)
