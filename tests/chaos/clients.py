"""Clients of the cluster: what they do is what users do, over Control, and all of it is recorded.

Every object is a service without replicas. A *register* is one of its labels, written by
compare-and-set on the version read or written before; a *list* is a label that only grows; a *set* is made of
services with names of their own, created, looked for and removed. Each write carries one request
id through all its tries; a try that breaks off is repeated at the next manager, as the command
line does, until the time limit, and then its outcome is unknown. The workers of one client share its
connection; two of three clients make their writes on one stream (Control.Write) instead of by unary calls.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2

from tests.chaos.caller import OPTIONS, PAUSE_MAX_S, Caller, OutcomeUnknown, Refused
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

WATCH_S = 60.0
FAITHFUL_S, FAITHFUL_EVERY_S, FAITHFUL_OPEN_MAX = 15.0, 0.3, 40
REGISTERS_MIN, LISTS_MIN = 5, 3  # in use at once; more of them where there are many workers
REGISTER_OPS, LIST_LENGTH = 1500, 150
ITEMS_KEPT = 20
LABEL = "chaos"
VALUE = "chaos.value"


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
    workers: int = 1
    rate: float = 0.0  # operations a second that the workers begin together; 0 = as fast as they can
    serial: int = 0
    last_write_ns: int = 0
    stopping: bool = False
    due_s: float = 0.0

    def number(self) -> int:
        self.serial += 1
        return self.serial

    async def pace(self) -> None:
        """Wait for one's turn; what was missed while the cluster did not answer is not made up for."""
        if self.rate:
            now_s = time.monotonic()
            self.due_s = max(self.due_s + 1 / self.rate, now_s - 1)
            await asyncio.sleep(max(0.0, self.due_s - now_s))

    def record(self, op: Op) -> None:
        self.history.ops.append(op)
        if op.certain_write:
            self.last_write_ns = max(self.last_write_ns, op.return_ns)


def elements(text: str) -> list[str]:
    """Of a list; the same strings again and again in a million reads."""
    return [sys.intern(element) for element in text.split(",") if element]


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
    """A worker: one operation after the other, until the world stops. `caller` may have others."""

    def __init__(self, world: World, process: int, caller: Caller) -> None:
        self.world, self.process, self.caller = world, process, caller
        self.rng = random.Random(world.rng.random())
        self.last: dict[str, tuple[Key, objects_pb2.Service]] = {}  # what it wrote last, by kind

    async def run(self) -> None:
        while not self.world.stopping:
            choice = self.rng.random()
            if choice < 0.70:
                await self._register()
            elif choice < 0.87:
                await self._list()
            elif choice < 0.985:
                await self._item()
            else:
                await self._all_items()

    # -- one recorded operation

    async def _op(self, key: str, kind: str, value: Any = None, expected: Any = None) -> Op:
        await self.world.pace()
        now = time.monotonic_ns()
        return Op(self.process, key, kind, now, now, UNKNOWN, value, expected)

    def _done(self, op: Op, outcome: str, index: int = 0, note: str = "") -> None:
        op.return_ns, op.outcome, op.index, op.note = time.monotonic_ns(), outcome, index, note
        self.world.record(op)

    async def read(self, key: str, *, as_list: bool = False) -> objects_pb2.Service | None:
        """The service, and on record its value; None on record where it does not exist."""
        op = await self._op(key, READ)
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
        op.value = elements(text) if as_list else text
        self._done(op, OK, answer.index)
        return service

    async def write(self, op: Op, service: objects_pb2.Service) -> objects_pb2.Service | None:
        """The service as written, where that is certain."""
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
            self._done(op, OK, answer.index, sys.intern(service.meta.id))
            written: objects_pb2.Service = answer.object.service
            return written
        return None

    def _request_id(self) -> str:
        return f"chaos-{self.process}-{self.world.number()}"

    # -- registers and lists

    async def _key(self, kind: str) -> Key | None:
        keys = self.world.keys[kind]
        workers = self.world.workers
        limit, count = LIST_LENGTH, max(LISTS_MIN, workers // 3)
        if kind == "register":
            limit, count = REGISTER_OPS, max(REGISTERS_MIN, workers * 3 // 4)
        for key in [key for key in keys if key.operations >= limit]:
            keys.remove(key)
        if len(keys) < count:
            key = Key(f"chaos-{kind}-{self.world.number()}")
            if await self.create(key.name, kind):
                keys.append(key)
        return self.rng.choice(keys) if keys else None

    async def create(self, name: str, kind: str) -> bool:
        op = await self._op(name, CREATE, "")
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
            self._done(op, OK, answer.index, sys.intern(answer.object.service.meta.id))
        return op.outcome == OK

    async def _register(self) -> None:
        chosen = await self._to_write("register")
        if chosen is None:
            return
        key, service = chosen
        key.operations += 1
        op = await self._op(
            key.name, CAS, f"{self.process}.{self.world.number()}", service.meta.labels[VALUE]
        )
        service.meta.labels[VALUE] = op.value
        await self._write(key, "register", op, service)

    async def _to_write(self, kind: str) -> tuple[Key, objects_pb2.Service] | None:
        """A key as it was read, or as this worker wrote it last."""
        last = self.last.pop(kind, None)
        limit = REGISTER_OPS if kind == "register" else LIST_LENGTH
        if last is not None and last[0].operations < limit and self.rng.random() < 0.85:
            return last
        key = await self._key(kind)
        if key is None:
            return None
        key.operations += kind == "register"
        service = await self.read(key.name, as_list=kind == "list")
        return None if service is None else (key, service)

    async def _write(self, key: Key, kind: str, op: Op, service: objects_pb2.Service) -> None:
        written = await self.write(op, service)
        if written is not None:
            self.last[kind] = key, written

    async def _list(self) -> None:
        chosen = await self._to_write("list")
        if chosen is None:
            return
        key, service = chosen
        before = service.meta.labels[VALUE]
        key.operations = max(key.operations, before.count(",") + 1)
        op = await self._op(key.name, APPEND, f"{self.process}.{self.world.number()}")
        service.meta.labels[VALUE] = f"{before},{op.value}" if before else op.value
        await self._write(key, "list", op, service)

    # -- the set

    async def _item(self) -> None:
        items = self.world.items
        choice = self.rng.random()
        if choice < 0.3 and items:
            await self._look(self.rng.choice(items))
        elif len(items) > ITEMS_KEPT:
            await self._remove(items.pop(self.rng.randrange(len(items))))
        else:
            name = f"chaos-item-{self.process}-{self.world.number()}"
            if await self.create(name, "item"):
                items.append(name)

    async def _look(self, name: str) -> None:
        op = await self._op(name, READ)
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
        op = await self._op(name, DELETE)
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
        op = await self._op("", READ)
        request = control_pb2.ListRequest(
            kind=store_pb2.KIND_SERVICE, filters=[control_pb2.Filter(key="label", value=f"{LABEL}=item")]
        )
        try:
            answer = await self.caller.call("List", request)
        except (OutcomeUnknown, Refused) as error:
            self._done(op, UNKNOWN, note=str(error))
            return
        services = [entry.service for entry in answer.objects]
        op.value = sorted(sys.intern(service.meta.name) for service in services if not service.pending_delete)
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
        async for event in self.caller.line().stub.Watch(request, timeout=WATCH_S):
            service = event.object.service
            action = control_pb2.EventAction.Name(event.action).removeprefix("EVENT_")
            identity = sys.intern(service.meta.id)
            self.events.append(Seen(self.stream, action, identity, service.meta.version, event.index))
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
