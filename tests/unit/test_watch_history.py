"""Watches over a store's history: order, uniqueness, transactions whole, resuming, falling behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from swarmpy.node.manager.errors import Gone, Invalid, NotLeading
from swarmpy.node.manager.history import History
from swarmpy.node.manager.watch import Watch
from swarmpy.proto import control_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Draft, Store

from tests.store_world import World, network, service, task

SYNC, PROGRESS = control_pb2.EVENT_SYNC, control_pb2.EVENT_PROGRESS
CREATE, UPDATE, DELETE = control_pb2.EVENT_CREATE, control_pb2.EVENT_UPDATE, control_pb2.EVENT_DELETE
KINDS = [store_pb2.KIND_SERVICE, store_pb2.KIND_TASK, store_pb2.KIND_NETWORK]


def identity(event: control_pb2.Event) -> str:
    kind = event.object.WhichOneof("kind")
    return str(getattr(event.object, kind).meta.id) if kind else ""


def shown(events: list[control_pb2.Event]) -> list[tuple[int, int, str]]:
    return [(event.index, event.action, identity(event)) for event in events]


def watching(world: World, history: History, **request: Any) -> AsyncIterator[control_pb2.Event]:
    request.setdefault("kinds", KINDS)
    watch = Watch(world.store, history, control_pb2.WatchRequest(**request), lambda: world.now_ms)
    return watch.events()


async def until(events: AsyncIterator[control_pb2.Event], action: int) -> list[control_pb2.Event]:
    """Events up to and without the first with that action."""
    found: list[control_pb2.Event] = []
    async with asyncio.timeout(5):
        async for event in events:
            if event.action == action:
                return found
            found.append(event)
    raise AssertionError("the watch ended")


async def some(events: AsyncIterator[control_pb2.Event], number: int) -> list[control_pb2.Event]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(number)]


def run(test: Callable[[World, History], Awaitable[None]], **limits: int) -> None:
    async def main() -> None:
        world = World()
        await test(world, History(world.store, **limits))

    asyncio.run(main())


def test_a_list_and_then_every_change_once_and_in_order() -> None:
    async def test(world: World, history: History) -> None:
        world.put(network("a"), network("b"))
        events = watching(world, history, initial_list=True)
        listed = await until(events, SYNC)
        assert [(e.action, identity(e)) for e in listed] == [(CREATE, "a"), (CREATE, "b")]
        world.put(network("c"))
        changed = network("c", subnet="10.1.0.0/16")
        world.put(changed)
        world.delete(store_pb2.KIND_NETWORK, "a")
        index = world.index
        assert shown(await some(events, 3)) == [
            (index - 2, CREATE, "c"), (index - 1, UPDATE, "c"), (index, DELETE, "a"),
        ]  # fmt: skip

    run(test)


def test_the_list_is_of_one_moment_and_nothing_between_list_and_changes_is_lost() -> None:
    async def test(world: World, history: History) -> None:
        owner = service("s")
        world.put(network("a"), owner)
        events = watching(world, history, initial_list=True)
        first = await some(events, 1)
        world.put(network("b"), task("t", owner))
        rest = await until(events, SYNC)
        assert {identity(e) for e in first + rest} == {"a", "s"}
        assert {identity(e) for e in await some(events, 2)} == {"b", "t"}

    run(test)


def test_the_events_of_a_transaction_follow_each_other_and_the_last_says_so() -> None:
    async def test(world: World, history: History) -> None:
        events = watching(world, history, kinds=[store_pb2.KIND_NETWORK])
        await until(events, SYNC)
        world.put(network("a"), network("b"), service("s"))
        world.put(network("c"))
        found = await some(events, 3)
        assert [(identity(e), e.last_of_index) for e in found] == [("a", False), ("b", True), ("c", True)]
        assert found[0].index == found[1].index

    run(test)


@pytest.mark.parametrize("cut", range(12))
def test_resumed_at_any_index_it_shows_exactly_what_came_after(cut: int) -> None:
    async def test(world: World, history: History) -> None:
        for number in range(12):
            world.put(network(f"n{number}"), network(f"m{number}"))
        start = world.index - 12 + cut
        events = watching(world, history, after_index=start)
        found = await until(events, SYNC)
        assert [identity(e) for e in found] == [x for n in range(cut, 12) for x in (f"n{n}", f"m{n}")]
        world.put(network("live"))
        assert [identity(e) for e in await some(events, 1)] == ["live"]

    run(test)


def test_a_second_replica_continues_where_the_first_stopped() -> None:
    """Failover: what the first manager had not delivered comes from the second, nothing twice."""

    async def test(world: World, history: History) -> None:
        second = Store()
        other = History(second)
        commands: list[bytes] = []
        apply = world.store.apply
        world.store.apply = lambda index, command: (  # type: ignore[method-assign]
            commands.append(command), second.apply(index, command), apply(index, command),
        )[2]  # fmt: skip
        second.apply(1, store_pb2.Transaction(epoch=1, new_epoch=True).SerializeToString())
        events = watching(world, history)
        await until(events, SYNC)
        for number in range(6):
            world.put(network(f"n{number}"))
        seen = await some(events, 3)
        resumed = Watch(
            second, other, control_pb2.WatchRequest(kinds=KINDS, after_index=seen[-1].index), lambda: 0
        ).events()
        seen += await until(resumed, SYNC)
        assert [identity(e) for e in seen] == [f"n{n}" for n in range(6)]
        assert len(commands) == 6

    run(test)


def test_what_is_no_longer_kept_is_refused_and_not_skipped() -> None:
    async def test(world: World, history: History) -> None:
        for number in range(20):
            world.put(network(f"n{number}"))
        assert len(history) == 8
        with pytest.raises(Gone, match="list again"):
            await anext(watching(world, history, after_index=world.index - 9))
        found = await until(watching(world, history, after_index=world.index - 8), SYNC)
        assert [identity(e) for e in found] == [f"n{n}" for n in range(12, 20)]
        with pytest.raises(Gone, match="future"):
            await anext(watching(world, history, after_index=world.index + 1))

    run(test, events_max=8)


def test_bytes_are_bounded_too() -> None:
    async def test(world: World, history: History) -> None:
        for number in range(50):
            item = network(f"n{number}")
            item.meta.labels["x"] = "y" * 1000
            world.put(item)
        assert 5 < len(history) < 10

    run(test, bytes_max=10_000)


def test_a_reader_that_falls_behind_is_told() -> None:
    async def test(world: World, history: History) -> None:
        events = watching(world, history)
        await until(events, SYNC)
        for number in range(5):
            world.put(network(f"n{number}"))
        assert len(await some(events, 2)) == 2
        for number in range(5, 30):
            world.put(network(f"n{number}"))
        with pytest.raises(Gone, match="fell behind"):
            await some(events, 20)

    run(test, events_max=10)


def test_a_snapshot_in_place_of_commits_ends_it() -> None:
    async def test(world: World, history: History) -> None:
        world.put(network("a"))
        events = watching(world, history)
        await until(events, SYNC)
        world.store.restore(list(world.store.snapshot()))
        with pytest.raises(Gone):
            await some(events, 1)
        assert history.floor == world.index

    run(test)


def test_a_filter_is_a_window() -> None:
    async def test(world: World, history: History) -> None:
        mine, other = service("mine"), service("other")
        filters = [control_pb2.Filter(key="service", value="mine")]
        events = watching(world, history, kinds=KINDS[:2], filters=filters)
        await until(events, SYNC)
        world.put(mine, other)
        world.put(task("t1", mine), task("t2", other))
        world.delete(store_pb2.KIND_TASK, "t1")
        assert [(e.action, identity(e), e.last_of_index) for e in await some(events, 3)] == [
            (CREATE, "mine", True), (CREATE, "t1", True), (DELETE, "t1", True),
        ]  # fmt: skip
        running = [control_pb2.Filter(key="state", value="running")]
        states = watching(world, history, kinds=[store_pb2.KIND_TASK], filters=running)
        await until(states, SYNC)
        for state in (types_pb2.TASK_RUNNING, types_pb2.TASK_FAILED):
            world.put(task("t2", other, state=state))
        assert [(e.action, identity(e)) for e in await some(states, 2)] == [(CREATE, "t2"), (DELETE, "t2")]

    run(test)


def test_a_filter_that_fits_no_such_kind_is_refused_at_once() -> None:
    async def test(world: World, history: History) -> None:
        filters = [control_pb2.Filter(key="service", value="x")]
        with pytest.raises(Invalid, match="network"):
            watching(world, history, filters=filters)

    run(test)


def test_silence_is_told_from_death() -> None:
    async def test(world: World, history: History) -> None:
        events = watching(world, history, progress_ms=100)
        await until(events, SYNC)
        assert [e.index for e in await some(events, 2)] == [world.index] * 2
        world.put(network("a"))
        found = await until(events, PROGRESS)
        assert [identity(e) for e in found] == ["a"]

    run(test)


def test_an_end_from_outside_comes_after_what_was_committed() -> None:
    async def test(world: World, history: History) -> None:
        request = control_pb2.WatchRequest(kinds=KINDS)
        watch = Watch(world.store, history, request, lambda: 0)
        events = watch.events()
        await until(events, SYNC)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        world.put(network("a"))
        watch.end(NotLeading("the lead moved"))
        async with asyncio.timeout(5):
            assert identity(await waiting) == "a"
            with pytest.raises(NotLeading, match="the lead moved"):
                await anext(events)

    run(test)


def test_waiting_for_an_index() -> None:
    async def test(world: World, history: History) -> None:
        waiting = asyncio.ensure_future(history.reached(world.index + 1, 5))
        await asyncio.sleep(0)
        assert not waiting.done()
        draft = Draft(world.store)
        draft.put(network("a"))
        world.write(draft)
        await waiting
        with pytest.raises(NotLeading, match="has not reached"):
            await history.reached(world.index + 1, 0.01)

    run(test)
