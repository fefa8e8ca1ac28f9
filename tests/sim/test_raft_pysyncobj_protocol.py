"""What breaks PySyncObj's protocol, played against ours: a scenario for each defect found in its source.

The core is driven by hand, message by message, or a whole group runs in virtual time. The
names of the tests are the defects; syncobj.py lines are those of 0.3.17.
"""

from __future__ import annotations

import pytest
from swarmpy.proto import raft_pb2
from swarmpy.raft.core import Core, Output, Role
from swarmpy.raft.core_log import COMMAND, CONFIGURATION, LAN, Configuration, Entry, Log, Member
from swarmpy.raft.log import MembershipBusy, NotLeader

from tests.sim.raft_world import World

NOW = 10_000


def member(names: str = "abc", node_id: str = "a", terms: tuple[int, ...] = (), term: int = 1) -> Core:
    """A member whose log is the configuration and a command of each of `terms`."""
    first = Configuration(1, tuple(Member(name, name) for name in names)).to_message().SerializeToString()
    log = Log(0, 0, [Entry(1, 1, CONFIGURATION, first)])
    for number, command_term in enumerate(terms):
        log.append(Entry(number + 2, command_term, COMMAND, b"%s %d" % (node_id.encode(), number + 2)))
    return Core(node_id, LAN, lambda: 0.5, 0, term=term, log=log)


def written(core: Core, now_ms: int = NOW) -> Output:
    """Everything the core gives out is on disk."""
    out = core.take(now_ms)
    core.persisted(now_ms, out.hard_state, out.entries[-1] if out.entries else None)
    return out


def tell(core: Core, sender: str, term: int, now_ms: int = NOW, **body: object) -> Output:
    core.step(raft_pb2.RaftMessage(sender=sender, to=core.node_id, term=term, **body), now_ms)  # type: ignore[arg-type]
    return written(core, now_ms)


def granted(core: Core, sender: str, *, pre: bool = False) -> Output:
    term = core.term + 1 if pre else core.term
    return tell(core, sender, term, vote_response=raft_pb2.VoteResponse(granted=True, pre=pre))


def acknowledges(core: Core, sender: str, match: int, term: int | None = None) -> Output:
    response = raft_pb2.AppendResponse(success=True, match_index=match)
    return tell(core, sender, core.term if term is None else term, append_response=response)


def campaigning(core: Core, *friends: str) -> Core:
    core.tick(NOW + 2 * LAN.election_max_ms)
    written(core)
    for friend in friends:
        granted(core, friend, pre=True)
    assert core.role is Role.CANDIDATE
    return core


def leading(core: Core, *friends: str) -> Core:
    campaigning(core, *friends)
    for friend in friends:
        granted(core, friend)
    written(core)
    assert core.leader is not None
    return core


def append(prev: tuple[int, int], entries: list[Entry], commit: int = 0) -> raft_pb2.Append:
    message = raft_pb2.Append(prev_index=prev[0], prev_term=prev[1], commit=commit)
    for entry in entries:
        message.entries.add(index=entry.index, term=entry.term, kind=entry.kind, data=entry.data)  # type: ignore[arg-type]
    return message


class Quiet(World):
    """A group without faults but the ones a test makes."""

    def __init__(self, members: int = 3) -> None:
        super().__init__(1, members, 0)

    def boot(self, name: str) -> None:
        self.faulty = False
        super().boot(name)

    def leader(self) -> str:
        return max((p.core.term, name) for name, p in self.processes.items() if p.core.leader is not None)[1]

    def isolate(self, name: str) -> None:
        self.cut = {(a, b) for a in self.names for b in self.names if (a == name) != (b == name)}


# -- syncobj 1499: the commit index was past the end of the log, and the node led with it


def test_commit_index_past_the_logs_end_acknowledges_nothing_without_a_follower() -> None:
    core = member(terms=(1, 1), term=3)
    out = tell(core, "b", 3, append=append((3, 1), [], commit=1_000_000))
    assert core.commit == 3
    assert out.held[0].append_response.match_index == 3
    leading(core, "c")
    index = core.propose(b"alone")
    for _ in range(10):
        written(core)
    assert core.commit < index
    acknowledges(core, "c", index)
    assert core.commit == index


def test_commit_index_past_the_logs_end_is_not_kept_over_a_restart() -> None:
    """Nothing on disk says more than the log itself holds; what is committed is found out anew."""
    core = member(terms=(1, 1, 1, 1), term=3)
    tell(core, "b", 3, append=append((5, 1), [], commit=5))
    assert core.commit == 5
    again = member(terms=(1,), term=3)
    assert again.commit == 0
    assert again.ready_index == 0
    leading(again, "c")
    assert again.commit == 0


