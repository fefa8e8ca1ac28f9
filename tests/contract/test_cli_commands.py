"""The real command line against a Control server on a unix socket: output, waiting, retries, exit codes.

Golden outputs are in tests/golden/cli/; REWRITE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from swarmpy.cli.main import root
from swarmpy.proto import control_pb2, control_pb2_grpc, types_pb2

from tests.contract.cli_double import Double, Refusal, Server, add_node

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "cli"
Run = Callable[..., Result]


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="swarmpy-cli-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(short_dir: Path) -> Iterator[Server]:
    double = Double()
    for number, name in enumerate(("n1", "n2", "n3", "w1", "w2"), 1):
        add_node(double, name, manager=number < 4, address=f"10.0.0.{number}")
    made = Server(short_dir / "control.sock", double)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def double(server: Server) -> Double:
    return server.double


@pytest.fixture
def run(server: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("SWARMPY_HOST", "SWARMPY_CONTEXT", "SWARMPY_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(root, ["-H", f"unix://{server.path}", *arguments], **options)

    return invoke


def service_of(double: Double, name: str = "web") -> Any:
    return double.find("service", name)


def golden(name: str, text: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


# -- what is shown ---------------------------------------------------------------------------------


def test_lists_and_documents(run: Run, double: Double) -> None:
    double.now_ms = 0
    for name in ("n1", "n2", "n3", "w1", "w2"):
        double.find("node", name).meta.created_ms = 0  # else their age is another one every year
    run("network", "create", "--subnet", "10.90.0.0/16", "--internal", "--label", "a=b", "back")
    run(
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "3",
        "-p",
        "8080:80",
        "-l",
        "tier=front",
        "ok:1",
        "serve",
    )
    run("service", "create", "-d", "--name", "agent", "--mode", "global", "ok:2")
    run("service", "create", "-d", "--name", "api", "--replicas", "1", "bad")
    run("service", "create", "-d", "--name", "far", "--replicas-max-per-node", "1", "nofit")
    run("image", "load", "-q", input=b"good")
    commands = [
        "node ls",
        "node ls -f role=worker -q",
        "node ls -f node.label=zone",
        "node inspect w1",
        "node ps w1",
        "service ls",
        "service ls --no-trunc -f label=tier",
        "service ls -q -f mode=global",
        "service ls --format {{.Name}}={{.Replicas}}",
        "service ls --format json",
        "service ps web api far",
        "service ps --no-resolve -f node=n1 -f desired-state=running web",
        "service inspect --pretty web",
        "service inspect web",
        "task ls -f service=web",
        "network ls",
        "network inspect back",
        "image ls",
        "image ls --no-trunc --format table",
        "status",
        "token worker",
        "token manager -q",
        "swarm join-token worker",
        "swarm join-token -q manager",
    ]
    shown = []
    for command in commands:
        words = command.split(" ")
        if "--format" in words and "table" in words:
            words[words.index("table")] = "table {{.Repository}}\\t{{.Digest}}"
        result = run(*words)
        shown.append(f"$ swarmpy {command}\n{result.output}[{result.exit_code}]\n")
    golden("lists", "\n".join(shown))


def test_json_of_a_list_is_one_object_per_line(run: Run) -> None:
    rows = [json.loads(line) for line in run("node", "ls", "--format", "json").output.splitlines()]
    assert [row["Hostname"] for row in rows] == ["n1", "n2", "n3", "w1", "w2"]
    assert rows[0]["ManagerStatus"] == "Leader"


def test_inspect_takes_go_templates(run: Run) -> None:
    assert (
        run("node", "inspect", "self", "--format", "{{.Description.Hostname}} {{.Spec.Role}}").output
        == "n1 manager\n"
    )
    spec = json.loads(run("node", "inspect", "w1", "--format", "{{json .Spec}}").output)
    assert (spec["role"], spec["availability"]) == ("worker", "active")
    result = run("node", "inspect", "w1", "--format", "{{.Nope}}")
    assert result.exit_code == 2
    assert "no field .Nope" in result.output


def test_the_state_of_a_status_is_machine_readable(run: Run) -> None:
    status = json.loads(run("status", "--format", "json").output)
    assert status["has_quorum"] is True
    assert len(status["members"]) == 3


# -- services --------------------------------------------------------------------------------------


def test_create_waits_and_prints_only_the_id_on_stdout(run: Run, double: Double) -> None:
    result = run(
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "4",
        "-p",
        "8080:80",
        "ok",
        "httpd",
        "-f",
        "--init=true",
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == service_of(double).meta.id
    assert result.stderr == "web: 4/4 running\nweb converged\n"
    assert list(service_of(double).spec.task.container.args) == ["httpd", "-f", "--init=true"]


def test_detach_and_quiet(run: Run, double: Double) -> None:
    result = run("service", "create", "--detach=true", "--name", "a", "slow")
    assert (result.exit_code, result.stderr) == (0, "")
    result = run("service", "create", "-q", "--tty=false", "--name", "b", "ok")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not service_of(double, "b").spec.task.container.tty


def test_a_nameless_service_gets_a_name(run: Run, double: Double) -> None:
    assert run("service", "create", "-d", "ok").exit_code == 0
    (service,) = double.objects["service"].values()
    assert len(service.meta.name.split("-")) == 3


def test_waiting_sees_tasks_come_up(run: Run, double: Double) -> None:
    def start_them() -> None:
        for _ in range(200):
            time.sleep(0.02)
            with double.lock:
                tasks = [
                    t for t in double.objects["task"].values() if t.status.state == types_pb2.TASK_PREPARING
                ]
                if tasks:
                    tasks[0].status.state = types_pb2.TASK_RUNNING
                    double.put(tasks[0])
                elif double.objects["task"]:
                    return

    helper = threading.Thread(target=start_them)
    helper.start()
    result = run("service", "create", "--name", "web", "--replicas", "3", "slow")
    helper.join()
    assert result.exit_code == 0, result.output
    assert result.stderr.endswith("web: 3/3 running\nweb converged\n")


def test_a_service_that_keeps_failing(run: Run) -> None:
    result = run("service", "create", "--name", "web", "bad")
    assert result.exit_code == 6
    assert "web.1: the command /nope does not exist in the image (exit code 3)\n" in result.stderr
    assert "Not converged: web.1 failed 3 times" in result.stderr


def test_a_constraint_that_no_node_meets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmpy.cli.wait.STUCK_S", 0.3)
    result = run("service", "create", "--name", "web", "--constraint", "node.labels.zone==x", "nofit")
    assert result.exit_code == 6
    assert "no suitable node: 2 of 2 do not meet constraint node.labels.zone==x" in result.stderr


def test_the_time_limit_of_waiting(run: Run) -> None:
    for arguments in (
        ["service", "create", "--timeout", "1s", "--name", "a", "slow"],
        ["--timeout", "1", "service", "create", "--name", "b", "nofit"],
    ):
        result = run(*arguments)
        assert result.exit_code == 6
        assert "Not converged within 1s: 0/1 running" in result.stderr


def test_one_shots_converge(run: Run) -> None:
    result = run("service", "create", "--name", "job", "--restart-condition", "none", "once")
    assert result.exit_code == 0, result.output


def test_update_scale_rollback(run: Run, double: Double) -> None:
    run("service", "create", "-q", "--name", "web", "--replicas", "2", "-e", "A=1", "ok:1")
    result = run(
        "service",
        "update",
        "--image",
        "ok:2",
        "--env-add",
        "B=2",
        "--env-rm",
        "A",
        "--args",
        "run 'a b'",
        "web",
    )
    assert result.exit_code == 0, result.output
    container = service_of(double).spec.task.container
    assert (container.image, list(container.env), list(container.args)) == ("ok:2", ["B=2"], ["run", "a b"])
    assert run("service", "scale", "web=+1").stdout == "web scaled to 3\n"
    assert run("service", "rollback", "web").exit_code == 0
    assert service_of(double).spec.task.container.image == "ok:1"
    assert run("service", "update", "--force", "web").exit_code == 0
    assert service_of(double).spec.task.force_update == 1
    assert run("service", "update", "--rollback", "--image", "x", "web").exit_code == 2


def test_an_update_that_is_rolled_back(run: Run) -> None:
    run("service", "create", "-q", "--name", "web", "ok")
    result = run("service", "update", "--image", "rollback", "web")
    assert result.exit_code == 6
    assert "the update was rolled back: task web.1 failed" in result.stderr
    result = run("service", "scale", "web=2")
    assert result.exit_code == 0, "the verdict on an earlier update must not count again: " + result.output


def test_scale_of_a_global_service_and_of_several(run: Run) -> None:
    run("service", "create", "-q", "--name", "web", "ok")
    run("service", "create", "-q", "--name", "all", "--mode", "global", "ok")
    result = run("service", "scale", "all=2", "web=3", "none=1")
    assert result.exit_code == 1
    assert "Service all is global" in result.stderr
    assert "No service is named 'none'" in result.stderr
    assert result.stdout == "web scaled to 3\n"


def test_rm_of_several(run: Run, double: Double) -> None:
    run("service", "create", "-q", "--name", "a", "ok")
    run("service", "create", "-q", "--name", "b", "ok")
    result = run("service", "rm", "a", "zzz", "b")
    assert result.exit_code == 4
    assert result.stdout == "a\nb\n"
    assert "No service is named 'zzz'" in result.stderr
    assert not double.objects["service"]


def three_networks(run: Run, double: Double) -> None:
    for name in ("a", "b", "c"):
        run("network", "create", name)
    double.calls.clear()


def test_rm_of_several_is_one_stream_and_each_has_its_own_end(run: Run, double: Double) -> None:
    three_networks(run, double)
    double.refuse.append(("Delete", Refusal(grpc.StatusCode.FAILED_PRECONDITION, "network a is used")))
    result = run("network", "rm", "a", "b", "none", "c", "b")
    assert result.stdout == "b\nc\n"
    assert "Network a is used" in result.stderr
    assert "No network is named 'none'" in result.stderr
    assert result.exit_code == 1, "as the first that failed"
    assert double.calls[0] == "Write"
    assert [network.meta.name for network in double.objects["network"].values()] == ["a"]


def test_what_a_stream_leaves_open_is_asked_again_by_the_same_request_id(run: Run, double: Double) -> None:
    three_networks(run, double)
    double.lose_answers.append("Delete")  # the change is made, its answer is lost
    result = run("network", "rm", "a", "b", "c")
    assert (result.exit_code, result.stdout) == (0, "a\nb\nc\n"), result.output
    assert double.calls.count("Delete") == 4, "three on the stream, one again"


def test_a_manager_that_does_not_know_the_stream_is_asked_one_by_one(
    run: Run, server: Server, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_networks(run, double)
    server.stop()
    monkeypatch.setattr(Double, "Write", control_pb2_grpc.ControlServicer.Write)
    server.start()
    result = run("network", "rm", "a", "b", "c")
    assert (result.exit_code, result.stdout) == (0, "a\nb\nc\n"), result.output
    assert double.calls == ["Delete"] * 3


def test_rm_does_not_wait_for_nodes_that_are_down(run: Run, double: Double) -> None:
    run("service", "create", "-q", "--name", "web", "--replicas", "5", "ok")
    node = double.find("node", "w2")
    node.status.state = types_pb2.NODE_DOWN
    double.put(node)
    result = run("service", "rm", "web")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"Warning: 1 tasks are on nodes that are down ({node.meta.id}) and end later.\n"
    assert "(removing)" in run("service", "ls").output


def test_logs(run: Run, double: Double) -> None:
    run("service", "create", "-q", "--name", "web", "ok")
    task = next(iter(double.objects["task"].values()))
    name = f"web.1.{task.meta.id}"
    double.log_lines = [
        control_pb2.LogLine(
            task_id=task.meta.id, task_name=name, node_name="n1", time_ns=1_500_000_000, line=b"one\n"
        ),
        control_pb2.LogLine(
            task_id=task.meta.id, task_name=name, node_name="n1", time_ns=2 * 10**9, line=b"two", stderr=True
        ),
        control_pb2.LogLine(warning="node w2 cannot be reached: its lines are missing"),
    ]
    result = run("service", "logs", "--tail", "5", "-t", "web")
    assert result.stdout == f"1970-01-01T00:00:01.500000000Z web.1.{task.meta.id[:12]}@n1    | one\n"
    assert result.stderr.endswith("| two\nWarning: node w2 cannot be reached: its lines are missing\n")
    assert double.calls[-1] == "Logs targets=web tail=5"
    assert run("logs", "--raw", task.meta.id).stdout == "one\n"
    assert double.calls[-1] == f"Logs targets={task.meta.id} tail=-1"
    assert run("logs", "--raw", "--grep", "t.o", "web").stderr.startswith("two\n")
    assert run("logs", "--raw", "--grep", "o", "-n", "1", "web").stdout == ""
    assert double.calls[-1] == "Logs targets=web tail=-1"
    assert json.loads(run("logs", "--json", "web").stdout.splitlines()[1]) == {
        "time": "1970-01-01T00:00:02.000000000Z", "service": "web", "task": "web.1", "taskId": task.meta.id,
        "node": "n1", "stream": "stderr", "line": "two",
    }  # fmt: skip
    assert run("logs", "--grep", "(", "web").exit_code == 2
    assert run("logs", "nobody").exit_code == 4
    assert run("logs", "--tail", "x", "web").exit_code == 2
    assert run("logs", "--since", "yesterday", "web").exit_code == 2


# -- nodes, images, networks -----------------------------------------------------------------------


def test_node_changes(run: Run, double: Double) -> None:
    run("service", "create", "-q", "--name", "web", "--replicas", "5", "ok")
    assert run("node", "drain", "w1").exit_code == 0
    assert double.find("node", "w1").spec.availability == types_pb2.AVAILABILITY_DRAIN
    assert run("node", "activate", "w1").exit_code == 0
    assert run("node", "pause", "w1", "w2").stdout == "w1\nw2\n"
    assert (
        run(
            "node", "update", "--availability", "active", "--label-add", "zone=a", "--role", "worker", "w2"
        ).exit_code
        == 0
    )
    assert dict(double.find("node", "w2").meta.labels) == {"zone": "a"}
    assert run("node", "update", "--label-rm", "zone", "w2").exit_code == 0
    assert not double.find("node", "w2").meta.labels
    assert run("node", "promote", "w2").stdout == "Node w2 promoted to a manager in the cluster.\n"
    assert run("node", "promote", "w2").stdout == "Node w2 is already a manager.\n"
    assert run("node", "demote", "w2").exit_code == 0
    assert run("node", "rm", "w2").exit_code == 1
    assert run("node", "rm", "--force", "w2").exit_code == 0


def test_image_load_pull_rm(run: Run, double: Double, tmp_path: Path) -> None:
    archive = tmp_path / "web.tar"
    archive.write_bytes(b"good" + bytes(3 * 1024 * 1024))
    result = run("image", "load", "-i", str(archive), "--name", "web:2", "--format", "rootfs")
    assert result.stdout == "Loaded image: web:2\n"
    assert double.loaded == archive.read_bytes()
    assert (double.chunks[0].reference, double.chunks[0].format) == ("web:2", "rootfs")
    assert max(len(chunk.data) for chunk in double.chunks) <= 1024 * 1024
    assert run("image", "pull", "busybox:1").stdout == "docker.io/library/busybox:1\n"
    assert run("image", "rm", "web:2").stdout == "Deleted: web:2\n"
    assert run("image", "rm", "busybox:1").exit_code == 0, "the registry's name need not be written"
    assert not double.objects["image"]
    for arguments, code, text in (
        (["image", "load", "-i", "/nowhere/x.tar"], 1, "/nowhere/x.tar cannot be read: No such file"),
        (["image", "load", "-i", str(Path(__file__))], 1, "The archive is damaged"),
        (["image", "pull", "nowhere/x"], 4, "The registry has no image nowhere/x"),
    ):
        result = run(*arguments)
        assert (result.exit_code, text in result.stderr) == (code, True), result.stderr


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ("service create --bogus ok", 2, "No such option"),
        ("service create --secret source=x,uid=root ok", 2, "uid is 'root'"),
        ("service create --log-driver=syslog ok", 2, "the log driver 'syslog' is not built"),
        ("service create --mode often ok", 2, "use replicated, global, ordered, replicated-job, global-job"),
        ("service create --isolation hyperv ok", 2, "--isolation is not built yet"),
        ("service create --mode global-job --replicas 2 ok", 2, "it runs one task per node"),
        ("service create --job-ttl 1h ok", 2, "--job-ttl is only for jobs"),
        ("service create --mode often ok", 2, "is not a mode"),
        ("service create -p 99999:80 ok", 2, "is not a port"),
        ("service create --mount type=bind,dst=/x ok", 2, "add source=/path"),
        ("service create --limit-memory many ok", 2, "is not a size"),
        ("service create --detach=perhaps ok", 2, "neither true nor false"),
        ("service create", 2, "Missing argument 'IMAGE'"),
        ("service update --credential-spec x web", 2, "--credential-spec is not built yet"),
        ("service nonsense", 2, "No such command"),
        ("service ls -f colour=red", 2, "'colour' is not a filter of services"),
        ("service ls --format {{.Colour}}", 0, ""),
        ("service scale web", 2, "SERVICE=REPLICAS"),
        ("network create -d bridge x", 2, "--driver bridge is not built"),
        ("network create --subnet 10.0.0.1/8 x", 2, "is not an IPv4 subnet"),
        ("events -f type=pod", 2, "'pod' is not a kind of object"),
        ("service inspect zzz", 4, "No service is named 'zzz'"),
        ("service ps zzz", 4, "No service is named 'zzz'"),
        ("service rm zzz", 4, "No service is named 'zzz'"),
        ("node inspect zzz", 4, "No node is named 'zzz'"),
        ("task inspect zzz", 4, "No task is named 'zzz'"),
        ("token robot", 2, "No such command 'robot'"),
        ("token worker --rotate --ttl 1h", 2, "--rotate is for the permanent token"),
        ("token worker --ttl 0", 2, "valid for some time"),
        ("token worker --labels x y", 2, "unexpected extra argument"),
        ("token -q ls", 2, "in front of the command"),
        ("--context nowhere node ls", 2, "No context 'nowhere'"),
    ],
)
def test_bad_input(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, code: int, text: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if arguments.startswith("--context"):
        result = CliRunner().invoke(root, arguments.split())
    else:
        result = run(*arguments.split())
    assert result.exit_code == code, result.output
    assert text in result.output
    assert "Traceback" not in result.output


def test_a_name_already_used(run: Run) -> None:
    run("service", "create", "-q", "--name", "web", "ok")
    result = run("service", "create", "--name", "web", "ok")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == "Error: Service web exists already\n"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 1),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.PERMISSION_DENIED, 7),
        (grpc.StatusCode.UNAUTHENTICATED, 7),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNIMPLEMENTED, 1),
    ],
)
def test_what_a_refusal_of_the_server_becomes(
    run: Run, double: Double, status: grpc.StatusCode, code: int
) -> None:
    double.refuse.append(("List", Refusal(status, "spec.task.container.image: it is empty")))
    result = run("service", "ls")
    assert result.exit_code == code
    assert "pec.task.container.image: it is empty" in result.stderr


# -- managers that come and go ---------------------------------------------------------------------


def test_no_leader_is_waited_for_and_then_reported(run: Run, double: Double) -> None:
    double.refuse += [("List", Refusal(grpc.StatusCode.UNAVAILABLE, "no leader is elected"))] * 3
    assert run("service", "ls").exit_code == 0
    double.refuse += [("List", Refusal(grpc.StatusCode.UNAVAILABLE, "no leader is elected"))] * 100
    result = run("--timeout", "600ms", "service", "ls")
    assert result.exit_code == 3
    assert "No manager could answer within 0.6s: no leader is elected" in result.stderr


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
def test_a_write_whose_answer_is_lost_happens_once(run: Run, double: Double, code: grpc.StatusCode) -> None:
    double.lost_code = code
    double.lose_answers.append("Create")
    assert run("service", "create", "-d", "--name", "web", "ok").exit_code == 0
    assert double.calls.count("Create") == 2
    assert len(double.objects["service"]) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION])
def test_a_watch_that_ends_is_begun_anew(run: Run, double: Double, code: grpc.StatusCode) -> None:
    def disturb() -> None:
        wait_for(lambda: bool(double.watchers))
        double.break_watches(code)
        wait_for(lambda: bool(double.watchers))
        with double.lock:
            (task,) = double.objects["task"].values()
            task.status.state = types_pb2.TASK_RUNNING
            double.put(task)

    helper = threading.Thread(target=disturb)
    helper.start()
    result = run("service", "create", "--name", "web", "slow")
    helper.join()
    assert result.exit_code == 0, result.output


def test_an_update_keeps_what_others_wrote_meanwhile(run: Run, double: Double) -> None:
    run("service", "create", "-d", "--name", "web", "ok")
    double.refuse.append(("Update", Refusal(grpc.StatusCode.ABORTED, "service web changed meanwhile")))
    assert run("service", "update", "-d", "--label-add", "a=1", "web").exit_code == 0
    assert double.calls.count("Update") == 2
    double.refuse += [("Update", Refusal(grpc.StatusCode.ABORTED, "service web changed meanwhile"))] * 20
    result = run("service", "update", "-d", "--label-add", "b=1", "web")
    assert result.exit_code == 5


def test_the_next_host_is_tried(server: Server, short_dir: Path) -> None:
    gone = short_dir / "gone.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(gone))
    result = CliRunner().invoke(root, ["-H", f"unix://{gone}", "-H", str(server.path), "node", "ls", "-q"])
    assert result.exit_code == 0, result.output


def test_a_manager_that_restarts_is_waited_for(
    server: Server, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = short_dir / "state"
    (state / "run").mkdir(parents=True)
    (state / "node.json").write_text('{"role": "manager"}')
    monkeypatch.setenv("SWARMPY_STATE_DIR", str(state))
    second = Server(state / "run" / "control.sock", server.double)
    timer = threading.Timer(0.6, second.start)
    timer.start()
    try:
        result = CliRunner().invoke(root, ["node", "ls", "-q"])
    finally:
        timer.join()
        second.stop()
    assert result.exit_code == 0, result.output


def test_a_worker_is_not_waited_for(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short_dir / "node.json").write_text('{"role": "worker"}')
    monkeypatch.setenv("SWARMPY_STATE_DIR", str(short_dir))
    result = CliRunner().invoke(root, ["node", "ls"])
    assert result.exit_code == 3
    assert "a worker has none" in result.stderr
    assert "Waiting" not in result.stderr


def test_waiting_survives_the_loss_of_a_manager(run: Run, server: Server, double: Double) -> None:
    def disturb() -> None:
        for _ in range(500):
            time.sleep(0.01)
            if double.watchers:
                break
        server.stop()
        with double.lock:
            (task,) = double.objects["task"].values()
            task.status.state = types_pb2.TASK_RUNNING
            double.put(task)
        server.start()

    helper = threading.Thread(target=disturb)
    helper.start()
    result = run("service", "create", "--name", "web", "slow")
    helper.join()
    assert result.exit_code == 0, result.output


def test_no_manager_here(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMPY_STATE_DIR", str(short_dir))
    result = CliRunner().invoke(root, ["node", "ls"])
    assert result.exit_code == 3
    assert f"No manager runs here: {short_dir}/run/control.sock does not exist" in result.stderr
    assert CliRunner().invoke(root, ["-H", "10.0.0.1:7377", "node", "ls"]).exit_code == 2
    assert CliRunner().invoke(root, ["-H", f"unix://{'/x' * 60}", "node", "ls"]).exit_code == 2
    result = CliRunner().invoke(root, ["version"])
    assert result.exit_code == 0
    assert "Server:  not reached" in result.stdout


def test_contexts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    demo = tmp_path / "context.json"
    monkeypatch.setattr("swarmpy.cli.context.DEMO_CONTEXT", demo)
    assert CliRunner().invoke(root, ["--context", "demo", "node", "ls"]).exit_code == 2
    demo.write_text(json.dumps({"hosts": [f"unix://{server.path}"]}))
    assert CliRunner().invoke(root, ["--context", "demo", "node", "ls", "-q"]).exit_code == 0
    own = tmp_path / "swarmpy" / "contexts.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"contexts": {"home": {"hosts": [f"unix://{server.path}"]}}}))
    assert CliRunner().invoke(root, ["--context", "home", "node", "ls", "-q"]).exit_code == 0
    monkeypatch.setenv("SWARMPY_CONTEXT", "home")
    assert CliRunner().invoke(root, ["node", "ls", "-q"]).exit_code == 0
    own.write_text("{")
    assert CliRunner().invoke(root, ["node", "ls"]).exit_code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes another user")
def test_a_socket_of_root_is_not_for_others(server: Server, short_dir: Path) -> None:
    short_dir.chmod(0o755)
    server.path.chmod(0o600)
    script = (
        "import difflib, grpc, os; from swarmpy.cli import client, filters, main, node, output, views\n"
        "grpc.insecure_channel('unix:/nowhere').close()\n"  # loads what nobody may not read in /root
        "os.setuid(65534); main.main()"
    )
    arguments = [sys.executable, "-c", script, "-H", f"unix://{server.path}", "node", "ls"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert "is for root only: run the command with sudo" in done.stderr


# -- as a process ----------------------------------------------------------------------------------


def command(server: Server, *arguments: str) -> list[str]:
    script = "from swarmpy.cli.main import main; main()"
    return [sys.executable, "-c", script, "-H", f"unix://{server.path}", *arguments]


def cli(server: Server, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(server, *arguments), capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_whole_path_as_a_process(server: Server) -> None:
    done = cli(server, "service", "create", "--name", "web", "--replicas", "2", "ok")
    assert (done.returncode, done.stderr) == (0, "web: 2/2 running\nweb converged\n")
    assert cli(server, "service", "rm", "web").returncode == 0
    assert cli(server, "service", "rm", "web").returncode == 4


# Tests that a shell put into the background inherit an ignored SIGINT, and would wait for ever.
HEARS_CTRL_C = ("env", "--default-signal=INT")


@pytest.mark.parametrize("arguments", [["events"], ["service", "create", "--name", "web", "slow"]])
def test_ctrl_c_ends_with_130(server: Server, arguments: list[str]) -> None:
    with subprocess.Popen(
        [*HEARS_CTRL_C, *command(server, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for(lambda: bool(server.double.watchers))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.endswith("Interrupted.\n")
    assert "Traceback" not in stderr


def test_events(server: Server) -> None:
    arguments = [
        "events",
        "-f",
        "type=service",
        "-f",
        "type=task",
        "--format",
        "{{.Type}} {{.Action}} {{.Name}}",
    ]
    line = [*HEARS_CTRL_C, *command(server, *arguments)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: bool(server.double.watchers))
        cli(server, "network", "create", "ignored")
        cli(server, "service", "create", "-d", "--name", "web", "ok")
        cli(server, "service", "rm", "-d", "web")
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert lines == ["service create web", "task create web.1", "task delete web.1", "service delete web"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
