"""`network connect`, `disconnect`, `prune`, `inspect`, `verify` and `trace` as commands."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from swarmpy.cli.main import root
from swarmpy.proto import (
    control_pb2_grpc,
    networks_pb2,
    networks_pb2_grpc,
    objects_pb2,
)

from tests.contract.cli_double import Double, add_node

Run = Callable[..., Result]


class Nodes(networks_pb2_grpc.NetworksServicer):  # type: ignore[misc]
    """Answers of nodes, as a manager would pass them on."""

    def __init__(self) -> None:
        self.answers = [networks_pb2.VerifyResponse(node_name="n1", kernel_objects=7, dns_names=2)]
        self.way = networks_pb2.TraceResponse(reached=True)
        self.asked: list[Any] = []

    def Verify(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        yield from self.answers

    def Trace(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return self.way


@pytest.fixture
def cluster() -> Iterator[tuple[Run, Double, Nodes]]:
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-net-", dir="/tmp"))
    double, nodes = Double(), Nodes()
    add_node(double, "n1", manager=True)
    network = objects_pb2.Network(is_default=True)
    network.meta.id, network.meta.name = "default", "swarmpy"
    double.put(network)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    control_pb2_grpc.add_ControlServicer_to_server(double, server)
    networks_pb2_grpc.add_NetworksServicer_to_server(nodes, server)
    assert server.add_insecure_port(f"unix://{directory}/c.sock")
    server.start()

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(root, ["-H", f"unix://{directory}/c.sock", *arguments], **options)

    try:
        yield invoke, double, nodes
    finally:
        double.break_watches()
        server.stop(0).wait(5)
        shutil.rmtree(directory)


def targets(double: Double, name: str) -> list[str]:
    return [reference.target for reference in double.find("service", name).spec.task.networks]


def test_connect_keeps_the_default_network_and_disconnect_never_takes_the_last(
    cluster: tuple[Run, Double, Nodes],
) -> None:
    run, double, _ = cluster
    assert run("network", "create", "front").exit_code == 0
    front = double.find("network", "front").meta.id
    run("service", "create", "-d", "--name", "web", "ok")
    arguments = ("network", "connect", "-d", "--alias", "www", "--ip", "10.65.3.4", "front", "web")
    assert run(*arguments).stdout == "web\n"
    assert targets(double, "web") == ["default", front]
    joined = double.find("service", "web").spec.task.networks[1]
    assert (list(joined.aliases), joined.address) == (["www"], "10.65.3.4")
    again = run("network", "connect", "-d", "front", "web")
    assert (again.exit_code, "is on network front already" in again.stderr) == (1, True)
    assert run("network", "disconnect", "-d", "front", "web").exit_code == 0
    assert targets(double, "web") == ["default"]
    last = run("network", "disconnect", "-d", "swarmpy", "web")
    assert (last.exit_code, "is the last one" in last.stderr) == (1, True)
    task = next(iter(double.objects["task"].values())).meta.name
    refused = run("network", "connect", "-d", "front", task)
    assert (refused.exit_code, "networks belong to the service" in refused.stderr) == (2, True)
    assert run("network", "connect", "front", "nobody").exit_code == 4


def test_prune_takes_what_no_service_uses(cluster: tuple[Run, Double, Nodes]) -> None:
    run, double, _ = cluster
    for name in ("used", "idle", "spare"):
        run("network", "create", "--label", f"is={name}", name)
    run("service", "create", "-d", "--name", "web", "--network", double.find("network", "used").meta.id, "ok")
    assert run("network", "prune", input="n\n").exit_code == 0
    assert len(double.objects["network"]) == 4, "nothing goes without a yes"
    assert run("network", "prune", "-f", "--filter", "label=is=idle").stdout == "idle\n"
    assert run("network", "prune", "-f").stdout == "spare\n"
    assert sorted(found.meta.name for found in double.objects["network"].values()) == ["swarmpy", "used"]


def test_inspect_shows_who_is_attached(cluster: tuple[Run, Double, Nodes]) -> None:
    run, double, _ = cluster
    run("service", "create", "-d", "--name", "web", "ok")
    task = next(iter(double.objects["task"].values()))
    task.status.addresses.add(network_id="default", address="10.68.0.9")
    double.put(task)
    (shown,) = json.loads(run("network", "inspect", "swarmpy").stdout)
    assert [entry["name"] for entry in shown["attached_services"]] == ["web"]
    assert [entry["address"] for entry in shown["attached_tasks"]] == ["10.68.0.9"]


def test_verify_shows_differences_and_ends_with_one(cluster: tuple[Run, Double, Nodes]) -> None:
    run, _, nodes = cluster
    clean = run("network", "verify")
    assert clean.exit_code == 0
    assert clean.stdout.splitlines()[1].split() == ["n1", "clean", "7", "2", "0"]
    nodes.answers.append(networks_pb2.VerifyResponse(node_name="n2", problems=["route x is missing"]))
    found = run("network", "verify")
    assert (found.exit_code, "n2: route x is missing" in found.stderr) == (1, True)
    assert "--repair" in found.stderr
    nodes.answers[1].repaired = True
    assert run("network", "verify", "--repair", "n2").exit_code == 0
    assert (nodes.asked[-1].repair, list(nodes.asked[-1].nodes)) == (True, ["n2"])
    nodes.answers[1].error = "the agent does not answer"
    assert run("network", "verify").exit_code == 1


def test_trace_says_where_it_stops(cluster: tuple[Run, Double, Nodes]) -> None:
    run, _, nodes = cluster
    nodes.way.steps.add(what="dns", text="web A is 10.65.0.1", node_name="n1")
    done = run("network", "trace", "cli", "web:80/udp")
    assert (done.exit_code, "web A is 10.65.0.1" in done.stdout) == (0, True)
    asked = nodes.asked[-1]
    assert (asked.source, asked.target, asked.port, asked.protocol) == ("cli", "web", 80, "udp")
    nodes.way.reached = False
    nodes.way.steps.add(what="route", text="no nexthop", node_name="n1", failed=True)
    stopped = run("network", "trace", "cli", "[fd00::1]:80")
    assert (stopped.exit_code, "it stops at route on n1: no nexthop" in stopped.stderr) == (1, True)
    assert nodes.asked[-1].target == "fd00::1"
    for bad in ("web", "web:x", "web:0", "web:80/quic"):
        assert run("network", "trace", "cli", bad).exit_code == 2
