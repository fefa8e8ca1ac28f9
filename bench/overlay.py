"""The network between two nodes: throughput, requests and new connections; swarmpy and Docker's overlay.

Two nodes each, in network namespaces on a bridge, both clusters at once. A task runs on either node, both on a
network of the user's; one end reaches the other by the task's own address and by the service's virtual IP. Both ends
are one small static program (`bench/wire.c`, built with gcc), started in the tasks' network namespaces on one core
with real-time priority: what is counted is the work per request, and other load on the machine takes little part in
it. Every round measures both sides, one after the other. Shown are, for each way: bytes a second on one connection,
one-byte requests a second on one kept connection, and with a connection for each; then ours once more with direct
routes off, so by VXLAN, and the network below from node to node, which no overlay can be faster than. The last lines
compare our virtual IP with our direct way.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2

from bench import docker, harness

DIRECTORY = Path("/var/lib/swarmpy-bench-wire")
PORT, WAIT_S, VIP_WAIT_S = 7000, 60.0, 15.0
NETWORK, SERVER, CLIENT = "bench-net", "bench-server", "bench-client"
KINDS = ("stream", "rr", "crr")
WORDS = {
    "stream": ("throughput", "MB/s", 1e6, "≥ 1.0 ×"),
    "rr": ("requests, kept connection", "/s", 1.0, "≥ 1.4 ×"),
    "crr": ("requests, new connections", "/s", 1.0, "≥ 1.4 ×"),
}
NO_IPVS = "this kernel has no IPVS"
PRIORITY = "10"
SETTLE_S = 15.0  # nodes on one segment have found out that they need no VXLAN


@dataclass
class Side:
    """Two tasks' network namespaces, and the addresses by which one reaches the other."""

    name: str
    client: str
    server: str
    ways: dict[str, str]
    cores: tuple[str, str]  # the client's and the server's
    # Numbers of every round, by (kind, way); round trips in microseconds.
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    trips: dict[str, list[float]] = field(default_factory=dict)

    def rate(self, kind: str, way: str) -> list[float]:
        return self.rates.get((kind, way), [])

    def command(self, namespace: str, core: str, *argv: str) -> list[str]:
        pinned = ["chrt", "-f", PRIORITY, "taskset", "-c", core]
        return [*pinned, "nsenter", f"--net={namespace}", str(DIRECTORY / "wire"), *argv]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        child = subprocess.Popen(self.command(self.server, self.cores[1], "server", str(PORT)))
        try:
            yield
        finally:
            child.kill()
            child.wait()

    def wire(self, kind: str, way: str, seconds: float) -> list[float]:
        argv = self.command(self.client, self.cores[0], kind, self.ways[way], str(PORT), str(seconds))
        return [float(word) for word in harness.command(argv, timeout_s=seconds + 20).split()]

    def measure(self, kind: str, way: str, seconds: float) -> None:
        numbers = self.wire(kind, way, seconds)
        self.rates.setdefault((kind, way), []).append(numbers[0])
        if kind == "rr":
            self.trips.setdefault(way, []).append(numbers[1])

    def reaches(self, way: str) -> bool:
        """A network takes its time until both ends know of each other."""
        try:
            return bool(self.wire("crr", way, 0.1))
        except (harness.BenchError, subprocess.TimeoutExpired):
            return False


def build() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    source = Path(__file__).with_name("wire.c")
    harness.command(["gcc", "-O2", "-static", "-pthread", "-o", str(DIRECTORY / "wire"), str(source)])


@contextlib.contextmanager
def ours(cores: tuple[str, str]) -> Iterator[tuple[Side, Side]]:
    """Ours, and the network below it."""
    with harness.cluster(2, 1) as cluster:
        harness.cli("network", "create", NETWORK)
        for name, node in ((SERVER, "n1"), (CLIENT, "n2")):
            where = ("--constraint", f"node.hostname=={node}")
            harness.cli(
                "service", "create", "-q", "--network", NETWORK, "--name", name, *where, harness.IMAGE,
                "sleep", "1000000",
            )  # fmt: skip
        client = harness.client(cluster.nodes[0])

        def task_of(service: str) -> objects_pb2.Task:
            chosen = [control_pb2.Filter(key="service", value=service)]
            request = control_pb2.ListRequest(kind=store_pb2.KIND_TASK, filters=chosen)
            tasks = [entry.task for entry in client.call("List", request).objects]
            return next(task for task in tasks if task.status.state == types_pb2.TASK_RUNNING)

        server, other = task_of(SERVER), task_of(CLIENT)
        vip = client.get("service", SERVER).endpoint.vips[0].address
        client.close()
        pins = [
            str(node.paths.netns / task.meta.id)
            for node, task in zip(cluster.nodes, (server, other), strict=True)
        ]
        ways = {"direct": server.status.addresses[0].address, "vip": vip}
        hosts = [str(harness.demo_net.namespace_path(node.name)) for node in cluster.nodes]
        below = Side("below", hosts[1], hosts[0], {"direct": cluster.nodes[0].address}, cores)
        yield Side("swarmpy", pins[1], pins[0], ways, cores), below


