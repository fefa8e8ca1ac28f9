"""Three members as processes; the leader is killed -9 again and again while it writes."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.raft_cluster import Authority, free_port

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("n1", "n2", "n3")


class Group:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority = Authority(directory)
        self.ports = {}
        for name in NAMES:
            authority.issue(name)
            self.ports[name] = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, bootstrap: bool = False) -> None:
        extra = (
            ["--bootstrap", *(f"{n}={p}" for n, p in self.ports.items() if n != name)] if bootstrap else []
        )
        script = str(ROOT / "tests" / "integration" / "raft_member.py")
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.src'}"}
        self.processes[name] = subprocess.Popen(
            [sys.executable, script, str(self.directory), name, str(self.ports[name]), *extra],
            env=environment, cwd=ROOT,
        )  # fmt: skip

    def acks(self, name: str) -> list[tuple[str, float]]:
        path = self.directory / f"acks.{name}"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], float(line.split()[1])) for line in lines if len(line.split()) == 2]

    def kill(self, name: str) -> float:
        self.processes[name].kill()
        self.processes[name].wait()
        return time.time()

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.end()


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def writers_since(group: Group, since: float) -> set[str]:
    return {name for name in NAMES for _, when in group.acks(name)[-200:] if when > since}


def at_rest(group: Group) -> list[list[str]]:
    """The state of each when nobody writes any more and everything has reached all of them."""
    for process in group.processes.values():
        process.send_signal(signal.SIGUSR1)
    paths = [group.directory / f"state.{name}" for name in NAMES]
    until(lambda: all(path.exists() for path in paths))

    def settled() -> bool:
        before = [path.read_bytes() for path in paths]
        time.sleep(0.3)
        return len(set(before)) == 1 and before == [path.read_bytes() for path in paths]

    until(settled)
    for process in group.processes.values():
        process.send_signal(signal.SIGTERM)
    for process in group.processes.values():
        assert process.wait(20) == 0
    return [path.read_text().splitlines() for path in paths]


def test_leader_killed_under_writes_loses_nothing_acknowledged(group: Group) -> None:
    group.start("n2")
    group.start("n3")
    group.start("n1", bootstrap=True)
    until((group.directory / "whole").exists)
    until(lambda: len(group.acks("n1")) > 200)
    gaps = []
    for _ in range(5):
        now = time.time()
        until(lambda now=now: bool(writers_since(group, now)))
        leader = max((when, name) for name in NAMES for _, when in group.acks(name)[-1:])[1]
        killed = group.kill(leader)
        until(lambda killed=killed, leader=leader: bool(writers_since(group, killed) - {leader}))
        gaps.append(min(when for name in NAMES for _, when in group.acks(name) if when > killed) - killed)
        group.start(leader)
        time.sleep(1)
    states = at_rest(group)
    acknowledged = [command for name in NAMES for command, _ in group.acks(name)]
    assert len(acknowledged) > 500
    assert states[0] == states[1] == states[2]
    assert len(set(states[0])) == len(states[0]), "a command was applied twice"
    missing = set(acknowledged) - set(states[0])
    assert not missing, f"{len(missing)} acknowledged commands are gone"
    print(f"acknowledged again after kill -9: median {statistics.median(gaps):.3f} s, most {max(gaps):.3f} s")


def test_all_killed_at_once_and_restarted(group: Group) -> None:
    group.start("n2")
    group.start("n3")
    group.start("n1", bootstrap=True)
    until((group.directory / "whole").exists)
    until(lambda: len(group.acks("n1")) > 300)
    for name in NAMES:
        group.processes[name].kill()
    for name in NAMES:
        group.processes[name].wait()
    restarted = time.time()
    for name in NAMES:
        group.start(name)
    until(lambda: bool(writers_since(group, restarted)))
    states = at_rest(group)
    assert states[0] == states[1] == states[2]
    assert {command for name in NAMES for command, _ in group.acks(name)} <= set(states[0])
