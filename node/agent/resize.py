"""Limits of running tasks follow what the managers want, in place.

Level-based: a task's wanted limits are compared with those its container has, whenever anything changed and
after a restart. What the kernel refuses (a memory limit below what is in use) is said in the task's status
and tried again until it is taken or something else is wanted. One asyncio task per container at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarmpy.node.agent.machine import Local
from swarmpy.node.runtime.errors import ContainerError, UnknownContainer
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import objects_pb2, types_pb2

RETRY_S = 10.0
REASON = "LIMITS_REFUSED"


class Resizer:
    """`report(task_id, sentence)` is called with "" once the limits are as wanted."""

    def __init__(self, runtime: Runtime, report: Callable[[str, str], None]) -> None:
        self._runtime = runtime
        self._report = report
        self._running: dict[str, tuple[types_pb2.ResourceRequirements, asyncio.Task[None]]] = {}

    def look(self, local: Local) -> None:
        """Start to change the limits of a task where they are not the wanted ones."""
        wanted = local.wanted.spec.resources if local.wanted is not None else None
        alive = types_pb2.TASK_READY <= local.state <= types_pb2.TASK_RUNNING
        known = self._running.get(local.task_id)
        if known is not None and (not alive or known[0] != wanted):
            known[1].cancel()
            known = None
        if (
            wanted is None
            or not alive
            or known is not None
            or self._runtime.has_limits(local.task_id, wanted)
        ):
            return
        task = asyncio.create_task(self._change(local.task_id, wanted), name=f"limits {local.task_id}")
        self._running[local.task_id] = wanted, task
        task.add_done_callback(lambda done: self._ended(local.task_id, done))

    def _ended(self, task_id: str, done: asyncio.Task[None]) -> None:
        known = self._running.get(task_id)
        if known is not None and known[1] is done:
            del self._running[task_id]

    async def _change(self, task_id: str, wanted: types_pb2.ResourceRequirements) -> None:
        while True:
            try:
                await self._runtime.resize(task_id, wanted)
            except UnknownContainer:
                return
            except ContainerError as error:
                self._report(task_id, str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self._report(task_id, "")
                return

    async def close(self) -> None:
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def with_refusal(status: objects_pb2.TaskStatus, sentence: str) -> objects_pb2.TaskStatus:
    """The status of a task whose limits could not be changed, or ("") could."""
    changed = objects_pb2.TaskStatus()
    changed.CopyFrom(status)
    if sentence:
        changed.error, changed.reason = sentence, REASON
    elif status.reason == REASON:
        changed.error = changed.reason = ""
    return changed
