"""A certificate is renewed when the calendar says so, whatever timers know of it."""

from __future__ import annotations

import asyncio

from swarmpy.node.agent import renewal

DAY_MS = 86_400_000


def test_a_clock_that_jumps_is_noticed() -> None:
    clock = iter([0, 0, 0, 25 * DAY_MS])

    async def main() -> None:
        async with asyncio.timeout(20):
            await renewal.until_due(20 * DAY_MS, asyncio.Event(), lambda: next(clock), check_s=0.01)

    asyncio.run(main())
    assert next(clock, None) is None


def test_being_asked_ends_the_wait() -> None:
    async def main() -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, asked.set)
        async with asyncio.timeout(20):
            await renewal.until_due(DAY_MS, asked, lambda: 0)

    asyncio.run(main())


def test_what_is_due_is_not_waited_for() -> None:
    asyncio.run(renewal.until_due(5, asyncio.Event(), lambda: 5, check_s=1e9))


def test_an_expired_certificate_is_explained_and_a_good_one_is_not() -> None:
    assert renewal.expired(10, 9) == ""
    assert "leave --force" in renewal.expired(10, 10)
