"""Who may go on alone: what `swarmpy recover` refuses, and why."""

from __future__ import annotations

import pytest
from swarmpy.node.manager.errors import Refused
from swarmpy.node.manager.recovery import check_recoverable, demotions
from swarmpy.proto import objects_pb2, recovery_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

VOTERS = ("a", "b", "c", "d", "e")


def row(node_id: str, index: int = 0, term: int = 3, **fields: object) -> recovery_pb2.SurveyRow:
    found = recovery_pb2.SurveyRow(node_id=node_id, hostname=f"host-{node_id}")
    if index:
        found.position.CopyFrom(
            recovery_pb2.PositionResponse(
                node_id=node_id, last_index=index, last_term=term, voters=VOTERS, **fields  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return found


def test_a_survivor_with_the_newest_log_may() -> None:
    check_recoverable([row("a", 10), row("b"), row("c"), row("d", 9), row("e")], force=False)
    check_recoverable([row("a", 10), row("b"), row("c"), row("d", 10), row("e")], force=False)
    check_recoverable([row("a", 5, term=4), row("b"), row("c"), row("d", 10, term=3), row("e")], force=False)


def test_a_better_one_is_named_and_force_overrides() -> None:
    rows = [row("a", 10), row("b"), row("c"), row("d", 11), row("e")]
    with pytest.raises(Refused, match=r"host-d \(d\) has a newer log .* there, or lose .* --force"):
        check_recoverable(rows, force=False)
    check_recoverable(rows, force=True)
    rows = [row("a", 10, term=3), row("d", 2, term=4)]
    with pytest.raises(Refused, match="newer log"):
        check_recoverable(rows, force=False)


def test_where_somebody_leads_nothing_is_to_recover() -> None:
    for rows in ([row("a", 10, leader_id="b")], [row("a", 10), row("b", 10, leader_id="c"), row("c")]):
        for force in (False, True):
            with pytest.raises(Refused, match="nothing to recover"):
                check_recoverable(rows, force=force)


def test_a_majority_that_answers_is_left_to_elect() -> None:
    rows = [row("a", 10), row("b", 10), row("c", 10), row("d"), row("e")]
    with pytest.raises(Refused, match="3 of 5 managers answer"):
        check_recoverable(rows, force=False)
    check_recoverable(rows, force=True)


def test_never_twice() -> None:
    for force in (False, True):
        with pytest.raises(Refused, match="recovered already, on host-b"):
            check_recoverable([row("a", 90), row("b", 10, generation=1)], force=force)


def test_without_a_vote_in_its_own_log_it_may_not() -> None:
    with pytest.raises(Refused, match="no vote"):
        check_recoverable([row("x", 10)], force=True)


def test_the_other_managers_become_workers_and_nothing_else_changes() -> None:
    store = Store()
    changes = []
    for name, role, wanted in (("a", 1, 1), ("b", 1, 1), ("c", 0, 1), ("d", 0, 0)):
        node = objects_pb2.Node(role=role)  # type: ignore[arg-type]
        node.meta.id = name * 25
        node.spec.role = wanted  # type: ignore[assignment]
        node.index = 7
        node.manager.raft_address = "10.0.0.1:7379" if role else ""
        changes.append(store_pb2.Change(put=wrap(node)))
    store.apply(1, transaction(changes, epoch=1, now_ms=1, new_epoch=True))
    demoted = {change.put.node.meta.id[0]: change.put.node for change in demotions(store, "a" * 25)}
    assert sorted(demoted) == ["b", "c"]
    for node in demoted.values():
        assert (node.role, node.spec.role, node.index) == (types_pb2.ROLE_WORKER, types_pb2.ROLE_WORKER, 7)
        assert not node.manager.raft_address
