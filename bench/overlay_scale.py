"""A large cluster on one node's kernel: other nodes' routes, one backend of many, a restart.

In a network namespace of its own the overlay is given 1,000 nodes, then 1,000 services with 100 tasks each. Shown are
the time to send the kernel what 1,000 nodes need (nexthops, routes, neighbours, forwarding entries, rules), beside
`ip -batch` and `bridge -batch` for the same entries; the time of one change of one backend, from the wanted value to
the committed transaction, also of one that UDP flows were led to, which are looked for and forgotten; and what the
first load and a comparison with the kernel take. Beside that what the agent and the DNS process have to do for the
same change: from the managers' delta to the kept assignments and the DNS table's file, and from there to the names.
CPU time is that of the process and of the kernel on its behalf: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from swarmpy.node import items
from swarmpy.node.agent import picture
from swarmpy.node.agent.dns_table import DnsTable
from swarmpy.node.agent.keep import Keep
from swarmpy.node.agent.picture import Picture
from swarmpy.node.items import Items
from swarmpy.overlay import rules
from swarmpy.overlay.kernel import Kernel, additions_of
from swarmpy.overlay.names import Zone
from swarmpy.overlay.nametable import Table
from swarmpy.overlay.plane import Overlay
from swarmpy.overlay.rules import State
from swarmpy.overlay.tablefile import TableFile
from swarmpy.overlay.wanted import Backend, Network, Node, Service, Wanted
from swarmpy.proto import dispatcher_pb2

from bench import harness

NODES, SERVICES, BACKENDS = 1000, 1000, 100
CHANGES, UDP_CHANGES = 40, 10
CHANGED = {"added": "added", "removed": "removed", "removed_udp": "removed that UDP flows were led to"}


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
    found: dict[str, list[float]] = {name + part: [] for name in CHANGED for part in ("", "_cpu")}
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
    for number in range(CHANGES + 1, CHANGES + 1 + UDP_CHANGES):
        lead_udp(number)
        spent, cpu = await one_change(overlay, base, known, number, range(BACKENDS - 1))
        found["removed_udp"].append(spent)
        found["removed_udp_cpu"].append(cpu)
    began = time.perf_counter()
    problems = await overlay.verify()
    found["verify"] = [time.perf_counter() - began]
    assert not problems, problems[:3]
    await overlay.stop(teardown=True)
    return found


def lead_udp(number: int) -> None:
    """So many UDP flows to a virtual address that every backend has some."""
    for _ in range(BACKENDS * 10):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"?", (f"10.65.{number >> 8}.{number & 255}", 9))


async def one_change(
    overlay: Overlay, base: Wanted, known: list[Service], number: int, tasks: range
) -> tuple[float, float]:
    known[number] = service(number, tasks)
    want = dataclasses.replace(base, services=tuple(known))
    began, cpu = time.perf_counter(), time.process_time()
    await overlay.apply(want)
    return time.perf_counter() - began, time.process_time() - cpu


def agent_items() -> Items:
    """What a node of such a cluster holds."""
    found = {f"endpoints/s{number:04}": endpoints_item(number, BACKENDS) for number in range(SERVICES)}
    network = dispatcher_pb2.NetworkAssignment(id="d", name="d", subnet="10.68.0.0/14", is_default=True)
    for node_id, block in wanted().networks[0].blocks:
        network.blocks.add(node_id=node_id, cidr=block)
    found["network/d"] = items.encode(dispatcher_pb2.Item(network=network))
    config = dispatcher_pb2.NodeConfig(index=1, cluster_cidr="10.64.0.0/10", vxlan_port=4790, mtu=1450)
    found["node/self"] = items.encode(dispatcher_pb2.Item(node=config))
    for each in nodes():
        peer = dispatcher_pb2.PeerNode(
            id=each.id,
            index=each.index,
            hostname=each.id,
            address=each.address,
            data_path_address=each.underlay,
        )
        found[f"peer/{each.id}"] = items.encode(dispatcher_pb2.Item(peer=peer))
    return found


def endpoints_item(number: int, tasks: int) -> bytes:
    made = dispatcher_pb2.ServiceEndpoints(service_id=f"s{number:04}", service_name=f"web{number}")
    made.vips.add(network_id="d", address=f"10.65.{number >> 8}.{number & 255}")
    for task in range(tasks):
        backend = made.backends.add(
            task_id=f"t{number}.{task}", node_id=f"n{1 + (number * BACKENDS + task) % NODES}",
            slot=task + 1, task_name=f"web{number}.{task + 1}.{number}x{task}",
        )  # fmt: skip
        backend.addresses.add(network_id="d", address=address(number, task))
    return items.encode(dispatcher_pb2.Item(endpoints=made))


def processes(directory: Path) -> dict[str, list[float]]:
    """CPU time of one change in the agent, but for the kernel's part, and in the DNS process."""
    held = agent_items()
    keep, seen = Keep(directory / "agent"), Picture.of(held)
    table, file, zone = DnsTable(directory / "table"), TableFile(directory / "table"), Zone(Table())
    found: dict[str, list[float]] = {"agent_cpu": [], "dns_cpu": []}
    holds = items.digest(held)
    for change in range(CHANGES):
        number = (change + 1) // 2
        after = {**held, f"endpoints/s{number:04}": endpoints_item(number, BACKENDS - change % 2)}
        (message,) = items.deltas(held, after, complete=False) if change else (None,)
        began = time.process_time()
        if message is not None:
            new = items.apply(held, message, holds)
            assert new is not None
            seen, held, holds = seen.follow(held, new), new, message.results_in
        picture.wanted_network(seen, "n1", [])
        keep.save_items(held, holds)
        head = picture.dns_head(seen, "n1", [], ["192.0.2.53"])
        table.write(head, seen.raw_endpoints, functools.partial(picture.dns_service, seen))
        written = time.process_time()
        changes = file.read(changed=True)
        assert changes is not None
        for service in changes.put:
            zone.put(service)
        if change:  # the first one is everything
            found["agent_cpu"].append(written - began)
            found["dns_cpu"].append(time.process_time() - written)
    return found


def inside() -> None:
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-") as name:
        directory = Path(name)
        found = {
            "routes": program_routes(directory), "endpoints": asyncio.run(endpoints(directory)),
            "processes": processes(directory),
        }  # fmt: skip
        print(json.dumps(found))


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
    for name, what in CHANGED.items():
        for suffix, words in (("", ""), ("_cpu", ", CPU time")):
            values = [spent * 1e3 for each in found for spent in each["endpoints"][name + suffix]]
            target = "" if name == "removed_udp" else "≤ 1 ms"
            report.rows.append(
                harness.Row(
                    f"one backend {what}{words}", "ms", values, [], target, peer_missing="no such tool"
                )
            )
    for name, words in (("agent_cpu", "the agent besides"), ("dns_cpu", "the DNS process")):
        values = [spent * 1e3 for each in found for spent in each["processes"][name]]
        row = harness.Row(f"for that, CPU time of {words}", "ms", values, [], peer_missing="no such tool")
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
