"""Clusters in any state: nodes with labels, taints and room, services with rules, and tasks anywhere on their way.

Drawn as plain values and made into a store at once, so that also what is seldom reached is looked at. A service's
tasks are `slot` 1, 2, 3 …, each with one attempt; `holds` says which of them use their nodes.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from swarmpy.node.plan.base import Planner, holds_resources, is_lost
from swarmpy.node.plan.budgets import is_available
from swarmpy.node.plan.tasks import enter
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import View

from tests.store_world import START_MS, World, cluster

State, Desired = types_pb2.TaskState, types_pb2.TaskState
nodes = st.fixed_dictionaries(
    {
        "memory": st.integers(0, 8),
        "zone": st.sampled_from("ab"),
        "taint": st.sampled_from((None, None, *types_pb2.TaintEffect.values())),
        "state": st.sampled_from((types_pb2.NODE_READY,) * 4 + (types_pb2.NODE_DOWN,)),
        "availability": st.sampled_from(
            (types_pb2.AVAILABILITY_ACTIVE,) * 3 + tuple(types_pb2.Availability.values())
        ),
        "parallelism": st.integers(0, 2),
        "deadline_ms": st.sampled_from((0, 0, 60_000)),
    }
)
services = st.fixed_dictionaries(
    {
        "memory": st.integers(0, 3),
        "priority": st.sampled_from((0, 40, 41, 50, 60)),
        "preempt": st.booleans(),
        "min_available": st.sampled_from(("", "", "1", "2", "50%", "100%")),
        "zone": st.sampled_from((None, None, "a")),
        "spread": st.booleans(),
        "tolerates": st.booleans(),
        "enforce": st.sampled_from(("", "now", "drain", "ignore")),
        "order": st.sampled_from(types_pb2.UpdateOrder.values()),
    }
)
RUNS = (types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, True)
tasks = st.tuples(
    st.integers(0, 2),  # of which service
    st.integers(0, 3),  # on which node
    st.sampled_from(
        (
            *(RUNS,) * 6,
            (types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, False),
            (types_pb2.TASK_STARTING, types_pb2.TASK_RUNNING, False),
            (types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN, True),
            (types_pb2.TASK_FAILED, types_pb2.TASK_RUNNING, False),
            (types_pb2.TASK_PENDING, types_pb2.TASK_RUNNING, False),
            (types_pb2.TASK_PENDING, types_pb2.TASK_RUNNING, False),
        )
    ),
)
clusters = st.tuples(
    st.lists(nodes, min_size=2, max_size=4),
    st.lists(services, min_size=3, max_size=3),
    st.lists(tasks, max_size=14),
)
Cluster = tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[int, int, tuple[int, int, bool]]]]


def world_of(drawn: Cluster, *planners: Planner) -> World:
    """The store of a drawn cluster; nobody has planned anything yet."""
    world = World(*planners)
    world.put(cluster(auto_rebalance=True))
    world.put(*(_node(number, has) for number, has in enumerate(drawn[0])))
    made = [_service(number, wants) for number, wants in enumerate(drawn[1])]
    counts = [0] * len(made)
    placed = []
    for service, node, state in drawn[2]:
        counts[service] += 1
        placed.append(_task(made[service], counts[service], f"n{node % len(drawn[0])}", state))
    for service, count in zip(made, counts, strict=True):
        service.spec.replicated.replicas = count
    world.put(*made, *placed)
    return world


def _node(number: int, has: dict[str, Any]) -> objects_pb2.Node:
    node = objects_pb2.Node()
    node.meta.id = node.meta.name = f"n{number}"
    node.meta.labels["zone"] = has["zone"]
    node.description.resources.memory_bytes = has["memory"]
    node.status.state, node.status.since_ms = has["state"], START_MS - 60_000
    node.spec.availability = has["availability"]
    node.spec.drain_parallelism, node.spec.drain_deadline_ms = has["parallelism"], has["deadline_ms"]
    node.drain_ms = START_MS - 30_000
    if has["taint"] is not None:
        node.spec.taints.add(key="t", effect=has["taint"])
    return node


def _service(number: int, wants: dict[str, Any]) -> objects_pb2.Service:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = f"s{number}"
    spec = service.spec
    spec.priority, spec.preempt, spec.min_available = (
        wants["priority"],
        wants["preempt"],
        wants["min_available"],
    )
    spec.enforce = wants["enforce"]
    spec.update.order = wants["order"]
    spec.task.resources.reservations.memory_bytes = wants["memory"]
    if wants["zone"]:
        spec.task.placement.constraints.append(f"node.labels.zone=={wants['zone']}")
    if wants["spread"]:
        spec.task.placement.preferences.add(spread="node.labels.zone")
    if wants["tolerates"]:
        spec.task.placement.tolerations.add(key="t")
    return service


def _task(
    service: objects_pb2.Service, slot: int, node_id: str, drawn: tuple[int, int, bool]
) -> objects_pb2.Task:
    state, desired, ready = drawn
    task = objects_pb2.Task(
        service_id=service.meta.id,
        service_name=service.meta.name,
        slot=slot,
        spec_version=1,
        spec=service.spec.task,
    )
    task.meta.id = task.meta.name = f"{service.meta.id}-{slot}"
    task.desired_state = desired  # type: ignore[assignment]
    enter(task, state, START_MS, "no suitable node" if state == types_pb2.TASK_PENDING else "drawn")  # type: ignore[arg-type]
    task.status.ready, task.status.ready_ms = ready, START_MS if ready else 0
    if state != types_pb2.TASK_PENDING:
        task.node_id = node_id
    return task


def free(view: View, node_id: str) -> int:
    """How much memory a node has left; less than nothing where more is promised than it has."""
    node = view.node(node_id)
    assert node is not None
    held = [task for task in view.tasks_of_node(node_id) if holds_resources(task)]
    taken = sum(task.spec.resources.reservations.memory_bytes for task in held)
    return node.description.resources.memory_bytes - taken


def available(view: View, service_id: str) -> int:
    return sum(is_available(task, view) for task in view.tasks_of_service(service_id))


def least(service: objects_pb2.Service, *, without: int = 0) -> int:
    """How many must stay available; `without` where the service says nothing."""
    text, wanted = service.spec.min_available, service.spec.replicated.replicas
    if not text:
        return without
    return -(-wanted * int(text[:-1]) // 100) if text.endswith("%") else int(text)


def runs_well(view: View, task: objects_pb2.Task) -> bool:
    return task.desired_state <= types_pb2.TASK_RUNNING and holds_resources(task) and not is_lost(task, view)
