"""Runs the containers of one task from its start to its end, and asks them how they are.

Order: init containers one by one, sidecars, and the main container once every sidecar is up. It can be
begun again at any point (the agent was restarted): what the kept record says has ended is not run
again, what runs is watched on. `next` gives the task's worker what changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarmpy.node.agent import pod, probes
from swarmpy.node.agent.health import Prober
from swarmpy.node.agent.pod import Part, Progress, Seen
from swarmpy.node.agent.probes import Check, Checks, Probe
from swarmpy.node.image.errors import ImageError
from swarmpy.node.runtime.errors import ContainerError, UnknownContainer
from swarmpy.node.runtime.request import Exit
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import objects_pb2, types_pb2

log = logging.getLogger(__name__)
GATHER_S = 0.02
LIVENESS, READINESS, STARTUP = (
    objects_pb2.PROBE_LIVENESS, objects_pb2.PROBE_READINESS, objects_pb2.PROBE_STARTUP,
)  # fmt: skip


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Ended:
    """How a task ended. `failure` is a sentence, "" where its exit code says it all."""

    failure: str = ""
    reason: str = ""
    exit_code: int | None = None
    finished_ms: int = 0


@dataclass(frozen=True)
class Task:
    """What a supervisor must know. `checks` by name of container; `address`: where it is asked."""

    id: str
    parts: tuple[Part, ...]
    checks: dict[str, Checks]
    address: str


Create = Callable[[Part], Awaitable[None]]
Stop = Callable[[str], Awaitable[Exit]]


class Supervisor:
    """One per running task. `create` makes a container if it is not there, `stop` ends one in its own way."""

    def __init__(
        self, runtime: Runtime, prober: Prober, task: Task, known: objects_pb2.TaskStatus, *,
        create: Create, stop: Stop,
    ) -> None:  # fmt: skip
        self._runtime, self._prober, self._task = runtime, prober, task
        self._create, self._stop = create, stop
        self.seen = pod.resumed(task.id, task.parts, task.checks, known, now_ms())
        self._changed, self._moved = asyncio.Event(), asyncio.Event()  # for `next`, for `_until`
        # One program without checks has nothing to tell but its start and its end; others tell at once what
        # is ahead, and what comes in a burst in one piece: each is a record on disk and a write of the cluster's.
        self._simple = len(task.parts) == 1 and not task.checks[pod.MAIN]
        self._told = (known.state >= types_pb2.TASK_RUNNING, Progress(known.ready)) if self._simple else None
        self._run_task = asyncio.create_task(self._run(), name=f"supervisor {task.id}")
        self._run_task.add_done_callback(lambda _: self._changed.set())

    @property
    def progress(self) -> Progress:
        return pod.progress_of(self.seen.values())

    @property
    def started(self) -> bool:
        """The main container runs and has passed its first health check."""
        return self.seen[pod.MAIN].healthy

    async def next(self) -> Ended | None:
        """Wait for the end, or for something new (None). Raises what broke a step."""
        while not self._run_task.done():
            now = (self.started, self.progress)
            if now != self._told:
                self._told = now
                return None
            self._changed.clear()
            await self._changed.wait()
            if not self._simple and not self._run_task.done():
                await asyncio.sleep(GATHER_S)
        return self._run_task.result()

    async def close(self) -> None:
        """Stop watching; the containers stay as they are."""
        self._run_task.cancel()
        await asyncio.gather(self._run_task, return_exceptions=True)

    def stopped(self, container_id: str, exit_: Exit) -> None:
        """A container was ended from outside, after `close`."""
        name = pod.name_of(container_id)
        if name in self.seen and self.seen[name].state == pod.RUNNING:
            self.seen[name] = self.seen[name].ended(exit_.code, "", now_ms())

    async def _run(self) -> Ended:
        for part in self._of(pod.INIT_ROLE):
            if (failure := await self._run_init(part)) is not None:
                return failure
        sidecars = self._of(pod.SIDECAR_ROLE)
        loops = [asyncio.create_task(self._keep(part), name=self._id(part)) for part in sidecars]
        try:
            await self._until(lambda: all(self.seen[part.name].up for part in sidecars), loops)
            main = asyncio.create_task(self._run_main(), name=self._task.id)
            try:
                await asyncio.wait({main, *loops}, return_when=asyncio.FIRST_COMPLETED)
                for loop in loops:
                    if loop.done():  # only by an error of ours
                        loop.result()
                ended = main.result()
            finally:
                await _cancel([main])
        finally:
            await _cancel(loops)
        for part in reversed(sidecars):
            await self._end(part)
        return ended

    async def _until(self, condition: Callable[[], bool], loops: Sequence[asyncio.Task[None]]) -> None:
        """Wait for it, or for the error of one of the loops."""
        while not condition():
            self._moved.clear()
            waiter = asyncio.create_task(self._moved.wait())
            try:
                await asyncio.wait({waiter, *loops}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()
            for loop in loops:
                if loop.done():
                    loop.result()

    async def _run_init(self, part: Part) -> Ended | None:
        """Once, to its end; None = it ended well."""
        seen = self.seen[part.name]
        if seen.state == pod.EXITED and seen.exit_code == 0:
            return None
        await self._start(part)
        exit_ = await self._runtime.wait(self._id(part))
        failure = exit_failure(exit_)
        self._note(part, self.seen[part.name].ended(exit_.code, failure, now_ms()))
        if failure:
            text = f"init container {part.name}: {failure}"
            return Ended(text, "INIT_FAILED", finished_ms=exit_.finished_ms)
        await self._runtime.remove(self._id(part))
        return None

    async def _run_main(self) -> Ended:
        part = self._part(pod.MAIN)
        await self._start(part)
        exit_, unhealthy = await self._live(part)
        if unhealthy:
            failure, reason = f"unhealthy: {unhealthy}", "UNHEALTHY"
        elif exit_.oom:
            failure, reason = "killed: the container used more memory than its limit", "OOM_KILLED"
        elif exit_.code is None:
            failure, reason = "the container ended and its exit code is not known", "CODE_UNKNOWN"
        else:
            failure, reason = "", ""
        self._note(part, self.seen[pod.MAIN].ended(exit_.code, failure or exit_failure(exit_), now_ms()))
        if unhealthy:
            return Ended(failure, reason, finished_ms=now_ms())
        return Ended(failure, reason, exit_.code, exit_.finished_ms)

    async def _keep(self, part: Part) -> None:
        """A sidecar: started again whenever it ends, later and later while it ends quickly."""
        quick_ends = 0
        while True:
            began_ms = now_ms()
            try:
                if self.seen[part.name].state == pod.EXITED:
                    await self._runtime.remove(self._id(part))
                    self._note(
                        part, replace(self.seen[part.name], restarts=self.seen[part.name].restarts + 1)
                    )
                await self._start(part)
                exit_, unhealthy = await self._live(part)
                failure = f"unhealthy: {unhealthy}" if unhealthy else exit_failure(exit_) or "exit code 0"
                code = exit_.code
            except (ContainerError, ImageError, OSError) as error:
                failure, code = str(error), None
            self._note(part, self.seen[part.name].ended(code, failure, now_ms()))
            quick_ends = pod.quick_ends_after(quick_ends, now_ms() - began_ms)
            delay_ms = pod.restart_delay_ms(quick_ends)
            log.warning(
                "sidecar ended task=%s container=%s delay_ms=%d error=%s",
                self._task.id, part.name, delay_ms, failure,
            )  # fmt: skip
            await asyncio.sleep(delay_ms / 1000)

    async def _start(self, part: Part) -> None:
        fresh = self._id(part) not in self._runtime.pids()
        await self._create(part)
        await self._runtime.start(self._id(part))
        if fresh or self.seen[part.name].state != pod.RUNNING:
            self._note(part, self.seen[part.name].started(now_ms()))

    async def _end(self, part: Part) -> None:
        try:
            exit_ = await self._stop(self._id(part))
        except UnknownContainer:
            return
        self._note(part, self.seen[part.name].ended(exit_.code, "", now_ms()))

    async def _live(self, part: Part) -> tuple[Exit, str]:
        """Until it ends by itself, or is stopped as unhealthy: then the reason is not ""."""
        checks = self._task.checks[part.name]
        if not checks:
            return await self._runtime.wait(self._id(part)), ""
        exited = asyncio.create_task(self._runtime.wait(self._id(part)))
        asking = asyncio.create_task(self._ask(part, checks))
        try:
            await asyncio.wait({exited, asking}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return exited.result(), ""
            unhealthy = asking.result()
            log.warning(
                "container unhealthy task=%s container=%s reason=%s", self._task.id, part.name, unhealthy
            )
            return await self._stop(self._id(part)), unhealthy
        finally:
            await _cancel([exited, asking])

    async def _ask(self, part: Part, checks: Checks) -> str:
        """Ask on and on; ends with why the container has to be given up."""
        if checks.startup is not None:
            probe = await self._loop(part, STARTUP, checks.startup)
            if probe.verdict == probes.FAILING:
                return f"{probes.WORDS[STARTUP]}: {probe.failure}"
        loops = [
            asyncio.create_task(self._loop(part, kind, check))
            for kind, check in ((LIVENESS, checks.liveness), (READINESS, checks.readiness))
            if check is not None
        ]
        try:
            if not loops:
                await asyncio.Event().wait()
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)  # readiness never ends
            return next(loop.result() for loop in loops if loop.done()).failure
        finally:
            await _cancel(loops)

    async def _loop(self, part: Part, kind: objects_pb2.ProbeKind, check: Check) -> Probe:
        probe = self.seen[part.name].probes.get(kind) or probes.begun(kind, check, now_ms())
        self._note(part, self.seen[part.name].probed(probe))
        container = self._id(part)
        while not probe.decided:
            await asyncio.sleep(max(0, probe.next_ms - now_ms()) / 1000)
            failure = await self._prober.ask(container, check, self._task.address)
            before, probe = probe, probes.answered(probe, failure, now_ms())
            if before.verdict != probe.verdict:
                log.info(
                    "%s verdict=%s task=%s container=%s reason=%s", probes.WORDS[kind],
                    objects_pb2.ProbeVerdict.Name(probe.verdict), self._task.id, part.name, failure,
                )  # fmt: skip
            self._note(part, self.seen[part.name].probed(probe))
        return probe

    # --- small things ---------------------------------------------------------------------------

    def _note(self, part: Part, seen: Seen) -> None:
        self.seen[part.name] = seen
        self._changed.set()
        self._moved.set()

    def _id(self, part: Part) -> str:
        return pod.container_id(self._task.id, part.name)

    def _part(self, name: str) -> Part:
        return next(part for part in self._task.parts if part.name == name)

    def _of(self, role: objects_pb2.ContainerRole) -> list[Part]:
        return [part for part in self._task.parts if part.role == role]


def exit_failure(exit_: Exit) -> str:
    """Why an end was none to be content with; "" for exit code 0."""
    if exit_.oom:
        return "it used more memory than its limit"
    if exit_.code is None:
        return "it ended and its exit code is not known"
    return f"exit code {exit_.code}" if exit_.code else ""


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
