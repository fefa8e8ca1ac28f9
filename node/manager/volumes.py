"""The Volumes service: users reach the contents of volumes, wherever these are.

Like Tasks it is served by every manager and passes each call on to the agent of the volume's home, so that an
hour's backup does not depend on who leads. Archives go through in gRPC's own windows: a manager holds no more
of them than a few chunks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.manager.answers import abort, after
from swarmpy.node.manager.errors import Invalid, ManagerError, NotFound, NotLeading, Refused
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.plan import volumes
from swarmpy.proto import objects_pb2, store_pb2, types_pb2, volumes_pb2, volumes_pb2_grpc
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Ambiguous
from swarmpy.raft.tables import NotFound as Missing

log = logging.getLogger(__name__)
FIRST_MESSAGE_TIMEOUT_S = 10.0
USAGE_TIMEOUT_S = 120.0
ARCHIVE_TIMEOUT_S = 7 * 24 * 3600.0
Context = grpc.aio.ServicerContext[Any, Any]


class Volumes(volumes_pb2_grpc.VolumesServicer):
    """`fresh` brings the own copy of the state up to what the leader has."""

    def __init__(self, store: Store, channels: NodeChannels, fresh: Callable[[], Awaitable[None]]) -> None:
        self._store, self._channels, self._fresh = store, channels, fresh

    async def Usage(self, request: volumes_pb2.VolumeRequest, context: Context) -> volumes_pb2.VolumeUsage:
        node = await self._chosen("Usage", request, context, writes=False)
        answer = await self._answer(node, self._stub(node).Usage(request, timeout=USAGE_TIMEOUT_S), context)
        answer.node_name = node.meta.name
        return answer  # type: ignore[no-any-return]

    async def Backup(
        self, request: volumes_pb2.VolumeRequest, context: Context
    ) -> AsyncIterator[volumes_pb2.VolumeData]:
        node = await self._chosen("Backup", request, context, writes=False)
        call = self._stub(node).Backup(request, timeout=ARCHIVE_TIMEOUT_S)
        try:
            async for message in call:
                if message.HasField("place"):
                    message.place.node_name = node.meta.name
                yield message
        except grpc.aio.AioRpcError as error:
            await self._abort_call(context, node, error)
        finally:
            call.cancel()

    async def Restore(
        self, request_iterator: AsyncIterator[volumes_pb2.VolumeRestoreRequest], context: Context
    ) -> volumes_pb2.VolumeRestoreResponse:
        messages = aiter(request_iterator)
        try:
            first = await asyncio.wait_for(anext(messages), FIRST_MESSAGE_TIMEOUT_S)
        except (StopAsyncIteration, TimeoutError):
            await abort(context, Invalid("the call began without saying what is wanted"))
        node = await self._chosen("Restore", first.start, context, writes=True)
        call = self._stub(node).Restore(after(first, messages), timeout=ARCHIVE_TIMEOUT_S)
        answer = await self._answer(node, call, context)
        answer.place.node_name = node.meta.name
        return answer  # type: ignore[no-any-return]

    async def _answer(self, node: objects_pb2.Node, call: Any, context: Context) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            await self._abort_call(context, node, error)
        finally:
            call.cancel()

    async def _chosen(
        self, method: str, request: volumes_pb2.VolumeRequest, context: Context, *, writes: bool
    ) -> objects_pb2.Node:
        """The node that has the volume; the volume's id takes the place of its name."""
        try:
            await self._fresh()
            volume = self._find(request.volume)
            asks_free = method == "Usage" and request.node and not volume.spec.per_node
            node = self._named_node(request.node) if asks_free else self._node_of(volume, request.node)
            if writes and volume.move.state in volumes.MOVES_UNDER_WAY:
                raise Refused(f"volume {volume.meta.name!r} is being moved: wait until that is over")
            self._channels.agent(node.meta.id)
        except ManagerError as error:
            await abort(context, error)
        request.volume = volume.meta.id
        log.info(
            "volume reached call=%s volume=%s node=%s actor=%s",
            method, volume.meta.name, node.meta.id, current_caller().actor,
        )  # fmt: skip
        return node

    def _find(self, ref: str) -> objects_pb2.Volume:
        try:
            found = self._store.find(store_pb2.KIND_VOLUME, ref)
        except Missing as error:
            raise NotFound(f"there is no volume {ref!r}") from error
        except Ambiguous as error:
            raise Invalid(str(error)) from error
        assert isinstance(found, objects_pb2.Volume)
        if found.pending_delete:
            raise NotFound(f"volume {ref!r} is being removed")
        return found

    def _node_of(self, volume: objects_pb2.Volume, wanted: str) -> objects_pb2.Node:
        name = volume.meta.name
        if not volumes.is_local(volume.spec):
            kind = dict(volume.spec.options).get("type")
            raise Refused(f"volume {name!r} is of type {kind}: its contents are not on a node of the cluster")
        home = volume.node_id
        if volume.spec.per_node:
            holders = {self._name_of(node_id): node_id for node_id in volume.holders}
            home = holders.get(wanted) or next((i for i in volume.holders if i == wanted), "")
            if not home:
                raise Invalid(
                    f"every node has its own volume {name!r}: say --node, one of {', '.join(holders)}"
                )
        elif wanted and wanted not in (home, self._name_of(home)):
            raise Refused(f"volume {name!r} is on node {self._name_of(home)}, not on {wanted}")
        if not home:
            raise Refused(f"volume {name!r} has nothing in it: no task has used it yet")
        node = self._store.node(home)
        if node is None or node.removed:
            raise Refused(
                f"the node that had volume {name!r} was removed from the cluster, with the contents: remove it"
            )
        if node.status.state == types_pb2.NODE_DOWN:
            raise NotLeading(f"node {node.meta.name}, where volume {name} is, is down")
        return node

    def _named_node(self, ref: str) -> objects_pb2.Node:
        try:
            found = self._store.find(store_pb2.KIND_NODE, ref)
        except Missing as error:
            raise NotFound(f"there is no node {ref!r}") from error
        except Ambiguous as error:
            raise Invalid(str(error)) from error
        assert isinstance(found, objects_pb2.Node)
        return found

    def _name_of(self, node_id: str) -> str:
        node = self._store.node(node_id)
        return node.meta.name if node is not None else node_id

    def _stub(self, node: objects_pb2.Node) -> Any:
        return volumes_pb2_grpc.AgentVolumesStub(self._channels.agent(node.meta.id))

    async def _abort_call(
        self, context: Context, node: objects_pb2.Node, error: grpc.aio.AioRpcError
    ) -> NoReturn:
        code, details = error.code(), error.details() or "no reason given"
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            details = f"the connection to node {node.meta.name} failed: {details}"
        else:
            details = f"on node {node.meta.name}: {details}"
        await context.abort(code, details)
        raise AssertionError
