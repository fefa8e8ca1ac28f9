"""`network policy …` against a Control server with a Diagnosis service beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from swarmpy.cli.main import root
from swarmpy.proto import control_pb2_grpc, diagnosis_pb2, diagnosis_pb2_grpc, objects_pb2

from tests.contract.cli_double import Double

Run = Callable[..., Result]


class Diagnosis(diagnosis_pb2_grpc.DiagnosisServicer):
    """Allows port 5432 and says what it was asked."""

    def TestPolicy(self, request: Any, context: Any) -> Any:
        asked = f"{request.source} {request.target} {request.port} {request.protocol}"
        allowed = request.port == 5432
        verdict = diagnosis_pb2.PolicyVerdict(network="one", allowed=allowed, reasons=[asked, "so"])
        return diagnosis_pb2.PolicyTestResponse(allowed=allowed, verdicts=[verdict])


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def run(double: Double) -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-cli-", dir="/tmp") as directory:
        path = Path(directory) / "control.sock"
        server = grpc.server(futures.ThreadPoolExecutor(4))
        control_pb2_grpc.add_ControlServicer_to_server(double, server)
        diagnosis_pb2_grpc.add_DiagnosisServicer_to_server(Diagnosis(), server)
        assert server.add_insecure_port(f"unix://{path}")
        server.start()
        yield lambda *arguments: CliRunner().invoke(root, ["-H", f"unix://{path}", *arguments])
        server.stop(0).wait(5)


def create(run: Run, text: str) -> Result:
    return run("network", "policy", "create", *text.split())


def test_what_is_stored_and_listed(run: Run, double: Double) -> None:
    assert (
        create(run, "pg --from app=web,tier=front --from service.name=job --to app=db --port 5432").exit_code
        == 0
    )
    text = "out --direction egress --from app=db --ip-block 10.0.0.0/8,except=10.1.0.0/16 --port 53/udp --label a=b"
    assert create(run, text).exit_code == 0
    stored = double.find("policy", "pg")
    assert [dict(selector.labels) for selector in stored.spec.peers] == [
        {"app": "web", "tier": "front"}, {"service.name": "job"},
    ]  # fmt: skip
    assert double.find("policy", "out").spec.direction == objects_pb2.POLICY_EGRESS
    listed = run(
        "network", "policy", "ls", "--format", "{{.Name}} {{.Direction}} {{.From}} > {{.To}} {{.Ports}}"
    )
    assert listed.output.splitlines() == [
        "out egress app=db > 10.0.0.0/8,except=10.1.0.0/16 53/udp",
        "pg ingress app=web,tier=front | service.name=job > app=db 5432/tcp",
    ]
    shown = json.loads(run("network", "policy", "inspect", "pg").output)[0]
    assert shown["spec"]["ports"][0]["first"] == 5432
    assert run("network", "policy", "rm", "pg", "out").output == "pg\nout\n"
    assert run("network", "policy", "ls", "-q").output == ""


def test_the_default_of_a_network(run: Run, double: Double) -> None:
    run("network", "create", "--default-policy", "deny", "back")
    assert double.find("network", "back").spec.default_deny
    assert run("network", "policy", "default", "back", "allow").exit_code == 0
    assert not double.find("network", "back").spec.default_deny


def test_a_test_says_why_and_ends_with_its_answer(run: Run) -> None:
    allowed = run("network", "policy", "test", "web", "db:5432")
    assert (allowed.exit_code, allowed.output) == (0, "allowed in network one: web db 5432 0; so\n")
    denied = run("network", "policy", "test", "web", "db:53/udp", "--format", "json")
    assert denied.exit_code == 1
    assert json.loads(denied.output)[0]["verdicts"][0]["reasons"][0] == "web db 53 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--from app=web", "Say whose ingress traffic it is about: --to"),
        ("--direction egress --to app=db", "Say whose egress traffic it is about: --from"),
        ("--to db", "selects no services"),
        ("--to app=db --port 0", "is not PORT"),
        ("--to app=db --ip-block 10.0.0.1/8", "has host bits set"),
    ],
)
def test_refusals(run: Run, text: str, message: str) -> None:
    result = create(run, text)
    assert result.exit_code == 2
    assert message in result.output
