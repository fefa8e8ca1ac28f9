"""Random network policies: what `network policy test` answers is what packets between real pods meet.

`SEED=7 ROUNDS=20 .venv/bin/pytest tests/integration/test_policy_packets.py` tries others; a failure names its own.
Run with an argument this file is one node (JSON lines in its namespace) or, with `pod`, one pod's program.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.agent.picture import Picture, subnets, wanted_network
from swarmpy.node.manager.assignments import SharedItems, node_items
from swarmpy.node.manager.diagnosis import test_policy as policy_answer
from swarmpy.node.plan import addresses as plan_addresses
from swarmpy.overlay import ipam
from swarmpy.overlay.plane import Overlay
from swarmpy.proto import diagnosis_pb2, objects_pb2, store_pb2, types_pb2

from tests.store_world import World

ROOT = Path(__file__).resolve().parent.parent.parent
MISSING = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
UNDERLAY = {"a": "10.9.0.1", "b": "10.9.0.2", "x": "10.9.0.100"}
NETWORKS = {"one": "10.72.0.0/18", "two": "10.72.64.0/18"}
# service: node, addresses by network
SERVICES = {
    "web": ("a", {"one": "10.72.0.5"}),
    "api": ("a", {"one": "10.72.0.6"}),
    "db": ("b", {"one": "10.72.0.69"}),
    "both": ("b", {"one": "10.72.0.70", "two": "10.72.64.69"}),
    "side": ("a", {"two": "10.72.64.5"}),
}
NETWORKS6 = {"one": 2}  # the number of its /64 in the cluster's prefix
SIX = Path("/proc/sys/net/ipv6").exists()
PUBLISHED = 8080
TCP_PORTS, UDP_PORT = (80, 81), 80
LABELS = {"app": ("web", "db"), "tier": ("front", "back")}
ROUNDS = int(os.environ.get("ROUNDS", "2"))
TCP, UDP = types_pb2.PROTOCOL_TCP, types_pb2.PROTOCOL_UDP


# One node, and one pod


async def node(directory: str, tag: str) -> None:
    overlay = Overlay(netns_dir=Path(directory), tag=tag)
    await overlay.start()
    picture = Picture()
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "apply":
                items = {key: base64.b64decode(data) for key, data in request["items"].items()}
                picture = Picture.of(items)
                wanted = wanted_network(picture, tag, ())
                assert wanted is not None
                await overlay.apply(wanted)
                answer: Any = await overlay.verify()
            case "attach":
                addresses = [
                    objects_pb2.TaskAddress(
                        network_id=network, address=address, address6=address6(tag, network, address)
                    )
                    for network, address in request["addresses"].items()
                ]
                answer = str((await overlay.attach(request["pod"], subnets(picture, addresses))).netns_path)
            case _:
                await overlay.stop(teardown=True)
                answer = None
        print(json.dumps(answer), flush=True)


class Udp(asyncio.DatagramProtocol):
    """A client waits for its answer; a server echoes."""

    def __init__(self, server: bool) -> None:
        self.server = server
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.server:
            self.transport.sendto(data, addr)  # type: ignore[attr-defined]
        elif not self.answered.done():
            self.answered.set_result(True)

    def error_received(self, exc: Exception) -> None:
        if not self.answered.done():
            self.answered.set_result(False)


async def probe(protocol: str, address: str, port: int) -> bool | str:
    try:
        async with asyncio.timeout(5):
            if protocol == "tcp":
                _, writer = await asyncio.open_connection(address, port)
                writer.close()
                return True
            transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: Udp(False), remote_addr=(address, port)
            )
            transport.sendto(b"?")
            try:
                async with asyncio.timeout(1):
                    return await client.answered
            except TimeoutError:
                return False  # the kernel says "unreachable" a few times a second only
            finally:
                transport.close()
    except ConnectionRefusedError:
        return False
    except (TimeoutError, OSError) as error:
        return False if error.errno == errno.ENETUNREACH else repr(error)


async def pod() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for port in TCP_PORTS:
        await asyncio.start_server(greet, None, port)
    everywhere = "::" if SIX else "0.0.0.0"
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Udp(True), local_addr=(everywhere, UDP_PORT)
    )
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        found = await asyncio.gather(*(probe(*each) for each in json.loads(line)))
        print(json.dumps(found), flush=True)


class Program:
    """A program in a namespace that answers JSON lines."""

    def __init__(self, namespace: str, *arguments: str) -> None:
        command = ["nsenter", f"--net={namespace}", sys.executable, __file__, *arguments]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / '.src'}:{ROOT}"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read(self) -> Any:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def send(self, request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def call(self, request: Any) -> Any:
        self.send(request)
        return json.loads(self.read())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Site:
    """Hosts a and b, an outside client x, a pod for every service."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prefix = f"pol{os.getpid()}"
        self.nodes: dict[str, Program] = {}
        self.pods: dict[str, Program] = {}

    def build(self, items: dict[str, dict[str, bytes]]) -> None:
        switch = f"{self.prefix}sw"
        sh("ip", "netns", "add", switch)
        sh("ip", "-n", switch, "link", "add", "br0", "up", "type", "bridge")
        for name, address in UNDERLAY.items():
            space = self.prefix + name
            sh("ip", "netns", "add", space)
            sh("ip", "-n", switch, "link", "add", f"p{name}", "up", "master", "br0", "type", "veth",
               "peer", "name", "eth0", "netns", space)  # fmt: skip
            sh("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "lo", "up")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
        for name in "ab":
            self.nodes[name] = Program(f"/run/netns/{self.prefix}{name}", str(self.root / name), name)
        self.apply(items)
        for service, (host, addresses) in SERVICES.items():
            pin = self.nodes[host].call({"do": "attach", "pod": f"t-{service}", "addresses": addresses})
            self.pods[service] = Program(pin, "pod")
        self.pods["x"] = Program(f"/run/netns/{self.prefix}x", "pod")
        self.pods["node"] = Program(f"/run/netns/{self.prefix}a", "pod")
        for program in self.pods.values():
            assert program.read() == "ready\n"

    def apply(self, items: dict[str, dict[str, bytes]]) -> None:
        for name, program in self.nodes.items():
            encoded = {key: base64.b64encode(data).decode() for key, data in items[name].items()}
            assert program.call({"do": "apply", "items": encoded}) == [], "the kernel differs"

    def destroy(self) -> None:
        for program in self.pods.values():
            program.end()
        for program in self.nodes.values():
            with contextlib.suppress(ValueError, OSError):
                program.call({"do": "stop"})
            program.end()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.root}/")]):
            subprocess.run(["umount", "-l", mount], check=False)
        for name in (*UNDERLAY, "sw"):
            subprocess.run(["ip", "netns", "del", self.prefix + name], check=False, capture_output=True)


