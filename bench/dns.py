"""DNS: answers per second of the server's processor time, and latency while the cluster plans.

Part 1, answers: a node's DNS process with a table of 1,000 services on one side, Docker's embedded server with
1,000 names on one network on the other; dnsperf asks both for random known names, from one network namespace,
with the same number of clients. Counted are answers a second, and answers per second of processor time that the
server used (the DNS process; dockerd), which says what is left for the containers.

Part 2, a planning burst: 200 questions a second to the resolver of a node that is also the only manager, while
services with thousands of replicas that fit nowhere are created and removed, so that the managers plan and
nothing else happens. On the Docker side the same, with the same service, on an engine in swarm mode. The asking
process goes before all others on both sides. Printed is the 99th percentile of the time until the answer.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from swarmpy.overlay import dnswire
from swarmpy.overlay.nametable import NetworkEntry, ServiceEntry, Table

from bench import docker, harness

NAMES = 1000
SECONDS = 5
CLIENTS = 8
BURST_S = 8.0
QUESTIONS_S = 200
REPLICAS = 2000
RATIO_TARGET, P99_TARGET_MS = 2.0, 7.0
NOWHERE = "node.labels.bench==nowhere"
RESOLVER, DOCKER_RESOLVER = "169.254.1.53", "127.0.0.11"


def names() -> list[str]:
    return [f"svc{number}" for number in range(NAMES)]


def cpu_s(pid: int) -> float:
    """Processor time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def dnsperf(
    inside: Callable[[list[str]], list[str]], questions: Path, server: str, port: int
) -> tuple[float, int]:
    """Answers a second, and answers."""
    command = [
        "dnsperf", "-s", server, "-p", str(port), "-d", str(questions), "-l", str(SECONDS),
        "-c", str(CLIENTS), "-T", "1", "-q", "100",
    ]  # fmt: skip
    done = harness.command(inside(command))
    found = re.search(r"Queries per second:\s*([\d.]+)", done)
    completed = re.search(r"Queries completed:\s*(\d+) \(([\d.]+)%\)", done)
    if not found or not completed or float(completed.group(2)) < 90:
        raise harness.BenchError(f"dnsperf was not answered: {done.strip()[-400:]}")
    return float(found.group(1)), int(completed.group(1))


def measured(pid: int, ask: Callable[[], tuple[float, int]]) -> tuple[float, float]:
    """(answers a second, answers per processor second of the server)."""
    before = cpu_s(pid)
    rate, answers = ask()
    return rate, answers / max(cpu_s(pid) - before, 0.01)


def question_file(directory: Path) -> Path:
    path = directory / "questions"
    shuffled = names() * 4
    random.Random(1).shuffle(shuffled)  # the same order for both
    path.write_text("".join(f"{name} A\n" for name in shuffled))
    return path


@contextmanager
def our_server(box: harness.Sandbox) -> Iterator[int]:
    """The DNS process on 127.0.0.1:5353 of the sandbox's network; its pid."""
    services = tuple(
        ServiceEntry(name, ("n",), {"n": f"10.65.{number // 250}.{number % 250 + 1}"})
        for number, name in enumerate(names())
    )
    table = Table(networks=(NetworkEntry("n", "net", "10.65.0.0/16"),), services=services)
    (box.directory / "table.json").write_text(table.to_json())
    reader, writer = os.pipe()
    command = [
        sys.executable, "-c", "import sys; from swarmpy.overlay import dns; sys.exit(dns.run(sys.argv[1:]))",
        "--table", str(box.directory / "table.json"), "--listen", "127.0.0.1", "--port", "5353",
        "--ready-fd", str(writer),
    ]  # fmt: skip
    server = subprocess.Popen(box.inside_network(command), pass_fds=(writer,))
    os.close(writer)
    try:
        if os.read(reader, 10) != b"ready\n":
            raise harness.BenchError("our DNS process did not start")
        yield server.pid
    finally:
        os.close(reader)
        server.terminate()
        server.wait(10)


def our_answers(rounds: int) -> tuple[list[float], list[float]]:
    with harness.sandbox("dns") as box, our_server(box) as pid:
        questions = question_file(box.directory)
        results = [
            measured(pid, lambda: dnsperf(box.inside_network, questions, "127.0.0.1", 5353))
            for _ in range(rounds)
        ]
    return [rate for rate, _ in results], [each for _, each in results]


class DockerSide:
    """An engine in swarm mode with one container of 1,000 names and one that asks."""

    def __init__(self, engine: docker.Engine) -> None:
        self.engine = engine
        engine.cli("network", "create", "names")
        aliases = [flag for name in names() for flag in ("--network-alias", name)]
        for name, flags in (("target", aliases), ("asker", [])):
            engine.cli("run", "-d", "--name", name, "--network", "names", *flags, harness.IMAGE)
        self.asker = int(engine.cli("inspect", "-f", "{{.State.Pid}}", "asker").strip())
        self.dockerd = next(
            pid for pid, name in engine.box.processes().items() if name == "dockerd"
        )  # as seen inside and outside: processes() gives outer pids

    def inside(self, argv: list[str]) -> list[str]:
        """In the asking container's network."""
        return ["nsenter", f"--net={self._outside()}", "--", *argv]

    def _outside(self) -> str:
        """A path to the network of the asking container, whose pids are its own."""
        wanted = self._network()
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/net") == wanted:
                    return f"/proc/{entry}/ns/net"
        raise harness.BenchError("docker: the asking container ended")

    def _network(self) -> str:
        return self.engine.box.run("readlink", f"/proc/{self.asker}/ns/net").strip()


