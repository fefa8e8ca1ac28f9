"""What running containers cost on one node: exec of `true`, stop of all, memory beside each, CPU while idle.

Both sides run the same image as one service. exec: through the API, and by the command line, whose start
counts. stop: `service rm` until the node has no container left; the image's program dies of its stop signal
(SIGKILL on both sides, no drain delay), so nothing waits for a grace period. Memory per container is PSS of
the process that stays beside it: conmon, Docker's shim. CPU: of all processes of the node (supervisor, agent,
manager, DNS; dockerd, containerd and shims), while somebody reads everybody's statistics every
five seconds, in percent of a core; `agent alone` is our agent. Docker's reader is `docker stats`, which asks
every second and cannot ask less often.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from swarmpy.cli.client import Client
from swarmpy.node import daemon_setup, demo
from swarmpy.proto import tasks_pb2

from bench import docker, harness, memory
from bench.service_start import running

TIMEOUT_S = 300.0
EXECS, CLI_EXECS = 30, 10
SETTLE_S = 5.0
SERVICE = "cost"
SHIMS = ("containerd-shim", "containerd-shim-runc-v2"[:15])
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Measured = dict[str, list[float]]


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time these processes have used, in seconds; those that ended count no more."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def timed_ms(work: Iterator[None], count: int) -> list[float]:
    """Milliseconds of each step of a generator."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        next(work)
        found.append((time.monotonic() - began) * 1000)
    return found


# --- ours -------------------------------------------------------------------------------------------------


def node_pids(node: demo.DemoNode) -> dict[str, list[int]]:
    roles = {role: demo.role_pids(node, role) for role in memory.ROLES}
    return {"supervisor": [daemon_setup.daemon_pid(node.state) or 0], **roles}


def asking(start: tasks_pb2.SessionInput, ended: threading.Event) -> Iterator[tasks_pb2.SessionInput]:
    """One request, on a stream that stays open: its end would be that of the command."""
    yield start
    ended.wait(TIMEOUT_S)


def our_execs(client: Client) -> Iterator[None]:
    start = tasks_pb2.SessionInput(exec=tasks_pb2.ExecStart(target=f"{SERVICE}.1", argv=["true"]))
    while True:
        ended = threading.Event()
        said = list(client.tasks_call("Exec", asking(start, ended)))
        ended.set()
        if not said or said[-1].exit.code != 0:
            raise harness.BenchError(f"exec ended with {said[-1:]}")
        yield


def our_cli_execs() -> Iterator[None]:
    while True:
        harness.cli("exec", f"{SERVICE}.1", "true")
        yield


def create(replicas: int) -> None:
    harness.cli(
        *("service", "create", "-d", "--stop-signal", "SIGKILL", "--drain-delay", "0s"),
        *("--name", SERVICE, "--replicas", str(replicas), harness.IMAGE),
    )


def ours(few: int, many: int, idle_s: float) -> Measured:
    found: Measured = {}
    with harness.cluster(1, 1) as cluster:
        node = cluster.nodes[0]
        client = harness.client(node)
        create(few)
        harness.wait_until(lambda: running(client, SERVICE) == few, TIMEOUT_S, f"{few} running")
        harness.say("swarmpy: exec, memory, stop")
        found["exec api"] = timed_ms(our_execs(client), EXECS)
        found["exec cli"] = timed_ms(our_cli_execs(), CLI_EXECS)
        found["memory"] = [memory.monitors([node]).pss / few]
        began = time.monotonic()
        harness.cli("service", "rm", "-d", SERVICE)
        empty = node.paths.run / "containers"
        end = harness.wait_until(lambda: not any(empty.iterdir()), TIMEOUT_S, "no containers left")
        found["stop"] = [end - began]
        if many:
            harness.say(f"swarmpy: {many} idle containers")
            create(many)
            harness.wait_until(lambda: running(client, SERVICE) == many, TIMEOUT_S, f"{many} running", 0.2)
            with reader(demo.swarmpy("--context", "demo", "stats", "--interval", "5s", "--format", "json")):
                time.sleep(SETTLE_S)
                pids = node_pids(node)
                every, agent = [pid for some in pids.values() for pid in some], pids["agent"]
                before, before_agent = cpu_s(every), cpu_s(agent)
                time.sleep(idle_s)
                found["cpu"] = [(cpu_s(every) - before) / idle_s * 100]
                found["cpu agent"] = [(cpu_s(agent) - before_agent) / idle_s * 100]
            harness.cli("service", "rm", "-d", SERVICE)
        client.close()
    return found


