"""What chaos found about watches: a mark of progress may not run ahead of the changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from swarmpy.node.manager.history import History
from swarmpy.node.manager.watch import PROGRESS_MS_MIN, Watch
from swarmpy.proto import control_pb2, store_pb2

from tests import virtual
from tests.store_world import World, service

PROGRESS = control_pb2.EVENT_PROGRESS


def test_a_change_at_the_very_moment_of_a_mark_comes_after_it_and_above_it() -> None:
    async def main() -> list[control_pb2.Event]:
        world = World()
        history = History(world.store)
        request = control_pb2.WatchRequest(kinds=[store_pb2.KIND_SERVICE], progress_ms=PROGRESS_MS_MIN)
        watch = Watch(world.store, history, request, lambda: world.now_ms)
        events: AsyncIterator[control_pb2.Event] = watch.events()
        seen = [await anext(events)]
        following = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(PROGRESS_MS_MIN / 1000, world.put, service("web"))
        seen.append(await following)
        seen += [await anext(events) for _ in range(2)]
        await events.aclose()  # type: ignore[attr-defined]
        return seen

    seen = virtual.run(main())
    assert PROGRESS in [event.action for event in seen[1:]]
    indexes = [event.index for event in seen]
    assert indexes == sorted(indexes)
    for number, event in enumerate(seen):
        later = [other.index for other in seen[number + 1 :] if other.action != PROGRESS]
        assert event.action != PROGRESS or all(index > event.index for index in later)
