"""The DNS process goes before others while it needs little: everybody's first packet waits for its answer.

On a machine whose processors are all busy a question otherwise waits for its turn, tens of milliseconds; a nice value
of -10 did not help, a real-time policy does. A process of that kind could also keep everybody else from working, and
whoever asks decides how much it has to do: so it is one of many again for as long as it uses more than SHARE_MAX of a
processor. Where the machine does not allow it, nothing changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

log = logging.getLogger(__name__)
PERIOD_S = 1.0
SHARE_MAX, SHARE_AGAIN = 0.5, 0.25
PRIORITY = 1  # below everything that asks for a real-time policy on purpose


def goes_first(share: float, *, before: bool) -> bool:
    """Whether it may go first, given its part of one processor lately and whether it did so before."""
    return share < (SHARE_MAX if before else SHARE_AGAIN)


def set_policy(*, first: bool) -> None:
    """Of the calling thread. Raises OSError."""
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK if first else os.SCHED_OTHER
    os.sched_setscheduler(0, policy, os.sched_param(PRIORITY if first else 0))


async def keep(period_s: float = PERIOD_S) -> None:
    """Until cancelled."""
    first, cpu_s, at_s = False, time.process_time(), time.monotonic()
    while True:
        await asyncio.sleep(period_s)
        cpu_before_s, before_s, cpu_s, at_s = cpu_s, at_s, time.process_time(), time.monotonic()
        wanted = goes_first((cpu_s - cpu_before_s) / (at_s - before_s), before=first)
        if wanted == first:
            continue
        try:
            set_policy(first=wanted)
        except OSError as error:
            log.info("dns waits its turn like others error=%s", error)
            return
        log.info("dns goes first=%s", wanted)
        first = wanted
