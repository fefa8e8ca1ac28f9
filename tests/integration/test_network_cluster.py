"""Networks of a real cluster as a user meets them: verify, trace, connect."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.integration.cluster import IMAGE, Cluster, Load, missing, wait_for

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow]

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(f"sw-network-{os.getpid()}")
    try:
        made.up(nodes=3, managers=1)
        made.load_image(tmp_path_factory.mktemp("image"))
        made.cli("network", "create", "front")
        made.cli("network", "create", "back", "--internal")
        create = ("service", "create", "-q", "--name")
        made.cli(*create, "web", "--replicas", "3", "--network", "front", "-p", "8080:80", IMAGE)
        made.cli(*create, "cli", IMAGE)
        yield made
    finally:
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            made.down()
        shutil.rmtree(made.root, ignore_errors=True)


def trace(cluster: Cluster, source: str, target: str) -> tuple[int, list[dict[str, object]]]:
    done = cluster.cli("network", "trace", "--format", "json", source, target, check=False)
    return done.returncode, json.loads(done.stdout)["steps"]


def test_trace_stops_where_a_service_is_not_on_the_network_and_goes_on_once_it_is(cluster: Cluster) -> None:
    code, steps = trace(cluster, "cli", "web:80")
    assert (code, [step["what"] for step in steps if step["failed"]][:1]) == (1, ["dns"])
    cluster.cli("network", "connect", "-q", "front", "cli")
    code, steps = trace(cluster, "cli", "web:80")
    assert code == 0, steps
    assert [step["what"] for step in steps].count("backend") == 3
    assert [step["what"] for step in steps].count("listening") == 3
    code, steps = trace(cluster, "cli", "web:81")
    assert (code, {step["what"] for step in steps if step["failed"]}) == (1, {"listening", "probe"})
    assert trace(cluster, "n2", "10.55.0.3:8080")[0] == 0
    assert trace(cluster, "n2", "10.55.0.3:8081")[0] == 1


def test_verify_finds_damage_on_one_node_and_repairs_it(cluster: Cluster) -> None:
    cluster.cli("network", "verify")
    for damage in (
        ("nft", "flush", "map", "ip", "swarmpy-lb", "vep"),
        ("ip", "nexthop", "flush", "protocol", "83"),
        ("nft", "flush", "chain", "inet", "swarmpy", "forward_pod"),
    ):
        assert cluster.inside("n3", *damage).returncode == 0
    table = Paths(cluster.state("n3")).dns_table
    table.write_text(table.read_text().replace(cluster.service("web").endpoint.vips[0].address, "10.65.9.9"))
    assert cluster.cli("network", "verify", "n1", "n2").returncode == 0
    found = cluster.cli("network", "verify", check=False)
    assert found.returncode == 1
    assert "n3: the static rules were changed" in found.stderr
    assert "nexthop" in found.stderr
    assert "n3: the DNS table on disk is not what was written" in found.stderr
    assert "repaired" in cluster.cli("network", "verify", "--repair").stdout
    cluster.cli("network", "verify")
    assert trace(cluster, "n3", "10.55.0.3:8080")[0] == 0


def test_a_network_with_ipv6_has_both_families_everywhere(cluster: Cluster) -> None:
    cluster.cli("network", "create", "--ipv6", "six")
    create = ("service", "create", "-q", "--network", "six", "--name")
    cluster.cli(*create, "web6", "--replicas", "3", IMAGE)
    cluster.cli(*create, "cli6", IMAGE)
    (vip,) = cluster.service("web6").endpoint.vips
    assert vip.address6.startswith("fd")
    asker = cluster.running("cli6")[0]
    assert vip.address6 in cluster.shell(asker, "nslookup", "web6").stdout
    for target in (f"[{vip.address6}]", vip.address, "web6"):
        url = f"http://{target}/cgi-bin/hostname"
        met = {cluster.shell(asker, "wget", "-q", "-O-", url).stdout.strip() for _ in range(20)}
        assert met == {task.meta.id[:12] for task in cluster.running("web6")}, target
    code, steps = trace(cluster, "cli6", "web6:80")
    assert code == 0, steps
    assert [step["what"] for step in steps].count("listening") == 6
    cluster.cli("network", "verify")
    cluster.cli("service", "rm", "web6", "cli6")
    cluster.cli("network", "prune", "-f")
    left = {
        network.meta.name for network in cluster.listed(store_pb2.KIND_NETWORK) if not network.pending_delete
    }
    assert "six" not in left
    assert "front" in left


def test_a_static_address_stays_with_its_service_wherever_its_task_runs(cluster: Cluster) -> None:
    cluster.cli("network", "create", "--subnet", "172.20.0.0/16", "--ipv6", "fixed")
    address = "172.20.0.10"
    still = f"name=fixed,ip={address}"
    create = ("service", "create", "-q", "--network")
    cluster.cli(*create, still, "--name", "still", "--constraint", "node.hostname!=n1", IMAGE)
    for number in (1, 2, 3):  # one asker on each node
        cluster.cli(
            *create, "fixed", "--name", f"ask{number}", "--constraint", f"node.hostname==n{number}", IMAGE
        )

    def reached(*nodes: str) -> None:
        (task,) = cluster.running("still")
        given = task.status.addresses[0]
        assert given.address == address
        for node in nodes:
            asker = cluster.running(f"ask{node[1]}")[0]
            for target in (address, f"[{given.address6}]", "still"):
                url = f"http://{target}/cgi-bin/hostname"

                def answer(asker: objects_pb2.Task = asker, url: str = url) -> str:
                    return cluster.shell(asker, "wget", "-q", "-O-", url).stdout.strip()

                wait_for(lambda answer=answer: answer() == task.meta.id[:12], 30, f"{target} from {node}")

    reached("n1", "n2", "n3")
    cluster.cli("service", "update", "-q", "--env-add", "A=1", "still")
    reached("n1", "n2", "n3")
    for command, says in {
        ("service", "scale", "still=2"): "names 1 for 2 replicas",
        ("service", "update", "--update-order", "start-first", "still"): "two tasks cannot have one static",
        (*create, still, "--name", "x", IMAGE): "belongs to service 'still'",
        (*create, "name=fixed,ip=172.21.0.1", "--name", "x", IMAGE): "is outside network fixed",
    }.items():
        done = cluster.cli(*command, check=False)
        assert done.returncode != 0
        assert says in done.stderr, done.stderr
    cluster.cli("network", "verify")
    (victim,) = cluster.where("still")
    (other,) = {"n2", "n3"} - {victim}
    cluster.demo("kill", victim)  # its containers, and their network, live on
    wait_for(lambda: cluster.where("still") == [other], 40, "it moved with its node's death")
    reached("n1", other)
    cluster.demo("start", victim)
    wait_for(lambda: cluster.cli("network", "verify", check=False).returncode == 0, 40, "all nodes agree")
    reached("n1", "n2", "n3")
    cluster.cli("service", "rm", "still", "ask1", "ask2", "ask3")

    def kept() -> list[str]:
        found = [n for n in cluster.listed(store_pb2.KIND_NETWORK) if n.meta.name == "fixed"]
        return [entry.address for network in found for entry in network.statics]

    wait_for(lambda: not kept(), 30, "the address is given back")


def stopping(cluster: Cluster, service: str) -> list[str]:
    """Tasks that run and shall not."""
    return [
        task.meta.id
        for task in cluster.tasks(service)
        if task.desired_state > types_pb2.TASK_RUNNING and task.status.state <= types_pb2.TASK_RUNNING
    ]


def test_a_node_that_lags_is_waited_for_before_the_signal(cluster: Cluster) -> None:
    """Without a drain delay: only the nodes' acknowledgements keep requests from dead tasks."""
    flags = ("--drain-delay", "0s", "--update-order", "start-first", "--constraint", "node.hostname!=n3")
    flags += ("--replicas", "2", "-p", "8090:80")
    cluster.cli("service", "create", "-q", "--name", "slow", *flags, IMAGE)
    load = Load(cluster, "n3", f"http://{cluster.address('n3')}:8090/cgi-bin/hostname", rate=100)
    agent = cluster.pid("n3", "agent")
    cluster.cli("swarm", "update", "--dispatcher-heartbeat", "10s")  # n3 is not to be called down meanwhile
    try:
        time.sleep(2)
        os.kill(agent, signal.SIGSTOP)
        cluster.cli("service", "update", "-q", "-d", "--force", "--update-parallelism", "0", "slow")
        wait_for(lambda: stopping(cluster, "slow"), 20, "tasks that shall stop")
        time.sleep(1)
        os.kill(agent, signal.SIGCONT)
        wait_for(lambda: not stopping(cluster, "slow"), 20, "the old tasks gone")
        time.sleep(0.5)
    finally:
        os.kill(agent, signal.SIGCONT)
        report = load.end()
        cluster.cli("swarm", "update", "--dispatcher-heartbeat", "1s")
    assert report["failures"] == 0, report
    assert report["requests"] > 100