@contextlib.contextmanager
def reader(argv: list[str]) -> Iterator[None]:
    """A program that reads statistics meanwhile."""
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        if child.poll() is not None:
            raise harness.BenchError(f"{' '.join(argv)} ended by itself")
    finally:
        child.kill()
        child.wait()


# --- Docker -----------------------------------------------------------------------------------------------


def their_execs(engine: docker.Engine, container: str) -> Iterator[None]:
    while True:
        made = engine.post(f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True})
        name = json.loads(made)["Id"]
        engine.post(f"/exec/{name}/start", {"Detach": False, "Tty": False})
        if engine.get(f"/exec/{name}/json")["ExitCode"] != 0:
            raise harness.BenchError("docker: exec failed")
        yield


def their_cli_execs(engine: docker.Engine, container: str) -> Iterator[None]:
    while True:
        engine.cli("exec", container, "true")
        yield


def their_create(engine: docker.Engine, replicas: int) -> None:
    engine.cli(
        *("service", "create", "-d", "-q", "--no-resolve-image", "--stop-signal", "SIGKILL"),
        *("--name", SERVICE, "--replicas", str(replicas), harness.IMAGE),
    )


def peer(few: int, many: int, idle_s: float) -> Measured:
    found: Measured = {}
    with docker.swarm(1) as swarm:
        engine = swarm.engines[0]
        their_create(engine, few)
        harness.wait_until(lambda: engine.all_run(SERVICE, few), TIMEOUT_S, f"{few} running")
        harness.say("docker: exec, memory, stop")
        container = engine.get("/containers/json")[0]["Id"]
        found["exec api"] = timed_ms(their_execs(engine, container), EXECS)
        found["exec cli"] = timed_ms(their_cli_execs(engine, container), CLI_EXECS)
        found["memory"] = [memory.of_names(engine.box.processes(), SHIMS).pss / few]
        began = time.monotonic()
        engine.cli("service", "rm", SERVICE)
        end = harness.wait_until(lambda: engine.containers() == 0, TIMEOUT_S, "no containers left")
        found["stop"] = [end - began]
        if many:
            harness.say(f"docker: {many} idle containers")
            their_create(engine, many)
            harness.wait_until(lambda: engine.all_run(SERVICE, many), TIMEOUT_S, f"{many} running", 0.2)
            argv = ["docker", "-H", f"unix://{engine.socket}", "stats", "--format", "{{json .}}"]
            with reader(argv):
                time.sleep(SETTLE_S)
                names = ("dockerd", "containerd", *SHIMS)
                pids = [pid for pid, name in engine.box.processes().items() if name in names]
                before = cpu_s(pids)
                time.sleep(idle_s)
                found["cpu"] = [(cpu_s(pids) - before) / idle_s * 100]
            engine.cli("service", "rm", SERVICE)
            harness.wait_until(lambda: engine.containers() == 0, TIMEOUT_S, "containers gone", 0.2)
    return found


def main(rounds: int, few: int, many: int, idle_s: float, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
    theirs: Measured = {}
    mine: Measured = {}
    for number in range(rounds):
        last = many if number == rounds - 1 else 0  # the many take their time: once is enough
        for side, into in ((peer, theirs), (ours, mine)):
            if side is ours or not missing:
                for what, values in side(few, last, idle_s).items():
                    into.setdefault(what, []).extend(values)
    report = harness.Report(
        f"what running containers cost, one node, {few} and {many} of them", "Docker Swarm"
    )
    rows = [
        ("exec api", "exec of true, API", "ms", "≤ Docker's"),
        ("exec cli", "exec of true, command line", "ms", ""),
        ("stop", f"stop of {few}", "s", "≤ Docker's"),
        ("memory", "memory per container", "MB", "≤ 1 MB PSS"),
    ]
    if many:
        rows += [
            ("cpu", f"CPU of the node, {many} idle", "%", ""),
            ("cpu agent", f"CPU of the agent alone, {many} idle", "%", "≤ 1 %"),
        ]
    for key, what, unit, target in rows:
        own, other = mine.get(key, []), theirs.get(key, [])
        absent = missing or ("" if other else "has no such process")
        report.rows.append(harness.Row(what, unit, own, other, target, peer_missing=absent))
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=2)
    arguments.add_argument("--containers", type=int, default=20, help="for exec, stop and memory")
    arguments.add_argument("--idle-containers", type=int, default=200, help="for CPU; 0 leaves it out")
    arguments.add_argument("--idle", type=float, default=30.0, help="seconds of CPU measured")
    given = arguments.parse_args()
    harness.run(
        lambda: main(given.rounds, given.containers, given.idle_containers, given.idle, not given.no_peer),
        given.format,
    )
