"""The Tasks service: users reach into running tasks, wherever these are.

Every manager serves it from its own store, after the leader said how far that has to be, and passes the
call on to the task's agent: a session does not depend on who leads, and works while nobody does. Who did
what to which task is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.manager import targets
from swarmpy.node.manager.answers import abort, after
from swarmpy.node.manager.errors import Invalid, ManagerError, NotLeading
from swarmpy.node.manager.history import History
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.proxy import Proxy
from swarmpy.node.manager.reads import Reads
from swarmpy.node.manager.stats import StatsStreams
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, tasks_pb2, tasks_pb2_grpc, types_pb2

log = logging.getLogger(__name__)
FRESH_TIMEOUT_S = 3.0
FIRST_MESSAGE_TIMEOUT_S = 10.0
UNARY_TIMEOUT_S = 30.0
SESSION_TIMEOUT_S = 7 * 24 * 3600.0
Context = grpc.aio.ServicerContext[Any, Any]


class Tasks(tasks_pb2_grpc.TasksServicer):
    """One per manager."""

    def __init__(
        self, leader: Leader, reads: Reads, history: History, proxy: Proxy, channels: NodeChannels
    ) -> None:
        self._leader, self._reads, self._history, self._proxy = leader, reads, history, proxy
        self._store = leader.store
        self._channels = channels
        self._stats = StatsStreams(self._store, history, channels)

    async def Exec(
        self, request_iterator: AsyncIterator[tasks_pb2.SessionInput], context: Context
    ) -> AsyncIterator[tasks_pb2.SessionOutput]:
        first = await self._first(request_iterator, context)
        if not first.exec.argv:
            await abort(context, Invalid("argv: say what to run"))
        async for answer in self._session("Exec", first, first.exec, request_iterator, context):
            yield answer

    async def Attach(
        self, request_iterator: AsyncIterator[tasks_pb2.SessionInput], context: Context
    ) -> AsyncIterator[tasks_pb2.SessionOutput]:
        first = await self._first(request_iterator, context)
        async for answer in self._session("Attach", first, first.attach, request_iterator, context):
            yield answer

    async def CopyFrom(
        self, request: tasks_pb2.CopyFromRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.CopyFromResponse]:
        async for answer in self._session("CopyFrom", request, request, None, context):
            yield answer

    async def Forward(
        self, request_iterator: AsyncIterator[tasks_pb2.ForwardInput], context: Context
    ) -> AsyncIterator[tasks_pb2.ForwardOutput]:
        first = await self._first(request_iterator, context)
        if not 0 < first.start.port < 65536:
            await abort(context, Invalid(f"port: {first.start.port} is not a port"))
        async for answer in self._session("Forward", first, first.start, request_iterator, context):
            yield answer

    async def CopyTo(
        self, request_iterator: AsyncIterator[tasks_pb2.CopyToRequest], context: Context
    ) -> tasks_pb2.CopyToResponse:
        first = await self._first(request_iterator, context)
        task = await self._chosen("CopyTo", first.start, context)
        call = self._stub(task).CopyTo(after(first, request_iterator), timeout=SESSION_TIMEOUT_S)
        return await self._answer(task, call, context)  # type: ignore[no-any-return]

    async def Processes(
        self, request: tasks_pb2.ProcessesRequest, context: Context
    ) -> tasks_pb2.ProcessesResponse:
        task = await self._chosen("Processes", request, context)
        call = self._stub(task).Processes(request, timeout=UNARY_TIMEOUT_S)
        return await self._answer(task, call, context)  # type: ignore[no-any-return]

    async def Stats(
        self, request: tasks_pb2.StatsRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.StatsResponse]:
        try:
            await self.fresh()
            async for answer in self._stats.read(request):
                yield answer
        except ManagerError as error:
            await abort(context, error)

    async def _session(
        self, method: str, first: Any, named: Any, more: AsyncIterator[Any] | None, context: Context
    ) -> AsyncIterator[Any]:
        """The agent's answers; `named` is the part of `first` that holds the target."""
        task = await self._chosen(method, named, context)
        requests = first if more is None else after(first, more)
        call = getattr(self._stub(task), method)(requests, timeout=SESSION_TIMEOUT_S)
        try:
            async for answer in call:
                self._fill(answer, task)
                yield answer
        except grpc.aio.AioRpcError as error:
            await self._abort_call(context, task, error)
        finally:
            call.cancel()

    async def _answer(self, task: objects_pb2.Task, call: Any, context: Context) -> Any:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            await self._abort_call(context, task, error)
        finally:
            call.cancel()
        self._fill(answer, task)
        return answer

    async def _first(self, messages: AsyncIterator[Any], context: Context) -> Any:
        try:
            return await asyncio.wait_for(anext(aiter(messages)), FIRST_MESSAGE_TIMEOUT_S)
        except (StopAsyncIteration, TimeoutError):
            await abort(context, Invalid("the call began without saying what is wanted"))

    async def _chosen(self, method: str, named: Any, context: Context) -> objects_pb2.Task:
        """The task that is meant, the first of a service; its id takes the target's place."""
        try:
            await self.fresh()
            task = targets.running(self._store, named.target)[0]
            node = self._store.node(task.node_id)
            if node is not None and node.status.state == types_pb2.NODE_DOWN:
                raise NotLeading(f"node {node.meta.name}, where {task.meta.name} is, is down")
            self._channels.agent(task.node_id)
            if hasattr(named, "container"):
                named.container = targets.container(task, named.container)
        except ManagerError as error:
            await abort(context, error)
        named.target = task.meta.id
        what = " ".join(named.argv)[:200] if hasattr(named, "argv") else getattr(named, "path", "")
        log.info(
            "task reached call=%s task=%s node=%s actor=%s what=%r",
            method, task.meta.name, task.node_id, current_caller().actor, what,
        )  # fmt: skip
        return task

    async def fresh(self) -> None:
        """Bring the own copy up to what the leader has; without a leader the own copy has to do."""
        try:
            async with asyncio.timeout(FRESH_TIMEOUT_S):
                if self._leader.leading:
                    await self._reads.barrier()
                    return
                request = control_pb2.ListRequest(kind=store_pb2.KIND_CLUSTER)
                answer = await self._proxy.unary("List", request, current_caller().actor, FRESH_TIMEOUT_S)
                await self._history.reached(answer.index)
        except (NotLeading, TimeoutError, grpc.aio.AioRpcError) as error:
            log.warning("own copy used, it may be old error=%s", error)

    def _stub(self, task: objects_pb2.Task) -> Any:
        return tasks_pb2_grpc.AgentTasksStub(self._channels.agent(task.node_id))

    def _fill(self, answer: Any, task: objects_pb2.Task) -> None:
        """The agent knows ids, people want names."""
        if answer.HasField("place"):
            answer.place.task_id, answer.place.task_name = task.meta.id, task.meta.name
            answer.place.node_name = self._node_name(task)

    def _node_name(self, task: objects_pb2.Task) -> str:
        node = self._store.node(task.node_id)
        return node.meta.name if node else task.node_id

    async def _abort_call(
        self, context: Context, task: objects_pb2.Task, error: grpc.aio.AioRpcError
    ) -> NoReturn:
        """What the agent refused, with the task's name for its id; or that it cannot be reached."""
        code, details = error.code(), error.details() or "no reason given"
        details = details.replace(f"container {task.meta.id}", f"task {task.meta.name}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            details = f"the connection to node {self._node_name(task)} failed: {details}"
        await context.abort(code, details)
        raise AssertionError
