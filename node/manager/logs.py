"""Logs of tasks, services and stacks, gathered from the nodes and merged by time.

A followed service is followed with the tasks it gets later. A node that is away gives a warning line,
never a hang. Lines pass through: what is waiting here is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from swarmpy.node.manager import targets
from swarmpy.node.manager.errors import Invalid, ManagerError, NotFound
from swarmpy.node.manager.history import History
from swarmpy.node.manager.merge import Merge
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.plan import pods
from swarmpy.proto import agent_pb2, agent_pb2_grpc, control_pb2, objects_pb2, types_pb2
from swarmpy.raft.store import Store

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 600.0
FOLLOW_TIMEOUT_S = 24 * 3600.0
PATIENCE_S, FOLLOW_PATIENCE_S = 10.0, 0.3
TASKS_MAX = 1000


class Logs:
    """Reads logs from agents on behalf of users."""

    def __init__(self, store: Store, history: History, channels: NodeChannels) -> None:
        self._store, self._history, self._channels = store, history, channels

    def tasks(self, request: control_pb2.LogsRequest) -> list[objects_pb2.Task]:
        """The tasks that were asked for and ever reached a node."""
        named = [*request.targets, *filter(None, (request.service, request.task))]
        if not named:
            raise Invalid("targets: name a service, a task or a stack")
        found: dict[str, objects_pb2.Task] = {}
        for target in named:
            tasks = targets.find(self._store, target, stacks=True)
            if request.previous:
                tasks = targets.previous(tasks) or _before(self._store, tasks)
            found.update({task.meta.id: task for task in tasks})
        named_one = request.container
        if named_one and found and not any(named_one in pods.names(task.spec) for task in found.values()):
            targets.container(next(iter(found.values())), named_one)
        started = [task for task in found.values() if targets.has_run(task)]
        if request.previous and not started:
            raise NotFound(f"no task before the present ones is known of {', '.join(named)}")
        return started[-TASKS_MAX:]

    async def read(self, request: control_pb2.LogsRequest) -> AsyncIterator[control_pb2.LogLine]:
        tasks = self.tasks(request)
        merge = Merge(FOLLOW_PATIENCE_S if request.follow else PATIENCE_S)
        for task in tasks:
            self._add(merge, task, request)
        watching: asyncio.Task[None] | None = None
        if request.follow and not request.previous:
            watching = asyncio.create_task(self._join(request, {task.meta.id for task in tasks}, merge))
        else:
            merge.finish()
        try:
            async for line in merge.lines():
                yield line
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await merge.close()

    async def _join(self, request: control_pb2.LogsRequest, known: set[str], merge: Merge) -> None:
        """Add the tasks that are started later, whole; ends when nothing that was asked for exists any more."""
        later = control_pb2.LogsRequest(
            follow=True, tail=-1, since_ms=0, until_ms=request.until_ms, container=request.container
        )
        while True:
            changed = self._history.changed
            try:
                found = self.tasks(request)
            except NotFound:
                merge.finish()
                return
            for task in found:
                if task.meta.id not in known:
                    known.add(task.meta.id)
                    self._add(merge, task, later)
            if request.task or (request.targets and not self._may_grow(request)):
                merge.finish()
                return
            await changed.wait()

    def _may_grow(self, request: control_pb2.LogsRequest) -> bool:
        """Single tasks get no successors under their own name."""
        return any(self._store.task(target) is None for target in request.targets)

    def _add(self, merge: Merge, task: objects_pb2.Task, request: control_pb2.LogsRequest) -> None:
        """The lines of a task's containers, each a stream of its own; only the first says what is missing."""
        known = pods.names(task.spec)
        names = [request.container] if request.container else known
        for position, name in enumerate(name for name in names if name in known):
            merge.add(self._task_lines(task, request, "" if name == known[0] else name, warn=position == 0))

    async def _task_lines(
        self, task: objects_pb2.Task, request: control_pb2.LogsRequest, container: str, *, warn: bool
    ) -> AsyncIterator[control_pb2.LogLine]:
        node = self._store.node(task.node_id)
        name = node.meta.name if node else task.node_id
        warning = ""
        if node is None or node.status.state == types_pb2.NODE_DOWN:
            warning = f"node {name} is down: its part of the logs is missing"
        else:
            try:
                async for line in self._from_agent(task, request, container):
                    line.task_id, line.task_name, line.node_name = task.meta.id, task.meta.name, name
                    line.container = container
                    yield line
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    warning = f"node {name} did not give the logs of {task.meta.name}: {error.details()}"
            except TimeoutError:
                warning = f"node {name} does not answer: its part of the logs is missing"
            except ManagerError as error:
                warning = f"node {name}: {error}"
        if warning and warn:
            yield control_pb2.LogLine(
                task_id=task.meta.id, task_name=task.meta.name, node_name=name, warning=warning
            )

    async def _from_agent(
        self, task: objects_pb2.Task, request: control_pb2.LogsRequest, container: str
    ) -> AsyncIterator[control_pb2.LogLine]:
        channel = self._channels.agent(task.node_id)
        await asyncio.wait_for(channel.channel_ready(), CONNECT_TIMEOUT_S)
        asked = agent_pb2.TaskLogsRequest(
            task_id=task.meta.id, follow=request.follow, tail=request.tail,
            since_ms=request.since_ms, until_ms=request.until_ms, container=container,
        )  # fmt: skip
        timeout_s = FOLLOW_TIMEOUT_S if request.follow else READ_TIMEOUT_S
        call = agent_pb2_grpc.AgentStub(channel).Logs(asked, timeout=timeout_s)
        try:
            async for line in call:
                yield line
        finally:
            call.cancel()


def _before(store: Store, tasks: list[objects_pb2.Task]) -> list[objects_pb2.Task]:
    """Of a single task: the one before it in its slot."""
    if len(tasks) != 1:
        return []
    task = tasks[0]
    alike = [
        other
        for other in store.tasks_of_service(task.service_id)
        if other.slot == task.slot
        and (task.slot or other.node_id == task.node_id)
        and other.meta.created_ms < task.meta.created_ms
        and targets.has_run(other)
    ]
    return sorted(alike, key=lambda other: other.meta.created_ms)[-1:]
