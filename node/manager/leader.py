"""What only the leader runs, and the one way to write.

Gaining the lead: propose the next epoch (also the barrier that makes the store current),
then run every loop in one TaskGroup. Losing it cancels the group. An unexpected error in a
loop ends the group, gives the lead away and ends the process; the supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from swarmpy.node.manager.errors import BY_RESULT, Moving, NotLeading, Refused, Unknown
from swarmpy.node.manager.gather import Gather
from swarmpy.node.manager.loop import LeadershipLost
from swarmpy.proto import store_pb2
from swarmpy.raft import log as raft_log
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Store, transaction

log = logging.getLogger(__name__)
PROPOSE_TIMEOUT_S = 5.0
FOLLOW_S = 3600.0


class LeadLost(Exception):
    """Ends the leader's TaskGroup."""


class Leader:
    """The leadership of this manager: `epoch` is 0 while it does not lead."""

    def __init__(self, raft: RaftNode, store: Store) -> None:
        self.raft = raft
        self.store = store
        self.epoch = 0
        self.jobs: list[Callable[[], Awaitable[None]]] = []
        self.first_transaction: Callable[[], list[store_pb2.Change]] = list
        self.lost_listeners: list[Callable[[], None]] = []
        self.known_leader: str | None = None
        self._leader_changed = asyncio.Event()
        self._led = asyncio.Event()
        self._lost = asyncio.Event()
        self._lost.set()
        self._last_ms = 0
        self._stopping = False
        self._gather = Gather()
        self.wrote: Callable[[float], None] = lambda seconds: None
        raft.on_leadership(self._on_leadership)

    def _on_leadership(self, is_leader: bool, term: int) -> None:
        log.info("leadership leading=%s term=%d", is_leader, term)
        if is_leader:
            self._lost.clear()
            self._led.set()
        else:
            self._led.clear()
            self._lost.set()
            self._give_up()

    def _give_up(self) -> None:
        if self.epoch:
            self.epoch = 0
            for listener in self.lost_listeners:
                listener()

    @property
    def leading(self) -> bool:
        return self.epoch > 0

    @property
    def lost(self) -> asyncio.Event:
        """Set whenever this manager does not lead."""
        return self._lost

    def now_ms(self) -> int:
        """Wall clock that never goes back within this process."""
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        return self._last_ms

    async def run(self) -> None:
        """Lead whenever this manager is elected; returns only by cancellation or an error."""
        while True:
            await self._led.wait()
            # In a task of its own: a TaskGroup leaves a cancellation counted on its task when a child fails.
            leading = asyncio.create_task(self._lead())
            try:
                await leading
            except* (LeadLost, NotLeading, Unknown, LeadershipLost) as group:
                log.info("lead given up reason=%s", group.exceptions[0])
            finally:
                self._give_up()
                leading.cancel()
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # A TaskGroup that fails while it is cancelled raises only what failed.
                raise asyncio.CancelledError
            if self._led.is_set():
                # The epoch was refused while Raft still calls us leader: look again shortly.
                await asyncio.sleep(0.05)

    async def _lead(self) -> None:
        epoch = self.store.epoch + 1
        try:
            await self._propose(self.first_transaction(), epoch, "leader", "", new_epoch=True)
        except Unknown as error:
            raise NotLeading(str(error)) from error
        self.epoch = epoch
        self._tell_moved()
        log.info("leading epoch=%d index=%d", epoch, self.store.index)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._until_lost())
            for job in self.jobs:
                group.create_task(_run(job))

    async def _until_lost(self) -> None:
        await self._lost.wait()
        raise LeadLost("another manager leads")

    async def follow(self) -> None:
        """Keep `known_leader` current, for those who pass calls on; ends by cancellation."""
        while True:
            leader_id = await self.raft.leader_other_than(self.known_leader, FOLLOW_S)
            if leader_id != self.known_leader:
                self.known_leader = leader_id
                self._tell_moved()

    def _tell_moved(self) -> None:
        changed, self._leader_changed = self._leader_changed, asyncio.Event()
        changed.set()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of who leads, as far as this manager knows. Take it before looking."""
        return self._leader_changed

    @property
    def begins(self) -> bool:
        """Whether this manager was elected and will lead in a moment."""
        return not self.epoch and self.known_leader == self.raft.node_id

    async def is_elsewhere(self, changed: asyncio.Event, until_s: float) -> bool:
        """Wait for a change of who leads; False when none came until then, or this manager stops."""
        if self._stopping:
            return False
        try:
            async with asyncio.timeout_at(until_s):
                await changed.wait()
        except TimeoutError:
            return False
        return not self._stopping

    def stop(self) -> None:
        """Keep nobody waiting: this manager will not hear of the next leader."""
        self._stopping = True
        self._tell_moved()

    async def until_moved(self, leader_id: str) -> None:
        """Return when another manager leads, or this one has been out of sight for an election timeout."""
        while True:
            changed, known = self._leader_changed, self.known_leader
            if known == leader_id:
                await changed.wait()
            elif known is not None:
                return
            else:
                try:
                    async with asyncio.timeout(self.raft.profile.election_max_ms / 1000):
                        await changed.wait()
                except TimeoutError:
                    return

    async def check(self) -> int:
        """Let every replica note its state's hash; the index at which it does."""
        if not self.epoch:
            raise NotLeading("this manager does not lead the cluster")
        return (await self._propose([], self.epoch, "checks", "", check=True)).index

    async def commit(
        self, changes: Sequence[store_pb2.Change], actor: str, request_id: str = ""
    ) -> store_pb2.TransactionResult:
        """Replicate and apply `changes`; raises a ManagerError where they are refused."""
        result = await self.try_commit(changes, actor, request_id)
        if result.error_code:
            raise BY_RESULT.get(result.error_code, Refused)(result.error)
        return result

    async def try_commit(
        self, changes: Sequence[store_pb2.Change], actor: str, request_id: str = ""
    ) -> store_pb2.TransactionResult:
        """Like commit, but a refusal by the store is a result."""
        if not self.epoch:
            raise Moving("this manager does not lead the cluster")
        return await self._propose(changes, self.epoch, actor, request_id)

    async def _propose(
        self,
        changes: Sequence[store_pb2.Change],
        epoch: int,
        actor: str,
        request_id: str,
        *,
        new_epoch: bool = False,
        check: bool = False,
    ) -> store_pb2.TransactionResult:
        await self._gather.together()
        command = transaction(
            changes,
            epoch=epoch,
            now_ms=self.now_ms(),
            request_id=request_id,
            actor=actor,
            new_epoch=new_epoch,
            check=check,
        )
        began_s = time.monotonic()
        try:
            applied = await self.raft.propose(command, timeout=PROPOSE_TIMEOUT_S)
        except raft_log.NotLeader as error:
            raise Moving("the lead moved to another manager during the write") from error
        except raft_log.OutcomeUnknown as error:
            raise Unknown(
                "the change was sent, but a majority of the managers did not confirm it in time: it may or may "
                "not be made; send it again with the same request id"
            ) from error
        except raft_log.DiskFull as error:
            raise NotLeading(str(error)) from error
        except raft_log.Overloaded as error:
            raise NotLeading("the manager is overloaded: try again shortly") from error
        except raft_log.TooLarge as error:
            raise Refused(f"the change is too large for one transaction: {error}") from error
        except raft_log.LogClosed as error:
            raise NotLeading("this manager is shutting down") from error
        self.wrote(time.monotonic() - began_s)
        result = store_pb2.TransactionResult.FromString(applied.result)
        if result.error_code == "STALE_EPOCH":
            raise Moving(result.error)
        return result


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    await job()
