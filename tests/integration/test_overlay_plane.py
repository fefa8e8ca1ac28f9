"""The overlay of three hosts: network namespaces around a switch namespace, real pods, real packets.

Run with an argument this file is one node: it builds an `Overlay` in its namespace and obeys JSON lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from swarmpy.overlay import ipam
from swarmpy.overlay.plane import Overlay, OverlayError
from swarmpy.overlay.wanted import Backend, Network, Node, Policy, PortMap, Service, Wanted

T = TypeVar("T")
MISSING = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
CLUSTER = "10.64.0.0/10"
UNDERLAY = {"a": "10.9.0.1", "b": "10.9.0.2", "c": "10.9.0.3", "x": "10.9.0.100"}
VIP, VIP_EMPTY, VIP_OTHER = "10.65.0.2", "10.65.0.3", "10.65.0.4"
ONE = ("one", "10.72.0.0/18")
TWO = ("two", "10.72.64.0/18")
PODS = {
    "pod-a1": ("a", (("one", "10.72.0.5", ONE[1]),)),
    "pod-a2": ("a", (("one", "10.72.0.6", ONE[1]),)),
    "pod-b1": ("b", (("one", "10.72.0.69", ONE[1]),)),
    "pod-a3": ("a", (("two", "10.72.64.5", TWO[1]),)),
    "pod-b2": ("b", (("two", "10.72.64.69", TWO[1]),)),
    "pod-a4": ("a", (("one", "10.72.0.7", ONE[1]), ("two", "10.72.64.6", TWO[1]))),
}
SERVER = """
import socket, sys, threading
name = sys.argv[1]
s = socket.create_server(("0.0.0.0", 80), backlog=64)
def tcp():
    while True:
        c, peer = s.accept()
        threading.Thread(target=serve, args=(c, peer), daemon=True).start()
def serve(c, peer):
    with c:
        while data := c.recv(100):
            c.sendall(f"{name} {peer[0]}".encode())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 80))
threading.Thread(target=tcp, daemon=True).start()
print("ready", flush=True)
while True:
    data, peer = u.recvfrom(100)
    u.sendto(f"{name} {peer[0]}".encode(), peer)
"""


# One node: a child process in the node's namespace


def decode_wanted(data: dict[str, Any]) -> Wanted:
    def pairs(values: list[list[str]]) -> tuple[tuple[str, str], ...]:
        return tuple((a, b) for a, b in values)

    services = tuple(
        Service(
            s["id"],
            pairs(s["vips"]),
            tuple(PortMap(**p) for p in s["ports"]),
            tuple(
                Backend(b["task_id"], b["node_id"], pairs(b["addresses"]), b["weight"]) for b in s["backends"]
            ),
            s["affinity"],
            s["prefer_local"],
        )
        for s in data["services"]
    )
    networks = tuple(Network(**{**n, "blocks": pairs(n["blocks"])}) for n in data["networks"])
    return Wanted(
        data["self_id"], data["cluster_cidr"], data["vxlan_port"], data["mtu"],
        tuple(Node(**n) for n in data["nodes"]), networks, services,
        tuple((a, b, c, d, e) for a, b, c, d, e in data["host_ports"]), prefix6=data["prefix6"],
        policies=tuple(decode_policy(p) for p in data["policies"]),
    )  # fmt: skip


def decode_policy(data: dict[str, Any]) -> Policy:
    blocks = tuple((cidr, tuple(excluded)) for cidr, excluded in data["blocks"])
    ports = tuple((protocol, first, last) for protocol, first, last in data["ports"])
    pods, peers = tuple(data["pods"]), tuple(data["peers"])
    return Policy(data["id"], data["direction"], data["network_id"], pods, peers, blocks, ports)


async def obey(directory: str, tag: str) -> None:
    overlay = Overlay(netns_dir=Path(directory), tag=tag)
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "new":
                overlay = Overlay(netns_dir=Path(directory), tag=tag)
                work = overlay.start()
            case "start":
                work = overlay.start()
            case "apply":
                work = overlay.apply(decode_wanted(request["wanted"]))
            case "attach":
                work = overlay.attach(request["pod"], tuple((a, b, c) for a, b, c in request["addresses"]))
            case "detach":
                work = overlay.detach(request["pod"])
            case "pods":
                work = overlay.pods()
            case "verify":
                work = overlay.verify()
            case "counts":
                work = overlay.vip_counts()
            case "near":
                work = near(overlay)
            case "repair":
                work = overlay.repair()
            case _:
                work = overlay.stop(teardown=request["teardown"])
        try:
            answer = await work
        except OverlayError as error:
            reply: dict[str, Any] = {"error": str(error)}
        else:
            reply = {"ok": dataclasses.asdict(answer) if dataclasses.is_dataclass(answer) else answer}
        print(json.dumps(reply, default=lambda o: getattr(o, "__dict__", None) or str(o)), flush=True)


async def near(overlay: Overlay) -> list[str]:
    return sorted((await overlay.probe_near())[1])


class Child:
    """A node's process; calls raise RuntimeError with the node's own message."""

    def __init__(self, namespace: Path, directory: Path, tag: str) -> None:
        command = ["nsenter", f"--net={namespace}", sys.executable, __file__, str(directory), tag]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, do: str, **more: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["ok"]

    def close(self) -> None:
        end(self.process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def within(namespace: Path, function: Callable[[], T]) -> T:
    """Call `function` in a thread that has entered a network namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        with namespace.open() as handle:
            assert ctypes.CDLL(None).setns(handle.fileno(), 0x40000000) == 0
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def host_settings() -> tuple[str, str]:
    names = ("ip_forward", "conf/all/route_localnet", "conf/all/rp_filter", "conf/default/rp_filter")
    settings = [(Path("/proc/sys/net/ipv4") / name).read_text() for name in names]
    return "".join(settings), sh("nft", "list", "tables")