# -- syncobj 991-1004: an append with a matching prefix cut what followed


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_late_append_with_a_matching_prefix_truncates_nothing(late: int) -> None:
    core = member(node_id="b", term=2)
    entries = [Entry(i, 2, COMMAND, b"%d" % i) for i in range(2, 7)]
    out = tell(core, "a", 2, append=append((1, 1), entries))
    assert out.held[0].append_response.match_index == 6
    out = tell(core, "a", 2, append=append((1, 1), entries[:late], commit=1))
    assert (core.log.last_index, core.stable) == (6, 6)
    assert out.truncated_from is None
    assert out.entries == []
    assert out.held[0].append_response.match_index == 1 + late, "says no more than this append proves"


def test_only_a_conflict_truncates_and_never_what_is_committed() -> None:
    core = member(node_id="b", terms=(2, 2, 2), term=2)
    tell(core, "a", 2, append=append((3, 2), [], commit=3))
    tell(core, "c", 3, append=append((2, 2), [], commit=3))
    assert core.log.last_index == 4
    out = tell(core, "c", 3, append=append((3, 2), [Entry(4, 3, COMMAND, b"new")], commit=3))
    assert out.truncated_from == 4
    assert core.log.entry(4).data == b"new"
    with pytest.raises(AssertionError, match="committed"):
        core._accept(Entry(3, 9, COMMAND, b"another"))


# -- syncobj 1071, 1098: acknowledgements carried no term


def test_an_acknowledgement_of_an_earlier_term_commits_nothing() -> None:
    core = leading(member(), "b")
    first_term = core.term
    for number in range(5):
        core.propose(b"%d" % number)
    written(core)
    last = core.log.last_index
    tell(core, "c", first_term + 1, append=append((1, 1), [Entry(2, first_term + 1, COMMAND, b"other")]))
    assert core.log.last_index == 2, "the other leader's log took the place of ours"
    core.tick(NOW + 5_000)
    written(core, NOW + 5_000)
    granted(core, "b", pre=True)
    granted(core, "b")
    while core.log.last_index < last:
        core.propose(b"never sent")
    written(core)
    acknowledges(core, "b", last, term=first_term)
    acknowledges(core, "c", last, term=first_term)
    assert core.commit < core.log.last_index
    acknowledges(core, "b", last)
    assert core.commit == last


def test_an_acknowledgement_of_what_was_never_sent_commits_nothing() -> None:
    core = leading(member(), "b")
    acknowledges(core, "b", core.log.last_index + 100)
    assert core.commit == 0
    assert core.propose(b"x") == core.log.last_index
    written(core)
    assert core.commit == 0


