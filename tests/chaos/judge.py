"""Puts a whole run before the checker and counts what was lost."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.chaos import checker
from tests.chaos.checker import Anomaly
from tests.chaos.history import APPEND, CAS, CREATE, DELETE, OK, READ, UNKNOWN, History, Op


@dataclass
class Verdict:
    """What the checker says of a run."""

    anomalies: list[Anomaly] = field(default_factory=list)
    lost: list[Op] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    keys: int = 0
    watched: int = 0


class Listings:
    """Reads of the whole set, by the time of their answers; and by the names that they show."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = sorted((op for op in ops if not op.key and op.outcome == OK), key=lambda op: op.return_ns)
        self.longest_ns = max((op.return_ns - op.invoke_ns for op in self.ops), default=0)
        self.showing: dict[str, list[Op]] = defaultdict(list)
        for op in self.ops:
            for name in op.value:
                self.showing[name].append(op)


def kind_of(key: str) -> str:
    """register, list or item: the second word of a name."""
    return key.split("-")[1] if "-" in key else ""


def judge(history: History) -> Verdict:
    verdict = Verdict()
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        if op.key:
            by_key[op.key].append(op)
    listings = Listings(history.ops)
    for key, ops in by_key.items():
        verdict.keys += 1
        try:
            verdict.anomalies += _one(key, ops, listings)
        except checker.TooWide as error:
            verdict.undecided.append(f"{key}: {error}")
        verdict.lost += _lost(key, ops, listings)
    verdict.anomalies += checker.check_index(history.ops)
    writes = sorted(
        (op.index, op.note) for op in history.ops if op.kind in (CAS, APPEND, CREATE) and op.outcome == OK
    )
    for watcher, events in history.watches.items():
        verdict.watched += len(events)
        verdict.anomalies += checker.check_watch(watcher, events, writes)
    return verdict


def _one(key: str, ops: Sequence[Op], listings: Listings) -> list[Anomaly]:
    kind = kind_of(key)
    if kind == "item":
        return checker.check_lifecycle(key, [*ops, *_seen_in(key, ops, listings)])
    # The name itself is created once, before it is used.
    used = [op for op in ops if op.kind not in (CREATE, DELETE)]
    if not any(op.kind == CREATE and op.outcome in (OK, UNKNOWN) for op in ops):
        return [Anomaly(key, "used before it was created", tuple(used[:1]))] if used else []
    return checker.check_list(key, used) if kind == "list" else checker.check_register(key, used, "")


def _seen_in(key: str, ops: Sequence[Op], listings: Listings) -> list[Op]:
    """What listings of the whole set say of one name, but for what can only agree."""
    begin = min((op.invoke_ns for op in ops if op.kind == CREATE), default=0)
    end = min((op.return_ns for op in ops if op.kind == DELETE and op.outcome == OK), default=None)
    seen = [replace(op, key=key, value=True) for op in listings.showing.get(key, ())]
    for op in listings.ops[bisect_right(listings.ops, begin, key=lambda op: op.return_ns) :]:
        if end is not None and op.return_ns > end + listings.longest_ns:
            break
        if (end is None or op.invoke_ns <= end) and key not in op.value:
            seen.append(replace(op, key=key, value=False))
    return seen


def _lost(key: str, ops: Sequence[Op], listings: Listings) -> list[Op]:
    """Acknowledged writes that the last reads do not show."""
    kind = kind_of(key)
    reads = [op for op in ops if op.kind == READ and op.outcome == OK]
    if kind == "item":
        removed = any(op.kind == DELETE and op.outcome in (OK, UNKNOWN) for op in ops)
        last = listings.ops[-1].value if listings.ops else None
        created = [op for op in ops if op.kind == CREATE and op.outcome == OK]
        return created if last is not None and not removed and key not in last else []
    if not reads:
        return []
    last_read = max(reads, key=lambda op: op.invoke_ns)
    if kind == "list":
        there = set(last_read.value or ())
        return [
            op for op in ops
            if op.kind == APPEND and op.outcome == OK and op.value not in there and op.return_ns < last_read.invoke_ns
        ]  # fmt: skip
    writes = [op for op in ops if op.kind == CAS and op.outcome == OK and op.return_ns < last_read.invoke_ns]
    newest = max(writes, key=lambda op: op.index, default=None)
    replaced = {op.expected for op in ops if op.kind == CAS and op.outcome in (OK, UNKNOWN)}
    if newest is not None and last_read.value != newest.value and newest.value not in replaced:
        return [newest]
    return []
