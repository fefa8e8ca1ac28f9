"""The node's session with the leader: finds it, keeps it, says goodbye.

The agent knows several managers. It dials one after the other; a manager that does not
lead names the one that does. Statuses wait here until a leader has stored them: a report
that was not acknowledged goes again to the next leader.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

import grpc
from swarmpy.node.agent import contact
from swarmpy.node.ca import tls
from swarmpy.node.ca.errors import BadCertificate, Unreachable
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.config import ManagerAddress
from swarmpy.node.items import Items, apply, digest
from swarmpy.proto import dispatcher_pb2, dispatcher_pb2_grpc, objects_pb2

log = logging.getLogger(__name__)
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
WELCOME_TIMEOUT_S = 3.0
# To a leader that is asked by all nodes at once, after a failover, an attempt that is given up was work for nothing.
WELCOME_TIMEOUT_MAX_S = 15.0
REPORT_GATHER_S = 0.02
REPORTS_MAX, REPORTS_BYTES_MAX = 500, 1 << 20
IDENTIFY_TIMEOUT_S = 2.0
Outgoing = asyncio.Queue[dispatcher_pb2.AgentMessage | None]
OUT_QUEUE = 64
GOODBYE_S = 2.0
REFUSED_FOR_S = 8.0
# What managers say of a node whose stream they end, and of one that they do not know.
WAS_REMOVED = "was removed from the cluster"
UNKNOWN_NODE = re.compile(r"not in the cluster|not a member")
REFUSED_CODES = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


def welcome_timeout_s(unheard: int) -> float:
    """How long to wait for a manager's first word after so many attempts in a row that had no answer."""
    return min(WELCOME_TIMEOUT_S * max(1, unheard), WELCOME_TIMEOUT_MAX_S)


class Removed(Exception):
    """The cluster does not know this node any more."""


