"""One manager's copy of the replicated log: start it, propose, read, change members.

Everything runs on the event loop that called `start`. A node without any configuration
(a manager that joins) listens until the leader reaches it. `on_fatal` is called at most
once, on the loop, when this member can no longer take part (disk, bug): end the process
and start again. `on_removed` likewise when the cluster took this member out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from swarmpy.proto import raft_pb2
from swarmpy.raft import past, recover
from swarmpy.raft.checkpoint import Checkpoints, Limits
from swarmpy.raft.core import Core
from swarmpy.raft.core_log import CONFIGURATION, LAN, WAN, Configuration, Entry, Log, Member, Profile
from swarmpy.raft.engine import Engine
from swarmpy.raft.journal import ADVICE, Journal, Recovered
from swarmpy.raft.log import (
    COMMAND_BYTES_MAX,
    Applied,
    LogClosed,
    LogDamaged,
    LogError,
    MemberInfo,
    MembershipBusy,
    MembershipRefused,
    NotLeader,
    OutcomeUnknown,
    StateMachine,
    Status,
    TooLarge,
    TransferFailed,
)
from swarmpy.raft.seal import Keys
from swarmpy.raft.shell import Waiter
from swarmpy.raft.transport import Transport

log = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 10.0
CATCH_UP_TIMEOUT_S = 60.0
CATCH_UP_ENTRIES = 64
KEEP_S = 0.5
__all__ = ["LAN", "WAN", "Limits", "Profile", "RaftNode"]
MemberAllowed = Callable[[str], bool]


class RaftNode:
    def __init__(
        self,
        *,
        node_id: str,
        address: str,
        listen: tuple[str, int],
        directory: Path,
        state_machine: StateMachine,
        bootstrap: bool,
        server_ssl: Callable[[], ssl.SSLContext],
        client_ssl: Callable[[], ssl.SSLContext],
        peer_id: Callable[[ssl.SSLObject], str],
        is_member_allowed: MemberAllowed = lambda node_id: True,
        profile: Profile = LAN,
        on_fatal: Callable[[str], None],
        on_removed: Callable[[], None] | None = None,
        limits: Limits | None = None,
        keys: Keys | None = None,
        seed: recover.Seed | None = None,
        force_new_cluster: bool = False,
    ) -> None:
        self.node_id, self.address = node_id, address
        self._seed, self._force_new_cluster, self._floor = seed, force_new_cluster, 0
        self._directory, self._machine, self._bootstrap = directory, state_machine, bootstrap
        self._profile, self._limits, self.keys = profile, limits or Limits(), keys  # keys: until `start`
        self._on_fatal = on_fatal
        self._on_removed = on_removed or (lambda: on_fatal("this manager was removed from the cluster"))
        self._listeners: list[Callable[[bool, int], None]] = []
        self._engine: Engine | None = None
        self._changing = False
        self._transport = Transport(
            node_id, listen, server_ssl=server_ssl, client_ssl=client_ssl, peer_id=peer_id,
            is_allowed=is_member_allowed, on_message=self._on_message, on_connected=self._on_connected,
            on_lost=self._on_lost, generation=self._generation, on_superseded=self._on_superseded,
            silence_ms=profile.silence_ms,
        )  # fmt: skip

    # -- life

    async def start(self) -> None:
        """Read the disk, restore the state machine, listen. LogDamaged, LogClosed, OSError."""
        assert self._engine is None, "started twice"
        self._floor = await asyncio.to_thread(recover.begin, self._directory)
        journal = await asyncio.to_thread(Journal, self._directory, self.node_id, keys=self.keys)
        with contextlib.ExitStack() as undo:
            undo.callback(journal.close)
            core, checkpoints, applied = await self._recover(journal)
            self._transport.incarnation = journal.incarnation
            await self._transport.start()
            undo.pop_all()
        engine = Engine(
            core, journal, checkpoints, self._machine, directory=self._directory, limits=self._limits,
            applied=applied, on_leadership=self._announce, on_fatal=self._on_fatal,
            on_removed=self._on_removed,
        )  # fmt: skip
        self._engine = engine
        engine.start(self._transport)
        self._keeper = asyncio.create_task(self._keep_incarnations(engine))
        log.info(
            "raft started node=%s term=%s last=%s applied=%s",
            self.node_id,
            core.term,
            core.log.last_index,
            applied,
        )

    async def _recover(self, journal: Journal) -> tuple[Core, Checkpoints, int]:
        checkpoints = Checkpoints(self._directory, self.keys)
        path = await asyncio.to_thread(
            usable, checkpoints, journal.recovered, planting=self._seed is not None
        )
        meta = raft_pb2.SnapshotMeta()
        me = Member(self.node_id, self.address, incarnation=journal.incarnation)
        if path is None and self._seed is not None and journal.recovered.empty:
            path = await asyncio.to_thread(recover.plant, checkpoints, self._seed, me)
        if path is not None:
            meta = await asyncio.to_thread(checkpoints.verify, path)
            self._machine.restore(checkpoints.chunks(path))
        elif self._bootstrap and journal.recovered.empty and not self._floor:
            await asyncio.to_thread(self._write_first_entry, journal, me)
        found = journal.recovered
        if found.torn_bytes:
            log.warning("raft journal had a torn tail, cut bytes=%s", found.torn_bytes)
        if found.base_index > meta.index:
            raise LogDamaged(
                f"{self._directory}: the journal begins after entry {found.base_index} but the newest "
                f"snapshot ends at {meta.index}. {ADVICE}"
            )
        configuration = Configuration.from_message(meta.configuration_index, meta.configuration)
        entries, found.entries = found.entries, []
        replicated = Log(found.base_index, found.base_term, entries, configuration)
        if replicated.term_at(meta.index) != meta.term:
            await asyncio.to_thread(journal.reset, meta.index, meta.term)
            replicated = Log(meta.index, meta.term, (), configuration)
        if self._force_new_cluster:
            term = max(found.term, replicated.last_term)
            await asyncio.to_thread(recover.force_new_cluster, journal, replicated, term, me)
        now_ms = int(asyncio.get_running_loop().time() * 1000)
        core = Core(
            self.node_id, self._profile, random.random, now_ms, term=found.term, vote=found.vote,
            log=replicated, commit=meta.index, incarnation=journal.incarnation,
        )  # fmt: skip
        return core, checkpoints, int(meta.index)

    def _write_first_entry(self, journal: Journal, me: Member) -> None:
        """A cluster of one: the first entry is its configuration."""
        alone = Configuration(1, (me,))
        entry = Entry(1, 1, CONFIGURATION, alone.to_message().SerializeToString())
        journal.write((1, ""), [entry])
        journal.recovered.entries.append(entry)

    async def stop(self, transfer: bool = True) -> None:
        """Hand the lead over if there is someone, then stop; twice is fine."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        if transfer and not engine.closed and engine.core.leader is not None:
            with contextlib.suppress(LogError):
                await self._transfer(engine, None)
        await engine.stop()

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        """Call `callback(is_leader, term)` on the loop; True only when the state is current."""
        self._listeners.append(callback)

    def _announce(self, is_leader: bool, term: int) -> None:
        for listener in self._listeners:
            listener(is_leader, term)

    def _generation(self) -> tuple[int, bool]:
        """How often this log was forced to go on, and whether there is no log yet."""
        if self._engine is None:
            return self._floor, True
        replicated = self._engine.core.log
        return max(self._floor, replicated.configuration.generation), replicated.last_index == 0

    def _on_superseded(self, generation: int) -> None:
        """The cluster was recovered without us: our log counts no more."""
        if self._engine is None or self._engine.closed:
            return
        recover.supersede(self._directory, generation)
        self._engine.fatal("the cluster was recovered without this manager: its log is set aside")

    def _running(self) -> Engine:
        if self._engine is None:
            raise LogClosed
        if self._engine.closed:
            raise LogClosed(self._engine.closed)
        return self._engine

    def _on_message(self, message: raft_pb2.RaftMessage) -> None:
        if self._engine is not None and (wire := self._engine.shell.wire) is not None:
            wire.deliver(message)

    def _on_connected(self, node_id: str) -> None:
        if self._engine is not None and (wire := self._engine.shell.wire) is not None:
            wire.connected(node_id)

    def _on_lost(self, node_id: str) -> None:
        if self._engine is not None and (wire := self._engine.shell.wire) is not None:
            wire.lost(node_id)

    # -- the log

    async def propose(self, command: bytes, *, timeout: float = 5) -> Applied:
        """Commit and apply. OutcomeUnknown after `timeout` seconds or a lost lead."""
        engine = self._running()
        if len(command) > COMMAND_BYTES_MAX:
            raise TooLarge(len(command))
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        engine.shell.replicate(command, waiter)
        deadline = loop.call_later(timeout, waiter.give_up)  # a third of what asyncio.timeout costs
        try:
            return await waiter.future
        finally:
            deadline.cancel()

    async def read_barrier(self, timeout: float = 2) -> int:
        """Return once this leader's state machine shows everything committed before the call."""
        engine = self._running()
        future = engine.read()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise NotLeader("") from None

    # -- members

    async def add_member(self, node_id: str, address: str) -> None:
        """Add as learner, wait until it has caught up, promote. Safe to repeat after any error."""
        with self._one_change() as engine:
            member = engine.core.configuration.member(node_id)
            if member is None or member.address != address:
                learner = Member(node_id, address, learner=True)
                moved = member._replace(address=address) if member is not None else learner
                await self._committed(engine, lambda: engine.core.put_member(moved))
            if node_id in engine.core.configuration.voters:
                return
            if not await engine.until(lambda: self._caught_up(engine, node_id), CATCH_UP_TIMEOUT_S):
                raise MembershipRefused(
                    f"manager {node_id} did not catch up within {CATCH_UP_TIMEOUT_S:.0f} s: is it running "
                    f"and reachable at {address}? It stays without a vote; add it again or remove it"
                )
            leader = engine.core.leader
            incarnation = leader.peers[node_id].incarnation if leader is not None else 0
            voter = Member(node_id, address, incarnation=incarnation)
            await self._committed(engine, lambda: engine.core.put_member(voter))

    async def _keep_incarnations(self, engine: Engine) -> None:
        """As leader: note who a member is; replace a voter that lost its files by the one it is now."""
        while True:
            await asyncio.sleep(KEEP_S)
            for member in engine.core.configuration.members:
                if engine.core.leader is None or engine.closed:
                    break
                own = member.node_id == self.node_id
                known = engine.core.incarnation if own else self._transport.incarnation_of(member.node_id)
                if not known or member.learner or member.incarnation == known:
                    continue
                try:
                    await self._now_is(member, known)
                except LogError as error:
                    log.info("raft member change waits member=%s reason=%s", member.node_id, error)

    async def _now_is(self, member: Member, incarnation: int) -> None:
        if not member.incarnation:
            with self._one_change() as engine:
                named = member._replace(incarnation=incarnation)
                await self._committed(engine, lambda: engine.core.put_member(named))
            return
        log.warning("raft member lost its files, taking it out and in again member=%s", member.node_id)
        await self.remove_member(member.node_id)
        await self.add_member(member.node_id, member.address)

    async def remove_member(self, node_id: str) -> None:
        """Take a member out; it is told. A leader may take itself out, and stops leading."""
        with self._one_change() as engine:
            if node_id in engine.core.configuration.removed:
                return
            try:
                await self._committed(engine, lambda: engine.core.remove(node_id))
            except LogClosed:
                if node_id != self.node_id:
                    raise

    @contextlib.contextmanager
    def _one_change(self) -> Iterator[Engine]:
        engine = self._running()
        if engine.core.leader is None:
            raise NotLeader(engine.core.leader_id or "")
        if self._changing:
            raise MembershipBusy("another membership change is running")
        self._changing = True
        try:
            yield engine
        finally:
            self._changing = False

    async def _committed(self, engine: Engine, change: Callable[[], int]) -> None:
        term = engine.core.term
        await engine.until(lambda: engine.core.may_change or engine.core.term != term, COMMIT_TIMEOUT_S)
        index = change()
        engine.kick()
        done = await engine.until(
            lambda: engine.applied >= index or engine.core.term != term, COMMIT_TIMEOUT_S
        )
        if not done or engine.core.term != term:
            raise OutcomeUnknown(index, "the leader changed" if done else "no majority answered")

    def _caught_up(self, engine: Engine, node_id: str) -> bool:
        leader = engine.core.leader
        if leader is None:
            raise NotLeader(engine.core.leader_id or "")
        peer = leader.peers.get(node_id)
        return (
            peer is not None
            and peer.match_index > 0
            and peer.match_index + CATCH_UP_ENTRIES >= engine.core.commit
        )

    async def transfer_leadership(self, to: str | None = None) -> str:
        """Hand the lead to `to` or to the most up-to-date manager; returns the new leader's id."""
        return await self._transfer(self._running(), to)

    async def _transfer(self, engine: Engine, to: str | None) -> str:
        core = engine.core
        target = core.transfer(to, engine.now_ms)
        engine.kick()

        def moved() -> bool:
            return core.leader is None and core.leader_id is not None

        def ended() -> bool:
            return moved() or (core.leader is not None and core.leader.transfer_to is None)

        await engine.until(ended, 2 * self._profile.election_max_ms / 1000)
        if not moved():
            raise TransferFailed(f"{target} did not take over in time: is it running? The lead stays here")
        assert core.leader_id is not None
        return core.leader_id

    async def reseal(self) -> set[int]:
        """After the current data key changed: no file needs another; says which are needed."""
        return await self._running().snapshots.reseal()

    # -- what it knows

    def status(self) -> Status:
        engine = self._running()
        core = engine.core
        engine.shell.mirror(engine.applied, sorted(core.configuration.ids - {self.node_id}))
        seen = engine.shell.getStatus()
        return Status(
            node_id=self.node_id,
            leader_id=core.leader_id,
            is_leader=core.leader is not None,
            term=int(seen["raft_term"]),
            commit_index=int(seen["commit_idx"]),
            applied_index=int(seen["last_applied"]),
            members=tuple(self._member_info(engine, member) for member in core.configuration.members),
        )

    @property
    def profile(self) -> Profile:
        return self._profile

    def silent_ms(self) -> int:
        """Since when a follower has not heard from its leader, a leader not from a majority."""
        engine = self._running()
        return engine.core.silent_ms(engine.now_ms)

    async def leader_other_than(self, leader_id: str | None, timeout: float) -> str | None:
        """The leader's id as soon as it is another one, or after `timeout` seconds the same again."""
        engine = self._running()
        await engine.until(lambda: engine.core.leader_id != leader_id, timeout)
        return engine.core.leader_id

    def position(self) -> recover.Position:
        """Where this member's log stands, whether there is a leader or not."""
        engine = self._running()
        return recover.position(engine.core, engine.applied)

    def past(self) -> past.Material:
        """What is still here of the log and its snapshots, to look at earlier states."""
        engine = self._running()
        return past.material(engine.core.log, engine.applied, Checkpoints(self._directory, self.keys))

    def _member_info(self, engine: Engine, member: Member) -> MemberInfo:
        own = member.node_id == self.node_id
        leader = engine.core.leader
        match = engine.core.stable if own else 0
        if leader is not None and (peer := leader.peers.get(member.node_id)) is not None:
            match = peer.match_index
        reachable = own or self._transport.is_connected(member.node_id)
        return MemberInfo(member.node_id, member.address, member.learner, reachable, match)


def usable(checkpoints: Checkpoints, found: Recovered, *, planting: bool) -> Path | None:
    """The newest snapshot that is whole and that the journal goes on from. LogDamaged. Blocks."""
    damage: LogDamaged | None = None
    damaged: list[Path] = []
    for path in checkpoints.all():
        try:
            meta = checkpoints.verify(path)
        except LogDamaged as error:
            log.error("raft snapshot is damaged, looking for an earlier one error=%s", error)
            damage = damage or error
            damaged.append(path)
            continue
        if found.empty and not planting:
            raise LogDamaged(f"{path.parent}: there is a snapshot but no journal. {ADVICE}")
        if damage is not None and found.base_index > meta.index:
            break
        for bad in damaged:
            bad.rename(bad.with_name(bad.name + ".damaged"))
        return path
    if damage is not None and (found.base_index or not found.entries):
        raise damage
    return None
