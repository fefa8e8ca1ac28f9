"""What `doctor` shows: machines' checks, pairs of nodes, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from swarmpy.cli.output import document
from swarmpy.proto import diagnosis_pb2

PLANNER_ADVICE = "Report it with `swarmpy support-bundle`: the log of the leader has the traceback"
CLOCK_LIMIT_MS = 500.0
LOSS_LIMIT = 0.02
WORDS = {
    diagnosis_pb2.CHECK_OK: "ok", diagnosis_pb2.CHECK_WARNING: "warning", diagnosis_pb2.CHECK_FAILED: "FAILED",
    diagnosis_pb2.CHECK_SKIPPED: "skipped",
}  # fmt: skip
Checks = Sequence[diagnosis_pb2.Check]
Reports = Sequence[diagnosis_pb2.NodeReport]


def lines(checks: Checks, reports: Reports, planners: Sequence[str] = ()) -> Iterator[str]:
    """`planners`: a sentence for each thing that the leader fails to plan."""
    yield "This machine"
    yield from check_lines(checks)
    if planners:
        yield ""
        yield "Leader"
        yield from (f"  FAILED   {problem}" for problem in planners)
        yield "           → it tries again by itself; what else it decides is not held up. " + PLANNER_ADVICE
    for report in reports:
        notable = [check for check in report.probe.checks if check.result != diagnosis_pb2.CHECK_OK]
        if report.problem or notable:
            yield ""
            yield f"Node {report.name or report.node_id}"
            if report.problem:
                yield f"  FAILED   {report.problem}"
            yield from check_lines(notable)
    pairs = [(report, pair) for report in reports for pair in report.probe.pairs]
    if pairs:
        yield ""
        yield f"{'FROM':<20}{'TO':<20}{'RTT':>10}{'MAX':>10}{'LOSS':>7}{'MTU':>7}{'CLOCK':>11}  {'WAY':<8}PROBLEM"
        for report, pair in pairs:
            yield pair_line(report, pair)
        yield from advice_lines([pair for _, pair in pairs])


def check_lines(checks: Checks) -> Iterator[str]:
    for check in checks:
        yield f"  {WORDS[check.result]:<8} {check.name}: {check.found}"
        if check.advice and check.result != diagnosis_pb2.CHECK_OK:
            yield f"           → {check.advice}"


def pair_line(report: diagnosis_pb2.NodeReport, pair: diagnosis_pb2.PairReport) -> str:
    rtt = f"{pair.rtt_ms:.2f}ms" if pair.rtt_ms else "-"
    most = f"{pair.rtt_max_ms:.2f}ms" if pair.rtt_max_ms else "-"
    offset = f"{pair.clock_offset_ms:+.1f}ms" if pair.reachable else "-"
    way = "direct" if pair.direct else "vxlan"
    return (
        f"{report.name or report.node_id:<20}{pair.name or pair.node_id:<20}{rtt:>10}{most:>10}"
        f"{pair.loss:>7.0%}{pair.path_mtu or '-':>7}{offset:>11}  {way:<8}{'; '.join(problems(pair))}"
    ).rstrip()


def problems(pair: diagnosis_pb2.PairReport) -> list[str]:
    """What is wrong between two nodes, in words; empty when nothing is."""
    found = [pair.problem] if pair.problem else []
    if pair.udp_blocked:
        found.append("UDP is blocked")
    elif pair.loss > LOSS_LIMIT:
        found.append("packets are lost")
    if pair.reachable and abs(pair.clock_offset_ms) > CLOCK_LIMIT_MS:
        found.append("the clocks differ")
    found += [f"{port.address}/tcp: {port.problem}" for port in pair.ports if not port.open]
    return found


def advice_lines(pairs: Sequence[diagnosis_pb2.PairReport]) -> Iterator[str]:
    advice = []
    if any(pair.udp_blocked for pair in pairs):
        advice.append(
            "open 4790/udp between all nodes (firewall, security group): containers reach no other node"
        )
    if any(not pair.udp_blocked and pair.loss > LOSS_LIMIT for pair in pairs):
        advice.append(
            "packets are lost between nodes: look at cables, links' error counters (ip -s link), load"
        )
    if any(not port.open for pair in pairs for port in pair.ports):
        advice.append("open 7376, 7377 and 7379/tcp to the managers")
    if any(not pair.reachable for pair in pairs):
        advice.append("open 7378/tcp between all nodes")
    if any(pair.reachable and abs(pair.clock_offset_ms) > CLOCK_LIMIT_MS for pair in pairs):
        advice.append("set the clocks by NTP (chrony, systemd-timesyncd)")
    mtus = {pair.path_mtu for pair in pairs if pair.path_mtu}
    if len(mtus) > 1:
        advice.append(
            f"the path MTU differs between nodes ({min(mtus)} to {max(mtus)}): large packets are cut up"
        )
    if advice:
        yield ""
        yield from (f"→ {line}" for line in advice)


def failed(checks: Checks, reports: Reports, planners: Sequence[str] = ()) -> bool:
    """Whether anything is broken; warnings are not."""
    every = [*checks, *(check for report in reports for check in report.probe.checks)]
    broken = any(check.result == diagnosis_pb2.CHECK_FAILED for check in every)
    pairs = [pair for report in reports for pair in report.probe.pairs]
    return bool(planners) or broken or any(report.problem for report in reports) or any(map(problems, pairs))


def as_document(checks: Checks, reports: Reports, planners: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "leader": list(planners),
        "machine": [document(check, defaults=True) for check in checks],
        "nodes": [document(report, defaults=True) for report in reports],
        "healthy": not failed(checks, reports, planners),
    }
