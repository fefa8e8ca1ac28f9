"""The network between two nodes: throughput, requests and new connections; swarmpy and Docker's overlay.

Two nodes each, in network namespaces on a bridge. A server task runs on one, a client task on the other, both on a
network of the user's; the client reaches the server by the task's own address and by the service's virtual IP. Client
and server are one small static program (`bench/wire.c`, built with gcc) on both sides. Shown are, for each way: bytes
a second on one connection, one-byte requests a second on one kept connection, and with a connection for each. The
last rows compare our virtual IP with our direct way.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from swarmpy.proto import control_pb2, store_pb2, types_pb2

from bench import docker, harness

DIRECTORY = Path("/var/lib/swarmpy-bench-wire")
PORT, WAIT_S, VIP_WAIT_S = 7000, 60.0, 15.0
NETWORK, SERVER, CLIENT = "bench-net", "bench-server", "bench-client"
MOUNT = ("--mount", f"type=bind,source={DIRECTORY},target=/wire,readonly")
KINDS = ("stream", "rr", "crr")
NO_IPVS = "this kernel has no IPVS"
Wire = Callable[[str, str, float], list[float]]  # kind, address, seconds -> numbers


@dataclass
class Found:
    """Numbers of every round, by (kind, way); round trips in microseconds."""

    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    trips: dict[str, list[float]] = field(default_factory=dict)

    def rate(self, kind: str, way: str) -> list[float]:
        return self.rates.get((kind, way), [])


def measure(who: str, wire: Wire, ways: dict[str, str], rounds: int, seconds: float) -> Found:
    found = Found()
    for way, address in ways.items():
        harness.wait_until(
            lambda address=address: reaches(wire, address), WAIT_S, f"{who}: {way} {address}", 0.5
        )  # type: ignore[misc]
    for number in range(rounds):
        for kind in KINDS:
            for way, address in ways.items():
                numbers = wire(kind, address, seconds)
                found.rates.setdefault((kind, way), []).append(numbers[0])
                if kind == "rr":
                    found.trips.setdefault(way, []).append(numbers[1])
        harness.say(f"{who}: round {number + 1} of {rounds}")
    return found


def reaches(wire: Wire, address: str) -> bool:
    """A network takes its time until both ends know of each other."""
    try:
        return bool(wire("crr", address, 0.1))
    except harness.BenchError:
        return False


def build() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    source = Path(__file__).with_name("wire.c")
    harness.command(["gcc", "-O2", "-static", "-pthread", "-o", str(DIRECTORY / "wire"), str(source)])


def ours(rounds: int, seconds: float) -> Found:
    with harness.cluster(2, 1) as cluster:
        harness.cli("network", "create", NETWORK)
        create = ("service", "create", "-q", "--network", NETWORK, *MOUNT)
        harness.cli(
            *create, "--name", SERVER, "--constraint", "node.hostname==n1", harness.IMAGE, "/wire/wire",
            "server", str(PORT),
        )  # fmt: skip
        harness.cli(
            *create, "--name", CLIENT, "--constraint", "node.hostname==n2", harness.IMAGE, "sleep", "1000000"
        )
        client = harness.client(cluster.nodes[0])
        service = client.get("service", SERVER)
        request = control_pb2.ListRequest(
            kind=store_pb2.KIND_TASK, filters=[control_pb2.Filter(key="service", value=SERVER)]
        )
        tasks = [entry.task for entry in client.call("List", request).objects]
        task = next(task for task in tasks if task.status.state == types_pb2.TASK_RUNNING)
        ways = {"direct": task.status.addresses[0].address, "vip": service.endpoint.vips[0].address}
        client.close()

        def wire(kind: str, address: str, seconds: float) -> list[float]:
            said = harness.cli("exec", CLIENT, "/wire/wire", kind, address, str(PORT), str(seconds))
            return [float(word) for word in said.split()]

        time.sleep(2)
        return measure("swarmpy", wire, ways, rounds, seconds)


def peer(rounds: int, seconds: float) -> Found:
    with docker.swarm(2) as swarm:
        first, second = swarm.engines
        first.cli("network", "create", "-d", "overlay", NETWORK)
        nodes = {node["Status"]["Addr"]: node["ID"] for node in first.get("/nodes")}
        create = ("service", "create", "-q", "-d", "--no-resolve-image", "--network", NETWORK, *MOUNT)
        for name, engine, argv in (
            (SERVER, first, ("/wire/wire", "server", str(PORT))), (CLIENT, second, ("sleep", "1000000")),
        ):  # fmt: skip
            where = f"node.id=={nodes[engine.address]}"
            first.cli(*create, "--name", name, "--constraint", where, harness.IMAGE, *argv)
            harness.wait_until(lambda name=name: first.all_run(name, 1), WAIT_S, f"{name} runs")  # type: ignore[misc]
        task = first.tasks(SERVER)[0]
        attached = next(n for n in task["NetworksAttachments"] if n["Network"]["Spec"]["Name"] == NETWORK)
        network = attached["Network"]["ID"]
        vips = first.get(f"/services/{SERVER}")["Endpoint"]["VirtualIPs"]
        ways = {
            "direct": attached["Addresses"][0].partition("/")[0],
            "vip": next(vip["Addr"] for vip in vips if vip["NetworkID"] == network).partition("/")[0],
        }
        container = second.cli("ps", "-q", "--filter", f"name={CLIENT}").strip()

        def wire(kind: str, address: str, seconds: float) -> list[float]:
            said = second.cli("exec", container, "/wire/wire", kind, address, str(PORT), str(seconds))
            return [float(word) for word in said.split()]

        time.sleep(2)
        harness.wait_until(lambda: reaches(wire, ways["direct"]), WAIT_S, "docker: direct", 0.5)
        try:
            harness.wait_until(lambda: reaches(wire, ways["vip"]), VIP_WAIT_S, "docker: virtual IP", 0.5)
        except harness.BenchError:
            harness.say("docker: its virtual IP does not answer: it needs IPVS in the kernel")
            del ways["vip"]
        return measure("docker", wire, ways, rounds, seconds)


def rows(mine: Found, theirs: Found, missing: str) -> list[harness.Row]:
    words = {
        "stream": ("throughput", "MB/s", 1e6, "≥ 1.0 ×"),
        "rr": ("requests, kept connection", "/s", 1.0, "≥ 1.4 ×"),
        "crr": ("requests, new connections", "/s", 1.0, "≥ 1.4 ×"),
    }
    found = []
    for kind, (what, unit, scale, target) in words.items():
        for way in ("direct", "vip"):
            values = [[rate / scale for rate in each.rate(kind, way)] for each in (mine, theirs)]
            why = missing or ("" if values[1] else NO_IPVS)
            found.append(harness.Row(f"{what}, {way}", unit, *values, target, peer_missing=why))
    for way in ("direct", "vip"):
        trips = [each.trips.get(way, []) for each in (mine, theirs)]
        why = missing or ("" if trips[1] else NO_IPVS)
        found.append(harness.Row(f"round trip, {way}", "µs", *trips, peer_missing=why))
    return found


def main(rounds: int, seconds: float, with_peer: bool) -> harness.Report:
    if missing := harness.missing_tool("gcc"):
        raise harness.BenchError(missing)
    build()
    try:
        missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
        theirs = Found()
        if not missing:
            try:
                theirs = peer(rounds, seconds)
            except (harness.BenchError, subprocess.TimeoutExpired) as error:
                missing = str(error)
                harness.say(f"docker: {missing}")
        mine = ours(rounds, seconds)
    finally:
        for file in DIRECTORY.iterdir():
            file.unlink()
        DIRECTORY.rmdir()
    report = harness.Report(f"two nodes, {rounds} rounds of {seconds:g} s", "Docker overlay")
    report.rows = rows(mine, theirs, missing)
    for kind, what, target in (("crr", "new connections", "≥ 0.85"), ("rr", "round trips", "≥ 0.95")):
        vip, direct = (harness.median(mine.rate(kind, way)) or 0.0 for way in ("vip", "direct"))
        report.remarks.append(
            f"ours, virtual IP against direct, {what} a second: {vip / direct:.2f} (target {target})"
        )
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=5)
    arguments.add_argument("--seconds", type=float, default=2.0)
    given = arguments.parse_args()
    harness.run(lambda: main(given.rounds, given.seconds, not given.no_peer), given.format)
