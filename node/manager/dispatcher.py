"""Sessions of nodes: assignments down, heartbeats and statuses up. Served by the leader.

Every session has an outbox: what its node was sent, as sums (node/items.py). A commit marks the sessions whose
own items it concerns; after 10 ms of gathering each gets one delta. Items that all nodes share are kept once, and
go out in rounds: all sessions are told, so many at a time, and the next one begins no sooner than the last one took.
So their changes take at most half of the leader's time, however many nodes and services there are; a quarter, where
a round takes long and no task waits to be stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from swarmpy.node.ca.guard import GuardedServer, current_caller
from swarmpy.node.items import field
from swarmpy.node.manager.assignments import SharedItems, is_given
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.liveness import Liveness
from swarmpy.node.manager.outbox import Holders, Outbox, concerns_all
from swarmpy.node.manager.statuses import ACTOR, StatusWriter
from swarmpy.node.manager.withdrawals import Progress, Withdrawals
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.log import LogClosed
from swarmpy.raft.store import ChangeEvent, Commit

log = logging.getLogger(__name__)
SERVICE = "swarmpy.v1.Dispatcher"
GATHER_S = 0.01
PER_SESSION_S = (
    0.0005  # so many nodes, so long between two of the same node: a leader sends about 2,000 a second
)
SERVICES_AT_ONCE = 20  # whose endpoints are worked out in one go
SESSIONS_AT_ONCE = 32  # to which a round is on its way
STUCK_S = 0.5  # so long nobody takes anything: what is on its way is not waited for
ROUND_MAX_S = 2.0
ROUND_SHORT_S, ROUND_PAUSES = 0.1, 3  # after a round that took longer than this, so many times as long
RELEASE_GATHER_S = 0.005
HELLO_TIMEOUT_S = 10.0
DOWN_QUEUE = 64
UNSTORED_QUEUE = 16

AgentStream = AsyncIterator[dispatcher_pb2.AgentMessage]
Outgoing = dispatcher_pb2.ManagerMessage | bytes  # bytes are a serialised one
ASSIGNMENTS_FIELD = dispatcher_pb2.ManagerMessage.ASSIGNMENTS_FIELD_NUMBER


class Session:
    """One attached node."""

    def __init__(self, node_id: str, hello: dispatcher_pb2.Hello, outbox: Outbox) -> None:
        self.node_id = node_id
        self.holds = hello.holds
        self.hears_stored = hello.hears_stored
        self.stored = 0  # the last report of this session that is stored
        self.outbox = outbox
        self.wake = asyncio.Event()  # there is something to send
        self.wake.set()
        self._waking: asyncio.TimerHandle | None = None
        self.next_s = 0.0  # when the next assignments may go out
        self.is_due = False  # it is to have all shared items now
        self.generation = 0  # of the withdrawals, as of what was sent
        self.progress = Progress()
        self.out_of_service: set[str] = set()  # its tasks to be named in the next message
        self.replies: asyncio.Queue[dispatcher_pb2.ManagerMessage] = asyncio.Queue(DOWN_QUEUE)
        self.unstored: asyncio.Queue[int] = asyncio.Queue(UNSTORED_QUEUE)

    async def reply(self, message: dispatcher_pb2.ManagerMessage) -> None:
        await self.replies.put(message)
        self.wake.set()

    def wake_in(self, seconds: float) -> None:
        """Send what there is then."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(seconds, self._wake_now)

    def _wake_now(self) -> None:
        self._waking = None
        self.wake.set()

    @property
    def has_news(self) -> bool:
        return self.outbox.is_stale or self.is_due or bool(self.out_of_service)


