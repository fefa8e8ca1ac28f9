"""What only a leader knows: how far each peer is, open reads, a pending hand-over.

A Leadership lives for one term at most. Per peer it keeps a Progress:

    PROBE      the peer's log is not known: one append at a time, walk back on refusal
    REPLICATE  optimistic: `next_index` runs ahead of the acknowledgements
    SNAPSHOT   what the peer needs is compacted: heartbeats only until the shell is done

Every append carries a round; an answer to a round proves that the peer still followed
when the round began. Reads and the leader's own right to lead (check-quorum) rest on that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from swarmpy.proto import raft_pb2
from swarmpy.raft.core_log import Entry
from swarmpy.raft.log import TransferFailed

if TYPE_CHECKING:
    from swarmpy.raft.core import Core

PIPELINE_ENTRIES = 128


class PeerState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass
class Progress:
    next_index: int
    heard_ms: int
    match_index: int = 0
    state: PeerState = PeerState.PROBE
    inflight: deque[int] = field(default_factory=deque)  # last index of each append not answered
    sent_ms: int = 0
    sent_commit: int = 0
    acked_round: int = 0
    incarnation: int = 0  # of who answered last


class Leadership:
    def __init__(self, core: Core, first_index: int, now_ms: int) -> None:
        self._core = core
        self.first_index = first_index  # of this leadership's own entries
        self.peers: dict[str, Progress] = {}
        self.transfer_to: str | None = None
        self._transfer_deadline_ms = 0
        self._transfer_sent = False
        self._round = 0
        self._reads: list[tuple[int, int, int]] = []  # (round to be acknowledged, token, index)
        self._reads_early: list[int] = []  # before the first own entry is committed
        self._need_round = True
        self._beat_ms = now_ms
        self._commit_due_ms: int | None = None
        self._now_ms = now_ms
        self.configuration_changed(first_index)

    def configuration_changed(self, next_index: int) -> None:
        """Begin with peers that are new, at `next_index`; forget those that are gone."""
        ids = self._core.configuration.ids - {self._core.node_id}
        for node_id in sorted(ids - self.peers.keys()):
            self.peers[node_id] = Progress(next_index, self._now_ms)
        for node_id in sorted(self.peers.keys() - ids):
            del self.peers[node_id]
        if self.transfer_to is not None and self.transfer_to not in self._core.configuration.voters:
            self.transfer_to = None

    # -- time

    def wake_ms(self) -> int:
        due = self._beat_ms
        if self._commit_due_ms is not None:
            due = min(due, self._commit_due_ms)
        if self.transfer_to is not None:
            due = min(due, self._transfer_deadline_ms)
        return due

    def tick(self, now_ms: int) -> bool:
        """False when this leadership has ended: no majority heard for an election timeout."""
        self._now_ms = now_ms
        if self.transfer_to is not None and now_ms >= self._transfer_deadline_ms:
            self.transfer_to = None
        if now_ms >= self._beat_ms:
            if not self._hears_majority(now_ms):
                return False
            self._need_round = True
        if self._commit_due_ms is not None and now_ms >= self._commit_due_ms:
            self._commit_due_ms = None
            for node_id, peer in self.peers.items():
                if peer.state is PeerState.REPLICATE and peer.sent_commit < self._core.commit:
                    self._send_append(node_id, peer, [], now_ms)
        return True

    def _hears_majority(self, now_ms: int) -> bool:
        core, oldest = self._core, now_ms - self._core.profile.election_max_ms
        heard = sum(
            1 for node_id in core.configuration.voters
            if node_id == core.node_id or self.peers[node_id].heard_ms > oldest
        )  # fmt: skip
        return heard >= core.configuration.quorum

    def majority_heard_ms(self, now_ms: int) -> int:
        """Since when a majority has not been heard from: the age of the last proof of this lead."""
        core = self._core
        heard = (
            now_ms if node_id == core.node_id else self.peers[node_id].heard_ms
            for node_id in core.configuration.voters
        )
        return sorted(heard, reverse=True)[core.configuration.quorum - 1]

    def heard(self, node_id: str, now_ms: int) -> None:
        if peer := self.peers.get(node_id):
            peer.heard_ms = now_ms

    # -- sending

    def flush(self, now_ms: int) -> None:
        """Send what is due; called once for everything that happened since the last time."""
        self._now_ms = now_ms
        core = self._core
        round_begins = self._need_round
        if round_begins:
            self._need_round = False
            self._round += 1
            self._beat_ms = now_ms + core.profile.heartbeat_ms
        for node_id, peer in self.peers.items():
            if not self._replicate(node_id, peer, now_ms) and round_begins:
                self._heartbeat(node_id, peer, now_ms)
        self._settle_reads()
        self._finish_transfer()
        if all(
            peer.state is not PeerState.REPLICATE or peer.sent_commit >= core.commit
            for peer in self.peers.values()
        ):
            self._commit_due_ms = None  # the next entries have said it
        elif self._commit_due_ms is None:
            self._commit_due_ms = now_ms + core.profile.commit_delay_ms

    def _replicate(self, node_id: str, peer: Progress, now_ms: int) -> bool:
        core, sent = self._core, False
        if peer.state is PeerState.SNAPSHOT:
            return False
        if peer.inflight and now_ms - peer.sent_ms >= core.profile.resend_ms:
            self._probe(peer)
        while peer.next_index <= core.log.last_index and self._has_room(peer):
            if core.log.term_at(peer.next_index - 1) is None:
                peer.state = PeerState.SNAPSHOT
                peer.inflight.clear()
                core.out.snapshot_to.append(node_id)
                return sent
            entries = core.log.slice(peer.next_index, core.profile.batch_bytes)
            self._send_append(node_id, peer, entries, now_ms)
            sent = True
        return sent

    def _has_room(self, peer: Progress) -> bool:
        """One append in flight gathers small commands; a backlog is pipelined."""
        if not peer.inflight:
            return True
        if peer.state is PeerState.PROBE or len(peer.inflight) >= self._core.profile.inflight_max:
            return False
        return self._core.log.last_index - peer.next_index >= PIPELINE_ENTRIES

    def _send_append(self, node_id: str, peer: Progress, entries: list[Entry], now_ms: int) -> None:
        core = self._core
        prev = peer.next_index - 1
        append = raft_pb2.Append(
            prev_index=prev, prev_term=core.log.term_at(prev) or 0, commit=core.commit, round=self._round
        )
        for entry in entries:
            append.entries.add(index=entry.index, term=entry.term, kind=entry.kind, data=entry.data)
        if entries:
            last = entries[-1].index
            peer.inflight.append(last)
            peer.sent_ms = now_ms
            if peer.state is PeerState.REPLICATE:
                peer.next_index = last + 1
        peer.sent_commit = core.commit
        core.send(node_id, append=append)

    def _heartbeat(self, node_id: str, peer: Progress, now_ms: int) -> None:
        """Refers to what the peer is known to have, so it is never refused."""
        core = self._core
        term = core.log.term_at(peer.match_index)
        prev = (peer.match_index, term) if term is not None else (0, 0)
        commit = min(core.commit, peer.match_index)
        append = raft_pb2.Append(prev_index=prev[0], prev_term=prev[1], commit=commit, round=self._round)
        core.send(node_id, append=append)

    def _probe(self, peer: Progress) -> None:
        peer.state = PeerState.PROBE
        peer.inflight.clear()
        peer.next_index = peer.match_index + 1

    def peer_reset(self, node_id: str) -> None:
        """What was in flight to this peer is lost."""
        peer = self.peers.get(node_id)
        if peer is not None and peer.state is not PeerState.SNAPSHOT:
            self._probe(peer)

    def snapshot_ended(self, node_id: str) -> None:
        """The shell no longer sends one, done or not."""
        peer = self.peers.get(node_id)
        if peer is not None and peer.state is PeerState.SNAPSHOT:
            self._probe(peer)

    # -- answers

    def saw(self, node_id: str, incarnation: int) -> None:
        """Who answers; a learner that lost its files begins again."""
        peer = self.peers.get(node_id)
        if peer is None or peer.incarnation == incarnation:
            return
        if peer.incarnation and peer.state is not PeerState.SNAPSHOT:
            peer.match_index = 0
            self._probe(peer)
        peer.incarnation = incarnation

    def on_append_response(self, node_id: str, response: raft_pb2.AppendResponse, now_ms: int) -> None:
        peer = self.peers.get(node_id)
        if peer is None:
            return
        self._now_ms = now_ms
        peer.heard_ms = now_ms
        peer.acked_round = max(peer.acked_round, response.round)
        if not response.success:
            self._walk_back(peer, response)
            return
        if response.match_index > self._core.log.last_index:
            return  # impossible from an honest peer: do not count what was never sent
        while peer.inflight and peer.inflight[0] <= response.match_index:
            peer.inflight.popleft()
        if response.match_index > peer.match_index:
            peer.match_index = response.match_index
            self.advance_commit()
        if peer.state is PeerState.SNAPSHOT:
            return
        peer.next_index = max(peer.next_index, peer.match_index + 1)
        if peer.state is PeerState.PROBE and peer.match_index >= peer.next_index - 1:
            peer.state = PeerState.REPLICATE
            peer.inflight.clear()

    def _walk_back(self, peer: Progress, response: raft_pb2.AppendResponse) -> None:
        if peer.state is PeerState.SNAPSHOT or response.rejected_index <= peer.match_index:
            return
        if peer.state is PeerState.PROBE and response.rejected_index != peer.next_index - 1:
            return
        hint = self._core.log.conflict_hint(response.hint_index, response.hint_term)
        self._probe(peer)
        peer.next_index = max(peer.match_index, min(hint, response.rejected_index - 1)) + 1

    def advance_commit(self) -> None:
        """Committed: on the disks of a majority, and of this term (thesis 3.6.2)."""
        core = self._core
        voters = core.configuration.voters
        have = sorted(
            (
                core.stable if node_id == core.node_id else self.peers[node_id].match_index
                for node_id in voters
            ),
            reverse=True,
        )
        index = have[core.configuration.quorum - 1]
        if index <= core.commit or core.log.term_at(index) != core.term:
            return
        core.commit = index
        self._start_early_reads()
        configuration = core.configuration
        if configuration.index <= index and core.node_id not in configuration.voters:
            self._leave()

    def _leave(self) -> None:
        """This leader's own removal is committed."""
        core = self._core
        voters = sorted(core.configuration.voters, key=lambda id_: (-self.peers[id_].match_index, id_))
        for node_id, peer in self.peers.items():
            self._send_append(node_id, peer, [], self._now_ms)
        core.send(voters[0], timeout_now=raft_pb2.TimeoutNow())
        core.out.removed = True
        core.resign(self._now_ms)

    # -- reads

    def read(self, token: int) -> None:
        if self._core.commit < self.first_index:
            self._reads_early.append(token)
        else:
            self._reads.append((self._round + 1, token, self._core.commit))
            self._need_round = True

    def _start_early_reads(self) -> None:
        if self._reads_early and self._core.commit >= self.first_index:
            early, self._reads_early = self._reads_early, []
            for token in early:
                self.read(token)

    def _settle_reads(self) -> None:
        if not self._reads:
            return
        core = self._core
        rounds = sorted(
            (self._round if node_id == core.node_id else self.peers[node_id].acked_round
             for node_id in core.configuration.voters),
            reverse=True,
        )  # fmt: skip
        proved = rounds[core.configuration.quorum - 1]
        core.out.reads += [(token, index) for round_, token, index in self._reads if round_ <= proved]
        self._reads = [read for read in self._reads if read[0] > proved]

    # -- hand-over

    def begin_transfer(self, to: str | None, now_ms: int) -> str:
        core = self._core
        others = sorted(core.configuration.voters - {core.node_id})
        if not others:
            raise TransferFailed("this is the only manager with a vote: there is nobody to hand the lead to")
        if to is None:
            to = max(others, key=lambda node_id: self._fitness(node_id, now_ms))
        if to not in others:
            raise TransferFailed(f"{to} is not a manager with a vote: the lead stays with {core.node_id}")
        if self.transfer_to != to:
            self._transfer_sent = False
        self.transfer_to = to
        self._transfer_deadline_ms = now_ms + core.profile.election_max_ms
        return to

    def _fitness(self, node_id: str, now_ms: int) -> tuple[bool, int]:
        peer = self.peers[node_id]
        return peer.heard_ms > now_ms - self._core.profile.election_min_ms, peer.match_index

    def _finish_transfer(self) -> None:
        if self.transfer_to is None or self._transfer_sent:
            return
        if self.peers[self.transfer_to].match_index == self._core.log.last_index:
            self._transfer_sent = True
            self._core.send(self.transfer_to, timeout_now=raft_pb2.TimeoutNow())
