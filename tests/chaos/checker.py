"""Whether a history can have happened in a world where every operation takes one instant.

Rules. An operation took effect at some instant between its call and its answer (for one of
unknown outcome: at any time after its call, or never; a failed one: never), and every answer
must follow from the effects before it.

Theory. `linearizable` walks through calls and answers in time order and keeps every
*configuration* that is still possible: the model's state and which of the open operations
have taken effect. An answer throws out the configurations in which its operation cannot
have happened. A read takes effect as soon as it can, because it changes nothing for the others: only
the order of writes is searched. None left: the history is impossible, and the operation named is the first one
at which that is certain. This decides exactly (Wing and Gong's search, just in time); it is
exponential in the number of *open* operations only. Operations of unknown outcome would stay
open for ever, so `bounded` closes those whose effect somebody saw (written values are unique:
the effect came before the first answer that shows it) and drops those nobody saw (taking them
out changes no answer). The same is true of lists, and there the final order of the elements
gives every operation its place, so that one sweep over time decides.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from tests.chaos.history import (
    APPEND,
    CAS,
    CREATE,
    DELETE,
    FAIL,
    OK,
    PROGRESS,
    READ,
    RESUME,
    SYNC,
    UNKNOWN,
    Op,
    Seen,
)

Model = Callable[[Hashable, Op], tuple[bool, Hashable]]
CONFIGURATIONS_MAX = 200_000


class TooWide(Exception):
    """The history has too many operations open at once to be decided."""


@dataclass(frozen=True)
class Anomaly:
    """What cannot have happened; `ops` are the witnesses."""

    key: str
    reason: str
    ops: tuple[Op, ...] = ()


# -- models: (state, operation) -> (can its answer be so, state after)


def register(state: Hashable, op: Op) -> tuple[bool, Hashable]:
    """One value; compare-and-set writes."""
    if op.kind == CAS:
        return state == op.expected, op.value
    return state == op.value, state


def lifecycle(state: Hashable, op: Op) -> tuple[bool, Hashable]:
    """One name: absent, then present, then gone for good; a read says whether it is there."""
    if op.kind == CREATE:
        return state == "absent", "present"
    if op.kind == DELETE:
        return state == "present", "gone"
    return (state == "present") == bool(op.value), state


# -- the judge


def linearizable(ops: Iterable[Op], model: Model, initial: Hashable) -> Op | None:
    """None when the history is possible, else the first operation that shows it is not."""
    relevant = [op for op in ops if op.outcome == OK or (op.outcome == UNKNOWN and op.kind != READ)]
    events: list[tuple[int, int, int]] = []
    for number, op in enumerate(relevant):
        events.append((op.invoke_ns, 0, number))
        if op.outcome == OK:
            events.append((op.return_ns, 1, number))
    events.sort()
    open_ops: dict[int, Op] = {}
    configurations: set[tuple[frozenset[int], Hashable]] = {(frozenset(), initial)}
    for _, is_answer, number in events:
        if not is_answer:
            open_ops[number] = relevant[number]
            continue
        configurations = _through(configurations, number, open_ops, model)
        if not configurations:
            return relevant[number]
        del open_ops[number]
    return None


def _through(
    configurations: set[tuple[frozenset[int], Hashable]], answered: int, open_ops: dict[int, Op], model: Model
) -> set[tuple[frozenset[int], Hashable]]:
    """The configurations after `answered` took effect, whatever else took effect before it."""
    reads = [(number, op) for number, op in open_ops.items() if op.kind == READ]
    writes = [(number, op) for number, op in open_ops.items() if op.kind != READ]

    def with_reads(done: frozenset[int], state: Hashable) -> tuple[frozenset[int], Hashable]:
        """A read that can take effect now loses nothing by doing so: it changes no state."""
        now = [number for number, op in reads if number not in done and model(state, op)[0]]
        return (done.union(now) if now else done), state

    kept: set[tuple[frozenset[int], Hashable]] = set()
    seen = {with_reads(done, state) for done, state in configurations}
    todo = list(seen)
    while todo:
        done, state = todo.pop()
        if answered in done:
            kept.add((done - {answered}, state))
            continue
        for number, op in writes:
            if number in done:
                continue
            possible, after = model(state, op)
            if not possible:
                continue
            following = with_reads(done | {number}, after)
            if following not in seen:
                seen.add(following)
                todo.append(following)
        if len(seen) > CONFIGURATIONS_MAX:
            raise TooWide(f"more than {CONFIGURATIONS_MAX} configurations at {open_ops[answered]}")
    return kept


def bounded(ops: Sequence[Op]) -> list[Op]:
    """A register's history with every unknown write either made certain or dropped; see the theory."""
    writes = [op for op in ops if op.kind == CAS]
    values = [op.value for op in writes]
    assert len(set(values)) == len(values), "written values must be unique"
    certain = [op for op in ops if op.outcome == OK]
    unknown = {op.value: op for op in writes if op.outcome == UNKNOWN}
    witnessed: dict[Hashable, int] = {}
    todo = list(certain)
    while todo:
        op = todo.pop()
        shown = op.value if op.kind == READ else op.expected
        writer = unknown.get(shown)
        if writer is None or op.return_ns >= witnessed.get(shown, op.return_ns + 1):
            continue
        witnessed[shown] = op.return_ns
        todo.append(replace(writer, outcome=OK, return_ns=op.return_ns))
    # An effect that was seen before its own call keeps that impossible order.
    made = [
        replace(unknown[value], outcome=OK, return_ns=max(when, unknown[value].invoke_ns))
        for value, when in witnessed.items()
    ]
    return certain + made


