"""What tasks use, from all their nodes at once, following tasks that come and go.

One stream per node, opened again when the set of tasks there changes, and a while after it ended. A node that
does not answer gives a warning in place of numbers, once until it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc
from swarmpy.node.manager import targets
from swarmpy.node.manager.errors import Invalid, ManagerError, NotFound, Refused
from swarmpy.node.manager.history import History
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.proto import objects_pb2, tasks_pb2, tasks_pb2_grpc, types_pb2
from swarmpy.raft.store import Store

QUEUE = 256
GATHER_S, REOPEN_S = 0.5, 5.0
ONCE_TIMEOUT_S = 5.0
STREAM_TIMEOUT_S = 24 * 3600.0
INTERVAL_MS_MIN, INTERVAL_MS_MAX = 500, 3_600_000
Ids = frozenset[str]


class StatsStreams:
    """Reads agents' numbers on behalf of users."""

    def __init__(self, store: Store, history: History, channels: NodeChannels) -> None:
        self._store, self._history, self._channels = store, history, channels

    async def read(self, request: tasks_pb2.StatsRequest) -> AsyncIterator[tasks_pb2.StatsResponse]:
        """Answers of nodes as they come; one of each when no interval is asked for."""
        if request.interval_ms and not INTERVAL_MS_MIN <= request.interval_ms <= INTERVAL_MS_MAX:
            raise Invalid(
                f"interval_ms: {request.interval_ms} is not within {INTERVAL_MS_MIN} ms and an hour"
            )
        self._wanted(request, strict=True)
        queue: asyncio.Queue[tasks_pb2.StatsResponse | None] = asyncio.Queue(QUEUE)
        driver = asyncio.create_task(self._drive(request, queue))
        try:
            while (answer := await queue.get()) is not None:
                yield answer
            await driver
        finally:
            driver.cancel()
            await asyncio.gather(driver, return_exceptions=True)

    def _wanted(self, request: tasks_pb2.StatsRequest, *, strict: bool = False) -> dict[str, Ids]:
        """Ids of running tasks by node. `strict`: targets that do not exist are an error."""
        found: list[objects_pb2.Task] = []
        for target in request.targets:
            try:
                found += targets.running(self._store, target)
            except NotFound:
                if strict:
                    raise
            except Refused:
                continue
        if not request.targets:
            found = [t for t in self._store.tasks() if t.status.state == types_pb2.TASK_RUNNING]
        by_node: dict[str, set[str]] = {}
        if request.nodes:
            by_node = {node.meta.id: set() for node in self._store.nodes() if not node.removed}
        for task in found:
            by_node.setdefault(task.node_id, set()).add(task.meta.id)
        return {node_id: frozenset(ids) for node_id, ids in by_node.items()}

    async def _drive(
        self, request: tasks_pb2.StatsRequest, queue: asyncio.Queue[tasks_pb2.StatsResponse | None]
    ) -> None:
        streams: dict[str, tuple[Ids, asyncio.Task[None], float]] = {}
        warned: dict[str, str] = {}
        try:
            while True:
                changed = self._history.changed
                wanted = self._wanted(request)
                for node_id, (ids, task, opened_s) in list(streams.items()):
                    ended = task.done() and time.monotonic() - opened_s >= REOPEN_S
                    if wanted.get(node_id) != ids or ended:
                        task.cancel()
                        del streams[node_id]
                for node_id, ids in wanted.items():
                    if node_id not in streams:
                        pump = asyncio.create_task(self._pump(node_id, ids, request, queue, warned))
                        streams[node_id] = (ids, pump, time.monotonic())
                if not request.interval_ms:
                    await asyncio.gather(*(task for _, task, _ in streams.values()))
                    await queue.put(None)
                    return
                with contextlib.suppress(TimeoutError):  # streams that ended are opened again after a while
                    async with asyncio.timeout(REOPEN_S):
                        await changed.wait()
                await asyncio.sleep(GATHER_S)
        finally:
            pumps = [task for _, task, _ in streams.values()]
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, node_id: str, ids: Ids, request: tasks_pb2.StatsRequest,
        queue: asyncio.Queue[tasks_pb2.StatsResponse | None], warned: dict[str, str],
    ) -> None:  # fmt: skip
        node = self._store.node(node_id)
        name = node.meta.name if node else node_id
        warning = ""
        if node is None or node.status.state == types_pb2.NODE_DOWN:
            warning = f"node {name} is down"
        else:
            asked = tasks_pb2.NodeStatsRequest(
                task_ids=sorted(ids),
                interval_ms=request.interval_ms,
                node=request.nodes,
                containers=request.containers,
            )
            timeout_s = STREAM_TIMEOUT_S if request.interval_ms else ONCE_TIMEOUT_S
            try:
                stub = tasks_pb2_grpc.AgentTasksStub(self._channels.agent(node_id))
                async for answer in stub.Stats(asked, timeout=timeout_s):
                    warned.pop(node_id, None)
                    self._name(answer, node_id, name)
                    await queue.put(answer)
            except grpc.aio.AioRpcError as error:
                warning = f"node {name} does not answer: {error.details()}"
            except ManagerError as error:
                warning = str(error)
        if warning and warned.get(node_id) != warning:
            warned[node_id] = warning
            await queue.put(tasks_pb2.StatsResponse(node_id=node_id, warning=warning))

    def _name(self, answer: tasks_pb2.StatsResponse, node_id: str, node_name: str) -> None:
        answer.node_id = node_id
        if answer.HasField("node"):
            answer.node.node_id, answer.node.node_name = node_id, node_name
        for stats in answer.tasks:
            task = self._store.task(stats.task_id)
            stats.node_name = node_name
            if task is not None:
                stats.task_name, stats.service_name = task.meta.name, task.service_name
