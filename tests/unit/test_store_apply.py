"""The rules of Store.apply: whole or refused, fenced, checked, at most once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft import store as stores
from swarmpy.raft.store import Commit, Draft, Store, result_of
from swarmpy.raft.tables import KINDS, Ambiguous, Entity, NotFound, kind_of, unwrap, wrap

from tests.store_world import World, cluster, network, node, service, task

SERVICE = store_pb2.KIND_SERVICE


def create(entity: Entity) -> store_pb2.Change:
    return store_pb2.Change(put=wrap(entity))


def replace(entity: Entity, version: int) -> store_pb2.Change:
    return store_pb2.Change(put=wrap(entity), expected_version=version)


def remove(kind: store_pb2.Kind, identity: str, version: int = 0) -> store_pb2.Change:
    return store_pb2.Change(delete=store_pb2.ObjectKey(kind=kind, id=identity), expected_version=version)


def test_every_kind_is_stored_and_found_again() -> None:
    world = World()
    owner = service("s1")
    image = objects_pb2.Image(meta=types_pb2.Meta(id="i1", name="docker.io/library/busybox:latest"))
    entities = [cluster(), node("n1"), owner, task("t1", owner), network("w1"), image]
    entities.append(objects_pb2.Volume(meta=types_pb2.Meta(id="v1", name="data")))
    entities.append(objects_pb2.Autoscaler(meta=types_pb2.Meta(id="a1", name="web")))
    entities.append(objects_pb2.Schedule(meta=types_pb2.Meta(id="c1", name="nightly")))
    entities.append(objects_pb2.Policy(meta=types_pb2.Meta(id="p1", name="rule")))
    entities.append(objects_pb2.Credential(meta=types_pb2.Meta(id="r1", name="registry.example:5000")))
    entities.append(objects_pb2.Secret(meta=types_pb2.Meta(id="x1", name="token"), data=b"t"))
    entities.append(objects_pb2.Config(meta=types_pb2.Meta(id="y1", name="app.conf"), data=b"c"))
    entities.append(objects_pb2.Stack(meta=types_pb2.Meta(id="q1", name="shop.1"), stack="shop"))
    entities.append(objects_pb2.Token(meta=types_pb2.Meta(id="k1")))
    assert {kind_of(e) for e in entities} == set(KINDS)
    world.put(*entities)
    for entity in entities:
        stored = world.store.get(kind_of(entity), entity.meta.id)
        assert stored is not None
        assert stored.meta.version == world.index
        assert stored.meta.created_ms == stored.meta.updated_ms == world.now_ms
        assert unwrap(wrap(stored)) == stored


def test_version_is_the_log_index_and_created_time_stays() -> None:
    world = World()
    world.put(service("s1"))
    first = world.store.service("s1")
    assert first is not None
    world.now_ms += 1000
    changed = service("s1")
    changed.spec.replicated.replicas = 7
    changed.meta.created_ms = 5
    assert not world.send([replace(changed, first.meta.version)]).error_code
    second = world.store.service("s1")
    assert second is not None
    assert second.meta.version == first.meta.version + 1 == world.index
    assert second.meta.created_ms == first.meta.created_ms
    assert second.meta.updated_ms == first.meta.updated_ms + 1000
    assert first.spec.replicated.replicas == 1, "the old value must not change"


def make(world: World) -> None:
    world.put(service("s1"), node("n1"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (lambda w: [create(service("s1"))], stores.EXISTS),
        (lambda w: [replace(service("s1"), w.index + 5)], stores.CONFLICT),
        (lambda w: [replace(service("s1"), w.index - 1)], stores.CONFLICT),
        (lambda w: [replace(service("s9"), 1)], stores.CONFLICT),
        (lambda w: [remove(SERVICE, "s1", w.index - 1)], stores.CONFLICT),
        (lambda w: [remove(SERVICE, "s9", 4)], stores.CONFLICT),
        (lambda w: [remove(SERVICE, "s9")], stores.NOT_FOUND),
        (lambda w: [store_pb2.Change(put=wrap(service("s9")), any_version=True)], stores.NOT_FOUND),
        (lambda w: [create(service("s2")), create(service("s2"))], stores.INVALID),
        (lambda w: [store_pb2.Change()], stores.INVALID),
        (lambda w: [store_pb2.Change(put=store_pb2.Object())], stores.INVALID),
        (lambda w: [remove(store_pb2.KIND_NONE, "x")], stores.INVALID),
        (lambda w: [create(service(""))], stores.INVALID),
        (lambda w: [create(service("a/b"))], stores.INVALID),
        (lambda w: [create(service("x" * 129))], stores.INVALID),
        (lambda w: [create(service(f"x{i}")) for i in range(201)], stores.INVALID),
    ],
)
def test_a_refused_change_refuses_the_whole_transaction(
    changes: Callable[[World], list[store_pb2.Change]], code: str
) -> None:
    world = World()
    make(world)
    before = world.store.state_hash()
    seen: list[Commit] = []
    world.store.listeners.append(seen.append)
    result = world.send([create(network("other")), *changes(world)][:201])
    assert result.error_code == code, result.error
    assert result.error
    assert world.store.state_hash() == before
    assert world.store.network("other") is None
    assert not seen


def test_names_are_unique_without_regard_to_case_and_free_after_deletion() -> None:
    world = World()
    one, two = service("s1"), service("s2")
    one.meta.name, two.meta.name = "web", "WEB"
    world.put(one)
    assert world.send([create(two)]).error_code == stores.NAME_TAKEN
    assert world.send([create(two), remove(SERVICE, "s1")]).error_code == ""
    assert world.send([create(one), create(service("s3"))]).error_code == stores.NAME_TAKEN
    other = service("s4")
    other.meta.name, other.meta.namespace = "web", "prod"
    assert world.send([create(other)]).error_code == ""
    twins = service("s5"), service("s6")
    for twin in twins:
        twin.meta.name = "twin"
    assert world.send([create(twin) for twin in twins]).error_code == stores.NAME_TAKEN


def test_a_name_may_move_between_objects_in_one_transaction() -> None:
    world = World()
    one, two = service("s1"), service("s2")
    one.meta.name, two.meta.name = "blue", "green"
    world.put(one, two)
    one.meta.name, two.meta.name = "green", "blue"
    assert world.send([replace(one, world.index), replace(two, world.index)]).error_code == ""
    assert world.store.by_name(SERVICE, "blue") == world.store.service("s2")


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a.b", "ä", "a" * 64, "a/b", "_x"])
def test_bad_service_names_are_refused(name: str) -> None:
    world = World()
    entity = service("s1")
    entity.meta.name = name
    result = world.send([create(entity)])
    assert result.error_code == stores.INVALID
    assert "name" in result.error


@pytest.mark.parametrize("name", ["a", "web", "my_web-2", "A1", "a" * 63, "0"])
def test_good_service_names_are_taken(name: str) -> None:
    world = World()
    entity = service("s1")
    entity.meta.name = name
    assert world.send([create(entity)]).error_code == ""


def test_two_nodes_may_share_a_hostname_and_are_told_apart() -> None:
    world = World()
    one, two = node("aaa1"), node("aab2")
    one.meta.name = two.meta.name = "host.example"
    world.put(one, two)
    kind = store_pb2.KIND_NODE
    with pytest.raises(Ambiguous) as caught:
        world.store.find(kind, "host.example")
    assert caught.value.ids == ("aaa1", "aab2")
    assert world.store.find(kind, "aab").meta.id == "aab2"
    assert world.store.find(kind, "aaa1").meta.id == "aaa1"
    with pytest.raises(Ambiguous):
        world.store.find(kind, "aa")
    for missing in ("", "b", "host", "aaa11"):
        with pytest.raises(NotFound):
            world.store.find(kind, missing)


def test_an_id_wins_over_a_name_and_a_name_over_a_prefix() -> None:
    world = World()
    entities = [service("web"), service("zz"), service("web2")]
    for entity, name in zip(entities, ("x1", "web", "x2"), strict=True):
        entity.meta.name = name
    world.put(*entities)
    assert world.store.find(SERVICE, "web").meta.id == "web"
    world.delete(SERVICE, "web")
    assert world.store.find(SERVICE, "web").meta.id == "zz"
    world.delete(SERVICE, "zz")
    assert world.store.find(SERVICE, "web").meta.id == "web2"


def test_an_older_epoch_cannot_write() -> None:
    world = World()
    assert world.send((), epoch=5, new_epoch=True).error_code == ""
    assert world.store.epoch == 5
    for epoch in (0, 1, 4):
        assert world.send([create(service("s1"))], epoch=epoch).error_code == stores.STALE_EPOCH
    for epoch in (5, 4):
        assert world.send((), epoch=epoch, new_epoch=True).error_code == stores.STALE_EPOCH
    assert world.send([create(service("s1"))], epoch=6).error_code == stores.INVALID
    assert world.send([create(service("s1"))], epoch=5).error_code == ""
    refused = world.send([create(service("s1"))], epoch=7, new_epoch=True)
    assert refused.error_code == stores.EXISTS
    assert world.store.epoch == 5, "a refused transaction begins no epoch"


def test_a_request_is_carried_out_once() -> None:
    world = World()
    first = world.send([create(service("s1"))], request_id="r1")
    again = world.send([create(service("s1"))], request_id="r1")
    assert again.duplicate
    assert not first.duplicate
    assert (again.index, list(again.touched)) == (first.index, list(first.touched))
    refused = world.send([create(service("s1"))], request_id="r2")
    assert refused.error_code == stores.EXISTS
    world.delete(SERVICE, "s1")
    assert world.send([create(service("s1"))], request_id="r2").error_code == "", "a refusal may be retried"


def test_only_the_last_requests_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "REQUESTS_KEPT", 3)
    world = World()
    for number in range(5):
        world.send([create(service(f"s{number}"))], request_id=f"r{number}")
    assert world.send((), request_id="r4").duplicate
    assert world.send((), request_id="r2").duplicate
    assert not world.send((), request_id="r1").duplicate


@pytest.mark.parametrize("command", [b"\xff\xff\xff", b"\x0a", b"\x22\x05ab", b"\0" * 2_000_000])
def test_nonsense_is_answered_and_changes_nothing(command: bytes) -> None:
    store = Store()
    assert result_of(store.apply(1, command)).error_code == stores.INVALID
    assert store.index == 1


def test_a_transaction_has_a_size_limit() -> None:
    world = World()
    big = service("s1")
    big.spec.task.container.env.append("A=" + "x" * 1_500_000)
    assert world.send([create(big)]).error_code == stores.INVALID


def test_listeners_get_old_and_new_in_order() -> None:
    world = World()
    seen: list[Commit] = []
    world.store.listeners.append(seen.append)
    world.put(service("s1"), service("s2"))
    old = world.store.service("s1")
    changed = service("s1", replicas=9)
    world.send([replace(changed, world.index), remove(SERVICE, "s2")], actor="anna")
    world.send(())
    assert len(seen) == 2, "an empty transaction is no commit"
    update, deletion = seen[1].events
    assert seen[1].actor == "anna"
    assert seen[1].index == 3
    assert (update.id, update.old) == ("s1", old)
    assert update.new == world.store.service("s1")
    assert (deletion.id, deletion.new) == ("s2", None)
    assert seen[0].events[0].old is None


def test_tasks_are_found_by_service_slot_node_and_state() -> None:
    world = World()
    owner, other = service("s1"), service("s2")
    world.put(owner, other)
    world.put(task("t2", owner, slot=1), task("t1", owner, slot=2), task("t3", other, slot=1))
    store = world.store
    ids = [t.meta.id for t in store.tasks_of_service("s1")]
    assert ids == ["t1", "t2"]
    assert [t.meta.id for t in store.tasks_of_slot("s1", 1)] == ["t2"]
    assert [t.meta.id for t in store.tasks_of_node("")] == ["t1", "t2", "t3"]
    moved = task("t1", owner, slot=2, node_id="n1", state=types_pb2.TASK_RUNNING)
    world.put(moved)
    assert [t.meta.id for t in store.tasks_of_node("n1")] == ["t1"]
    assert [t.meta.id for t in store.tasks_of_node("")] == ["t2", "t3"]
    assert [t.meta.id for t in store.tasks_in_state(types_pb2.TASK_RUNNING)] == ["t1"]
    assert len(store.tasks_desired(types_pb2.TASK_RUNNING)) == 3
    world.delete(store_pb2.KIND_TASK, "t1")
    assert not store.tasks_of_node("n1")
    assert not store.tasks_in_state(types_pb2.TASK_RUNNING)


def test_a_draft_gives_the_versions_it_was_made_from() -> None:
    world = World()
    world.put(service("s1"), service("s2"), service("s3"))
    version = world.index
    draft = Draft(world.store)
    draft.put(service("s1", replicas=3))
    draft.delete(SERVICE, "s2")
    draft.put(service("s9"))
    stored = world.store.service("s3")
    assert stored is not None
    draft.put(stored)
    draft.delete(SERVICE, "never-there")
    changes = draft.changes()
    assert len(draft) == len(changes) == 3
    assert [c.expected_version for c in changes] == [version, version, 0]
    assert draft.service("s2") is None
    assert [s.meta.id for s in draft.services()] == ["s1", "s3", "s9"]
    world.put(service("s1", replicas=8))
    assert world.send(changes).error_code == stores.CONFLICT


def test_taking_back_a_draft_leaves_no_change() -> None:
    world = World()
    world.put(service("s1"))
    stored = world.store.service("s1")
    assert stored is not None
    draft = Draft(world.store)
    draft.put(service("s1", replicas=3))
    draft.put(stored)
    draft.put(service("s2"))
    draft.delete(SERVICE, "s2")
    assert not draft.changes()
    draft.delete(SERVICE, "s1")
    assert draft.service("s1") is None
    draft.put(stored)
    assert draft.service("s1") == stored
    assert not draft.changes()


def test_a_stored_message_that_was_changed_in_place_is_found() -> None:
    world = World()
    world.put(service("s1"), service("s2"))
    stored = world.store.service("s2")
    assert stored is not None
    assert world.store.mutated() == []
    stored.spec.replicated.replicas = 9
    assert world.store.mutated() == [(SERVICE, "s2")]
