"""The judge of a whole run: broken histories are refused, each for its own reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.checker import check_index, check_watch
from tests.chaos.history import APPEND, CAS, CREATE, DELETE, FAIL, OK, READ, UNKNOWN, History, Op, Seen
from tests.chaos.judge import judge

REGISTER, LIST, ITEM = "chaos-register-1", "chaos-list-2", "chaos-item-3-4"


def good() -> list[Op]:
    """A short run in which everything is right."""
    return [
        Op(1, REGISTER, CREATE, 0, 1, OK, "", index=1, note="r"),
        Op(1, LIST, CREATE, 2, 3, OK, "", index=2, note="l"),
        Op(1, ITEM, CREATE, 4, 5, OK, "", index=3, note="i"),
        Op(1, REGISTER, CAS, 10, 20, OK, "1.1", "", index=4, note="r"),
        Op(2, REGISTER, CAS, 12, 22, FAIL, "2.1", ""),
        Op(1, REGISTER, CAS, 30, 40, UNKNOWN, "1.2", "1.1"),
        Op(2, REGISTER, READ, 50, 51, OK, "1.2", index=5),
        Op(1, LIST, APPEND, 60, 61, OK, "1.3", index=6, note="l"),
        Op(2, LIST, APPEND, 62, 63, OK, "2.3", index=7, note="l"),
        Op(2, LIST, READ, 64, 65, OK, ["1.3", "2.3"], index=7),
        Op(0, "", READ, 70, 71, OK, [ITEM], index=8),
        Op(0, REGISTER, READ, 72, 73, OK, "1.2", index=8),
        Op(0, LIST, READ, 74, 75, OK, ["1.3", "2.3"], index=8),
    ]


def changed(number: int, **fields: object) -> History:
    ops = good()
    ops[number] = replace(ops[number], **fields)  # type: ignore[arg-type]
    return History(ops)


def test_a_right_run_passes() -> None:
    verdict = judge(History(good()))
    assert (verdict.anomalies, verdict.lost, verdict.keys) == ([], [], 3)


def test_what_was_created_for_all_we_know_may_be_read() -> None:
    assert not judge(changed(1, outcome=UNKNOWN)).anomalies
    assert judge(changed(1, outcome=FAIL)).anomalies


def test_a_create_of_unknown_outcome_beside_many_open_reads_is_decided() -> None:
    """Reads that overlap are not tried in every order: twenty of them would never end."""
    ops = [Op(1, ITEM, CREATE, 0, 1, UNKNOWN)]
    ops += [Op(n, ITEM, READ, 10 + n, 100 + n, OK, False) for n in range(20)]
    ops += [Op(n, ITEM, READ, 90 + n, 200 + n, OK, True) for n in range(20)]
    assert not judge(History(ops)).anomalies
    ops.append(Op(99, ITEM, READ, 300, 301, OK, False))
    assert judge(History(ops)).anomalies


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (changed(6, value=""), "not linearizable"),
        (changed(6, value="2.1"), "a write that was refused took effect"),
        (changed(6, index=3), "a stale read"),
        (changed(9, value=["1.3"]), "an acknowledged append is missing"),
        (changed(9, value=["2.3", "1.3"]), "two reads show different orders"),
        (changed(12, value=["1.3", "2.3", "2.3"]), "twice"),
        (changed(12, value=["1.3", "2.3", "9.9"]), "nobody wrote"),
        (changed(8, outcome=FAIL), "an append that was refused took effect"),
        (changed(2, outcome=FAIL), "a create that was refused took effect"),
        (changed(10, value=[]), "not linearizable"),
        (changed(11, value=None), "not linearizable"),
    ],
)
def test_each_defect_is_seen(history: History, reason: str) -> None:
    anomalies = judge(history).anomalies
    assert any(reason in anomaly.reason for anomaly in anomalies), anomalies


def test_lost_writes_are_counted() -> None:
    assert [op.value for op in judge(changed(12, value=["1.3"])).lost] == ["2.3"]
    assert [op.key for op in judge(changed(10, value=[])).lost] == [ITEM]
    ops = good()
    ops[5] = replace(ops[5], outcome=FAIL)
    ops[6] = replace(ops[6], value="")
    ops[11] = replace(ops[11], value="")
    assert [op.value for op in judge(History(ops)).lost] == ["1.1"]


def test_a_removed_item_may_be_gone_but_must_not_return() -> None:
    ops = [*good(), Op(1, ITEM, DELETE, 80, 81, OK, index=9), Op(0, "", READ, 82, 83, OK, [], index=10)]
    assert judge(History(ops)).anomalies == []
    ops.append(Op(0, "", READ, 84, 85, OK, [ITEM], index=11))
    assert judge(History(ops)).anomalies


def test_an_index_may_not_go_back() -> None:
    first, second = Op(1, "a", READ, 0, 1, OK, "", index=9), Op(1, "b", READ, 2, 3, OK, "", index=8)
    assert check_index([first, second])
    assert not check_index([first, replace(second, invoke_ns=1)])


def watched(*versions: int) -> list[Seen]:
    return [Seen(1, "SYNC", "", 0, 2), *(Seen(1, "UPDATE", "r", version, version) for version in versions)]


def test_a_watch_is_ordered_unique_and_complete() -> None:
    writes = [(2, "r"), (4, "r"), (6, "r"), (9, "r")]
    assert not check_watch(1, watched(4, 6, 8), writes)
    assert check_watch(1, watched(6, 4, 8), writes)
    assert check_watch(1, watched(4, 4, 6, 8), writes)
    assert check_watch(1, watched(4, 8), writes)
    assert check_watch(1, watched(2, 4, 6, 8), writes)


def test_a_resumed_watch_has_what_came_before_its_sync_and_marks_close_it() -> None:
    writes = [(4, "r"), (6, "r")]
    resumed = [Seen(2, "RESUME", "", 0, 3), Seen(2, "UPDATE", "r", 4, 4), Seen(2, "SYNC", "", 0, 5)]
    assert not check_watch(1, resumed, writes)
    assert check_watch(1, [resumed[0], resumed[2]], writes)
    assert check_watch(1, [*resumed, Seen(2, "PROGRESS", "", 0, 6)], writes)
    assert check_watch(1, [*resumed, Seen(2, "UPDATE", "r", 3, 3)], writes)
