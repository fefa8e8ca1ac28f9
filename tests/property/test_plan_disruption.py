"""Who stops running tasks: only those that it may stop, only as many as may be missing, and to some purpose."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.plan.base import Plan, copy_of, desired_running, is_terminal
from swarmpy.node.plan.budgets import is_available
from swarmpy.node.plan.enforce import EnforcePlanner
from swarmpy.node.plan.taints import evicts
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import View

from tests.property.plan_play import changed, check_rest, examples
from tests.property.plan_states import Cluster, available, clusters, least, world_of
from tests.store_world import World

SHUTDOWN = types_pb2.TASK_SHUTDOWN


def stopped(world: World, plan: Plan) -> list[objects_pb2.Task]:
    """The tasks that a plan tells to stop, as they were."""
    found = [world.store.task(t.meta.id) for t in changed(plan) if t.desired_state > types_pb2.TASK_RUNNING]
    return [task for task in found if task is not None and task.desired_state <= types_pb2.TASK_RUNNING]


def applied(world: World, plan: Plan) -> None:
    result = world.send(plan.changes)
    assert not result.error_code, result.error


def must_go(view: View, task: objects_pb2.Task) -> bool:
    node = view.node(task.node_id)
    return node is not None and evicts(node, task.spec.placement.tolerations) is not None


def is_misplaced(view: View, task: objects_pb2.Task) -> bool:
    node = view.node(task.node_id)
    return node is not None and bool(task.spec.placement.constraints) and node.meta.labels["zone"] != "a"


# enforcement


@given(clusters)
@examples(60)
def test_enforcement_stops_what_fits_no_more_and_nothing_else(drawn: Cluster) -> None:
    world = world_of(drawn)
    planner = EnforcePlanner()
    keys = list(planner.all_keys(world.store))
    plan = planner.plan(world.store, keys, world.now_ms, world.new_id)
    ids = {task.meta.id for task in stopped(world, plan)}
    evicted = Counter(task.service_id for task in stopped(world, plan) if must_go(world.store, task))
    for task in world.store.tasks():
        service = world.store.service(task.service_id)
        assert service is not None
        runs = bool(task.node_id) and desired_running(task) and not is_terminal(task.status.state)
        must = runs and must_go(world.store, task)
        misplaced = runs and is_misplaced(world.store, task)
        if must or (misplaced and service.spec.enforce in {"", "now"}):
            assert task.meta.id in ids, f"{task.meta.id} stays"
        if task.meta.id in ids:
            assert must or (misplaced and service.spec.enforce != "ignore"), f"{task.meta.id} fits"
    applied(world, plan)
    for service in world.store.services():
        if service.spec.enforce == "drain" and not evicted[service.meta.id]:
            check_one_by_one(world, service, ids)
    assert not planner.plan(world.store, keys, world.now_ms, world.new_id).changes


def check_one_by_one(world: World, service: objects_pb2.Service, ids: set[str]) -> None:
    """What is available is stopped only while enough others are, and then it is."""
    tasks = world.store.tasks_of_service(service.meta.id)
    there, need = available(world.store, service.meta.id), least(service, without=len(tasks) - 1)
    running = [
        t for t in tasks if t.meta.id in ids and t.status.state == types_pb2.TASK_RUNNING and t.status.ready
    ]
    node_of = world.store.node
    gone = [t for t in running if (node := node_of(t.node_id)) and node.status.state == types_pb2.NODE_READY]
    assert not gone or there >= need, f"{there} of {service.meta.id} are left, {need} must be"
    stays = [t for t in tasks if is_available(t, world.store) and is_misplaced(world.store, t)]
    assert not stays or there <= need, f"{stays[0].meta.id} could be stopped"


changes = st.lists(
    st.tuples(
        st.sampled_from(("ready", "up", "replace", "zone", "taint", "budget", "enforce", "scale", "end")),
        st.integers(0, 13),
    ),
    max_size=10,
)


def change(world: World, name: str, number: int) -> None:
    """Something that may make room in a budget, or make a task fit no more."""
    store = world.store
    tasks = [copy_of(task) for task in store.tasks() if task.node_id and not is_terminal(task.status.state)]
    service = copy_of(store.service(f"s{number % 3}"))  # type: ignore[type-var]
    node = copy_of(list(store.nodes())[number % store.count(2)])
    match name:
        case "ready" if tasks:
            task = tasks[number % len(tasks)]
            task.status.ready = not task.status.ready
            world.put(task)
        case "up" if tasks:
            task = tasks[number % len(tasks)]
            up = desired_running(task)
            task.status.state = types_pb2.TASK_RUNNING if up else types_pb2.TASK_SHUTDOWN
            task.status.ready = task.status.ready or (up and number % 2 == 0)
            world.put(task)
        case "zone":
            node.meta.labels["zone"] = "ab"[number // 4 % 2]
            world.put(node)
        case "taint":
            del node.spec.taints[:]
            if number > 6:
                node.spec.taints.add(key="t", effect=types_pb2.TAINT_NO_EXECUTE)
            world.put(node)
        case "budget":
            service.spec.min_available = ("", "1", "50%", "100%")[number // 3 % 4]
            world.put(service)
        case "enforce":
            service.spec.enforce = ("now", "drain", "ignore")[number // 3 % 3]
            world.put(service)
        case "scale":
            service.spec.replicated.replicas = number // 3
            world.put(service)


@given(clusters, changes)
@examples(60)
def test_enforcement_overlooks_nothing_that_makes_room(
    drawn: Cluster, happens: list[tuple[str, int]]
) -> None:
    for service in drawn[1]:
        service.update(enforce="drain", zone="a")
    world = world_of(drawn, EnforcePlanner())
    world.settle()
    for name, number in happens:
        change(world, name, number)
        world.settle()
        check_rest(world)
