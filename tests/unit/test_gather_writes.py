"""The gate in front of the log: who waits for whom."""

from __future__ import annotations

import asyncio

from swarmpy.node.manager.gather import FEW, MANY, Gather


def test_few_writes_do_not_wait() -> None:
    async def main() -> None:
        gather = Gather()
        for _ in range(MANY):
            waiting = gather.together()
            try:
                waiting.send(None)
            except StopIteration:
                continue
            raise AssertionError("it waited")

    asyncio.run(main())


def test_many_go_on_in_one_turn_and_one_that_gives_up_holds_nobody() -> None:
    async def main() -> None:
        gather, turn, turns = Gather(many_within_s=60), 0, []

        async def count() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        async def write() -> None:
            await gather.together()
            turns.append(turn)

        for _ in range(MANY):
            await gather.together()
        counting = asyncio.create_task(count())
        first, *others = [asyncio.create_task(write()) for _ in range(5)]
        await asyncio.sleep(0)
        assert not turns
        first.cancel()
        await asyncio.gather(*others)
        counting.cancel()
        assert first.cancelled()
        assert len(turns) == 4
        assert len(set(turns)) == 1

    asyncio.run(main())


def test_where_few_came_together_the_next_do_not_wait() -> None:
    async def main(together: int) -> bool:
        """Whether somebody waits after so many waited together."""
        gather = Gather(many_within_s=60)
        for _ in range(MANY):
            await gather.together()
        await asyncio.gather(*(gather.together() for _ in range(together)))
        waiting = gather.together()
        try:
            waiting.send(None)
        except StopIteration:
            return False
        waiting.close()
        return True

    assert not asyncio.run(main(1))
    assert not asyncio.run(main(FEW - 1))
    assert asyncio.run(main(FEW))
