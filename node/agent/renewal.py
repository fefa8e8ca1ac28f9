"""When a node's certificate is renewed: by the clock on the wall.

Timers stand still while a machine is suspended and know nothing of a clock that is put right; a certificate ends
by the calendar all the same. So the calendar is looked at again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from swarmpy.node.ca.identity import Identity
from swarmpy.proto import dispatcher_pb2

CHECK_S = 30.0
SPREAD_NODE_S, SPREAD_MAX_S = 0.02, 30.0


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


def is_behind(mine: Identity, node: dispatcher_pb2.NodeConfig | None) -> bool:
    """Whether the managers want the node's certificate to be from another root, or it to trust another one."""
    if node is None:
        return False
    return bool(node.issuer and node.issuer != mine.issuer) or bool(
        node.trusts and node.trusts != mine.trusts
    )


def is_worse(fresh: Identity, mine: Identity, node: dispatcher_pb2.NodeConfig | None) -> bool:
    """Whether a renewal would take back what was reached: from a manager whose state lags behind."""
    return node is not None and (
        mine.issuer == node.issuer != fresh.issuer or mine.trusts == node.trusts != fresh.trusts
    )


def spread_s(nodes: int) -> float:
    """Over how long the nodes of a cluster spread their requests when all are told at once."""
    return min(nodes * SPREAD_NODE_S, SPREAD_MAX_S)


def expired(expires_ms: int, now_ms: int) -> str:
    """What to do about a certificate that is over; empty while it is not."""
    if now_ms < expires_ms:
        return ""
    return (
        "this node's certificate has expired: it was off for too long, or its clock is wrong (look with `date`); "
        "if the clock is right, remove the node on a manager (`swarmpy node rm --force`), then `swarmpy leave "
        "--force` and `swarmpy join` here"
    )