AnySite = TypeVar("AnySite", bound="Site")


class Site:
    """Switch, hosts a b c, an outside client x, the nodes' processes and the pods' servers."""

    letters = "ovl"
    pods = PODS
    server = SERVER

    def __init__(self, root: Path) -> None:
        self.prefix = f"{self.letters}{os.getpid()}"
        self.root = root
        self.nodes: dict[str, Child] = {}
        self.servers: dict[str, subprocess.Popen[str]] = {}
        self.pins: dict[str, Path] = {}

    def host(self, name: str) -> Path:
        return Path("/run/netns") / f"{self.prefix}{name}"

    def build(self) -> None:
        switch = f"{self.prefix}sw"
        sh("ip", "netns", "add", switch)
        sh("ip", "-n", switch, "link", "add", "br0", "up", "type", "bridge")
        for name, address in UNDERLAY.items():
            space = f"{self.prefix}{name}"
            sh("ip", "netns", "add", space)
            sh("ip", "-n", switch, "link", "add", f"p{name}", "up", "master", "br0", "type", "veth",
               "peer", "name", "eth0", "netns", space)  # fmt: skip
            sh("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "lo", "up")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
        before = host_settings()
        for name in "abc":
            self.nodes[name] = Child(self.host(name), self.root / name, name)
            self.nodes[name].call("start")
        self.apply(self.services())
        for pod in self.pods:
            self.attach(pod)
        assert host_settings() == before, "the machine's own network was changed"

    def attach(self, pod: str) -> None:
        node, addresses = self.pods[pod]
        answer = self.nodes[node].call("attach", pod=pod, addresses=addresses)
        self.pins[pod] = self.root / node / pod
        assert answer["addresses"] == [address for _, address, _ in addresses]
        command = ["nsenter", f"--net={self.pins[pod]}", sys.executable, "-c", self.server, pod]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.servers[pod] = server
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def services(self) -> tuple[Service, ...]:
        return services()

    def wanted(self, name: str, wanted_services: tuple[Service, ...], **changes: Any) -> Wanted:
        return wanted(name, wanted_services, **changes)

    def apply(self, wanted_services: tuple[Service, ...], **changes: Any) -> dict[str, Any]:
        return {
            name: node.call("apply", wanted=dataclasses.asdict(self.wanted(name, wanted_services, **changes)))
            for name, node in self.nodes.items()
        }

    def destroy(self) -> None:
        """Ask the nodes to remove all, then remove by force what a failure left."""
        for server in self.servers.values():
            end(server)
        errors = []
        for node in self.nodes.values():
            try:
                node.call("stop", teardown=True)
            except (RuntimeError, ValueError, OSError) as error:
                errors.append(error)
            node.close()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.root}/")]):
            subprocess.run(["umount", "-l", mount], check=False)
        for name in (*UNDERLAY, "sw"):
            subprocess.run(["ip", "netns", "del", f"{self.prefix}{name}"], check=False, capture_output=True)
        if errors:
            raise errors[0]


