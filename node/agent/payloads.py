"""Secrets and configs of this node's tasks: fetched from a manager, written to memory, mounted by the runtime.

A file that a task has already is never fetched again: its content cannot have changed, and a sidecar has to
start again without a manager. Without one a new task waits a while and then fails, to be tried again by its
restart policy: nothing of a secret is on this node's disk, so nobody else can give it.

Errors:
    PayloadError
    ├── PayloadUnready     no manager could say: trying again is sensible
    └── PayloadGone        it was removed
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

import grpc
from swarmpy.node import payloads, templates
from swarmpy.node.config import ManagerAddress
from swarmpy.node.runtime.request import GivenFile, IdRange
from swarmpy.node.volume.memory import MemoryFiles
from swarmpy.proto import payloads_pb2, payloads_pb2_grpc, types_pb2

log = logging.getLogger(__name__)
WAIT_S, RETRY_S, CALL_TIMEOUT_S = 30.0, 1.0, 10.0
Dial = Callable[[ManagerAddress], grpc.aio.Channel]
Fetch = Callable[[payloads.Use], Awaitable[payloads_pb2.PayloadResponse]]


class PayloadError(Exception):
    """A container does not get a file it needs."""


class PayloadUnready(PayloadError):
    """Nobody could be asked for it."""


class PayloadGone(PayloadError):
    """There is no such secret or config any more."""


class Fetcher:
    """Asks the manager this node is connected to, and again until it answers or WAIT_S are over."""

    def __init__(self, manager: Callable[[], ManagerAddress | None], dial: Dial) -> None:
        self._manager, self._dial = manager, dial

    async def __call__(self, use: payloads.Use) -> payloads_pb2.PayloadResponse:
        deadline, said = time.monotonic() + WAIT_S, "this node is connected to no manager"
        while True:
            manager = self._manager()
            if manager is not None:
                try:
                    return await self._ask(manager, use)
                except grpc.aio.AioRpcError as error:
                    if error.code() == grpc.StatusCode.NOT_FOUND:
                        raise PayloadGone(
                            f"{use.noun} {use.reference.source} was removed from the cluster: create it again and "
                            "update the service"
                        ) from error
                    said = error.details() or error.code().name
            if time.monotonic() >= deadline:
                raise PayloadUnready(
                    f"{use.noun} {use.reference.source} could not be fetched within {WAIT_S:g} s: {said}"
                )
            await asyncio.sleep(RETRY_S)

    async def _ask(self, manager: ManagerAddress, use: payloads.Use) -> payloads_pb2.PayloadResponse:
        channel = self._dial(manager)
        try:
            request = payloads_pb2.PayloadRequest(kind=use.kind, id=use.reference.id)
            stub = payloads_pb2_grpc.PayloadsStub(channel)
            answer: payloads_pb2.PayloadResponse = await stub.Fetch(request, timeout=CALL_TIMEOUT_S)
            return answer
        finally:
            await channel.close(None)


class AgentPayloads:
    """The files of this node's containers."""

    def __init__(self, top: Path, fetch: Fetch) -> None:
        self._files, self._fetch = MemoryFiles(top), fetch

    def open(self, tasks: Collection[str]) -> None:
        """Keep those of `tasks`, forget the others. Raises VolumeError."""
        self._files.open(tasks)

    async def give(
        self, task_id: str, name: str, container: types_pb2.ContainerSpec, values: Mapping[str, str],
        ids: IdRange | None,
    ) -> tuple[GivenFile, ...]:  # fmt: skip
        """What container `name` of a task is to see. Raises PayloadError, VolumeError."""
        return tuple([await self._one(task_id, name, use, values, ids) for use in payloads.uses(container)])

    async def _one(
        self, task_id: str, name: str, use: payloads.Use, values: Mapping[str, str], ids: IdRange | None
    ) -> GivenFile:
        file = f"{name}.{use.noun}.{use.position}"
        path = self._files.known(task_id, file)
        if path is None:
            answer = await self._fetch(use)
            data = answer.data
            if answer.template_driver:
                data = templates.filled(data.decode(), values).encode()
            path = self._files.write(
                task_id, file, data, owner=(use.reference.uid, use.reference.gid), mode=use.mode,
                first_id=ids.first if ids else 0,
            )  # fmt: skip
            log.info("file given task=%s %s=%s bytes=%d", task_id, use.noun, use.reference.source, len(data))
        return GivenFile(path, use.target, executable=bool(use.mode & 0o111))

    def release(self, task_id: str) -> None:
        """Its containers are gone. Raises VolumeError."""
        self._files.release(task_id)
