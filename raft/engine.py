"""Carries out what the core decides: disk, wire, state machine, timers. One event loop.

`process` is the only place that takes from the core. Messages that promise nothing leave
at once; everything else waits in line for the disk, which works through the line in one
thread, one fsync for all that gathered meanwhile. Applying yields to the loop after
APPLY_BUDGET_S, so that a long catch-up delays no heartbeat. Anything unexpected here is
fatal for the member: it stops, says why, and its supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from swarmpy.proto import raft_pb2
from swarmpy.raft.checkpoint import Checkpoints, Limits
from swarmpy.raft.core import Core, Output, Reluctance
from swarmpy.raft.core_log import COMMAND, CONFIGURATION, NOOP, Configuration, Entry
from swarmpy.raft.disk import Disk
from swarmpy.raft.guard import guarded
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import (
    Applied,
    DiskFull,
    LogClosed,
    LogError,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PreparedRestore,
    StateMachine,
    TransferFailed,
)
from swarmpy.raft.shell import SyncObj, Waiter
from swarmpy.raft.snapshotter import Snapshotter
from swarmpy.raft.transfer import Receiver, Sender
from swarmpy.raft.transport import Transport

log = logging.getLogger(__name__)

WAITING_MAX = 8192
APPLY_BUDGET_S = 0.01
STEP_DOWN_AFTER_S = 1.0


class Engine:
    def __init__(
        self,
        core: Core,
        journal: Journal,
        checkpoints: Checkpoints,
        state_machine: StateMachine,
        *,
        directory: Path,
        limits: Limits,
        applied: int,
        on_leadership: Callable[[bool, int], None],
        on_fatal: Callable[[str], None],
        on_removed: Callable[[], None],
    ) -> None:
        self.core = core
        self.applied = applied
        self._checkpoints, self._machine = checkpoints, state_machine
        self._directory = directory
        self._on_leadership, self._on_fatal, self._on_removed = on_leadership, on_fatal, on_removed
        self._loop = asyncio.get_running_loop()
        self.shell = SyncObj(core.node_id, core, self)
        self.transport: Transport | None = None
        self._receiver = Receiver(
            directory, checkpoints, wanted=lambda index: index > core.commit, install=self._install,
            answer=lambda to, response: self._send(to, snapshot_response=response),
        )  # fmt: skip
        self._disk = Disk(journal, on_written=self._written, on_low=self._disk_low, on_fatal=self.fatal)
        self._waiting: dict[int, Waiter] = {}
        self._reads: dict[int, asyncio.Future[int]] = {}
        self._barriers: list[tuple[int, asyncio.Future[int]]] = []
        self._token = 0
        self._watchers: dict[asyncio.Event, Callable[[], bool]] = {}
        self._senders: dict[str, Sender] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = self._processing = self._installing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._announced: int | None = None  # the term in which we said that we lead
        self._peers_of = (-1, -1)
        self.snapshots = Snapshotter(self, self._disk, checkpoints, state_machine, limits, applied)
        self.closed = ""
        self._vital = Vital(self)

    # -- life

    def start(self, transport: Transport) -> None:
        self.transport = transport
        self._spawn(self._receiver.run())
        self._spawn(self._disk.keep())
        self.kick()

    async def stop(self, reason: str = "stopped") -> None:
        self.closed = self.closed or reason
        self._fail_all(LogClosed(self.closed))
        self._announce(None)
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.transport is not None:
            await self.transport.stop()
        await self._disk.stop()
        self.shell.destroy()

    def fatal(self, reason: str) -> None:
        """Stop taking part; the owner is told once and ends the process."""
        if self.closed:
            return
        self.closed = reason
        log.critical("raft stopped reason=%s", reason)
        self._fail_all(LogClosed(reason))
        self._announce(None)
        self._on_fatal(reason)

    def _fail_all(self, error: LogError) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            waiter.resolve(OutcomeUnknown(waiter.index, str(error)))
        for future in [*self._reads.values(), *(future for _, future in self._barriers)]:
            if not future.done():
                future.set_exception(error)
        self._reads, self._barriers = {}, []
        self._wake_watchers()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("raft task failed", exc_info=error)
            self.fatal(f"{type(error).__name__}: {error}")

    @property
    def now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    # -- in: what the shell passes on

    def on_timer(self) -> None:
        self._timer = None
        if self.closed or self._installing:
            return
        wake_ms = self.core.wake_ms()
        if wake_ms is None or self.now_ms < wake_ms:  # what it was set for is settled
            self._arm()
            return
        with self._vital:
            self.core.tick(self.now_ms)
        self.process()

    def on_message(self, message: raft_pb2.RaftMessage) -> None:
        if self.closed or self._installing or self._has_no_room_for(message):
            return
        if message.HasField("snapshot_response") and (sender := self._senders.get(message.sender)):
            sender.answered(message.snapshot_response)
        with self._vital:
            self.core.step(message, self.now_ms)
        self.kick()

    def on_connected(self, node_id: str) -> None:
        if (sender := self._senders.get(node_id)) is not None:
            sender.lost()
        if self.core.leader is not None:
            self.core.leader.peer_reset(node_id)
            self.kick()

    def on_lost(self, node_id: str) -> None:
        if not self.closed:
            self.core.peer_lost(node_id, self.now_ms)
            self.kick()

    def submit(self, command: bytes, waiter: Waiter) -> None:
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(len(self._waiting))
        if not self._disk.takes(len(command)):
            raise DiskFull(str(self._directory))
        waiter.index = self.core.propose(command)
        waiter.term = self.core.term
        self._waiting[waiter.index] = waiter
        self.kick()

    def read(self) -> asyncio.Future[int]:
        self._token += 1
        self.core.read(self._token)
        future: asyncio.Future[int] = self._loop.create_future()
        self._reads[self._token] = future
        self.kick()
        return future

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds; looked at after everything that happens."""
        event = asyncio.Event()
        self._watchers[event] = condition
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    if self.closed:
                        raise LogClosed(self.closed)
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            del self._watchers[event]
        return True

    def _wake_watchers(self) -> None:
        for event, condition in self._watchers.items():
            with contextlib.suppress(LogError):  # it is raised again where it is waited for
                if not self.closed and not condition():
                    continue
            event.set()

    # -- the pump

    def kick(self) -> None:
        """Process soon: everything of this turn of the loop shares one batch."""
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self._loop.call_soon(self.process)

    def process(self) -> None:
        self._scheduled = False
        if not self.closed and not self._installing:
            self._processing = True
            with self._vital:
                self._process()
            self._processing = False

    def _process(self) -> None:
        out = self.core.take(self.now_ms)
        self._send_all(out.messages)
        if out.truncated_from is not None:
            self._lose_from(out.truncated_from)
        if out.must_persist or (out.held and self._disk.busy):
            self._disk.put(out)
        else:
            self._send_all(out.held)
        self._watch_leadership()
        self._start_reads(out.reads)
        for message in out.chunks:
            self._receiver.put(message)
        for node_id in out.snapshot_to:
            self._spawn(self._send_snapshot(node_id))
        self._apply()
        self._watch_configuration()
        if out.removed:
            self._leave()
        self._arm()
        self._wake_watchers()

    def _arm(self) -> None:
        wake_ms = self.core.wake_ms()
        if wake_ms is None or self.closed:
            return
        if self._timer is not None:
            if self._timer_ms <= wake_ms:
                return
            self._timer.cancel()
        self._timer_ms = wake_ms
        self._timer = self._loop.call_at(wake_ms / 1000, self.shell.doTick)

    def _send_all(self, messages: list[raft_pb2.RaftMessage]) -> None:
        if self.transport is not None:
            for message in messages:
                self.transport.send(message)

    def _send(self, to: str, **body: Any) -> None:
        self._send_all([self.core.message(to, None, body)])

    # -- disk

    def _written(self, line: list[Output], hard_state: tuple[int, str] | None, last: Entry | None) -> None:
        if self.closed:
            return
        core = self.core
        before = (core.role, core.commit)
        with self._vital:
            core.persisted(self.now_ms, hard_state, last)
        for out in line:
            self._send_all(out.held)
        # Within `_process` what was written is applied in a moment; more than that only a change makes.
        if not self._processing or (core.role, core.commit) != before:
            self.kick()

    def _disk_low(self) -> None:
        """The disk filled up, or has room again."""
        disk, core = self._disk, self.core
        core.reluctance = Reluctance.NEVER if disk.spent else Reluctance.LAST if disk.low else Reluctance.NONE
        if disk.low and core.leader is not None and len(core.configuration.voters) > 1:
            with contextlib.suppress(TransferFailed):
                core.transfer(None, self.now_ms)
            self._loop.call_later(STEP_DOWN_AFTER_S, self._step_down, core.term)
        self.kick()

    def _step_down(self, term: int) -> None:
        """Nobody took the lead over; someone else has to win it."""
        if self._disk.low and self.core.leader is not None and self.core.term == term and not self.closed:
            self.core.resign(self.now_ms)
            self.kick()

    def _has_no_room_for(self, message: raft_pb2.RaftMessage) -> bool:
        entries = message.append.entries
        return bool(entries) and not self._disk.takes(sum(len(entry.data) + 64 for entry in entries))

    # -- apply

    def _apply(self) -> None:
        end_s = self._loop.time() + APPLY_BUDGET_S
        while self.applied < self.core.ready_index:
            entry = self.core.log.entry(self.applied + 1)
            outcome: Applied | LogError = Applied(entry.index, b"")
            if entry.kind == COMMAND:
                outcome = guarded(self._machine, entry.index, entry.data)
            self.applied = entry.index
            self.snapshots.bytes_since += len(entry.data)
            if (waiter := self._waiting.pop(entry.index, None)) is not None:
                waiter.resolve(outcome if waiter.term == entry.term else NotLeader(self.core.leader_id or ""))
            if entry.kind == NOOP:
                self._maybe_announce(entry)
            elif entry.kind == CONFIGURATION:
                self._configuration_applied()
            if self._loop.time() > end_s:
                self.kick()
                break
        self._pass_barriers()
        if self.snapshots.due:
            self._spawn(self.snapshots.take())

    def _lose_from(self, index: int) -> None:
        for lost in [i for i in self._waiting if i >= index]:
            self._waiting.pop(lost).resolve(NotLeader(self.core.leader_id or ""))

    def _start_reads(self, reads: list[tuple[int, int]]) -> None:
        for token, index in reads:
            if (future := self._reads.pop(token, None)) is not None:
                self._barriers.append((index, future))

    def _pass_barriers(self) -> None:
        if not self._barriers:
            return
        for index, future in self._barriers:
            if index <= self.applied and not future.done():
                future.set_result(index)
        self._barriers = [b for b in self._barriers if b[0] > self.applied and not b[1].done()]

    # -- leadership and membership

    def _maybe_announce(self, entry: Entry) -> None:
        leader = self.core.leader
        if leader is not None and entry.index == leader.first_index:
            self._announce(self.core.term)

    def _watch_leadership(self) -> None:
        led = self.core.term if self.core.leader is not None else None
        if self._announced is not None and self._announced != led:
            self._announce(None)
        if led is None and self._reads:
            reads, self._reads = self._reads, {}
            for future in reads.values():
                if not future.done():
                    future.set_exception(NotLeader(self.core.leader_id or ""))

    def _announce(self, term: int | None) -> None:
        old, self._announced = self._announced, term
        if old is not None:
            log.info("raft leadership lost term=%s", old)
            self._loop.call_later(self.core.profile.election_max_ms / 1000, self._give_up_on, old)
            self._on_leadership(False, old)
        if term is not None:
            log.info("raft leadership gained term=%s index=%s", term, self.applied)
            self._on_leadership(True, term)

    def _give_up_on(self, term: int) -> None:
        """What was proposed in a lost lead and got no answer from the next one in time: nobody waits longer."""
        for index in [index for index, waiter in self._waiting.items() if waiter.term <= term]:
            self._waiting.pop(index).resolve(OutcomeUnknown(index, "the lead was lost"))

    def _configuration_applied(self) -> None:
        """Leave when this entry takes us out; not when it took out an earlier incarnation."""
        core = self.core
        before = core.log.configuration_at(self.applied - 1).member(core.node_id)
        if (
            before is not None
            and before.is_incarnation(core.incarnation)
            and core.node_id in core.log.configuration_at(self.applied).removed
            and core.node_id not in core.configuration.ids
        ):
            self._loop.call_soon(self._leave)

    def _watch_configuration(self) -> None:
        """Dial whoever is in the latest configuration or in one that may still count."""
        committed = self.core.committed_configuration
        key = (self.core.configuration.index, committed.index)
        if key == self._peers_of or self.transport is None:
            return
        live = [c for c in self.core.log.configurations if c.index >= committed.index]
        if self.core.leader is not None:
            for node_id in set(committed.removed) - {m for c in live for m in c.ids}:
                self._send(node_id, removed=raft_pb2.Removed(configuration_index=committed.index))
        self._peers_of = key
        self.transport.set_peers(self._addresses(live))

    def _addresses(self, configurations: list[Configuration]) -> dict[str, str]:
        addresses = {m.node_id: m.address for c in configurations for m in c.members}
        addresses.pop(self.core.node_id, None)
        return addresses

    def _leave(self) -> None:
        if self.closed:
            return
        self.closed = "this manager was removed from the cluster"
        log.warning("raft membership ended node=%s", self.core.node_id)
        self._fail_all(LogClosed(self.closed))
        self._announce(None)
        self._on_removed()

    # -- snapshots

    async def _send_snapshot(self, node_id: str) -> None:
        path = self._checkpoints.newest()
        if self.core.leader is None or path is None or node_id in self._senders:
            return
        sender = Sender(self._checkpoints, path, partial(self._send_chunk, node_id))
        self._senders[node_id] = sender
        log.info("raft snapshot sending peer=%s file=%s", node_id, path.name)
        try:
            done = await sender.run()
        finally:
            del self._senders[node_id]
        log.info("raft snapshot sent peer=%s file=%s installed=%s", node_id, path.name, done)
        if self.core.leader is not None:  # maybe a later lead than the one that began
            self.core.leader.snapshot_ended(node_id)
        self.kick()

    def _send_chunk(self, node_id: str, chunk: raft_pb2.SnapshotChunk) -> bool:
        """Whoever gets a piece takes the sender for the leader of its term: one that lost the lead sends none."""
        if self.core.leader is None:
            return False
        self._send(node_id, snapshot_chunk=chunk)
        return True

    async def _install(self, path: Path, meta: raft_pb2.SnapshotMeta, sender: str) -> None:
        """Nothing else happens in this member between the two states."""
        if meta.index <= self.core.commit or self.core.leader is not None:
            return
        self._installing = True
        await self._disk.drained()
        keeps = self.core.log.term_at(meta.index) == meta.term and self.core.stable >= meta.index
        if not keeps:
            await self._disk.run(partial(self._disk.journal.reset, meta.index, meta.term))
        chunks = self._checkpoints.chunks(path)
        if isinstance(self._machine, PreparedRestore):
            replace = await asyncio.to_thread(self._machine.prepare, chunks)
            release = replace()
        else:
            release = None
            self._machine.restore(chunks)
        self.core.installed(meta, sender, keep_log=keeps)
        self.applied = meta.index
        self.snapshots.taken(meta.index)
        for waiter in self._waiting.values():
            waiter.resolve(OutcomeUnknown(waiter.index, "a snapshot took the place of the log"))
        self._waiting = {}
        log.info("raft snapshot installed index=%s from=%s", meta.index, sender)
        self._installing = False
        self.kick()
        if release is not None:
            await asyncio.to_thread(release)


class Vital:
    """An error inside leaves the protocol in an unknown state: the member stops, the error goes on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._engine.fatal(f"{type(error).__name__}: {error}")