def latencies(
    inside: Callable[[list[str]], list[str]], server: str, name: str, until_s: float
) -> list[float]:
    """Milliseconds until each answer, at a steady pace, from a process in that network."""
    done = harness.command(
        inside([sys.executable, "-m", "bench.dns", "--ask", server, name, str(until_s)]),
        timeout_s=until_s + 60,
    )
    return [float(line.split()[1]) for line in done.splitlines()]


def ask(server: str, name: str, seconds: float) -> None:
    """The asking process: one line per question, when it was asked and milliseconds; 2000 without answer in 2 s.

    It goes before all others, so that what is measured is how long the server lets it wait.
    """
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    query = struct.pack(">HHHHHH", 0, dnswire.RD, 1, 0, 0, 0) + dnswire.encode_name(name) + b"\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((server, 53))
        udp.settimeout(2)
        began = time.perf_counter()
        number = 0
        while (now := time.perf_counter()) - began < seconds:
            number += 1
            ident = number.to_bytes(2, "big")
            udp.send(ident + query[2:])
            try:
                while udp.recv(4096)[:2] != ident:
                    pass
                took = (time.perf_counter() - now) * 1000
            except TimeoutError:
                took = 2000.0
            print(f"{time.monotonic() - took / 1000:.6f} {took:.3f}")
            time.sleep(max(0.0, began + number / QUESTIONS_S - time.perf_counter()))


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def with_burst(measure: Callable[[], list[float]], plan: Callable[[int], None]) -> list[float]:
    """Measure while `plan` is called again and again."""
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            plan(number)

    planner = threading.Thread(target=work)
    planner.start()
    try:
        return measure()
    finally:
        over.set()
        planner.join(60)


def our_burst(rounds: int) -> tuple[list[float], list[float]]:
    """99th percentiles: quiet, and in the burst."""
    quiet, burst = [], []
    with harness.cluster(1, 1) as made:
        node = made.nodes[0]
        harness.cli("service", "create", "-q", "--name", "known", harness.IMAGE)

        def inside(argv: list[str]) -> list[str]:
            return ["nsenter", f"--net={node.namespace}", "--", *argv]

        def plan(number: int) -> None:
            name = f"burst{number}"
            replicas = ("--replicas", str(REPLICAS), "--constraint", NOWHERE)
            harness.cli("service", "create", "-q", "-d", "--name", name, *replicas, harness.IMAGE)
            harness.cli("service", "rm", name)

        for _ in range(rounds):
            quiet.append(p99(latencies(inside, RESOLVER, "known", 3)))
            burst.append(p99(with_burst(lambda: latencies(inside, RESOLVER, "known", BURST_S), plan)))
    return quiet, burst


def docker_side(rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"rate": [], "per_cpu": [], "quiet": [], "burst": []}
    with docker.swarm(1) as swarm:
        engine = swarm.engines[0]
        side = DockerSide(engine)
        questions = question_file(engine.box.directory)

        def plan(number: int) -> None:
            name = f"burst{number}"
            replicas = ("--replicas", str(REPLICAS), "--constraint", NOWHERE)
            engine.cli("service", "create", "-q", "-d", "--name", name, *replicas, harness.IMAGE)
            engine.cli("service", "rm", name)

        for _ in range(rounds):
            rate, each = measured(side.dockerd, lambda: dnsperf(side.inside, questions, DOCKER_RESOLVER, 53))
            found["rate"].append(rate)
            found["per_cpu"].append(each)
            found["quiet"].append(p99(latencies(side.inside, DOCKER_RESOLVER, "svc1", 3)))
            asked = with_burst(lambda: latencies(side.inside, DOCKER_RESOLVER, "svc1", BURST_S), plan)
            found["burst"].append(p99(asked))
    return found


def main(rounds: int, *, peer: bool) -> harness.Report:
    if shutil.which("dnsperf") is None:
        raise harness.BenchError("dnsperf is missing: apt-get install dnsperf")
    report = harness.Report("DNS: 1,000 names, and 200 questions a second while the cluster plans", "Docker")
    rate, per_cpu = our_answers(rounds)
    quiet, burst = our_burst(rounds)
    theirs: dict[str, list[float]] = {"rate": [], "per_cpu": [], "quiet": [], "burst": []}
    missing = "" if peer else "--no-peer"
    if peer:
        if lacking := [tool for tool in docker.TOOLS if shutil.which(tool) is None]:
            missing = f"not installed: {', '.join(lacking)}"
        else:
            theirs = docker_side(rounds)
    report.rows = [
        harness.Row("answers", "/s", rate, theirs["rate"], peer_missing=missing),
        harness.Row(
            "answers per processor second of the server", "", per_cpu, theirs["per_cpu"],
            f"≥ {RATIO_TARGET:g}×", peer_missing=missing,
        ),
        harness.Row("99th percentile, quiet", "ms", quiet, theirs["quiet"], peer_missing=missing),
        harness.Row(
            "99th percentile, planning", "ms", burst, theirs["burst"], f"≤ {P99_TARGET_MS:g} ms",
            peer_missing=missing,
        ),
    ]  # fmt: skip
    return report


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        ask(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    else:
        options = harness.parser(__doc__, 3).parse_args()
        harness.run(lambda: main(options.rounds, peer=not options.no_peer), options.format)
