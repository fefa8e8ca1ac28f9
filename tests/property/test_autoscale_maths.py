"""The autoscaler's mathematics: against the formulas as they are written down, and what must always hold."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.plan import autoscale_math as maths
from swarmpy.proto import objects_pb2

NOW_MS = 1_700_000_000_000
RATIOS = st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=30)
COUNTS = st.integers(1, 200)


def spec(**fields: object) -> objects_pb2.AutoscalerSpec:
    return objects_pb2.AutoscalerSpec(min=1, max=1000, **fields)  # type: ignore[arg-type]


@given(RATIOS)
def test_with_all_numbers_it_is_the_formula(ratios: list[float]) -> None:
    mean = sum(ratios) / len(ratios)
    proposed = maths.proposal(maths.Use(tuple(ratios)), len(ratios))
    if abs(mean - 1) <= maths.TOLERANCE:
        assert proposed == len(ratios)
    else:
        assert proposed is not None
        assert abs(proposed - mean * len(ratios)) < 1 + 1e-6
        assert proposed >= mean * len(ratios) - 1e-6


def test_examples_of_the_documentation() -> None:
    assert maths.proposal(maths.Use((2.0,)), 1) == 2  # 200m of 100m
    assert maths.proposal(maths.Use((0.5, 0.5)), 2) == 1  # 50m of 100m
    assert maths.proposal(maths.Use((1.1, 1.1)), 2) == 2  # within the tolerance
    assert maths.proposal(maths.Use((1.2, 1.2, 1.2)), 3) == 4
    assert maths.proposal_of_total(900, 100, 5) == 9
    assert maths.proposal_of_total(520, 100, 5) == 5


@given(RATIOS, st.integers(0, 20), st.integers(0, 20))
def test_unknown_tasks_never_make_it_bolder(ratios: list[float], missing: int, unready: int) -> None:
    current = len(ratios) + missing + unready
    careful = maths.proposal(maths.Use(tuple(ratios), missing, unready), current)
    assert careful is not None
    mean = sum(ratios) / len(ratios)
    if mean > 1:
        assert current <= max(current, careful) <= max(current, math.ceil(round(mean * current, 9)))
        assert careful >= current or not missing + unready
    else:
        assert careful <= current
        assert careful >= math.ceil(round(mean * len(ratios), 9)) - 1e-9


@given(RATIOS, st.floats(0, 5))
def test_more_use_never_means_fewer_tasks(ratios: list[float], more: float) -> None:
    low = maths.proposal(maths.Use(tuple(ratios)), len(ratios))
    high = maths.proposal(maths.Use(tuple(ratio + more for ratio in ratios)), len(ratios))
    assert low is not None
    assert high is not None
    tolerance = math.ceil(0.1 * len(ratios))
    assert high >= low - tolerance


def test_nothing_known_proposes_nothing() -> None:
    assert maths.proposal(maths.Use((), missing=3), 3) is None


RECS = st.lists(st.tuples(st.integers(0, 900_000), st.integers(1, 50)), max_size=30)


@given(RECS, COUNTS, st.integers(1, 50), st.integers(0, 600_000), st.integers(0, 600_000))
def test_stabilization_stays_within_its_windows(
    past: list[tuple[int, int]], current: int, proposed: int, up_ms: int, down_ms: int
) -> None:
    entries = [
        objects_pb2.Recommendation(at_ms=NOW_MS - ago_ms, replicas=replicas)
        for ago_ms, replicas in sorted(past, reverse=True)
    ]
    rules = spec(
        up=objects_pb2.ScaleRules(stabilization_ms=up_ms),
        down=objects_pb2.ScaleRules(stabilization_ms=down_ms),
    )
    result = maths.stabilized(current, proposed, entries, rules, NOW_MS)

    def held(window_ms: int) -> list[int]:
        """What held at each moment of the window, looked at one second at a time."""
        found = []
        for moment in range(NOW_MS - window_ms + 1, NOW_MS + 1, 997):
            before = [entry for entry in entries if entry.at_ms <= moment]
            if before and before[-1].at_ms < NOW_MS:
                found.append(int(before[-1].replicas))
        return found

    if result > current:
        assert result <= min([proposed, *held(up_ms)])
    elif result < current:
        assert result >= max([proposed, *held(down_ms)])


POLICIES = st.lists(
    st.one_of(
        st.builds(
            lambda t, p: objects_pb2.ScalePolicy(tasks=t, period_ms=p),
            st.integers(1, 20),
            st.integers(1000, 60_000),
        ),
        st.builds(
            lambda t, p: objects_pb2.ScalePolicy(percent=t, period_ms=p),
            st.integers(1, 300),
            st.integers(1000, 60_000),
        ),
    ),
    max_size=3,
)


@settings(deadline=None)
@given(
    POLICIES, POLICIES, st.sampled_from(["", "max", "min", "disabled"]), st.sampled_from(["", "min", "disabled"]),
    st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 10), st.integers(10, 60),
)  # fmt: skip
def test_no_history_exceeds_rates_minimum_and_maximum(
    up: list[objects_pb2.ScalePolicy], down: list[objects_pb2.ScalePolicy], up_select: str, down_select: str,
    wishes: list[int], low: int, high: int,
) -> None:  # fmt: skip
    rules = objects_pb2.AutoscalerSpec(
        min=low, max=high, up=objects_pb2.ScaleRules(policies=up, select=up_select),
        down=objects_pb2.ScaleRules(policies=down, select=down_select),
    )  # fmt: skip
    current, now_ms = low, NOW_MS
    events: list[objects_pb2.ScaleEvent] = []
    for wish in wishes:
        now_ms += 5_000
        result, cut = maths.bounded(current, wish, rules, events, now_ms)
        assert low <= result <= high
        assert bool(cut) == (result != wish)
        assert min(current, wish) <= result <= max(current, wish) or result in (low, high)
        if up_select == "disabled":
            assert result <= current
        if down_select == "disabled":
            assert result >= current
        for policy in up if up_select == "min" and result > current else ():
            start = current - sum(e.change for e in events if e.at_ms > now_ms - policy.period_ms)
            most = start + policy.tasks if policy.tasks else math.ceil(start * (100 + policy.percent) / 100)
            assert result <= max(current, most)
        if result != current:
            events.append(objects_pb2.ScaleEvent(at_ms=now_ms, change=result - current))
        current = result


def test_the_default_rates() -> None:
    assert maths.most(1, spec(), [], NOW_MS) == 5  # 4 tasks
    assert maths.most(10, spec(), [], NOW_MS) == 20  # 100 %
    just_now = [objects_pb2.ScaleEvent(at_ms=NOW_MS - 5000, change=10)]
    assert maths.most(20, spec(), just_now, NOW_MS) == 20, "the period's share is used up"
    assert maths.most(20, spec(), just_now, NOW_MS + 11_000) == 40
    assert maths.fewest(10, spec(), [], NOW_MS) == 0
