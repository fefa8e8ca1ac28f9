"""The one place where a state machine's error becomes an answer.

The command is committed and every member raises the same error at the same entry, so it
is a result, not a failure of this member. Running out of memory or of stack is this
member's own and stays fatal; so does a version that is too old for the state (raft/levels).
"""

from __future__ import annotations

import logging

from swarmpy.raft.levels import StateTooNew
from swarmpy.raft.log import Applied, ApplyFailed, StateMachine

log = logging.getLogger(__name__)


def guarded(machine: StateMachine, index: int, command: bytes) -> Applied | ApplyFailed:
    try:
        return Applied(index, machine.apply(index, command))
    except (MemoryError, RecursionError, StateTooNew):
        raise
    except Exception as error:
        log.exception("state machine raised index=%s", index)
        return ApplyFailed(index, f"{type(error).__name__}: {error}")
