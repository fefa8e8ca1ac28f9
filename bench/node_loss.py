"""A worker's cable is cut: time until all its replicas run again elsewhere; swarmpy and Docker Swarm.

One manager and two workers on a bridge, each in its own network namespace, default timings on both sides.
The service's replicas stand on the workers only, half on each. Shown are the time until the managers call
the worker down, and until as many tasks as wanted run on the worker that is left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial

from swarmpy.cli.client import Client
from swarmpy.node import demo
from swarmpy.proto import control_pb2, store_pb2, types_pb2

from bench import docker, harness

NODES = 3
TIMEOUT_S = 120.0
ROW_NAMES = ("called down", "all replicas run again")
SERVICE = "lost"


@dataclass
class Found:
    """Seconds of every round."""

    down: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)

    def note(self, who: str, down: float, again: float) -> None:
        self.down.append(down)
        self.again.append(again)
        harness.say(f"{who}: down after {down:.2f} s, all run again after {again:.2f} s")


class Ours:
    """What the managers of ours say."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def node_id(self, name: str) -> str:
        request = control_pb2.GetRequest(kind=store_pb2.KIND_NODE, ref=name)
        return str(self._client.call("Get", request).object.node.meta.id)

    def running(self) -> dict[str, int]:
        """Running tasks that are wanted, by node id."""
        request = control_pb2.ListRequest(
            kind=store_pb2.KIND_TASK, filters=[control_pb2.Filter(key="service", value=SERVICE)]
        )
        counts: dict[str, int] = {}
        for wrapped in self._client.call("List", request).objects:
            task = wrapped.task
            if task.status.state == types_pb2.TASK_RUNNING and task.desired_state == types_pb2.TASK_RUNNING:
                counts[task.node_id] = counts.get(task.node_id, 0) + 1
        return counts

    def all_on(self, node_id: str, replicas: int) -> bool:
        return self.running() == {node_id: replicas}

    def spread(self, replicas: int, nodes: int) -> bool:
        counts = self.running()
        return sum(counts.values()) == replicas and len(counts) == nodes

    def is_state(self, node_id: str, state: int) -> bool:
        request = control_pb2.GetRequest(kind=store_pb2.KIND_NODE, ref=node_id)
        return bool(self._client.call("Get", request).object.node.status.state == state)


def ours(rounds: int, replicas: int) -> Found:
    found = Found()
    with harness.cluster(NODES, 1) as cluster:
        client = harness.client(cluster.nodes[0])
        view = Ours(client)
        lost, kept = cluster.nodes[1:]
        lost_id, kept_id = view.node_id(lost.name), view.node_id(kept.name)
        for _ in range(rounds):
            harness.cli(
                "service", "create", "-d", "--name", SERVICE, "--constraint", "node.role==worker",
                "--stop-grace-period", "1s", "--replicas", str(replicas), harness.IMAGE,
            )  # fmt: skip
            harness.wait_until(partial(view.spread, replicas, 2), TIMEOUT_S, "replicas on both workers")
            time.sleep(2)
            began = time.monotonic()
            harness.demo_net.set_link(lost.name, up=False)
            down = harness.wait_until(
                partial(view.is_state, lost_id, types_pb2.NODE_DOWN), TIMEOUT_S, "the worker is called down"
            )
            again = harness.wait_until(partial(view.all_on, kept_id, replicas), TIMEOUT_S, "all run again")
            found.note("swarmpy", down - began, again - began)
            harness.demo_net.set_link(lost.name, up=True)
            harness.wait_until(
                partial(view.is_state, lost_id, types_pb2.NODE_READY), TIMEOUT_S, "the worker is back"
            )
            harness.cli("service", "rm", SERVICE)
            harness.wait_until(lambda: not any(map(_containers, cluster.nodes)), TIMEOUT_S, "containers gone")
        client.close()
    return found


def _containers(node: demo.DemoNode) -> bool:
    return any((node.paths.run / "containers").iterdir())


def peer(rounds: int, replicas: int) -> Found:
    found = Found()
    with docker.swarm(NODES) as swarm:
        first, _lost, _kept = swarm.engines
        by_address = {node["Status"]["Addr"]: node["ID"] for node in first.get("/nodes")}
        lost_id, kept_id = (by_address[engine.address] for engine in swarm.engines[1:])
        for _ in range(rounds):
            first.cli(
                "service", "create", "-d", "-q", "--no-resolve-image", "--name", SERVICE, "--constraint",
                "node.role==worker", "--stop-grace-period", "1s", "--replicas", str(replicas), harness.IMAGE,
            )  # fmt: skip
            harness.wait_until(
                partial(_spread, first, {lost_id, kept_id}, replicas), TIMEOUT_S, "replicas on both workers"
            )
            time.sleep(2)
            began = time.monotonic()
            swarm.switch.set_link(2, up=False)
            down = harness.wait_until(
                partial(_is_state, first, lost_id, "down"), TIMEOUT_S, "the worker is down"
            )
            again = harness.wait_until(
                partial(_spread, first, {kept_id}, replicas), TIMEOUT_S, "all run again"
            )
            found.note("docker", down - began, again - began)
            swarm.switch.set_link(2, up=True)
            harness.wait_until(
                partial(_is_state, first, lost_id, "ready"), TIMEOUT_S, "the worker is back", 0.2
            )
            first.cli("service", "rm", SERVICE)
            harness.wait_until(
                lambda: sum(engine.containers() for engine in swarm.engines) == 0,
                TIMEOUT_S,
                "containers gone",
                0.5,
            )
    return found


def _spread(first: docker.Engine, nodes: set[str], replicas: int) -> bool:
    """Whether as many tasks as wanted run, and on just these nodes."""
    tasks = first.tasks(SERVICE)
    return len(tasks) == replicas and {task["NodeID"] for task in tasks} == nodes


def _is_state(first: docker.Engine, node_id: str, state: str) -> bool:
    return bool(first.get(f"/nodes/{node_id}")["Status"]["State"] == state)


def main(rounds: int, replicas: int, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
    theirs = Found()
    if not missing:
        try:
            theirs = peer(rounds, replicas)
        except harness.BenchError as error:
            missing = str(error)
            harness.say(f"docker: {missing}")
    mine = ours(rounds, replicas)
    report = harness.Report(f"worker's cable cut, {replicas} replicas on 2 workers", "Docker Swarm")
    report.rows.append(harness.Row("called down", "s", mine.down, theirs.down, peer_missing=missing))
    report.rows.append(
        harness.Row("all run again", "s", mine.again, theirs.again, "≤ 8 s", peer_missing=missing)
    )
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=5)
    arguments.add_argument("--replicas", type=int, default=6)
    given = arguments.parse_args()
    harness.run(lambda: main(given.rounds, given.replicas, not given.no_peer), given.format)
