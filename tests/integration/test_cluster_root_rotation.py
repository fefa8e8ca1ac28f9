"""The rotation of the root certificate on real clusters: nothing fails meanwhile, nothing of the old root is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.cli import errors
from swarmpy.cli.client import Client, new_request_id
from swarmpy.node.ca.identity import Identity
from swarmpy.node.config import Paths, Ports
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2

from tests.integration.cluster import SWARMPY, Cluster, Load, missing, wait_for
from tests.integration.conftest import keep_logs

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]  # fmt: skip

# Shake hands with a node's port and read: what the server thinks of the certificate is known only then.
SHOW_CERTIFICATE = """
import dataclasses, socket, sys
from pathlib import Path
from swarmpy.node.ca import authority, tls
from swarmpy.node.ca.identity import Identity
mine, trusts, host, port, node_id = sys.argv[1:]
who = dataclasses.replace(Identity.load(Path(mine)), root_pem=Path(trusts).read_bytes())
context = tls.raft_client_context(who)
if port != "7379":
    context.set_alpn_protocols(["h2"])
try:
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname=authority.server_name(node_id)) as secure:
            print("taken" if secure.recv(1) else "refused: closed")
except OSError as error:
    print("refused:", error)
"""


class Writer(threading.Thread):
    """Writes and reads on and on as the command line does: every manager in turn, repeated where that is safe."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        sockets = [f"unix://{cluster.socket(name)}" for name in cluster.managers()]
        self._clients = [Client(sockets[n:] + sockets[:n], 20.0) for n in range(len(sockets))]
        self._end = threading.Event()
        self.done = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._end.is_set():
            client = self._clients[self.done % len(self._clients)]
            config = objects_pb2.Config(meta=types_pb2.Meta(name=f"written-{self.done}"), data=b"x")
            request = control_pb2.CreateRequest(
                object=store_pb2.Object(config=config), request_id=new_request_id()
            )
            try:
                client.call("Create", request)
                client.get("config", f"written-{self.done}")
            except errors.CliError as error:
                self.failures.append(f"{self.done}: {error.message}")
            self.done += 1
            self._end.wait(0.02)

    def end(self) -> None:
        self._end.set()
        self.join(30)
        for client in self._clients:
            client.close()


def root_of(cluster: Cluster, node: str) -> Identity:
    return Identity.load(Paths(cluster.state(node)).certs)


def shown(cluster: Cluster) -> dict[str, Any]:
    answer = json.loads(cluster.cli("ca", "show", "--format", "json").stdout)
    assert isinstance(answer, dict)
    return answer


def join(cluster: Cluster, node: str, token: str) -> subprocess.CompletedProcess[str]:
    return cluster.inside(
        node, *SWARMPY, "join", "--no-start", "--token", token, "--hostname", node, "--advertise-addr",
        cluster.address(node), "--state-dir", str(cluster.state(node)), f"{cluster.address('n1')}:7376",
        timeout_s=40,
    )  # fmt: skip


def token(cluster: Cluster, role: str = "worker") -> str:
    return cluster.cli("token", "-q", role).stdout.strip()


def answers(cluster: Cluster, certs: Path, trusts: Path) -> dict[str, str]:
    """What every port that wants a certificate says to this one, asked from n4."""
    ids = {name: node.meta.id for name, node in cluster.nodes().items()}
    ports = Ports()
    found = {}
    for node, port in (("n1", ports.manager), ("n2", ports.agent), ("n3", ports.raft), ("n5", ports.agent)):
        argv = [sys.executable, "-P", "-c", SHOW_CERTIFICATE, str(certs), str(trusts)]
        done = cluster.inside("n4", *argv, cluster.address(node), str(port), ids[node])
        found[f"{node}:{port}"] = done.stdout.strip() or done.stderr
    return found


def test_root_is_rotated_while_requests_and_writes_go_on(cluster: Cluster) -> None:
    before = shown(cluster)
    old_token, old = token(cluster), {name: root_of(cluster, name) for name in cluster.nodes()}
    writer = Writer(cluster)
    writer.start()
    try:
        done = cluster.cli("ca", "rotate")
    finally:
        writer.end()
    assert writer.failures == []
    assert writer.done > 10
    after = shown(cluster)
    assert after["root"]["sha256"] != before["root"]["sha256"]
    assert after["root"]["sha256"] in done.stdout
    assert (after["started_ms"], after["root"]["nodes"]) == (0, 5)
    for name, identity in old.items():
        new = root_of(cluster, name)
        assert new.root_pem.decode().strip() == cluster.cli("ca", "show", "--pem").stdout.strip()
        assert new.trusts == new.issuer
        assert identity.trusts not in {new.trusts, new.issuer}
    assert token(cluster) != old_token


