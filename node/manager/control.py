"""The Control service: users' API.

Only the leader answers, after a read barrier where it reads; every other manager passes the
call on to the leader with the original caller's name, so that one manager's address is enough
for everything. A read that allows it (`stale`) is answered from the copy of the manager that
was asked, and marked. Status is answered so too while no leader can be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from swarmpy.node.ca import authority, token
from swarmpy.node.ca.access import Caller
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.manager import keys, queries, roots, tokens
from swarmpy.node.manager.attempt import Troubles
from swarmpy.node.manager.checks import Checks
from swarmpy.node.manager.contention import change_cluster, cluster_of, settled
from swarmpy.node.manager.errors import REFUSED, Invalid, ManagerError, Moving, NotLeading, Refused
from swarmpy.node.manager.history import History
from swarmpy.node.manager.images import Images
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.logs import Logs
from swarmpy.node.manager.past import Past
from swarmpy.node.manager.pipeline import FIELDS, WriteStream
from swarmpy.node.manager.plans import Plans
from swarmpy.node.manager.proxy import ACTOR_KEY, READS, Proxy, was_refused
from swarmpy.node.manager.reads import Reads
from swarmpy.node.manager.watch import Watch
from swarmpy.node.manager.writes import Writer
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft import log as raft_log
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Entity, unwrap, wrap

ANSWER_S = 0.5  # for an answer to reach whoever asked
log = logging.getLogger(__name__)


Context = grpc.aio.ServicerContext[Any, Any]


class LocalControl:
    """What the leader does for each call. Raises ManagerError."""

    def __init__(
        self, leader: Leader, reads: Reads, history: History, writer: Writer, images: Images, logs: Logs,
        new_secret: Callable[[], str],
    ) -> None:  # fmt: skip
        self.leader = leader
        self.reads = reads
        self._history = history
        self._store = leader.store
        self._writer = writer
        self._plans = Plans(leader.store, writer)
        self._past = Past(leader.raft)
        self._images = images
        self._logs = logs
        self._new_secret = new_secret
        self._admission = asyncio.Lock()  # nodes that join by temporary tokens
        self.troubles = Troubles()  # of the planners; wired like the next
        self.connected: Callable[[], int] = lambda: 0  # nodes with a session here; wired by the process
        self._watches: set[Watch] = set()
        leader.lost_listeners.append(self._end_watches)

    async def Get(self, request: control_pb2.GetRequest, actor: str) -> control_pb2.GetResponse:
        store = await self._state(request)
        obj = queries.find(store, request.kind, request.ref)
        return control_pb2.GetResponse(object=wrap(queries.public(obj, whole=True)), index=store.index)

    async def List(self, request: control_pb2.ListRequest, actor: str) -> control_pb2.ListResponse:
        store = await self._state(request)
        found = queries.listing(store, request.kind, request.filters)
        objects = [wrap(queries.public(obj)) for obj in found]
        return control_pb2.ListResponse(objects=objects, index=store.index)

    async def _state(self, request: control_pb2.GetRequest | control_pb2.ListRequest) -> Store:
        """The present state, or an earlier one."""
        if not request.at_index and not request.at_ms:
            return self._store
        return await self._past.at(request.at_index, request.at_ms)

    async def Create(self, request: control_pb2.CreateRequest, actor: str) -> control_pb2.WriteResponse:
        by_manager = current_caller().kind == "manager" and actor.startswith("manager:")
        obj = self._object(request.object)
        if by_manager and request.join_token and isinstance(obj, objects_pb2.Node):
            stored, index = await self.admit(obj, request.join_token, actor, request.request_id)
            return control_pb2.WriteResponse(object=wrap(stored), index=index)
        stored, index = await self._writer.create(
            obj, actor, request.request_id, by_manager=by_manager, check_index=request.check_index
        )
        return control_pb2.WriteResponse(object=wrap(queries.public(stored)), index=index)

    async def admit(
        self, node: objects_pb2.Node, join_token: bytes, actor: str, request_id: str
    ) -> tuple[Entity, int]:
        """Let a node in by a temporary join token."""
        async with self._admission:
            return await tokens.admit(self.leader, node, join_token, actor, request_id)

    async def Update(self, request: control_pb2.UpdateRequest, actor: str) -> control_pb2.WriteResponse:
        stored, index = await self._writer.update(
            self._object(request.object), actor, request.request_id, request.check_index,
            pinned=request.pinned,
        )  # fmt: skip
        return control_pb2.WriteResponse(object=wrap(queries.public(stored)), index=index)

    async def Delete(self, request: control_pb2.DeleteRequest, actor: str) -> control_pb2.WriteResponse:
        obj, index = await self._writer.delete(
            request.kind, request.ref, request.force, actor, request.request_id, request.check_index
        )
        return control_pb2.WriteResponse(object=wrap(queries.public(obj)), index=index)

    async def Rollout(self, request: control_pb2.RolloutRequest, actor: str) -> control_pb2.WriteResponse:
        stored, index = await self._writer.rollout(request, actor)
        return control_pb2.WriteResponse(object=wrap(queries.public(stored)), index=index)

    async def Explain(self, request: control_pb2.ExplainRequest, actor: str) -> control_pb2.ExplainResponse:
        return await self._plans.explain(request, self.leader.now_ms())

    async def Rebalance(
        self, request: control_pb2.RebalanceRequest, actor: str
    ) -> control_pb2.RebalanceResponse:
        async def write() -> control_pb2.RebalanceResponse:
            response, changes = await self._plans.rebalance(request, self.leader.now_ms())
            if changes and not request.plan:
                self._writer.check_index(request.check_index)
                response.index = (await self.leader.commit(changes, actor, request.request_id)).index
            return response

        return await settled(write, request.check_index)

    async def Plan(self, request: control_pb2.PlanRequest, actor: str) -> control_pb2.PlanResponse:
        return await self._plans.plan(request, self.leader.now_ms(), actor)

    async def Status(self, request: control_pb2.StatusRequest, actor: str) -> control_pb2.StatusResponse:
        try:
            status = self.leader.raft.status()
        except raft_log.LogClosed as error:
            raise NotLeading("this manager is shutting down: ask another one") from error
        problems = self.troubles.sentences()
        return queries.status(self._store, status, self.leader.raft.profile, self.connected(), problems)

    async def Token(self, request: control_pb2.TokenRequest, actor: str) -> control_pb2.TokenResponse:
        cluster = cluster_of(self._store)
        addresses = [
            node.manager.join_address
            for node in self._store.nodes()
            if node.manager.join_address
            and node.role == types_pb2.ROLE_MANAGER
            and node.status.state != types_pb2.NODE_DOWN
        ]
        if request.ttl_ms:
            secret, new_id = self._new_secret(), self._writer.new_id()
            made, text = await tokens.create(self.leader, request, secret, new_id, actor)
            made.ClearField("secret_sha256")
            return control_pb2.TokenResponse(token=text, join_addresses=addresses, made=made)
        if request.uses or request.labels:
            raise Invalid("ttl_ms: only a token that expires is for some nodes only, or brings labels")
        field = "manager_secret" if request.role == types_pb2.ROLE_MANAGER else "worker_secret"
        if request.rotate:
            fresh = self._new_secret()
            cluster = await change_cluster(self.leader, lambda changed: setattr(changed, field, fresh), actor)
        text = str(token.JoinToken(authority.fingerprint(cluster.root_certificate), getattr(cluster, field)))
        return control_pb2.TokenResponse(token=text, join_addresses=addresses)

    async def ShowRoot(self, request: control_pb2.ShowRootRequest, actor: str) -> control_pb2.RootReport:
        return roots.report(self._store)

    async def RotateRoot(self, request: control_pb2.RotateRootRequest, actor: str) -> control_pb2.RootReport:
        return await roots.rotate(self.leader, request, actor, self._new_secret)

    async def UnlockKey(
        self, request: control_pb2.UnlockKeyRequest, actor: str
    ) -> control_pb2.UnlockKeyResponse:
        cluster = cluster_of(self._store)
        fresh = keys.new_unlock_key()

        def rotate(changed: objects_pb2.Cluster) -> None:
            if not changed.unlock_key:
                raise Refused("autolock is off, there is no key: swarmpy swarm update --autolock")
            changed.unlock_key = fresh

        if request.rotate:
            cluster = await change_cluster(self.leader, rotate, actor)
        return control_pb2.UnlockKeyResponse(key=keys.unlock_key_text(cluster.unlock_key))

    async def TransferLead(
        self, request: control_pb2.TransferRequest, actor: str
    ) -> control_pb2.TransferResponse:
        to = None
        if request.to:
            node = self._writer.find(store_pb2.KIND_NODE, request.to)
            to = node.meta.id
        raft = self.leader.raft
        if to == raft.node_id:
            return control_pb2.TransferResponse(leader_id=to)
        try:
            return control_pb2.TransferResponse(leader_id=await raft.transfer_leadership(to))
        except raft_log.TransferFailed as error:
            raise Refused(f"the lead was not handed over: {error}") from error
        except raft_log.LogError as error:
            raise NotLeading(f"the lead could not be handed over: {error}") from error

    async def Watch(self, request: control_pb2.WatchRequest, actor: str) -> AsyncIterator[control_pb2.Event]:
        """Ends with NotLeading when the lead is lost, unless it is a stale one."""
        staleness = self.reads.staleness if request.stale else None
        watch = Watch(self._store, self._history, request, self.leader.now_ms, staleness)
        if not request.stale:
            self._watches.add(watch)
        try:
            async for event in watch.events():
                yield event
        finally:
            self._watches.discard(watch)

    def _end_watches(self) -> None:
        for watch in self._watches:
            watch.end(NotLeading("the lead moved to another manager: watch again"))

    async def Logs(self, request: control_pb2.LogsRequest, actor: str) -> AsyncIterator[control_pb2.LogLine]:
        async for line in self._logs.read(request):
            yield line

    async def PullImage(
        self, request: control_pb2.PullRequest, actor: str
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        async for progress in self._images.pull(request, actor):
            yield progress

    async def LoadImage(
        self, chunks: AsyncIterator[control_pb2.ImageChunk], actor: str
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        async for progress in self._images.load(chunks, actor):
            yield progress

    @staticmethod
    def _object(wrapped: store_pb2.Object) -> Entity:
        if wrapped.WhichOneof("kind") is None:
            raise Invalid("object: is empty")
        return unwrap(wrapped)


class Control(control_pb2_grpc.ControlServicer):
    """Serves each call from the local store when leading, else passes it to the leader."""

    def __init__(self, local: LocalControl, proxy: Proxy, checks: Checks) -> None:
        self._local, self._proxy, self._checks = local, proxy, checks
        self._leader = local.leader
        self.self_id = local.leader.raft.node_id
        self._write_streams: set[WriteStream] = set()
        self._loop = asyncio.get_running_loop()
        self.hold_s = local.leader.raft.profile.election_max_ms / 1000

    async def _unary(self, method: str, request: Message, context: Context) -> Any:
        actor, proxied = self._actor(context)
        try:
            if getattr(request, "stale", False):
                return await self._own_copy(method, request, actor)
            try:
                return await self._current(method, request, actor, proxied, context.time_remaining())
            except (NotLeading, grpc.aio.AioRpcError):
                if method != "Status" or proxied:
                    raise
                return await self._own_copy(method, control_pb2.StatusRequest(), actor)
        except (ManagerError, grpc.aio.AioRpcError) as error:
            await self._abort(context, error)

    async def _current(
        self, method: str, request: Message, actor: str, proxied: bool, left_s: float | None
    ) -> Any:
        """The leader's answer. A call that meets a hand-over waits for the next leader, as long as one may take.

        Only where it is certain that nothing was done; a call that was passed on waits here only if this
        manager is the one that will lead. The refusal leaves before the caller's time is over: whoever
        gives up without an answer cannot know that nothing was done.
        """
        begin_s = self._loop.time()
        end_s = begin_s + (left_s or self.hold_s)
        until_s = min(end_s - ANSWER_S, begin_s + self.hold_s)
        while True:
            changed = self._leader.changed
            try:
                return await self._once(method, request, actor, proxied, left_s)
            except (Moving, grpc.aio.AioRpcError) as error:
                if not self._may_wait(method, request, proxied, error):
                    raise
                if not await self._leader.is_elsewhere(changed, until_s):
                    raise
            left_s = end_s - self._loop.time() if left_s is not None else None

    def _may_wait(
        self, method: str, request: Any, proxied: bool, error: Moving | grpc.aio.AioRpcError
    ) -> bool:
        """A write is sent twice only if it can be known again by its request id."""
        if method == "Status" or (method in FIELDS and not request.request_id):
            return False
        if isinstance(error, grpc.aio.AioRpcError):
            return error.code() is grpc.StatusCode.UNAVAILABLE and was_refused(error)
        return not proxied or self._leader.begins

    async def _once(
        self, method: str, request: Message, actor: str, proxied: bool, left_s: float | None
    ) -> Any:
        if self._leader.leading:
            if method in READS:
                await self._local.reads.barrier()
            return await getattr(self._local, method)(request, actor)
        self._check_not_proxied(proxied)
        return await self._proxy.unary(method, request, actor, left_s)

    async def Write(self, calls: AsyncIterator[control_pb2.WriteCalls], context: Context) -> None:
        stream = WriteStream(context, self._one_write, _refusal)
        self._write_streams.add(stream)
        try:
            await stream.serve(calls)
        finally:
            self._write_streams.discard(stream)

    def end_writes(self) -> None:
        """Take no more writes on the streams there are: this manager stops."""
        for stream in self._write_streams:
            stream.end()

    def _one_write(
        self, method: str, request: Message, caller: Caller, actor: str, left_s: float
    ) -> Awaitable[Any]:
        """A write of a stream, as the unary call of its name."""
        if caller.kind != "manager":
            return self._current(method, request, caller.actor, False, left_s)
        return self._current(method, request, actor or f"manager:{caller.node_id}", True, left_s)

    async def _own_copy(self, method: str, request: Any, actor: str) -> Any:
        await self._local.reads.own_copy(request.min_index)
        answer = await getattr(self._local, method)(request, actor)
        answer.staleness.CopyFrom(self._local.reads.staleness())
        return answer

    async def _stream(
        self, method: str, request: Message | AsyncIterator[Message], context: Context
    ) -> AsyncIterator[Any]:
        actor, proxied = self._actor(context)
        try:
            async for answer in await self._answers(method, request, actor, proxied, context):
                yield answer
        except (ManagerError, grpc.aio.AioRpcError) as error:
            await self._abort(context, error)

    async def _answers(
        self, method: str, request: Any, actor: str, proxied: bool, context: Context
    ) -> AsyncIterator[Any]:
        answers: AsyncIterator[Any]
        if method == "Watch" and request.stale:
            await self._local.reads.own_copy(max(request.min_index, request.after_index))
            answers = self._local.Watch(request, actor)
        elif self._leader.leading:
            if method == "Watch":
                await self._local.reads.barrier()
            answers = getattr(self._local, method)(request, actor)
        else:
            self._check_not_proxied(proxied)
            if method == "Watch":
                answers = self._proxy.watch(request, actor, context.time_remaining())
            else:
                answers = self._proxy.stream(method, request, actor, context.time_remaining())
        return answers

    async def _abort(self, context: Context, error: ManagerError | grpc.aio.AioRpcError) -> None:
        found = _refusal(error)
        assert found is not None
        code, details, refused = found
        await context.abort(code, details, REFUSED if refused else ())

    def _actor(self, context: Context) -> tuple[str, bool]:
        """Who asks, and whether another manager passed the call on."""
        caller = current_caller()
        if caller.kind != "manager":
            return caller.actor, False
        for key, value in context.invocation_metadata() or ():
            if key == ACTOR_KEY:
                return str(value), True
        return f"manager:{caller.node_id}", True

    def _check_not_proxied(self, proxied: bool) -> None:
        if proxied:
            raise Moving("this manager does not lead the cluster (any more): ask again")

    async def Unlock(
        self, request: control_pb2.UnlockRequest, context: Context
    ) -> control_pb2.UnlockResponse:
        """A locked manager has another servicer (node/manager/keys.py)."""
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this manager is not locked")

    async def on_behalf(self, method: str, request: Message, actor: str) -> Any:
        """A unary call that another service of this manager makes for its user."""
        if self._leader.leading:
            return await getattr(self._local, method)(request, actor)
        return await self._proxy.unary(method, request, actor, None)

    async def leader_create(
        self, obj: objects_pb2.Node, request_id: str, join_token: bytes = b""
    ) -> tuple[Entity, int]:
        """Create on behalf of this manager itself (joining nodes); from any manager."""
        actor = f"manager:{self._leader.raft.node_id}"
        if self._leader.leading and join_token:
            return await self._local.admit(obj, join_token, actor, request_id)
        if self._leader.leading:
            return await self._local._writer.create(obj, actor, request_id, by_manager=True)
        request = control_pb2.CreateRequest(object=wrap(obj), request_id=request_id, join_token=join_token)
        answer = await self._proxy.unary("Create", request, actor, None)
        return unwrap(answer.object), answer.index

    async def reach(self, index: int) -> None:
        """Return once the copy of this manager is as new; raises NotLeading if it does not get there."""
        await self._local.reads.own_copy(index)

    async def Digest(
        self, request: control_pb2.DigestRequest, context: Context
    ) -> control_pb2.DigestResponse:
        return await self._checks.digest(request)


def _refusal(error: BaseException) -> tuple[grpc.StatusCode, str, bool] | None:
    """The status, the sentence and whether a manager said so for certain; None for what nobody expects."""
    if isinstance(error, ManagerError):
        return error.code, str(error), True
    if not isinstance(error, grpc.aio.AioRpcError):
        return None
    details = error.details() or "the leader did not answer"
    if error.code() == grpc.StatusCode.UNAVAILABLE and "leader" not in details:
        details = f"the leader cannot be reached ({details})"
    return error.code(), details, was_refused(error)


def _add_methods() -> None:
    def unary(name: str) -> Callable[..., Awaitable[Any]]:
        async def call(self: Control, request: Message, context: Context) -> Any:
            return await self._unary(name, request, context)

        return call

    def stream(name: str) -> Callable[..., AsyncIterator[Any]]:
        async def call(self: Control, request: Any, context: Context) -> AsyncIterator[Any]:
            async for answer in self._stream(name, request, context):
                yield answer

        return call

    unary_names = (
        *(
            "Get",
            "List",
            "Create",
            "Update",
            "Delete",
            "Rollout",
            "Rebalance",
            "Plan",
            "Explain",
            "Status",
            "Token",
        ),
        *("TransferLead", "UnlockKey", "ShowRoot", "RotateRoot"),
    )
    for name in unary_names:
        setattr(Control, name, unary(name))
    for name in ("Watch", "Logs", "PullImage", "LoadImage"):
        setattr(Control, name, stream(name))


_add_methods()