def wanted(name: str, wanted_services: tuple[Service, ...], **changes: Any) -> Wanted:
    nodes = tuple(Node(n, i, UNDERLAY[n], UNDERLAY[n]) for i, n in enumerate("abc", start=1))
    networks = tuple(
        Network(key, key, subnet, key == "two", (("a", f"{base}.0/26"), ("b", f"{base}.64/26")))
        for (key, subnet), base in ((ONE, "10.72.0"), (TWO, "10.72.64"))
    )
    host_ports = (("tcp", 9090, "10.72.0.5", 80, ""),) if name == "a" else ()
    built = Wanted(name, CLUSTER, 4790, 1450, nodes, networks, wanted_services, host_ports)
    return dataclasses.replace(built, **changes)


def services(*pods: str) -> tuple[Service, ...]:
    backends = tuple(
        Backend(pod, PODS[pod][0], tuple((n, ip) for n, ip, _ in PODS[pod][1]))
        for pod in pods or ("pod-a1", "pod-a2", "pod-b1")
    )
    ports = (
        PortMap("tcp", 8080, 80, "ingress"),
        PortMap("udp", 8080, 80, "ingress"),
        PortMap("tcp", 8081, 80, "ingress", "10.9.0.2"),
        PortMap("tcp", 8082, 80, "ingress", "127.0.0.1"),
    )
    other = Backend("pod-b2", "b", (("two", "10.72.64.69"),))
    return (
        Service("web", (("one", VIP),), ports, backends),
        Service("empty", (("one", VIP_EMPTY),), (PortMap("tcp", 8090, 80, "ingress"),), ()),
        Service("other", (("two", VIP_OTHER),), (), (other,)),
    )


@contextlib.contextmanager
def standing(built: AnySite) -> Iterator[AnySite]:
    """A site from its building to its end."""
    try:
        built.build()
        yield built
    finally:
        built.destroy()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with standing(Site(tmp_path_factory.mktemp("overlay"))) as built:
        yield built


# Clients


def connect(host: str, port: int, source: str = "") -> socket.socket:
    return socket.create_connection((host, port), timeout=3, source_address=(source, 0) if source else None)


def ask(namespace: Path, host: str, port: int, source: str = "") -> tuple[str, str]:
    """(name of the pod that answered, client address it saw) over a new TCP connection."""

    def run() -> tuple[str, str]:
        with connect(host, port, source) as client:
            client.sendall(b"?")
            name, peer = client.recv(100).decode().split()
            return name, peer

    return within(namespace, run)


def ask_udp(namespace: Path, host: str, port: int) -> tuple[str, str]:
    def run() -> tuple[str, str]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(3)
            client.connect((host, port))
            client.send(b"?")
            name, peer = client.recv(100).decode().split()
            return name, peer

    return within(namespace, run)


def refused(namespace: Path, host: str, port: int) -> bool:
    """Whether a connection is refused at once; a silent drop is a TimeoutError."""
    try:
        ask(namespace, host, port)
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def answering(namespace: Path, host: str, port: int, rounds: int = 24) -> set[str]:
    return {ask(namespace, host, port)[0] for _ in range(rounds)}


ALL = {"pod-a1", "pod-a2", "pod-b1"}


def test_pods_reach_each_other_across_nodes(site: Site) -> None:
    assert ask(site.pins["pod-a1"], "10.72.0.69", 80) == ("pod-b1", "10.72.0.5")
    assert ask(site.pins["pod-b1"], "10.72.0.5", 80) == ("pod-a1", "10.72.0.69")
    assert ask(site.pins["pod-a1"], "10.72.0.6", 80) == ("pod-a2", "10.72.0.5")
    assert ask_udp(site.pins["pod-b1"], "10.72.0.6", 80) == ("pod-a2", "10.72.0.69")


def test_nodes_reach_pods(site: Site) -> None:
    assert ask(site.host("a"), "10.72.0.5", 80) == ("pod-a1", "10.64.0.1")
    assert ask(site.host("c"), "10.72.0.69", 80) == ("pod-b1", "10.64.0.3")


@pytest.mark.parametrize("source", ["pod-a1", "pod-b1"])
def test_virtual_address_from_pods_balances_and_keeps_the_source(site: Site, source: str) -> None:
    answers = {ask(site.pins[source], VIP, 80) for _ in range(24)}
    assert {name for name, _ in answers} == ALL
    own = PODS[source][1][0][1]
    assert {peer for name, peer in answers if name != source} == {own}


