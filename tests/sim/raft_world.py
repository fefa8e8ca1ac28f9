"""Whole raft groups in virtual time: seeded faults on wire, disk and process; invariants checked throughout.

The disk keeps what was synced; a crash drops everything handed to it since, and after a
failed sync nobody knows whether it is there. It fills up, too. The wire delays, loses, doubles
and reorders, is cut both ways or one way. Members crash, alone or all at once, and stand still
for seconds (what reached them meanwhile they read when they go on). What must hold, always:

* one leader per term; every member applies the same entry at the same index;
* an acknowledged write is in every later state; a read barrier shows every write that was
  acknowledged before it was asked for;
* when the faults stop, the group commits again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from swarmpy.proto import raft_pb2
from swarmpy.raft.core import Core, Output, Reluctance
from swarmpy.raft.core_log import COMMAND, CONFIGURATION, LAN, NOOP, Configuration, Entry, Log, Member
from swarmpy.raft.log import LogError

SNAPSHOT_ENTRIES, TRAILING_ENTRIES = 40, 10
LOSS, HEAVY_LOSS, FAILED_SYNC = 0.05, 0.3, 0.002


@dataclass
class Disk:
    """What survives a crash."""

    term: int = 0
    vote: str = ""
    base: tuple[int, int] = (0, 0)
    entries: list[Entry] = field(default_factory=list)
    meta: raft_pb2.SnapshotMeta = field(default_factory=raft_pb2.SnapshotMeta)
    state: list[bytes] = field(default_factory=list)

    def write(self, hard_state: tuple[int, str] | None, entries: list[Entry]) -> None:
        if hard_state is not None:
            self.term, self.vote = hard_state
        for entry in entries:
            offset = entry.index - self.base[0] - 1
            assert 0 <= offset <= len(self.entries), "a gap in the journal"
            del self.entries[offset:]
            self.entries.append(entry)

    def compact(self, index: int) -> None:
        count = index - self.base[0]
        if count > 0:
            self.base = (index, self.entries[count - 1].term)
            del self.entries[:count]


class Process:
    """One running member: the core and a shell in miniature."""

    def __init__(self, world: World, node_id: str, disk: Disk) -> None:
        self.world, self.node_id, self.disk = world, node_id, disk
        configuration = Configuration.from_message(disk.meta.configuration_index, disk.meta.configuration)
        log = Log(disk.base[0], disk.base[1], list(disk.entries), configuration)
        if log.term_at(disk.meta.index) != disk.meta.term:
            log = Log(disk.meta.index, disk.meta.term, (), configuration)
            disk.base, disk.entries = (disk.meta.index, disk.meta.term), []
        self.core = Core(
            node_id, LAN, world.random.random, world.now, term=disk.term, vote=disk.vote, log=log,
            commit=disk.meta.index,
        )  # fmt: skip
        self.state = list(disk.state)
        self.applied = int(disk.meta.index)
        self.snapshot_index = self.applied
        self.line: list[Output] = []
        self.writing = False
        self.alive = True
        self.installing: tuple[raft_pb2.SnapshotMeta, list[bytes], str] | None = None
        self.waiting: dict[int, tuple[int, bytes]] = {}
        self.reads: dict[int, int] = {}  # token -> index acknowledged before it
        self.barriers: list[tuple[int, int]] = []
        self.removed = False
        self.full = False
        self.timer = 0
        self.stopped_until = 0

    def stands_still(self, action: Callable[[], None]) -> bool:
        """Whether this process is stopped; then `action` comes when it goes on."""
        if self.alive and self.world.now < self.stopped_until:
            self.world.at(self.stopped_until, action)
            return True
        return False

    def message(self, data: bytes) -> None:
        if self.stands_still(lambda: self.message(data)):
            return
        if self.alive and self.installing is None:
            message = raft_pb2.RaftMessage.FromString(data)
            if not (self.full and message.append.entries):
                self.core.step(message, self.world.now)
                self.process()

    def tick(self) -> None:
        if self.stands_still(self.tick):
            return
        if self.alive and self.installing is None:
            self.core.tick(self.world.now)
            self.process()

    def peer_lost(self, name: str) -> None:
        if not self.stands_still(lambda: self.peer_lost(name)) and self.alive:
            self.core.peer_lost(name, self.world.now)
            self.process()

    def fill_disk(self, *, full: bool) -> None:
        """A member without room neither leads nor takes entries."""
        self.full = full
        self.core.reluctance = Reluctance.NEVER if full else Reluctance.NONE
        if full and self.core.leader is not None and len(self.core.configuration.voters) > 1:
            self.core.resign(self.world.now)
            self.process()

    def process(self) -> None:
        if not self.alive or self.installing is not None:
            return
        out = self.core.take(self.world.now)
        self.world.saw_leader(self.core)
        for message in out.messages:
            self.world.send(message)
        if out.truncated_from is not None:
            self.waiting = {i: w for i, w in self.waiting.items() if i < out.truncated_from}
        if out.must_persist or (out.held and (self.writing or self.line)):
            self.line.append(out)
            self.write()
        else:
            for message in out.held:
                self.world.send(message)
        for token, index in out.reads:
            self.barriers.append((index, self.reads.pop(token)))
        if self.core.leader is None:
            self.reads.clear()
        for peer in out.snapshot_to:
            self.world.send_snapshot(self, peer)
        self.removed = self.removed or out.removed
        self.apply()
        wake = self.core.wake_ms()
        if wake is not None and not self.world.now < self.timer <= wake:
            self.timer = max(wake, self.world.now + 1)
            self.world.at(self.timer, self.tick)

    def write(self) -> None:
        if self.writing or not self.line:
            return
        line, self.line = self.line, []
        hard_state = next((o.hard_state for o in reversed(line) if o.hard_state is not None), None)
        entries = [entry for out in line for entry in out.entries]
        self.writing = True

        def synced() -> None:
            if not self.alive:
                return
            failed = self.world.faulty and self.world.random.random() < FAILED_SYNC
            if not failed or self.world.random.random() < 0.5:
                self.disk.write(hard_state, entries)
            if failed:
                self.world.failed_syncs += 1
                self.world.crash(self.node_id)
            else:
                done()

        def done() -> None:
            if self.stands_still(done) or not self.alive:
                return
            self.writing = False
            self.core.persisted(self.world.now, hard_state, entries[-1] if entries else None)
            for out in line:
                for message in out.held:
                    self.world.send(message)
            self.write()
            if self.installing is not None:
                self.install()
            self.process()

        delay = self.world.random.choice((1, 1, 2, 3, 30)) if self.world.faulty else 1
        self.world.at(self.world.now + delay, synced)

    def apply(self) -> None:
        while self.applied < self.core.ready_index:
            entry = self.core.log.entry(self.applied + 1)
            self.world.saw_committed(entry)
            if entry.kind == COMMAND:
                self.state.append(entry.data)
            self.applied = entry.index
            waiting = self.waiting.pop(entry.index, None)
            if waiting is not None and waiting[0] == entry.term:
                self.world.acknowledged(waiting[1], entry.index)
        for index, before in [b for b in self.barriers if b[0] <= self.applied]:
            assert self.applied >= before, f"stale read at {self.node_id}: {self.applied} < {before}"
            self.world.reads_done += 1
            self.barriers.remove((index, before))
        if self.applied - self.snapshot_index >= SNAPSHOT_ENTRIES:
            self.snapshot()

    def snapshot(self) -> None:
        configuration = self.core.log.configuration_at(self.applied)
        self.disk.meta = raft_pb2.SnapshotMeta(
            index=self.applied, term=self.core.log.term_at(self.applied) or 0,
            configuration=configuration.to_message(), configuration_index=configuration.index,
        )  # fmt: skip
        self.disk.state = list(self.state)
        self.snapshot_index = self.applied
        keep = self.core.log.trail(self.applied, TRAILING_ENTRIES, 1 << 30)
        self.core.compact(keep)
        self.disk.compact(keep)

    def receive_snapshot(
        self, meta: raft_pb2.SnapshotMeta, state: list[bytes], sender: str, term: int
    ) -> None:
        if (
            not self.alive
            or self.full
            or self.world.now < self.stopped_until
            or self.installing is not None
            or term != self.core.term
            or self.core.leader is not None
        ):
            return
        if meta.index > self.core.commit:
            self.installing = (meta, state, sender)
            self.install()

    def install(self) -> None:
        assert self.installing is not None
        if self.writing or self.line:
            return
        (meta, state, sender), self.installing = self.installing, None
        keep = self.core.log.term_at(meta.index) == meta.term and self.core.stable >= meta.index
        self.disk.meta, self.disk.state = meta, list(state)
        if not keep:
            self.disk.base, self.disk.entries = (meta.index, meta.term), []
        self.core.installed(meta, sender, keep_log=keep)
        self.state, self.applied, self.snapshot_index = list(state), int(meta.index), int(meta.index)
        self.waiting.clear()
        self.world.snapshots_installed += 1
        self.process()


class World:
    def __init__(self, seed: int, members: int = 3, spares: int = 2) -> None:
        self.random = random.Random(seed)
        self.now = 1000
        self.faulty = True
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.names = [f"n{i}" for i in range(1, members + spares + 1)]
        self.disks = {name: Disk() for name in self.names}
        first = Configuration(1, tuple(Member(name, name) for name in self.names[:members]))
        entry = Entry(1, 1, CONFIGURATION, first.to_message().SerializeToString())
        for name in self.names[:members]:
            self.disks[name].write((1, ""), [entry])
        self.processes: dict[str, Process] = {}
        self.cut: set[tuple[str, str]] = set()
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, Entry] = {}
        self.acked: dict[bytes, int] = {}
        self.ack_index = 0
        self.reads_done = self.snapshots_installed = self.proposed = self.changes = self.failed_syncs = 0
        self.loss = LOSS
        for name in self.names:
            self.boot(name)

    # -- time and wire

    def at(self, when: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, action))

    def run_until(self, end: int) -> None:
        while self._queue and self._queue[0][0] <= end:
            when, _, action = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            action()
        self.now = end

    def send(self, message: raft_pb2.RaftMessage) -> None:
        data = message.SerializeToString()
        copies = 1
        if self.faulty:
            copies = self.random.choices((0, 1, 2), (self.loss, 0.97 - self.loss, 0.03))[0]
        for _ in range(copies):
            delay = self.random.choice((1, 1, 2, 5, 20, 200)) if self.faulty else 1
            self.at(self.now + delay, lambda: self.deliver(message.sender, message.to, data))

    def deliver(self, sender: str, to: str, data: bytes) -> None:
        if (sender, to) not in self.cut and to in self.processes:
            self.processes[to].message(data)

    def send_snapshot(self, process: Process, peer: str) -> None:
        meta, state, term = process.disk.meta, list(process.disk.state), process.core.term
        lost = self.faulty and self.random.random() < 0.3

        def arrive() -> None:
            if (process.node_id, peer) not in self.cut and not lost and peer in self.processes:
                self.processes[peer].receive_snapshot(meta, state, process.node_id, term)

        def end() -> None:
            if process.alive and process.core.leader is not None:
                process.core.leader.snapshot_ended(peer)
                process.process()

        self.at(self.now + 50, arrive)
        self.at(self.now + 120, end)

    # -- faults

    def boot(self, name: str) -> None:
        process = self.processes[name] = Process(self, name, self.disks[name])
        process.process()

    def crash(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.alive = False
            for other in list(self.processes.values()):
                if self.random.random() < 0.7:
                    other.peer_lost(name)

    def fault(self) -> None:
        """Something breaks, or is repaired."""
        name = self.random.choice(self.names)
        process = self.processes.get(name)
        kinds: list[tuple[int, Callable[[], None]]] = [
            (2, self.crash_all), (10, self.split),
            (5, lambda: self.cut.add((name, self.random.choice(self.names)))), (15, self.cut.clear),
            (5, lambda: self.lose_connections(name)), (4, self.toggle_loss),
            (10, lambda: self.at_leader(lambda leader: leader.core.transfer(None, self.now))),
        ]  # fmt: skip
        if process is None:
            kinds.append((80, lambda: self.boot(name)))
        else:
            kinds += [
                (30, lambda: self.crash(name)),
                (8, lambda: self.stop(process)),
                (8, lambda: process.fill_disk(full=not process.full)),
            ]
        self.random.choices([action for _, action in kinds], [weight for weight, _ in kinds])[0]()

    def crash_all(self) -> None:
        for name in list(self.processes):
            self.crash(name)
        for name in self.names:
            self.boot(name)

    def split(self) -> None:
        side = {n for n in self.names if self.random.random() < 0.5}
        self.cut = {(a, b) for a in self.names for b in self.names if (a in side) != (b in side)}

    def lose_connections(self, name: str) -> None:
        for process in list(self.processes.values()):
            process.peer_lost(name)

    def toggle_loss(self) -> None:
        self.loss = HEAVY_LOSS if self.loss == LOSS else LOSS

    def stop(self, process: Process) -> None:
        """SIGSTOP, for less or more than an election timeout."""
        process.stopped_until = max(process.stopped_until, self.now + self.random.choice((100, 700, 3000)))

    def at_leader(self, action: Callable[[Process], object]) -> None:
        leading = [
            p for p in self.processes.values() if p.core.leader is not None and self.now >= p.stopped_until
        ]
        if leading:
            process = self.random.choice(leading)
            try:
                action(process)
            except LogError:
                return
            process.process()

    # -- clients

    def propose(self) -> None:
        def put(process: Process) -> None:
            if process.full:
                return
            self.proposed += 1
            command = b"c%d" % self.proposed
            process.waiting[process.core.propose(command)] = (process.core.term, command)

        self.at_leader(put)

    def read(self) -> None:
        def ask(process: Process) -> None:
            self._count += 1
            process.core.read(self._count)
            process.reads[self._count] = self.ack_index

        self.at_leader(ask)

    def change(self) -> None:
        def act(process: Process) -> None:
            core, name = process.core, self.random.choice(self.names)
            member = core.configuration.member(name)
            if member is None:
                core.put_member(Member(name, name, True))
            elif member.learner:
                core.put_member(Member(name, name))
            elif len(core.configuration.voters) > 2:
                core.remove(name)
            self.changes += 1

        self.at_leader(act)

    # -- what must hold

    def saw_leader(self, core: Core) -> None:
        if core.leader is not None:
            known = self.leaders.setdefault(core.term, core.node_id)
            assert known == core.node_id, f"two leaders in term {core.term}: {known}, {core.node_id}"

    def saw_committed(self, entry: Entry) -> None:
        known = self.committed.setdefault(entry.index, entry)
        assert known == entry, f"entry {entry.index} differs: {known} {entry}"

    def acknowledged(self, command: bytes, index: int) -> None:
        self.acked[command] = index
        self.ack_index = max(self.ack_index, index)

    def heal(self) -> None:
        self.faulty = False
        self.cut.clear()
        for name in self.names:
            if name not in self.processes:
                self.boot(name)
            self.processes[name].stopped_until = 0
            self.processes[name].fill_disk(full=False)

    def check_end(self) -> None:
        """Everything acknowledged is in every voter's state, in order, and it commits again."""
        last = b"last"
        for _ in range(100):
            if last in self.acked:
                break
            self.run_until(self.now + 200)

            def put(process: Process) -> None:
                process.waiting[process.core.propose(last)] = (process.core.term, last)

            self.at_leader(put)
        assert last in self.acked, "does not commit after the faults ended"
        self.run_until(self.now + 3_000)
        leading = [p for p in self.processes.values() if p.core.leader is not None]
        assert len(leading) == 1
        leader = leading[0]
        commands = [e.data for _, e in sorted(self.committed.items()) if e.kind == COMMAND]
        assert leader.state == commands
        for command in self.acked:
            assert command in leader.state
        for name in sorted(leader.core.configuration.ids):
            assert self.processes[name].state == leader.state, name


__all__ = ["NOOP", "World"]
