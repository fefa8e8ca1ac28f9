"""The port of the replicated log: what the rest of swarmpy may know about consensus.

A command is bytes; it is proposed to the leader, made durable on a majority, and
then applied by every member's state machine in the same order. Errors:

    LogError
    ├── NotLeader          definitely not applied; ask `leader_id` ("" = unknown)
    ├── OutcomeUnknown     may or may not be applied; retry with the same request id
    ├── ApplyFailed        committed, and the state machine raised on every member
    ├── Overloaded         refused: too many commands in flight
    ├── TooLarge           refused: longer than COMMAND_BYTES_MAX
    ├── MembershipBusy     another membership change is not finished
    ├── MembershipRefused  the change can never work as asked
    ├── TransferFailed     leadership stays where it was
    ├── DiskFull           refused: no room on this member's disk; it takes part again when there is
    ├── LogClosed          this member has stopped
    ├── OtherVersion       files on disk are whole and of a version with another format: not to be set aside
    ├── StateTooNew        (raft/levels) the state is of a newer version of swarmpy: nothing is touched
    └── LogDamaged         files on disk cannot be trusted; says which and what to do
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

COMMAND_BYTES_MAX = 2 * 1024 * 1024


class LogError(Exception):
    """Anything the log refuses or cannot say."""


class NotLeader(LogError):
    def __init__(self, leader_id: str = "") -> None:
        self.leader_id = leader_id
        hint = f"the leader is {leader_id}" if leader_id else "no leader is known, try again shortly"
        super().__init__(f"this manager does not lead: {hint}")


class OutcomeUnknown(LogError):
    def __init__(self, index: int, reason: str = "no answer in time") -> None:
        self.index = index
        super().__init__(
            f"the command at log index {index} may or may not take effect ({reason}): "
            "retry with the same request id"
        )


class ApplyFailed(LogError):
    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        super().__init__(f"the state machine refused the command at log index {index}: {reason}")


class Overloaded(LogError):
    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} commands are waiting to be committed: retry later")


class TooLarge(LogError):
    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"command of {size_bytes} bytes: the limit is {COMMAND_BYTES_MAX}, split it")


class MembershipBusy(LogError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: retry when it is finished")


class MembershipRefused(LogError):
    pass


class TransferFailed(LogError):
    pass


class DiskFull(LogError):
    def __init__(self, directory: str) -> None:
        super().__init__(
            f"the disk of {directory} is full: free some space, this manager then goes on by itself"
        )


class LogClosed(LogError):
    def __init__(self, reason: str = "stopped") -> None:
        super().__init__(f"this manager's log is closed: {reason}")


class LogDamaged(LogError):
    pass


class OtherVersion(LogError):
    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}: another version of swarmpy wrote it, and nothing was touched; "
            "start this manager with the version that the other managers run"
        )


@dataclass(frozen=True)
class Applied:
    """A committed command: its place in the log and the state machine's answer."""

    index: int
    result: bytes


@dataclass(frozen=True)
class MemberInfo:
    node_id: str
    address: str
    learner: bool
    reachable: bool
    match_index: int  # known to the leader only; 0 elsewhere


@dataclass(frozen=True)
class Status:
    node_id: str
    leader_id: str | None
    is_leader: bool
    term: int
    commit_index: int
    applied_index: int
    members: tuple[MemberInfo, ...]


class StateMachine(Protocol):
    """Deterministic: the same commands give the same state and answers everywhere."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply one command; an exception becomes ApplyFailed at the proposer."""

    def snapshot(self) -> Iterator[bytes]:
        """The state at the moment of the call; the chunks are drawn by a thread."""

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Replace the state by a snapshot's."""


@runtime_checkable
class PreparedRestore(Protocol):
    """A state machine whose `restore` another thread may do, but for its end."""

    def prepare(self, chunks: Iterator[bytes]) -> Callable[[], Callable[[], None]]:
        """Read a snapshot and touch nothing; what it gives replaces the state.

        That in turn gives what lets go of the former state, which another thread may do, too.
        """


class Log(Protocol):
    """What managers use; RaftNode implements it."""

    async def propose(self, command: bytes, *, timeout: float = 5) -> Applied: ...
    async def read_barrier(self, timeout: float = 2) -> int: ...
    async def add_member(self, node_id: str, address: str) -> None: ...
    async def remove_member(self, node_id: str) -> None: ...
    async def transfer_leadership(self, to: str | None = None) -> str: ...
    def status(self) -> Status: ...