def test_virtual_address_from_nodes_even_without_local_backend(site: Site) -> None:
    assert answering(site.host("a"), VIP, 80) == ALL
    assert answering(site.host("c"), VIP, 80) == ALL
    assert ask_udp(site.host("c"), VIP, 80)[0] in ALL


def test_what_is_opened_to_a_virtual_address_is_counted_on_its_own_node_and_once(site: Site) -> None:
    before = {name: node.call("counts") for name, node in site.nodes.items()}
    with within(site.pins["pod-a1"], lambda: connect(VIP, 80)) as kept:
        for _ in range(20):
            kept.sendall(b"?")
            assert kept.recv(100)
    assert refused(site.host("a"), VIP_EMPTY, 80)
    with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
        within(site.pins["pod-a1"], lambda: socket.create_connection(("10.65.7.7", 80), 0.2))
    after = {name: node.call("counts") for name, node in site.nodes.items()}
    assert after["a"][VIP] - before["a"].get(VIP, 0) == 1, "a connection is one, whatever is sent on it"
    assert after["a"][VIP_EMPTY] - before["a"].get(VIP_EMPTY, 0) == 1, "also where nobody answers"
    assert (after["b"], after["c"]) == (before["b"], before["c"])
    assert "10.65.7.7" not in after["a"]
    met = ("nft", "list", "set", "ip", "swarmpy-lb", "vip_met")
    assert "10.65.7.7" not in sh("nsenter", f"--net={site.host('a')}", *met), "nothing is kept of strangers"
    assert site.nodes["a"].call("verify") == []


def test_published_port_answers_on_every_node_and_keeps_the_client_address(site: Site) -> None:
    for node in "abc":
        answers = {ask(site.host("x"), UNDERLAY[node], 8080) for _ in range(24)}
        assert answers == {(name, UNDERLAY["x"]) for name in ALL}, node
        assert ask_udp(site.host("x"), UNDERLAY[node], 8080)[1] == UNDERLAY["x"]


def test_published_port_from_nodes_to_themselves_each_other_and_loopback(site: Site) -> None:
    for node in "abc":
        for target in (*(UNDERLAY[other] for other in "abc"), "127.0.0.1"):
            assert answering(site.host(node), target, 8080) == ALL, (node, target)
    assert ask_udp(site.host("c"), "127.0.0.1", 8080)[0] in ALL


def test_bind_addresses_are_honoured(site: Site) -> None:
    assert answering(site.host("x"), UNDERLAY["b"], 8081) == ALL
    assert refused(site.host("x"), UNDERLAY["a"], 8081)
    assert answering(site.host("c"), "127.0.0.1", 8082) == ALL
    assert refused(site.host("x"), UNDERLAY["c"], 8082)


def test_host_mode_port_leads_to_the_local_pod_only(site: Site) -> None:
    assert ask(site.host("x"), UNDERLAY["a"], 9090) == ("pod-a1", UNDERLAY["x"])
    assert ask(site.host("a"), "127.0.0.1", 9090)[0] == "pod-a1"
    assert refused(site.host("x"), UNDERLAY["b"], 9090)


def test_pods_reach_published_ports_of_any_node(site: Site) -> None:
    assert answering(site.pins["pod-a1"], UNDERLAY["a"], 8080) == ALL
    assert answering(site.pins["pod-a1"], UNDERLAY["c"], 8080) == ALL


def test_no_backend_is_a_fast_refusal(site: Site) -> None:
    assert refused(site.pins["pod-a1"], VIP_EMPTY, 80)
    assert refused(site.host("a"), VIP_EMPTY, 80)
    for node in "abc":
        assert refused(site.host("x"), UNDERLAY[node], 8090)


def test_pod_of_two_networks_reaches_both_and_their_virtual_addresses(site: Site) -> None:
    assert ask(site.pins["pod-a4"], "10.72.0.69", 80) == ("pod-b1", "10.72.0.7")
    assert ask(site.pins["pod-a4"], "10.72.64.69", 80) == ("pod-b2", "10.72.64.6")
    assert ask(site.pins["pod-a4"], VIP_OTHER, 80) == ("pod-b2", "10.72.64.6")
    assert ask(site.pins["pod-a4"], VIP, 80)[0] in ALL


