"""The scheduler on any cluster: never too much on a node, never idle room, always even, and then at rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.plan.filters import Demand, NodeInfo
from swarmpy.node.plan.scheduler import SchedulerPlanner
from swarmpy.node.plan.score import Group, Least, Ranking
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store, result_of, transaction
from swarmpy.raft.tables import Entity, wrap


@dataclass(frozen=True)
class Case:
    memory: tuple[int, ...]  # of each node, in tasks of size 1
    states: tuple[bool, ...]  # which nodes are active
    groups: tuple[tuple[int, int, bool], ...]  # tasks, size, with a host port


cases = st.integers(1, 6).flatmap(
    lambda nodes: st.builds(
        Case,
        st.tuples(*[st.integers(0, 8)] * nodes),
        st.tuples(*[st.booleans()] * nodes),
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()), min_size=1, max_size=4).map(
            tuple
        ),
    )
)


def put(store: Store, index: int, entities: list[Entity]) -> None:
    changes = [store_pb2.Change(put=wrap(entity)) for entity in entities]
    result = result_of(store.apply(index, transaction(changes, epoch=1, now_ms=index)))
    assert not result.error_code, result


def cluster(case: Case) -> Store:
    store = Store()
    store.apply(1, transaction((), epoch=1, now_ms=1, new_epoch=True))
    entities: list[Entity] = []
    for number, (memory, active) in enumerate(zip(case.memory, case.states, strict=True)):
        node = objects_pb2.Node()
        node.meta.id = f"n{number}"
        node.status.state = types_pb2.NODE_READY
        node.description.resources.memory_bytes = memory
        if not active:
            node.spec.availability = types_pb2.AVAILABILITY_DRAIN
        entities.append(node)
    for group, (count, size, port) in enumerate(case.groups):
        for slot in range(1, count + 1):
            task = objects_pb2.Task(service_id=f"s{group}", slot=slot, desired_state=types_pb2.TASK_RUNNING)
            task.meta.id = f"t{group}-{slot}"
            task.status.state = types_pb2.TASK_PENDING
            task.spec.resources.reservations.memory_bytes = size
            if port:
                task.host_ports.add(target=80, published=8000 + group)
            entities.append(task)
    put(store, 2, entities)
    return store


@given(cases)
@settings(deadline=None, max_examples=150)
def test_placement(case: Case) -> None:
    store, planner = cluster(case), SchedulerPlanner()
    index = 2
    while changes := planner.plan(store, [""], 10, lambda: "unused").changes:
        index += 1
        assert index < 10, "the scheduler does not come to rest"
        result = result_of(store.apply(index, transaction(changes, epoch=1, now_ms=index)))
        assert not result.error_code, result
    assert planner.plan(store, [""], 20, lambda: "unused").changes == []
    fresh = SchedulerPlanner().plan(store, [""], 20, lambda: "unused").changes
    assert fresh == [], "the plan depends on the planner's memory"
    free = check_nodes(store, case)
    check_waiting(store, case, free)


def check_nodes(store: Store, case: Case) -> dict[str, int]:
    free = {}
    for number, memory in enumerate(case.memory):
        placed = store.tasks_of_node(f"n{number}")
        assert case.states[number] or not placed
        free[f"n{number}"] = memory - sum(t.spec.resources.reservations.memory_bytes for t in placed)
        assert free[f"n{number}"] >= 0
        ports = Counter(port.published for task in placed for port in task.host_ports)
        assert all(count == 1 for count in ports.values())
        assert all(task.status.state == types_pb2.TASK_ASSIGNED for task in placed)
    return free


def check_waiting(store: Store, case: Case, free: dict[str, int]) -> None:
    active = [f"n{number}" for number, is_active in enumerate(case.states) if is_active]
    for group, (count, size, port) in enumerate(case.groups):
        tasks = store.tasks_of_service(f"s{group}")
        spread = Counter(task.node_id for task in tasks if task.node_id)
        waiting = [task for task in tasks if not task.node_id]
        assert spread.total() + len(waiting) == count
        for task in waiting:
            assert task.status.message.startswith("no suitable node: "), task.status.message
            room = [n for n in active if free[n] >= size and not (port and spread[n])]
            assert not room, f"{task.meta.id} waits though {room} have room: {task.status.message}"
        if size == 0 and not port and active:
            assert max(spread[n] for n in active) - min(spread[n] for n in active) <= 1


infos = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(0, 2)), min_size=1, max_size=8
)  # of each node: other tasks, memory, tasks of the service


@given(infos, st.integers(0, 3), st.integers(1, 8))
@settings(deadline=None, max_examples=300)
def test_few_tasks_go_where_a_ranking_of_all_nodes_would_put_them(
    nodes: list[tuple[int, int, int]], size: int, count: int
) -> None:
    def made() -> list[NodeInfo]:
        return [node_with(number, *node) for number, node in enumerate(nodes)]

    group = Group(Demand(0, size, (), (), 0, "s", 0))
    ranked, kept = made(), made()
    ranking, least = Ranking(ranked, group), Least(kept)
    for _ in range(count):
        found = least.place(group)
        if found is None:
            break  # whoever asks goes on with a ranking
        expected = ranking.place()
        assert expected is not None
        assert found.node_id == expected.node_id
        other = Group(Demand(0, 1, (), (), 0, "other", 0))  # meanwhile another group fills them up
        kept_node, ranked_node = kept[0], ranked[0]
        if other.problem(kept_node) is None:
            other.demand.take(kept_node)
            other.demand.take(ranked_node)
            ranking = Ranking(ranked, group)
    assert least.place(group) is None or ranking.place() is not None


def node_with(number: int, tasks: int, memory: int, own: int) -> NodeInfo:
    node = objects_pb2.Node()
    node.meta.id = f"n{number}"
    info = NodeInfo(node, f"n{number}", 0, memory, {}, memory_bytes=memory)
    for service_id, many in (("else", tasks), ("s", own)):
        for _ in range(many):
            Demand(0, 0, (), (), 0, service_id, 0).take(info)
    return info
