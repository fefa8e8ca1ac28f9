"""The leader is lost or hands the lead over: time until the next write is acknowledged; swarmpy and etcd.

Three ways: its process is killed with SIGKILL; its cable is cut, as in a power cut: the kernel of a dead
process resets its connections, nobody does so for a machine that went; it hands the lead over, asked to by
an operator (TransferLead, `etcdctl move-leader`), while the writes go on. Three managers and three etcd
members, each in its own network namespace on one bridge, both with their default timings. The clients
(bench/writer.py) are the same: a write every 10 ms to any of the three. Shown are the time from the loss to
the first acknowledgement of a write begun after it, and the longest time without any acknowledgement, for
a hand-over the latter alone (two writes are 10 ms apart anyway). `--kills 100 --cuts 20` does one way more
often than another. Ours speaks mutual TLS, etcd plain TCP.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from swarmpy.cli.client import Client
from swarmpy.node import demo
from swarmpy.proto import control_pb2

from bench import etcd, harness, writer

SETTLE_S = 2.0
AFTER_S = 1.0
TIMEOUT_S = 30.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Writes:
    """What the writers did: (begun, acknowledged) of every acknowledged write."""

    process: subprocess.Popen[str]
    done: list[tuple[float, float]] = field(default_factory=list)

    def follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            began, acknowledged = line.split()
            self.done.append((float(began), float(acknowledged)))

    def first_after(self, moment: float) -> float | None:
        found = [acknowledged for began, acknowledged in self.done if began >= moment]
        return min(found) if found else None

    def gap(self, moment: float) -> float:
        """The longest time between two acknowledgements around `moment`."""
        times = sorted(acknowledged for _, acknowledged in self.done if acknowledged > moment - SETTLE_S / 2)
        return max(b - a for a, b in itertools.pairwise(times))


@contextlib.contextmanager
def writing(
    kind: str, addresses: Sequence[str], wrap: Callable[[list[str]], list[str]], log: Path
) -> Iterator[Writes]:
    argv = wrap([sys.executable, "-m", "bench.writer", kind, *addresses])
    with log.open("w") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        )
        writes = Writes(process)
        reader = threading.Thread(target=writes.follow, daemon=True)
        reader.start()
        try:
            yield writes
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join(5)
            assert process.stdout is not None
            process.stdout.close()


Leader = TypeVar("Leader")
Rounds = dict[str, int]
WAYS = {"kill": "process killed", "cut": "cable cut", "hand over": "planned hand-over"}


def one_round(
    writes: Writes, leader: Callable[[], Leader], lose: Callable[[Leader], None]
) -> tuple[tuple[float, float], Leader]:
    """((loss → acknowledgement, longest gap) in seconds, the leader that was lost).

    The leader is asked for last: a member that came back may have taken the lead in between.
    """
    leader()
    from_here = time.monotonic()
    harness.wait_until(
        lambda: sum(began > from_here for began, _ in writes.done) > 50, TIMEOUT_S, "writes flow"
    )
    time.sleep(SETTLE_S)
    leading = leader()
    asked = time.monotonic()
    lose(leading)
    lost = time.monotonic()
    harness.wait_until(lambda: writes.first_after(lost) is not None, TIMEOUT_S, "a write after the loss")
    time.sleep(AFTER_S)
    first = writes.first_after(lost)
    assert first is not None
    return (first - lost, writes.gap(asked)), leading


@dataclass
class Found:
    """Seconds of every round: by way of losing the leader, (to acknowledgement, longest gap)."""

    values: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def note(self, who: str, way: str, value: tuple[float, float]) -> None:
        self.values[way].append(value)
        harness.say(f"{who}: {way}: {value[0]:.2f} s, longest gap {value[1]:.2f} s")


def ours(rounds: Rounds) -> Found:
    found = Found()
    with harness.cluster(3, 3) as cluster, contextlib.ExitStack() as stack:
        for number in range(writer.WRITERS):
            harness.cli(
                "service", "create", "-d", "--replicas", "0", "--name", f"bench-{number}", harness.IMAGE
            )
        sockets = [f"unix:{node.paths.control_socket}" for node in cluster.nodes]
        client = harness.client(cluster.nodes[0])
        stack.callback(client.close)
        writes = stack.enter_context(
            writing("swarmpy", sockets, lambda argv: argv, harness.STATE_ROOT / "writer.log")
        )
        leader = partial(_settled_leader, cluster, client)
        for _ in range(rounds["hand over"]):
            value, lost = one_round(writes, leader, lambda node: _hand_over(cluster, client, node))
            found.note("swarmpy", "hand over", value)
        for _ in range(rounds["kill"]):
            value, lost = one_round(writes, leader, _kill)
            found.note("swarmpy", "kill", value)
            if leader() == lost:
                raise harness.BenchError(f"{lost.name} leads although it was killed")
        for _ in range(rounds["cut"]):
            value, lost = one_round(
                writes, leader, lambda node: harness.demo_net.set_link(node.name, up=False)
            )
            found.note("swarmpy", "cut", value)
            harness.demo_net.set_link(lost.name, up=True)
    return found


def _settled_leader(cluster: demo.Demo, client: Client) -> demo.DemoNode:
    """The leading node, once all managers are reachable."""
    leaders: list[str] = []

    def settled() -> bool:
        status = client.call("Status", control_pb2.StatusRequest())
        leaders[:] = [member.hostname for member in status.members if member.leader]
        reachable = sum(member.reachable for member in status.members)
        return reachable == len(cluster.nodes) and len(leaders) == 1

    harness.wait_until(settled, TIMEOUT_S, "all managers together again", 0.2)
    return cluster.node(leaders[0])


def _kill(node: demo.DemoNode) -> None:
    pids = demo.role_pids(node, "manager")
    if not pids:
        raise harness.BenchError(f"{node.name} has no manager process")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _hand_over(cluster: demo.Demo, client: Client, node: demo.DemoNode) -> None:
    """To whomever the leader thinks best; asked over another manager's socket, like any operator."""
    client.call("TransferLead", control_pb2.TransferRequest())
    if _settled_leader(cluster, client) == node:
        raise harness.BenchError(f"{node.name} leads although it handed the lead over")


