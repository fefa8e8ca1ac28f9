"""What holds for a probe whatever it is answered, and for a gRPC answer whatever its bytes."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.agent import grpc_health, probes
from swarmpy.node.agent.probes import FAILING, PASSING, WAITING, Check
from swarmpy.proto import objects_pb2

KINDS = st.sampled_from([objects_pb2.PROBE_LIVENESS, objects_pb2.PROBE_READINESS, objects_pb2.PROBE_STARTUP])
CHECKS = st.builds(
    Check,
    interval_ms=st.integers(50, 20_000), timeout_ms=st.integers(50, 5_000), retries=st.integers(1, 5),
    start_period_ms=st.integers(0, 30_000), start_interval_ms=st.integers(50, 5_000),
)  # fmt: skip
ANSWERS = st.lists(st.tuples(st.booleans(), st.integers(0, 5_000)), max_size=60)


@given(KINDS, CHECKS, ANSWERS)
def test_a_verdict_is_what_the_last_answers_say(
    kind: objects_pb2.ProbeKind, check: Check, answers: list[tuple[bool, int]]
) -> None:
    probe = probes.begun(kind, check, 1_000)
    row = 0
    for well, took_ms in answers:
        if probe.decided:
            break
        before, now_ms = probe, probe.next_ms + took_ms
        probe = probes.answered(probe, "" if well else "no", now_ms)
        row = 0 if well else row + 1
        assert probe.next_ms > now_ms, "it would be asked without a pause"
        assert probe.next_ms - now_ms <= check.interval_ms
        if well:
            assert probe.verdict == PASSING
        else:
            assert probe.verdict != PASSING or row < check.retries
            assert before.verdict == FAILING or probe.verdict != FAILING or row >= check.retries
            if before.verdict == WAITING and probe.verdict == FAILING:
                assert now_ms - 1_000 >= check.start_period_ms + check.retries * check.interval_ms
        if probe.verdict != before.verdict:
            assert probe.since_ms == now_ms
        assert probe.verdict != WAITING or before.verdict == WAITING


@given(CHECKS)
def test_a_container_that_never_answers_is_given_up_in_bounded_time(check: Check) -> None:
    probe = probes.begun(objects_pb2.PROBE_LIVENESS, check, 0)
    limit_ms = check.start_period_ms + (check.retries + 1) * (check.interval_ms + check.start_interval_ms)
    while not probe.decided:
        assert probe.next_ms <= limit_ms
        probe = probes.answered(probe, "no", probe.next_ms)


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_any_bytes_are_an_answer_or_refused(chunks: list[bytes]) -> None:
    answer = grpc_health.Answer()
    with contextlib.suppress(grpc_health.Broken):
        for chunk in chunks:
            answer.feed(chunk)


@given(st.binary(max_size=300), st.integers(0, 255))
def test_any_headers_are_an_answer_or_refused(block: bytes, flags: int) -> None:
    with contextlib.suppress(grpc_health.Broken):
        grpc_health.Answer().feed(grpc_health.frame(grpc_health.HEADERS, flags, 1, block))
