"""The store against a plain model, drafts against the store, replicas against each other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Draft, Store, View, result_of, transaction
from swarmpy.raft.tables import Entity, kind_of, wrap

from tests.store_world import network, service, task

KINDS = (store_pb2.KIND_SERVICE, store_pb2.KIND_TASK, store_pb2.KIND_NETWORK)
STATES = (types_pb2.TASK_NEW, types_pb2.TASK_PENDING, types_pb2.TASK_RUNNING, types_pb2.TASK_FAILED)
IDS = st.sampled_from([f"{a}{b}" for a in "ab" for b in "xyz"])
NODE_IDS = st.sampled_from(["", "m1", "m2"])
Write = tuple[str, object, int]


def make_task(identity: str, owner: str, slot: int, node_id: str, state: types_pb2.TaskState) -> Entity:
    return task(identity, service(owner), slot=slot, node_id=node_id, state=state)


def make_service(identity: str, replicas: int, name: str) -> Entity:
    made = service(identity, replicas=replicas)
    made.meta.name = name
    return made


ENTITIES = st.one_of(
    st.builds(make_service, IDS, st.integers(0, 3), st.sampled_from(["n1", "N1", "n2", "n3"])),
    st.builds(network, IDS, st.sampled_from(["", "10.9.0.0/16"])),
    st.builds(
        make_task, IDS, IDS, st.integers(0, 2), st.sampled_from(["", "m1", "m2"]), st.sampled_from(STATES)
    ),
)
KEYS = st.tuples(st.sampled_from(KINDS), IDS)
WRITES = st.one_of(
    st.tuples(st.just("put"), ENTITIES, st.integers(-1, 1)),
    st.tuples(st.just("delete"), KEYS, st.integers(-1, 1)),
)
Model = dict[tuple[store_pb2.Kind, str], Entity]


def to_change(store: View, write: Write) -> store_pb2.Change:
    """A change from the right version, or one that is off by one."""
    verb, what, offset = write
    if verb == "put":
        entity = what
        stored = store.get(kind_of(entity), entity.meta.id)  # type: ignore[attr-defined, arg-type]
        version = max(0, stored.meta.version + offset if stored else max(offset, 0))
        return store_pb2.Change(put=wrap(entity), expected_version=version)  # type: ignore[arg-type]
    kind, identity = what  # type: ignore[misc]
    stored = store.get(kind, identity)
    version = max(0, stored.meta.version + offset if stored else max(offset, 0))
    return store_pb2.Change(delete=store_pb2.ObjectKey(kind=kind, id=identity), expected_version=version)


def content(view: View) -> Model:
    return {(kind, e.meta.id): e for kind in KINDS for e in view.all(kind)}


def check_indexes(view: View) -> None:
    tasks = list(view.tasks())
    assert [t.meta.id for t in tasks] == sorted(t.meta.id for t in tasks)
    for identity in {t.service_id for t in tasks} | {"ax"}:
        assert view.tasks_of_service(identity) == [t for t in tasks if t.service_id == identity]
        for slot in range(3):
            same = [t for t in tasks if (t.service_id, t.slot) == (identity, slot)]
            assert view.tasks_of_slot(identity, slot) == same
    for node_id in ("", "m1", "m2"):
        assert view.tasks_of_node(node_id) == [t for t in tasks if t.node_id == node_id]
    for state in STATES:
        assert view.tasks_in_state(state) == [t for t in tasks if t.status.state == state]
    assert view.tasks_desired(types_pb2.TASK_RUNNING) == tasks
    assert view.services_with_tasks() == {t.service_id for t in tasks}
    assert view.nodes_with_tasks() == {t.node_id for t in tasks}
    for kind in KINDS:
        entities = list(view.all(kind))
        assert view.count(kind) == len(entities)
        for name in {e.meta.name for e in entities} | {"n1", "none"}:
            same_name = [e.meta.id for e in entities if e.meta.name.lower() == name.lower()]
            assert list(view.ids_named(kind, name)) == same_name
        for prefix in ("a", "b", "ax", "c"):
            fitting = [e.meta.id for e in entities if e.meta.id.startswith(prefix)]
            assert list(view.ids_with_prefix(kind, prefix, 100)) == fitting
            assert list(view.ids_with_prefix(kind, prefix, 2)) == fitting[:2]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(WRITES, min_size=1, max_size=4), max_size=25))
def test_transactions_are_whole_or_nothing_and_replicas_agree(
    batches: list[list[tuple[str, object, int]]],
) -> None:
    one, two = Store(), Store()
    for index, batch in enumerate(batches, 1):
        changes = [to_change(one, write) for write in batch]
        before, hash_before = content(one), one.state_hash()
        command = transaction(changes, epoch=0, now_ms=index)
        answer = one.apply(index, command)
        assert two.apply(index, command) == answer
        if result_of(answer).error_code:
            assert content(one) == before
            assert one.state_hash() == hash_before
        else:
            expected = set(before)
            for change in changes:
                if change.WhichOneof("action") == "delete":
                    expected.discard((change.delete.kind, change.delete.id))
                else:
                    field = change.put.WhichOneof("kind")
                    expected.add(
                        (store_pb2.Kind.Value(f"KIND_{field.upper()}"), getattr(change.put, field).meta.id)
                    )
            assert set(content(one)) == expected
        assert one.state_hash() == two.state_hash()
    check_indexes(one)
    names = [(e.meta.namespace, e.meta.name.lower()) for e in one.services()]
    assert len(names) == len(set(names))
    restored = Store()
    restored.restore(one.snapshot())
    assert content(restored) == content(one)
    assert restored.state_hash() == one.state_hash()
    check_indexes(restored)


def hash_of(entities: list[Entity]) -> bytes:
    store = Store()
    result = result_of(
        store.apply(1, transaction([store_pb2.Change(put=wrap(e)) for e in entities], epoch=0, now_ms=1))
    )
    assert not result.error_code, result.error
    return store.state_hash()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(network, IDS), unique_by=lambda e: e.meta.id, min_size=2), st.randoms())
def test_the_hash_is_of_the_content(entities: list[objects_pb2.Network], random: object) -> None:
    shuffled = list(entities)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert hash_of(list(entities)) == hash_of(shuffled)  # type: ignore[arg-type]
    changed = [network(e.meta.id, "10.1.0.0/16") if i == 0 else e for i, e in enumerate(entities)]
    assert hash_of(changed) != hash_of(list(entities))  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(st.lists(ENTITIES, max_size=8), st.lists(st.one_of(ENTITIES, KEYS), max_size=12))
def test_a_draft_reads_like_the_store_after_its_changes(
    stored: list[Entity], edits: list[Entity | tuple[store_pb2.Kind, str]]
) -> None:
    store = Store()
    for index, entity in enumerate(stored, 1):
        store.apply(index, transaction([store_pb2.Change(put=wrap(entity))], epoch=0, now_ms=1))
    draft = Draft(store)
    for edit in edits:
        if isinstance(edit, tuple):
            draft.delete(*edit)
        else:
            draft.put(edit)
    check_indexes(draft)
    drafted = content(draft)
    changes = draft.changes()
    assert len(changes) == len(draft)
    result = result_of(store.apply(100, transaction(changes, epoch=0, now_ms=2)))
    if result.error_code:
        assert result.error_code == "NAME_TAKEN", result.error
        return
    after = content(store)
    assert set(after) == set(drafted)
    for key, entity in after.items():
        assert bare(entity) == bare(drafted[key])


def bare(entity: Entity) -> Entity:
    """Without what only a write can know: version and times."""
    copied = type(entity).FromString(entity.SerializeToString())
    copied.meta.version = copied.meta.created_ms = copied.meta.updated_ms = 0
    return copied
