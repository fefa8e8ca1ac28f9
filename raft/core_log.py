"""Values of the protocol core: entries, configurations, the log in memory, timing.

The log is a suffix: everything up to `base_index` is in a snapshot. Configurations
are entries of the log; the latest one counts from the moment it is appended, and a
truncation brings the one before it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from swarmpy.proto import raft_pb2

NOOP = int(raft_pb2.ENTRY_NOOP)
COMMAND = int(raft_pb2.ENTRY_COMMAND)
CONFIGURATION = int(raft_pb2.ENTRY_CONFIGURATION)
ENTRY_OVERHEAD_BYTES = 32
REMOVED_KEPT = 256


@dataclass(frozen=True)
class Profile:
    """Timing of the protocol. A follower waits a random time between the election bounds."""

    heartbeat_ms: int
    election_min_ms: int
    election_max_ms: int
    commit_delay_ms: int = 10  # an idle log tells followers of a commit this late
    batch_bytes: int = 256 * 1024
    inflight_max: int = 8
    silence_ms: int = 3000  # a connection on which nothing is acknowledged for so long is given up

    @property
    def resend_ms(self) -> int:
        return 4 * self.heartbeat_ms


LAN = Profile(heartbeat_ms=100, election_min_ms=500, election_max_ms=1000)
WAN = Profile(
    heartbeat_ms=500, election_min_ms=2500, election_max_ms=5000, commit_delay_ms=50, silence_ms=7500
)


class Entry(NamedTuple):
    index: int  # type: ignore[assignment]  # not tuple.index: log positions are called that everywhere
    term: int
    kind: int
    data: bytes


class Member(NamedTuple):
    node_id: str
    address: str
    learner: bool = False
    incarnation: int = 0  # 0 = not known yet, stands for any

    def is_incarnation(self, incarnation: int) -> bool:
        return self.incarnation in (0, incarnation)


@dataclass(frozen=True)
class Configuration:
    """Who takes part, from log index `index` on."""

    index: int
    members: tuple[Member, ...] = ()
    removed: tuple[str, ...] = ()
    generation: int = 0  # forced recoveries so far, see raft/recover.py

    @cached_property
    def voters(self) -> frozenset[str]:
        return frozenset(member.node_id for member in self.members if not member.learner)

    @cached_property
    def ids(self) -> frozenset[str]:
        return frozenset(member.node_id for member in self.members)

    @property
    def quorum(self) -> int:
        return len(self.voters) // 2 + 1

    def member(self, node_id: str) -> Member | None:
        return next((member for member in self.members if member.node_id == node_id), None)

    def with_member(self, new: Member) -> Configuration:
        others = tuple(member for member in self.members if member.node_id != new.node_id)
        removed = tuple(node_id for node_id in self.removed if node_id != new.node_id)
        return Configuration(0, (*others, new), removed, self.generation)

    def without(self, node_id: str) -> Configuration:
        others = tuple(member for member in self.members if member.node_id != node_id)
        return Configuration(0, others, (*self.removed, node_id)[-REMOVED_KEPT:], self.generation)

    def to_message(self) -> raft_pb2.Configuration:
        members = [
            raft_pb2.Member(
                node_id=m.node_id, address=m.address, learner=m.learner, incarnation=m.incarnation
            )
            for m in self.members
        ]
        return raft_pb2.Configuration(members=members, removed=self.removed, generation=self.generation)

    @classmethod
    def from_message(cls, index: int, message: raft_pb2.Configuration) -> Configuration:
        members = tuple(Member(m.node_id, m.address, m.learner, m.incarnation) for m in message.members)
        return cls(index, members, tuple(message.removed), message.generation)


class Log:
    """Entries after (base_index, base_term), and the configurations that hold along it."""

    def __init__(
        self,
        base_index: int = 0,
        base_term: int = 0,
        entries: Sequence[Entry] = (),
        base_configuration: Configuration | None = None,
    ) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self._entries: list[Entry] = []
        self.configurations: list[Configuration] = [base_configuration or Configuration(0)]
        self.bytes = 0
        for entry in entries:
            self.append(entry)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.base_term

    @property
    def configuration(self) -> Configuration:
        return self.configurations[-1]

    def configuration_at(self, index: int) -> Configuration:
        return next((c for c in reversed(self.configurations) if c.index <= index), self.configurations[0])

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None where it is not known (compacted or not there)."""
        if index == self.base_index:
            return self.base_term
        offset = index - self.base_index - 1
        return self._entries[offset].term if 0 <= offset < len(self._entries) else None

    def entry(self, index: int) -> Entry:
        assert index > self.base_index
        return self._entries[index - self.base_index - 1]

    def append(self, entry: Entry) -> None:
        assert entry.index == self.last_index + 1, (entry.index, self.last_index)
        self._entries.append(entry)
        self.bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES
        if entry.kind == CONFIGURATION and entry.index > self.configurations[-1].index:
            message = raft_pb2.Configuration.FromString(entry.data)
            self.configurations.append(Configuration.from_message(entry.index, message))

    def truncate(self, index: int) -> None:
        """Drop `index` and everything after it."""
        assert index > self.base_index
        offset = index - self.base_index - 1
        self.bytes -= sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in self._entries[offset:])
        del self._entries[offset:]
        while len(self.configurations) > 1 and self.configurations[-1].index >= index:
            self.configurations.pop()

    def compact(self, index: int) -> None:
        """Forget entries up to and including `index`; a snapshot has them."""
        if index <= self.base_index:
            return
        term = self.term_at(index)
        assert term is not None
        count = index - self.base_index
        self.bytes -= sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in self._entries[:count])
        del self._entries[:count]
        self.base_index, self.base_term = index, term
        while len(self.configurations) > 1 and self.configurations[1].index <= index:
            del self.configurations[0]

    def reset(self, index: int, term: int, configuration: Configuration) -> None:
        """Start again after a snapshot from elsewhere."""
        self.base_index, self.base_term, self._entries, self.bytes = index, term, [], 0
        self.configurations = [configuration]

    def slice(self, first: int, bytes_max: int) -> list[Entry]:
        """Entries from `first`, at least one if there is one, about `bytes_max` of data."""
        out: list[Entry] = []
        size = 0
        for offset in range(first - self.base_index - 1, len(self._entries)):
            entry = self._entries[offset]
            size += len(entry.data) + ENTRY_OVERHEAD_BYTES
            if out and size > bytes_max:
                break
            out.append(entry)
        return out

    def trail(self, index: int, entries_max: int, bytes_max: int) -> int:
        """Up to where to compact so that at most this much stays in front of `index`."""
        size, first = 0, max(self.base_index, index - entries_max)
        while index > first:
            size += len(self.entry(index).data) + ENTRY_OVERHEAD_BYTES
            if size > bytes_max:
                break
            index -= 1
        return index

    def conflict_hint(self, index: int, term: int) -> int:
        """The largest index up to `index` whose term is at most `term`."""
        index = min(index, self.last_index)
        while index > self.base_index and (self.term_at(index) or 0) > term:
            index -= 1
        return index
