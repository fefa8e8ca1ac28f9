"""How long a rollout takes: ten replicas updated one by one, one scaled to fifty; swarmpy and Docker Swarm.

One node each, the same busybox image, the defaults of both (Swarm: stop-first, monitor 5 s; swarmpy: start-first,
monitor 10 s), stop grace 1 s. The command's own start-up counts. An update is *replaced* when every task that is
wanted is new and runs, and *completed* when the managers say so, after the last monitor time. Asked every 20 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from swarmpy.cli.client import Client
from swarmpy.node import demo
from swarmpy.proto import objects_pb2, types_pb2

from bench import docker, harness

TIMEOUT_S = 300.0
SERVICE = "rollout"
REPLICAS, SCALED = 10, 50


@dataclass
class Found:
    """Seconds of every round."""

    replaced: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)
    scaled: list[float] = field(default_factory=list)


def new_tasks(client: Client) -> tuple[int, int]:
    """Running tasks of the service's present version, and all that are wanted."""
    service = client.get("service", SERVICE)
    tasks = [t for t in client.find("task", service=SERVICE) if t.desired_state <= types_pb2.TASK_RUNNING]
    new = [
        t
        for t in tasks
        if t.spec_version == service.spec_version and t.status.state == types_pb2.TASK_RUNNING
    ]
    return len(new), len(tasks)


def is_completed(client: Client) -> bool:
    status = client.get("service", SERVICE).update_status
    return bool(status.state == objects_pb2.UPDATE_COMPLETED)


def gone(node: demo.DemoNode) -> bool:
    containers: Path = node.paths.run / "containers"
    return not any(containers.iterdir())


def timed(what: Callable[[], object], until: Callable[[], bool], name: str) -> tuple[float, float]:
    began = time.monotonic()
    what()
    return began, harness.wait_until(until, TIMEOUT_S, name)


def ours(rounds: int) -> Found:
    found = Found()
    with harness.cluster(1, 1) as cluster:
        node = cluster.nodes[0]
        client = harness.client(node)
        create = ("service", "create", "-d", "--stop-grace-period", "1s", "--name", SERVICE)
        for _ in range(rounds):
            harness.cli(*create, "--replicas", str(REPLICAS), harness.IMAGE)
            harness.wait_until(lambda: new_tasks(client)[0] == REPLICAS, TIMEOUT_S, "ten run")
            began, end = timed(
                lambda: harness.cli("service", "update", "-d", "--env-add", f"A={time.time_ns()}", SERVICE),
                lambda: (
                    client.get("service", SERVICE).spec_version > 1
                    and new_tasks(client) == (REPLICAS, REPLICAS)
                ),
                "all are new",
            )
            found.replaced.append(end - began)
            end = harness.wait_until(partial(is_completed, client), TIMEOUT_S, "the update is complete")
            found.completed.append(end - began)
            harness.cli("service", "scale", "-d", f"{SERVICE}=1")
            harness.wait_until(lambda: new_tasks(client) == (1, 1), TIMEOUT_S, "one runs")
            time.sleep(5)
            began, end = timed(
                lambda: harness.cli("service", "scale", "-d", f"{SERVICE}={SCALED}"),
                lambda: new_tasks(client)[0] == SCALED,
                "fifty run",
            )
            found.scaled.append(end - began)
            harness.say(
                f"swarmpy: {found.replaced[-1]:.1f} s, {found.completed[-1]:.1f} s, {found.scaled[-1]:.1f} s"
            )
            harness.cli("service", "rm", SERVICE)
            harness.wait_until(lambda: gone(node), TIMEOUT_S, "containers gone")
        client.close()
    return found


def peer(rounds: int) -> Found:
    found = Found()
    with docker.swarm(1) as swarm:
        engine = swarm.engines[0]
        for _ in range(rounds):
            engine.cli(
                "service", "create", "-d", "-q", "--no-resolve-image", "--stop-grace-period", "1s", "--name",
                SERVICE, "--replicas", str(REPLICAS), harness.IMAGE,
            )  # fmt: skip
            harness.wait_until(partial(engine.all_run, SERVICE, REPLICAS), TIMEOUT_S, "ten run")
            before = {task["ID"] for task in engine.tasks(SERVICE)}

            def replaced(old: set[str] = before) -> bool:
                tasks = {task["ID"] for task in engine.tasks(SERVICE)}
                return len(tasks) == REPLICAS and not tasks & old

            began, end = timed(
                lambda: engine.cli(
                    "service", "update", "-d", "-q", "--no-resolve-image", "--env-add", "A=1", SERVICE
                ),
                replaced,
                "all are new",
            )
            found.replaced.append(end - began)
            end = harness.wait_until(
                lambda: engine.get(f"/services/{SERVICE}")["UpdateStatus"]["State"] == "completed",
                TIMEOUT_S,
                "the update is complete",
            )
            found.completed.append(end - began)
            engine.cli("service", "scale", "-d", f"{SERVICE}=1")
            harness.wait_until(
                lambda: engine.containers() == 1 or engine.all_run(SERVICE, 1), TIMEOUT_S, "one runs"
            )
            time.sleep(5)
            began, end = timed(
                lambda: engine.cli("service", "scale", "-d", f"{SERVICE}={SCALED}"),
                partial(engine.all_run, SERVICE, SCALED),
                "fifty run",
            )
            found.scaled.append(end - began)
            harness.say(
                f"docker: {found.replaced[-1]:.1f} s, {found.completed[-1]:.1f} s, {found.scaled[-1]:.1f} s"
            )
            engine.cli("service", "rm", SERVICE)
            harness.wait_until(lambda: engine.containers() == 0, TIMEOUT_S, "containers gone", 0.2)
    return found


def main(rounds: int, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
    theirs = Found() if missing else peer(rounds)
    mine = ours(rounds)
    report = harness.Report("rollouts on one node", "Docker Swarm")
    for name, own, others in (
        (f"{REPLICAS} replicas replaced", mine.replaced, theirs.replaced),
        (f"{REPLICAS} replicas, update completed", mine.completed, theirs.completed),
        (f"1 -> {SCALED} replicas run", mine.scaled, theirs.scaled),
    ):
        report.rows.append(harness.Row(name, "s", own, others, "ratio ≤ 0.5", peer_missing=missing))
    return report


if __name__ == "__main__":
    given = harness.parser(__doc__, rounds=3).parse_args()
    harness.run(lambda: main(given.rounds, not given.no_peer), given.format)