class Session:
    """Runs forever in the agent's TaskGroup; `items` is the assignment set it holds, see `begin_with`."""

    def __init__(
        self,
        *,
        self_id: str,
        identity: IdentityFile,
        managers: Callable[[], tuple[ManagerAddress, ...]],
        describe: Callable[[], objects_pb2.NodeDescription],
        status_of: Callable[[str], objects_pb2.TaskStatus | None],
        images: Callable[[], list[str]],
        held: Callable[[], list[dispatcher_pb2.ImageHeld]] = list,
        on_items: Callable[[Items], None],
        is_leaving: Callable[[], bool] = lambda: False,
        on_out: Callable[[list[str]], None] = lambda task_ids: None,
        volumes: Callable[[], list[objects_pb2.VolumeReport]] = list,
        usage: Callable[[], objects_pb2.MachineUse | None] = lambda: None,
        on_contact: Callable[[int], None] = lambda sent_ms: None,
    ) -> None:
        self.items: Items = {}
        self.holds = b""  # their digest; of a large set it takes a while to work out
        self.connected_to = ""
        self._self_id = self_id
        self._identity = identity
        self._managers = managers
        self._describe = describe
        self._status_of = status_of
        self._images, self._held = images, held
        self._on_items = on_items
        self._dirty: set[str] = set()
        self._images_dirty = True
        self._volumes = volumes
        self._volumes_dirty = True
        self._volumes_told: dict[str, objects_pb2.VolumeReport] = {}  # to the present manager
        self._wake = asyncio.Event()
        self._is_leaving = is_leaving
        self._refused_by: set[str] = set()
        self._refused_since = 0.0
        self._partial: Items = {}
        self._partial_holds = b""
        self._complete = False  # ask for a complete set; what is held goes on being used meanwhile
        self._outgoing: Outgoing | None = None
        self._applied = b""
        self._applied_told = True
        self._described = True
        self._on_out = on_out
        self._usage = usage
        self._on_contact = on_contact  # with the time (contact.now_ms) of what a manager answered
        self._beats: deque[int] = deque()  # times of heartbeats without an answer yet, oldest first
        self._unheard = 0  # attempts in a row without an answer

    def begin_with(self, items: Items) -> None:
        """The set that the node held before this process."""
        self.items, self.holds = items, digest(items)

    def report(self, task_id: str) -> None:
        """A task's status changed."""
        self._dirty.add(task_id)
        self._wake.set()

    def describe_again(self) -> None:
        """The node's description changed; without a session the next one begins with it."""
        self._described = False
        self._wake.set()

    def report_images(self) -> None:
        self._images_dirty = True
        self._wake.set()

    def report_volumes(self) -> None:
        self._volumes_dirty = True
        self._wake.set()

    def resync(self) -> None:
        """End the session; the next one asks for a complete set. What is held stays in use until it comes."""
        self._complete = True
        if self._outgoing is not None and not self._outgoing.full():
            self._outgoing.put_nowait(None)

    def applied(self, holds: bytes) -> None:
        """The node's network and DNS are those of the set with this digest now."""
        if holds != self._applied:
            self._applied = holds
            self._applied_told = False
            self._wake.set()

    async def run(self) -> None:
        hint: ManagerAddress | None = None
        backoff = BACKOFF_FIRST_S
        order: list[ManagerAddress] = []
        while True:
            if hint is None and not order:
                order = list(self._managers())
                random.shuffle(order)
            target = hint or (order.pop() if order else None)
            hint = None
            if target is not None:
                began = time.monotonic()
                hint = await self._attach(target)
                if time.monotonic() - began > BACKOFF_MAX_S:
                    backoff = BACKOFF_FIRST_S
            if hint is None and not order:
                await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311
                if backoff >= BACKOFF_MAX_S:
                    hint = await self._found_again()
                backoff = min(backoff * 1.6, BACKOFF_MAX_S)

    async def _found_again(self) -> ManagerAddress | None:
        """Another manager of this cluster where one used to be: restored from a backup on its address."""
        known = {manager.id for manager in self._managers()}
        addresses = sorted({manager.address for manager in self._managers()})
        for found in await asyncio.gather(*(self._who_is_at(address) for address in addresses)):
            if found is not None and found.id not in known:
                log.warning("another manager found address=%s manager=%s", found.address, found.id)
                return found
        return None

    async def _who_is_at(self, address: str) -> ManagerAddress | None:
        host, _, port = address.rpartition(":")
        identity = self._identity.current()
        try:
            peer = await asyncio.to_thread(
                tls.identify, host.strip("[]"), int(port), identity, IDENTIFY_TIMEOUT_S
            )
        except (Unreachable, BadCertificate):
            return None
        return ManagerAddress(peer.node_id, address)

    async def _attach(self, target: ManagerAddress) -> ManagerAddress | None:
        """One session; returns the leader this manager names, if it does not lead."""
        channel = tls.channel(target.address, target.id, self._identity.current(), beats=True)
        outgoing: Outgoing = asyncio.Queue(OUT_QUEUE)
        in_flight: dict[int, tuple[set[str], bool]] = {}
        self._outgoing = outgoing
        holds = b"" if self._complete else self.holds
        self._described = True
        sent_ms = contact.now_ms()
        self._beats.clear()
        hello = dispatcher_pb2.Hello(description=self._describe(), holds=holds, hears_stored=True)
        outgoing.put_nowait(dispatcher_pb2.AgentMessage(hello=hello))
        sender: asyncio.Task[None] | None = None
        try:
            self._partial, self._partial_holds = self.items, self.holds
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Attach(_drain(outgoing))
            async with asyncio.timeout(welcome_timeout_s(self._unheard)):
                first = await call.read()
            self._unheard = 0
            if not isinstance(first, dispatcher_pb2.ManagerMessage):
                return None
            if first.HasField("not_leader"):
                return _hint(first.not_leader, target)
            if not first.HasField("welcome"):
                return None
            log.info("attached manager=%s epoch=%d", target.id, first.welcome.epoch)
            self.connected_to = target.id
            self._on_contact(sent_ms)
            self._refused_by.clear()
            self._refused_since = 0.0
            self._dirty |= _tasks_among(self.items)
            self._applied_told = not self._applied
            self._images_dirty = self._volumes_dirty = True
            self._volumes_told = {}
            self._wake.set()
            sender = asyncio.create_task(self._send(outgoing, in_flight, first.welcome.heartbeat_ms))
            return await self._receive(call, outgoing, in_flight, first.welcome.heartbeat_ms)
        except TimeoutError:
            self._unheard += 1
            log.warning("manager silent manager=%s", target.id)
        except grpc.aio.AioRpcError as error:
            log.info(
                "session ended manager=%s code=%s details=%s", target.id, error.code().name, error.details()
            )
            if error.code() in REFUSED_CODES:
                self._refused(target, error.details() or "")
        finally:
            self.connected_to = ""
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
            for tasks, images in in_flight.values():
                self._dirty |= tasks
                self._images_dirty |= images
            while not outgoing.empty():
                outgoing.get_nowait()
            outgoing.put_nowait(None)
            await asyncio.sleep(0)
            if sender is not None and self._is_leaving():
                await self._say_goodbye(channel)
            await channel.close(None)
        return None

    def _refused(self, manager: ManagerAddress, details: str) -> None:
        """Raise Removed once it is certain: a manager that lags behind may not know this node yet."""
        if WAS_REMOVED in details:
            raise Removed(details)
        if not UNKNOWN_NODE.search(details):
            return
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        self._refused_by.add(manager.id)
        majority = len(self._refused_by) * 2 > len(self._managers())
        if majority and now - self._refused_since >= REFUSED_FOR_S:
            raise Removed(details)

    async def _say_goodbye(self, channel: grpc.aio.Channel) -> None:
        """So that the managers need not wait for the deadline. The session's own call is over by now."""
        words: Outgoing = asyncio.Queue(3)
        words.put_nowait(
            dispatcher_pb2.AgentMessage(hello=dispatcher_pb2.Hello(description=self._describe()))
        )
        goodbye = dispatcher_pb2.Goodbye(reason="the node left the cluster")
        words.put_nowait(dispatcher_pb2.AgentMessage(goodbye=goodbye))
        words.put_nowait(None)
        try:
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Attach(_drain(words), timeout=GOODBYE_S)
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            log.info("goodbye not heard code=%s", error.code().name)

    async def _receive(
        self,
        call: grpc.aio.StreamStreamCall[dispatcher_pb2.AgentMessage, dispatcher_pb2.ManagerMessage],
        outgoing: Outgoing,
        in_flight: dict[int, tuple[set[str], bool]],
        heartbeat_ms: int,
    ) -> ManagerAddress | None:
        while True:
            # The leader answers every heartbeat: its silence means that it is stuck or cut off.
            async with asyncio.timeout(heartbeat_ms * 3 / 1000):
                message = await call.read()
            if not isinstance(message, dispatcher_pb2.ManagerMessage):
                return None
            match message.WhichOneof("message"):
                case "assignments":
                    new = apply(self._partial, message.assignments, self._partial_holds)
                    if new is None:
                        log.warning("delta does not fit, asking for a complete set")
                        self._complete = True
                        return None
                    self._partial, self._partial_holds = new, message.assignments.results_in
                    # Of a task that this node had, and whose assignment a power cut took from its disk,
                    # there may be news that nothing else would bring up.
                    changes = message.assignments.changes
                    self._dirty |= _tasks_among(c.key for c in changes if c.key not in self.items)
                    if not message.assignments.more:
                        # Acting on part of a set would stop tasks that only come later in it.
                        self.items, self.holds = new, self._partial_holds
                        self._complete = False
                        self._on_items(new)
                case "out_of_service":
                    self._on_out(list(message.out_of_service.task_ids))
                case "stored":
                    in_flight.pop(message.stored.sequence, None)
                case "heartbeat":
                    if self._beats:
                        self._on_contact(self._beats.popleft())
                    for sequence in [known for known in in_flight if known <= message.heartbeat.stored]:
                        del in_flight[sequence]
                case "not_leader":
                    return _hint(message.not_leader, None)

    async def _send(
        self,
        outgoing: Outgoing,
        in_flight: dict[int, tuple[set[str], bool]],
        heartbeat_ms: int,
    ) -> None:
        sequence = 0
        next_beat = time.monotonic()
        while True:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + heartbeat_ms / 1000
                beat = dispatcher_pb2.Heartbeat(
                    sequence=sequence, sent_ms=time.time_ns() // 1_000_000, usage=self._usage()
                )
                self._beats.append(contact.now_ms())
                await outgoing.put(dispatcher_pb2.AgentMessage(heartbeat=beat))
            if self._dirty or self._images_dirty or self._volumes_dirty:
                await asyncio.sleep(REPORT_GATHER_S)
                sequence += 1
                await outgoing.put(self._reports(sequence, in_flight))
            if not self._applied_told:
                self._applied_told = True
                said = dispatcher_pb2.Applied(holds=self._applied)
                await outgoing.put(dispatcher_pb2.AgentMessage(applied=said))
            if not self._described:
                self._described = True
                again = dispatcher_pb2.Hello(description=self._describe(), holds=self.holds)
                await outgoing.put(dispatcher_pb2.AgentMessage(hello=again))
            self._wake.clear()
            if not self._applied_told or not self._described:
                continue
            if self._dirty or self._images_dirty or self._volumes_dirty:
                continue
            try:
                async with asyncio.timeout(max(0.01, next_beat - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _reports(
        self, sequence: int, in_flight: dict[int, tuple[set[str], bool]]
    ) -> dispatcher_pb2.AgentMessage:
        chosen: set[str] = set()
        reports, size = dispatcher_pb2.Reports(sequence=sequence), 0
        for task_id in sorted(self._dirty)[:REPORTS_MAX]:
            if size > REPORTS_BYTES_MAX:
                break  # the rest comes in the next one: a message that is too large ends the session
            chosen.add(task_id)
            status = self._status_of(task_id)
            if status is not None:
                reports.tasks.add(task_id=task_id, status=status)
                size += status.ByteSize()
        self._dirty -= chosen
        if self._images_dirty:
            # An empty name says "none" where nothing is held: an empty list says "no news".
            reports.images.extend(self._images() or [""])
            reports.held.extend(self._held())
        if self._volumes_dirty:
            told, self._volumes_told = self._volumes_told, {r.volume_id: r for r in self._volumes()}
            reports.volumes.extend(r for r in self._volumes_told.values() if told.get(r.volume_id) != r)
            self._volumes_dirty = False
        in_flight[sequence] = (chosen, self._images_dirty)
        self._images_dirty = False
        return dispatcher_pb2.AgentMessage(reports=reports)


def _hint(answer: dispatcher_pb2.NotLeader, asked: ManagerAddress | None) -> ManagerAddress | None:
    if not answer.leader_id or not answer.leader_address:
        return None
    if asked is not None and answer.leader_id == asked.id:
        return None
    return ManagerAddress(answer.leader_id, answer.leader_address)


async def _drain(queue: Outgoing) -> AsyncIterator[dispatcher_pb2.AgentMessage]:
    """What is put in, until None: a stream whose source never ends leaves a task behind."""
    while (message := await queue.get()) is not None:
        yield message


def _tasks_among(keys: Iterable[str]) -> set[str]:
    """The ids of the tasks that items with these keys are about."""
    return {key.removeprefix("task/") for key in keys if key.startswith("task/")}
