"""`doctor`: the checks of a machine, what counts as fixed, packets, and what is said about pairs of nodes."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from swarmpy.cli import views_doctor
from swarmpy.cli.main import root
from swarmpy.node.agent import diagnosis, machine_checks
from swarmpy.node.manager.diagnosis import chosen, probe_target
from swarmpy.overlay import ping
from swarmpy.overlay.ping import Pinger
from swarmpy.proto import diagnosis_pb2, objects_pb2, types_pb2


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("1.1.5+ds1", False), ("1.2.7", False), ("1.2.8", True), ("1.2.9-rc1", True), ("1.3.0", False),
        ("1.3.2", False), ("1.3.3", True), ("1.4.0", True), ("2.0.0", True), ("unknown version", False),
    ],
)  # fmt: skip
def test_runc_with_the_fixes(version: str, fixed: bool) -> None:
    assert machine_checks.is_fixed(machine_checks.numbers_of(version)) is fixed


def test_programs_are_asked_and_missing_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = {finding.name: finding for finding in machine_checks.programs()}
    assert {name: finding.result for name, finding in missing.items()} == {
        "crun": machine_checks.FAILED, "conmon": machine_checks.FAILED, "nft": machine_checks.FAILED,
    }  # fmt: skip
    assert missing["nft"].advice == "apt-get install nftables"
    for name, text in (("runc", "runc version 1.1.5+ds1"), ("conmon", "conmon version 2.1.6"), ("nft", "x")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (tmp_path / name).chmod(0o755)
    found = {finding.name: finding for finding in machine_checks.programs()}
    assert found["runc"].result == machine_checks.FAILED
    assert "CVE-2025-31133" in found["runc"].found
    assert found["conmon"].found == "2.1.6"
    assert found["nft"].found == "unknown version"
    (tmp_path / "crun").symlink_to(tmp_path / "conmon")
    assert {finding.name: finding.result for finding in machine_checks.programs()}[
        "runc"
    ] == machine_checks.WARNING


def test_taken_ports_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(machine_checks, "TCP_PORTS", (port,))
        (finding,) = machine_checks.ports()
        assert finding.result == machine_checks.FAILED
        assert f"{port}/tcp" in finding.found
        names = {finding.name for finding in machine_checks.findings(tmp_path / "no" / "such", running=True)}
        assert "ports" not in names
        assert {"kernel", "overlayfs", "seccomp", "cgroups", "disk", "clock"} <= names


def test_the_command_without_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWARMPY_HOST", "SWARMPY_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(root, ["doctor", "--local", "--state-dir", str(tmp_path / "x")])
    assert result.exit_code in {0, 1}
    assert result.output.startswith("This machine\n")
    assert " kernel: " in result.output
    assert ("FAILED" in result.output) == (result.exit_code == 1)


def pair(**fields: object) -> diagnosis_pb2.PairReport:
    made = diagnosis_pb2.PairReport(name="n2", reachable=True, rtt_ms=0.4, rtt_max_ms=1.5, path_mtu=1500)
    made.MergeFrom(diagnosis_pb2.PairReport(**fields))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("report", "problems", "advice"),
    [
        (pair(), [], ""),
        (pair(clock_offset_ms=-400), [], ""),
        (pair(clock_offset_ms=-700), ["the clocks differ"], "set the clocks"),
        (pair(loss=1, udp_blocked=True), ["UDP is blocked"], "open 4790/udp"),
        (pair(loss=0.1), ["packets are lost"], "packets are lost between nodes"),
        (
            pair(
                ports=[diagnosis_pb2.PortFinding(address="10.0.0.1:7379", problem="no answer: a firewall?")]
            ),
            ["10.0.0.1:7379/tcp: no answer: a firewall?"],
            "open 7376, 7377 and 7379/tcp",
        ),
    ],
)
def test_what_is_wrong_between_two_nodes(
    report: diagnosis_pb2.PairReport, problems: list[str], advice: str
) -> None:
    assert views_doctor.problems(report) == problems
    node = diagnosis_pb2.NodeReport(name="n1", probe=diagnosis_pb2.ProbeResponse(pairs=[report]))
    text = "\n".join(views_doctor.lines([], [node]))
    assert "n1" in text
    assert advice in text
    assert views_doctor.failed([], [node]) == bool(problems)
    assert views_doctor.as_document([], [node])["healthy"] == (not problems)


def test_warnings_are_no_failure_and_say_what_to_do() -> None:
    checks = [
        diagnosis_pb2.Check(name="disk", result=diagnosis_pb2.CHECK_WARNING, found="little", advice="more"),
        diagnosis_pb2.Check(name="nft", found="1.0.6", advice="never shown"),
    ]
    text = "\n".join(views_doctor.lines(checks, []))
    assert "warning  disk: little\n           → more" in text
    assert "never shown" not in text
    assert not views_doctor.failed(checks, [])
    checks[0].result = diagnosis_pb2.CHECK_FAILED
    assert views_doctor.failed(checks, [])
    assert views_doctor.failed([], [diagnosis_pb2.NodeReport(problem="is down")])


def test_what_the_leader_fails_to_plan_is_a_failure() -> None:
    problem = "planner steady fails for web (3 times in a row, it tries again): KeyError: 'a'"
    text = "\n".join(views_doctor.lines([], [], [problem]))
    assert f"Leader\n  FAILED   {problem}" in text
    assert "support-bundle" in text
    assert views_doctor.failed([], [], [problem])
    assert views_doctor.as_document([], [], [problem])["leader"] == [problem]


def node(identity: str, *, manager: bool = False, down: bool = False) -> objects_pb2.Node:
    made = objects_pb2.Node(role=types_pb2.ROLE_MANAGER if manager else types_pb2.ROLE_WORKER)
    made.meta.id = identity
    made.status.state = types_pb2.NODE_DOWN if down else types_pb2.NODE_READY
    made.manager.raft_address = "10.0.0.1:7379"
    return made


def test_whom_a_node_asks() -> None:
    nodes = [node("a"), node("b", manager=True), node("c", down=True), node("d")]
    assert [other.meta.id for other in chosen(nodes[0], nodes)] == ["b", "d"]
    assert [other.meta.id for other in chosen(nodes[3], nodes)] == ["b", "a"]
    many = [node(f"{number:04}") for number in range(200)]
    asked = {other.meta.id for one in many for other in chosen(one, many)}
    assert len(asked) == 200, "in a large cluster everybody is asked by somebody"
    assert len(chosen(many[0], many)) == 64
    assert list(probe_target(nodes[1]).tcp) == ["10.0.0.1:7379"]
    assert list(probe_target(nodes[0]).tcp) == []


def test_packets_have_the_size_that_was_asked_for() -> None:
    for size in (64, 65, 576, 1500):
        packet = ping.echo_request(7, 9, size)
        assert len(packet) == size - 20
        assert ping.checksum(packet) == 0
        reply = b"\x45" + bytes(19) + b"\0" + packet[1:]
        assert ping.echo_reply(reply) == (7, 9)
    assert ping.echo_reply(b"\x45" + bytes(19) + packet) is None, "a request is no reply"
    assert ping.echo_reply(b"\x45") is None
    assert ping.echo_reply(b"") is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
def test_echo_on_loopback() -> None:
    async def run() -> None:
        pinger = Pinger("127.0.0.1", "127.0.0.2")
        try:
            trips = await pinger.trips(3, 0)
            assert trips.loss == 0
            assert len(trips.times_ms) == 3
            assert await pinger.path_mtu(9000) == 9000
        finally:
            pinger.close()
        nobody = Pinger("127.0.0.1", "127.255.255.255")
        try:
            assert (await nobody.trips(1, 0)).loss == 1
        finally:
            nobody.close()

    asyncio.run(run())


def test_a_port_that_answers_and_one_that_does_not() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            assert (await diagnosis.connected(address)).open
        closed = await diagnosis.connected(address)
        assert not closed.open
        assert closed.problem
        assert not (await diagnosis.connected("nonsense")).open

    asyncio.run(run())