@pytest.fixture
def own() -> Iterator[Cluster]:
    """A cluster of the test's own."""
    made = Cluster(f"swarmpy-killed-{os.getpid()}")
    try:
        made.up(nodes=5, managers=3)
        yield made
    finally:
        with contextlib.suppress(AssertionError, OSError):
            keep_logs(made)
        made.down()


def waits(cluster: Cluster) -> list[str]:
    return [wait["hostname"] for wait in shown(cluster)["waits"]]


def refused_handshakes(cluster: Cluster) -> list[str]:
    logs = {name: cluster.daemon_log(name) for name in cluster.overview()}
    return [
        f"{name}: {line}" for name, log in logs.items() for line in log.splitlines()
        if "CERTIFICATE_VERIFY_FAILED" in line or "certificate verify failed" in line or "UNKNOWN_CA" in line
    ]  # fmt: skip


def test_a_node_down_a_rotation_begun_anew_and_the_leader_killed(own: Cluster, tmp_path: Path) -> None:
    own.load_image(tmp_path)
    own.cli(
        "service", "create", "-q", "--name", "web", "--replicas", "4", "--constraint", "node.hostname!=n5",
        "-p", "8080:80", "cluster-test/web:1",
    )  # fmt: skip
    for name in ("n2", "n4"):
        shutil.copytree(Paths(own.state(name)).certs, tmp_path / name)
    old_root, old_token = shown(own)["root"]["sha256"], token(own)
    own.demo("kill", "n5")
    wait_for(lambda: own.nodes()["n5"].status.state == types_pb2.NODE_DOWN, 20, "n5 is down")
    load, writer = Load(own, "n4", "http://10.55.0.4:8080/"), Writer(own)
    writer.start()
    try:
        own.cli("ca", "rotate", "-d")
        first = shown(own)
        own.kill(own.leader(), "manager")
        wait_for(lambda: waits(own) == ["n5"], 60, lambda: f"only n5 is waited for: {waits(own)}")
        assert shown(own)["started_ms"] == first["started_ms"]
        plan = own.cli("ca", "rotate", "--plan").stdout
        assert "It would wait for n5, which is down" in plan
        assert "begin anew" in plan

        anew = own.cli("ca", "rotate", "--timeout", "1s", check=False)
        assert anew.returncode == errors.NotConverged.exit_code, anew.stderr
        assert "goes on by itself" in anew.stderr
        wait_for(lambda: waits(own) == ["n5"], 60, lambda: f"only n5 is waited for: {waits(own)}")
        second = shown(own)
        assert second["next"]["sha256"] != first["next"]["sha256"]
        assert (second["root"]["sha256"], second["next"]["nodes"]) == (old_root, 4)
        assert token(own) == old_token

        own.demo("start", "n5")
        wait_for(lambda: not shown(own)["started_ms"], 60, lambda: f"the rotation is over: {waits(own)}")
        time.sleep(2)  # connections that would only fail now
    finally:
        writer.end()
        report = load.end()
        load.close()
    assert writer.failures == []
    assert report["failures"] == 0, report
    assert (writer.done > 50, report["requests"] > 500) == (True, True)
    print(f"{writer.done} writes and as many reads, {report['requests']} requests, none failed")
    assert refused_handshakes(own) == []
    assert shown(own)["root"]["sha256"] == second["next"]["sha256"]
    assert shown(own)["root"]["nodes"] == 5
    nothing_of_the_old_root_is_left(own, tmp_path, old_token)


def nothing_of_the_old_root_is_left(own: Cluster, before: Path, old_token: str) -> None:
    new = Paths(own.state("n2")).certs
    assert set(answers(own, new, new / "ca.crt").values()) == {"taken"}
    for name in ("n2", "n4"):
        for port, answer in answers(own, before / name, new / "ca.crt").items():
            assert answer.startswith("refused"), (name, port, answer)
    own.inside("n5", *SWARMPY, "leave", "--force", "--state-dir", str(own.state("n5")), timeout_s=60)
    own.cli("node", "rm", "--force", "n5")
    assert "root certificate was rotated since the token was made" in join(own, "n5", old_token).stderr
    done = join(own, "n5", token(own))
    assert done.returncode == 0, done.stderr
    own.demo("start", "n5")
    own.settle()
