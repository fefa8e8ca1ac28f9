"""Hard rules of placement on any cluster: taints, affinities, max-skew, names; and the judge agrees."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.plan.scheduler import SchedulerPlanner
from swarmpy.node.plan.verdicts import judge
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store, result_of, transaction
from swarmpy.raft.tables import Entity, wrap

NAMES = ("s0", "s1", "s2")
rules = st.fixed_dictionaries(
    {
        "replicas": st.integers(1, 5),
        "memory": st.integers(0, 2),
        "gpus": st.integers(0, 1),
        "tolerates": st.booleans(),
        "affinity": st.sampled_from((None, "near s0", "away s0", "away s1", "away s2", "rack away s2")),
        "spread": st.sampled_from((None, 0, 1, 2)),
        "strategy": st.sampled_from(("", "binpack", "random")),
    }
)
nodes = st.fixed_dictionaries(
    {
        "memory": st.integers(0, 6),
        "rack": st.sampled_from("ab"),
        "tainted": st.booleans(),
        "gpus": st.integers(0, 2),
    }
)


def world(node_list: list[dict[str, object]], services: list[dict[str, object]]) -> Store:
    store = Store()
    store.apply(1, transaction((), epoch=1, now_ms=1, new_epoch=True))
    entities: list[Entity] = []
    for number, has in enumerate(node_list):
        node = objects_pb2.Node()
        node.meta.id = node.meta.name = f"n{number}"
        node.meta.labels["rack"] = str(has["rack"])
        node.status.state = types_pb2.NODE_READY
        node.description.resources.memory_bytes = has["memory"]  # type: ignore[assignment]
        if has["tainted"]:
            node.spec.taints.add(key="t", effect=types_pb2.TAINT_NO_SCHEDULE)
        node.spec.generic["gpu"].names.extend(f"g{n}" for n in range(has["gpus"]))  # type: ignore[call-overload]
        entities.append(node)
    for name, wants in zip(NAMES, services, strict=False):
        service = objects_pb2.Service(spec_version=1)
        service.meta.id = service.meta.name = name
        fill(service, wants)
        entities.append(service)
        for slot in range(1, service.spec.replicated.replicas + 1):
            task = objects_pb2.Task(service_id=name, service_name=name, slot=slot, spec_version=1)
            task.meta.id, task.desired_state = f"{name}-{slot}", types_pb2.TASK_RUNNING
            task.status.state = types_pb2.TASK_PENDING
            task.spec.CopyFrom(service.spec.task)
            entities.append(task)
    put(store, 2, [store_pb2.Change(put=wrap(entity)) for entity in entities])
    return store


def fill(service: objects_pb2.Service, wants: dict[str, object]) -> None:
    spec = service.spec
    spec.strategy = str(wants["strategy"])
    spec.replicated.replicas = wants["replicas"]  # type: ignore[assignment]
    reserved, placement = spec.task.resources.reservations, spec.task.placement
    reserved.memory_bytes = wants["memory"]  # type: ignore[assignment]
    if wants["gpus"]:
        reserved.generic["gpu"] = 1
    if wants["tolerates"]:
        placement.tolerations.add(key="t")
    if wants["affinity"] is not None:
        *topology, sort, target = str(wants["affinity"]).split()
        key = "node.labels.rack" if topology else ""
        placement.affinities.add(service=target, anti=sort == "away", topology=key)
    if wants["spread"] is not None:
        placement.preferences.add(spread="node.labels.rack", max_skew=wants["spread"])


def put(store: Store, index: int, changes: list[store_pb2.Change]) -> None:
    result = result_of(store.apply(index, transaction(changes, epoch=1, now_ms=index)))
    assert not result.error_code, result


@given(st.lists(nodes, min_size=1, max_size=5), st.lists(rules, min_size=1, max_size=3))
@settings(deadline=None, max_examples=60)
def test_hard_rules_hold_and_what_waits_has_the_judges_reason(
    node_list: list[dict[str, object]], services: list[dict[str, object]]
) -> None:
    store, index = world(node_list, services), 2
    planner = SchedulerPlanner()
    while changes := planner.plan(store, [""], 10, lambda: "unused").changes:
        index += 1
        assert index < 10, "the scheduler does not come to rest"
        put(store, index, changes)
    for name, wants in zip(NAMES, services, strict=False):
        check(store, name, wants)
    for node in store.nodes():
        names = [n for t in store.tasks_of_node(node.meta.id) for r in t.assigned_resources for n in r.names]
        assert len(names) == len(set(names)), f"{node.meta.id} gave a name twice: {names}"
        assert set(names) <= set(node.spec.generic["gpu"].names if "gpu" in node.spec.generic else ())
    for task in store.tasks():
        if not task.node_id:
            verdict = judge(store, task, 20)
            assert verdict.sentence == task.status.message
            assert verdict.chosen is None


def check(store: Store, name: str, wants: dict[str, object]) -> None:
    placed = [task for task in store.tasks_of_service(name) if task.node_id]
    homes = {node.meta.id: node for node in store.nodes()}
    racks = Counter(homes[task.node_id].meta.labels["rack"] for task in placed)
    for task in placed:
        node = homes[task.node_id]
        assert wants["tolerates"] or not node.spec.taints, f"{task.meta.id} is on tainted {node.meta.id}"
        assert len(task.assigned_resources) == (1 if wants["gpus"] else 0)
        rule = next(iter(task.spec.placement.affinities), None)
        if rule is None:
            continue
        here = [
            other
            for other in store.tasks_of_service(rule.service)
            if other.meta.id != task.meta.id and other.node_id and together(homes, task, other, rule.topology)
        ]
        if rule.anti:
            assert not here, f"{task.meta.id} is with {here[0].meta.id}"
        else:
            alone = rule.service == name and len(placed) == 1
            assert here or alone, f"{task.meta.id} is not with {rule.service}"
    if wants["spread"] and placed:
        values = {
            node.meta.labels["rack"] for node in homes.values() if wants["tolerates"] or not node.spec.taints
        }
        counts = [racks[value] for value in values]
        assert max(counts) - min(counts) <= int(str(wants["spread"])), f"{name}: {racks}"


def together(
    homes: dict[str, objects_pb2.Node], task: objects_pb2.Task, other: objects_pb2.Task, topology: str
) -> bool:
    if not topology:
        return task.node_id == other.node_id
    return homes[task.node_id].meta.labels["rack"] == homes[other.node_id].meta.labels["rack"]
