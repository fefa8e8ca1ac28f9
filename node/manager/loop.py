"""The one loop of every planner: watch → dirty keys → plan → propose.

`LoopState` is the part without I/O: which keys are dirty, which are to be looked
at again and when. `Loop` is the thin asyncio shell a leader runs, one for each
planner, in one TaskGroup. Rules:

- One plan is made in one turn of the event loop, whatever the number of loops that have one to make: between
  plans Raft sends its heartbeats. A leader that cannot is replaced, and the next one would have as much to do.
- Plans that take room on nodes (`places`) are made and carried out one after the other, whoever makes them.
- One transaction is in flight per loop; the next plan is made only when this
  replica has applied it, so a planner always sees its own decisions.
- A plan larger than a transaction goes out in parts. Every prefix of a plan is
  consistent; the rest is dropped and planned anew when anybody else's commit
  touched the planner in between.
- CONFLICT (and its kin: the object is gone, or there already) → plan again.
- No polling: a loop sleeps until a commit or the planner's wake time.
- A planner that raises, or makes what the store refuses, is tried key by key; the keys that fail are left alone
  for a second, then twice as long, up to a minute. The others, and the other planners, go on (see `attempt`).
- Anything else unexpected propagates and ends the leader's TaskGroup.

    LoopError
    └── LeadershipLost    a newer epoch has begun: stop leading
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import islice

from swarmpy.node.manager.attempt import Failed, Troubles, attempt
from swarmpy.node.plan.base import Plan, Planner
from swarmpy.proto import store_pb2
from swarmpy.raft.store import (
    CHANGES_MAX,
    CONFLICT,
    EXISTS,
    NAME_TAKEN,
    NOT_FOUND,
    STALE_EPOCH,
    Commit,
    Store,
    View,
)

log = logging.getLogger(__name__)

KEYS_PER_PLAN = 100
TRANSACTION_BYTES_MAX = 1_000_000
PLANNING_MS_MAX = 25
LOOKED_LONG_MS = 5
APPLY_DEADLINE_S = 30.0
IDLE_WAKE_MS_MIN = 20  # a planner that changes nothing but wants to run at once cannot spin
CONFLICT_PAUSE_MAX_S = 0.2
_REPLAN = frozenset({CONFLICT, NOT_FOUND, EXISTS, NAME_TAKEN})

Propose = Callable[[list[store_pb2.Change], str], Awaitable[store_pb2.TransactionResult]]


class LoopError(Exception):
    """A planner's loop cannot go on."""


class LeadershipLost(LoopError):
    """The store is in a newer epoch than this leader."""


class LoopState:
    """Which keys of a planner to look at, and when; no clock and no I/O."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._keys_max: int = getattr(planner, "keys_per_plan", KEYS_PER_PLAN)
        self._dirty: dict[str, None] = {}
        self._wakes: dict[str, int] = {}
        self._held: dict[str, int] = {}  # keys that failed, and until when they are left alone
        # A planner may keep a picture of the store that it would otherwise make anew for every plan.
        self._attach: Callable[[View], None] | None = getattr(planner, "attach", None)
        self._note: Callable[[Commit, View], None] | None = getattr(planner, "note", None)
        # The kinds of objects that it looks at, where those are few.
        self._heeds: Collection[store_pb2.Kind] | None = getattr(planner, "heeds", None)

    def restart(self, view: View) -> None:
        """Forget everything and look at every key: on taking the lead, or after a restore."""
        self._wakes.clear()
        self._held.clear()
        if self._attach is not None:
            self._attach(view)
        self._dirty = dict.fromkeys(self._planner.all_keys(view))

    def feed(self, commit: Commit, view: View) -> bool:
        """Note what a commit makes dirty; whether it did."""
        touched = False
        if self._note is not None:
            self._note(commit, view)
        for event in commit.events:
            if self._heeds is not None and event.kind not in self._heeds:
                continue
            if event.kind == store_pb2.KIND_SERVICE and event.is_relabelled:
                continue  # a service's labels are its users', they decide nothing
            for key in self._planner.dirty(event, view):
                self._dirty[key] = None
                touched = True
        return touched

    def take(self, now_ms: int) -> list[str]:
        """The keys to plan now; they are clean from here on."""
        for key, wake_ms in list(self._wakes.items()):
            if wake_ms <= now_ms:
                del self._wakes[key]
                self._dirty[key] = None
        if self._held:
            self._held = {key: until_ms for key, until_ms in self._held.items() if until_ms > now_ms}
        keys = list(islice((key for key in self._dirty if key not in self._held), self._keys_max))
        for key in keys:
            del self._dirty[key]
            self._wakes.pop(key, None)
        return keys

    def look_again(self, keys: Sequence[str], wake_ms: int | None) -> None:
        """Keep the wake time that a plan for these keys asked for."""
        if wake_ms is not None:
            for key in keys:
                self._wakes[key] = wake_ms

    def hold(self, key: str, until_ms: int) -> None:
        """Plan the key again, but not before that time, whatever makes it dirty."""
        self._dirty[key] = None
        self._held[key] = until_ms

    def mark(self, keys: Sequence[str]) -> None:
        """Make keys dirty: their plan was not carried out whole."""
        self._dirty.update(dict.fromkeys(keys))

    def wait_ms(self, now_ms: int) -> int | None:
        """How long there is nothing to do: 0 now, None until a commit."""
        if len(self._dirty) > len(self._held) or any(key not in self._held for key in self._dirty):
            return 0
        times_ms = [*self._wakes.values(), *self._held.values()]
        return max(0, min(times_ms) - now_ms) if times_ms else None


def parts_of(changes: Sequence[store_pb2.Change]) -> Iterator[list[store_pb2.Change]]:
    """Split changes into transactions within the store's limits of number and size."""
    part: list[store_pb2.Change] = []
    size = 0
    for change in changes:
        bytes_more = change.ByteSize() + 8
        if part and (len(part) >= CHANGES_MAX or size + bytes_more > TRANSACTION_BYTES_MAX):
            yield part
            part, size = [], 0
        part.append(change)
        size += bytes_more
    if part:
        yield part