def test_a_node_that_hangs_does_not_prevent_a_stop(cluster: Cluster) -> None:
    flags = ("--drain-delay", "0s", "--replicas", "2", "--constraint", "node.hostname!=n3")
    cluster.cli("service", "create", "-q", "--name", "gone", *flags, IMAGE)
    agent = cluster.pid("n3", "agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        cluster.cli("service", "rm", "gone", timeout_s=30)
    finally:
        os.kill(agent, signal.SIGCONT)


def python_mounts() -> list[str]:
    """This machine's Python inside a container (as `bench.zero_failed` has it), and the server's source."""
    shown = {"/usr": Path("/usr"), "/lib": Path("/lib").resolve(), "/lib64": Path("/lib64").resolve()}
    shown |= {sys.base_prefix: Path(sys.base_prefix)} if not sys.base_prefix.startswith("/usr") else {}
    mounts = [
        ("--mount", f"type=bind,source={source},target={target},readonly")
        for target, source in {**shown, "/bench": BENCH}.items()
        if source.is_dir()
    ]
    return [part for mount in mounts for part in mount]


def test_no_request_fails_through_updates_drains_and_restarts(cluster: Cluster) -> None:
    """The short form of `bench.zero_failed`: kept and new connections through a node's published port."""
    flags = ("--replicas", "3", "-p", "8095:80", "--health-tcp", ":80", "--health-interval", "1s")
    server = (os.path.realpath(sys.executable), "/bench/web_server.py", "80")
    cluster.cli("service", "create", "-q", "--name", "zero", *flags, *python_mounts(), IMAGE, *server)
    argv = ["nsenter", f"--net={cluster.namespace('n3')}", "--", sys.executable, str(BENCH / "web_load.py")]
    argv += [cluster.address("n3"), "8095", "120", "100"]
    load = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        cluster.cli("service", "update", "-q", "--force", "--update-monitor", "1s", "zero", timeout_s=90)
        cluster.cli("node", "drain", "n2")
        cluster.cli("node", "activate", "n2")
        cluster.kill("n3", "agent")
        cluster.kill("n1", "manager")
        time.sleep(5)
        load.terminate()
        output, _ = load.communicate(timeout=20)
    finally:
        load.kill()
        load.communicate(timeout=10)
    found = json.loads(output)
    for name, tally in found.items():
        assert tally["failures"] == 0, (name, tally)
        assert tally["requests"] > 300
        assert len(tally["answered"]) > 3, "new tasks have answered"