def test_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Thesis 3.6.2, figure 3.7: they may still be replaced until one of the own term is on a majority."""
    core = leading(member(terms=(2, 2), term=4), "b")
    acknowledges(core, "b", 3)
    assert core.commit == 0
    acknowledges(core, "b", core.log.last_index)
    assert core.commit == core.log.last_index


# -- syncobj 186, 1361-1367: the guard of membership changes was dead code


def test_two_removals_at_once_are_refused_and_a_lone_leader_commits_none() -> None:
    core = leading(member(), "b")
    acknowledges(core, "b", core.log.last_index)
    index = core.remove("c")
    with pytest.raises(MembershipBusy):
        core.remove("b")
    for _ in range(10):
        written(core)
    assert core.commit < index
    assert core.configuration.voters == {"a", "b"}
    acknowledges(core, "b", index)
    assert core.commit == index
    core.remove("b")


def test_two_removals_over_two_leaders_are_refused_too() -> None:
    """What counts is the configuration in the log, not a flag in memory."""
    core = member()
    other = Configuration(0, (Member("a", "a"), Member("b", "b")), ("c",))
    change = Entry(2, 2, CONFIGURATION, other.to_message().SerializeToString())
    tell(core, "b", 2, append=append((1, 1), [change]))
    leading(core, "b")
    with pytest.raises(MembershipBusy):
        core.remove("b")
    acknowledges(core, "b", 2)
    with pytest.raises(MembershipBusy):
        core.remove("b")
    acknowledges(core, "b", core.log.last_index)
    core.remove("b")


# -- syncobj 57: no barrier of any kind; 112 of 119 reads of a leader cut off for 30 s were stale


def test_an_isolated_leader_answers_no_read() -> None:
    world = Quiet()
    world.run_until(world.now + 2_000)
    old = world.leader()
    process = world.processes[old]
    world.propose()
    world.run_until(world.now + 500)
    world.isolate(old)
    asked = refused = 0
    answered_before = world.reads_done
    for _ in range(119):
        try:
            process.core.read(1_000_000 + asked)
            process.reads[1_000_000 + asked] = world.ack_index
            asked += 1
        except NotLeader:
            refused += 1
        process.process()
        world.run_until(world.now + 250)
        if world.leader() != old:
            world.propose()
    assert world.leader() != old
    assert len(world.acked) > 50, "the others went on meanwhile"
    assert world.reads_done == answered_before
    assert asked
    assert refused > 100


def test_an_answer_to_an_earlier_round_proves_no_read() -> None:
    core = leading(member(), "b")
    acknowledges(core, "b", core.log.last_index)
    core.tick(NOW + 200)
    before = written(core, NOW + 200).messages[0].append.round
    core.read(7)
    begun = written(core).messages[0].append.round
    assert begun > before
    late = raft_pb2.AppendResponse(success=True, match_index=core.log.last_index, round=before)
    assert tell(core, "b", core.term, append_response=late).reads == []
    late.round = begun
    assert tell(core, "b", core.term, append_response=late).reads == [(7, core.commit)]


# -- no pre-vote, no stickiness; votes were counted; the first election after idle failed


def test_a_rejoining_follower_forces_no_election() -> None:
    world = Quiet()
    world.run_until(world.now + 2_000)
    leader = world.leader()
    term = world.processes[leader].core.term
    away = next(name for name in world.names if name != leader)
    world.isolate(away)
    for _ in range(60):
        world.propose()
        world.run_until(world.now + 500)
    assert world.processes[away].core.term == term
    world.cut.clear()
    world.run_until(world.now + 2_000)
    assert world.leader() == leader
    assert {process.core.term for process in world.processes.values()} == {term}
    assert world.processes[away].state == world.processes[leader].state


def test_a_voter_that_hears_its_leader_gives_nobody_its_vote() -> None:
    core = member(node_id="b", term=4)
    tell(core, "a", 4, append=append((1, 1), []))
    request = raft_pb2.VoteRequest(last_index=100, last_term=4)
    out = tell(core, "c", 11, vote_request=request)
    assert core.term == 4
    assert not any(m.vote_response.granted for m in out.held)
    later = NOW + LAN.election_max_ms
    out = tell(core, "c", 11, now_ms=later, vote_request=request)
    assert core.term == 11
    assert any(m.vote_response.granted for m in out.held)


@pytest.mark.parametrize("pre", [True, False])
def test_the_same_vote_twice_counts_once(pre: bool) -> None:
    core = member("abcde")
    if pre:
        core.tick(NOW)
        written(core)
    else:
        campaigning(core, "b", "c")
    before = core.role
    for _ in range(5):
        granted(core, "b", pre=pre)
    granted(core, "stranger", pre=pre)
    assert core.role is before
    granted(core, "c", pre=pre)
    assert core.role is (Role.CANDIDATE if pre else Role.LEADER)


def test_the_first_election_after_a_long_idle_time_succeeds() -> None:
    world = Quiet()
    world.run_until(world.now + 600_000)
    leader = world.leader()
    term = world.processes[leader].core.term
    world.isolate(leader)
    world.run_until(world.now + 2 * LAN.election_max_ms)
    assert world.leader() != leader
    assert world.processes[world.leader()].core.term == term + 1


# -- syncobj 640, 937, 1234: term and vote were sent before they were on disk


def test_a_vote_leaves_only_with_what_must_be_on_disk_before() -> None:
    core = member(node_id="b", term=4)
    request = raft_pb2.VoteRequest(last_index=1, last_term=1)
    core.step(raft_pb2.RaftMessage(sender="a", to="b", term=5, vote_request=request), NOW)
    out = core.take(NOW)
    assert out.hard_state == (5, "a")
    assert out.messages == []
    assert [m.vote_response.granted for m in out.held] == [True]


def test_an_acknowledgement_leaves_only_with_what_must_be_on_disk_before() -> None:
    core = member(node_id="b", term=4)
    sent = append((1, 1), [Entry(2, 4, COMMAND, b"x")])
    core.step(raft_pb2.RaftMessage(sender="a", to="b", term=4, append=sent), NOW)
    out = core.take(NOW)
    assert [entry.index for entry in out.entries] == [2]
    assert out.messages == []
    assert [m.append_response.match_index for m in out.held] == [2]
    assert core.ready_index < 2


def test_the_own_vote_and_the_own_copy_count_only_when_they_are_on_disk() -> None:
    core = member("ab")
    core.tick(NOW)
    written(core)
    core.step(
        raft_pb2.RaftMessage(
            sender="b", to="a", term=core.term + 1, vote_response=raft_pb2.VoteResponse(granted=True, pre=True)
        ), NOW,
    )  # fmt: skip
    out = core.take(NOW)
    vote = raft_pb2.VoteResponse(granted=True)
    core.step(raft_pb2.RaftMessage(sender="b", to="a", term=core.term, vote_response=vote), NOW)
    assert core.role is Role.CANDIDATE
    core.persisted(NOW, out.hard_state, None)
    assert core.role is Role.LEADER
    out = core.take(NOW)
    ack = raft_pb2.AppendResponse(success=True, match_index=core.log.last_index)
    core.step(raft_pb2.RaftMessage(sender="b", to="a", term=core.term, append_response=ack), NOW)
    assert core.commit == 0
    core.persisted(NOW, out.hard_state, out.entries[-1])
    assert core.commit == core.log.last_index
