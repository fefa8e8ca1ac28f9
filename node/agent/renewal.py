"""When a node's certificate is renewed: by the clock on the wall.

Timers stand still while a machine is suspended and know nothing of a clock that is put right; a certificate ends
by the calendar all the same. So the calendar is looked at again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

CHECK_S = 30.0


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def until_due(
    due_ms: int, asked: asyncio.Event, now_ms: Callable[[], int] = wall_ms, check_s: float = CHECK_S
) -> None:
    """Returns when the time `due_ms` has come, at most `check_s` late, or at once when `asked` is set."""
    while (left_ms := due_ms - now_ms()) > 0 and not asked.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(check_s, left_ms / 1000)):
                await asked.wait()


def expired(expires_ms: int, now_ms: int) -> str:
    """What to do about a certificate that is over; empty while it is not."""
    if now_ms < expires_ms:
        return ""
    return (
        "this node's certificate has expired: it was off for too long, or its clock is wrong (look with `date`); "
        "if the clock is right, remove the node on a manager (`swarmpy node rm --force`), then `swarmpy leave "
        "--force` and `swarmpy join` here"
    )
