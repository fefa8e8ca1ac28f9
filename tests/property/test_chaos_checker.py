"""The chaos checker against brute force: on small histories every order is tried."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.checker import (
    Model,
    bounded,
    check_lifecycle,
    check_list,
    check_register,
    lifecycle,
    linearizable,
    register,
)
from tests.chaos.history import APPEND, CAS, CREATE, DELETE, FAIL, OK, READ, UNKNOWN, Op

SLOW = settings(max_examples=600, deadline=None)


def possible(ops: Sequence[Op], model: Model, initial: Hashable) -> bool:
    """By trying every order of every choice of the unknown writes."""
    certain = [op for op in ops if op.outcome == OK]
    unknown = [op for op in ops if op.outcome == UNKNOWN and op.kind != READ]
    for count in range(len(unknown) + 1):
        for chosen in combinations(unknown, count):
            for order in permutations([*certain, *chosen]):
                if in_time(order) and in_model(order, model, initial):
                    return True
    return False


def in_time(order: Sequence[Op]) -> bool:
    return not any(
        later.outcome == OK and later.return_ns < earlier.invoke_ns
        for number, earlier in enumerate(order)
        for later in order[number + 1 :]
    )


def in_model(order: Sequence[Op], model: Model, state: Hashable) -> bool:
    for op in order:
        fits, state = model(state, op)
        if not fits:
            return False
    return True


def appending(state: Hashable, op: Op) -> tuple[bool, Hashable]:
    assert isinstance(state, tuple)
    if op.kind == APPEND:
        return True, (*state, op.value)
    return tuple(op.value) == state, state


times = st.tuples(st.integers(0, 12), st.integers(0, 6))
outcomes = st.sampled_from([OK, OK, OK, UNKNOWN, FAIL])


@st.composite
def registers(draw: st.DrawFn) -> list[Op]:
    """Unique writes, each from some value; reads of any of them. About half are impossible."""
    writes = draw(st.integers(0, 4))
    values = ["", *(f"v{number}" for number in range(writes))]
    ops = []
    for number in range(writes):
        begin, length = draw(times)
        expected = draw(st.sampled_from([value for value in values if value != f"v{number}"]))
        ops.append(Op(0, "r", CAS, begin, begin + length, draw(outcomes), f"v{number}", expected))
    for _ in range(draw(st.integers(0, 3))):
        begin, length = draw(times)
        ops.append(Op(0, "r", READ, begin, begin + length, OK, draw(st.sampled_from(values))))
    return ops


@SLOW
@given(registers())
def test_registers_are_judged_as_brute_force_does(ops: list[Op]) -> None:
    expected = possible(ops, register, "")
    assert (linearizable(ops, register, "") is None) == expected
    assert (linearizable(bounded(ops), register, "") is None) == expected
    assert (not check_register("r", ops, "")) == expected


@st.composite
def lives(draw: st.DrawFn) -> list[Op]:
    ops = []
    for kind in draw(st.lists(st.sampled_from([CREATE, DELETE]), max_size=3)):
        begin, length = draw(times)
        ops.append(Op(0, "i", kind, begin, begin + length, draw(outcomes)))
    for _ in range(draw(st.integers(0, 4))):
        begin, length = draw(times)
        ops.append(Op(0, "i", READ, begin, begin + length, OK, draw(st.booleans())))
    return ops


@SLOW
@given(lives())
def test_lives_are_judged_as_brute_force_does(ops: list[Op]) -> None:
    assert (not check_lifecycle("i", ops)) == possible(ops, lifecycle, "absent")


@st.composite
def lists(draw: st.DrawFn) -> list[Op]:
    """Reads are prefixes of one order, mostly; appends in any time."""
    names = [f"e{number}" for number in range(draw(st.integers(0, 4)))]
    order = draw(st.permutations(names))
    ops = []
    for name in names:
        begin, length = draw(times)
        ops.append(Op(0, "l", APPEND, begin, begin + length, draw(outcomes), name))
    for _ in range(draw(st.integers(0, 3))):
        begin, length = draw(times)
        shown = list(order[: draw(st.integers(0, len(order)))])
        if shown and draw(st.integers(0, 9)) == 0:
            shown.reverse()
        ops.append(Op(0, "l", READ, begin, begin + length, OK, shown))
    return ops


@SLOW
@given(lists())
def test_lists_are_judged_as_brute_force_does(ops: list[Op]) -> None:
    assert (not check_list("l", ops)) == possible(ops, appending, ())


@st.composite
def real_registers(draw: st.DrawFn) -> list[Op]:
    """A history that did happen: instants are drawn first, calls and answers round them."""
    ops, state, now = [], "", 0
    for number in range(draw(st.integers(1, 40))):
        now += draw(st.integers(1, 3))
        begin, end = now - draw(st.integers(0, 6)), now + draw(st.integers(0, 6))
        if draw(st.booleans()):
            op = Op(0, "r", CAS, begin, end, draw(st.sampled_from([OK, OK, UNKNOWN])), f"v{number}", state)
            state = f"v{number}"
        else:
            op = Op(0, "r", READ, begin, end, OK, state)
        ops.append(op)
    return ops


@settings(max_examples=200, deadline=None)
@given(real_registers(), st.data())
def test_what_happened_is_possible_and_a_stale_read_after_it_is_not(
    ops: list[Op], data: st.DataObject
) -> None:
    assert check_register("r", ops, "") == []
    written = [op for op in ops if op.kind == CAS and op.outcome == OK]
    if written:
        end = 1 + max(op.return_ns for op in ops)
        last = ops[-1].value
        stale = data.draw(st.sampled_from(written)).expected
        if stale != last:
            assert check_register("r", [*ops, Op(1, "r", READ, end, end, OK, stale)], "")


def test_a_refused_write_that_took_effect_is_seen() -> None:
    write = Op(0, "r", CAS, 0, 1, FAIL, "v", "")
    read = Op(0, "r", READ, 2, 3, OK, "v")
    assert check_register("r", [write, read], "")
    assert not check_register("r", [replace(write, outcome=OK), read], "")