@contextlib.contextmanager
def peer(cores: tuple[str, str]) -> Iterator[Side]:
    with docker.swarm(2) as swarm:
        first, second = swarm.engines
        first.cli("network", "create", "-d", "overlay", NETWORK)
        nodes = {node["Status"]["Addr"]: node["ID"] for node in first.get("/nodes")}
        for name, engine in ((SERVER, first), (CLIENT, second)):
            where = f"node.id=={nodes[engine.address]}"
            create = ("service", "create", "-q", "-d", "--no-resolve-image", "--network", NETWORK)
            first.cli(*create, "--name", name, "--constraint", where, harness.IMAGE, "sleep", "1000000")
            harness.wait_until(lambda name=name: first.all_run(name, 1), WAIT_S, f"{name} runs")  # type: ignore[misc]
        task = first.tasks(SERVER)[0]
        attached = next(n for n in task["NetworksAttachments"] if n["Network"]["Spec"]["Name"] == NETWORK)
        network = attached["Network"]["ID"]
        vips = first.get(f"/services/{SERVER}")["Endpoint"]["VirtualIPs"]
        ways = {
            "direct": attached["Addresses"][0].partition("/")[0],
            "vip": next(vip["Addr"] for vip in vips if vip["NetworkID"] == network).partition("/")[0],
        }
        spaces = [engine.network_of(name) for engine, name in ((first, SERVER), (second, CLIENT))]
        yield Side("docker", spaces[1], spaces[0], ways, cores)


def compare(sides: list[Side], rounds: int, seconds: float) -> None:
    with contextlib.ExitStack() as stack:
        for side in sides:
            stack.enter_context(side.serving())
            harness.wait_until(lambda side=side: side.reaches("direct"), WAIT_S, f"{side.name}: direct", 0.5)  # type: ignore[misc]
            if "vip" not in side.ways:
                continue
            try:
                harness.wait_until(
                    lambda side=side: side.reaches("vip"), VIP_WAIT_S, f"{side.name}: virtual IP", 0.5
                )  # type: ignore[misc]
            except harness.BenchError:
                if side.name == "swarmpy":
                    raise
                harness.say("docker: its virtual IP does not answer: it needs IPVS in the kernel")
                del side.ways["vip"]
        time.sleep(SETTLE_S)
        for number in range(rounds):
            for kind in KINDS:
                for side in sides:
                    for way in side.ways:
                        side.measure(kind, way, seconds)
            harness.say(f"round {number + 1} of {rounds}")


def rows(mine: Side, theirs: Side, missing: str) -> list[harness.Row]:
    found = []
    for kind, (what, unit, scale, target) in WORDS.items():
        for way in ("direct", "vip"):
            values = [[rate / scale for rate in each.rate(kind, way)] for each in (mine, theirs)]
            why = missing or ("" if values[1] else NO_IPVS)
            found.append(harness.Row(f"{what}, {way}", unit, *values, target, peer_missing=why))
    for way in ("direct", "vip"):
        trips = [each.trips.get(way, []) for each in (mine, theirs)]
        why = missing or ("" if trips[1] else NO_IPVS)
        found.append(harness.Row(f"round trip, {way}", "µs", *trips, peer_missing=why))
    return found


def main(rounds: int, seconds: float, with_peer: bool, cores: str) -> harness.Report:
    if missing := harness.missing_tool("gcc", "chrt", "taskset"):
        raise harness.BenchError(missing)
    client, _, server = cores.partition(",")
    pair = (client, server or client)
    build()
    try:
        missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
        with contextlib.ExitStack() as stack:
            theirs = Side("docker", "", "", {}, pair)
            if not missing:
                try:
                    theirs = stack.enter_context(peer(pair))
                except (harness.BenchError, subprocess.TimeoutExpired) as error:
                    missing = str(error)
                    harness.say(f"docker: {missing}")
            mine, below = stack.enter_context(ours(pair))
            others = [] if missing else [theirs]
            compare([mine, *others, below], rounds, seconds)
            harness.cli("swarm", "update", "--direct-routes", "off")
            vxlan = Side("swarmpy", mine.client, mine.server, {"direct": mine.ways["direct"]}, pair)
            compare([vxlan, *others], rounds, seconds)
    finally:
        for file in DIRECTORY.iterdir():
            file.unlink()
        DIRECTORY.rmdir()
    report = harness.Report(f"two nodes, {rounds} rounds of {seconds:g} s, cores {cores}", "Docker overlay")
    report.rows = rows(mine, theirs, missing)
    for side, title in ((vxlan, "by VXLAN"), (below, "the network below")):
        for kind, (what, unit, scale, _) in WORDS.items():
            values = [[rate / scale for rate in each.rate(kind, "direct")] for each in (side, theirs)]
            report.rows.append(harness.Row(f"{what}, {title}", unit, *values, peer_missing=missing))
    for kind, what, target in (("crr", "new connections", "≥ 0.85"), ("rr", "round trips", "≥ 0.95")):
        vip, direct = (harness.median(mine.rate(kind, way)) or 0.0 for way in ("vip", "direct"))
        report.remarks.append(
            f"ours, virtual IP against direct, {what} a second: {vip / direct:.2f} (target {target})"
        )
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=5)
    arguments.add_argument("--seconds", type=float, default=0.5)
    arguments.add_argument(
        "--cores", default="1", help="of client and server: 1 (one for both, the default) or 0,1"
    )
    given = arguments.parse_args()
    harness.run(lambda: main(given.rounds, given.seconds, not given.no_peer, given.cores), given.format)