# The cluster's objects


def named(message: Any, identity: str, name: str = "") -> Any:
    message.meta.id, message.meta.name = identity, name or identity
    return message


def subnet6(network: str) -> str:
    """Of a network that has IPv6, else ""."""
    if not SIX or network not in NETWORKS6:
        return ""
    prefix = next(plan_addresses.prefix6("cluster").subnets(new_prefix=64))
    return str(ip_network((int(prefix.network_address) + (NETWORKS6[network] << 64), 64)))


def address6(host: str, network: str, address: str) -> str:
    subnet = subnet6(network)
    return ipam.address6(address, subnet, "ab".index(host) + 1) if subnet else ""


def first_objects() -> Iterator[Any]:
    cluster = named(objects_pb2.Cluster(vxlan_port=4790, mtu=1450), "cluster")
    cluster.spec.cluster_cidr = "10.64.0.0/10"
    yield cluster
    for index, name in enumerate("ab", 1):
        made = named(objects_pb2.Node(index=index), name)
        made.description.hostname, made.description.address = name, UNDERLAY[name]
        made.status.state = types_pb2.NODE_READY
        yield made
    for service, (host, addresses) in SERVICES.items():
        task = objects_pb2.Task(
            service_id=service,
            service_name=service,
            slot=1,
            node_id=host,
            desired_state=types_pb2.TASK_RUNNING,
        )
        task.status.state, task.status.ready = types_pb2.TASK_RUNNING, True
        for network, address in addresses.items():
            six = address6(host, network, address)
            task.status.addresses.add(network_id=network, address=address, address6=six)
        yield named(task, f"t-{service}", f"{service}.1.x")


def networks(denied: set[str]) -> Iterator[Any]:
    for name, subnet in NETWORKS.items():
        base = subnet.removesuffix(".0/18")
        network = objects_pb2.Network(
            subnet=subnet, subnet6=subnet6(name), spec=objects_pb2.NetworkSpec(default_deny=name in denied)
        )
        for host, block in (("a", f"{base}.0/26"), ("b", f"{base}.64/26")):
            network.blocks.add(node_id=host, cidr=block)
        yield named(network, name)


def services(labels: dict[str, dict[str, str]]) -> Iterator[Any]:
    for name, (_, addresses) in SERVICES.items():
        service = objects_pb2.Service()
        service.meta.labels.update(labels[name])
        service.spec.task.networks.extend(types_pb2.NetworkReference(target=network) for network in addresses)
        if name == "db":
            service.endpoint.ports.add(published=PUBLISHED, target=80)
        yield named(service, name)


