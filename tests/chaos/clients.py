"""Clients of the cluster: what they do is what users do, over Control, and all of it is recorded.

Every object is a service without replicas. A *register* is one of its labels, written by
compare-and-set on the version read before; a *list* is a label that only grows; a *set* is made of
services with names of their own, created, looked for and removed. Each write carries one request
id through all its tries; a try that breaks off is repeated at the next manager, as the command
line does, until the time limit, and then its outcome is unknown.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2

from tests.chaos.history import (
    APPEND,
    CAS,
    CREATE,
    DELETE,
    FAIL,
    OK,
    READ,
    RESUME,
    UNKNOWN,
    History,
    Op,
    Seen,
)

ATTEMPT_S = 2.0
LIMIT_S = 8.0
WATCH_S = 60.0
FAITHFUL_S, FAITHFUL_EVERY_S, FAITHFUL_OPEN_MAX = 15.0, 0.3, 40
PAUSE_S, PAUSE_MAX_S = 0.02, 0.3
REGISTERS, LISTS = 5, 3
REGISTER_OPS, LIST_LENGTH = 1500, 150
ITEMS_KEPT = 20
LABEL = "chaos"
VALUE = "chaos.value"
AMBIGUOUS = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL,
}  # fmt: skip
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),  # for one attempt to connect, handshake included
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 64 << 20),
]


class OutcomeUnknown(Exception):
    """No manager gave a certain answer in time."""


class Refused(Exception):
    """A certain no. `doubtful`: an earlier try broke off."""

    def __init__(self, code: grpc.StatusCode, text: str, doubtful: bool) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code, self.doubtful = code, doubtful


class Caller:
    """One client's connection: one manager at a time, the next one when it fails."""

    def __init__(self, hosts: list[str], first: int, errors: Counter[str]) -> None:
        self._hosts, self._position, self._errors = hosts, first % len(hosts), errors
        self._channel: grpc.aio.Channel | None = None

    def stub(self) -> Any:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._hosts[self._position], options=OPTIONS)
        return control_pb2_grpc.ControlStub(self._channel)

    async def next_host(self) -> None:
        await self.close()
        self._position = (self._position + 1) % len(self._hosts)

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def call(self, method: str, request: Any, limit_s: float = LIMIT_S) -> Any:
        until = time.monotonic() + limit_s
        pause, doubtful = PAUSE_S, False
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise OutcomeUnknown
            try:
                return await getattr(self.stub(), method)(request, timeout=min(left, ATTEMPT_S))
            except grpc.aio.AioRpcError as error:
                self._errors[f"{method} {error.code().name}"] += 1
                if error.code() is grpc.StatusCode.UNKNOWN or error.code() is grpc.StatusCode.INTERNAL:
                    self._errors[f"text: {(error.details() or '')[:120]}"] += 1
                if error.code() not in AMBIGUOUS:
                    raise Refused(error.code(), error.details() or "", doubtful) from None
            doubtful = True
            await self.next_host()
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)


@dataclass
class Key:
    """A register or list that is in use."""

    name: str
    operations: int = 0


@dataclass
class World:
    """What the clients share."""

    hosts: list[str]
    rng: random.Random
    history: History = field(default_factory=History)
    errors: Counter[str] = field(default_factory=Counter)
    keys: dict[str, list[Key]] = field(default_factory=lambda: {"register": [], "list": []})
    items: list[str] = field(default_factory=list)
    serial: int = 0
    last_write_ns: int = 0
    stopping: bool = False

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def record(self, op: Op) -> None:
        self.history.ops.append(op)
        if op.certain_write:
            self.last_write_ns = max(self.last_write_ns, op.return_ns)


def new_service(name: str, kind: str, value: str) -> objects_pb2.Service:
    service = objects_pb2.Service()
    service.meta.name = name
    service.meta.labels[LABEL] = kind
    service.meta.labels[VALUE] = value
    service.spec.task.container.image = "chaos/none:1"
    service.spec.task.container.image_digest = "sha256:" + "0" * 64
    service.spec.replicated.replicas = 0
    service.spec.endpoint.mode = objects_pb2.ENDPOINT_DNSRR
    return service