class Dispatcher:
    """The Dispatcher service; `run` belongs to the leader's TaskGroup."""

    def __init__(self, leader: Leader, statuses: StatusWriter, liveness: Liveness) -> None:
        self._leader = leader
        self._store = leader.store
        self._statuses = statuses
        self._liveness = liveness
        self._shared: SharedItems | None = None
        self._holders = Holders(self._store)
        self._is_ready = asyncio.Event()  # the shared items are all there
        self._changed = asyncio.Event()  # shared items, or what is withdrawn
        self._urgent = asyncio.Event()  # a task began to stop
        self._refreshed = 0  # the withdrawals' generation that the shared items are of
        self._awaited: set[str] = set()  # nodes that the present round has not reached yet
        self._reached = asyncio.Event()
        self._sessions: dict[str, Session] = {}
        self._withdrawals = Withdrawals()
        self._releasing: asyncio.TimerHandle | None = None
        self._store.listeners.append(self._on_commit)
        self._store.restore_listeners.append(self._on_restore)

    def add_to(self, server: GuardedServer) -> None:
        """Serve the sessions; as the generated code would, but messages may be serialised already."""
        method = grpc.stream_stream_rpc_method_handler(
            self.Attach,
            request_deserializer=dispatcher_pb2.AgentMessage.FromString,
            response_serializer=_serialised,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Attach": method})
        server.add_generic_rpc_handlers((handler,))

    def connected(self) -> int:
        """How many nodes have a session."""
        return len(self._sessions)

    async def run(self) -> None:
        """Serve sessions until the lead is lost."""
        self._begin()
        spreading = asyncio.create_task(self._spread())
        lost = asyncio.create_task(self._leader.lost.wait())
        try:
            await asyncio.wait({spreading, lost}, return_when=asyncio.FIRST_COMPLETED)
            if spreading.done():
                spreading.result()
        finally:
            spreading.cancel()
            lost.cancel()
            self._shared = None
            self._is_ready.clear()
            for session in self._sessions.values():
                session.wake.set()
            self._sessions = {}

    def _begin(self, *, at_once: bool = False) -> None:
        self._shared, self._holders = SharedItems(self._store, at_once=at_once), Holders(self._store)
        self._withdrawals.restart(self._store)
        self._refreshed = self._withdrawals.generation

    def _on_restore(self) -> None:
        if self._shared is not None:
            self._begin(at_once=True)
            for session in self._sessions.values():  # each gets a complete set
                session.outbox = Outbox(self._store, self._shared, self._holders, session.node_id)
                session.holds = b""
                session.wake.set()

    def _on_commit(self, commit: Commit) -> None:
        if self._shared is None:
            return
        changed = self._shared.feed(commit.events)
        stopping = self._withdrawals.note(commit.events)
        if stopping:
            self._urgent.set()
        if stopping or changed:
            self._changed.set()
        for event in commit.events:
            self._note(event, commit.actor)
        if any(event.kind == store_pb2.KIND_NODE for event in commit.events):
            self._release_soon()

    def _note(self, event: ChangeEvent, actor: str) -> None:
        """Mark the sessions whose own items an event may have changed."""
        if event.kind == store_pb2.KIND_TASK:
            for task in (event.old, event.new):
                if isinstance(task, objects_pb2.Task) and _is_news(event, actor):
                    self._touch(task.node_id, event.id)
        elif event.kind == store_pb2.KIND_VOLUME:
            for node_id in self._holders.feed(event):
                self._touch(node_id)
        elif event.kind == store_pb2.KIND_IMAGE:
            ends = (image for image in (event.old, event.new) if isinstance(image, objects_pb2.Image))
            keys = {"image/" + image.digest for image in ends}
            for session in self._sessions.values():
                own = session.outbox.own
                if "build" in own or any(key in own for key in keys):
                    self._touch(session.node_id)
        elif concerns_all(event, self._store):
            for node_id in self._sessions:
                self._touch(node_id)
        elif event.kind == store_pb2.KIND_NODE:
            self._touch(event.id)

    def _touch(self, node_id: str, task_id: str = "") -> None:
        session = self._sessions.get(node_id)
        if session is not None:
            session.outbox.touch(task_id)
            session.wake.set()

    async def _spread(self) -> None:
        """Rounds of shared items to all nodes."""
        await self._refresh()
        self._is_ready.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            began = time.monotonic()
            await self._refresh()
            # Who has not had the last round yet gets both at once, and is not waited for again: it may be stuck.
            for session in [session for session in self._sessions.values() if not session.is_due]:
                await self._until_awaited(SESSIONS_AT_ONCE - 1)
                if self._sessions.get(session.node_id) is session:
                    self._awaited.add(session.node_id)
                    session.is_due = True
                    session.wake.set()
            await self._until_awaited(0)
            await self._pause(time.monotonic() - began)

    async def _until_awaited(self, most: int) -> None:
        """Until at most so many nodes have not taken what the present round sends them.

        What is on its way to a node takes memory and turns of the loop, in a large cluster a megabyte each.
        """
        while len(self._awaited) > most:
            self._reached.clear()
            try:
                async with asyncio.timeout(STUCK_S):
                    await self._reached.wait()
            except TimeoutError:
                self._awaited.clear()  # the others go on

    async def _pause(self, took_s: float) -> None:
        """Between two rounds: as long as the last one took, and where many nodes had to be told, longer.

        The CPU of a leader of many is better spent on starting tasks; but what stops waits for all of them.
        """
        await asyncio.sleep(min(took_s, ROUND_MAX_S))
        if took_s < ROUND_SHORT_S or self._withdrawals.waiting:
            return
        self._urgent.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(took_s * ROUND_PAUSES, ROUND_MAX_S)):
                await self._urgent.wait()

    def _reach(self, node_id: str) -> None:
        """The present round need not wait for this node any more."""
        if node_id in self._awaited:
            self._awaited.discard(node_id)
            self._reached.set()

    async def _refresh(self) -> None:
        """Bring the shared items up to the last commit, in steps of milliseconds."""
        while self._shared is not None and not self._shared.is_current:
            self._shared.refresh(SERVICES_AT_ONCE)
            if not self._shared.is_current:
                await asyncio.sleep(0)
        self._refreshed = self._withdrawals.generation

    def _release_soon(self) -> None:
        """Once for all nodes that answer at the same time."""
        if self._withdrawals.waiting and self._releasing is None:
            self._releasing = asyncio.get_running_loop().call_later(RELEASE_GATHER_S, self._release)

    def _release(self) -> None:
        """Tell nodes which of their stopping tasks nobody sends to any more."""
        self._releasing = None
        reached = self._withdrawals.generation
        for node in self._store.nodes():
            session = self._sessions.get(node.meta.id)
            if node.removed or node.status.state == types_pb2.NODE_DOWN:
                continue
            if session is None and node.status.state != types_pb2.NODE_READY:
                continue  # it was made by a join that never came here: nothing is sent from it
            reached = min(reached, session.progress.applied if session else 0)
        for node_id, task_ids in self._withdrawals.reached(reached).items():
            if (session := self._sessions.get(node_id)) is not None:
                session.out_of_service.update(task_ids)
                session.wake.set()

    async def Attach(
        self, request_iterator: AgentStream, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Outgoing]:
        caller = current_caller()
        node = self._store.node(caller.node_id)
        if not self._leader.leading or self._shared is None:
            yield self._not_leader()
            return
        if node is None or node.removed:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"node {caller.node_id} is not in the cluster"
            )
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await anext(request_iterator)
        except (StopAsyncIteration, TimeoutError):
            return
        if not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a session starts with a hello")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await self._is_ready.wait()
        if self._shared is None or not self._is_ready.is_set():
            yield self._not_leader()
            return
        outbox = Outbox(self._store, self._shared, self._holders, caller.node_id)
        session = Session(caller.node_id, first.hello, outbox)
        if (former := self._sessions.get(caller.node_id)) is not None:
            former.wake.set()
        self._sessions[caller.node_id] = session
        session.out_of_service.update(self._withdrawals.out_on(caller.node_id))
        description = first.hello.description
        self._statuses.description(caller.node_id, description)
        heartbeat_ms = self._liveness.begin(caller.node_id, description.address)
        log.info("session started node=%s", caller.node_id)
        reader = asyncio.create_task(self._read(session, request_iterator))
        try:
            yield dispatcher_pb2.ManagerMessage(
                welcome=dispatcher_pb2.Welcome(
                    session_id=caller.node_id,
                    heartbeat_ms=heartbeat_ms,
                    epoch=self._leader.epoch,
                )
            )
            async for message in self._down(session, reader):
                yield message
                del message  # of a thousand sessions each would keep its last set
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await reader
            if self._sessions.get(caller.node_id) is session:
                del self._sessions[caller.node_id]
                self._reach(caller.node_id)
            log.info("session ended node=%s", caller.node_id)

    def _not_leader(self) -> dispatcher_pb2.ManagerMessage:
        leader_id = ""
        with contextlib.suppress(LogClosed):  # this manager is ending: the agent asks another one
            leader_id = self._leader.raft.status().leader_id or ""
        node = self._store.node(leader_id)
        return dispatcher_pb2.ManagerMessage(
            not_leader=dispatcher_pb2.NotLeader(
                leader_id=leader_id, leader_address=node.manager.control_address if node else ""
            )
        )

    async def _down(self, session: Session, reader: asyncio.Task[None]) -> AsyncIterator[Outgoing]:
        """Replies and deltas, until the lead is lost, the node leaves, or a newer session begins."""
        reader.add_done_callback(lambda _: session.wake.set())
        while not reader.done():
            await session.wake.wait()
            session.wake.clear()
            while not session.replies.empty():
                yield session.replies.get_nowait()
            if self._shared is None or not self._leader.leading:
                yield self._not_leader()
                return
            if self._sessions.get(session.node_id) is not session:
                return
            if session.has_news:
                wait_s = session.next_s - time.monotonic()
                if wait_s > GATHER_S:
                    session.wake_in(wait_s)
                    continue
                await asyncio.sleep(GATHER_S)
                session.next_s = time.monotonic() + PER_SESSION_S * len(self._sessions)
                made = self._deltas(session)
                while made:
                    yield made.pop(0)
                if not session.is_due:
                    self._reach(session.node_id)

    def _deltas(self, session: Session) -> list[Outgoing]:
        if self._sessions.get(session.node_id) is not session:
            return []
        outbox = session.outbox
        everything = session.is_due or outbox.is_first or outbox.needs_shared()
        made = outbox.first(session.holds) if outbox.is_first else outbox.next(everything=everything)
        if everything:
            session.is_due = False
            session.generation = self._refreshed
        session.progress.sent(outbox.holds, session.generation)
        self._release_soon()
        down: list[Outgoing] = [field(ASSIGNMENTS_FIELD, message) for message in made]
        if session.out_of_service:
            out = dispatcher_pb2.OutOfService(task_ids=sorted(session.out_of_service))
            down.append(dispatcher_pb2.ManagerMessage(out_of_service=out))
            session.out_of_service.clear()
        return down

    async def _read(self, session: Session, stream: AgentStream) -> None:
        reader = asyncio.current_task()
        assert reader is not None
        acknowledging = asyncio.create_task(self._acknowledge(session))
        end = _cancels(reader)
        acknowledging.add_done_callback(end)
        try:
            async for message in stream:
                match message.WhichOneof("message"):
                    case "heartbeat":
                        self._liveness.beat(session.node_id)
                        if message.heartbeat.HasField("usage"):
                            self._statuses.usage(session.node_id, message.heartbeat.usage)
                            message.heartbeat.ClearField("usage")  # it goes back as an answer
                        message.heartbeat.stored = session.stored
                        await session.reply(dispatcher_pb2.ManagerMessage(heartbeat=message.heartbeat))
                    case "reports":
                        self._take(session, message.reports)
                        await session.unstored.put(message.reports.sequence)
                    case "applied":
                        session.progress.confirmed(message.applied.holds)
                        self._release_soon()
                    case "hello":
                        self._statuses.description(session.node_id, message.hello.description)
                    case "goodbye":
                        self._liveness.gone(
                            session.node_id, message.goodbye.reason or "the node said goodbye"
                        )
                        return
        finally:
            acknowledging.remove_done_callback(end)
            acknowledging.cancel()
            await asyncio.gather(acknowledging, return_exceptions=True)

    def _take(self, session: Session, reports: dispatcher_pb2.Reports) -> None:
        for report in reports.tasks:
            self._statuses.task(session.node_id, report)
        for volume in reports.volumes:
            self._statuses.volume(session.node_id, volume)
        if reports.images:
            digests = (image for image in reports.images if image)
            self._statuses.images(session.node_id, digests, reports.held)

    async def _acknowledge(self, session: Session) -> None:
        """Say which reports are stored; beside the reader, so that what comes meanwhile joins the next write."""
        while True:
            sequences = [await session.unstored.get()]
            while not session.unstored.empty():
                sequences.append(session.unstored.get_nowait())
            try:
                await self._statuses.flushed()
            except asyncio.CancelledError:
                if self._leader.leading:
                    raise
                return  # the lead was lost: the session ends with a word about who has it
            session.stored = max(session.stored, *sequences)
            for sequence in () if session.hears_stored else sequences:  # else the heartbeats say so
                stored = dispatcher_pb2.ReportsStored(sequence=sequence)
                await session.reply(dispatcher_pb2.ManagerMessage(stored=stored))


def _serialised(message: Outgoing) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _is_news(event: ChangeEvent, actor: str) -> bool:
    """Whether a task's change is one of what its node is sent: what it reports itself it hears no echo of."""
    old, new = event.old, event.new
    if actor != ACTOR or not isinstance(old, objects_pb2.Task) or not isinstance(new, objects_pb2.Task):
        return True
    return is_given(old) != is_given(new)


def _cancels(task: asyncio.Task[Any]) -> Callable[[asyncio.Task[None]], None]:
    """A callback that ends `task` unless the other one ended well."""

    def ended(done: asyncio.Task[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            task.cancel()

    return ended
