"""Assignment sets: deltas lead to the same set at the other end, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node import items
from swarmpy.node.agent import keep as keep_module
from swarmpy.node.agent.keep import Keep
from swarmpy.proto import dispatcher_pb2, objects_pb2, types_pb2


def item(value: int) -> bytes:
    return items.encode(dispatcher_pb2.Item(peer=dispatcher_pb2.PeerNode(id=f"p{value}", index=value)))


SETS = st.dictionaries(
    st.sampled_from([f"peer/{n}" for n in range(8)]), st.integers(0, 3).map(item), max_size=8
)


def send(start: items.Items, messages: list[dispatcher_pb2.Assignments]) -> items.Items | None:
    held: items.Items | None = start
    for message in messages:
        over_the_wire = dispatcher_pb2.Assignments.FromString(message.SerializeToString())
        assert held is not None
        held = items.apply(held, over_the_wire)
        if held is None:
            return None
    return held


@given(old=SETS, new=SETS, complete=st.booleans())
def test_deltas_lead_to_the_same_set(old: items.Items, new: items.Items, complete: bool) -> None:
    messages = list(items.deltas(old, new, complete=complete))
    assert send(dict(old), messages) == new
    assert not messages or not messages[-1].more
    if old == new and not complete:
        assert messages == []


@given(old=SETS, new=SETS, other=SETS)
def test_a_delta_for_another_set_is_refused(old: items.Items, new: items.Items, other: items.Items) -> None:
    messages = list(items.deltas(old, new, complete=False))
    if messages and other != old:
        assert items.apply(other, messages[0]) is None


@given(new=SETS, position=st.integers(0, 7))
def test_a_lost_change_is_noticed(new: items.Items, position: int) -> None:
    message = next(items.deltas({}, new, complete=True))
    if message.changes:
        del message.changes[position % len(message.changes)]
        assert items.apply({}, message) is None


def test_the_digest_does_not_depend_on_order_and_the_empty_set_has_none() -> None:
    one, two = {"a": item(1), "b": item(2)}, {"b": item(2), "a": item(1)}
    assert items.digest(one) == items.digest(two) != items.digest({"a": item(2), "b": item(1)})
    assert items.digest({}) == b""


def test_large_sets_travel_in_parts_and_only_the_last_is_whole() -> None:
    big = {
        f"task/{n}": items.encode(dispatcher_pb2.Item(task=objects_pb2.Task(service_name="x" * 50_000)))
        for n in range(60)
    }
    messages = list(items.deltas({}, big, complete=True))
    assert len(messages) > 1
    assert [message.more for message in messages] == [True] * (len(messages) - 1) + [False]
    assert all(message.ByteSize() < 2 * items.MESSAGE_BYTES for message in messages)
    assert send({}, messages) == big


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return Keep(tmp_path / "agent")


@given(kept=SETS)
def test_kept_assignments_come_back(kept: items.Items, tmp_path_factory: pytest.TempPathFactory) -> None:
    keep = Keep(tmp_path_factory.mktemp("agent"))
    keep.save_items(kept, items.digest(kept))
    assert keep.load_items() == kept


def test_damaged_files_are_not_believed(keep: Keep, tmp_path: Path) -> None:
    kept = {f"peer/{n}": item(n) for n in range(20)}
    keep.save_items(kept, items.digest(kept))
    path = tmp_path / "agent" / "assignments.pb"
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        assert keep.load_items() in ({}, kept), f"byte {position}"
        path.write_bytes(good[:position])
        assert keep.load_items() in ({}, kept), f"cut at {position}"


def test_kept_parts_without_the_last_are_not_a_set(keep: Keep, tmp_path: Path) -> None:
    """Believing half a set would stop the tasks of the other half."""
    task = dispatcher_pb2.Item(task=objects_pb2.Task(service_name="x" * 50_000))
    kept = {f"task/{n}": items.encode(task) for n in range(60)}
    keep.save_items(kept, items.digest(kept))
    path = tmp_path / "agent" / "assignments.pb"
    data = path.read_bytes()
    path.write_bytes(data[: 4 + int.from_bytes(data[:4], "big")])
    assert keep.load_items() == {}


def test_task_records_come_back_and_half_written_ones_do_not(keep: Keep, tmp_path: Path) -> None:
    status = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING, ready=True)
    keep.save_task("one", status)
    keep.save_task("two", status)
    keep.drop_task("two")
    (tmp_path / "agent" / "tasks" / "three.tmp").write_bytes(b"half")
    assert keep.load_tasks() == {"one": status}
    assert not (tmp_path / "agent" / "tasks" / "three.tmp").exists()


@given(sets=st.lists(SETS, min_size=1, max_size=6), room=st.integers(0, 300))
def test_what_is_added_to_the_kept_set_comes_back_too(
    sets: list[items.Items], room: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before, keep_module.APPENDED_MIN_BYTES = keep_module.APPENDED_MIN_BYTES, room
    try:
        directory = tmp_path_factory.mktemp("agent")
        keep = Keep(directory)
        for kept in sets:
            keep.save_items(kept, items.digest(kept))
            assert Keep(directory).load_items() == kept
    finally:
        keep_module.APPENDED_MIN_BYTES = before


def test_an_addition_that_was_not_written_to_its_end_is_as_if_it_had_not_come(
    keep: Keep, tmp_path: Path
) -> None:
    first = {f"peer/{n}": item(n) for n in range(20)}
    task = dispatcher_pb2.Item(task=objects_pb2.Task(service_name="x" * 50_000))
    second = first | {f"task/{n}": items.encode(task) for n in range(30)}
    path = tmp_path / "agent" / "assignments.pb"
    keep.save_items(first, items.digest(first))
    size = path.stat().st_size
    keep.save_items(second, items.digest(second))
    data = path.read_bytes()
    assert len(list(items.deltas(first, second, complete=False))) == 2
    for cut in (0, 1, 3, 4, 100, 1 << 20, len(data) - size - 1):
        path.write_bytes(data[: size + cut])
        assert keep.load_items() == first, cut
    keep.save_items(first, items.digest(first))
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        keep.save_items({}, b"")
    keep.save_items(second, items.digest(second))
    assert keep.load_items() == second