def random_policy(choose: random.Random, number: int) -> Any:
    def selector() -> objects_pb2.PolicySelector:
        kind = choose.randrange(6)
        if kind == 0:
            return objects_pb2.PolicySelector()
        if kind == 1:
            return objects_pb2.PolicySelector(labels={"service.name": choose.choice(list(SERVICES))})
        keys = choose.sample(list(LABELS), 1 if kind < 5 else 2)
        return objects_pb2.PolicySelector(labels={key: choose.choice(LABELS[key]) for key in keys})

    def block() -> objects_pb2.PolicyBlock:
        return choose.choice(
            [
                objects_pb2.PolicyBlock(cidr="0.0.0.0/0"),
                objects_pb2.PolicyBlock(cidr="10.9.0.0/24", excluded=["10.9.0.96/28"]),
                objects_pb2.PolicyBlock(cidr="10.9.0.100/32"),
                objects_pb2.PolicyBlock(cidr="::/0"),
                objects_pb2.PolicyBlock(cidr="fd00::/8", excluded=["fd00::/9"]),
                objects_pb2.PolicyBlock(cidr="10.72.0.0/16", excluded=["10.72.0.0/29", "10.72.64.0/26"]),
            ]
        )

    def port() -> objects_pb2.PolicyPort:
        protocol, first, last = choose.choice([(TCP, 80, 0), (TCP, 81, 0), (TCP, 1, 80), (UDP, 80, 0)])
        return objects_pb2.PolicyPort(protocol=protocol, first=first, last=last)

    spec = objects_pb2.PolicySpec(
        direction=choose.choice([objects_pb2.POLICY_INGRESS, objects_pb2.POLICY_EGRESS]),
        subjects=[selector() for _ in range(choose.randint(1, 2))],
        peers=[selector() for _ in range(choose.randint(0, 2))],
        blocks=[block() for _ in range(choose.choice([0, 0, 1, 2]))],
        ports=[port() for _ in range(choose.randint(0, 2))],
        network=choose.choice(["", "", "one", "two"]),
    )
    return named(objects_pb2.Policy(spec=spec), f"p{number}")


class Cluster:
    """A store with the objects, and what each node is told."""

    def __init__(self) -> None:
        self.world = World()
        self.hosts = {name: host for name, (host, _) in SERVICES.items()}
        self.shared = SharedItems(self.world.store)
        self.world.store.listeners.append(lambda commit: self.shared.feed(commit.events) and None)
        self.world.put(*first_objects(), *networks(set()), *services({key: {} for key in SERVICES}))

    def items(self) -> dict[str, dict[str, bytes]]:
        self.shared.refresh()
        anew = SharedItems(self.world.store)
        assert self.shared.items == anew.items
        return {name: {**self.shared.items, **node_items(self.world.store, name)} for name in "ab"}

    def random(self, choose: random.Random) -> None:
        labels = {
            name: {key: choose.choice(values) for key, values in LABELS.items() if choose.random() < 0.7}
            for name in SERVICES
        }
        denied = {name for name in NETWORKS if choose.random() < 0.25}
        for identity in [policy.meta.id for policy in self.world.store.policies()]:
            self.world.delete(store_pb2.KIND_POLICY, identity)
        policies = [random_policy(choose, number) for number in range(choose.randint(1, 4))]
        self.world.put(*networks(denied), *services(labels), *policies)

    def connections(self, source: str) -> Iterator[tuple[tuple[str, str, int], bool]]:
        """Every connection a service could open, and whether it may."""
        for target, (_, addresses) in SERVICES.items():
            for network, (protocol, port) in itertools.product(addresses, ((TCP, 80), (TCP, 81), (UDP, 80))):
                word = "udp" if protocol == UDP else "tcp"
                found = [addresses[network], address6(self.hosts[target], network, addresses[network])]
                for address in filter(None, found):
                    allowed = self.decide(source, address, protocol, port, network)
                    yield (word, address, port), allowed

    def decide(self, source: str, target: str, protocol: types_pb2.Protocol, port: int, network: str) -> bool:
        answer = policy_answer(
            self.world.store,
            diagnosis_pb2.PolicyTestRequest(source=source, target=target, protocol=protocol, port=port),
        )
        return {verdict.network: verdict.allowed for verdict in answer.verdicts}.get(network, False)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    built = Site(tmp_path)
    try:
        built.build(cluster.items())
        yield built
    finally:
        built.destroy()


def test_decision_and_packets_agree(site: Site, cluster: Cluster) -> None:
    seed = int(os.environ.get("SEED", "5"))
    outcomes = {True: 0, False: 0}
    for number in range(ROUNDS):
        cluster.random(random.Random(seed * 1000 + number))
        site.apply(cluster.items())
        expected = {source: list(cluster.connections(source)) for source in SERVICES}
        for source, connections in expected.items():
            site.pods[source].send([connection for connection, _ in connections])
        for source, connections in expected.items():
            for got, (what, allowed) in zip(json.loads(site.pods[source].read()), connections, strict=True):
                assert got == allowed, f"seed {seed} round {number}: {source} to {what}"
                outcomes[allowed] += 1
        # From outside through the mesh, in at a and over to db on b; and from a node itself.
        allowed = cluster.decide("10.9.0.100", "db", TCP, 80, "one")
        assert site.pods["x"].call([("tcp", UNDERLAY["a"], PUBLISHED)]) == [allowed], f"round {number}"
        assert site.pods["node"].call([("tcp", "10.72.0.69", 80), ("tcp", "10.72.0.5", 80)]) == [True, True]
    assert min(outcomes.values()) > 20, "the policies decide nothing"


if __name__ == "__main__":
    asyncio.run(pod() if sys.argv[1] == "pod" else node(sys.argv[1], sys.argv[2]))
