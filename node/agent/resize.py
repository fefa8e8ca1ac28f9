"""Limits of running tasks follow what the managers want, in place.

Level-based: a task's wanted limits are compared with those its container has, whenever anything changed and
after a restart. What the kernel refuses (a memory limit below what is in use) is said in the task's status
and tried again until it is taken or something else is wanted. One asyncio task per task at most; sidecars are resized
beside the main container, init containers are made with what is wanted when they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarmpy.node.agent import pod
from swarmpy.node.agent.machine import Local
from swarmpy.node.runtime.errors import ContainerError, UnknownContainer
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import objects_pb2, types_pb2

RETRY_S = 10.0
REASON = "LIMITS_REFUSED"
Limits = dict[str, types_pb2.ResourceRequirements]  # by container, and that of the pod
WHOLE = "/"  # behind a task's id: all its containers together


def limits_of(local: Local) -> Limits:
    """What the containers of a task that is wanted are to have."""
    if local.wanted is None:
        return {}
    spec = local.wanted.spec
    wanted = {
        pod.container_id(local.task_id, part.name): part.resources
        for part in pod.parts(spec)
        if part.role != pod.INIT_ROLE
    }
    return {**wanted, local.task_id + WHOLE: spec.pod_resources} if pod.is_pod(spec) else wanted


class Resizer:
    """`report(task_id, sentence)` is called with "" once the limits are as wanted."""

    def __init__(self, runtime: Runtime, report: Callable[[str, str], None]) -> None:
        self._runtime = runtime
        self._report = report
        self._running: dict[str, tuple[Limits, asyncio.Task[None]]] = {}

    def look(self, local: Local) -> None:
        """Start to change the limits of a task where they are not the wanted ones."""
        alive = types_pb2.TASK_READY <= local.state <= types_pb2.TASK_RUNNING
        wanted = limits_of(local) if alive else {}
        known = self._running.get(local.task_id)
        if known is not None and known[0] != wanted:
            known[1].cancel()
            known = None
        if known is not None or not any(
            self._differs(container_id, limits) for container_id, limits in wanted.items()
        ):
            return
        task = asyncio.create_task(self._change(local.task_id, wanted), name=f"limits {local.task_id}")
        self._running[local.task_id] = wanted, task
        task.add_done_callback(lambda done: self._ended(local.task_id, done))

    def _differs(self, container_id: str, limits: types_pb2.ResourceRequirements) -> bool:
        """One that is not there (yet, or while it is restarted) is made with the limits that are wanted then."""
        if container_id.endswith(WHOLE):
            return not self._runtime.pods.has_limits(container_id.removesuffix(WHOLE), limits)
        there = container_id in self._runtime.pids()
        return there and not self._runtime.has_limits(container_id, limits)

    def _ended(self, task_id: str, done: asyncio.Task[None]) -> None:
        known = self._running.get(task_id)
        if known is not None and known[1] is done:
            del self._running[task_id]

    async def _change(self, task_id: str, wanted: Limits) -> None:
        while True:
            refused = []
            for container_id, limits in wanted.items():
                try:
                    if container_id.endswith(WHOLE):
                        await asyncio.to_thread(self._runtime.pods.limit, task_id, limits)
                    else:
                        await self._runtime.resize(container_id, limits)
                except UnknownContainer:
                    continue
                except ContainerError as error:
                    refused.append(_whose(container_id) + str(error))
            self._report(task_id, "; ".join(refused))
            if not refused:
                return
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _whose(container_id: str) -> str:
    """How a refusal begins, where it is not about the main container."""
    if container_id.endswith(WHOLE):
        return "all containers together: "
    name = pod.name_of(container_id)
    return "" if name == pod.MAIN else f"container {name}: "


def with_refusal(status: objects_pb2.TaskStatus, sentence: str) -> objects_pb2.TaskStatus:
    """The status of a task whose limits could not be changed, or ("") could."""
    changed = objects_pb2.TaskStatus()
    changed.CopyFrom(status)
    if sentence:
        changed.error, changed.reason = sentence, REASON
    elif status.reason == REASON:
        changed.error = changed.reason = ""
    return changed