def test_pods_reach_the_outside_but_not_from_internal_networks(site: Site) -> None:
    with within(site.host("x"), lambda: socket.create_server((UNDERLAY["x"], 7000))) as server:
        server.settimeout(3)

        def dial() -> str:
            with connect(UNDERLAY["x"], 7000):
                accepted, peer = server.accept()
                accepted.close()
                return str(peer[0])

        assert within(site.pins["pod-a1"], dial) == UNDERLAY["a"]
        with pytest.raises(ConnectionRefusedError):
            within(site.pins["pod-a3"], dial)


def test_networks_are_isolated(site: Site) -> None:
    for source, target in (
        ("pod-a1", "10.72.64.5"), ("pod-a1", "10.72.64.69"), ("pod-a1", VIP_OTHER),
        ("pod-b2", "10.72.0.69"), ("pod-b2", "10.72.0.5"), ("pod-a3", VIP),
    ):  # fmt: skip
        assert refused(site.pins[source], target, 80), (source, target)


def test_control_ports_of_nodes_are_closed_to_pods(site: Site) -> None:
    servers = [within(site.host(node), lambda: socket.create_server(("0.0.0.0", 7377))) for node in "ab"]
    try:
        with within(site.host("b"), lambda: connect(UNDERLAY["a"], 7377)):
            pass  # nodes themselves may
        for target in (UNDERLAY["a"], UNDERLAY["b"], "10.64.0.1", "10.64.0.2", "169.254.1.53"):
            assert refused(site.pins["pod-a1"], target, 7377), target
    finally:
        for server in servers:
            server.close()


def test_outside_reaches_pods_only_through_published_ports(site: Site) -> None:
    sh("ip", "-n", f"{site.prefix}x", "route", "add", "10.72.0.0/16", "via", UNDERLAY["a"])
    try:
        with pytest.raises(TimeoutError):
            ask(site.host("x"), "10.72.0.5", 80)
        sh("ip", "-n", f"{site.prefix}x", "addr", "add", "10.72.0.99/32", "dev", "lo")
        with pytest.raises(TimeoutError):
            ask(site.host("x"), UNDERLAY["a"], 8080, source="10.72.0.99")
    finally:
        sh("ip", "-n", f"{site.prefix}x", "route", "del", "10.72.0.0/16")


def udp_listener(namespace: Path, port: int) -> socket.socket:
    def run() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("0.0.0.0", port))
        listener.settimeout(0.5)
        return listener

    return within(namespace, run)


def test_spoofed_source_is_dropped(site: Site) -> None:
    pod = site.pins["pod-b1"]
    with udp_listener(pod, 6000) as listener:

        def send(source: str) -> None:
            payload = b"spoof"
            udp = struct.pack("!HHHH", 1, 6000, 8 + len(payload), 0) + payload
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
            head += socket.inet_aton(source) + socket.inet_aton("10.72.0.69")
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.sendto(head + udp, ("10.72.0.69", 0))

        within(site.pins["pod-a1"], lambda: send("10.72.0.5"))
        assert listener.recvfrom(100)[1][0] == "10.72.0.5"  # the same packet, not spoofed, arrives
        for source in ("10.72.0.6", "10.72.64.5", "10.64.0.1", UNDERLAY["a"], "8.8.8.8"):
            within(site.pins["pod-a1"], lambda s=source: send(s))
            with pytest.raises(TimeoutError):
                listener.recvfrom(100)


