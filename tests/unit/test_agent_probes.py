"""The schedule of a probe and what its answers mean; the bytes of a gRPC health check."""

from __future__ import annotations

from typing import Any

import pytest
from swarmpy.node.agent import grpc_health, probes
from swarmpy.node.agent.probes import FAILING, PASSING, Check, Probe, answered, begun
from swarmpy.proto import objects_pb2, types_pb2

LIVENESS, READINESS, STARTUP = (
    objects_pb2.PROBE_LIVENESS, objects_pb2.PROBE_READINESS, objects_pb2.PROBE_STARTUP,
)  # fmt: skip


def story(probe: Probe, answers: str) -> Probe:
    """Answers at the times the probe asks for: `+` well, `-` not."""
    for answer in answers:
        probe = answered(probe, "" if answer == "+" else "closed", probe.next_ms)
    return probe


def asked_at(probe: Probe, until_ms: int) -> list[int]:
    """When a probe that always fails is asked, until it is decided."""
    times = []
    while not probe.decided and probe.next_ms <= until_ms:
        times.append(probe.next_ms)
        probe = answered(probe, "closed", probe.next_ms)
    return times


def test_a_container_that_is_up_is_noticed_within_the_start_interval() -> None:
    probe = story(begun(LIVENESS, Check(), 0), "---+")
    assert probe.verdict == PASSING
    assert probe.since_ms == 3_000
    assert probe.next_ms == 13_000


def test_one_that_never_answers_is_given_up_after_start_period_and_retries_intervals() -> None:
    check = Check(interval_ms=10_000, retries=3, start_period_ms=5_000)
    times = asked_at(begun(LIVENESS, check, 0), 100_000)
    assert times == list(range(0, 36_000, 1_000))


def test_the_start_interval_is_never_longer_than_the_interval() -> None:
    check = Check(interval_ms=200, start_interval_ms=1_000, retries=2)
    assert asked_at(begun(LIVENESS, check, 0), 10_000) == [0, 200, 400]


def test_failures_in_a_row_count_and_a_success_forgets_them() -> None:
    passing = story(begun(LIVENESS, Check(retries=3), 0), "+--+--")
    assert passing.verdict == PASSING
    failing = story(passing, "-")
    assert (failing.verdict, failing.failure, failing.decided) == (FAILING, "closed", True)


def test_readiness_goes_and_comes_back_and_is_asked_for_ever() -> None:
    probe = story(begun(READINESS, Check(retries=2), 0), "+--")
    assert probe.verdict == FAILING
    assert not probe.decided
    probe = story(probe, "---+")
    assert probe.verdict == PASSING
    assert not probe.decided


def test_startup_is_asked_until_its_verdict() -> None:
    assert story(begun(STARTUP, Check(), 0), "-+").decided
    given_up = asked_at(begun(STARTUP, Check(interval_ms=1_000, retries=2), 0), 100_000)
    assert given_up == [0, 1_000, 2_000]


def test_what_is_said_of_failures_changes_only_with_the_first_and_with_the_verdict() -> None:
    """Each is a write of the cluster's: a check that fails for hours must not cause one every interval."""
    probe = begun(READINESS, Check(retries=2), 0)
    said = []
    for number in range(40):
        probe = answered(probe, f"failure {number}", probe.next_ms)
        said.append(probe.status.failure)
    assert len(set(said)) == 2


def test_an_earlier_verdict_goes_on_and_many_are_spread_over_the_interval() -> None:
    known = story(begun(LIVENESS, Check(), 0), "+").status
    again = [probes.resumed(LIVENESS, Check(), 50_000, known, f"task{n}") for n in range(100)]
    assert {probe.verdict for probe in again} == {PASSING}
    assert len({probe.next_ms for probe in again}) > 80
    assert all(50_000 <= probe.next_ms < 60_000 for probe in again)
    unready = story(begun(READINESS, Check(), 0), "+---").status
    assert probes.resumed(READINESS, Check(), 0, unready, "t").verdict == FAILING


@pytest.mark.parametrize(
    ("spec", "image", "expected"),
    [
        ({}, None, None),
        ({"test": ["NONE"]}, {"Test": ["CMD", "x"]}, None),
        ({}, {"Test": ["CMD", "x"], "Interval": 2_000_000_000}, Check(argv=("x",), interval_ms=2000)),
        ({"retries": 7}, {"Test": ["CMD-SHELL", "x y"]}, Check(argv=("/bin/sh", "-c", "x y"), retries=7)),
        ({"grpc": ":9000"}, {"Test": ["CMD", "x"]}, Check(grpc=":9000")),
        ({"http": ":80/", "timeout_ms": 5, "start_period_ms": 6, "start_interval_ms": 7}, None,
         Check(http=":80/", timeout_ms=5, start_period_ms=6, start_interval_ms=7)),
    ],
)  # fmt: skip
def test_the_service_beats_the_image(
    spec: dict[str, Any], image: dict[str, object] | None, expected: Check | None
) -> None:
    assert probes.check_of(types_pb2.HealthConfig(**spec), image) == expected


