"""What the node serves to managers about its running tasks: exec, attach, files, connections, numbers.

Every call ends what it started when the caller goes away. What a caller sends or fetches slowly waits in
gRPC's own windows and in pipes, never in memory without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import grpc
from swarmpy.node.agent import pod
from swarmpy.node.agent.serve import code_of
from swarmpy.node.runtime import cgroups, copying, forward, meters, processes
from swarmpy.node.runtime.errors import ContainerError, RuntimeFailure, UnknownContainer
from swarmpy.node.runtime.inside import Inside
from swarmpy.node.runtime.interactive import STDERR, Attachment, Execution, NoProgram, Program
from swarmpy.node.runtime.process import blocking
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import tasks_pb2, tasks_pb2_grpc

log = logging.getLogger(__name__)
CHUNK_BYTES = 256 * 1024
FIRST_MESSAGE_TIMEOUT_S = 10.0
INTERVAL_MS_MIN = 500
Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


class AgentTasksService(tasks_pb2_grpc.AgentTasksServicer):
    """`addresses_of` gives a task's own addresses, `probe_times_ms` how long last health checks took."""

    def __init__(
        self,
        runtime: Runtime,
        addresses_of: Callable[[str], tuple[str, ...]],
        probe_times_ms: Mapping[str, int],
    ) -> None:
        self._runtime = runtime
        self._probe_times_ms = probe_times_ms
        self._addresses_of = addresses_of
        self._left_alone: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop waiting for detached programs; they go on."""
        for task in self._left_alone:
            task.cancel()
        await asyncio.gather(*self._left_alone, return_exceptions=True)

    async def Exec(
        self, request_iterator: AsyncIterator[tasks_pb2.SessionInput], context: Context
    ) -> AsyncIterator[tasks_pb2.SessionOutput]:
        start = (await _first(request_iterator, context)).exec
        execution: Execution | None = None
        try:
            inside = self._runtime.inside(_id(start))
            execution = Execution(inside, _program(start), detached=start.detach)
            await execution.start()
            place = tasks_pb2.TaskPlace(task_id=start.target, tty=start.tty and not start.detach)
            yield tasks_pb2.SessionOutput(place=place)
            if start.detach:
                self._leave_alone(execution)
                execution = None
                return
            async for output in _streams(execution, request_iterator):
                yield output
            exit_ = tasks_pb2.SessionExit(code=await execution.wait())
            yield tasks_pb2.SessionOutput(exit=exit_)
        except NoProgram as error:
            yield tasks_pb2.SessionOutput(place=tasks_pb2.TaskPlace(task_id=start.target))
            yield tasks_pb2.SessionOutput(stderr=f"{error}\n".encode())
            yield tasks_pb2.SessionOutput(exit=tasks_pb2.SessionExit(code=error.code))
        except ContainerError as error:
            await _refuse(context, error)
        finally:
            if execution is not None:
                await asyncio.shield(asyncio.ensure_future(execution.close()))

    def _leave_alone(self, execution: Execution) -> None:
        task = asyncio.create_task(execution.leave())
        self._left_alone.add(task)
        task.add_done_callback(self._left_alone.discard)

    async def Attach(
        self, request_iterator: AsyncIterator[tasks_pb2.SessionInput], context: Context
    ) -> AsyncIterator[tasks_pb2.SessionOutput]:
        start = (await _first(request_iterator, context)).attach
        attachment: Attachment | None = None
        try:
            inside = self._runtime.inside(_id(start))
            attachment = Attachment(inside)
            await attachment.start()
            place = tasks_pb2.TaskPlace(task_id=start.target, tty=inside.tty)
            yield tasks_pb2.SessionOutput(place=place)
            attachment.resize(start.size.rows, start.size.columns)
            async for output in _streams(attachment, request_iterator):
                yield output
            ended = await self._runtime.wait(_id(start))
            exit_ = tasks_pb2.SessionExit(code=ended.code or 0, unknown=ended.code is None)
            yield tasks_pb2.SessionOutput(exit=exit_)
        except UnknownContainer:  # removed before its exit code was asked for
            yield tasks_pb2.SessionOutput(exit=tasks_pb2.SessionExit(unknown=True))
        except ContainerError as error:
            await _refuse(context, error)
        finally:
            if attachment is not None:
                await attachment.close()

    async def CopyFrom(
        self, request: tasks_pb2.CopyFromRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.CopyFromResponse]:
        read = -1
        sending: asyncio.Future[None] | None = None
        try:
            inside = self._runtime.inside(_id(request))
            yield tasks_pb2.CopyFromResponse(place=tasks_pb2.TaskPlace(task_id=request.target))
            read, write = os.pipe2(os.O_CLOEXEC)  # the sender closes its end
            sending = asyncio.ensure_future(
                blocking(lambda: _send(inside, request.path, write, request.follow_link))
            )
            while data := await blocking(lambda: os.read(read, CHUNK_BYTES)):
                yield tasks_pb2.CopyFromResponse(data=data)
            await sending
        except ContainerError as error:
            await _refuse(context, error)
        finally:
            if read >= 0:
                os.close(read)  # ends the sender
            if sending is not None:
                await asyncio.gather(sending, return_exceptions=True)

    async def CopyTo(
        self, request_iterator: AsyncIterator[tasks_pb2.CopyToRequest], context: Context
    ) -> tasks_pb2.CopyToResponse:
        start = (await _first(request_iterator, context)).start
        try:
            inside = self._runtime.inside(_id(start))
            files, size = await self._received(inside, start, request_iterator)
        except ContainerError as error:
            await _refuse(context, error)
        place = tasks_pb2.TaskPlace(task_id=start.target)
        return tasks_pb2.CopyToResponse(place=place, files=files, bytes=size)

    async def _received(
        self, inside: Inside, start: tasks_pb2.CopyToStart, messages: AsyncIterator[tasks_pb2.CopyToRequest]
    ) -> tuple[int, int]:
        read, write = os.pipe2(os.O_CLOEXEC)

        def receive() -> tuple[int, int]:
            with open(read, "rb") as file:
                result = copying.receive(inside, start.path, file, keep_owner=start.keep_owner)
                while file.read(CHUNK_BYTES):  # what follows the archive's end
                    pass
                return result

        receiving = asyncio.ensure_future(blocking(receive))
        try:
            async for message in messages:
                if message.end or receiving.done():
                    break
                data = message.data
                try:
                    await blocking(lambda data=data: _write_all(write, data))  # type: ignore[misc]
                except BrokenPipeError:
                    break
            else:
                raise RuntimeFailure("the copy broke off: what was sent is incomplete")
        finally:
            os.close(write)
            await asyncio.wait({receiving})
        return receiving.result()

    async def Forward(
        self, request_iterator: AsyncIterator[tasks_pb2.ForwardInput], context: Context
    ) -> AsyncIterator[tasks_pb2.ForwardOutput]:
        start = (await _first(request_iterator, context)).start
        try:
            inside = self._runtime.inside(start.target)
            reader, writer = await forward.connect(inside, start.port, self._addresses_of(start.target))
        except ContainerError as error:
            await _refuse(context, error)
        feeding = asyncio.create_task(_feed_connection(writer, request_iterator))
        try:
            yield tasks_pb2.ForwardOutput(place=tasks_pb2.TaskPlace(task_id=start.target))
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(CHUNK_BYTES):
                    yield tasks_pb2.ForwardOutput(data=data)
            yield tasks_pb2.ForwardOutput(end=True)
            await feeding
        finally:
            await _end(feeding)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def Stats(
        self, request: tasks_pb2.NodeStatsRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.StatsResponse]:
        kept = meters.Meters()
        try:
            while True:
                answer = tasks_pb2.StatsResponse(
                    tasks=self._samples(kept, request.task_ids, request.containers)
                )
                if request.node:
                    answer.node.CopyFrom(_machine(sum(not found.container for found in answer.tasks)))
                yield answer
                if not request.interval_ms:
                    return
                await asyncio.sleep(max(request.interval_ms, INTERVAL_MS_MIN) / 1000)
        finally:
            kept.close()

    def _samples(
        self, kept: meters.Meters, ids: Iterable[str], containers: bool
    ) -> list[tasks_pb2.TaskStats]:
        """Of each task, all its containers together; with `containers` also of each of several."""
        found, used = [], set()
        others: dict[str, list[str]] = {}  # looked through once, not once a task
        for known in sorted(self._runtime.pids()):
            if "." in known:
                others.setdefault(known.partition(".")[0], []).append(known)
        for task_id in ids:
            several = others.get(task_id, [])
            for inside, name in self._measured(task_id, several, containers):
                with contextlib.suppress(ContainerError):  # not yet, or no longer, running
                    sample = kept.sample(inside)
                    used.add(inside.id)
                    stats = tasks_pb2.TaskStats(task_id=task_id, container=name, **vars(sample))
                    if not name and (probe_ms := self._probe_times_ms.get(task_id)) is not None:
                        stats.probe_ms = probe_ms
                    found.append(stats)
        kept.keep(used)
        return found

    def _measured(self, task_id: str, several: list[str], containers: bool) -> Iterator[tuple[Inside, str]]:
        """What is measured, and its name: "" = the task as a whole."""
        with contextlib.suppress(ContainerError):
            inside = self._runtime.inside(task_id)
            if several:
                parent = cgroups.Cgroup(inside.group.layout, inside.group.path.rpartition("/")[0])
                yield replace(inside, id=f"{task_id}/", group=parent), ""
                if containers:
                    yield inside, pod.MAIN
            else:
                yield inside, ""
        for one in several if containers else ():
            with contextlib.suppress(ContainerError):
                yield self._runtime.inside(one), pod.name_of(one)

    async def Processes(
        self, request: tasks_pb2.ProcessesRequest, context: Context
    ) -> tasks_pb2.ProcessesResponse:
        try:
            inside = self._runtime.inside(_id(request))
            found = await blocking(lambda: processes.processes(inside))
        except ContainerError as error:
            await _refuse(context, error)
        return tasks_pb2.ProcessesResponse(
            place=tasks_pb2.TaskPlace(task_id=request.target),
            processes=[tasks_pb2.Process(**vars(process)) for process in found],
        )


def _id(named: Any) -> str:
    """The container that a call means."""
    return pod.container_id(named.target, named.container)


def _program(start: tasks_pb2.ExecStart) -> Program:
    return Program(
        list(start.argv), tty=start.tty and not start.detach, stdin=start.stdin and not start.detach,
        env=list(start.env), user=start.user, workdir=start.workdir, privileged=start.privileged,
        rows=start.size.rows, columns=start.size.columns,
    )  # fmt: skip


async def _first(messages: AsyncIterator[Answer], context: Context) -> Answer:
    try:
        return await asyncio.wait_for(anext(aiter(messages)), FIRST_MESSAGE_TIMEOUT_S)
    except (StopAsyncIteration, TimeoutError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call began without saying what is wanted")
        raise AssertionError from None


async def _streams(
    session: Execution | Attachment, messages: AsyncIterator[tasks_pb2.SessionInput]
) -> AsyncIterator[tasks_pb2.SessionOutput]:
    """The session's output, while what the caller sends goes in."""
    feeding = asyncio.create_task(_feed(session, messages))
    try:
        async for stream, data in session.output():
            if stream == STDERR:
                yield tasks_pb2.SessionOutput(stderr=data)
            else:
                yield tasks_pb2.SessionOutput(stdout=data)
    finally:
        await _end(feeding)


async def _feed(session: Execution | Attachment, messages: AsyncIterator[tasks_pb2.SessionInput]) -> None:
    async for message in messages:
        match message.WhichOneof("message"):
            case "stdin":
                await session.write(message.stdin)
            case "stdin_end":
                await session.end_input()
            case "size":
                session.resize(message.size.rows, message.size.columns)


async def _feed_connection(
    writer: asyncio.StreamWriter, messages: AsyncIterator[tasks_pb2.ForwardInput]
) -> None:
    with contextlib.suppress(ConnectionError):
        async for message in messages:
            if message.end:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(message.data)
            await writer.drain()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _refuse(context: Context, error: ContainerError) -> NoReturn:
    code = grpc.StatusCode.NOT_FOUND if isinstance(error, copying.NoSuchPath) else code_of(error)
    await context.abort(code, str(error))
    raise AssertionError from error


def _send(inside: Inside, path: str, write: int, follow_link: bool) -> None:
    with contextlib.suppress(BrokenPipeError), open(write, "wb", buffering=0) as file:
        copying.send(inside, path, file, follow_link=follow_link)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _machine(tasks: int) -> tasks_pb2.NodeStats:
    return tasks_pb2.NodeStats(tasks=tasks, **vars(meters.machine()))
