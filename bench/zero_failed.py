"""No request fails while a service is updated, a node drained, an agent and the leading manager killed.

Five nodes, three managers, four replicas behind a published port. The client sends so many requests a second
through one node's port, half on kept connections and half each on a new one (`bench/web_load.py`); meanwhile these
happen in turn, again and again: a rolling update of all tasks, a drain of a worker and its return, SIGKILL for the
agent of the client's node, SIGKILL for the leading manager. The server (`bench/web_server.py`) ends politely on
SIGTERM, as servers behind any load balancer must. There is no peer here: Docker's own figures need its own scenario.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from swarmpy.node import demo

from bench import harness

HERE = Path(__file__).resolve().parent
NODES, MANAGERS, REPLICAS, PORT = 5, 3, 4, 8080
SERVICE = "zero"
STEP_S = 2.0
CALM_TIMEOUT_S = 60.0


def python_mounts() -> list[str]:
    """This machine's Python inside a container: its programs and libraries, read-only."""
    prefix = Path(sys.base_prefix)
    shown = {"/usr": Path("/usr"), "/lib": Path("/lib").resolve(), "/lib64": Path("/lib64").resolve()}
    if not prefix.is_relative_to("/usr"):
        shown[str(prefix)] = prefix
    shown["/bench"] = HERE
    return [
        part
        for target, source in shown.items()
        if source.is_dir()
        for part in ("--mount", f"type=bind,source={source},target={target},readonly")
    ]


def create() -> None:
    python = os.path.realpath(sys.executable)
    harness.cli(
        "service", "create", "-q", "--name", SERVICE, "--replicas", str(REPLICAS), "-p", f"{PORT}:80",
        "--health-tcp", ":80", "--health-interval", "1s", "--stop-grace-period", "5s", *python_mounts(),
        harness.IMAGE, python, "/bench/web_server.py", "80",
    )  # fmt: skip


class Load:
    """The client, in a node's network."""

    def __init__(self, node: demo.DemoNode, seconds: float, rate: float) -> None:
        argv = ["nsenter", f"--net={node.namespace}", "--", sys.executable, str(HERE / "web_load.py")]
        argv += [node.address, str(PORT), str(seconds), str(rate)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def running(self) -> bool:
        return self.process.poll() is None

    def result(self) -> dict[str, dict[str, Any]]:
        output, _ = self.process.communicate(timeout=30)
        found = json.loads(output)
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        if self.running():
            self.process.kill()
        self.process.communicate(timeout=10)


def update(_cluster: demo.Demo) -> None:
    harness.cli("service", "update", "-q", "--force", "--update-monitor", "1s", SERVICE)


def drain(_cluster: demo.Demo) -> None:
    harness.cli("node", "drain", "n4")
    harness.cli("node", "activate", "n4")


def kill_agent(_cluster: demo.Demo) -> None:
    demo.kill("n5", "agent")


def kill_leader(_cluster: demo.Demo) -> None:
    rows = harness.cli("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}").splitlines()
    leader = next(row.split()[0] for row in rows if row.endswith("Leader"))
    demo.kill(leader, "manager")


STEPS = {"update": update, "drain": drain, "agent killed": kill_agent, "leader killed": kill_leader}


def measure(requests: int, rate: float) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    done = dict.fromkeys(STEPS, 0)
    with harness.cluster(NODES, MANAGERS) as cluster:
        create()
        load = Load(cluster.nodes[4], requests / rate, rate)
        try:
            while load.running():
                for name, step in STEPS.items():
                    if not load.running():
                        break
                    time.sleep(STEP_S)
                    step(cluster)
                    done[name] += 1
                    harness.say(f"{name}")
            return load.result(), done
        finally:
            load.close()


def main(requests: int, rate: float) -> harness.Report:
    found, done = measure(requests, rate)
    report = harness.Report(f"{requests} requests at {rate:g}/s through what happens to a cluster", "no peer")
    for name, tally in found.items():
        row = harness.Row(f"{name}: failed of {tally['requests']}", "", [tally["failures"]], [], "0")
        report.rows.append(row)
        report.rows.append(harness.Row(f"{name}: slowest answer", "s", [tally["longest_s"]], []))
        if tally["first_failure"]:
            report.remarks.append(f"{name}: first failure {tally['first_failure']}; {tally['failed_how']}")
    kept = found["keep-alive"]["reopened"]
    report.remarks.append(f"kept connections the server had closed, request sent again on a new one: {kept}")
    report.remarks.append("happened: " + ", ".join(f"{name} {count}" for name, count in done.items()))
    return report


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    arguments = harness.parser(__doc__, rounds=1)
    arguments.add_argument("--requests", type=int, default=100_000)
    arguments.add_argument("--rate", type=float, default=200)
    given = arguments.parse_args()
    harness.run(lambda: main(given.requests, given.rate), given.format)
