"""The DNS process goes first while it needs little, and not when it is kept busy."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from swarmpy.overlay import precedence


def may_go_first() -> bool:
    allowed: list[bool] = []

    def look() -> None:
        try:
            precedence.set_policy(first=True)
        except OSError:
            allowed.append(False)
        else:
            allowed.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return allowed[0]


def test_it_takes_more_to_come_back_than_to_stay() -> None:
    assert precedence.goes_first(0.0, before=False)
    assert not precedence.goes_first(0.4, before=False)
    assert precedence.goes_first(0.4, before=True)
    assert not precedence.goes_first(0.6, before=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not may_go_first(), reason="needs CAP_SYS_NICE")
def test_a_flood_takes_its_precedence_away_until_it_is_over() -> None:
    async def story() -> None:
        def first() -> bool:
            return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR

        async def until(wanted: bool) -> None:
            async with asyncio.timeout(30):
                while first() != wanted:
                    if not wanted:
                        end = time.thread_time() + 0.02
                        while time.thread_time() < end:
                            pass
                    await asyncio.sleep(0 if not wanted else 0.05)

        keeper = asyncio.ensure_future(precedence.keep(0.2))
        try:
            for wanted in (True, False, True):
                await until(wanted)
        finally:
            keeper.cancel()

    thread = threading.Thread(target=lambda: results.append(asyncio.run(story())))
    results: list[None] = []
    thread.start()  # the policy is a thread's: this one's ends with it
    thread.join()
    assert results == [None]
