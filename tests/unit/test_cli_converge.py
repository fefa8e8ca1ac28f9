"""When a service counts as converged, as failed, as stuck."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from swarmpy.cli.converge import Progress, assess
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.proto.types_pb2 import (
    TASK_COMPLETE,
    TASK_FAILED,
    TASK_PENDING,
    TASK_PREPARING,
    TASK_READY,
    TASK_REMOVE,
    TASK_RUNNING,
    TASK_SHUTDOWN,
)

NUMBERS = itertools.count(1)


def service(replicas: int | None = 2, version: int = 1, **task: Any) -> objects_pb2.Service:
    made = objects_pb2.Service(spec_version=version)
    made.meta.id, made.meta.name = "s", "web"
    if replicas is None:
        getattr(made.spec, "global").SetInParent()
    else:
        made.spec.replicated.replicas = replicas
    made.spec.task.CopyFrom(types_pb2.TaskSpec(**task))
    return made


def task(
    slot: int, state: int = TASK_RUNNING, version: int = 1, desired: int = TASK_RUNNING, **status: Any
) -> objects_pb2.Task:
    made = objects_pb2.Task(service_id="s", service_name="web", slot=slot, spec_version=version)
    made.desired_state = desired  # type: ignore[assignment]
    made.status.CopyFrom(objects_pb2.TaskStatus(state=state, **status))  # type: ignore[arg-type]
    made.meta.id, made.meta.created_ms = f"t{next(NUMBERS)}", next(NUMBERS)
    if not slot:
        made.node_id = f"node{next(NUMBERS)}"
    return made


def judged(of: objects_pb2.Service, *tasks: objects_pb2.Task, before: int = 0) -> Progress:
    return assess(of, tasks, objects_pb2.UpdateStatus(state=before))  # type: ignore[arg-type]


def failed(slot: int, error: str = "no such command", version: int = 1) -> objects_pb2.Task:
    return task(slot, TASK_FAILED, version, TASK_SHUTDOWN, error=error)


def test_all_slots_running_is_done() -> None:
    progress = judged(service(), task(1), task(2))
    assert progress.done
    assert (progress.ready, progress.total) == (2, 2)


@pytest.mark.parametrize("state", [TASK_PENDING, TASK_PREPARING, TASK_READY])
def test_a_slot_on_its_way_is_not_done(state: int) -> None:
    progress = judged(service(), task(1), task(2, state))
    assert not progress.done
    assert not progress.failure
    assert not progress.stuck
    assert progress.ready == 1


def test_missing_tasks_are_counted() -> None:
    progress = judged(service(3), task(1))
    assert (progress.ready, progress.total, len(progress.slots), progress.done) == (1, 3, 3, False)


def test_old_versions_do_not_count_and_are_waited_for() -> None:
    assert judged(service(version=2), task(1), task(2)).ready == 0
    both = judged(service(1, version=2), task(1), task(1, version=2))
    assert not both.done
    assert judged(
        service(1, version=2), task(1, TASK_SHUTDOWN, desired=TASK_SHUTDOWN), task(1, version=2)
    ).done


def test_too_many_slots_are_waited_for() -> None:
    assert not judged(service(1), task(1), task(2)).done
    assert judged(service(1), task(1), task(2, desired=TASK_REMOVE)).done
    assert judged(service(0)).done


def test_a_global_service_is_done_when_all_its_tasks_run() -> None:
    assert judged(service(None), task(0), task(0)).done
    assert not judged(service(None), task(0), task(0, TASK_PREPARING)).done
    assert judged(service(None)).total == 0


def test_an_update_under_way_is_not_done() -> None:
    of = service()
    of.update_status.state = objects_pb2.UPDATE_UPDATING
    assert not judged(of, task(1), task(2)).done
    of.update_status.state = objects_pb2.UPDATE_COMPLETED
    progress = judged(of, task(1), task(2))
    assert progress.done
    assert progress.monitored


@pytest.mark.parametrize(
    "state",
    [objects_pb2.UPDATE_ROLLBACK_COMPLETED, objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_ROLLBACK_PAUSED],
)
def test_a_rollback_is_a_failure_but_an_old_one_is_not(state: int) -> None:
    of = service()
    of.update_status.state = state  # type: ignore[assignment]
    assert judged(of, task(1), task(2)).failure
    assert judged(of, task(1), task(2), before=state).done
    assert not judged(of, task(1), task(2), before=state).failure


def test_completed_one_shots_count_unless_they_are_restarted() -> None:
    done = task(1, TASK_COMPLETE, desired=TASK_SHUTDOWN)
    once = service(1, restart=types_pb2.RestartPolicy(condition=types_pb2.RESTART_ON_FAILURE))
    assert judged(once, done).done
    assert not judged(service(1), done).done


def test_a_failure_that_is_not_restarted_is_final() -> None:
    once = service(1, restart=types_pb2.RestartPolicy(condition=types_pb2.RESTART_NONE))
    progress = judged(
        once, task(1, TASK_FAILED, desired=TASK_SHUTDOWN, error="boom", exited=True, exit_code=3)
    )
    assert progress.failure == "web.1 failed and is not restarted: boom (exit code 3)"


def test_repeated_failures_end_the_waiting_only_when_nothing_runs() -> None:
    thrice = [failed(1), failed(1), failed(1), task(1, TASK_READY, desired=TASK_READY)]
    assert "no such command" in judged(service(2), *thrice).failure
    assert not judged(service(2), *thrice, task(2)).failure
    assert not judged(service(2), *thrice[1:]).failure
    of = service(2, version=2)
    of.update_status.state = objects_pb2.UPDATE_UPDATING
    assert not judged(of, *(failed(1, version=2) for _ in range(3))).failure


def test_the_last_error_of_a_slot_is_shown_while_it_restarts() -> None:
    progress = judged(
        service(1), failed(1, "first"), failed(1, "second"), task(1, TASK_READY, desired=TASK_READY)
    )
    assert [(slot.label, slot.state, slot.error) for slot in progress.slots] == [("web.1", "ready", "second")]


def test_waiting_for_a_node_is_stuck() -> None:
    waits = task(2, TASK_PENDING, message="no suitable node")
    assert judged(service(2), task(1), waits).stuck
    assert not judged(service(3), task(1), waits, task(3, TASK_PREPARING)).stuck
    assert not judged(service(1), task(1, TASK_PENDING)).stuck


def test_a_port_conflict_is_stuck_with_its_reason() -> None:
    of = service(1)
    of.endpoint.error = "port 8080/tcp is published by service api"
    progress = judged(of, task(1, TASK_PENDING))
    assert progress.stuck
    assert progress.note == of.endpoint.error


def test_a_rollback_under_way_is_shown_and_waited_for() -> None:
    of = service()
    of.update_status.state = objects_pb2.UPDATE_ROLLBACK_STARTED
    of.update_status.message = "web.1 failed"
    progress = judged(of, task(1), task(2))
    assert progress.note == "rolling back: web.1 failed"
    assert not progress.done
    assert not progress.failure
    assert not progress.stuck
