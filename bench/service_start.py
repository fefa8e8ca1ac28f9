"""Time from `service create --replicas 20` to 20 running tasks, on one node: swarmpy and Docker Swarm.

Both sides: the same busybox image, already on the node; the command line's own start-up counts; the end is
the moment at which the managers say that all tasks run, asked every 20 ms over the unix socket. Rounds of the
two alternate, so that what else the machine does meets both; in between the service is removed and its
containers have gone. Swarm's tasks are on the node's bridge only;
ours are on the cluster's network, with a virtual IP and DNS names.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from functools import partial
from pathlib import Path

from swarmpy.cli.client import Client
from swarmpy.node import demo
from swarmpy.proto import control_pb2, store_pb2, types_pb2

from bench import docker, harness

TIMEOUT_S = 180.0
WARM_UP_ROUNDS = 1
STATE = re.compile(r"^(\d\d):(\d\d):(\d\d)\.(\d\d\d) .* task state=TASK_(\w+) ")
PHASES = (
    "created",
    "first assigned",
    "all assigned",
    "first ready",
    "all ready",
    "all started",
    "all running",
)


def running(client: Client, service: str) -> int:
    filters = [control_pb2.Filter(key="service", value=service)]
    answer = client.call("List", control_pb2.ListRequest(kind=store_pb2.KIND_TASK, filters=filters))
    return sum(item.task.status.state == types_pb2.TASK_RUNNING for item in answer.objects)


def _all_run(client: Client, service: str, replicas: int) -> bool:
    return running(client, service) == replicas


class Ours:
    """A cluster of one node; a round is one service, created and removed again."""

    def __init__(self, node: demo.DemoNode) -> None:
        self.node = node
        self.client = harness.client(node)
        self.log = node.state / "daemon.log"
        self.totals: list[float] = []
        self.phases: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def round(self, name: str, replicas: int, *, counts: bool) -> None:
        offset = self.log.stat().st_size
        began, began_ms = time.monotonic(), _day_ms(time.time())
        harness.cli(
            *("service", "create", "-d", "--stop-grace-period", "1s", "--name", name),
            *("--replicas", str(replicas), harness.IMAGE),
        )
        created = time.monotonic() - began
        all_run = partial(_all_run, self.client, name, replicas)
        end = harness.wait_until(all_run, TIMEOUT_S, f"{replicas} running")
        harness.say(f"swarmpy: {end - began:.2f} s{'' if counts else ' (warm-up)'}")
        if counts:
            self.totals.append(end - began)
            steps = _phases(self.log, offset, began_ms)
            measured = {"created": created, **steps, "all running": end - began}
            for phase, value in measured.items():
                self.phases[phase].append(value)
        harness.cli("service", "rm", name)
        harness.wait_until(lambda: _no_containers(self.node), TIMEOUT_S, "containers gone")


def _no_containers(node: demo.DemoNode) -> bool:
    return not any((node.paths.run / "containers").iterdir())


def _phases(log: Path, offset: int, began_ms: int) -> dict[str, float]:
    """Seconds from the start to the agent's steps, from its log."""
    seen: dict[str, list[float]] = {}
    with log.open("rb") as file:
        file.seek(offset)
        for line in file.read().decode(errors="replace").splitlines():
            if found := STATE.match(line):
                hours, minutes, seconds, milliseconds = (int(part) for part in found.groups()[:4])
                at_ms = ((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds
                seen.setdefault(found[5], []).append((at_ms - began_ms) % 86_400_000 / 1000)
    return {
        "first assigned": min(seen["ASSIGNED"]), "all assigned": max(seen["ASSIGNED"]),
        "first ready": min(seen["READY"]), "all ready": max(seen["READY"]), "all started": max(seen["RUNNING"]),
    }  # fmt: skip


def _day_ms(wall_s: float) -> int:
    local = time.localtime(wall_s)
    return ((local.tm_hour * 60 + local.tm_min) * 60 + local.tm_sec) * 1000 + int(wall_s % 1 * 1000)


class Peer:
    """The same for Docker."""

    def __init__(self, engine: docker.Engine) -> None:
        self.engine = engine
        self.totals: list[float] = []

    def round(self, name: str, replicas: int, *, counts: bool) -> None:
        began = time.monotonic()
        self.engine.cli(
            *("service", "create", "-d", "-q", "--no-resolve-image", "--stop-grace-period", "1s"),
            *("--name", name, "--replicas", str(replicas), harness.IMAGE),
        )
        all_run = partial(self.engine.all_run, name, replicas)
        end = harness.wait_until(all_run, TIMEOUT_S, f"{replicas} running")
        harness.say(f"docker: {end - began:.2f} s{'' if counts else ' (warm-up)'}")
        if counts:
            self.totals.append(end - began)
        self.engine.cli("service", "rm", name)
        harness.wait_until(lambda: self.engine.containers() == 0, TIMEOUT_S, "containers gone", 0.2)


def main(rounds: int, replicas: int, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
    with contextlib.ExitStack() as stack:
        theirs = None if missing else Peer(stack.enter_context(docker.swarm(1)).engines[0])
        mine = Ours(stack.enter_context(harness.cluster(1, 1)).nodes[0])
        stack.callback(mine.client.close)
        for number in range(rounds + WARM_UP_ROUNDS):
            for side in (theirs, mine):
                if side is not None:
                    side.round(f"start{number}", replicas, counts=number >= WARM_UP_ROUNDS)
    report = harness.Report(f"service create --replicas {replicas} until all run, one node", "Docker Swarm")
    peers = theirs.totals if theirs else []
    report.rows.append(
        harness.Row("all running", "s", mine.totals, peers, "ratio ≤ 1/3", peer_missing=missing)
    )
    steps = ", ".join(f"{phase} {harness.median(values):.2f}" for phase, values in mine.phases.items())
    report.remarks.append(f"swarmpy, seconds from the start (median): {steps}")
    report.remarks.append(
        f"load of the machine at the end: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=5)
    arguments.add_argument("--replicas", type=int, default=20)
    given = arguments.parse_args()
    harness.run(lambda: main(given.rounds, given.replicas, not given.no_peer), given.format)
