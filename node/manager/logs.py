"""Logs of tasks and services, gathered from the nodes.

Lines that are there already come merged by time; followed ones as they arrive. A node that
is away gives a warning line, never a hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from swarmpy.node.manager.errors import Invalid, ManagerError
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.writes import Writer
from swarmpy.proto import agent_pb2, agent_pb2_grpc, control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
FOLLOW_TIMEOUT_S = 24 * 3600.0
QUEUE = 1000
MAX_TASKS = 1000


class Logs:
    """Reads logs from agents on behalf of users."""

    def __init__(self, store: Store, writer: Writer, channels: NodeChannels) -> None:
        self._store = store
        self._writer = writer
        self._channels = channels

    def tasks(self, request: control_pb2.LogsRequest) -> list[objects_pb2.Task]:
        """The tasks that were asked for and ever reached a node."""
        if request.task:
            task = self._writer.find(store_pb2.KIND_TASK, request.task)
            assert isinstance(task, objects_pb2.Task)
            return [task] if task.node_id else []
        if not request.service:
            raise Invalid("service: name a service or a task")
        service = self._writer.find(store_pb2.KIND_SERVICE, request.service)
        tasks = self._store.tasks_of_service(service.meta.id)
        started = [task for task in tasks if task.node_id and task.status.state >= types_pb2.TASK_STARTING]
        return sorted(started, key=lambda task: (task.slot, task.meta.created_ms))[-MAX_TASKS:]

    async def read(self, request: control_pb2.LogsRequest) -> AsyncIterator[control_pb2.LogLine]:
        tasks = self.tasks(request)
        if request.follow:
            async for line in self._follow(tasks, request):
                yield line
            return
        lines: list[control_pb2.LogLine] = []
        for batch in await asyncio.gather(*(self._all_lines(task, request) for task in tasks)):
            lines += batch
        lines.sort(key=lambda line: line.time_ns)
        for line in lines:
            yield line

    async def _all_lines(
        self, task: objects_pb2.Task, request: control_pb2.LogsRequest
    ) -> list[control_pb2.LogLine]:
        return [line async for line in self._task_lines(task, request, READ_TIMEOUT_S)]

    async def _task_lines(
        self, task: objects_pb2.Task, request: control_pb2.LogsRequest, timeout_s: float
    ) -> AsyncIterator[control_pb2.LogLine]:
        node = self._store.node(task.node_id)
        name = node.meta.name if node else task.node_id
        warning = ""
        if node is None or node.status.state == types_pb2.NODE_DOWN:
            warning = f"node {name} is down: its part of the logs is missing"
        else:
            try:
                stub = agent_pb2_grpc.AgentStub(self._channels.agent(task.node_id))
                call = agent_pb2.TaskLogsRequest(
                    task_id=task.meta.id, follow=request.follow, tail=request.tail,
                    since_ms=request.since_ms, until_ms=request.until_ms,
                )  # fmt: skip
                async for line in stub.Logs(call, timeout=timeout_s):
                    line.task_id, line.task_name, line.node_name = task.meta.id, task.meta.name, name
                    yield line
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    warning = f"node {name} did not give the logs of {task.meta.name}: {error.details()}"
            except ManagerError as error:
                warning = f"node {name}: {error}"
        if warning:
            yield control_pb2.LogLine(
                task_id=task.meta.id, task_name=task.meta.name, node_name=name, warning=warning
            )

    async def _follow(
        self, tasks: list[objects_pb2.Task], request: control_pb2.LogsRequest
    ) -> AsyncIterator[control_pb2.LogLine]:
        queue: asyncio.Queue[control_pb2.LogLine | None] = asyncio.Queue(QUEUE)

        async def pump(task: objects_pb2.Task) -> None:
            try:
                async for line in self._task_lines(task, request, FOLLOW_TIMEOUT_S):
                    await queue.put(line)
            finally:
                await queue.put(None)

        pumps = [asyncio.create_task(pump(task)) for task in tasks]
        try:
            open_pumps = len(pumps)
            while open_pumps:
                line = await queue.get()
                if line is None:
                    open_pumps -= 1
                else:
                    yield line
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
