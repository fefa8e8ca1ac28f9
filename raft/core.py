"""The consensus protocol as a pure machine: messages and time in, values out.

Raft with pre-vote, check-quorum, sticky leaders, leadership transfer, ReadIndex and
one membership change at a time. Nothing here waits, reads a clock or touches a disk:

    step(message) tick() propose() …  ->  state changes, collected in an Output
    take()                            ->  the Output, to be carried out by the shell
    persisted(…)                      <-  the shell: that Output is on disk

The rules of durability. `Output.messages` may leave at once. `Output.held` may leave
only when everything handed out up to and with this Output (term, vote, entries) is on
disk: votes and acknowledgements are promises. A leader counts its own copy of an entry,
and a candidate its own vote, only when `persisted` has said so. An entry is truncated
only where the leader's log conflicts with it, never below the commit index.

Theory: Ongaro's thesis, chapters 3, 4, 6 and 9.6. A voter refuses to vote while it
hears from a leader (stickiness) except when that leader asked for the election, and
forgets the leader at once when the connection to it breaks: that makes fail-over after
a killed process a matter of milliseconds while a returning node disturbs nobody.

Who a member is, is its node id and its incarnation: one that lost its files is another
one, which never voted and holds nothing. It does not hear what is meant for the old one,
and counts only once a configuration names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from swarmpy.proto import raft_pb2
from swarmpy.raft.core_leader import Leadership
from swarmpy.raft.core_log import COMMAND, CONFIGURATION, NOOP, Configuration, Entry, Log, Member, Profile
from swarmpy.raft.log import MembershipBusy, MembershipRefused, NotLeader

RELUCTANT_ELECTIONS = 3


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Reluctance(Enum):
    """How little this member wants to lead; the only voter leads all the same."""

    NONE = "none"
    LAST = "only when nobody else does"
    NEVER = "never"


@dataclass
class Output:
    """What the shell has to do, in this order: persist, then send `held`; the rest at any time."""

    hard_state: tuple[int, str] | None = None
    entries: list[Entry] = field(default_factory=list)  # an index again replaces it and all after it
    messages: list[raft_pb2.RaftMessage] = field(default_factory=list)
    held: list[raft_pb2.RaftMessage] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)  # (token, index to have applied)
    chunks: list[raft_pb2.RaftMessage] = field(default_factory=list)  # received pieces of a snapshot
    snapshot_to: list[str] = field(default_factory=list)
    truncated_from: int | None = None  # proposals from here on are lost for certain
    removed: bool = False

    @property
    def must_persist(self) -> bool:
        return self.hard_state is not None or bool(self.entries)


class Core:
    """One member's view of the protocol; `node_id` never changes."""

    def __init__(
        self,
        node_id: str,
        profile: Profile,
        random: Callable[[], float],
        now_ms: int,
        *,
        term: int = 0,
        vote: str = "",
        log: Log | None = None,
        commit: int = 0,
        incarnation: int = 0,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self._asked: dict[str, int] = {}  # incarnation of whoever asked last, by node id
        self.profile = profile
        self._random = random
        self.log = log or Log()
        self.term = max(term, self.log.last_term)
        self.vote = vote if term == self.term else ""
        self._handed_out = (term, vote)
        self.stable = self.log.last_index
        self.commit = max(commit, self.log.base_index)
        self.role = Role.FOLLOWER
        self.reluctance = Reluctance.NONE
        self.leader_id: str | None = None
        self.leader: Leadership | None = None
        self.out = Output()
        self._votes: dict[str, bool] = {}
        self._heard_ms = now_ms - profile.election_max_ms
        self._deadline_ms = now_ms if self._alone() else self._election_deadline(now_ms)

    # -- what holds now

    @property
    def configuration(self) -> Configuration:
        return self.log.configuration

    @property
    def committed_configuration(self) -> Configuration:
        return self.log.configuration_at(self.commit)

    @property
    def is_voter(self) -> bool:
        mine = self.configuration.member(self.node_id)
        return mine is not None and not mine.learner and mine.is_incarnation(self.incarnation)

    @property
    def ready_index(self) -> int:
        """Entries up to here are committed and on this disk: they may be applied."""
        return min(self.commit, self.stable)

    def wake_ms(self) -> int | None:
        """When `tick` has something to do."""
        if self.leader is not None:
            return self.leader.wake_ms()
        return self._campaign_ms() if self.is_voter else None

    def _campaign_ms(self) -> int:
        """When to ask for votes if nothing is heard."""
        if self.reluctance is Reluctance.NONE or self._alone():
            return self._deadline_ms
        return self._deadline_ms + RELUCTANT_ELECTIONS * self.profile.election_max_ms

    def _alone(self) -> bool:
        return self.is_voter and len(self.configuration.voters) == 1

    def _between(self, low_ms: int, high_ms: int) -> int:
        return low_ms + int(self._random() * (high_ms - low_ms))

    def _election_deadline(self, now_ms: int) -> int:
        return now_ms + self._between(self.profile.election_min_ms, self.profile.election_max_ms)

    def _leader_is_alive(self, now_ms: int) -> bool:
        if self.leader is not None:
            return True
        return self.leader_id is not None and now_ms - self._heard_ms < self.profile.election_min_ms

    def silent_ms(self, now_ms: int) -> int:
        """For how long nobody may have heard of us: a follower its leader, a leader a majority."""
        if self.leader is not None:
            return now_ms - self.leader.majority_heard_ms(now_ms)
        return max(0, now_ms - self._heard_ms)

    # -- input

    def tick(self, now_ms: int) -> None:
        if self.leader is not None:
            if not self.leader.tick(now_ms):
                self._become_follower(self.term, None, now_ms)
        elif self.is_voter and now_ms >= self._campaign_ms():
            if self.reluctance is Reluctance.NEVER and not self._alone():
                self._deadline_ms = self._election_deadline(now_ms)
                return
            self.leader_id = None
            self._ask_before_campaign(now_ms)

    def take(self, now_ms: int) -> Output:
        """Everything to carry out since the last call."""
        if self.leader is not None:
            self.leader.flush(now_ms)
        out, self.out = self.out, Output()
        if (self.term, self.vote) != self._handed_out:
            out.hard_state = self._handed_out = (self.term, self.vote)
        return out

    def persisted(self, now_ms: int, hard_state: tuple[int, str] | None, last: Entry | None) -> None:
        """What one `take` gave is on disk."""
        if last is not None and self.log.term_at(last.index) == last.term:
            self.stable = max(self.stable, last.index)
        if self.leader is not None:
            self.leader.advance_commit()
        if hard_state == (self.term, self.node_id) and self.role is Role.CANDIDATE:
            self._count_vote(self.node_id, True, now_ms)

    def peer_lost(self, node_id: str, now_ms: int) -> None:
        """The connection to a peer broke; of a leader that most often means it died."""
        if self.leader is not None:
            self.leader.peer_reset(node_id)
        elif node_id == self.leader_id:
            self.leader_id = None
            beat = self.profile.heartbeat_ms
            self._deadline_ms = min(self._deadline_ms, now_ms + self._between(beat // 20, beat * 6 // 10))

    def propose(self, data: bytes) -> int:
        """Append a command; the index it will have if this leadership lasts."""
        leader = self._leading()
        if leader.transfer_to is not None:
            raise NotLeader(leader.transfer_to)
        return self._append(COMMAND, data)

    def read(self, token: int) -> None:
        """Ask for a read barrier; it comes back in Output.reads, or never if the lead is lost."""
        self._leading().read(token)

    def transfer(self, to: str | None, now_ms: int) -> str:
        """Begin to hand the lead over; says to whom."""
        return self._leading().begin_transfer(to, now_ms)

    @property
    def may_change(self) -> bool:
        """Whether a membership change may begin now."""
        leader = self.leader
        return leader is not None and self.commit >= max(leader.first_index, self.configuration.index)

    def put_member(self, member: Member) -> int:
        """Add, promote or move one member."""
        if self.configuration.voters == {member.node_id} and member.learner:
            raise MembershipRefused(f"{member.node_id} is the last manager with a vote: it must keep it")
        return self._change(self.configuration.with_member(member))

    def remove(self, node_id: str) -> int:
        if node_id not in self.configuration.ids:
            raise MembershipRefused(f"{node_id} is not a manager of this cluster: nothing to remove")
        if self.configuration.voters == {node_id}:
            raise MembershipRefused(f"{node_id} is the last manager: the cluster would have none")
        return self._change(self.configuration.without(node_id))

    def _change(self, configuration: Configuration) -> int:
        leader = self._leading()
        if self.commit < leader.first_index:
            raise MembershipBusy("the new leader has not committed its first entry")
        if self.configuration.index > self.commit:
            raise MembershipBusy("the last membership change is not committed yet")
        index = self._append(CONFIGURATION, configuration.to_message().SerializeToString())
        leader.configuration_changed(index)
        return index

    def _leading(self) -> Leadership:
        if self.leader is None:
            raise NotLeader(self.leader_id or "")
        return self.leader

    def _append(self, kind: int, data: bytes) -> int:
        entry = Entry(self.log.last_index + 1, self.term, kind, data)
        self.log.append(entry)
        self.out.entries.append(entry)
        return entry.index

    def compact(self, index: int) -> None:
        self.log.compact(min(index, self.ready_index))

    def installed(self, meta: raft_pb2.SnapshotMeta, leader_id: str, *, keep_log: bool) -> None:
        """The shell has a snapshot on disk and in the state machine: go on from there.

        `keep_log`: our durable log contains the snapshot's last entry, so what follows it stays.
        Otherwise the journal holds nothing any more, and nothing waits to be written.
        """
        assert meta.index > self.commit
        if keep_log:
            self.log.compact(meta.index)
        else:
            configuration = Configuration.from_message(meta.configuration_index, meta.configuration)
            self.log.reset(meta.index, meta.term, configuration)
            self.stable = meta.index
            self.out.entries, self.out.held = [], []
        self.commit = meta.index
        self.hold(leader_id, append_response=raft_pb2.AppendResponse(success=True, match_index=self.commit))

    # -- output

    def message(self, to: str, term: int | None, body: dict[str, object]) -> raft_pb2.RaftMessage:
        term = self.term if term is None else term
        if any(kind.endswith("response") for kind in body):
            incarnation = self._asked.get(to, 0)
        else:
            member = self.configuration.member(to)
            incarnation = member.incarnation if member is not None else 0
        return raft_pb2.RaftMessage(
            sender=self.node_id, to=to, term=term, sender_incarnation=self.incarnation,
            to_incarnation=incarnation, **body,  # type: ignore[arg-type]
        )  # fmt: skip

    def send(self, to: str, term: int | None = None, **body: object) -> None:
        self.out.messages.append(self.message(to, term, body))

    def hold(self, to: str, term: int | None = None, **body: object) -> None:
        self.out.held.append(self.message(to, term, body))

    # -- messages

    def step(self, message: raft_pb2.RaftMessage, now_ms: int) -> None:
        body = message.WhichOneof("body")
        if message.to != self.node_id or body is None or not self._is_meant(body, message):
            return
        if body == "removed":
            mine = self.configuration.member(self.node_id)
            if (
                mine is not None
                and mine.is_incarnation(self.incarnation)
                and message.removed.configuration_index > self.configuration.index
            ):
                self.out.removed = True
            return
        if body == "vote_request":
            self._tell_removed(message.sender)
        if body == "vote_request" and message.vote_request.pre:
            self._on_pre_vote(message, now_ms)
            return
        if body == "vote_response" and message.vote_response.pre and message.vote_response.granted:
            if self.role is Role.PRE_CANDIDATE and message.term == self.term + 1:
                self._count_vote(message.sender, True, now_ms)
            return
        if message.term > self.term:
            ask = body == "vote_request"
            if ask and not message.vote_request.force and self._leader_is_alive(now_ms):
                return
            self._become_follower(message.term, None, now_ms)
        elif message.term < self.term:
            if body in ("append", "vote_request", "snapshot_chunk"):
                self.hold(message.sender, append_response=raft_pb2.AppendResponse())
            return
        self._dispatch(body, message, now_ms)

    def _is_meant(self, body: str, message: raft_pb2.RaftMessage) -> bool:
        """Whether this incarnation is addressed, and an answer comes from the one that was asked."""
        if message.to_incarnation not in (0, self.incarnation):
            return False
        if body.endswith("response"):
            sender = self.configuration.member(message.sender)
            return sender is None or sender.is_incarnation(message.sender_incarnation)
        self._asked[message.sender] = message.sender_incarnation
        return True

    def _dispatch(self, body: str, message: raft_pb2.RaftMessage, now_ms: int) -> None:
        if body == "append":
            self._on_append(message, now_ms)
        elif body == "append_response" and self.leader is not None:
            self.leader.saw(message.sender, message.sender_incarnation)
            self.leader.on_append_response(message.sender, message.append_response, now_ms)
        elif body == "vote_request":
            self._on_vote_request(message, now_ms)
        elif body == "vote_response" and self.role is Role.CANDIDATE and not message.vote_response.pre:
            self._count_vote(message.sender, message.vote_response.granted, now_ms)
        elif body == "snapshot_chunk":
            self._follow(message.sender, now_ms)
            self.out.chunks.append(message)
        elif body == "snapshot_response" and self.leader is not None:
            self.leader.heard(message.sender, now_ms)
        elif body == "timeout_now" and self._may_take_over():
            self._campaign(now_ms, force=True)

    def _may_take_over(self) -> bool:
        return self.is_voter and self.leader is None and self.reluctance is Reluctance.NONE

    def _tell_removed(self, sender: str) -> None:
        """It may not know. Its request counts all the same: it may have been added again
        by entries that are not here yet, and then it ignores this."""
        configuration = self.committed_configuration
        if sender in configuration.removed and sender not in self.configuration.ids:
            self.send(sender, removed=raft_pb2.Removed(configuration_index=configuration.index))

    # -- elections

    def _up_to_date(self, request: raft_pb2.VoteRequest) -> bool:
        return (request.last_term, request.last_index) >= (self.log.last_term, self.log.last_index)

    def _on_pre_vote(self, message: raft_pb2.RaftMessage, now_ms: int) -> None:
        request = message.vote_request
        alive = self._leader_is_alive(now_ms)
        granted = message.term > self.term and not alive and self._up_to_date(request)
        term = message.term if granted else self.term
        self.hold(message.sender, term, vote_response=raft_pb2.VoteResponse(granted=granted, pre=True))

    def _on_vote_request(self, message: raft_pb2.RaftMessage, now_ms: int) -> None:
        free = self.vote in ("", message.sender) and self.role is not Role.LEADER
        granted = free and self.leader_id is None and self._up_to_date(message.vote_request)
        if granted:
            self.vote = message.sender
            self._deadline_ms = self._election_deadline(now_ms)
        self.hold(message.sender, vote_response=raft_pb2.VoteResponse(granted=granted))

    def _ask_before_campaign(self, now_ms: int) -> None:
        self.role = Role.PRE_CANDIDATE
        self._retry_soon(now_ms)
        self._votes = {}
        self._request_votes(self.term + 1, pre=True, force=False)
        self._count_vote(self.node_id, True, now_ms)

    def _campaign(self, now_ms: int, *, force: bool) -> None:
        self.term += 1
        self.vote = self.node_id
        self.role = Role.CANDIDATE
        self.leader_id = None
        self._votes = {}
        self._retry_soon(now_ms)
        self._request_votes(self.term, pre=False, force=force)

    def _retry_soon(self, now_ms: int) -> None:
        beat = self.profile.heartbeat_ms
        self._deadline_ms = now_ms + self._between(beat, 3 * beat)

    def _request_votes(self, term: int, *, pre: bool, force: bool) -> None:
        request = raft_pb2.VoteRequest(
            last_index=self.log.last_index, last_term=self.log.last_term, pre=pre, force=force
        )
        for node_id in sorted(self.configuration.voters - {self.node_id}):
            self.hold(node_id, term, vote_request=request)

    def _count_vote(self, sender: str, granted: bool, now_ms: int) -> None:
        self._votes[sender] = granted
        voters = self.configuration.voters
        if (
            sum(1 for node_id, yes in self._votes.items() if yes and node_id in voters)
            < self.configuration.quorum
        ):
            return
        if self.role is Role.PRE_CANDIDATE:
            self._campaign(now_ms, force=False)
        elif self.role is Role.CANDIDATE:
            self._become_leader(now_ms)

    def _become_leader(self, now_ms: int) -> None:
        assert self.node_id in self.configuration.voters
        self.role = Role.LEADER
        self.leader_id = self.node_id
        self.leader = Leadership(self, self.log.last_index + 1, now_ms)
        self._append(NOOP, b"")

    def _become_follower(self, term: int, leader_id: str | None, now_ms: int) -> None:
        assert term >= self.term
        if term > self.term:
            self.term, self.vote = term, ""
        if self.role is not Role.FOLLOWER or leader_id is not None:
            self._deadline_ms = self._election_deadline(now_ms)
        if self.leader is not None:
            self._heard_ms = max(self._heard_ms, self.leader.majority_heard_ms(now_ms))
        self.role = Role.FOLLOWER
        self.leader = None
        self.leader_id = leader_id

    def resign(self, now_ms: int) -> None:
        """Stop leading, of one's own accord."""
        self._become_follower(self.term, None, now_ms)

    # -- replication, the follower's side

    def _follow(self, leader_id: str, now_ms: int) -> None:
        assert self.leader is None, "two leaders in one term"
        self._become_follower(self.term, leader_id, now_ms)
        self._heard_ms = now_ms

    def _on_append(self, message: raft_pb2.RaftMessage, now_ms: int) -> None:
        self._follow(message.sender, now_ms)
        append = message.append
        if append.prev_index < self.commit:
            self._acknowledge(message.sender, self.commit, append.round)
            return
        if self.log.term_at(append.prev_index) != append.prev_term:
            hint = self.log.conflict_hint(append.prev_index - 1, append.prev_term)
            response = raft_pb2.AppendResponse(
                round=append.round, rejected_index=append.prev_index, hint_index=hint,
                hint_term=self.log.term_at(hint) or 0,
            )  # fmt: skip
            self.hold(message.sender, append_response=response)
            return
        for entry in append.entries:
            self._accept(Entry(entry.index, entry.term, entry.kind, entry.data))
        match = append.prev_index + len(append.entries)
        self.commit = max(self.commit, min(append.commit, match))
        self._acknowledge(message.sender, match, append.round)

    def _accept(self, entry: Entry) -> None:
        term = self.log.term_at(entry.index)
        if term == entry.term:
            return
        if term is not None:
            assert entry.index > self.commit, "the leader's log conflicts with a committed entry"
            self.log.truncate(entry.index)
            self.stable = min(self.stable, entry.index - 1)
            first = self.out.truncated_from
            self.out.truncated_from = entry.index if first is None else min(first, entry.index)
        self.log.append(entry)
        self.out.entries.append(entry)

    def _acknowledge(self, to: str, match: int, round_: int) -> None:
        response = raft_pb2.AppendResponse(success=True, match_index=match, round=round_)
        self.hold(to, append_response=response)