def vxlan_packet(source: str, destination: str, port: int) -> bytes:
    """An inner Ethernet frame with a UDP datagram in VXLAN, as node a would send to node b."""
    payload = b"forged"
    udp = struct.pack("!HHHH", 1, port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    macs = bytes.fromhex((ipam.node_mac(2) + ipam.node_mac(1)).replace(":", ""))
    return struct.pack("!II", 0x08000000, 83 << 8) + macs + b"\x08\x00" + head + udp


def test_hand_made_vxlan_packets_are_dropped(site: Site) -> None:
    def send(namespace: Path, target: str, inner: bytes) -> None:
        def run() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(inner, (target, 4790))

        within(namespace, run)

    forged = vxlan_packet("10.72.0.5", "10.72.0.69", 6001)
    with udp_listener(site.pins["pod-b1"], 6001) as listener:
        send(site.host("a"), UNDERLAY["b"], forged)
        assert listener.recvfrom(100)[0] == b"forged"  # the packet itself is good: a node may send it
        for namespace in (site.pins["pod-a1"], site.pins["pod-b2"], site.pins["pod-b1"], site.host("x")):
            for target in (UNDERLAY["b"], "10.64.0.2"):
                try:
                    send(namespace, target, forged)
                except OSError:
                    continue  # no route at all is as good
                with pytest.raises(TimeoutError):
                    listener.recvfrom(100)
        # a node cannot speak for another node's pods
        send(site.host("a"), UNDERLAY["b"], vxlan_packet("10.72.0.70", "10.72.0.69", 6001))
        with pytest.raises(TimeoutError):
            listener.recvfrom(100)


def test_changing_backends_fails_no_connection(site: Site) -> None:
    failures: list[str] = []
    done = threading.Event()
    asked = 0

    def load() -> None:
        nonlocal asked
        while not done.is_set():
            try:
                ask(site.host("x"), UNDERLAY["c"], 8080)
                ask(site.pins["pod-a1"], VIP, 80)
                asked += 1
            except OSError as error:
                failures.append(repr(error))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for chosen in (["pod-b1"], ["pod-a1", "pod-b1"], ["pod-a2"], ["pod-a2", "pod-a1"], sorted(ALL)) * 4:
            before = asked
            site.apply(services(*chosen))
            deadline = time.monotonic() + 5
            while asked < before + 3 and not failures and time.monotonic() < deadline:
                time.sleep(0.005)
            assert site.nodes["c"].call("verify") == []
    finally:
        done.set()
        thread.join()
        site.apply(services())
    assert asked > 50
    assert failures == []


def test_no_packet_is_between_two_states_of_the_rules(site: Site) -> None:
    """A packet looks up a chain, then a backend, then whether that is itself: a change may come in between."""
    states = [
        dataclasses.asdict(wanted("a", services(*chosen))) for chosen in (("pod-a1", "pod-a2"), ("pod-a2",))
    ]
    failures: list[str] = []
    done = threading.Event()
    asked: list[int] = []

    def load() -> None:
        while not done.is_set():
            try:
                with connect(VIP, 80) as client:
                    client.sendall(b"?")
                    assert client.recv(100)
                asked.append(1)
            except OSError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=within, args=(site.pins["pod-a1"], load)) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        changes = 0
        while not failures and (changes < 600 or len(asked) < 1000):
            site.nodes["a"].call("apply", wanted=states[changes % 2])
            changes += 1
    finally:
        done.set()
        for thread in threads:
            thread.join()
        site.apply(services())
    assert failures == []


def test_removed_backend_gets_nothing_new_and_keeps_its_tcp_connections(site: Site) -> None:
    def dial() -> socket.socket:
        return connect(UNDERLAY["c"], 8080)

    def flow() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(3)
        client.connect((UNDERLAY["c"], 8080))
        return client

    site.apply(services("pod-b1"))
    try:
        with within(site.host("x"), dial) as kept, within(site.host("x"), flow) as datagrams:
            for client in (kept, datagrams):
                client.sendall(b"?")
                assert client.recv(100).startswith(b"pod-b1")
            site.apply(services("pod-a1"))
            assert answering(site.host("x"), UNDERLAY["c"], 8080) == {"pod-a1"}
            kept.sendall(b"?")
            assert kept.recv(100).startswith(b"pod-b1")
            datagrams.send(b"?")
            assert datagrams.recv(100).startswith(b"pod-a1")
    finally:
        site.apply(services())


def test_datagrams_move_from_a_backend_that_left_also_after_the_rules_were_loaded_anew(site: Site) -> None:
    """The rules note whom datagrams were led to; those loaded later learn it of the connections there are."""
    site.apply(services("pod-b1"))

    def flow() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(3)
        client.connect((UNDERLAY["c"], 8080))
        return client

    def led() -> bool:
        inside = ("nsenter", f"--net={site.host('c')}", "nft", "list", "set", "ip", "swarmpy-lb", "udp_led")
        return "10.72.0.69" in sh(*inside)

    try:
        with within(site.host("x"), flow) as client:
            client.send(b"?")
            assert client.recv(100).startswith(b"pod-b1")
            assert led()
            sh("nsenter", f"--net={site.host('c')}", "nft", "flush", "ruleset")
            assert site.nodes["c"].call("verify") != []
            site.apply(services("pod-b1"))
            assert led()
            assert site.apply(services("pod-a1"))["c"]["forgotten"] == 1
            assert not led()
            client.send(b"?")
            assert client.recv(100).startswith(b"pod-a1")
    finally:
        site.apply(services())


