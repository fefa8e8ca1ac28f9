"""A service follows its load: requests a second rise and fall, the number of tasks goes after them, as a curve.

Two nodes; a service of one to eight tasks that is scaled by accepted connections a second (`--rps`), with a
stabilization window that fits into minutes. The client sends each request on a new connection through a published
port, at a rate that steps up and down. Once a second the rate asked for, the tasks wanted and the tasks running are
noted; `--plot FILE.png` draws them (needs matplotlib: `pip install matplotlib`), `--csv FILE` keeps them.
"""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmpy.cli.client import Client
from swarmpy.node import demo
from swarmpy.proto import types_pb2

from bench import harness

SERVICE, PORT = "follow", 8090
TARGET_RPS = 20
LEAST, MOST = 1, 8
STEPS = ((20, 15), (40, 120), (40, 40), (80, 5))  # seconds, requests a second
STABILIZE_S = 30


@dataclass(frozen=True)
class Point:
    """One second."""

    at_s: float
    rps: int
    wanted: int
    running: int


@contextlib.contextmanager
def load(node: demo.DemoNode, seconds: int, rate: int) -> Iterator[subprocess.Popen[str]]:
    argv = [
        sys.executable, "-m", "swarmpy.node.demo_load", f"http://{node.address}:{PORT}/", str(seconds), str(rate),
    ]  # fmt: skip
    process = subprocess.Popen(demo.inside(node, argv), stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()


def watch(client: Client, began: float, rps: int, seconds: int) -> Iterator[Point]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        service = client.get("service", SERVICE)
        tasks = client.find("task", service=SERVICE)
        running = sum(
            task.status.state == types_pb2.TASK_RUNNING and task.desired_state == types_pb2.TASK_RUNNING
            for task in tasks
        )
        yield Point(time.monotonic() - began, rps, int(service.spec.replicated.replicas), running)
        time.sleep(1)


def measure() -> tuple[list[Point], dict[str, int], list[str]]:
    points: list[Point] = []
    counts = {"requests": 0, "failures": 0}
    with harness.cluster(2, 1) as cluster:
        client = harness.client(cluster.nodes[0])
        harness.cli(
            "service",
            "create",
            "-q",
            "--name",
            SERVICE,
            "-p",
            f"{PORT}:80",
            "--stop-grace-period",
            "1s",
            harness.IMAGE,
        )
        harness.cli(
            "service", "autoscale", SERVICE, "--min", str(LEAST), "--max", str(MOST), "--rps", str(TARGET_RPS),
            "--stabilize-down", f"{STABILIZE_S}s",
        )  # fmt: skip
        began = time.monotonic()
        for seconds, rps in STEPS:
            with load(cluster.nodes[1], seconds, rps) as process:
                for point in watch(client, began, rps, seconds):
                    points.append(point)
                output, _ = process.communicate(timeout=20)
                tally = json.loads(output)
                counts["requests"] += tally["requests"]
                counts["failures"] += tally["failures"]
            harness.say(f"{rps}/s for {seconds} s: {points[-1].running} tasks")
        shown = harness.cli("service", "autoscale", "--show", SERVICE).splitlines()
        client.close()
    return points, counts, shown


def plot(points: list[Point], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(10, 4.5))
    times = [point.at_s for point in points]
    left.step(
        times, [point.rps for point in points], where="post", color="tab:gray", label="requests a second"
    )
    left.set_xlabel("seconds")
    left.set_ylabel("requests a second")
    right = left.twinx()
    right.step(
        times, [point.wanted for point in points], where="post", color="tab:blue", label="tasks wanted"
    )
    right.step(
        times,
        [point.running for point in points],
        where="post",
        color="tab:orange",
        linestyle="--",
        label="tasks running",
    )
    right.set_ylabel("tasks")
    right.set_ylim(0, MOST + 1)
    figure.legend(loc="upper right", bbox_to_anchor=(0.9, 0.88))
    left.set_title(
        f"service autoscale --min {LEAST} --max {MOST} --rps {TARGET_RPS} --stabilize-down {STABILIZE_S}s"
    )
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main(csv_file: Path | None, plot_file: Path | None) -> harness.Report:
    points, counts, shown = measure()
    report = harness.Report("autoscaling under load", "no peer")
    peak = max(rps for _, rps in STEPS)
    since = next(point.at_s for point in points if point.rps == peak)
    needed = -(-peak // TARGET_RPS)
    there = next((p.at_s - since for p in points if p.at_s >= since and p.running >= needed), None)
    report.rows.append(
        harness.Row(f"{needed} tasks run after the step to {peak}/s", "s", [there] if there else [], [])
    )
    report.rows.append(harness.Row("most tasks", "", [max(point.running for point in points)], []))
    report.rows.append(harness.Row("tasks at the end", "", [points[-1].running], []))
    report.rows.append(
        harness.Row(f"failed of {counts['requests']} requests", "", [counts["failures"]], [], "0")
    )
    report.remarks += shown
    if csv_file is not None:
        with csv_file.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("seconds", "requests_per_s", "wanted", "running"))
            writer.writerows((f"{p.at_s:.1f}", p.rps, p.wanted, p.running) for p in points)
    if plot_file is not None:
        plot(points, plot_file)
    return report


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    arguments = harness.parser(__doc__, rounds=1)
    arguments.add_argument("--csv", type=Path)
    arguments.add_argument("--plot", type=Path)
    given = arguments.parse_args()
    harness.run(lambda: main(given.csv, given.plot), given.format)