class Client:
    """One client; runs until the world stops."""

    def __init__(self, world: World, process: int) -> None:
        self.world, self.process = world, process
        self.rng = random.Random(world.rng.random())
        self.caller = Caller(world.hosts, process, world.errors)

    async def run(self) -> None:
        try:
            while not self.world.stopping:
                choice = self.rng.random()
                if choice < 0.55:
                    await self._register()
                elif choice < 0.80:
                    await self._list()
                elif choice < 0.98:
                    await self._item()
                else:
                    await self._all_items()
        finally:
            await self.caller.close()

    # -- one recorded operation

    def _op(self, key: str, kind: str, value: Any = None, expected: Any = None) -> Op:
        now = time.monotonic_ns()
        return Op(self.process, key, kind, now, now, UNKNOWN, value, expected)

    def _done(self, op: Op, outcome: str, index: int = 0, note: str = "") -> None:
        op.return_ns, op.outcome, op.index, op.note = time.monotonic_ns(), outcome, index, note
        self.world.record(op)

    async def read(self, key: str, *, as_list: bool = False) -> objects_pb2.Service | None:
        """The service, and on record its value; None on record where it does not exist."""
        op = self._op(key, READ)
        try:
            answer = await self.caller.call(
                "Get", control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=key)
            )
        except OutcomeUnknown:
            self._done(op, UNKNOWN)
            return None
        except Refused as refused:
            missing = refused.code is grpc.StatusCode.NOT_FOUND
            op.value = [] if as_list else None
            self._done(op, OK if missing else UNKNOWN, note=str(refused))
            return None
        service: objects_pb2.Service = answer.object.service
        text = service.meta.labels[VALUE]
        op.value = [element for element in text.split(",") if element] if as_list else text
        self._done(op, OK, answer.index)
        return service

    async def write(self, op: Op, service: objects_pb2.Service) -> None:
        request = control_pb2.UpdateRequest(
            object=store_pb2.Object(service=service), request_id=self._request_id()
        )
        try:
            answer = await self.caller.call("Update", request)
        except OutcomeUnknown:
            self._done(op, UNKNOWN)
        except Refused as refused:
            self._done(op, FAIL, note=str(refused))
        else:
            self._done(op, OK, answer.index)
            op.note = service.meta.id

    def _request_id(self) -> str:
        return f"chaos-{self.process}-{self.world.number()}"

    # -- registers and lists

    async def _key(self, kind: str) -> Key | None:
        keys = self.world.keys[kind]
        limit, count = (REGISTER_OPS, REGISTERS) if kind == "register" else (LIST_LENGTH, LISTS)
        for key in [key for key in keys if key.operations >= limit]:
            keys.remove(key)
        if len(keys) < count:
            key = Key(f"chaos-{kind}-{self.world.number()}")
            if await self.create(key.name, kind):
                keys.append(key)
        return self.rng.choice(keys) if keys else None

    async def create(self, name: str, kind: str) -> bool:
        op = self._op(name, CREATE, "")
        request = control_pb2.CreateRequest(
            object=store_pb2.Object(service=new_service(name, kind, "")), request_id=self._request_id()
        )
        try:
            answer = await self.caller.call("Create", request)
        except OutcomeUnknown:
            self._done(op, UNKNOWN)
        except Refused as refused:
            self._done(op, FAIL, note=str(refused))
        else:
            self._done(op, OK, answer.index)
            op.note = answer.object.service.meta.id
        return op.outcome == OK

    async def _register(self) -> None:
        key = await self._key("register")
        if key is None:
            return
        key.operations += 1
        service = await self.read(key.name)
        if service is None or self.rng.random() < 0.4:
            return
        key.operations += 1
        op = self._op(key.name, CAS, f"{self.process}.{self.world.number()}", service.meta.labels[VALUE])
        service.meta.labels[VALUE] = op.value
        await self.write(op, service)

    async def _list(self) -> None:
        key = await self._key("list")
        if key is None:
            return
        service = await self.read(key.name, as_list=True)
        if service is None:
            return
        key.operations = max(key.operations, service.meta.labels[VALUE].count(",") + 1)
        op = self._op(key.name, APPEND, f"{self.process}.{self.world.number()}")
        before = service.meta.labels[VALUE]
        service.meta.labels[VALUE] = f"{before},{op.value}" if before else op.value
        await self.write(op, service)

    # -- the set

    async def _item(self) -> None:
        items = self.world.items
        choice = self.rng.random()
        if choice < 0.5 and items:
            await self._look(self.rng.choice(items))
        elif len(items) > ITEMS_KEPT:
            await self._remove(items.pop(self.rng.randrange(len(items))))
        else:
            name = f"chaos-item-{self.process}-{self.world.number()}"
            if await self.create(name, "item"):
                items.append(name)

    async def _look(self, name: str) -> None:
        op = self._op(name, READ)
        try:
            answer = await self.caller.call(
                "Get", control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=name)
            )
        except OutcomeUnknown:
            self._done(op, UNKNOWN)
        except Refused as refused:
            op.value = False
            self._done(op, OK if refused.code is grpc.StatusCode.NOT_FOUND else UNKNOWN, note=str(refused))
        else:
            op.value = not answer.object.service.pending_delete
            self._done(op, OK, answer.index)

    async def _remove(self, name: str) -> None:
        op = self._op(name, DELETE)
        request = control_pb2.DeleteRequest(
            kind=store_pb2.KIND_SERVICE, ref=name, request_id=self._request_id()
        )
        try:
            answer = await self.caller.call("Delete", request)
        except OutcomeUnknown:
            self._done(op, UNKNOWN)
        except Refused as refused:
            if refused.code is grpc.StatusCode.NOT_FOUND and not refused.doubtful:
                # A certain "it is not there" is a read, too.
                self._done(Op(op.process, name, READ, op.invoke_ns, 0, OK, False), OK, note=str(refused))
            self._done(op, UNKNOWN if refused.doubtful else FAIL, note=str(refused))
        else:
            self._done(op, OK, answer.index)

    async def _all_items(self) -> None:
        """One read of the whole set."""
        op = self._op("", READ)
        request = control_pb2.ListRequest(
            kind=store_pb2.KIND_SERVICE, filters=[control_pb2.Filter(key="label", value=f"{LABEL}=item")]
        )
        try:
            answer = await self.caller.call("List", request)
        except (OutcomeUnknown, Refused) as error:
            self._done(op, UNKNOWN, note=str(error))
            return
        services = [entry.service for entry in answer.objects]
        op.value = sorted(service.meta.name for service in services if not service.pending_delete)
        self._done(op, OK, answer.index)