def check_register(key: str, ops: Sequence[Op], initial: Hashable) -> list[Anomaly]:
    """Compare-and-set on one register."""
    failed = {op.value: op for op in ops if op.kind == CAS and op.outcome == FAIL}
    for op in ops:
        shown = op.value if op.kind == READ else op.expected
        if op.outcome == OK and shown in failed:
            return [Anomaly(key, "a write that was refused took effect", (failed[shown], op))]
    culprit = linearizable(bounded(ops), register, initial)
    return [] if culprit is None else [Anomaly(key, "not linearizable", (culprit,))]


def check_lifecycle(key: str, ops: Sequence[Op]) -> list[Anomaly]:
    """Creation and removal of one name, and reads that saw it or did not."""
    culprit = linearizable(ops, lifecycle, "absent")
    if culprit is None:
        return []
    refused = [op for op in ops if op.kind == CREATE and op.outcome == FAIL]
    if refused and culprit.kind == READ and culprit.value:
        return [Anomaly(key, "a create that was refused took effect", (refused[0], culprit))]
    return [Anomaly(key, "not linearizable", (culprit,))]


def check_list(key: str, ops: Sequence[Op]) -> list[Anomaly]:
    """Appends to one list; a read shows all of it."""
    reads = [op for op in ops if op.kind == READ and op.outcome == OK]
    final = max((op.value for op in reads), key=len, default=[])
    place = {element: number for number, element in enumerate(final)}
    if len(place) != len(final):
        return [Anomaly(key, f"an element stands twice in {final}")]
    for op in reads:
        if op.value != final[: len(op.value)]:
            return [Anomaly(key, "two reads show different orders", (op,))]
    appends = [op for op in ops if op.kind == APPEND]
    known = {op.value for op in appends}
    for element in final:
        if element not in known:
            return [Anomaly(key, f"nobody wrote {element!r}")]
    for op in appends:
        if op.outcome == FAIL and op.value in place:
            return [Anomaly(key, "an append that was refused took effect", (op,))]
    return _list_in_time(key, reads, appends, place)


def _list_in_time(
    key: str, reads: Sequence[Op], appends: Sequence[Op], place: dict[str, int]
) -> list[Anomaly]:
    """Does the order of the elements agree with time? Places: element i at i, a read of n at n - 0.5."""
    placed = [(len(op.value) - 0.5, op) for op in reads]
    for op in appends:
        if op.value in place:
            placed.append((float(place[op.value]), op))
        elif op.outcome == OK:
            # Nobody saw it: it comes after everything, and must have begun after every read ended... or be lost.
            placed.append((float(len(place)), op))
    answers = sorted(
        ((op.return_ns, where, op) for where, op in placed if op.outcome == OK), key=lambda a: a[0]
    )
    furthest, witness, position = -1.0, None, 0
    for where, op in sorted(placed, key=lambda entry: entry[1].invoke_ns):
        while position < len(answers) and answers[position][0] < op.invoke_ns:
            if answers[position][1] > furthest:
                furthest, witness = answers[position][1], answers[position][2]
            position += 1
        if furthest > where:
            assert witness is not None
            lost = witness.kind == APPEND and op.kind == READ
            return [
                Anomaly(
                    key, "an acknowledged append is missing" if lost else "not linearizable", (witness, op)
                )
            ]
    return []


def check_index(ops: Sequence[Op]) -> list[Anomaly]:
    """An answer must come from a log at least as long as every answer before its call showed."""
    ended = sorted((op for op in ops if op.outcome == OK and op.index), key=lambda op: op.return_ns)
    furthest: Op | None = None
    position = 0
    for op in sorted(ended, key=lambda op: op.invoke_ns):
        while position < len(ended) and ended[position].return_ns < op.invoke_ns:
            if furthest is None or ended[position].index > furthest.index:
                furthest = ended[position]
            position += 1
        if furthest is not None and op.index < furthest.index:
            kind = "a stale read" if op.kind == READ else "a write"
            return [
                Anomaly(op.key, f"{kind} at index {op.index} after index {furthest.index}", (furthest, op))
            ]
    return []


def check_watch(watcher: int, events: Sequence[Seen], writes: Sequence[tuple[int, str]]) -> list[Anomaly]:
    """Ordered, unique, complete: `writes` are the acknowledged (version, object id) of watched objects, sorted."""
    by_stream: dict[int, list[Seen]] = defaultdict(list)
    for event in events:
        by_stream[event.stream].append(event)
    for number, stream in by_stream.items():
        if problem := _stream_problem(stream, writes):
            return [Anomaly(f"watch {watcher}", f"stream {number}: {problem}")]
    return []


def _stream_problem(stream: Sequence[Seen], known: Sequence[tuple[int, str]]) -> str:
    """One connection: from its SYNC, or from where it continues an earlier one."""
    start = next((n for n, event in enumerate(stream) if event.action in (RESUME, SYNC)), None)
    if start is None:
        return ""
    since, live = stream[start].index, stream[start + 1 :]
    if [event.index for event in live] != sorted(event.index for event in live):
        return "events out of order"
    changes = [event for event in live if event.action not in (SYNC, PROGRESS)]
    if any(event.index <= since for event in changes):
        return f"an event is not newer than {since}, where the stream begins"
    shown = [(event.version, event.identity) for event in changes if event.action != "DELETE"]
    if len(set(shown)) != len(shown):
        return "an event came twice"
    marks = [event.index for event in live if event.action in (SYNC, PROGRESS)]
    until = max([since, *(event.index - 1 for event in changes), *marks])
    have = set(shown)
    first = bisect_left(known, (since + 1, ""))
    for version, identity in known[first : bisect_left(known, (until + 1, ""))]:
        if (version, identity) not in have:
            return f"no event for version {version} of {identity}"
    return ""
