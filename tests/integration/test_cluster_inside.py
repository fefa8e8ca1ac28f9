"""exec, attach, cp, port-forward, stats, top and logs on a real cluster, as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import SWARMPY, Cluster, missing, wait_for

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow]
TALK = 'i=0; while true; do i=$((i+1)); echo "line $i"; [ $((i % 2)) = 0 ] && echo "odd" >&2; sleep 0.2; done'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(f"sw-inside-{os.getpid()}")
    try:
        made.up(nodes=3, managers=2)
        made.load_image(tmp_path_factory.mktemp("image"))
        made.cli("service", "create", "-q", "--name", "web", "--replicas", "3", "cluster-test/web:1")
        talk = ("cluster-test/web:1", "sh", "-c", TALK)
        made.cli("service", "create", "-q", "--name", "talk", "--replicas", "2", *talk)
        made.cli("service", "create", "-q", "-t", "--name", "shell", "cluster-test/web:1", "sh")
        yield made
    finally:
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            made.down()
        shutil.rmtree(made.root, ignore_errors=True)


def popen(cluster: Cluster, *arguments: str, **how: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*SWARMPY, "--context", "demo", *arguments], env=cluster.env, **how)  # type: ignore[call-overload, no-any-return]


def test_exec_everywhere_by_every_manager(cluster: Cluster) -> None:
    names = set()
    for slot in (1, 2, 3):
        for node in ("n1", "n2"):
            names.add(cluster.at(node, "exec", f"web.{slot}", "hostname").stdout)
    assert len(names) == 3
    done = cluster.cli("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert (
        cluster.cli("exec", "-e", "A=1", "-w", "/tmp", "web", "sh", "-c", "echo $A; pwd").stdout
        == "1\n/tmp\n"
    )
    assert cluster.cli("exec", "web", "nope", check=False).returncode == 127
    assert cluster.cli("exec", "gone", "true", check=False).returncode == 4
    assert cluster.cli("exec", "web.9", "true", check=False).returncode != 0


def test_exec_in_all_tasks(cluster: Cluster) -> None:
    lines = cluster.cli("exec", "--all", "web", "--", "hostname").stdout.splitlines()
    assert sorted(line.split(" | ")[0] for line in lines) == ["web.1", "web.2", "web.3"]
    assert cluster.cli("exec", "--all", "web", "--", "sh", "-c", "exit 5", check=False).returncode == 5


def test_exec_passes_input_on(cluster: Cluster) -> None:
    data = os.urandom(2_000_000)
    with popen(
        cluster, "exec", "-i", "web.3", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.communicate(data, timeout=60)[0] == data
    assert process.returncode == 0


@contextlib.contextmanager
def terminal(cluster: Cluster, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    master, slave = pty.openpty()
    try:
        process = popen(cluster, *arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        try:
            yield master, process
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(master)


def until(master: int, wanted: bytes) -> bytes:
    said = b""
    os.set_blocking(master, False)
    deadline = time.monotonic() + 30
    while wanted not in said:
        assert time.monotonic() < deadline, said
        with contextlib.suppress(BlockingIOError):
            said += os.read(master, 4096)
        time.sleep(0.02)
    return said


def test_exec_with_a_terminal(cluster: Cluster) -> None:
    with terminal(cluster, "exec", "-it", "web.2", "sh") as (master, process):
        until(master, b"# ")
        os.write(master, b"test -t 0 && echo ok-$((6*7))\n")
        until(master, b"ok-42")
        os.write(master, b"exit 9\n")
        assert process.wait(30) == 9


def test_attach_and_leave(cluster: Cluster) -> None:
    before = cluster.cli("service", "ps", "-q", "shell").stdout
    with terminal(cluster, "attach", "talk.1") as (master, process):
        until(master, b"line ")
        process.terminate()
    with terminal(cluster, "attach", "shell") as (master, process):
        time.sleep(2)
        os.write(master, b"\x10\x11")
        assert process.wait(30) == 0
    assert cluster.cli("service", "ps", "-q", "shell").stdout == before


def test_files_there_and_back(cluster: Cluster, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big").write_bytes(os.urandom(3_000_000))
    (tree / "sub/link").symlink_to("../big")
    cluster.cli("cp", str(tree), "web.2:/srv")
    assert cluster.cli("exec", "web.2", "find", "/srv", "-type", "l").stdout == "/srv/sub/link\n"
    cluster.cli("cp", "web.2:/srv", str(tmp_path / "back"))
    subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / "back"], check=True)
    assert cluster.cli("cp", "web.2:/none", str(tmp_path), check=False).returncode == 4
    assert cluster.cli("cp", "web.2:/a", "web.1:/b", check=False).returncode == 2


def test_connections_are_passed_on(cluster: Cluster) -> None:
    with popen(cluster, "port-forward", "web.2", ":80", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            found = re.search(rb":([0-9]+) -> web\.2:80", process.stdout.readline())
            assert found is not None
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", int(found[1])), timeout=20) as connection:
                    connection.sendall(b"GET /cgi-bin/hostname HTTP/1.0\r\n\r\n")
                    answer = b"".join(iter(lambda: connection.recv(4096), b""))
                assert answer.startswith(b"HTTP/1.")
        finally:
            process.kill()
    name = cluster.cli("exec", "web.2", "hostname").stdout.strip()
    assert name.encode() in answer


def test_numbers(cluster: Cluster) -> None:
    rows = [
        json.loads(line)
        for line in cluster.cli("stats", "--no-stream", "--format", "json").stdout.splitlines()
    ]
    assert sorted(row["Name"] for row in rows) == ["shell.1", "talk.1", "talk.2", "web.1", "web.2", "web.3"]
    assert all(re.fullmatch(r"[0-9.]+%", row["CPUPerc"]) for row in rows)
    services = cluster.cli("top", "--no-stream", "--format", "{{.Service}} {{.Tasks}}").stdout.split("\n")
    assert {"web 3", "talk 2", "shell 1"} <= set(services)
    nodes = cluster.cli("top", "--nodes", "--no-stream", "--format", "{{.Node}}").stdout.split()
    assert sorted(nodes) == ["n1", "n2", "n3"]
    assert "httpd" in cluster.cli("top", "web.1").stdout
    assert cluster.cli("stats", "--no-stream", "gone", check=False).returncode == 4


def test_logs_of_a_service(cluster: Cluster) -> None:
    wait_for(lambda: "line 5" in cluster.cli("logs", "talk.2").stdout, 30, "the task says line 5")
    stamps = [line.split()[0] for line in cluster.cli("logs", "--raw", "-t", "talk").stdout.splitlines()]
    assert stamps == sorted(stamps)
    rows = [json.loads(line) for line in cluster.cli("logs", "--json", "-n", "4", "talk").stdout.splitlines()]
    assert {row["task"] for row in rows} == {"talk.1", "talk.2"}
    assert len(rows) == 8
    found = cluster.cli("logs", "--raw", "--grep", "^line [23]$", "-n", "1", "talk", "web").stdout
    assert found == "line 3\nline 3\n"


def test_followed_logs_gain_new_tasks(cluster: Cluster) -> None:
    with popen(cluster, "logs", "-f", "-n", "0", "talk", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            cluster.cli("service", "scale", "talk=3", timeout_s=90)
            deadline = time.monotonic() + 30
            while b"talk.3" not in (line := process.stdout.readline()):
                assert time.monotonic() < deadline
            assert line.rstrip().endswith(b"line 1")
        finally:
            process.kill()


def test_logs_of_the_task_before(cluster: Cluster) -> None:
    newest = json.loads(cluster.cli("logs", "--json", "-n", "1", "talk.1").stdout.splitlines()[0])["taskId"]
    cluster.cli("service", "update", "-q", "--force", "talk", timeout_s=120)
    rows = cluster.cli("logs", "--json", "-n", "1", "--previous", "talk.1").stdout.splitlines()
    assert [json.loads(row)["taskId"] for row in rows] == [newest]
    now = cluster.cli("logs", "--json", "talk.1").stdout.splitlines()[-1]
    assert json.loads(now)["taskId"] != newest


def test_a_session_outlives_the_leader(cluster: Cluster) -> None:
    status = json.loads(cluster.cli("status", "--format", "json").stdout)
    leader = next(m["hostname"] for m in status["members"] if m.get("leader"))
    other = "n2" if leader == "n1" else "n1"
    process = subprocess.Popen(
        [*SWARMPY, "--host", f"unix://{cluster.socket(other)}", "exec", "-i", "web.3", "cat"],
        env=cluster.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"before\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"before\n"
        cluster.kill(leader, "manager")
        process.stdin.write(b"after\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"after\n"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