# --- grpc ---------------------------------------------------------------------------------------


def server(*frames: bytes) -> bytes:
    return b"".join([grpc_health.frame(grpc_health.SETTINGS, 0, 0, b""), *frames])


def message(status: int) -> bytes:
    body = bytes([0x08, status]) if status else b""
    return b"\0" + len(body).to_bytes(4, "big") + body


OK_HEADERS = grpc_health.frame(grpc_health.HEADERS, grpc_health.END_HEADERS, 1, b"\x88")


def answer_to(data: bytes, chunk: int = 1 << 20) -> str | None:
    answer = grpc_health.Answer()
    for start in range(0, len(data), chunk):
        answer.feed(data[start : start + chunk])
    return answer.failure


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_serving_server_is_well_however_its_bytes_arrive(chunk: int) -> None:
    data = server(OK_HEADERS, grpc_health.frame(grpc_health.DATA, 0, 1, message(1)))
    assert answer_to(data, chunk) == ""


@pytest.mark.parametrize(
    ("status", "word"), [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (9, "9")]
)
def test_other_states_are_said(status: int, word: str) -> None:
    data = server(OK_HEADERS, grpc_health.frame(grpc_health.DATA, 0, 1, message(status)))
    assert answer_to(data) == f"it is {word}"


def literal(text: bytes) -> bytes:
    return bytes([len(text)]) + text


@pytest.mark.parametrize(
    "block",
    [
        b"\x88\x00" + literal(b"grpc-status") + literal(b"12"),
        b"\x88\x40\x88" + bytes.fromhex("9acac8b21234da8f") + bytes([0x80 | 2]) + grpc_health.huffman_digits("12"),
        # Twice the same field: in the table first, then by its number there.
        b"\x40" + literal(b"grpc-status") + literal(b"12") + b"\xbe",
    ],
)  # fmt: skip
def test_a_refusal_is_read_from_headers_plain_compressed_or_by_number(block: bytes) -> None:
    flags = grpc_health.END_HEADERS | grpc_health.END_STREAM
    said = answer_to(server(grpc_health.frame(grpc_health.HEADERS, flags, 1, block)))
    assert said == "gRPC status 12: it does not serve grpc.health.v1"


def test_pings_and_settings_are_answered() -> None:
    answer = grpc_health.Answer()
    sent = answer.feed(server(grpc_health.frame(grpc_health.PING, 0, 0, b"12345678")))
    assert grpc_health.frame(grpc_health.SETTINGS, grpc_health.ACK, 0, b"") in sent
    assert grpc_health.frame(grpc_health.PING, grpc_health.ACK, 0, b"12345678") in sent


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        server(grpc_health.frame(grpc_health.RST_STREAM, 0, 1, b"\0\0\0\x07")),
        server(grpc_health.frame(grpc_health.GOAWAY, 0, 0, bytes(8))),
        server(OK_HEADERS, grpc_health.frame(grpc_health.DATA, grpc_health.END_STREAM, 1, b"")),
        server(grpc_health.frame(grpc_health.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff")),
        server(grpc_health.frame(grpc_health.HEADERS, 5, 1, b"\x40\x7f")),
        server(*[grpc_health.frame(grpc_health.PING, 0, 0, bytes(8))] * 5000),
    ],
)
def test_what_is_no_answer_is_refused_and_bounded(data: bytes) -> None:
    with pytest.raises(grpc_health.Broken):
        answer_to(data)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("CMD true", None),
        ({"Test": 5}, None),
        ({"Test": ["CMD", 7]}, None),
        (
            {"Test": ["CMD", "a"], "Interval": "1s", "Timeout": -5, "Retries": [3], "StartPeriod": None},
            Check(("a",)),
        ),
        (
            {"Test": ["CMD", "a"], "Interval": 1_000_000, "Timeout": 10**400, "Retries": 10**9},
            Check(("a",), interval_ms=50, timeout_ms=probes.IMAGE_MS_MAX, retries=probes.IMAGE_RETRIES_MAX),
        ),
    ],
)
def test_what_an_image_says_may_be_anything(image: Any, expected: Check | None) -> None:
    assert probes.check_of(types_pb2.HealthConfig(), image) == expected


def test_a_name_that_is_too_long_for_the_question_is_said() -> None:
    with pytest.raises(grpc_health.Broken, match="at most 119"):
        grpc_health.request("127.0.0.1:1", "é" * 100)
