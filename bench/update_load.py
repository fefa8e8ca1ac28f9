"""Requests through rolling updates in both orders, and through an update to something that cannot start.

Three nodes, four replicas behind a published port, the client and server of `bench.zero_failed`. While the client
sends, these follow each other until its time is over: an update start-first, an update stop-first, an update to a
command that does not exist (rolled back by the cluster). Every request that is not answered whole is a failure;
the healthy replicas must not lose one.
"""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

from swarmpy.node import demo

from bench import harness, zero_failed

NODES, MANAGERS = 3, 1
PAUSE_S = 1.0


def update(order: str) -> None:
    harness.cli(
        "service",
        "update",
        "-q",
        "--force",
        "--update-order",
        order,
        "--update-monitor",
        "1s",
        zero_failed.SERVICE,
    )


def failing() -> None:
    """The command ends with 6: rolled back."""
    done = subprocess.run(
        [*demo.swarmpy("--context", "demo"), "service", "update", "-q", "--update-order", "start-first",
         "--update-monitor", "3s", "--entrypoint", "/does/not/exist", zero_failed.SERVICE],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode != 6:
        raise harness.BenchError(f"an update that cannot start ended with {done.returncode}: {done.stderr}")


STEPS = {
    "start-first": lambda: update("start-first"),
    "stop-first": lambda: update("stop-first"),
    "failing image": failing,
}


def measure(requests: int, rate: float) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    done = dict.fromkeys(STEPS, 0)
    with harness.cluster(NODES, MANAGERS) as cluster:
        zero_failed.create()
        load = zero_failed.Load(cluster.nodes[-1], requests / rate, rate)
        try:
            while load.running():
                for name, step in STEPS.items():
                    if not load.running():
                        break
                    time.sleep(PAUSE_S)
                    step()
                    done[name] += 1
                    harness.say(name)
            return load.result(), done
        finally:
            load.close()


def main(requests: int, rate: float) -> harness.Report:
    found, done = measure(requests, rate)
    report = harness.Report(f"{requests} requests at {rate:g}/s through updates", "no peer")
    for name, tally in found.items():
        report.rows.append(
            harness.Row(f"{name}: failed of {tally['requests']}", "", [tally["failures"]], [], "0")
        )
        report.rows.append(harness.Row(f"{name}: slowest answer", "s", [tally["longest_s"]], []))
        if tally["first_failure"]:
            report.remarks.append(f"{name}: first failure {tally['first_failure']}; {tally['failed_how']}")
    report.remarks.append("happened: " + ", ".join(f"{name} {count}" for name, count in done.items()))
    return report


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    arguments = harness.parser(__doc__, rounds=1)
    arguments.add_argument("--requests", type=int, default=100_000)
    arguments.add_argument("--rate", type=float, default=250)
    given = arguments.parse_args()
    harness.run(lambda: main(given.requests, given.rate), given.format)
