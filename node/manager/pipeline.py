"""Many writes in flight on one stream (Control.Write): the server's side and a client for asyncio.

A unary call costs a Python server several times what a write in it does. Here several calls and
several answers ride in one message when they are there at the same time; nothing waits for more.

Rules:
- A write means what the unary call means: `answer` is the code of both, and every call is checked
  against the access table anew, as if it had come alone.
- At most IN_FLIGHT_MAX calls of a stream are open; the server reads no further until there is room.
- Each call has a deadline. A client that gives up says so, and the server stops what it can.
- A stream that breaks off leaves its open calls without an answer: the client ends them with the
  stream's status, unmarked, which says that their outcome is not known.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message
from swarmpy.node.ca.access import Caller
from swarmpy.node.ca.guard import Denied, permitted
from swarmpy.node.manager.errors import REFUSED
from swarmpy.proto import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

METHODS = {"create": "Create", "update": "Update", "delete": "Delete", "rollout": "Rollout"}
FIELDS = {method: field for field, method in METHODS.items()}
IN_FLIGHT_MAX = 512
MESSAGE_BYTES = 512 * 1024
CALL_TIMEOUT_S = 60.0
WAITING_MAX = 8192
STREAM_AGE_S = 15.0
STREAM_TIMEOUT_S = 3600.0
NOT_SENT = "failed to connect"  # gRPC's own words: whoever reads them knows that nothing was done
LATE_S = 0.2  # the client's own clock ends a call; the server's only what a client forgot
CODES = {code.value[0]: code for code in grpc.StatusCode}

Answer = Callable[[str, Message, Caller, str, float], Awaitable[Any]]
Refusal = Callable[[BaseException], tuple[grpc.StatusCode, str, bool] | None]


class WriteStream:
    """One stream, at the server. `answer` carries out a call, `refusal` says what its error becomes."""

    def __init__(self, context: Any, answer: Answer, refusal: Refusal) -> None:
        self._context, self._answer, self._refusal = context, answer, refusal
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._answers: list[control_pb2.WriteAnswer] = []
        self._turn = asyncio.Event()
        self._room = asyncio.Event()
        self._ending: asyncio.Future[None] = self._loop.create_future()

    def end(self) -> None:
        """Read no further; the stream ends when what is open is answered."""
        if not self._ending.done():
            self._ending.set_result(None)

    async def serve(self, messages: AsyncIterator[control_pb2.WriteCalls]) -> None:
        """Until the client has said everything and every call is answered, or by cancellation."""
        sending = asyncio.create_task(self._send())
        reading = asyncio.create_task(self._read(messages))
        try:
            # A stream to which nothing can be sent any more is over, whatever is still read from it.
            await asyncio.wait({reading, sending, self._ending}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            if not sending.done():
                reading.cancel()
                await self._until_open(0)
        finally:
            left = [reading, sending, *self._calls.values()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, messages: AsyncIterator[control_pb2.WriteCalls]) -> None:
        async for message in messages:
            for number in message.cancelled:
                if (given_up := self._calls.get(number)) is not None:
                    given_up.cancel()
            callers: dict[str, Caller | Denied] = {}
            for call in message.calls:
                await self._until_open(IN_FLIGHT_MAX - 1)
                self._begin(call, callers)

    async def _until_open(self, count: int) -> None:
        """Return when no more than so many calls are open or their answers unsent."""
        while len(self._calls) + len(self._answers) > count:
            self._room.clear()
            await self._room.wait()

    def _begin(self, call: control_pb2.WriteCall, callers: dict[str, Caller | Denied]) -> None:
        field = call.WhichOneof("write") or ""
        method = METHODS.get(field)
        if method is None or call.number in self._calls:
            what = "is none of the writes" if method is None else "has a number that is in use"
            self._put(
                _no(call.number, grpc.StatusCode.INVALID_ARGUMENT, f"call: {what} on this stream", True)
            )
            return
        if method not in callers:
            try:
                callers[method] = permitted(f"/swarmpy.v1.Control/{method}")
            except Denied as denied:
                callers[method] = denied
        caller = callers[method]
        if isinstance(caller, Denied):
            self._put(_no(call.number, caller.code, caller.details, False))
            return
        left_s = min(call.timeout_ms / 1000 or CALL_TIMEOUT_S, CALL_TIMEOUT_S)
        work = self._answer(method, getattr(call, field), caller, call.actor, left_s)
        task = self._calls[call.number] = asyncio.ensure_future(work)
        deadline = self._loop.call_later(left_s + LATE_S, task.cancel)
        task.add_done_callback(partial(self._ended, call.number, deadline))

    def _ended(self, number: int, deadline: asyncio.TimerHandle, call: asyncio.Future[Any]) -> None:
        deadline.cancel()
        del self._calls[number]
        if call.cancelled():
            self._put(_no(number, grpc.StatusCode.DEADLINE_EXCEEDED, "the write was not done in time", False))
            return
        error = call.exception()
        if error is None:
            self._put(control_pb2.WriteAnswer(number=number, response=call.result()))
        elif (refusal := self._refusal(error)) is not None:
            self._put(_no(number, *refusal))
        else:  # grpc's own words for a unary handler that breaks
            log.error("write failed number=%d", number, exc_info=error)
            text = f"Unexpected {type(error)}: {error}"
            self._put(_no(number, grpc.StatusCode.UNKNOWN, text, False))

    def _put(self, answer: control_pb2.WriteAnswer) -> None:
        self._answers.append(answer)
        self._turn.set()

    async def _send(self) -> None:
        while True:
            await self._turn.wait()
            self._turn.clear()
            while self._answers:
                answers = as_many(iter(self._answers), IN_FLIGHT_MAX)
                await self._context.write(control_pb2.WriteAnswers(answers=answers))
                del self._answers[: len(answers)]
                self._room.set()


def _no(number: int, code: grpc.StatusCode, details: str, refused: bool) -> control_pb2.WriteAnswer:
    return control_pb2.WriteAnswer(number=number, code=code.value[0], details=details, refused=refused)


def as_many(waiting: Iterator[Any], count_max: int) -> list[Any]:
    """The first of what waits, and as many more as go into a message with it."""
    size = 0
    taken: list[Any] = []
    for message in itertools.islice(waiting, max(0, count_max)):
        size += message.ByteSize() + 8
        if taken and size > MESSAGE_BYTES:
            break
        taken.append(message)
    return taken


class Writes:
    """Writes at one manager, for asyncio: `call` from as many tasks as there are writes to make.

    The stream is opened by the first call, and again by the first one after it broke off or grew old:
    a server ends a connection after an hour, and gives what runs on it 30 s.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._stub: Any = control_pb2_grpc.ControlStub(channel)
        self._stream: _ClientStream | None = None

    async def call(self, method: str, request: Any, timeout_s: float, actor: str = "") -> Any:
        """The WriteResponse. Raises AioRpcError as the unary call would."""
        stream = self._stream
        if stream is not None and stream.is_old:
            self.finish()
        if self._stream is None or self._stream.ended:
            self._stream = _ClientStream(self._stub)
        return await self._stream.call(method, request, timeout_s, actor)

    def finish(self) -> None:
        """Begin no more calls on the stream: it ends when all that it has are answered."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.finish()

    async def close(self) -> None:
        """End the stream now; what is unanswered ends as CANCELLED."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()


