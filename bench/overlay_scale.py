"""A large cluster on one node's kernel: other nodes' routes, one backend of many, a restart.

In a network namespace of its own the overlay is given 1,000 nodes, then 1,000 services with 100 tasks each. Shown are
the time to send the kernel what 1,000 nodes need (nexthops, routes, neighbours, forwarding entries, rules), beside
`ip -batch` and `bridge -batch` for the same entries; the time of one change of one backend, from the wanted value to
the committed transaction (one that leaves also has its tracked UDP flows looked for and forgotten); and what the
first load and a comparison with the kernel take. CPU time is that of the process and of the kernel on its behalf: on
a busy machine it says more than the clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from swarmpy.overlay import rules
from swarmpy.overlay.kernel import Kernel, additions_of
from swarmpy.overlay.plane import Overlay
from swarmpy.overlay.rules import State
from swarmpy.overlay.wanted import Backend, Network, Node, Service, Wanted

from bench import harness

NODES, SERVICES, BACKENDS = 1000, 1000, 100
CHANGES = 40


def nodes() -> tuple[Node, ...]:
    return tuple(
        Node(f"n{i}", i, f"10.9.{i >> 8}.{i & 255}", f"10.9.{i >> 8}.{i & 255}") for i in range(1, NODES + 1)
    )


def wanted() -> Wanted:
    blocks = tuple((f"n{i}", f"10.{68 + (i >> 8)}.{i & 255}.0/24") for i in range(1, NODES + 1))
    network = Network("d", "d", "10.68.0.0/14", False, blocks)
    return Wanted("n1", "10.64.0.0/10", 4790, 1450, nodes(), (network,))


def services() -> tuple[Service, ...]:
    return tuple(service(number, range(BACKENDS)) for number in range(SERVICES))


def service(number: int, tasks: range) -> Service:
    backends = tuple(
        Backend(
            f"t{number}.{task}", f"n{1 + (number * BACKENDS + task) % NODES}", (("d", address(number, task)),)
        )
        for task in tasks
    )
    return Service(f"s{number:04}", (("d", f"10.65.{number >> 8}.{number & 255}"),), (), backends)


def address(number: int, task: int) -> str:
    node, place = divmod(number * BACKENDS + task, 100)
    node = 1 + node % NODES
    return f"10.{68 + (node >> 8)}.{node & 255}.{1 + place}"


def program_routes(directory: Path) -> dict[str, float]:
    """The kernel's part for 1,000 nodes; ours, then the tools' batches."""
    kernel = Kernel()
    want = wanted()
    kernel.prepare_host()
    index, _ = kernel.ensure_device(want)
    state = rules.desired(want, {}, index, {}, mesh=True)
    bare = State(
        routes={key: route for key, route in state.routes.items() if route.destination == "10.64.0.0/10"}
    )
    kernel.route.send(additions_of(State(), bare, index))
    messages = list(additions_of(bare, state, index))
    began, cpu = time.perf_counter(), time.process_time()
    kernel.route.send(messages)
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    kernel.close()
    subprocess.run(["ip", "link", "del", "swx0"], check=True)
    for table in ("nexthop", "route"):
        subprocess.run(["ip", table, "flush", "proto", "83"], check=False, capture_output=True)
    while not subprocess.run(
        ["ip", "rule", "del", "priority", "8301"], check=False, capture_output=True
    ).returncode:
        pass
    tools, tools_cpu = batches(directory, state)
    return {"ours": spent, "ours_cpu": cpu, "tools": tools, "tools_cpu": tools_cpu}


def batches(directory: Path, state: State) -> tuple[float, float]:
    """The same entries by `ip -batch` and `bridge -batch`."""
    vxlan = ["type", "vxlan", "id", "83", "local", "10.9.0.1", "dstport", "4790", "nolearning"]
    subprocess.run(["ip", "link", "add", "swx0", *vxlan], check=True)
    for argv in (["addr", "add", "10.64.0.1/10", "dev", "swx0"], ["link", "set", "swx0", "up"]):
        subprocess.run(["ip", *argv], check=True)
    ip = [
        f"neigh replace {address} lladdr {mac} dev swx0 nud permanent"
        for address, mac in state.neighbours.items()
    ]
    ip += [
        f"nexthop add id {number} via {gateway} dev swx0 onlink" for number, gateway in state.nexthops.items()
    ]
    for route in state.routes.values():
        if route.nexthop:
            ip.append(f"route add {route.destination} nhid {route.nexthop}")
        elif route.gateway:
            ip.append(f"route add default via {route.gateway} dev swx0 onlink table {route.table}")
    marks = [rule for rule in state.rules if rule.priority == rules.RULE_MARK]
    ip += [f"rule add priority 8301 fwmark {rule.mark} lookup {rule.target}" for rule in marks]
    fdb = [f"fdb replace {mac} dev swx0 dst {remote}" for mac, remote in state.forwarding.items()]
    (directory / "ip").write_text("\n".join(ip) + "\n")
    (directory / "fdb").write_text("\n".join(fdb) + "\n")
    began, cpu = time.perf_counter(), children_cpu()
    subprocess.run(["bridge", "-batch", str(directory / "fdb")], check=True, capture_output=True)
    subprocess.run(["ip", "-batch", str(directory / "ip")], check=True, capture_output=True)
    spent, cpu = time.perf_counter() - began, children_cpu() - cpu
    subprocess.run(["ip", "link", "del", "swx0"], check=True)
    return spent, cpu


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def endpoints(directory: Path) -> dict[str, list[float]]:
    """Load 100,000 endpoints, change one backend at a time, compare."""
    overlay = Overlay(netns_dir=directory / "pins", tag="bench")
    found: dict[str, list[float]] = {name: [] for name in ("added", "removed", "added_cpu", "removed_cpu")}
    await overlay.start()
    base = wanted()
    known = list(services())
    began = time.perf_counter()
    await overlay.apply(dataclasses.replace(base, services=tuple(known)))
    found["load"] = [time.perf_counter() - began]
    await one_change(overlay, base, known, 0, range(BACKENDS - 1))  # the first one learns whose the keys are
    await one_change(overlay, base, known, 0, range(BACKENDS))
    for number in range(1, CHANGES + 1):
        for name, tasks in (("removed", range(BACKENDS - 1)), ("added", range(BACKENDS))):
            spent, cpu = await one_change(overlay, base, known, number, tasks)
            found[name].append(spent)
            found[name + "_cpu"].append(cpu)
    began = time.perf_counter()
    problems = await overlay.verify()
    found["verify"] = [time.perf_counter() - began]
    assert not problems, problems[:3]
    await overlay.stop(teardown=True)
    return found


async def one_change(
    overlay: Overlay, base: Wanted, known: list[Service], number: int, tasks: range
) -> tuple[float, float]:
    known[number] = service(number, tasks)
    want = dataclasses.replace(base, services=tuple(known))
    began, cpu = time.perf_counter(), time.process_time()
    await overlay.apply(want)
    return time.perf_counter() - began, time.process_time() - cpu


def inside() -> None:
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as name:
        routes = program_routes(Path(name))
        print(json.dumps({"routes": routes, "endpoints": asyncio.run(endpoints(Path(name)))}))


def main(rounds: int) -> harness.Report:
    found = []
    for number in range(rounds):
        argv = ["unshare", "-n", sys.executable, "-m", "bench.overlay_scale", "--inside"]
        found.append(json.loads(harness.command(argv, 300)))
        harness.say(f"round {number + 1} of {rounds}")
    report = harness.Report(
        f"{NODES} nodes, {SERVICES} services of {BACKENDS} tasks, one node's kernel", "ip -batch"
    )
    routes = [each["routes"] for each in found]
    for suffix, words in (("", ""), ("_cpu", ", CPU time")):
        mine, theirs = ([each[who + suffix] * 1e3 for each in routes] for who in ("ours", "tools"))
        report.rows.append(harness.Row(f"{NODES} nodes programmed{words}", "ms", mine, theirs, "≤ 50 ms"))
    for name in ("added", "removed"):
        for suffix, words in (("", ""), ("_cpu", ", CPU time")):
            values = [spent * 1e3 for each in found for spent in each["endpoints"][name + suffix]]
            target = "≤ 1 ms" if name == "added" else ""
            row = harness.Row(
                f"one backend {name}{words}", "ms", values, [], target, peer_missing="no such tool"
            )
            report.rows.append(row)
    for name, words in (("load", "all endpoints loaded"), ("verify", "compared with the kernel")):
        values = [each["endpoints"][name][0] for each in found]
        report.rows.append(harness.Row(words, "s", values, [], peer_missing="no such tool"))
    return report


if __name__ == "__main__":
    if "--inside" in sys.argv:
        assert os.geteuid() == 0
        inside()
    else:
        given = harness.parser(__doc__, rounds=3).parse_args()
        harness.run(lambda: main(given.rounds), given.format)
