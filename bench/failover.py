"""The leader's process is killed with SIGKILL: time until the next write is acknowledged; swarmpy and etcd.

Three managers and three etcd members, both with their default timings. The clients (bench/writer.py) are
the same: a write every 10 ms to any of the three. Shown are the time from the kill to the first
acknowledgement of a write begun after it, and the longest time without any acknowledgement. Ours speaks
mutual TLS between namespaces, etcd plain TCP on loopback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import etcd, harness, writer
from swarmpy.cli.client import Client
from swarmpy.node import demo
from swarmpy.proto import control_pb2

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
        return max(b - a for a, b in zip(times, times[1:], strict=False))


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


def one_round(writes: Writes, kill: Callable[[], None]) -> tuple[float, float]:
    """(kill → acknowledgement, longest gap), in seconds."""
    from_here = time.monotonic()
    harness.wait_until(
        lambda: sum(began > from_here for began, _ in writes.done) > 50, TIMEOUT_S, "writes flow"
    )
    time.sleep(SETTLE_S)
    killed = time.monotonic()
    kill()
    harness.wait_until(lambda: writes.first_after(killed) is not None, TIMEOUT_S, "a write after the kill")
    time.sleep(AFTER_S)
    first = writes.first_after(killed)
    assert first is not None
    return first - killed, writes.gap(killed)


Found = tuple[list[float], list[float]]


def ours(rounds: int) -> Found:
    found: Found = ([], [])
    with harness.cluster(3, 3) as cluster:
        for number in range(writer.WRITERS):
            harness.cli(
                "service", "create", "-d", "--replicas", "0", "--name", f"bench-{number}", harness.IMAGE
            )
        sockets = [f"unix:{node.paths.control_socket}" for node in cluster.nodes]
        clients = {node.name: harness.client(node) for node in cluster.nodes}
        with writing("swarmpy", sockets, lambda argv: argv, harness.STATE_ROOT / "writer.log") as writes:
            for number in range(rounds):
                leader = _settled_leader(cluster, clients)
                _note(found, "swarmpy", number, one_round(writes, lambda: _kill(leader)))  # noqa: B023
        for client in clients.values():
            client.close()
    return found


def _settled_leader(cluster: demo.Demo, clients: dict[str, Client]) -> demo.DemoNode:
    """The leading node, once all managers are reachable and have caught up."""
    leaders: list[str] = []

    def settled() -> bool:
        status = clients[cluster.nodes[0].name].call("Status", control_pb2.StatusRequest())
        leaders[:] = [member.hostname for member in status.members if member.leader]
        behind = [member for member in status.members if not member.reachable]
        return len(status.members) == len(cluster.nodes) and len(leaders) == 1 and not behind

    harness.wait_until(settled, TIMEOUT_S, "all managers together again", 0.2)
    return cluster.node(leaders[0])


def _kill(node: demo.DemoNode) -> None:
    for pid in demo.role_pids(node, "manager"):
        os.kill(pid, signal.SIGKILL)


def peer(rounds: int) -> Found:
    found: Found = ([], [])
    with etcd.members() as members:
        addresses = [f"127.0.0.1:{etcd.CLIENT_PORT + number}" for number in range(etcd.MEMBERS)]
        log = members.box.directory / "writer.log"
        with writing("etcd", addresses, members.box.inside_network, log) as writes:
            for number in range(rounds):
                harness.wait_until(lambda: members.leader() is not None, TIMEOUT_S, "etcd whole", 0.2)
                leader = members.leader()
                assert leader is not None
                _note(found, "etcd", number, one_round(writes, lambda: members.kill(leader)))  # noqa: B023
                members.start(leader, new=False)
    return found


def _note(found: Found, who: str, number: int, values: tuple[float, float]) -> None:
    for series, value in zip(found, values, strict=True):
        series.append(value)
    harness.say(f"{who}: round {number + 1}: {values[0]:.2f} s, longest gap {values[1]:.2f} s")


def main(rounds: int, with_peer: bool) -> harness.Report:
    missing = harness.missing_tool(*etcd.TOOLS) if with_peer else "--no-peer"
    theirs: Found = ([], []) if missing else peer(rounds)
    mine = ours(rounds)
    report = harness.Report("leader killed, 3 managers, a write every 10 ms", "etcd")
    rows = ("kill → next acknowledged write", "longest time without one")
    targets = ("≤ 1.5 s", "")
    for what, target, our, their in zip(rows, targets, mine, theirs, strict=True):
        report.rows.append(harness.Row(what, "s", our, their, target, peer_missing=missing))
    return report


if __name__ == "__main__":
    given = harness.parser(__doc__, rounds=10).parse_args()
    harness.run(lambda: main(given.rounds, not given.no_peer), given.format)
