"""The loop: keys, wakes, parts, conflicts, own and others' commits; asyncio in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest
from swarmpy.cli.events import row_of, say_mended
from swarmpy.node.manager.attempt import Troubles
from swarmpy.node.manager.loop import LOOKED_LONG_MS, LeadershipLost, Loop, LoopState, parts_of
from swarmpy.node.manager.trouble_notes import TroubleNotes
from swarmpy.node.plan.base import ChangeEvent, NewId, Plan, View, copy_of
from swarmpy.proto import control_pb2, objects_pb2, store_pb2
from swarmpy.raft.store import Commit, Store, result_of, transaction
from swarmpy.raft.tables import wrap

from tests import virtual


def put(image_id: str, version: int = 0, size_bytes: int = 0, name: str = "") -> store_pb2.Change:
    change = store_pb2.Change(expected_version=version)
    change.put.image.meta.id = image_id
    change.put.image.meta.name = name or image_id
    change.put.image.size_bytes = size_bytes
    return change


class Grow:
    """A planner: every image grows by one, once per `every_ms`, up to `limit`."""

    name = "grow"

    def __init__(self, limit: int, every_ms: int = 0) -> None:
        self.limit, self.every_ms, self.calls = limit, every_ms, 0

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        return (event.id,) if event.kind == store_pb2.KIND_IMAGE else ()

    def all_keys(self, view: View) -> Iterable[str]:
        return [image.meta.id for image in view.images()]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        self.calls += 1
        plan = Plan()
        for key in keys:
            image = view.image(key)
            if image is None or image.size_bytes >= self.limit:
                continue
            due_ms = image.meta.updated_ms + self.every_ms
            if due_ms > now_ms:
                plan.wake_ms = min(plan.wake_ms or due_ms, due_ms)
                continue
            plan.changes.append(put(key, image.meta.version, image.size_bytes + 1))
        return plan


class Log:
    """A log of one: proposals are applied after a moment."""

    def __init__(self) -> None:
        self.store = Store()
        self.index = 0
        self.codes: list[str] = []
        self.sizes: list[int] = []
        self.apply(transaction((), epoch=1, now_ms=1, new_epoch=True))

    def apply(self, command: bytes) -> store_pb2.TransactionResult:
        self.index += 1
        return result_of(self.store.apply(self.index, command))

    def user(self, *changes: store_pb2.Change, epoch: int = 1) -> None:
        result = self.apply(transaction(changes, epoch=epoch, now_ms=virtual.now_ms(), actor="user"))
        assert not result.error_code, result

    async def propose(self, changes: list[store_pb2.Change], actor: str) -> store_pb2.TransactionResult:
        await asyncio.sleep(0.005)
        result = self.apply(transaction(changes, epoch=1, now_ms=virtual.now_ms(), actor=actor))
        self.codes.append(result.error_code)
        self.sizes.append(len(changes))
        return result

    def sizes_of(self) -> list[int]:
        return [image.size_bytes for image in self.store.images()]


def with_loop(
    planner: Grow, story: Callable[[Log], Awaitable[None]], troubles: Troubles | None = None
) -> Log:
    async def main() -> Log:
        log = Log()
        loop = Loop(planner, log.store, log.propose, virtual.now_ms, lambda: "id", troubles)
        async with asyncio.timeout(10_000):
            async with asyncio.TaskGroup() as group:
                running = group.create_task(loop.run())
                await story(log)
                running.cancel()
        assert not log.store.listeners
        assert not log.store.restore_listeners
        return log

    return virtual.run(main())


def test_a_loop_reacts_to_commits_and_then_rests() -> None:
    planner = Grow(limit=3)

    async def story(log: Log) -> None:
        await asyncio.sleep(1)
        log.user(put("a"), put("b"))
        await asyncio.sleep(1)
        assert log.sizes_of() == [3, 3]
        calls = planner.calls
        await asyncio.sleep(1000)
        assert planner.calls == calls

    with_loop(planner, story)


def test_a_loop_wakes_when_the_plan_said_so() -> None:
    async def story(log: Log) -> None:
        log.user(put("a"))
        await asyncio.sleep(95)
        assert log.sizes_of() == [9]

    with_loop(Grow(limit=100, every_ms=10_000), story)


def test_a_conflict_is_planned_again() -> None:
    async def story(log: Log) -> None:
        log.user(put("a"))
        await asyncio.sleep(0.004)  # the first proposal is on its way
        image = log.store.image("a")
        assert image is not None
        changed = copy_of(image)
        log.user(put("a", changed.meta.version, 10))
        await asyncio.sleep(1)
        assert log.sizes_of() == [12]

    log = with_loop(Grow(limit=12), story)
    assert log.codes[0] == "CONFLICT"
    assert set(log.codes[1:]) == {""}


def test_big_plans_go_out_in_parts_and_many_keys_in_turns() -> None:
    class All(Grow):
        def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
            return ("*",) if event.kind == store_pb2.KIND_IMAGE else ()

        def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
            return super().plan(view, list(self.all_keys(view)) if "*" in keys else keys, now_ms, new_id)

    async def story(log: Log) -> None:
        await asyncio.sleep(1)
        for start in range(0, 450, 150):
            log.user(*(put(f"i{number}") for number in range(start, start + 150)))
        await asyncio.sleep(5)
        assert set(log.sizes_of()) == {1}

    log = with_loop(All(limit=1), story)
    assert max(log.sizes) == 200
    assert sum(log.sizes) == 450


def test_parts_keep_to_bytes_too() -> None:
    changes = [put(f"i{number}", name="x" * 400_000) for number in range(5)]
    assert [len(part) for part in parts_of(changes)] == [2, 2, 1]
    assert not list(parts_of([]))


def test_a_restore_makes_every_key_dirty() -> None:
    source = Store()
    source.apply(1, transaction((), epoch=1, now_ms=1, new_epoch=True))
    source.apply(2, transaction([put("z")], epoch=1, now_ms=1))

    async def story(log: Log) -> None:
        await asyncio.sleep(1)
        log.store.restore(source.snapshot())
        log.index = 2
        await asyncio.sleep(1)
        assert log.sizes_of() == [2]

    with_loop(Grow(limit=2), story)


def test_a_loop_ends_when_the_lead_is_lost() -> None:
    async def refuse(changes: list[store_pb2.Change], actor: str) -> store_pb2.TransactionResult:
        return store_pb2.TransactionResult(error_code="STALE_EPOCH", error="no")

    async def main() -> None:
        log = Log()
        log.user(put("a"))
        await Loop(Grow(3), log.store, refuse, virtual.now_ms, lambda: "id").run()

    with pytest.raises(LeadershipLost):
        virtual.run(main())


class Poisoned(Grow):
    """Fails for one key, in one of the ways in which a planner can."""

    def __init__(self, way: str) -> None:
        super().__init__(limit=3)
        self.way, self.times, self.mended = way, list[int](), False

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if self.way == "dirty" and event.id == "bad" and not self.mended:
            self._fail()
        return super().dirty(event, view)

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        bad = "bad" in keys and view.image("bad") is not None and not self.mended
        if bad and self.way == "plan":
            self._fail()
        plan = super().plan(view, keys, now_ms, new_id)
        if bad and self.way == "refused":
            self.times.append(virtual.now_ms())
            plan.changes.append(put(" no id "))
        return plan

    def _fail(self) -> None:
        self.times.append(virtual.now_ms())
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("way", ["plan", "refused", "dirty"])
def test_a_key_that_fails_is_left_alone_and_the_others_go_on(way: str) -> None:
    planner, troubles = Poisoned(way), Troubles()

    async def story(log: Log) -> None:
        await asyncio.sleep(1)
        log.user(put("a"), put("bad"), put("z"))
        await asyncio.sleep(0.5)
        sizes = {image.meta.id: image.size_bytes for image in log.store.images()}
        assert (sizes["a"], sizes["z"]) == (3, 3)
        if way == "dirty":
            assert troubles.counts["grow"], "what it missed it looks at as a whole"
            return
        await asyncio.sleep(200)
        pauses = [after - before for before, after in itertools.pairwise(planner.times[-6:])]
        assert pauses == sorted(pauses)
        assert pauses[-1] >= 50_000, "longer and longer, up to a minute"
        assert len(planner.times) < 20
        assert [one.partition(" (")[0] for one in troubles.sentences()] == ["planner grow fails for bad"]
        assert troubles.failing() == {"grow": 1}
        log.user(put("later"))
        await asyncio.sleep(0.5)
        assert log.store.image("later").size_bytes == 3  # type: ignore[union-attr]
        planner.mended = True
        await asyncio.sleep(61)
        assert log.sizes_of() == [3, 3, 3, 3]
        assert not troubles.sentences()

    with_loop(planner, story, troubles)


def test_what_fails_is_noted_in_the_cluster_and_the_note_goes_when_it_is_mended() -> None:
    """Twice written: when it began and when it was over, however often the planner tried between."""
    planner, troubles = Poisoned("plan"), Troubles()
    notes: list[dict[str, str]] = []
    failing = False

    def listen(commit: Commit) -> None:
        nonlocal failing
        for event in commit.events:
            if commit.actor == "troubles":
                shown = control_pb2.Event(object=wrap(event.new), action=control_pb2.EVENT_UPDATE)  # type: ignore[arg-type]
                row = row_of(shown)
                assert row is not None
                failing = say_mended(row, failing)
                notes.append(row["Attributes"])

    async def story(log: Log) -> None:
        cluster = objects_pb2.Cluster()
        cluster.meta.id = "c1"
        log.user(store_pb2.Change(put=wrap(cluster)))
        log.store.listeners.append(listen)
        noting = asyncio.ensure_future(TroubleNotes(log.store, log.propose, troubles).run())
        log.user(put("a"), put("bad"))
        await asyncio.sleep(60)
        planner.mended = True
        await asyncio.sleep(120)
        noting.cancel()
        log.store.listeners.remove(listen)
        assert log.store.index < 12

    with_loop(planner, story, troubles)
    assert notes == [
        {"problem": "planner grow fails for bad: ZeroDivisionError: a bug"},
        {"message": "no planner fails any more"},
    ]


def test_a_planner_that_cannot_even_begin_is_tried_again() -> None:
    class Late(Grow):
        def all_keys(self, view: View) -> Iterable[str]:
            if virtual.now_ms() < began_ms + 5_000:
                raise ZeroDivisionError
            return super().all_keys(view)

    began_ms = 0
    troubles = Troubles()

    async def story(log: Log) -> None:
        nonlocal began_ms
        began_ms = virtual.now_ms()
        log.user(put("a"))
        await asyncio.sleep(2)
        assert troubles.sentences()
        await asyncio.sleep(10)
        assert log.sizes_of() == [2]
        assert not troubles.sentences()

    with_loop(Late(2), story, troubles)


def test_state_takes_keys_in_turns_and_keeps_wakes() -> None:
    store = Store()
    store.apply(1, transaction((), epoch=1, now_ms=1, new_epoch=True))
    state = LoopState(Grow(1))
    state.restart(store)
    assert state.wait_ms(0) is None
    state.mark([f"k{number:03d}" for number in range(150)])
    assert [len(state.take(0)), len(state.take(0)), len(state.take(0))] == [100, 50, 0]
    state.look_again(["a", "b"], 500)
    assert state.wait_ms(100) == 400
    assert state.take(499) == []
    assert sorted(state.take(500)) == ["a", "b"]
    assert state.wait_ms(500) is None


def test_virtual_time_costs_nothing_and_never_hangs() -> None:
    async def sleep_long() -> float:
        before_ms = virtual.now_ms()
        await asyncio.sleep(86_400)
        return virtual.now_ms() - before_ms

    assert virtual.run(sleep_long()) == 86_400_000

    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(virtual.Stuck):
        virtual.run(hang())


def test_plans_of_different_loops_leave_each_other_room() -> None:
    """So that what else the loop has to do is done between them."""
    turns = 0
    planned: list[int] = []

    class Noted(Grow):
        def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
            planned.append(turns)
            return super().plan(view, keys, now_ms, new_id)

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        log, turn = Log(), asyncio.Lock()
        loops = [
            Loop(Noted(0), log.store, log.propose, virtual.now_ms, lambda: "id", None, turn) for _ in range(6)
        ]
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        counting = asyncio.create_task(count())
        for number in range(5):
            await asyncio.sleep(0.01)
            log.apply(transaction([put(f"i{number}")], epoch=1, now_ms=1, actor="user"))
        await asyncio.sleep(0.05)
        for task in (*tasks, counting):
            task.cancel()
        await asyncio.gather(*tasks, counting, return_exceptions=True)

    asyncio.run(main())
    assert len(planned) == 30
    assert len(set(planned)) == 30, "two plans in one turn of the event loop"


@pytest.mark.parametrize(("limit", "pauses"), [(0, True), (1, False)])
def test_who_looks_long_and_finds_nothing_leaves_the_loop_as_much_time(limit: int, pauses: bool) -> None:
    """A new leader's planners look at everything, while all nodes come back."""
    planned_s: list[float] = []

    class Thorough(Grow):
        def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
            planned_s.append(asyncio.get_running_loop().time())
            until_s = time.perf_counter() + (LOOKED_LONG_MS + 1) / 1000
            while time.perf_counter() < until_s:
                pass
            return super().plan(view, keys, now_ms, new_id)

    async def main() -> None:
        log, turn = Log(), asyncio.Lock()
        log.user(put("a"))
        loops = [
            Loop(Thorough(limit), log.store, log.propose, virtual.now_ms, lambda: "id", None, turn)
            for _ in range(2)
        ]
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual.run(main())
    assert (planned_s[1] - planned_s[0] >= LOOKED_LONG_MS / 1000) is pauses


def test_plans_that_take_room_on_nodes_are_carried_out_one_after_the_other() -> None:
    """Each must see what the one before has booked, also while that is on its way through the log."""
    under_way: list[str] = []
    seen: set[int] = set()

    class Placing(Grow):
        places = True

    class Slow(Log):
        async def propose(self, changes: list[store_pb2.Change], actor: str) -> store_pb2.TransactionResult:
            under_way.append(actor)
            seen.add(len(under_way))
            try:
                return await super().propose(changes, actor)
            finally:
                under_way.remove(actor)

    def most(kind: type[Grow]) -> int:
        seen.clear()

        async def main() -> None:
            log, turn, placing = Slow(), asyncio.Lock(), asyncio.Lock()
            loops = [
                Loop(kind(5), log.store, log.propose, virtual.now_ms, lambda: "id", None, turn, placing)
                for _ in range(3)
            ]
            tasks = [asyncio.create_task(loop.run()) for loop in loops]
            await asyncio.sleep(1)
            log.user(put("a"), put("b"))
            await asyncio.sleep(5)
            assert log.sizes_of() == [5, 5]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        virtual.run(main())
        return max(seen)

    assert most(Placing) == 1
    assert most(Grow) > 1