class _ClientStream:
    """One stream, at the client."""

    def __init__(self, stub: Any) -> None:
        self.ended = False
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}  # not answered yet; in `_waiting` until they are sent
        self._waiting: dict[int, control_pb2.WriteCall] = {}
        self._given_up: list[int] = []
        self._turn = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._until_s = self._loop.time() + STREAM_AGE_S
        self._finishing = False
        self._rpc = stub.Write(timeout=STREAM_TIMEOUT_S)
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    @property
    def is_old(self) -> bool:
        return self._loop.time() > self._until_s

    def finish(self) -> None:
        self._finishing = True
        self._turn.set()

    async def call(self, method: str, request: Any, timeout_s: float, actor: str) -> Any:
        if len(self._waiting) >= WAITING_MAX:
            text = f"{WAITING_MAX} writes wait already: make fewer at the same time"
            raise _error(grpc.StatusCode.RESOURCE_EXHAUSTED, text, True)
        number = next(self._numbers)
        answer = self._open[number] = self._loop.create_future()
        deadline = self._loop.call_later(timeout_s, self._expire, answer)
        self._waiting[number] = control_pb2.WriteCall(
            number=number, timeout_ms=int(timeout_s * 1000), actor=actor, **{FIELDS[method]: request}
        )
        self._turn.set()
        try:
            return await answer
        finally:
            deadline.cancel()
            if self._open.pop(number, None) is not None and self._waiting.pop(number, None) is None:
                self._given_up.append(number)
                self._turn.set()
            if self._finishing or self._waiting:
                self._turn.set()

    def _expire(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", False))

    async def _send(self) -> None:
        try:
            while not self._finishing or self._open:
                await self._turn.wait()
                self._turn.clear()
                while self._given_up or (calls := self._next_calls()):
                    cancelled, self._given_up = self._given_up, []
                    calls = [] if cancelled else calls
                    await self._rpc.write(control_pb2.WriteCalls(calls=calls, cancelled=cancelled))
            await self._rpc.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # `_receive` says why

    def _next_calls(self) -> list[control_pb2.WriteCall]:
        """As many as go into one message and the server has room for."""
        room = IN_FLIGHT_MAX - (len(self._open) - len(self._waiting))
        calls = as_many(iter(self._waiting.values()), room)
        for call in calls:
            del self._waiting[call.number]
        return calls

    async def _receive(self) -> None:
        try:
            while (message := await self._rpc.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                for answer in message.answers:
                    if (waiting := self._open.pop(answer.number, None)) is not None and not waiting.done():
                        _settle(waiting, answer)
            self._end(await self._rpc.code(), await self._rpc.details() or "")
        except grpc.aio.AioRpcError as error:
            self._end(error.code(), error.details() or "")

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        """Nothing more comes."""
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNAVAILABLE, "the manager ended the stream"
        self.ended = True
        unanswered, self._open = self._open, {}
        for number, answer in unanswered.items():
            if not answer.done():
                said = f"{NOT_SENT} ({details})" if number in self._waiting else details
                answer.set_exception(_error(code, said, False))
        self._waiting.clear()
        self._tasks[0].cancel()

    async def close(self) -> None:
        self._rpc.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.ended:
            self._end(grpc.StatusCode.CANCELLED, "the client closed the stream")


def _settle(waiting: asyncio.Future[Any], answer: control_pb2.WriteAnswer) -> None:
    if answer.code:
        code = CODES.get(answer.code, grpc.StatusCode.UNKNOWN)
        waiting.set_exception(_error(code, answer.details, answer.refused))
    else:
        waiting.set_result(answer.response)


def _error(code: grpc.StatusCode, details: str, refused: bool) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*(REFUSED if refused else ()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details, "")