class Loop:
    """Runs one planner against the store until cancelled. Times are the caller's clock in milliseconds."""

    def __init__(
        self,
        planner: Planner,
        store: Store,
        propose: Propose,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
        troubles: Troubles | None = None,
        turn: asyncio.Lock | None = None,
        placing: asyncio.Lock | None = None,
    ) -> None:
        self._planner = planner
        # Shared by the loops whose plans take room on nodes: the next one must see what the last one took.
        placing = placing if placing is not None else asyncio.Lock()
        self._placing = placing if getattr(planner, "places", False) else asyncio.Lock()
        self._turn = turn if turn is not None else asyncio.Lock()  # shared by all loops of a leader
        self._troubles = troubles if troubles is not None else Troubles()
        self._is_lost = False  # the state missed something: it begins anew
        self._store = store
        self._propose = propose
        self._now_ms = now_ms
        self._new_id = new_id
        self._state = LoopState(planner)
        self._changed = asyncio.Event()
        self._disturbed = False
        self._awaited = False  # an index, so that any commit may be the one
        self._conflicts = 0
        debounce_ms: int = getattr(planner, "debounce_ms", 0)
        self._debounce_s = debounce_ms / 1000

    async def run(self) -> None:
        """Plan and propose for ever; ends by cancellation or with an error."""
        self._store.listeners.append(self._on_commit)
        self._store.restore_listeners.append(self._on_restore)
        try:
            self._on_restore()
            while True:
                await self._wait_for_work()
                await self._round()
        finally:
            self._store.listeners.remove(self._on_commit)
            self._store.restore_listeners.remove(self._on_restore)
            self._troubles.forget(self._planner.name)

    def _on_commit(self, commit: Commit) -> None:
        try:
            touched = attempt(self._planner.name, lambda: self._state.feed(commit, self._store))
        except Failed as error:
            self._troubles.failed(self._planner.name, "", str(error))
            self._is_lost = touched = True
        if touched and commit.actor != self._planner.name:
            self._disturbed = True
        if touched or self._awaited:
            self._changed.set()

    def _on_restore(self) -> None:
        self._is_lost = self._disturbed = True
        self._changed.set()

    async def _begin_anew(self) -> None:
        """Look at every key."""
        name = self._planner.name
        while self._is_lost:
            self._is_lost = False
            try:
                async with self._turn:
                    attempt(name, lambda: self._state.restart(self._store))
                    await asyncio.sleep(0)
            except Failed as error:
                self._is_lost = True
                await asyncio.sleep(self._troubles.failed(name, "", str(error)) / 1000)
            else:
                self._troubles.forget(name)

    async def _wait_for_work(self) -> None:
        await self._begin_anew()
        while (wait_ms := self._state.wait_ms(self._now_ms())) != 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                    await self._changed.wait()
            except TimeoutError:
                pass
            await self._begin_anew()
        await asyncio.sleep(self._debounce_s)

    async def _round(self) -> None:
        keys = self._state.take(self._now_ms())
        if not keys or await self._carried_out(keys):
            return
        for key in keys if len(keys) > 1 else ():  # those that fail are found one by one
            await self._carried_out([key])

    async def _carried_out(self, keys: Sequence[str]) -> bool:
        """Plan and propose for some keys; False if that failed."""
        async with self._placing:
            return await self._plan_and_propose(keys)

    async def _plan_and_propose(self, keys: Sequence[str]) -> bool:
        name = self._planner.name
        try:
            async with self._turn:
                plan, took_ms = self._plan(keys)
                # Others plan after what else is ready has had its turn. Where much was looked at for nothing, as a
                # new leader looks at everything, that is as much time again: meanwhile nodes come back.
                idle = took_ms > LOOKED_LONG_MS and not plan.changes
                await asyncio.sleep(min(took_ms, PLANNING_MS_MAX) / 1000 if idle else 0)
        except Failed as error:
            self._failed(keys, str(error))
            return False
        for part in parts_of(plan.changes):
            try:
                if self._disturbed or not await self._carry_out(part):
                    self._state.mark(keys)
                    return True
            except Failed as error:
                self._failed(keys, str(error))
                return False
            await asyncio.sleep(0)
        for key in keys:
            self._troubles.mended(name, key)
        return True

    def _plan(self, keys: Sequence[str]) -> tuple[Plan, float]:
        """One plan, what it asks to be looked at again, and how many milliseconds it took; raises Failed."""
        name, now_ms = self._planner.name, self._now_ms()
        self._disturbed = False
        started_s = time.perf_counter()
        plan = attempt(name, lambda: self._planner.plan(self._store, keys, now_ms, self._new_id))
        took_ms = (time.perf_counter() - started_s) * 1000
        if took_ms > PLANNING_MS_MAX:
            log.warning(
                "planning took too long planner=%s took_ms=%.1f limit_ms=%d keys=%d changes=%d",
                name, took_ms, PLANNING_MS_MAX, len(keys), len(plan.changes),
            )  # fmt: skip
        wake_ms = plan.wake_ms
        if wake_ms is not None and not plan.changes:
            wake_ms = max(wake_ms, now_ms + IDLE_WAKE_MS_MIN)
        self._state.look_again(keys, wake_ms)
        self._state.mark(plan.unseen)
        return plan, took_ms

    def _failed(self, keys: Sequence[str], why: str) -> None:
        """A single key is left alone for a while; of several it is not known yet which one it is."""
        if len(keys) == 1:
            pause_ms = self._troubles.failed(self._planner.name, keys[0], why)
            self._state.hold(keys[0], self._now_ms() + pause_ms)

    async def _carry_out(self, changes: list[store_pb2.Change]) -> bool:
        """Propose one transaction and see it applied here; False if the plan is out of date."""
        result = await self._propose(changes, self._planner.name)
        name, code = self._planner.name, result.error_code
        if not code:
            self._conflicts = 0
            await self._until_applied(result.index)
            return True
        if code == STALE_EPOCH:
            raise LeadershipLost(f"planner {name}: {result.error}")
        if code not in _REPLAN:
            log.error("plan refused planner=%s code=%s error=%s", name, code, result.error)
            raise Failed(f"the store refused the plan: {code}: {result.error}")
        self._conflicts += 1
        log.debug("plan out of date planner=%s code=%s in_a_row=%d", name, code, self._conflicts)
        await asyncio.sleep(min(0.001 * 2 ** min(self._conflicts - 1, 10), CONFLICT_PAUSE_MAX_S))
        return False

    async def _until_applied(self, index: int) -> None:
        if self._store.index >= index:
            return
        self._awaited = True
        try:
            async with asyncio.timeout(APPLY_DEADLINE_S):
                while self._store.index < index:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise LoopError(
                f"planner {self._planner.name}: index {index} was committed but not applied here "
                f"within {APPLY_DEADLINE_S:g} s (the store is at {self._store.index})"
            ) from None
        finally:
            self._awaited = False


def loops_of(
    planners: Sequence[Planner],
    store: Store,
    propose: Propose,
    now_ms: Callable[[], int],
    new_id: Callable[[], str],
    troubles: Troubles,
) -> list[Loop]:
    """The loops of a leader, which take turns."""
    turn, placing = asyncio.Lock(), asyncio.Lock()
    return [Loop(planner, store, propose, now_ms, new_id, troubles, turn, placing) for planner in planners]
