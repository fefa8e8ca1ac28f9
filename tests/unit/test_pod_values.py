"""The containers of a task as values, the machine's part in them, and how lists show them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from swarmpy.cli import views
from swarmpy.cli.converge import trouble
from swarmpy.node.agent import machine, pod, probes
from swarmpy.node.agent.machine import Action, Local, Outcome, after, lost, next_action
from swarmpy.node.agent.pod import Progress, Seen
from swarmpy.node.agent.probes import Check, Checks
from swarmpy.proto import objects_pb2, types_pb2

READINESS = objects_pb2.PROBE_READINESS


def local(state: int, *containers: objects_pb2.ContainerStatus) -> Local:
    task = objects_pb2.Task(desired_state=types_pb2.TASK_RUNNING)
    status = objects_pb2.TaskStatus(state=state, containers=containers)  # type: ignore[arg-type]
    return Local("t", task, status, container=True)


def status(name: str, role: int, state: int) -> objects_pb2.ContainerStatus:
    return objects_pb2.ContainerStatus(name=name, role=role, state=state)  # type: ignore[arg-type]


def test_names_ids_and_the_order_of_a_stop() -> None:
    spec = types_pb2.TaskSpec()
    for name in ("one", "two"):
        spec.sidecars.add(name=name)
    spec.init_containers.add(name="before")
    parts = pod.parts(spec)
    assert [part.name for part in parts] == ["before", "one", "two", "main"]
    known = ["t", "t.one", "t.two", "t.before", "t.left-over", "tt", "u.one"]
    assert pod.stop_order("t", parts, known) == ["t", "t.two", "t.one", "t.before", "t.left-over"]
    assert pod.stop_order("t", (), known)[0] == "t"
    assert pod.ids_of("t", known) == ["t", "t.before", "t.left-over", "t.one", "t.two"]
    assert [pod.name_of(pod.container_id("t", name)) for name in ("", "main", "one")] == [
        "main",
        "main",
        "one",
    ]


@pytest.mark.parametrize(
    ("ends", "delay_ms"), [(1, 1000), (2, 2000), (5, 16_000), (7, 60_000), (500, 60_000)]
)
def test_a_sidecar_that_ends_quickly_rests_longer_and_longer(ends: int, delay_ms: int) -> None:
    assert pod.restart_delay_ms(ends) == delay_ms
    assert pod.quick_ends_after(ends, 59_999) == ends + 1
    assert pod.quick_ends_after(ends, 60_000) == 1


def test_ready_is_what_every_readiness_check_says_once_main_is_healthy() -> None:
    asked = Checks(readiness=Check(tcp=":80"))
    main = Seen("main", pod.MAIN_ROLE).started(1)
    side = Seen("side", pod.SIDECAR_ROLE, asked).started(1)
    assert pod.progress_of([main]) == Progress(True, ())
    assert not pod.progress_of([Seen("main", pod.MAIN_ROLE)]).ready
    assert not pod.progress_of([main, side]).ready
    passing = probes.answered(probes.begun(READINESS, asked.readiness or Check(), 0), "", 5)
    assert pod.progress_of([main, side.probed(passing)]).ready
    assert not pod.progress_of([main, side.probed(passing).ended(1, "exit code 1", 9)]).ready
    unasked = Seen("side", pod.SIDECAR_ROLE).ended(1, "exit code 1", 9)
    assert pod.progress_of([main, unasked]).ready, "a sidecar that is not asked does not take the task out"


def test_readiness_changes_a_running_task_without_a_step_of_its_state() -> None:
    task = after(local(types_pb2.TASK_STARTING), Outcome(Action.CHECK, 10, progress=Progress(False)))
    assert (task.state, task.status.ready, task.status.ready_ms) == (types_pb2.TASK_RUNNING, False, 0)
    task = after(task, Outcome(Action.WATCH, 20, progress=Progress(True), pending=True))
    assert (task.status.ready, task.status.ready_ms, task.state) == (True, 20, types_pb2.TASK_RUNNING)
    task = after(task, Outcome(Action.WATCH, 30, progress=Progress(False), pending=True))
    task = after(task, Outcome(Action.WATCH, 40, progress=Progress(True), pending=True))
    assert (task.status.ready_ms, task.status.started_ms) == (20, 10)
    assert next_action(task) is Action.WATCH
    assert not machine.begun(task, Action.STOP, 50).status.ready
    assert after(task, Outcome(Action.WATCH, 60, progress=Progress(True), pending=True)) is task


def test_a_task_that_is_not_up_yet_is_never_ready() -> None:
    starting = after(
        local(types_pb2.TASK_STARTING), Outcome(Action.CHECK, 10, progress=Progress(True), pending=True)
    )
    assert not starting.status.ready
    assert starting.state == types_pb2.TASK_STARTING


def test_a_pod_whose_main_container_was_not_started_is_prepared_again_not_lost() -> None:
    done = status("migrate", pod.INIT_ROLE, pod.EXITED)
    waiting = lost(local(types_pb2.TASK_STARTING, done, status("main", pod.MAIN_ROLE, pod.WAITING)), 5)
    assert waiting.state == types_pb2.TASK_PREPARING
    assert not waiting.status.containers  # what the init container left in the pod's volumes went with it
    assert next_action(waiting) is Action.PREPARE
    gone = lost(local(types_pb2.TASK_RUNNING, done, status("main", pod.MAIN_ROLE, pod.RUNNING)), 5)
    assert (gone.state, gone.status.reason) == (types_pb2.TASK_FAILED, "CONTAINER_LOST")


def test_lists_show_containers_of_a_pod_below_their_task_and_say_what_is_wrong() -> None:
    asked = Seen("main", pod.MAIN_ROLE, Checks(readiness=Check(tcp=":80"))).started(1_000)
    failing = probes.answered(probes.begun(READINESS, Check(retries=1, interval_ms=1), 0), "refused", 1_000)
    proxy = replace(Seen("proxy", pod.SIDECAR_ROLE).ended(7, "exit code 7", 2_000), restarts=3)
    task = objects_pb2.Task(service_name="web", slot=1, desired_state=types_pb2.TASK_RUNNING)
    task.meta.id = "abc"
    task.spec.sidecars.add(name="proxy").container.image = "envoy:1"
    task.status.state = types_pb2.TASK_RUNNING
    task.status.containers.extend([proxy.status, asked.probed(failing).status])
    assert trouble(task.status) == "proxy: exit code 7 (restarted 3 times)"
    rows = views.task_rows([task], {}, 3_000, whole=False)
    assert [row["Name"] for row in rows] == ["web.1", "    web.1/proxy", "    web.1/main"]
    assert rows[0]["CurrentState"].startswith("Running, not ready,")
    assert rows[1]["CurrentState"] == "Exited (7) 1 second ago, restarted 3 times"
    assert (rows[1]["Image"], rows[1]["DesiredState"]) == ("envoy:1", "(sidecar)")
    assert rows[2]["Error"] == "readiness check: refused"
    assert len(views.task_rows([task], {}, 3_000, whole=False, tree=False)) == 1


def test_a_new_agent_does_not_take_a_task_out_of_service_by_not_knowing() -> None:
    check = Check(tcp=":80")
    asked = Checks(check, check, check)
    parts = pod.parts(types_pb2.TaskSpec())
    plain = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING, ready=True, started_ms=5)
    for checks in (Checks(), asked):
        seen = pod.resumed("t", parts, {"main": checks}, plain, 1_000)
        assert seen["main"].healthy
        assert pod.progress_of(seen.values()).ready
    unready = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING, started_ms=5)
    seen = pod.resumed("t", parts, {"main": asked}, unready, 1_000)
    assert seen["main"].healthy
    assert not pod.progress_of(seen.values()).ready
    again = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING, containers=[seen["main"].status])
    assert pod.resumed("t", parts, {"main": asked}, again, 2_000)["main"].status == seen["main"].status
    starting = objects_pb2.TaskStatus(state=types_pb2.TASK_STARTING)
    assert not pod.resumed("t", parts, {"main": Checks()}, starting, 1_000)["main"].up
    restarted = seen["main"].started(3_000)
    assert not restarted.up, "what an earlier container had passed counted for the next one"
