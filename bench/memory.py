"""Memory of an idle node: swarmpy's processes, and dockerd with its containerd.

PSS (a page shared by n processes counts 1/n in each) and RSS (it counts whole in each) of every process of
the node, summed, after a quiet time. swarmpy: an idle worker and an idle manager, then with tasks on each.
Docker: a manager of a swarm of one, then with tasks. What runs per container (conmon; Docker's shims) is
counted apart, the containers' own processes not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swarmpy.cli.client import Client
from swarmpy.node import daemon_setup, demo
from swarmpy.proto import control_pb2, store_pb2, types_pb2

from bench import docker, harness

TIMEOUT_S = 120.0
ROLES = ("agent", "manager", "dns")
LIMITS_MB = {"worker": 100, "manager": 160}


@dataclass
class Sum:
    """Megabytes (10^6 bytes)."""

    pss: float = 0.0
    rss: float = 0.0
    parts: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, pid: int) -> None:
        values = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        )
        pss, rss = (int(values[key].split()[0]) * 1024 / 1e6 for key in ("Pss", "Rss"))
        self.pss += pss
        self.rss += rss
        self.parts[name] = f"{pss:.0f}/{rss:.0f}"


def of_node(node: demo.DemoNode) -> Sum:
    found = Sum()
    found.add("supervisor", daemon_setup.daemon_pid(node.state) or 0)
    for role in ROLES:
        for pid in demo.role_pids(node, role):
            found.add(role, pid)
    return found


def of_names(processes: dict[int, str], names: Iterable[str]) -> Sum:
    found = Sum()
    for pid, name in processes.items():
        if name in names:
            found.add(f"{name} {pid}" if name in found.parts else name, pid)
    return found


def monitors(nodes: list[demo.DemoNode]) -> Sum:
    """The conmons of these nodes: their bundle lies below the node's run directory."""
    found = Sum()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if b"conmon" in command.partition(b"\0")[0] and any(
            bytes(node.paths.run) in command for node in nodes
        ):
            found.add(path.name, int(path.name))
    return found


Measured = dict[str, Sum]


def ours(idle_s: float, tasks: int) -> Measured:
    measured: Measured = {}
    with harness.cluster(2, 1, image=False) as cluster:
        manager, worker = cluster.nodes
        time.sleep(idle_s)
        measured["manager, no tasks"], measured["worker, no tasks"] = of_node(manager), of_node(worker)
        harness.load_image()
        harness.cli("service", "create", "-d", "--name", "idle", "--replicas", str(2 * tasks), harness.IMAGE)
        client = harness.client(manager)
        harness.wait_until(lambda: _running(client) == 2 * tasks, TIMEOUT_S, "all tasks run", 0.2)
        time.sleep(idle_s)
        client.close()
        measured[f"manager, {tasks} tasks"] = of_node(manager)
        measured[f"worker, {tasks} tasks"] = of_node(worker)
        measured[f"monitors of {tasks} tasks"] = monitors([worker])
    return measured


def _running(client: Client) -> int:
    answer = client.call("List", control_pb2.ListRequest(kind=store_pb2.KIND_TASK))
    return sum(item.task.status.state == types_pb2.TASK_RUNNING for item in answer.objects)


def peer(idle_s: float, tasks: int) -> Measured:
    measured: Measured = {}
    with docker.swarm(1) as swarm:
        engine = swarm.engines[0]
        time.sleep(idle_s)
        measured["no tasks"] = of_names(engine.box.processes(), ("dockerd", "containerd"))
        engine.cli(
            "service",
            "create",
            "-d",
            "-q",
            "--no-resolve-image",
            "--name",
            "idle",
            "--replicas",
            str(tasks),
            harness.IMAGE,
        )
        harness.wait_until(lambda: engine.all_run("idle", tasks), TIMEOUT_S, "all tasks run", 0.2)
        time.sleep(idle_s)
        measured["tasks"] = of_names(engine.box.processes(), ("dockerd", "containerd"))
        measured["monitors"] = of_names(
            engine.box.processes(), ("containerd-shim", "containerd-shim-runc-v2"[:15])
        )
    return measured


def main(rounds: int, idle_s: float, tasks: int, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
    theirs = [] if missing else [peer(idle_s, tasks) for _ in range(rounds)]
    mine = [ours(idle_s, tasks) for _ in range(rounds)]
    report = harness.Report(f"memory of a node, idle for {idle_s:g} s", "dockerd+containerd")
    for what in mine[0]:
        key = (
            "monitors"
            if what.startswith("monitors")
            else "no tasks"
            if what.endswith("no tasks")
            else "tasks"
        )
        for kind in ("pss", "rss"):
            limit = LIMITS_MB.get(what.partition(",")[0])
            report.rows.append(
                harness.Row(
                    f"{what}: {kind.upper()}", "MB", [getattr(one[what], kind) for one in mine],
                    [getattr(one[key], kind) for one in theirs], f"≤ {limit} MB" if limit else "",
                    peer_missing=missing,
                )
            )  # fmt: skip
    for who, all_of in (("swarmpy", mine), ("docker", theirs)):
        for what, found in (all_of[-1] if all_of else {}).items():
            if not what.startswith("monitors"):
                parts = ", ".join(f"{name} {value}" for name, value in found.parts.items())
                report.remarks.append(f"{who}, {what}, PSS/RSS in MB: {parts}")
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=1)
    arguments.add_argument(
        "--idle", type=float, default=60.0, help="quiet seconds before measuring (default 60)"
    )
    arguments.add_argument("--tasks", type=int, default=10, help="tasks on each node in the second half")
    given = arguments.parse_args()
    harness.run(lambda: main(given.rounds, given.idle, given.tasks, not given.no_peer), given.format)
