"""Passing calls on to the leader, for as long as it leads.

A call that waits for a manager which no longer leads, or cannot be reached, would wait in vain:
it is ended as soon as this manager hears of another leader, or of none for an election timeout.
What the leader itself refused is marked in the trailing metadata. A write that ended without
that mark may have been carried out: its outcome is unknown, and the caller is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from swarmpy.node.manager.errors import REFUSED_KEY, ManagerError, Moving, NotLeading, Unknown
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.pipeline import FIELDS, Writes
from swarmpy.proto import control_pb2, control_pb2_grpc

ACTOR_KEY = "swarmpy-actor"
UNARY_TIMEOUT_S = 60.0
STREAM_TIMEOUT_S = 24 * 3600.0
PROGRESS_MS = 1000
SILENCE_S = 3.0
LAST_ANSWER_S = 0.1
READS = frozenset({"Get", "List", "Plan", "Explain", "Status", "ShowRoot"})
MOVED = "the lead moved to another manager, or it cannot be reached: ask again"
# What gRPC itself says when a call ends and nobody knows how far it got.
AMBIGUOUS = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL,
    }
)  # fmt: skip
# Said by the leader's door of this manager, not of the user: a demotion under way, a clock that is wrong.
DENIED = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
Answer = TypeVar("Answer")
MOVES_THE_LEAD = frozenset({"TransferLead"})


class Proxy:
    """Calls to whichever manager leads."""

    def __init__(self, leader: Leader, channels: NodeChannels) -> None:
        self._leader, self._channels = leader, channels
        self._writes: Writes | None = None

    def _channel(self) -> tuple[str, grpc.aio.Channel]:
        leader_id = self._leader.known_leader
        if leader_id is None or leader_id == self._leader.raft.node_id:
            raise Moving("no manager leads the cluster at the moment: a new leader is being elected")
        try:
            return leader_id, self._channels.manager(leader_id)
        except ManagerError as error:
            raise NotLeading(str(error)) from error

    async def unary(self, method: str, request: Message, actor: str, time_left_s: float | None) -> Any:
        """The leader's answer. Raises ManagerError, or AioRpcError with what the leader refused."""
        leader_id, channel = self._channel()
        timeout = min(time_left_s or UNARY_TIMEOUT_S, UNARY_TIMEOUT_S)
        call: Awaitable[Any]
        if method in FIELDS:
            call = self._stream_to(channel).call(method, request, timeout, actor)
        else:
            stub = control_pb2_grpc.ControlStub(channel)
            call = getattr(stub, method)(request, timeout=timeout, metadata=((ACTOR_KEY, actor),))
        call = asyncio.ensure_future(call)
        try:
            if method in MOVES_THE_LEAD:
                return await call  # that the leader changes is its answer's reason, not its loss
            return await self._while_led(leader_id, call)
        except grpc.aio.AioRpcError as error:
            if error.code() in DENIED and not was_refused(error):
                raise NotLeading(
                    f"the leader does not take calls from this manager at the moment ({error.details()}): "
                    "ask another one"
                ) from error
            if was_refused(error) or error.code() not in AMBIGUOUS:
                raise
            raise _lost(method, error.details() or "no reason given") from error
        except NotLeading as error:
            raise _lost(method, str(error)) from error
        finally:
            call.cancel()

    def _stream_to(self, channel: grpc.aio.Channel) -> Writes:
        """All writes that this manager passes on share a stream, as long as the leader and its channel stay."""
        if self._writes is None or self._writes.channel is not channel:
            if self._writes is not None:
                self._writes.finish()
            self._writes = Writes(channel)
        return self._writes

    async def close(self) -> None:
        """End the stream of writes."""
        if self._writes is not None:
            await self._writes.close()

    async def _while_led(
        self, leader_id: str, answer: Awaitable[Answer], silence_s: float | None = None
    ) -> Answer:
        """What `answer` gives; NotLeading when the leader changes first, or nothing comes for so long."""
        waiting = asyncio.ensure_future(answer)
        moved = asyncio.ensure_future(self._leader.until_moved(leader_id))
        try:
            await asyncio.wait({waiting, moved}, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if moved.done() and not waiting.done():
                # A leader that handed the lead over has an answer to what it took before; a lost one has none.
                await asyncio.wait({waiting}, timeout=LAST_ANSWER_S)
            if waiting.done():
                return waiting.result()
            raise NotLeading(MOVED)
        finally:
            moved.cancel()
            waiting.cancel()

    async def stream(
        self, method: str, request: Message | AsyncIterator[Message], actor: str, time_left_s: float | None
    ) -> AsyncIterator[Any]:
        """The leader's answers, wherever the lead goes meanwhile."""
        stub: Any = control_pb2_grpc.ControlStub(self._channel()[1])
        timeout = min(time_left_s or STREAM_TIMEOUT_S, STREAM_TIMEOUT_S)
        async for answer in getattr(stub, method)(request, timeout=timeout, metadata=((ACTOR_KEY, actor),)):
            yield answer

    async def watch(
        self, request: control_pb2.WatchRequest, actor: str, time_left_s: float | None
    ) -> AsyncIterator[control_pb2.Event]:
        """The leader's events while it leads and is heard of; NotLeading afterwards."""
        leader_id, channel = self._channel()
        stub: Any = control_pb2_grpc.ControlStub(channel)
        wanted_ms = request.progress_ms
        passed_on = control_pb2.WatchRequest()
        passed_on.CopyFrom(request)
        passed_on.progress_ms = min(wanted_ms or PROGRESS_MS, PROGRESS_MS)
        timeout = min(time_left_s or STREAM_TIMEOUT_S, STREAM_TIMEOUT_S)
        call = stub.Watch(passed_on, timeout=timeout, metadata=((ACTOR_KEY, actor),))
        loop = asyncio.get_running_loop()
        sent_s = loop.time()
        try:
            while True:
                event = await self._while_led(leader_id, call.read(), SILENCE_S)
                if event is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
                    raise NotLeading(MOVED)
                if event.action == control_pb2.EVENT_PROGRESS and (
                    not wanted_ms or (loop.time() - sent_s) * 1000 < wanted_ms - PROGRESS_MS // 2
                ):
                    continue
                sent_s = loop.time()
                yield event
        finally:
            call.cancel()


def was_refused(error: grpc.aio.AioRpcError) -> bool:
    """Whether a manager answered, and not the network or a dying process."""
    trailing: Any = error.trailing_metadata()
    return any(key == REFUSED_KEY for key, _ in trailing or ())


def _lost(method: str, reason: str) -> ManagerError:
    """What the loss of an answer means to the one who asked."""
    if method in READS or reason.startswith("failed to connect"):
        return NotLeading(f"the leader cannot be reached ({reason})")
    return Unknown(
        f"the leader was lost before it answered ({reason}): the change may or may not be made; "
        "send it again with the same request id"
    )
