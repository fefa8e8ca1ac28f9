"""A real daemon tries real builds whose roles are played: whole ones stay, broken ones give way, whatever is killed.

What is installed and every build is a tree of this code of its own; only `daemon_roles` is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swarmpy.node import builds as records

from tests import builds

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a daemon runs as root"),
]
WELL, CRASHING, HANGING, LATE = "a" * 64, "b" * 64, "c" * 64, "d" * 64
# Says that the node is healthy once it was asked to prove itself, as the agent does.
ROLE = """
import os, sys, time
from pathlib import Path
from swarmpy.node import builds

parent = int(os.environ["SWARMPY_SUPERVISOR"])  # it may be dead by now
state, own = Path(sys.argv[3]), os.environ.get(builds.BUILD_VARIABLE, "")
(state / f"role-{{sys.argv[1]}}").write_text(own or "installed")
while os.getppid() == parent:
    record = builds.load(state)
    if sys.argv[1] == "agent" and record.trial == own and {healthy}:
        builds.ready_file(state).write_text(builds.ready_text(own, record))
    time.sleep(0.05)
"""
HEALTHY = ROLE.format(healthy="True")


class Node:
    """A state directory and the daemon that runs with it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        (self.state / "node.json").write_text(json.dumps({"role": "worker"}))
        self._installed = builds.program(directory, "0.1.0", node__daemon_roles=HEALTHY)
        self._add(directory, WELL, "0.2.0", HEALTHY)
        self._add(directory, CRASHING, "0.2.1", "import sys\nsys.exit(3)\n")
        self._add(directory, HANGING, "0.2.2", ROLE.format(healthy="False"))
        # Its roles are well, its daemon ends at once: only the second stage shows it.
        self._add(directory, LATE, "0.2.3", HEALTHY, node__daemon="raise SystemExit(5)\n")
        self.daemon: subprocess.Popen[bytes] | None = None

    def _add(self, directory: Path, build: str, version: str, roles: str, **replaced: str) -> None:
        program = builds.program(directory, version, node__daemon_roles=roles, **replaced)
        launcher = records.launcher(self.state, build)
        launcher.parent.mkdir(parents=True)
        launcher.write_text(f'#!/bin/sh\nexport SWARMPY_BUILD={build}\nexec {program} "$@"\n')
        launcher.chmod(0o755)

    def start(self) -> None:
        with (self.state / "log").open("ab") as log:
            command = [self._installed, "daemon", "--state-dir", self.state]
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wish(self, build: str, attempt: int = 1, patience_s: float = 30.0) -> None:
        """What the agent does once it has fetched the build."""
        record = self.record
        if not record.attempt:
            record.installed, record.interpreter = "0.1.0", str(self._installed)
        record.began(build, attempt, patience_s)
        records.save(self.state, record)
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGHUP)

    @property
    def record(self) -> records.Record:
        return records.load(self.state)

    def runs(self) -> str:
        """The build of the agent that started last."""
        with contextlib.suppress(OSError):
            return (self.state / "role-agent").read_text()
        return ""

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(10)

    def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, (self.state / "log").read_text()[-2000:] + str(
                vars(self.record)
            )
            time.sleep(0.02)

    def settle(self, build: str) -> None:
        """Until nothing is on trial and this build runs as a whole."""
        self.until(lambda: self.record.trial is None and self.runs() == (build or "installed"))
        assert self.record.current == build


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    made.start()
    made.until(lambda: made.runs() == "installed")
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.daemon.terminate()
        made.daemon.wait(15)


def test_a_build_that_is_healthy_stays_and_the_way_back_is_the_same(node: Node) -> None:
    assert node.daemon is not None
    pid = node.daemon.pid
    node.wish(WELL)
    node.settle(WELL)
    node.until(lambda: records.current_link(node.state).resolve().name == WELL)
    assert str(pid) == (node.state / "run" / "daemon.pid").read_text().strip()  # systemd sees no change
    node.wish("", attempt=2)
    node.settle("")
    assert node.record.previous == WELL
    assert node.daemon.poll() is None


def test_builds_that_are_broken_in_every_way_give_way_by_themselves(node: Node) -> None:
    node.wish(WELL)
    node.settle(WELL)
    for attempt, (build, patience_s, reason) in enumerate(
        [(CRASHING, 30.0, "processes ended"), (HANGING, 1.0, "not healthy within 1 s")], 2
    ):
        node.wish(build, attempt, patience_s)
        node.settle(WELL)
        assert reason in node.record.failed
        assert node.record.attempt == attempt
    assert node.daemon is not None
    assert node.daemon.poll() is None


def test_a_daemon_that_does_not_come_up_is_replaced_at_the_next_starts(node: Node) -> None:
    """The roles were healthy, the new daemon ends: whoever starts it again, three times at most, gets the old one."""
    node.wish(LATE)
    assert node.daemon is not None
    assert node.daemon.wait(20) == 5
    for _ in range(records.START_TRIES - 1):
        node.start()
        assert node.daemon.wait(20) == 5
    node.start()
    node.settle("")
    assert "never healthy" in node.record.failed


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_killed_at_any_moment_the_node_ends_with_one_build_that_works(node: Node, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    for attempt, build in enumerate([WELL, CRASHING], 1):
        node.wish(build, attempt)
        for _ in range(2):
            time.sleep(chance.uniform(0, 1.2))
            node.kill()
            node.start()
        node.until(lambda: node.record.trial is None)
        ended = node.record
        assert ended.current in {"", WELL}
        assert ended.current == WELL or ended.failed
        node.settle(ended.current)
