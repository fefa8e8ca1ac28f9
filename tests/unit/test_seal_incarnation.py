"""A member that lost its files is another one: it neither votes nor counts for the one it was."""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.proto import raft_pb2
from swarmpy.raft.core import Core, Reluctance
from swarmpy.raft.core_log import CONFIGURATION, LAN, Configuration, Entry, Log, Member

THREE = (Member("a", "a", incarnation=1), Member("b", "b", incarnation=2), Member("c", "c", incarnation=3))


def core(node_id: str, incarnation: int, members: Sequence[Member] = THREE) -> Core:
    log = Log()
    if members:
        configuration = Configuration(1, tuple(members)).to_message().SerializeToString()
        log.append(Entry(1, 1, CONFIGURATION, configuration))
    return Core(node_id, LAN, lambda: 0.5, 0, term=1, log=log, incarnation=incarnation)


def campaign(candidate: Core) -> raft_pb2.RaftMessage:
    """The request for b's vote after everybody else has agreed to an election."""
    candidate.tick(10_000)
    candidate.take(10_000)
    candidate._campaign(10_000, force=False)
    return next(m for m in candidate.take(10_000).held if m.to == "b" and not m.vote_request.pre)


def answer(voter: Core, request: raft_pb2.RaftMessage) -> list[raft_pb2.RaftMessage]:
    voter.step(request, 20_000)
    out = voter.take(20_000)
    return [m for m in (*out.messages, *out.held) if m.HasField("vote_response")]


def test_the_incarnation_that_is_meant_answers() -> None:
    (response,) = answer(core("b", 2), campaign(core("a", 1)))
    assert response.vote_response.granted
    assert (response.sender_incarnation, response.to_incarnation) == (2, 1)


def test_an_emptied_member_does_not_vote_for_the_one_it_was() -> None:
    assert answer(core("b", 77, ()), campaign(core("a", 1))) == []
    assert answer(core("b", 77), campaign(core("a", 1))) == []


def test_the_vote_of_another_incarnation_does_not_count() -> None:
    candidate = core("a", 1)
    (response,) = answer(core("b", 2), campaign(candidate))
    response.sender_incarnation = 77
    candidate.persisted(20_000, (candidate.term, "a"), None)
    candidate.step(response, 20_000)
    assert candidate.leader is None
    response.sender_incarnation = 2
    candidate.step(response, 20_000)
    assert candidate.leader is not None


def test_an_emptied_member_that_learns_the_old_configuration_asks_for_no_votes() -> None:
    """It finds itself among the voters, and it is not meant."""
    emptied = core("b", 77)
    assert not emptied.is_voter
    assert emptied.wake_ms() is None
    emptied.tick(60_000)
    assert emptied.take(60_000).held == []


def test_an_acknowledgement_of_another_incarnation_does_not_commit() -> None:
    leader = core("a", 1)
    (vote,) = answer(core("b", 2), campaign(leader))
    leader.persisted(20_000, (leader.term, "a"), None)
    leader.step(vote, 20_000)
    out = leader.take(20_000)
    leader.persisted(20_000, out.hard_state, out.entries[-1])
    ack = raft_pb2.RaftMessage(
        sender="b", to="a", term=leader.term, sender_incarnation=77, to_incarnation=1,
        append_response=raft_pb2.AppendResponse(success=True, match_index=2),
    )  # fmt: skip
    leader.step(ack, 20_010)
    assert leader.commit < 2
    ack.sender_incarnation = 2
    leader.step(ack, 20_010)
    assert leader.commit == 2


def test_being_told_of_the_removal_of_the_old_one_is_ignored() -> None:
    removed = raft_pb2.RaftMessage(
        sender="a", to="b", term=1, removed=raft_pb2.Removed(configuration_index=9)
    )
    emptied, old = core("b", 77), core("b", 2)
    emptied.step(removed, 10)
    old.step(removed, 10)
    assert not emptied.take(10).removed
    assert old.take(10).removed


def test_a_member_with_a_low_disk_leads_last_and_one_without_room_never() -> None:
    def asks(reluctance: Reluctance, now_ms: int) -> bool:
        member = core("b", 2)
        member.reluctance = reluctance
        member.tick(now_ms)
        return bool(member.take(now_ms).held)

    soon, late = LAN.election_max_ms, 10 * LAN.election_max_ms
    assert [asks(r, soon) for r in Reluctance] == [True, False, False]
    assert [asks(r, late) for r in Reluctance] == [True, True, False]
    alone = core("a", 1, THREE[:1])
    alone.reluctance = Reluctance.NEVER
    alone.tick(soon)
    assert alone.role is not alone.role.FOLLOWER
