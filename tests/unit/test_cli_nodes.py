"""What `node ls` says of a node's room, and `ps` of a task's checks."""

from __future__ import annotations

import pytest
from swarmpy.cli.views import health
from swarmpy.cli.views_nodes import node_rows
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

GIB = 1 << 30


def test_used_reserved_and_there() -> None:
    node = objects_pb2.Node()
    node.meta.id, node.meta.created_ms = "n", 1_000
    node.status.state = types_pb2.NODE_READY
    node.description.resources.nano_cpus, node.description.resources.memory_bytes = 4_000_000_000, 8 * GIB
    node.usage.cpu_percent, node.usage.memory_percent = 20, 50
    running, waiting, ended, elsewhere = (objects_pb2.Task(node_id=name) for name in ("n", "n", "n", "m"))
    for task, state in ((running, types_pb2.TASK_RUNNING), (ended, types_pb2.TASK_FAILED)):
        task.status.state = state
    for task in (running, waiting, ended, elsewhere):
        task.spec.resources.reservations.nano_cpus = 500_000_000
        task.spec.resources.reservations.memory_bytes = GIB
    running.spec.sidecars.add().resources.reservations.nano_cpus = 250_000_000
    waiting.spec.init_containers.add().resources.reservations.memory_bytes = 2 * GIB
    tasks = [running, waiting, ended, elsewhere]
    (row,) = node_rows([node], tasks, control_pb2.StatusResponse(), 7_201_000)
    assert (row["CPU"], row["Memory"], row["Tasks"], row["Age"]) == ("0.8/1.25/4", "4/3/8GiB", 1, "2 hours")
    node.status.state = types_pb2.NODE_DOWN
    (row,) = node_rows([node], tasks, control_pb2.StatusResponse(), 7_201_000)
    assert row["CPU"] == "-/1.25/4", "what it uses is not known"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], ""),
        ([objects_pb2.VERDICT_PASSING], "healthy"),
        ([objects_pb2.VERDICT_PASSING, objects_pb2.VERDICT_WAITING], "starting"),
        ([objects_pb2.VERDICT_WAITING, objects_pb2.VERDICT_FAILING], "failing"),
    ],
)
def test_health_is_what_all_checks_of_running_containers_say(
    verdicts: list[objects_pb2.ProbeVerdict], expected: str
) -> None:
    runs, ended = (
        objects_pb2.ContainerStatus(state=s)
        for s in (objects_pb2.CONTAINER_RUNNING, objects_pb2.CONTAINER_EXITED)
    )
    ended.probes.add(verdict=objects_pb2.VERDICT_FAILING)
    for verdict in verdicts:
        runs.probes.add(verdict=verdict)
    assert health([runs, ended]) == expected