def test_connections_to_a_pod_that_is_gone_are_reset(site: Site) -> None:
    """Also when the node itself still lives: nobody waits for a timeout."""
    site.apply(services("pod-b1"))
    clients: list[socket.socket] = []
    try:
        for namespace, target in ((site.host("x"), (UNDERLAY["c"], 8080)), (site.pins["pod-a1"], (VIP, 80))):
            clients.append(within(namespace, lambda t=target: connect(*t)))
            clients[-1].sendall(b"?")
            assert clients[-1].recv(100).startswith(b"pod-b1")
        site.apply(services("pod-a1"))
        site.nodes["b"].call("detach", pod="pod-b1")
        end(site.servers.pop("pod-b1"))
        assert not site.pins["pod-b1"].exists()
        for client in clients:
            client.settimeout(5)
            with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
                for _ in range(3):
                    client.sendall(b"?")
                    assert client.recv(100) != b""
        assert refused(site.pins["pod-a1"], "10.72.0.69", 80)
        assert refused(site.host("b"), "10.72.0.69", 80)
    finally:
        for client in clients:
            client.close()
        site.attach("pod-b1")
        site.apply(services())


def test_connections_to_a_node_that_is_down_are_forgotten(site: Site) -> None:
    site.apply(services("pod-b1"))
    nodes = wanted("a", ()).nodes
    try:
        with within(site.host("x"), lambda: connect(UNDERLAY["c"], 8080)) as client:
            client.sendall(b"?")
            assert client.recv(100).startswith(b"pod-b1")
            down = tuple(dataclasses.replace(node, down=node.id == "b") for node in nodes)
            reports = site.apply(services("pod-a1"), nodes=down)
            assert reports["c"]["forgotten"] >= 1
            client.sendall(b"?")
            client.settimeout(5)
            with pytest.raises(ConnectionResetError):
                assert client.recv(100) != b""
    finally:
        site.apply(services())


def test_a_new_object_over_the_same_kernel_finds_everything_and_changes_nothing(site: Site) -> None:
    for name, node in site.nodes.items():
        ruleset = sh("nsenter", f"--net={site.host(name)}", "nft", "list", "ruleset")
        node.call("new")  # the old object is left as a crash would leave it
        mine = {pod for pod, (owner, _) in PODS.items() if owner == name}
        assert set(node.call("pods")) == mine
        report = node.call("apply", wanted=dataclasses.asdict(wanted(name, services())))
        assert report == {"changed": 0, "compared": True, "found": [], "forgotten": 0}
        for pod in mine:
            node.call("attach", pod=pod, addresses=PODS[pod][1])
        assert node.call("verify") == []
        assert node.call("apply", wanted=dataclasses.asdict(wanted(name, services())))["changed"] == 0
        after = sh("nsenter", f"--net={site.host(name)}", "nft", "list", "ruleset")
        assert sorted(ruleset.split()) == sorted(after.split())
    assert ask(site.pins["pod-a1"], "10.72.0.69", 80) == ("pod-b1", "10.72.0.5")
    assert ask(site.pins["pod-a4"], VIP_OTHER, 80) == ("pod-b2", "10.72.64.6")


@pytest.mark.parametrize(
    "damage",
    [
        ("nft", "flush", "ruleset"),
        ("nft", "flush", "map", "ip", "swarmpy-lb", "vep"),
        ("ip", "link", "del", "swx0"),
        ("ip", "nexthop", "flush", "protocol", "83"),
        ("ip", "rule", "del", "priority", "8301"),
        ("ip", "neigh", "flush", "dev", "swx0", "nud", "permanent"),
        ("bridge", "fdb", "del", "0a:53:57:00:00:02", "dev", "swx0"),
        ("nft", "flush", "chain", "inet", "swarmpy", "forward_pod"),
        ("nft", "insert", "rule", "ip", "swarmpy-lb", "after", "counter", "accept"),
    ],
    ids=lambda damage: "-".join(damage[:3]),
)
def test_damage_is_found_and_repaired(site: Site, damage: tuple[str, ...]) -> None:
    node = site.nodes["c"]
    assert node.call("verify") == []
    subprocess.run(["nsenter", f"--net={site.host('c')}", *damage], check=True, capture_output=True)
    assert node.call("verify") != []
    site.apply(services())
    assert node.call("verify") == []
    assert answering(site.host("c"), VIP, 80) == ALL
    assert answering(site.host("x"), UNDERLAY["c"], 8080) == ALL


