"""What the DNS process's scheduling policy does for the time until an answer, on a busy machine.

One node plans for services with thousands of replicas that fit nowhere, as in `bench.dns`, while a process that goes
before all others asks its resolver 200 times a second. Every PERIOD_S the policy of the DNS process is another one:
as everybody, nice -10, real-time. There is no peer in this one; the three share one run and its load.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from bisect import bisect

from bench import dns, harness

POLICIES = {"as everybody": 0, "nice -10": -10, "real-time": None}
PERIOD_S, SECONDS, SETTLE_S = 0.3, 30.0, 0.02


def dns_pid(namespace: str) -> int:
    """The DNS process in a network namespace."""
    wanted = os.stat(namespace).st_ino
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
            if b"dns" in file.read().split(b"\0") and os.stat(f"/proc/{entry}/ns/net").st_ino == wanted:
                return int(entry)
    raise harness.BenchError("the node has no DNS process")


def change_policies(pid: int, over: threading.Event) -> list[tuple[float, str]]:
    """Until `over`; when which policy began."""
    log = []
    while not over.is_set():
        for name, nice in POLICIES.items():
            real_time = nice is None
            policy = os.SCHED_RR if real_time else os.SCHED_OTHER
            os.sched_setscheduler(pid, policy, os.sched_param(1 if real_time else 0))
            os.setpriority(os.PRIO_PROCESS, pid, nice or 0)
            log.append((time.monotonic(), name))
            over.wait(PERIOD_S)
    return log


def measured() -> dict[str, list[float]]:
    """Milliseconds until an answer, by policy."""
    with harness.cluster(1, 1) as made:
        node = made.nodes[0]
        harness.cli("service", "create", "-q", "--name", "known", harness.IMAGE)
        pid = dns_pid(str(node.namespace))
        over = threading.Event()
        log: list[tuple[float, str]] = []
        changer = threading.Thread(target=lambda: log.extend(change_policies(pid, over)))
        asking = [sys.executable, "-m", "bench.dns", "--ask", dns.RESOLVER, "known", str(SECONDS)]
        command = ["nsenter", f"--net={node.namespace}", "--", *asking]

        def plan(number: int) -> None:
            flags = ("--replicas", str(dns.REPLICAS), "--constraint", dns.NOWHERE)
            harness.cli("service", "create", "-q", "-d", "--name", f"burst{number}", *flags, harness.IMAGE)
            harness.cli("service", "rm", f"burst{number}")

        def ask() -> list[float]:
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS + 60)
            lines = [line.split() for line in done.stdout.splitlines()]
            starts.extend(float(line[0]) for line in lines)
            return [float(line[1]) for line in lines]

        starts: list[float] = []
        changer.start()
        try:
            values = dns.with_burst(ask, plan)
        finally:
            over.set()
            changer.join()
    found: dict[str, list[float]] = {name: [] for name in POLICIES}
    times = [at for at, _ in log]
    for at, took in zip(starts, values, strict=True):
        place = bisect(times, at) - 1
        if place >= 0 and at - times[place] > SETTLE_S:
            found[log[place][1]].append(took)
    return found


def main(rounds: int) -> harness.Report:
    values: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(rounds):
        for name, took in measured().items():
            values[name].append(dns.p99(took))
    report = harness.Report(
        "DNS while the cluster plans, by the scheduling policy of the DNS process", "none"
    )
    report.rows = [
        harness.Row(
            f"99th percentile, {name}", "ms", found, [], f"≤ {dns.P99_TARGET_MS:g} ms", peer_missing="none"
        )
        for name, found in values.items()
    ]
    return report


if __name__ == "__main__":
    options = harness.parser(__doc__, 1).parse_args()
    harness.run(lambda: main(options.rounds), options.format)