def peer(rounds: Rounds) -> Found:
    found = Found()
    with etcd.members() as members:
        switch = members.switch
        log = switch.box.directory / "writer.log"
        with writing("etcd", members.endpoints(), switch.box.inside_network, log) as writes:
            leader = partial(_etcd_leader, members)
            for _ in range(rounds["hand over"]):
                value, lost = one_round(writes, leader, members.hand_over)
                found.note("etcd", "hand over", value)
            for _ in range(rounds["kill"]):
                value, lost = one_round(writes, leader, members.kill)
                found.note("etcd", "kill", value)
                members.start(lost, new=False)
            for _ in range(rounds["cut"]):
                value, lost = one_round(writes, leader, lambda number: switch.set_link(number, up=False))
                found.note("etcd", "cut", value)
                switch.set_link(lost, up=True)
    return found


def _etcd_leader(members: etcd.Etcd) -> int:
    harness.wait_until(lambda: members.leader() is not None, TIMEOUT_S, "etcd whole", 0.2)
    leader = members.leader()
    assert leader is not None
    return leader


TARGETS = {
    ("kill", 0): "median ≤ 0.3 s, most ≤ 2 s", ("cut", 0): "median ≤ 1.5 s", ("hand over", 1): "≤ 0.05 s"
}  # fmt: skip


def main(rounds: Rounds, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*etcd.TOOLS) if with_peer else "--no-peer"
    theirs = Found() if missing else peer(rounds)
    mine = ours(rounds)
    report = harness.Report("leader lost, 3 managers, a write every 10 ms", "etcd")
    for way, what in WAYS.items():
        measures = [f"{what} → next acknowledged write", f"{what}: longest time without one"]
        for index, measure in enumerate(measures):
            if not rounds[way] or (way, index) == ("hand over", 0):
                continue
            our, their = ([pair[index] for pair in side.values[way]] for side in (mine, theirs))
            target = TARGETS.get((way, index), "")
            report.rows.append(harness.Row(measure, "s", our, their, target, peer_missing=missing))
    return report


if __name__ == "__main__":
    parser = harness.parser(__doc__, rounds=10)
    for option, way in (("--kills", "kill"), ("--cuts", "cut"), ("--hand-overs", "hand over")):
        parser.add_argument(option, type=int, dest=way, help=f"rounds of {WAYS[way]} (default: --rounds)")
    given = parser.parse_args()
    chosen = {way: given.rounds if getattr(given, way) is None else getattr(given, way) for way in WAYS}
    harness.run(lambda: main(chosen, not given.no_peer), given.format)