def test_a_pod_that_lost_its_link_or_route_is_found_and_repaired(site: Site) -> None:
    node = site.nodes["b"]
    links = sh("nsenter", f"--net={site.host('b')}", "ip", "-o", "link")
    name = next(line.split(": ")[1].split("@")[0] for line in links.splitlines() if "swarmpy:pod-b1" in line)
    for damage, problem in (
        (("ip", "route", "del", "10.72.0.69/32"), "pod pod-b1 has no route for 10.72.0.69"),
        (("ip", "link", "del", name), "pod pod-b1 has no link"),
    ):
        sh("nsenter", f"--net={site.host('b')}", *damage)
        assert node.call("verify") == [problem]
        node.call("repair")
        assert node.call("verify") == []
        assert ask(site.pins["pod-a1"], "10.72.0.69", 80) == ("pod-b1", "10.72.0.5")


def test_many_backends_of_addresses_and_ports(site: Site) -> None:
    """Chains are made when first needed; a restart knows them too."""
    node = site.nodes["c"]
    many = tuple(Backend(f"t{n}", "b", (("one", f"10.72.0.{100 + n}"),)) for n in range(12))
    real = dataclasses.replace(services()[0], id="web")
    ports = tuple(PortMap(p, 8099, 80, "ingress", bind) for p in ("tcp", "udp") for bind in ("", "127.0.0.1"))
    crowd = dataclasses.replace(real, id="crowd", vips=(("one", "10.65.9.9"),), ports=ports, backends=many)
    node.call("apply", wanted=dataclasses.asdict(wanted("c", (real, crowd))))
    assert node.call("verify") == []
    assert refused(site.host("c"), "10.65.9.9", 80)  # all twelve are addresses without a pod
    assert refused(site.host("x"), UNDERLAY["c"], 8099)
    assert refused(site.host("c"), "127.0.0.1", 8099)
    node.call("new")
    assert node.call("apply", wanted=dataclasses.asdict(wanted("c", (real, crowd))))["found"] == []
    site.apply(services())
    assert node.call("verify") == []


def test_wrong_input_is_named(site: Site) -> None:
    node = site.nodes["c"]
    for change, message in (
        ({"self_id": "z"}, "not valid"),
        ({"networks": (Network("bad", "bad", "10.72.0.1/18", False, ()),)}, "not valid"),
        ({"mtu": 5}, "MTU 5 is outside"),
    ):
        with pytest.raises(RuntimeError, match=message):
            node.call("apply", wanted=dataclasses.asdict(wanted("c", services(), **change)))
    with pytest.raises(RuntimeError, match="cannot attach"):
        node.call("attach", pod="bad", addresses=[["one", "10.72.0.999", ONE[1]]])
    site.apply(services())
    assert node.call("verify") == []
    assert node.call("pods") == {}


def test_attach_refuses_what_cannot_work(site: Site) -> None:
    with pytest.raises(RuntimeError, match="cannot be a file name"):
        site.nodes["a"].call("attach", pod="../x", addresses=PODS["pod-a1"][1])
    with pytest.raises(RuntimeError, match="no address"):
        site.nodes["a"].call("attach", pod="none", addresses=[])
    site.nodes["a"].call("detach", pod="never-there")


def test_teardown_leaves_nothing(site: Site) -> None:
    for server in site.servers.values():
        end(server)
    site.servers.clear()
    for name, node in site.nodes.items():
        node.call("stop", teardown=True)
        run = ("nsenter", f"--net={site.host(name)}")
        assert sh(*run, "nft", "list", "ruleset") == ""
        links = {
            line.split(":")[1].strip().split("@")[0] for line in sh(*run, "ip", "-o", "link").splitlines()
        }
        assert links == {"lo", "eth0"}
        assert sh(*run, "ip", "nexthop") == ""
        assert "proto 83" not in sh(*run, "ip", "route", "show", "table", "all")
        assert [line.split(":")[0] for line in sh(*run, "ip", "rule").splitlines()] == ["0", "32766", "32767"]
        assert "169.254.1.53" not in sh(*run, "ip", "addr")
        assert str(site.root / name) not in Path("/proc/self/mountinfo").read_text()
        assert not (site.root / name).exists()


if __name__ == "__main__":
    asyncio.run(obey(sys.argv[1], sys.argv[2]))
