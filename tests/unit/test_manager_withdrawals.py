"""When a stopping task is out of service on every node."""

from __future__ import annotations

from swarmpy.node.manager.withdrawals import Progress, Withdrawals
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import ChangeEvent

from tests.store_world import World


def task(
    identity: str, desired: types_pb2.TaskState, state: types_pb2.TaskState = types_pb2.TASK_RUNNING
) -> objects_pb2.Task:
    made = objects_pb2.Task(node_id="n1", desired_state=desired)
    made.meta.id, made.status.state = identity, state
    return made


def event(old: objects_pb2.Task | None, new: objects_pb2.Task | None) -> ChangeEvent:
    some = new or old
    assert some is not None
    return ChangeEvent(store_pb2.KIND_TASK, some.meta.id, old, new)


RUNS, STOPS = task("t", types_pb2.TASK_RUNNING), task("t", types_pb2.TASK_SHUTDOWN)


def test_a_node_reaches_a_generation_with_the_set_that_was_made_after_it() -> None:
    progress = Progress()
    progress.sent(b"a", 1)
    assert progress.applied == 0, "sent is not applied"
    progress.confirmed(b"a")
    assert progress.applied == 1
    progress.sent(b"a", 2)
    assert progress.applied == 2, "nothing changed for this node"
    progress.sent(b"b", 3)
    progress.sent(b"c", 4)
    progress.sent(b"c", 5)
    progress.confirmed(b"zzz")
    assert progress.applied == 2
    progress.confirmed(b"c")
    assert progress.applied == 5, "an agent that took both sets at once names the last"


def test_what_a_node_holds_from_before_counts_once_it_says_that_it_applied_it() -> None:
    progress = Progress()
    progress.sent(b"a", 7)
    assert progress.applied == 0
    progress.confirmed(b"a")
    assert progress.applied == 7


def test_a_task_is_out_once_all_have_reached_the_commit_that_stops_it() -> None:
    ledger = Withdrawals()
    assert not ledger.note([event(None, RUNS)])
    assert ledger.note([event(RUNS, STOPS)])
    stopped = ledger.generation
    assert not ledger.note([event(STOPS, STOPS)]), "only once"
    assert ledger.reached(stopped - 1) == {}
    assert ledger.reached(stopped) == {"n1": ["t"]}
    assert ledger.reached(stopped) == {}
    assert ledger.out_on("n1") == ["t"], "for a node that asks anew"
    ended = task("t", types_pb2.TASK_SHUTDOWN, types_pb2.TASK_SHUTDOWN)
    ledger.note([event(STOPS, ended)])
    assert ledger.out_on("n1") == []
    assert not ledger.waiting


def test_a_task_that_ended_or_went_is_not_waited_for() -> None:
    for after in (task("t", types_pb2.TASK_SHUTDOWN, types_pb2.TASK_FAILED), None):
        ledger = Withdrawals()
        ledger.note([event(RUNS, STOPS)])
        ledger.note([event(STOPS, after)])
        assert not ledger.waiting


def test_a_new_leader_asks_again_for_every_task_that_is_stopping() -> None:
    world = World()
    ended = task("ended", types_pb2.TASK_SHUTDOWN, types_pb2.TASK_SHUTDOWN)
    waits = task("new", types_pb2.TASK_SHUTDOWN, types_pb2.TASK_ASSIGNED)
    world.put(RUNS, task("r", types_pb2.TASK_REMOVE), task("s", types_pb2.TASK_SHUTDOWN), ended, waits)
    ledger = Withdrawals()
    ledger.restart(world.store)
    (stopping,) = ledger.reached(ledger.generation).items()
    assert (stopping[0], sorted(stopping[1])) == ("n1", ["r", "s"])
