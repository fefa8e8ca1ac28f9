"""The Networks service: what the nodes' networks are, compared with this manager's own copy of the truth.

The manager brings its store up to what the leader has, works out the assignment set that every node must hold,
and lets the node's agent compare. Of a connection it knows both ends: it asks the sender's node for the way
and the receiver's for the arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.items import digest
from swarmpy.node.manager import targets
from swarmpy.node.manager.assignments import SharedItems, node_items, takes_traffic
from swarmpy.node.manager.errors import Invalid, ManagerError, NotFound
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.tasks import Tasks
from swarmpy.proto import networks_pb2, networks_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Ambiguous
from swarmpy.raft.tables import NotFound as Missing

log = logging.getLogger(__name__)
VERIFY_TIMEOUT_S = 60.0
TRACE_TIMEOUT_S = 40.0
ARRIVAL_TIMEOUT_S = 10.0
NODES_AT_ONCE = 32
ARRIVALS_MAX = 16
TRIES = 3
PROTOCOLS = ("tcp", "udp", "sctp")
Context = grpc.aio.ServicerContext[Any, Any]


class Networks(networks_pb2_grpc.NetworksServicer):
    """One per manager. `tasks` brings the store up to date before a call."""

    def __init__(self, store: Store, tasks: Tasks, channels: NodeChannels) -> None:
        self._store, self._tasks, self._channels = store, tasks, channels

    async def Verify(
        self, request: networks_pb2.VerifyRequest, context: Context
    ) -> AsyncIterator[networks_pb2.VerifyResponse]:
        try:
            await self._tasks.fresh()
            chosen = self._nodes(request.nodes)
        except ManagerError as error:
            await abort(context, error)
        if request.repair:
            log.info("network repair nodes=%d actor=%s", len(chosen), current_caller().actor)
        room = asyncio.Semaphore(NODES_AT_ONCE)
        index, shared = self._store.index, SharedItems(self._store).items

        def holds_of(node_id: str) -> bytes:
            """What the node must hold now; what all share is worked out once for as long as nothing changes."""
            nonlocal index, shared
            if index != self._store.index:
                index, shared = self._store.index, SharedItems(self._store).items
            return digest({**shared, **node_items(self._store, node_id)})

        async def one(node: objects_pb2.Node) -> networks_pb2.VerifyResponse:
            async with room:
                for _ in range(TRIES):  # while services change, so does what a node must hold
                    answer = await self._verify(node, holds_of(node.meta.id), repair=request.repair)
                    if not answer.stale or answer.repaired:
                        break
                return answer

        running = [asyncio.create_task(one(node)) for node in chosen]
        try:
            for done in asyncio.as_completed(running):
                yield await done
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _verify(
        self, node: objects_pb2.Node, holds: bytes, *, repair: bool
    ) -> networks_pb2.VerifyResponse:
        answer = networks_pb2.VerifyResponse()
        try:
            if node.status.state != types_pb2.NODE_READY:
                raise NotFound("the node is down: its network is not compared")
            stub: Any = networks_pb2_grpc.AgentNetworksStub(self._channels.agent(node.meta.id))
            request = networks_pb2.NodeVerifyRequest(repair=repair, holds=holds)
            answer = await stub.Verify(request, timeout=VERIFY_TIMEOUT_S)
        except ManagerError as error:
            answer.error = str(error)
        except grpc.aio.AioRpcError as error:
            answer.error = f"the agent does not answer: {error.details()}"
        answer.node_id, answer.node_name = node.meta.id, node.meta.name
        return answer

    def _nodes(self, wanted: Any) -> list[objects_pb2.Node]:
        if not wanted:
            return sorted((n for n in self._store.nodes() if not n.removed), key=lambda node: node.meta.name)
        found = []
        for name in wanted:
            node = self._find_node(name)
            if node is None:
                raise NotFound(f"there is no node {name!r}")
            found.append(node)
        return found

    def _find_node(self, name: str) -> objects_pb2.Node | None:
        try:
            found = self._store.find(store_pb2.KIND_NODE, name)
        except Missing:
            return None
        except Ambiguous as error:
            raise Invalid(str(error)) from error
        return found if isinstance(found, objects_pb2.Node) else None

    async def Trace(self, request: networks_pb2.TraceRequest, context: Context) -> networks_pb2.TraceResponse:
        try:
            protocol = request.protocol or "tcp"
            if protocol not in PROTOCOLS or not 0 < request.port < 65536:
                raise Invalid(
                    f"target: {request.port}/{protocol} is no port: write for example web:80 or db:53/udp"
                )
            await self._tasks.fresh()
            node, task = self._source(request.source)
            stub: Any = networks_pb2_grpc.AgentNetworksStub(self._channels.agent(node.meta.id))
        except ManagerError as error:
            await abort(context, error)
        asked = networks_pb2.NodeTraceRequest(
            task_id=task.meta.id if task else "", target=request.target, port=request.port, protocol=protocol
        )
        answer = networks_pb2.TraceResponse()
        began = f"{task.meta.name if task else 'the node itself'}, on {node.meta.name}"
        answer.steps.add(what="source", text=began, node_name=node.meta.name)
        try:
            found = await stub.Trace(asked, timeout=TRACE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            text = f"the agent of {node.meta.name} does not answer: {error.details()}"
            answer.steps.add(what="source", text=text, failed=True, node_name=node.meta.name)
            return answer
        self._append(answer, found.steps, node.meta.name)
        self._compare(answer, found, request.target)
        for backend in found.backends[:ARRIVALS_MAX]:
            await self._follow(answer, backend, node, protocol)
        self._append(answer, found.end, node.meta.name)
        answer.reached = found.reached
        return answer

    def _source(self, name: str) -> tuple[objects_pb2.Node, objects_pb2.Task | None]:
        node = self._find_node(name)
        if node is not None:
            return node, None
        task = targets.running(self._store, name)[0]
        owner = self._store.node(task.node_id)
        if owner is None:
            raise NotFound(f"the node of {task.meta.name} is not in the cluster any more")
        return owner, task

    def _compare(
        self, answer: networks_pb2.TraceResponse, found: networks_pb2.NodeTraceResponse, target: str
    ) -> None:
        """Whether the backends the node uses are those that Raft has for this name."""
        service = self._store.by_name(store_pb2.KIND_SERVICE, target.partition(".")[0].lower())
        if not isinstance(service, objects_pb2.Service) or not found.backends:
            return
        truth = {
            ip
            for task in self._store.tasks_of_service(service.meta.id)
            if takes_traffic(self._store, task)
            for address in task.status.addresses
            for ip in (address.address, address.address6)
        }
        stale = {backend.address for backend in found.backends} - truth
        if stale:
            answer.steps.add(what="raft", text=f"no ready task has {', '.join(sorted(stale))}", failed=True)
        else:
            answer.steps.add(what="raft", text=f"all backends are ready tasks of {service.meta.name}")

    async def _follow(
        self,
        answer: networks_pb2.TraceResponse,
        backend: networks_pb2.TraceBackend,
        source: objects_pb2.Node,
        protocol: str,
    ) -> None:
        task = self._holder(backend.address)
        name = f"[{backend.address}]" if ":" in backend.address else backend.address
        name += f":{backend.port}"
        if task is None:
            answer.steps.add(what="backend", text=name, node_name=source.meta.name)
            self._append(answer, backend.steps, source.meta.name)
            return
        node = self._store.node(task.node_id)
        place = node.meta.name if node else task.node_id
        answer.steps.add(what="backend", text=f"{name} is {task.meta.name} on {place}", node_name=place)
        self._append(answer, backend.steps, source.meta.name)
        request = networks_pb2.NodeArrivalRequest(
            address=backend.address, port=backend.port, protocol=protocol, source=backend.source,
            source_node_id=source.meta.id,
        )  # fmt: skip
        try:
            stub: Any = networks_pb2_grpc.AgentNetworksStub(self._channels.agent(task.node_id))
            arrival = await stub.Arrival(request, timeout=ARRIVAL_TIMEOUT_S)
            self._append(answer, arrival.steps, place)
        except (ManagerError, grpc.aio.AioRpcError) as error:
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            answer.steps.add(
                what="arrival", text=f"{place} does not answer: {said}", failed=True, node_name=place
            )

    def _holder(self, address: str) -> objects_pb2.Task | None:
        for task in self._store.tasks():
            if task.status.state == types_pb2.TASK_RUNNING and any(
                address in (given.address, given.address6) for given in task.status.addresses
            ):
                return task
        return None

    @staticmethod
    def _append(answer: networks_pb2.TraceResponse, steps: Any, node_name: str) -> None:
        for step in steps:
            answer.steps.add(what=step.what, text=step.text, failed=step.failed, node_name=node_name)


async def abort(context: Context, error: ManagerError) -> NoReturn:
    await context.abort(error.code, str(error))
    raise AssertionError from error
