"""Shared assignment items: kept up by commits they equal those made anew; who takes traffic; what a node gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.items import Items, apply, as_digest, digest
from swarmpy.node.manager import assignments
from swarmpy.node.manager.assignments import (
    SharedItems,
    endpoints_item,
    node_config_item,
    node_items,
    peer_item,
    takes_traffic,
)
from swarmpy.node.manager.outbox import Holders, Outbox, concerns_all
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit
from swarmpy.raft.tables import Entity
from swarmpy.raft.view import ChangeEvent

from tests.store_world import World

NODES, SERVICES, NETWORKS, TASKS = ("n1", "n2"), ("s1", "s2"), ("w1",), ("t1", "t2", "t3", "t4")
POLICIES = ("p1", "p2")
OWN = ("task/", "image/", "volume/", "node/")


def node(
    name: str, state: types_pb2.NodeState, *, removed: bool = False, port: int = 7378
) -> objects_pb2.Node:
    made = objects_pb2.Node(removed=removed, index=NODES.index(name) + 1)
    made.meta.id = made.meta.name = name
    made.description.hostname, made.description.address, made.description.agent_port = (
        name,
        f"10.0.0.{made.index}",
        port,
    )
    made.status.state = state
    return made


def policy(name: str, subject: str, peer: str, network_id: str) -> objects_pb2.Policy:
    spec = objects_pb2.PolicySpec(
        subjects=[objects_pb2.PolicySelector(labels={"app": subject})],
        peers=[objects_pb2.PolicySelector(labels={"app": peer} if peer else {})],
        network=network_id,
    )
    made = objects_pb2.Policy(spec=spec)
    made.meta.id = made.meta.name = name
    return made


def service(name: str, port: int = 0, app: str = "") -> objects_pb2.Service:
    made = objects_pb2.Service()
    if app:
        made.meta.labels["app"] = app
    made.meta.id = made.meta.name = name
    made.spec.replicated.replicas = 1
    if port:
        made.endpoint.ports.add(published=port, target=80)
    return made


def network(name: str, subnet: str) -> objects_pb2.Network:
    made = objects_pb2.Network(subnet=subnet)
    made.meta.id = made.meta.name = name
    return made


def task(
    name: str,
    owner: str,
    on: str,
    state: types_pb2.TaskState,
    desired: types_pb2.TaskState,
    *,
    ready: bool = True,
) -> objects_pb2.Task:
    made = objects_pb2.Task(service_id=owner, service_name=owner, node_id=on, slot=1, desired_state=desired)
    made.meta.id = made.meta.name = name
    made.status.state, made.status.ready = state, ready
    if state >= types_pb2.TASK_STARTING:
        made.status.addresses.add(network_id="w1", address=f"10.1.0.{TASKS.index(name) + 1}")
    made.spec.container.image, made.spec.container.image_digest = "web:1", "sha256:" + "a" * 64
    return made


STATES = st.sampled_from(
    [types_pb2.TASK_ASSIGNED, types_pb2.TASK_STARTING, types_pb2.TASK_RUNNING, types_pb2.TASK_FAILED]
)
WISHES = st.sampled_from([types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN])
NODE_STATES = st.sampled_from([types_pb2.NODE_READY, types_pb2.NODE_DOWN])
CHANGES = st.one_of(
    st.builds(node, st.sampled_from(NODES), NODE_STATES, removed=st.booleans()),
    st.builds(service, st.sampled_from(SERVICES), st.integers(0, 2), st.sampled_from(["", "a", "b"])),
    st.builds(
        policy,
        st.sampled_from(POLICIES),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["", "w1"]),
    ),
    st.tuples(st.just(store_pb2.KIND_POLICY), st.sampled_from(POLICIES)),
    st.builds(network, st.sampled_from(NETWORKS), st.sampled_from(["10.1.0.0/16", "10.2.0.0/16"])),
    st.builds(
        task,
        st.sampled_from(TASKS),
        st.sampled_from(SERVICES),
        st.sampled_from(NODES),
        STATES,
        WISHES,
        ready=st.booleans(),
    ),
    st.tuples(st.just(store_pb2.KIND_NODE), st.sampled_from(NODES)),
    st.tuples(st.just(store_pb2.KIND_SERVICE), st.sampled_from(SERVICES)),
    st.tuples(st.just(store_pb2.KIND_NETWORK), st.sampled_from(NETWORKS)),
    st.tuples(st.just(store_pb2.KIND_TASK), st.sampled_from(TASKS)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(CHANGES, max_size=25))
def test_kept_up_is_the_same_as_made_anew(changes: list[object]) -> None:
    world = World()
    shared = SharedItems(world.store)
    told: list[bool] = []
    world.store.listeners.append(lambda commit: told.append(shared.feed(commit.events)))
    for change in changes:
        before = dict(shared.items)
        told.clear()
        if isinstance(change, tuple):
            kind, name = change
            if world.store.get(kind, name) is not None:
                world.delete(kind, name)
        else:
            assert isinstance(
                change,
                objects_pb2.Node
                | objects_pb2.Service
                | objects_pb2.Network
                | objects_pb2.Task
                | objects_pb2.Policy,
            )
            world.put(change)
        differs = shared.refresh()
        assert shared.is_current
        assert shared.items == SharedItems(world.store).items
        assert as_digest(shared.total) == digest(shared.items)
        assert before == shared.items or (told and told[-1]), "says when somebody may have to be told"
        assert not differs or before != shared.items


VOLUMES = ("v1", "v2")


def volume(name: str, home: str, holders: list[str]) -> objects_pb2.Volume:
    made = objects_pb2.Volume(node_id=home, holders=holders)
    made.meta.id = made.meta.name = name
    return made


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                CHANGES,
                st.builds(
                    volume, st.sampled_from(VOLUMES), st.sampled_from(NODES),
                    st.lists(st.sampled_from(NODES), unique=True),
                ),
            ),
            st.sampled_from(["nothing", "own", "everything"]),
        ),
        max_size=25,
    )
)  # fmt: skip
def test_what_goes_out_adds_up_to_what_a_node_must_know(changes: list[tuple[object, str]]) -> None:
    world = World()
    world.put(node("n1", types_pb2.NODE_READY))
    shared, holders = SharedItems(world.store), Holders(world.store)
    outbox = Outbox(world.store, shared, holders, "n1")
    node_set: Items = {}

    def note(commit: Commit) -> None:
        shared.feed(commit.events)
        for event in commit.events:
            if event.kind == store_pb2.KIND_VOLUME:
                concerned = "n1" in holders.feed(event)
            elif event.kind == store_pb2.KIND_TASK:
                concerned = any(
                    isinstance(t, objects_pb2.Task) and t.node_id == "n1" for t in (event.old, event.new)
                )
            else:
                concerned = concerns_all(event, world.store) or event.id == "n1"
            if concerned:
                outbox.touch(event.id if event.kind == store_pb2.KIND_TASK else "")

    world.store.listeners.append(note)

    def receive(sent: list[bytes]) -> None:
        nonlocal node_set
        for message in sent:
            got = apply(node_set, dispatcher_pb2.Assignments.FromString(message))
            assert got is not None, "a delta fits what the node has"
            node_set = got
        assert digest(node_set) == outbox.holds

    receive(outbox.first(b""))
    for change, sent in changes:
        if not isinstance(change, tuple):
            assert isinstance(change, Entity)
            world.put(change)
        elif world.store.get(*change) is not None:
            world.delete(*change)
        if sent != "nothing":
            shared.refresh()
            receive(outbox.next(everything=sent == "everything"))
        own = {key: data for key, data in node_set.items() if key.startswith(OWN)}
        if sent != "nothing":
            assert own == node_items(world.store, "n1")
    shared.refresh()
    receive(outbox.next(everything=True))
    assert node_set == {**SharedItems(world.store).items, **node_items(world.store, "n1")}
    if node_set:
        assert Outbox(world.store, shared, holders, "n1").first(digest(node_set)) == []


def test_a_node_that_lags_too_far_behind_gets_a_complete_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "LOG_MAX", 4)
    world = World()
    world.put(node("n1", types_pb2.NODE_READY))
    shared = SharedItems(world.store)
    outbox = Outbox(world.store, shared, Holders(world.store), "n1")
    world.store.listeners.append(lambda commit: shared.feed(commit.events) and None)
    outbox.first(b"")
    for number in range(6):
        world.put(network("w1", f"10.{number}.0.0/16"))
    message = dispatcher_pb2.Assignments.FromString(outbox.next(everything=True)[0])
    assert message.type == dispatcher_pb2.ASSIGNMENT_COMPLETE
    assert message.results_in == digest({**shared.items, **node_items(world.store, "n1")})


@pytest.mark.parametrize(
    ("state", "desired", "ready", "node_state", "removed", "expected"),
    [
        (types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, True, types_pb2.NODE_READY, False, True),
        (types_pb2.TASK_STARTING, types_pb2.TASK_RUNNING, True, types_pb2.NODE_READY, False, False),
        (types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, False, types_pb2.NODE_READY, False, False),
        (types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN, True, types_pb2.NODE_READY, False, False),
        (types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, True, types_pb2.NODE_DOWN, False, False),
        (types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, True, types_pb2.NODE_READY, True, False),
    ],
)
def test_who_takes_traffic(
    state: types_pb2.TaskState, desired: types_pb2.TaskState, ready: bool, node_state: types_pb2.NodeState,
    removed: bool, expected: bool,
) -> None:  # fmt: skip
    world = World()
    world.put(node("n1", node_state, removed=removed), service("s1"))
    world.put(task("t1", "s1", "n1", state, desired, ready=ready))
    stored, owner = world.store.task("t1"), world.store.service("s1")
    assert stored is not None
    assert owner is not None
    assert takes_traffic(world.store, stored) is expected
    assert bool(endpoints_item(world.store, owner).endpoints.backends) is expected


def test_a_node_gets_its_own_tasks_and_where_their_images_are() -> None:
    world = World()
    world.put(node("n1", types_pb2.NODE_READY), node("n2", types_pb2.NODE_READY), service("s1"))
    running = types_pb2.TASK_RUNNING
    world.put(
        task("t1", "s1", "n1", running, running), task("t2", "s1", "n2", running, running),
        task("t3", "s1", "n1", types_pb2.TASK_FAILED, running),
    )  # fmt: skip
    image = objects_pb2.Image(digest="sha256:" + "a" * 64, holders=["n1", "n2"])
    image.meta.id, image.meta.name = "i1", "docker.io/library/web:1"
    world.put(image)
    got = node_items(world.store, "n1")
    assert set(got) == {"node/self", "task/t1", "image/sha256:" + "a" * 64}
    source = dispatcher_pb2.Item.FromString(got["image/sha256:" + "a" * 64]).image
    assert [(h.node_id, h.address) for h in source.holders] == [
        ("n1", "10.0.0.1:7378"),
        ("n2", "10.0.0.2:7378"),
    ]
    world.put(node("n2", types_pb2.NODE_DOWN))
    source = dispatcher_pb2.Item.FromString(node_items(world.store, "n1")["image/sha256:" + "a" * 64]).image
    assert [h.node_id for h in source.holders] == ["n1"], "no image from a node that is away"


def test_a_report_changes_nothing_that_the_node_is_sent() -> None:
    world = World()
    world.put(node("n1", types_pb2.NODE_READY), service("s1"))
    world.put(task("t1", "s1", "n1", types_pb2.TASK_ASSIGNED, types_pb2.TASK_RUNNING))
    before = node_items(world.store, "n1")["task/t1"]
    world.put(task("t1", "s1", "n1", types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING))
    assert node_items(world.store, "n1")["task/t1"] == before
    assert node_items(world.store, "nobody") == {}


@pytest.mark.parametrize(
    ("label", "weight"), [("3", 3), ("16", 16), ("1", 0), ("17", 0), ("-2", 0), ("x", 0)]
)
def test_a_nodes_label_says_how_much_traffic_its_tasks_get(label: str, weight: int) -> None:
    node = objects_pb2.Node()
    node.meta.labels["swarmpy.weight"] = label
    assert peer_item(node).peer.weight == weight


@pytest.mark.parametrize(("choice", "off"), [("", False), ("auto", False), ("off", True)])
def test_a_node_hears_whether_routes_may_be_direct(choice: str, off: bool) -> None:
    world = World()
    cluster = objects_pb2.Cluster()
    cluster.meta.id = "c1"
    cluster.spec.direct_routes = choice
    made = node("n1", types_pb2.NODE_READY)
    world.put(cluster, made)
    assert node_config_item(world.store, made).node.direct_off is off


def test_every_node_hears_when_the_choice_of_routes_changes() -> None:
    before, after = objects_pb2.Cluster(), objects_pb2.Cluster()
    after.spec.direct_routes = "off"
    store = World().store
    assert concerns_all(ChangeEvent(store_pb2.KIND_CLUSTER, "c1", before, after), store)
    assert not concerns_all(ChangeEvent(store_pb2.KIND_CLUSTER, "c1", after, after), store)
