"""Sessions of nodes: assignments down, heartbeats and statuses up. Served by the leader.

Every session holds the set of items its node was sent (node/items.py). A commit marks the
sessions it concerns; after 10 ms of gathering each gets one delta. Shared items are kept
once for all sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.items import Items, deltas, digest
from swarmpy.node.manager.assignments import SharedItems, node_items
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.liveness import Liveness
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.node.manager.withdrawals import Progress, Withdrawals
from swarmpy.proto import dispatcher_pb2, dispatcher_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.log import LogClosed
from swarmpy.raft.store import Commit

log = logging.getLogger(__name__)
GATHER_S = 0.01
RELEASE_GATHER_S = 0.005
HELLO_TIMEOUT_S = 10.0
DOWN_QUEUE = 64
UNSTORED_QUEUE = 16

AgentStream = AsyncIterator[dispatcher_pb2.AgentMessage]


class Session:
    """One attached node."""

    def __init__(self, node_id: str, holds: bytes) -> None:
        self.node_id = node_id
        self.sent: Items = {}
        self.holds = holds
        self.first = True
        self.dirty = asyncio.Event()
        self.dirty.set()
        self.progress = Progress()
        self.out_of_service: set[str] = set()  # its tasks to be named in the next message
        self.replies: asyncio.Queue[dispatcher_pb2.ManagerMessage] = asyncio.Queue(DOWN_QUEUE)
        self.unstored: asyncio.Queue[int] = asyncio.Queue(UNSTORED_QUEUE)


class Dispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    """The Dispatcher service; `run` belongs to the leader's TaskGroup."""

    def __init__(self, leader: Leader, statuses: StatusWriter, liveness: Liveness) -> None:
        self._leader = leader
        self._store = leader.store
        self._statuses = statuses
        self._liveness = liveness
        self._shared: SharedItems | None = None
        self._sessions: dict[str, Session] = {}
        self._withdrawals = Withdrawals()
        self._releasing: asyncio.TimerHandle | None = None
        self._store.listeners.append(self._on_commit)
        self._store.restore_listeners.append(self._on_restore)

    def connected(self) -> int:
        """How many nodes have a session."""
        return len(self._sessions)

    async def run(self) -> None:
        """Serve sessions until the lead is lost."""
        self._shared = SharedItems(self._store)
        self._withdrawals.restart(self._store)
        try:
            await self._leader.lost.wait()
        finally:
            self._shared = None
            for session in self._sessions.values():
                session.dirty.set()
            self._sessions = {}

    def _on_restore(self) -> None:
        if self._shared is not None:
            self._shared.rebuild()
            self._withdrawals.restart(self._store)
            for session in self._sessions.values():
                session.dirty.set()

    def _on_commit(self, commit: Commit) -> None:
        if self._shared is None:
            return
        everyone = self._shared.feed(commit.events) | self._withdrawals.note(commit.events)
        concerned: set[str] = set()
        for event in commit.events:
            if event.kind in (store_pb2.KIND_NODE, store_pb2.KIND_CLUSTER, store_pb2.KIND_IMAGE):
                everyone = True
            if event.kind == store_pb2.KIND_VOLUME:
                for volume in (event.old, event.new):
                    concerned.update(volume.holders if isinstance(volume, objects_pb2.Volume) else ())
            if event.kind == store_pb2.KIND_TASK:
                concerned.update(
                    task.node_id for task in (event.old, event.new) if isinstance(task, objects_pb2.Task)
                )
        for session in list(self._sessions.values()) if everyone else map(self._sessions.get, concerned):
            if session is not None:
                session.dirty.set()
        if any(event.kind == store_pb2.KIND_NODE for event in commit.events):
            self._release_soon()

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
                session.dirty.set()

    async def Attach(
        self, request_iterator: AgentStream, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[dispatcher_pb2.ManagerMessage]:
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
        session = Session(caller.node_id, first.hello.holds)
        if (former := self._sessions.get(caller.node_id)) is not None:
            former.sent = {"": b""}
            former.dirty.set()
        self._sessions[caller.node_id] = session
        session.out_of_service.update(self._withdrawals.out_on(caller.node_id))
        description = first.hello.description
        self._statuses.description(caller.node_id, description)
        self._liveness.beat(caller.node_id, description.address)
        log.info("session started node=%s", caller.node_id)
        reader = asyncio.create_task(self._read(session, request_iterator))
        try:
            yield dispatcher_pb2.ManagerMessage(
                welcome=dispatcher_pb2.Welcome(
                    session_id=caller.node_id,
                    heartbeat_ms=self._liveness.heartbeat_ms,
                    epoch=self._leader.epoch,
                )
            )
            async for message in self._down(session, reader):
                yield message
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await reader
            if self._sessions.get(caller.node_id) is session:
                del self._sessions[caller.node_id]
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

    async def _down(
        self, session: Session, reader: asyncio.Task[None]
    ) -> AsyncIterator[dispatcher_pb2.ManagerMessage]:
        """Replies and deltas, until the lead is lost, the node leaves, or a newer session begins."""
        waits: dict[str, asyncio.Task[object]] = {}
        try:
            while not reader.done():
                if "dirty" not in waits:
                    waits["dirty"] = asyncio.create_task(session.dirty.wait())
                if "reply" not in waits:
                    waits["reply"] = asyncio.create_task(session.replies.get())
                await asyncio.wait({*waits.values(), reader}, return_when=asyncio.FIRST_COMPLETED)
                if (reply := waits["reply"]).done():
                    del waits["reply"]
                    message = reply.result()
                    assert isinstance(message, dispatcher_pb2.ManagerMessage)
                    yield message
                if waits["dirty"].done():
                    del waits["dirty"]
                    if self._shared is None or not self._leader.leading:
                        yield self._not_leader()
                        return
                    if self._sessions.get(session.node_id) is not session:
                        return
                    await asyncio.sleep(GATHER_S)
                    session.dirty.clear()
                    for message in self._deltas(session):
                        yield message
        finally:
            for wait in waits.values():
                wait.cancel()

    def _deltas(self, session: Session) -> list[dispatcher_pb2.ManagerMessage]:
        if self._shared is None:
            return []
        wanted: Items = {**self._shared.items, **node_items(self._store, session.node_id)}
        if session.first:
            session.first = False
            if session.holds and session.holds == digest(wanted):
                return self._sent(session, wanted, [])
            messages = list(deltas({}, wanted, complete=True))
        else:
            messages = list(deltas(session.sent, wanted, complete=False))
        return self._sent(session, wanted, messages)

    def _sent(
        self, session: Session, items: Items, messages: list[dispatcher_pb2.Assignments]
    ) -> list[dispatcher_pb2.ManagerMessage]:
        session.sent = items
        session.progress.sent(digest(items), self._withdrawals.generation)
        self._release_soon()
        down = [dispatcher_pb2.ManagerMessage(assignments=message) for message in messages]
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
                        await session.replies.put(dispatcher_pb2.ManagerMessage(heartbeat=message.heartbeat))
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
            for sequence in sequences:
                stored = dispatcher_pb2.ReportsStored(sequence=sequence)
                await session.replies.put(dispatcher_pb2.ManagerMessage(stored=stored))


def _cancels(task: asyncio.Task[Any]) -> Callable[[asyncio.Task[None]], None]:
    """A callback that ends `task` unless the other one ended well."""

    def ended(done: asyncio.Task[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            task.cancel()

    return ended