class Faithful:
    """Reads at one manager only and goes on asking while it does not answer.

    Questions that came while a leader was stopped are the ones it could answer from the past.
    """

    def __init__(self, world: World, process: int, host: str) -> None:
        self.world, self.process, self.host = world, process, host
        self.rng = random.Random(world.rng.random())

    async def run(self) -> None:
        asked: set[asyncio.Task[None]] = set()
        async with grpc.aio.insecure_channel(self.host, options=OPTIONS) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            while not self.world.stopping:
                await asyncio.sleep(FAITHFUL_EVERY_S)
                keys = self.world.keys["register"]
                if keys and len(asked) < FAITHFUL_OPEN_MAX:
                    task = asyncio.create_task(self._ask(stub, self.rng.choice(keys).name))
                    asked.add(task)
                    task.add_done_callback(asked.discard)
            await asyncio.gather(*asked)

    async def _ask(self, stub: Any, key: str) -> None:
        begin = time.monotonic_ns()
        request = control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=key)
        try:
            answer = await stub.Get(request, timeout=FAITHFUL_S)
        except grpc.aio.AioRpcError as error:
            self.world.errors[f"faithful Get {error.code().name}"] += 1
            return
        value = answer.object.service.meta.labels[VALUE]
        now = time.monotonic_ns()
        self.world.record(Op(self.process, key, READ, begin, now, OK, value, index=answer.index))


class Watcher:
    """Follows all services; continues at the next manager where it broke off, by index."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.caller = Caller(world.hosts, number, world.errors)
        self.events = world.history.watches.setdefault(number, [])
        self.after_index = 0
        self.stream = 0

    async def run(self) -> None:
        try:
            while not self.world.stopping:
                self.stream += 1
                try:
                    await self._follow()
                except grpc.aio.AioRpcError as error:
                    self.world.errors[f"Watch {error.code().name}"] += 1
                    if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                        self.after_index = 0
                await self.caller.next_host()
                await asyncio.sleep(PAUSE_MAX_S)
        finally:
            await self.caller.close()

    async def _follow(self) -> None:
        request = control_pb2.WatchRequest(
            kinds=[store_pb2.KIND_SERVICE], after_index=self.after_index, progress_ms=500
        )
        if self.after_index:
            self.events.append(Seen(self.stream, RESUME, "", 0, self.after_index))
        async for event in self.caller.stub().Watch(request, timeout=WATCH_S):
            service = event.object.service
            action = control_pb2.EventAction.Name(event.action).removeprefix("EVENT_")
            seen = Seen(self.stream, action, service.meta.id, service.meta.version, event.index)
            seen.value = service.meta.labels.get(VALUE, "")
            self.events.append(seen)
            if event.last_of_index:
                self.after_index = event.index


async def set_role(caller: Caller, node_id: str, role: types_pb2.Role, request_id: str) -> bool:
    """Promote or demote a node; False where the cluster refuses it."""
    for _ in range(8):
        try:
            found = (
                await caller.call("Get", control_pb2.GetRequest(kind=store_pb2.KIND_NODE, ref=node_id))
            ).object
            found.node.spec.role = role
            await caller.call("Update", control_pb2.UpdateRequest(object=found, request_id=request_id))
        except Refused as refused:
            if refused.code is not grpc.StatusCode.ABORTED:
                return False
        except OutcomeUnknown:
            return False
        else:
            return True
    return False
