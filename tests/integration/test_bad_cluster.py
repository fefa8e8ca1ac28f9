"""What users get wrong against a whole cluster: one clear sentence, the documented exit code, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.proto import store_pb2

from tests.integration.cluster import IMAGE, SWARMPY, Cluster, Done, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
SLEEP = ("sleep", "100000")
HOLD_PORT = """
import socket, time
with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", 8304))
    server.listen()
    print("held", flush=True)
    time.sleep(1000)
"""


def sentence(done: Done, code: int, *words: str) -> str:
    """The one error sentence of a refused command."""
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0], f"{word!r} missing in: {errors[0]}"
    return errors[0]


@pytest.fixture(scope="module")
def taken(cluster: Cluster) -> Iterator[str]:
    """A service and a network whose names and port are taken."""
    cluster.cli("network", "create", "taken")
    cluster.cli("service", "create", "-q", "--name", "taken", "-p", "8300:80", *QUICK, IMAGE, *SLEEP)
    yield "taken"
    cluster.cli("service", "rm", "taken")
    cluster.cli("network", "rm", "taken")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("service", "create", "--name", "bad", "no-such-image:1"), 4, ("no-such-image:1", "image load")),
        (("service", "create", "--name", "bad", "UPPER CASE"), 1, ()),
        (("service", "create", "--name", "taken", IMAGE), 5, ("taken", "exists already")),
        (("service", "create", "--name", "bad name", IMAGE), 1, ("name",)),
        (("service", "create", "--name", "bad", "-p", "8300:80", IMAGE), 5, ("8300", "'taken'", "another port")),
        (("service", "create", "--name", "bad", "-p", "7377:80", IMAGE), 1, ("7377",)),
        (("service", "create", "--name", "bad", "--network", "nowhere", IMAGE), 4, ("nowhere",)),
        (("service", "create", "--name", "bad", "--no-such-flag", IMAGE), 2, ("--no-such-flag",)),
        (("service", "create", "--name", "bad", "--replicas", "many", IMAGE), 2, ("many",)),
        (("service", "create", "--name", "bad", "--constraint", "node.labels.disk", IMAGE), 2, ("constraint",)),
        (("service", "create", "--name", "bad", "--secret", "s", IMAGE), 4, ("secret", "create it first")),
        (("service", "update", "nobody", "--image", IMAGE), 4, ("nobody",)),
        (("service", "rm", "nobody"), 4, ("nobody",)),
        (("service", "logs", "nobody"), 4, ("nobody",)),
        (("network", "create", "taken"), 5, ("taken", "exists already")),
        (("network", "create", "--subnet", "10.1.2.3/33", "bad"), 2, ("10.1.2.3/33",)),
        (("network", "rm", "nowhere"), 4, ("nowhere",)),
        (("node", "inspect", "nobody"), 4, ("nobody",)),
        (("node", "demote", "n4", "nobody"), 4, ("nobody",)),
        (("image", "rm", "no-such-image:1"), 4, ("no-such-image",)),
        (("image", "pull", "-q", "no.such.registry/x:1"), 1, ("no.such.registry cannot be reached",)),
        (("image", "load", "-i", "/no/such/file"), 1, ("/no/such/file",)),
        (("frobnicate",), 2, ("frobnicate",)),
    ],
    ids=lambda value: "-".join(value)[:60].replace("/", "_") if isinstance(value, tuple) else None,
)  # fmt: skip
def test_refused(
    cluster: Cluster, taken: str, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    index = {kind: len(cluster.listed(kind)) for kind in (store_pb2.KIND_SERVICE, store_pb2.KIND_NETWORK)}
    sentence(cluster.cli(*arguments, check=False), code, *words)
    assert index == {kind: len(cluster.listed(kind)) for kind in index}, "nothing is left behind"


def test_unsatisfiable_constraint_says_why(cluster: Cluster, service: str) -> None:
    done = cluster.cli(
        "service", "create", "--name", service, "--replicas", "2", "--constraint", "node.labels.gpu==yes",
        "--timeout", "3s", IMAGE, check=False,
    )  # fmt: skip
    sentence(done, 6, "constraint")
    assert service in cluster.cli("service", "ls", "--format", "{{.Name}}").stdout, "it stays as asked for"
    assert "constraint" in cluster.cli("service", "ps", "--no-trunc", service).stdout


def test_host_port_of_a_foreign_process(cluster: Cluster, service: str) -> None:
    argv = ["nsenter", f"--net={cluster.namespace('n4')}", "--", sys.executable, "-c", HOLD_PORT]
    stranger = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "held\n"
        done = cluster.cli(
            "service", "create", "--name", service, "--constraint", "node.hostname==n4", "--timeout", "5s",
            "--restart-condition", "none", "-p", "published=8304,target=80,mode=host", *QUICK, IMAGE, check=False,
        )  # fmt: skip
        sentence(done, 6, "8304/tcp is in use")
    finally:
        stranger.kill()
        stranger.communicate()


def test_corrupt_archives(cluster: Cluster, tmp_path: Path) -> None:
    good = cluster.archives[IMAGE].read_bytes()
    damaged = {
        "cut": good[: len(good) // 2],
        "noise": os.urandom(100_000),
        "empty": b"",
        "changed": good[: len(good) // 2] + bytes(64) + good[len(good) // 2 + 64 :],
    }
    before = cluster.cli("image", "ls", "-q").stdout
    for name, data in damaged.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        sentence(cluster.cli("image", "load", "-i", str(path), check=False), 1)
    assert cluster.cli("image", "ls", "-q").stdout == before
    leftovers = [str(path) for path in cluster.root.glob("*/images/**/load-*")]
    assert not leftovers


@pytest.mark.parametrize(
    ("token", "address", "words"),
    [
        ("SWMTKN-wrong", "10.55.0.1:7376", ("token",)),
        ("worker-but-changed", "10.55.0.1:7376", ("token",)),
        ("worker", "10.55.0.1:9", ("10.55.0.1:9",)),
        ("worker", "10.55.0.1:7377", ("10.55.0.1:7377", "not the join port")),
        ("worker", "10.55.0.77:7376", ("10.55.0.77",)),
        ("worker", "no.such.host:7376", ("no.such.host",)),
    ],
)
def test_join_refused(
    cluster: Cluster, tmp_path: Path, token: str, address: str, words: tuple[str, ...]
) -> None:
    state = tmp_path / "state"
    if token.startswith("worker"):
        real = cluster.cli("token", "-q", "worker").stdout.strip()
        token = real if token == "worker" else real[:-4] + ("aaaa" if real[-4:] != "aaaa" else "bbbb")
    before = len(cluster.listed(store_pb2.KIND_NODE))
    done = cluster.inside(
        "n4",
        *SWARMPY,
        "join",
        "--no-start",
        "--token",
        token,
        "--state-dir",
        str(state),
        address,
        timeout_s=60,
    )
    sentence(done, 1, *words)
    assert not state.exists(), "no state is left"
    assert len(cluster.listed(store_pb2.KIND_NODE)) == before


def test_join_with_a_used_state_directory(cluster: Cluster) -> None:
    token = cluster.cli("token", "-q", "worker").stdout.strip()
    before = (cluster.state("n4") / "node.json").read_bytes()
    for arguments in (
        ("join", "--token", token, "10.55.0.1:7376"),
        ("init", "--advertise-addr", "10.55.0.4"),
    ):
        command = (
            *SWARMPY,
            arguments[0],
            "--no-start",
            "--state-dir",
            str(cluster.state("n4")),
            *arguments[1:],
        )
        sentence(cluster.inside("n4", *command), 5, "already holds a node", "swarmpy leave")
    assert (cluster.state("n4") / "node.json").read_bytes() == before


def test_second_daemon_of_one_node_is_refused(cluster: Cluster) -> None:
    done = cluster.inside("n4", *SWARMPY, "daemon", "--state-dir", str(cluster.state("n4")))
    assert done.returncode == 71
    assert "already runs" in done.stderr


def test_worker_has_no_socket(cluster: Cluster) -> None:
    done = cluster.run(
        "--host", f"unix://{cluster.socket('n4')}", "--timeout", "2s", "node", "ls", check=False
    )
    sentence(done, 3)


def test_full_disk_at_image_load(cluster: Cluster, service: str) -> None:
    """The images of the leader's node lie on a file system that is too small for one more."""
    leader = cluster.leader()
    images = cluster.state(leader) / "images"
    holders = len(cluster.listed(store_pb2.KIND_IMAGE))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(images)], check=True)
    try:
        agent = cluster.kill(leader, "agent")
        listening = ("sh", "-c", "ss -ltn | grep -q :7378")
        wait_for(lambda: cluster.pid(leader, "agent") not in (0, agent), 10, "another agent")
        wait_for(lambda: cluster.inside(leader, *listening).returncode == 0, 15, "it listens")
        done = cluster.cli("image", "load", "-i", str(cluster.archives[IMAGE]), check=False)
        text = sentence(done, 1)
        assert "space" in text.lower(), text
        assert not list(images.rglob("load-*"))
    finally:
        subprocess.run(["umount", "-l", str(images)], check=True)
        agent = cluster.kill(leader, "agent")
        wait_for(lambda: cluster.pid(leader, "agent") not in (0, agent), 10, "another agent")
        cluster.settle()
    assert len(cluster.listed(store_pb2.KIND_IMAGE)) == holders
