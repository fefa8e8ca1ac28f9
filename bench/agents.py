"""The whole control plane without containers: so many agents with real sessions, tasks from created to RUNNING.

Three managers in namespaces of their own; the agents (bench/agent_member.py) live in the first one's network: real
joins, TLS 1.3, assignment deltas, digests, heartbeats and reports, only the containers are played. Measured:
tasks a second from the first create to the last RUNNING as the leader counts them, the leader's memory, its CPU
while nothing happens, and the time until every agent has a session with the new leader after a SIGKILL.

Agents and managers share this machine's CPUs, and the managers come first: the figures are what they reach beside the
load of a thousand machines.
Every node hears of every node and of every service's backends, so the bytes sent grow with nodes × tasks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from swarmpy.cli.client import Client
from swarmpy.cli.errors import CliError, Conflict, NoManager, OutcomeUnknown
from swarmpy.node import demo
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

from bench import harness

CONNECT_TIMEOUT_S = 240.0
FAILOVER_TIMEOUT_S = 60.0
PER_PROCESS = 250
USERS = 8
NICE = ["nice", "-n", "5"]  # other machines' work: it must not take the managers' turns
SETTLE_S, IDLE_S = 5.0, 20.0
CREATE_ATTEMPTS = 5
DIGEST = "sha256:" + "0" * 64


class Wanted(NamedTuple):
    """What is to run."""

    services: int
    replicas: int  # of each
    limit_s: float

    @property
    def tasks(self) -> int:
        return self.services * self.replicas


@contextlib.contextmanager
def played(cluster: demo.Demo, client: Client, count: int) -> Iterator[list[int]]:
    """So many agents, connected; the pids of their processes."""
    node = cluster.nodes[0]
    token = client.token(control_pb2.TokenRequest(role=types_pb2.ROLE_WORKER))
    managers = [
        f"{found.meta.id}@{found.manager.control_address}"
        for found in client.find("node")
        if found.manager.control_address
    ]
    processes: list[subprocess.Popen[str]] = []
    began = time.monotonic()
    try:
        for number in range(-(-count // PER_PROCESS)):
            size = min(PER_PROCESS, count - number * PER_PROCESS)
            argv = [
                *NICE, sys.executable, "-m", "bench.agent_member", str(size),
                str(harness.STATE_ROOT / "agents" / str(number)), token.token, token.join_addresses[0], *managers,
            ]  # fmt: skip
            processes.append(
                subprocess.Popen(
                    demo.inside(node, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    cwd=Path(__file__).parent.parent, env={**os.environ, "GRPC_POLL_STRATEGY": "epoll1"},
                )
            )  # fmt: skip
        for process in processes:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("joined"):
                raise harness.BenchError("the agents did not join")
        harness.say(f"joined after {time.monotonic() - began:.0f} s")
        harness.wait_until(
            lambda: connected(client) >= count + len(cluster.nodes),
            CONNECT_TIMEOUT_S,
            "all agents have a session",
            0.2,
        )
        harness.say(f"connected after {time.monotonic() - began:.0f} s")
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def connected(client: Client) -> int:
    return client.status().nodes_connected


def create(client: Client, service: str, replicas: int) -> None:
    """With a digest of its own: no image is looked for."""
    made = objects_pb2.Service()
    made.meta.name = service
    made.spec.replicated.replicas = replicas
    made.spec.task.container.image, made.spec.task.container.image_digest = "played:1", DIGEST
    for attempt in range(1, CREATE_ATTEMPTS + 1):
        try:
            client.create(made)
        except (NoManager, OutcomeUnknown):  # the lead moved
            if attempt == CREATE_ATTEMPTS:
                raise
        except Conflict:  # it was made by the attempt before
            if attempt == 1:
                raise
            return
        else:
            return


def create_all(cluster: demo.Demo, services: int, replicas: int) -> None:
    """As several users do it at once, each one service after the other."""

    def one_user(first: int) -> None:
        client = harness.client(cluster.nodes[first % len(cluster.nodes)])
        try:
            for number in range(first, services, USERS):
                create(client, f"played{number}", replicas)
        finally:
            client.close()

    with ThreadPoolExecutor(USERS) as users:
        for done in [users.submit(one_user, first) for first in range(USERS)]:
            done.result()


def ready_tasks(client: Client) -> int:
    return client.status().tasks_running


def leader_of(cluster: demo.Demo, client: Client) -> demo.DemoNode:
    """The node that leads, as every manager is asked."""
    status = client.status()
    names = {node.meta.id: node.meta.name for node in client.find("node")}
    return next(node for node in cluster.nodes if node.name == names[status.leader_id])


def manager_pid(node: demo.DemoNode) -> int:
    return demo.role_pids(node, "manager")[0]


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Spent:
    """Processor time of the managers and of the played agents from here on."""

    def __init__(self, cluster: demo.Demo, leading: demo.DemoNode, played_pids: list[int]) -> None:
        self.leading = leading.name
        self._pids = {node.name: manager_pid(node) for node in cluster.nodes}
        self._played_pids = played_pids
        self._before = self._now()

    def _now(self) -> tuple[dict[str, float], float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items()}, sum(map(cpu_s, self._played_pids))

    def since(self) -> tuple[float, float, float]:
        """Seconds of the leader, of the other managers together, of the played agents."""
        (managers, agents), (managers_before, agents_before) = self._now(), self._before
        each = {name: seconds - managers_before[name] for name, seconds in managers.items()}
        return each.pop(self.leading), sum(each.values()), agents - agents_before


def start_all(
    report: harness.Report, cluster: demo.Demo, client: Client, wanted: Wanted, played_pids: list[int]
) -> None:
    """All services; until all their tasks run, or the time is over: then what runs by then counts."""
    leading = leader_of(cluster, client)
    spent, began = Spent(cluster, leading, played_pids), time.monotonic()
    create_all(cluster, wanted.services, wanted.replicas)
    created_s = time.monotonic() - began
    try:
        end = harness.wait_until(
            lambda: ready_tasks(client) >= wanted.tasks, wanted.limit_s, "tasks run", 0.5
        )
        running = wanted.tasks
    except harness.BenchError:
        end, running = time.monotonic(), ready_tasks(client)
        report.remarks.append(f"not all tasks ran in time: {running} of {wanted.tasks}")
    leader_s, others_s, agents_s = spent.since()
    report.rows.append(harness.Row("created to RUNNING", "tasks/s", [running / (end - began)], [], "≥ 2000"))
    if running:
        report.rows.append(harness.Row("leader's CPU a task", "ms", [leader_s * 1000 / running], []))
    report.remarks.append(
        f"{end - began:.1f} s for {running} tasks, {created_s:.1f} s of them for the creates; CPU: {leader_s:.1f} s "
        f"leader, {others_s:.1f} s the other managers, {agents_s:.1f} s the played agents; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    )
    if leader_of(cluster, client).name != leading.name:
        report.remarks.append("the lead moved meanwhile: the leader's CPU is that of its first one alone")


def idle(report: harness.Report, cluster: demo.Demo, client: Client) -> None:
    """What the leader uses while nothing happens."""
    pid = manager_pid(leader_of(cluster, client))
    time.sleep(SETTLE_S)
    spent, since = cpu_s(pid), time.monotonic()
    time.sleep(IDLE_S)
    share = (cpu_s(pid) - spent) / (time.monotonic() - since) * 100
    report.rows.append(harness.Row("leader, nothing to do", "% of a CPU", [share], [], "≤ 15"))
    report.rows.append(harness.Row("leader's RSS", "MB", [rss_mb(pid)], [], "≤ 400"))


def main(agents: int, wanted: Wanted) -> harness.Report:
    report = harness.Report(
        f"{agents} agents with played containers, {wanted.tasks} tasks of {wanted.services} services", ""
    )
    with harness.cluster(3, 3, image=False) as cluster:
        client = harness.client(cluster.nodes[0])
        for node in cluster.nodes:
            harness.cli("node", "pause", node.name)
        with played(cluster, client, agents) as pids:
            start_all(report, cluster, client, wanted, pids)
            idle(report, cluster, client)
            try:
                back = [fail_over(cluster, client, agents)]
            except (harness.BenchError, CliError) as error:
                back = []
                report.remarks.append(f"the failover was not seen to its end: {error}")
            report.rows.append(harness.Row("all sessions after a failover", "s", back, [], "≤ 5"))
        client.close()
    return report


def fail_over(cluster: demo.Demo, client: Client, agents: int) -> float:
    """Kill the manager that leads now; until every agent has a session with the next one."""
    leading = leader_of(cluster, client)
    asked = harness.client(next(node for node in cluster.nodes if node != leading))
    pid = manager_pid(leading)
    lost = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        with contextlib.suppress(NoManager):
            status = asked.call("Status", control_pb2.StatusRequest())
            return bool(status.leader_id) and status.nodes_connected >= agents + len(cluster.nodes)
        return False

    end = harness.wait_until(back, FAILOVER_TIMEOUT_S, "all agents are back", 0.1)
    asked.close()
    return end - lost


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=1)
    arguments.add_argument("--agents", type=int, default=1000)
    arguments.add_argument("--tasks", type=int, default=30_000)
    arguments.add_argument("--services", type=int, default=300)
    arguments.add_argument("--limit", type=float, default=180.0, help="seconds for all tasks to run (180)")
    given = arguments.parse_args()
    asked = Wanted(given.services, given.tasks // given.services, given.limit)
    harness.run(lambda: main(given.agents, asked), given.format)
