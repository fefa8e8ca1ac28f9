"""Who stops running tasks: only those that it may stop, only as many as may be missing, and to some purpose."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.manager.plans import rebalance_plan
from swarmpy.node.plan.base import Plan, copy_of, desired_running, is_live, is_ready, is_terminal
from swarmpy.node.plan.budgets import is_available
from swarmpy.node.plan.enforce import EnforcePlanner
from swarmpy.node.plan.groups import PREEMPTION_GAP
from swarmpy.node.plan.nodes import NodesPlanner
from swarmpy.node.plan.preempt import PreemptionPlanner
from swarmpy.node.plan.rebalance import moves_for
from swarmpy.node.plan.scheduler import SchedulerPlanner
from swarmpy.node.plan.taints import evicts
from swarmpy.proto import control_pb2, objects_pb2, types_pb2
from swarmpy.raft.store import View

from tests.property.plan_play import changed, check_rest, examples
from tests.property.plan_states import RUNS, Cluster, available, clusters, free, least, world_of
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


def calm(drawn: Cluster) -> None:
    """Most of what keeps tasks from a node is taken away, so that what a test is about happens often."""
    for node in drawn[0]:
        node.update(taint=None, state=types_pb2.NODE_READY, availability=types_pb2.AVAILABILITY_ACTIVE)


# enforcement


@given(clusters)
@examples(25)
def test_enforcement_stops_what_fits_no_more_and_nothing_else(drawn: Cluster) -> None:
    drawn[0][0].update(zone="b", taint=None, state=types_pb2.NODE_READY)
    drawn[1][0].update(enforce="drain", zone="a")
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
@examples(25)
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


# preemption


@given(clusters)
@examples(25)
def test_only_clearly_less_important_tasks_are_pushed_out_within_their_budgets_and_for_something(
    drawn: Cluster,
) -> None:
    calm(drawn)
    for node in drawn[0]:
        node.update(memory=3)
    drawn[1][0].update(preempt=True, priority=50, memory=2, zone=None)
    drawn[1][1].update(memory=1, zone=None)
    drawn[1][2].update(memory=0)
    drawn[2].extend([(1, node, RUNS) for node in range(len(drawn[0]))] * 3)
    drawn[2].append((0, 0, (types_pb2.TASK_PENDING, types_pb2.TASK_RUNNING, False)))
    world = world_of(drawn)
    store, planner = world.store, PreemptionPlanner()
    before = {s.meta.id: available(store, s.meta.id) for s in store.services()}
    asking = [t for t in store.tasks() if t.status.state == types_pb2.TASK_PENDING and is_live(t, store)]
    owners = {s.meta.id: s for s in store.services()}
    best = max(
        (owners[t.service_id].spec.priority for t in asking if owners[t.service_id].spec.preempt), default=-1
    )
    plan = planner.plan(store, [""], world.now_ms, world.new_id)
    victims = stopped(world, plan)
    for victim in victims:
        assert owners[victim.service_id].spec.priority + PREEMPTION_GAP <= best, (
            f"{victim.meta.id} is important"
        )
    applied(world, plan)
    for service in owners.values():
        left = available(store, service.meta.id)
        assert left == before[service.meta.id] or left >= least(service), f"{service.meta.id} has {left} left"
    assert not planner.plan(store, [""], world.now_ms, world.new_id).changes, (
        "it stops more for the same task"
    )
    assert bool(victims) == bool(plan.changes)
    check_worth(world, victims)


def check_worth(world: World, victims: list[objects_pb2.Task]) -> None:
    """Once they have stopped, on each of their nodes a task runs that could not before."""
    store = world.store
    short = {task.node_id: free(store, task.node_id) for task in victims}
    ended = [
        copy_of(t) for t in store.tasks() if t.desired_state == SHUTDOWN and not is_terminal(t.status.state)
    ]
    for task in ended:
        task.status.state = types_pb2.TASK_SHUTDOWN
    world.put(*ended)
    applied(world, SchedulerPlanner().plan(store, [""], world.now_ms, world.new_id))
    owners = {s.meta.id: s for s in store.services()}
    for node_id, room in short.items():
        came = [t for t in store.tasks_of_node(node_id) if t.status.state == types_pb2.TASK_ASSIGNED]
        high = [t for t in came if owners[t.service_id].spec.preempt]
        assert high, f"nothing came to {node_id}, where there was room for {room}"
        assert free(store, node_id) >= 0


# rebalancing


def unevenness(view: View) -> tuple[int, int]:
    """Of all services together, and of the nodes: the sums of squares, which are least where all is even."""
    own: Counter[tuple[str, str]] = Counter()
    whole: Counter[str] = Counter()
    for task in view.tasks():
        if is_live(task, view) and task.node_id:
            own[task.service_id, task.node_id] += 1
            whole[task.node_id] += 1
    return sum(n * n for n in own.values()), sum(n * n for n in whole.values())


def moved(world: World, most: int) -> int:
    """Rebalance once, and carry the moves out at once; how many there were."""
    found = moves_for(world.store, world.now_ms, most=most)
    assert len(found.moves) <= most
    for move in found.moves:
        before = unevenness(world.store)
        gone, came = copy_of(move.task), copy_of(move.task)
        node = world.store.node(move.to_node_id)
        assert is_ready(node), f"{move.to_node_id} takes nothing"
        assert gone.node_id != move.to_node_id
        size = gone.spec.resources.reservations.memory_bytes
        fits = not size or free(world.store, move.to_node_id) >= size
        assert fits, f"{move.task.meta.id} does not fit on {move.to_node_id}"
        here = world.store.node(gone.node_id)
        must = (
            free(world.store, gone.node_id) < 0
            or is_misplaced(world.store, gone)
            or bool(here and here.spec.taints)
        )
        world.delete(4, gone.meta.id)
        came.meta.id, came.node_id, came.meta.version = world.new_id(), move.to_node_id, 0
        world.put(came)
        assert must or gone.spec.placement.preferences or unevenness(world.store) < before, (
            f"{gone.meta.id}: nothing gained"
        )
    return len(found.moves)


@given(clusters, st.integers(1, 4))
@examples(25)
def test_rebalancing_moves_only_to_where_it_is_better_and_comes_to_an_end(drawn: Cluster, most: int) -> None:
    calm(drawn)
    world = world_of(drawn)
    left = 60
    while moved(world, most):
        left -= 1
        assert left, "it moves to and fro"


@given(clusters, st.integers(1, 4))
@examples(14)
def test_rebalancing_that_is_asked_for_marks_no_more_than_so_many(drawn: Cluster, most: int) -> None:
    world = world_of(drawn)
    request = control_pb2.RebalanceRequest(max_moves=most)
    response, changes = rebalance_plan(world.store, request, world.now_ms)
    assert len(changes) == len(response.moves) <= most
    for change in changes:
        task = world.store.task(change.put.task.meta.id)
        assert task is not None
        assert is_live(task, world.store)
        assert task.status.state == types_pb2.TASK_RUNNING


# nodes


@given(clusters, st.sampled_from((0, 29_999, 30_000, 86_400_000, 90_000_000)))
@examples(25)
def test_a_node_in_trouble_stops_its_tasks_and_a_drain_leaves_what_budgets_keep(
    drawn: Cluster, later_ms: int
) -> None:
    if later_ms < 30_000:
        calm(drawn)
        drawn[0][0].update(availability=types_pb2.AVAILABILITY_DRAIN, parallelism=0, deadline_ms=0)
        drawn[1][0].update(min_available="1")
    world = world_of(drawn)
    world.now_ms += later_ms
    store, planner = world.store, NodesPlanner()
    before = {s.meta.id: available(store, s.meta.id) for s in store.services()}
    keys = [node.meta.id for node in store.nodes()]
    plan = planner.plan(store, keys, world.now_ms, world.new_id)
    for task in stopped(world, plan):
        node = store.node(task.node_id)
        assert node is not None
        drained = node.spec.availability == types_pb2.AVAILABILITY_DRAIN
        assert drained or node.status.state == types_pb2.NODE_DOWN, f"{task.meta.id} is on a good node"
    applied(world, plan)
    assert not planner.plan(store, keys, world.now_ms, world.new_id).changes
    late = {n.meta.id for n in store.nodes() if n.spec.drain_deadline_ms and later_ms >= 30_000}
    for service in store.services():
        left = available(store, service.meta.id)
        tasks = store.tasks_of_service(service.meta.id)
        forced = any(t.stop_reason == "DRAINED" and t.node_id in late for t in tasks)
        assert forced or left in (before[service.meta.id], max(left, least(service))), (
            f"{service.meta.id}: {left}"
        )
    for node in store.nodes():
        check_node(world, node)


def check_node(world: World, node: objects_pb2.Node) -> None:
    """At most so many leave at once; of a node that is down nothing is wanted, and after a day nothing is known."""
    tasks = world.store.tasks_of_node(node.meta.id)
    wanted = [t for t in tasks if desired_running(t) and not is_terminal(t.status.state)]
    drained = node.spec.availability == types_pb2.AVAILABILITY_DRAIN
    if node.status.state == types_pb2.NODE_DOWN:
        assert not wanted
        orphaned = world.now_ms >= node.status.since_ms + 24 * 3_600_000
        alive = [t for t in tasks if not is_terminal(t.status.state)]
        assert not (orphaned and alive), f"{alive[0].meta.id} is not given up after a day"
    elif drained:
        leaving = sum(bool(t.leaving_ms) for t in wanted)
        limit, deadline_ms = node.spec.drain_parallelism, node.spec.drain_deadline_ms
        over = deadline_ms and world.now_ms >= node.drain_ms + deadline_ms
        assert not over or not wanted, "its deadline is over"
        assert over or not limit or leaving <= limit, f"{leaving} leave at once, {limit} may"
        assert over or limit or leaving == len(wanted), "some neither stop nor leave"
    else:
        assert not any(t.leaving_ms for t in tasks)
