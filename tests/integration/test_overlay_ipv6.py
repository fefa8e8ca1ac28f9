"""The overlay's IPv6 beside its IPv4: the same three hosts, dual-stack pods, real packets and attacks."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.overlay import ipam
from swarmpy.overlay.wanted import Backend, Network, Policy, PortMap, Service, Wanted

from tests.integration import test_overlay_plane as plane
from tests.integration.test_overlay_plane import UNDERLAY, Site, ask, refused, sh, within

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not Path("/proc/sys/net/ipv6").exists(), reason="this kernel has no IPv6"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("ip", "nft", "nsenter")),
        reason="needs ip, nft and nsenter",
    ),
]
PREFIX = "fd12:3456:789a::/48"
SUBNETS = {"one": "fd12:3456:789a:2::/64", "two": "fd12:3456:789a:3::/64"}
OUTSIDE = {name: f"fd99::{number}" for number, name in enumerate("abcx", start=1)}
INDEXES = {"a": 1, "b": 2, "c": 3}
VIP6, OTHER6 = ipam.vip6("10.65.0.2", PREFIX), ipam.vip6("10.65.0.4", PREFIX)


def six(address: str, network: str, node: str) -> str:
    return ipam.address6(address, SUBNETS[network], INDEXES[node])


PODS = {
    name: (
        node,
        tuple(
            entry
            for network, address, subnet in addresses
            for entry in (
                (network, address, subnet),
                (network, six(address, network, node), SUBNETS[network]),
            )
        ),
    )
    for name, (node, addresses) in plane.PODS.items()
}
ADDRESS6 = {name: addresses[1][1] for name, (_, addresses) in PODS.items()}
SERVER = (
    plane.SERVER.replace('socket.create_server(("0.0.0.0", 80), backlog=64)',
                         'socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)')
    .replace("peer[0]}", "peer[0].removeprefix('::ffff:')}")
    .replace("socket.AF_INET, socket.SOCK_DGRAM", "socket.AF_INET6, socket.SOCK_DGRAM")
    .replace('u.bind(("0.0.0.0", 80))', 'u.bind(("::", 80))')
)  # fmt: skip


class DualSite(Site):
    letters = "ov6"
    pods = PODS
    server = SERVER

    def build(self) -> None:
        super().build()
        for name, address in OUTSIDE.items():
            sh("ip", "-n", f"{self.prefix}{name}", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")

    def services(self) -> tuple[Service, ...]:
        return services()

    def wanted(self, name: str, wanted_services: tuple[Service, ...], **changes: Any) -> Wanted:
        return wanted(name, wanted_services, **changes)


def wanted(name: str, wanted_services: tuple[Service, ...], **changes: Any) -> Wanted:
    built = plane.wanted(name, wanted_services)
    networks = tuple(dataclasses.replace(network, subnet6=SUBNETS[network.id]) for network in built.networks)
    nodes = tuple(dataclasses.replace(node, address=OUTSIDE[node.id]) for node in built.nodes)
    return dataclasses.replace(built, prefix6=PREFIX, networks=networks, nodes=nodes, **changes)


def services(*pods: str, **more: Any) -> tuple[Service, ...]:
    backends = tuple(
        Backend(pod, PODS[pod][0], tuple((n, ip) for n, ip, _ in PODS[pod][1]))
        for pod in pods or ("pod-a1", "pod-a2", "pod-b1")
    )
    ports = (
        PortMap("tcp", 8080, 80, "ingress"),
        PortMap("udp", 8080, 80, "ingress"),
        PortMap("tcp", 8081, 80, "ingress", OUTSIDE["b"]),
    )
    other = Backend("pod-b2", "b", tuple((n, ip) for n, ip, _ in PODS["pod-b2"][1]))
    vips = (("one", plane.VIP), ("one", VIP6))
    return (
        Service("web", vips, ports, backends, **more),
        Service("other", (("two", plane.VIP_OTHER), ("two", OTHER6)), (), (other,)),
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DualSite]:
    with plane.standing(DualSite(tmp_path_factory.mktemp("overlay6"))) as built:
        yield built


ALL = {"pod-a1", "pod-a2", "pod-b1"}


def ask_udp(host: str, port: int) -> str:
    """Who answers a datagram."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((host, port))
        client.send(b"?")
        return client.recv(100).decode().split()[0]


def answering(namespace: Path, host: str, port: int, rounds: int = 24) -> set[str]:
    return {ask(namespace, host, port)[0] for _ in range(rounds)}


def test_pods_reach_each_other_across_nodes_in_both_families(site: DualSite) -> None:
    assert ask(site.pins["pod-a1"], ADDRESS6["pod-b1"], 80) == ("pod-b1", ADDRESS6["pod-a1"])
    assert ask(site.pins["pod-b1"], ADDRESS6["pod-a1"], 80) == ("pod-a1", ADDRESS6["pod-b1"])
    assert ask(site.pins["pod-a1"], ADDRESS6["pod-a2"], 80) == ("pod-a2", ADDRESS6["pod-a1"])
    assert ask(site.pins["pod-a1"], "10.72.0.69", 80) == ("pod-b1", "10.72.0.5")


def test_nodes_reach_pods(site: DualSite) -> None:
    assert ask(site.host("c"), ADDRESS6["pod-b1"], 80) == ("pod-b1", ipam.node_address6(3, PREFIX))


@pytest.mark.parametrize("source", ["pod-a1", "pod-b1"])
def test_virtual_addresses_balance_and_keep_the_source(site: DualSite, source: str) -> None:
    answers = {ask(site.pins[source], VIP6, 80) for _ in range(24)}
    assert {name for name, _ in answers} == ALL
    assert {peer for name, peer in answers if name != source} == {ADDRESS6[source]}
    assert answering(site.host("c"), VIP6, 80) == ALL


def test_published_ports_answer_on_every_node_and_keep_the_client(site: DualSite) -> None:
    for node in "abc":
        answers = {ask(site.host("x"), OUTSIDE[node], 8080) for _ in range(24)}
        assert answers == {(name, OUTSIDE["x"]) for name in ALL}, node
    assert answering(site.host("x"), UNDERLAY["c"], 8080) == ALL, "IPv4 as before"
    assert answering(site.host("x"), OUTSIDE["b"], 8081) == ALL
    assert refused(site.host("x"), OUTSIDE["a"], 8081)
    assert answering(site.host("a"), OUTSIDE["c"], 8080) == ALL
    assert answering(site.host("a"), OUTSIDE["a"], 8080) == ALL


def test_published_ports_answer_on_loopback_over_tcp_and_udp(site: DualSite) -> None:
    for node in "abc":  # with backends of its own, and without
        assert answering(site.host(node), "::1", 8080) == ALL, node
        assert {ask(site.host(node), "::1", 8080)[1] for _ in range(4)} == {
            ipam.node_address6(INDEXES[node], PREFIX)
        }
        assert site.nodes[node].call("verify") == []
    met = {within(site.host("c"), lambda: ask_udp("::1", 8080)) for _ in range(24)}
    assert met == ALL
    with within(
        site.host("c"), lambda: socket.create_server(("::1", 8123), family=socket.AF_INET6)
    ) as server:
        with within(site.host("c"), lambda: socket.create_connection(("::1", 8123), 3)):
            server.settimeout(3)
            connection, peer = server.accept()
            connection.close()
        assert peer[0] == "::1", "what is not published goes by lo as ever"
        assert refused(site.pins["pod-a1"], "::1", 8080), "a pod's ::1 is its own"


def test_networks_are_isolated(site: DualSite) -> None:
    for source, target in (
        ("pod-a1", ADDRESS6["pod-a3"]), ("pod-a1", ADDRESS6["pod-b2"]), ("pod-a1", OTHER6),
        ("pod-b2", ADDRESS6["pod-b1"]), ("pod-a3", VIP6),
    ):  # fmt: skip
        assert refused(site.pins[source], target, 80), (source, target)


def test_a_pod_of_two_networks_reaches_both(site: DualSite) -> None:
    own = [ip for _, ip, _ in PODS["pod-a4"][1] if ":" in ip]
    assert ask(site.pins["pod-a4"], ADDRESS6["pod-b1"], 80) == ("pod-b1", own[0])
    assert ask(site.pins["pod-a4"], ADDRESS6["pod-b2"], 80) == ("pod-b2", own[1])
    assert ask(site.pins["pod-a4"], OTHER6, 80) == ("pod-b2", own[1])


def test_nodes_ports_are_closed_to_pods_but_not_their_published_ones(site: DualSite) -> None:
    servers = [
        within(site.host(node), lambda: socket.create_server(("::", 7377), family=socket.AF_INET6))
        for node in "ab"
    ]
    try:
        for target in (
            OUTSIDE["a"],
            OUTSIDE["b"],
            ipam.node_address6(1, PREFIX),
            ipam.node_address6(2, PREFIX),
        ):
            assert refused(site.pins["pod-a1"], target, 7377), target
    finally:
        for server in servers:
            server.close()
    assert answering(site.pins["pod-a1"], OUTSIDE["c"], 8080) == ALL


def test_the_outside_is_reached_by_the_nodes_address_but_not_from_internal_networks(site: DualSite) -> None:
    outside = within(
        site.host("x"), lambda: socket.create_server((OUTSIDE["x"], 7000), family=socket.AF_INET6)
    )
    with outside as server:
        server.settimeout(3)

        def dial() -> str:
            with plane.connect(OUTSIDE["x"], 7000):
                accepted, peer = server.accept()
                accepted.close()
                return str(peer[0])

        assert within(site.pins["pod-a1"], dial) == OUTSIDE["a"]
        with pytest.raises(ConnectionRefusedError):
            within(site.pins["pod-a3"], dial)


def test_the_outside_reaches_pods_only_through_published_ports(site: DualSite) -> None:
    sh("ip", "-n", f"{site.prefix}x", "-6", "route", "add", PREFIX, "via", OUTSIDE["a"])
    try:
        with pytest.raises(TimeoutError):
            ask(site.host("x"), ADDRESS6["pod-a1"], 80)
    finally:
        sh("ip", "-n", f"{site.prefix}x", "-6", "route", "del", PREFIX)


def udp_listener(namespace: Path, port: int) -> socket.socket:
    def run() -> socket.socket:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        listener.bind(("::", port))
        listener.settimeout(0.25)
        return listener

    return within(namespace, run)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data + bytes(len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def packet(source: str, destination: str, kind: int, payload: bytes, at: int) -> bytes:
    """An IPv6 packet; the checksum goes to `at` of the payload."""
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    padded = payload + bytes(len(payload) % 2)
    total = checksum(ends + struct.pack("!IHBB", len(payload), 0, 0, kind) + padded)
    payload = payload[:at] + struct.pack("!H", total) + payload[at + 2 :]
    return struct.pack("!IHBB", 0x60000000, len(payload), kind, 255) + ends + payload


def datagram(source: str, destination: str, port: int) -> bytes:
    body = b"spoof!"
    return packet(source, destination, 17, struct.pack("!HHHH", 1, port, 8 + len(body), 0) + body, 6)


def send_frame(namespace: Path, kind: int, data: bytes) -> None:
    """A frame out of a pod's interface, past its own routing."""

    def run() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(bytes.fromhex("eeeeeeeeeeee") + raw.getsockname()[4] + struct.pack("!H", kind) + data)

    within(namespace, run)


def test_spoofed_sources_are_dropped(site: DualSite) -> None:
    target, own = ADDRESS6["pod-b1"], ADDRESS6["pod-a1"]
    with udp_listener(site.pins["pod-b1"], 6000) as listener:
        send_frame(site.pins["pod-a1"], 0x86DD, datagram(own, target, 6000))
        assert listener.recvfrom(100)[1][0] == own  # the same packet, not spoofed, arrives
        for source in (ADDRESS6["pod-a2"], ADDRESS6["pod-a3"], ipam.node_address6(1, PREFIX), OUTSIDE["a"],
                       "2001:db8::1", "fe80::1", "::1", "ff02::1"):  # fmt: skip
            send_frame(site.pins["pod-a1"], 0x86DD, datagram(source, target, 6000))
            with pytest.raises(TimeoutError):
                listener.recvfrom(100)


def neighbours(site: DualSite, node: str) -> list[str]:
    listed = sh("nsenter", f"--net={site.host(node)}", "ip", "neigh").splitlines()
    listed += sh("nsenter", f"--net={site.host(node)}", "ip", "-6", "neigh").splitlines()
    return sorted(line for line in listed if "swv" in line or "swx0" in line)


def test_forged_neighbours_routers_and_leases_change_nothing(site: DualSite) -> None:
    """ARP, neighbour and router advertisements and DHCP offers of a pod reach no table and no other pod."""
    before = neighbours(site, "a")
    routes = sh("nsenter", f"--net={site.pins['pod-a2']}", "ip", "-6", "route")
    victim, forged = ADDRESS6["pod-a2"], bytes.fromhex("0a0badc0ffee")
    raw6 = socket.inet_pton(socket.AF_INET6, victim)
    advertisement = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + raw6 + b"\x02\x01" + forged
    router = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\x01\x01" + forged
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + forged + socket.inet_aton("10.72.0.6")
    arp += bytes.fromhex("eeeeeeeeeeee") + socket.inet_aton("169.254.1.1")
    offer = struct.pack("!HHHH", 67, 68, 12, 0) + b"ofer"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 32, 1, 0, 64, 17, 0)
    head += socket.inet_aton("10.72.0.5") + socket.inet_aton("255.255.255.255")
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    with udp_listener(site.pins["pod-a2"], 68) as listener:
        pod = site.pins["pod-a1"]
        for source in ("fe80::1", victim, ADDRESS6["pod-a1"]):
            for destination in ("ff02::1", "fe80::1", victim):
                send_frame(pod, 0x86DD, packet(source, destination, 58, advertisement, 2))
                send_frame(pod, 0x86DD, packet(source, destination, 58, router, 2))
        send_frame(pod, 0x0806, arp)
        send_frame(pod, 0x0800, head + offer)
        with pytest.raises(TimeoutError):
            listener.recvfrom(100)
    assert neighbours(site, "a") == before
    assert sh("nsenter", f"--net={site.pins['pod-a2']}", "ip", "-6", "route") == routes
    assert ask(site.pins["pod-b1"], victim, 80) == ("pod-a2", ADDRESS6["pod-b1"])
    assert ask(site.pins["pod-b1"], "10.72.0.6", 80) == ("pod-a2", "10.72.0.69")


def vxlan(source: str, destination: str, port: int) -> bytes:
    macs = bytes.fromhex((ipam.node_mac(2) + ipam.node_mac(1)).replace(":", ""))
    return struct.pack("!II", 0x08000000, 83 << 8) + macs + b"\x86\xdd" + datagram(source, destination, port)


def test_hand_made_vxlan_packets_are_dropped(site: DualSite) -> None:
    def send(namespace: Path, target: str, inner: bytes) -> None:
        def run() -> None:
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(inner, (target, 4790))

        within(namespace, run)

    forged = vxlan(ADDRESS6["pod-a1"], ADDRESS6["pod-b1"], 6001)
    with udp_listener(site.pins["pod-b1"], 6001) as listener:
        send(site.host("a"), UNDERLAY["b"], forged)
        assert listener.recvfrom(100)[0] == b"spoof!"  # the packet itself is good: a node may send it
        for namespace in (site.pins["pod-a1"], site.pins["pod-b2"], site.pins["pod-b1"], site.host("x")):
            for target in (UNDERLAY["b"], "10.64.0.2", OUTSIDE["b"], ipam.node_address6(2, PREFIX)):
                try:
                    send(namespace, target, forged)
                except OSError:
                    continue  # no route at all is as good
                with pytest.raises(TimeoutError):
                    listener.recvfrom(100)
        for source in (ADDRESS6["pod-b1"], six("10.72.0.9", "one", "c"), "fe80::2"):
            send(site.host("a"), UNDERLAY["b"], vxlan(source, ADDRESS6["pod-b1"], 6001))
            with pytest.raises(TimeoutError):
                listener.recvfrom(100)


def test_a_backend_that_is_gone_resets_and_a_new_object_finds_everything(site: DualSite) -> None:
    assert refused(site.pins["pod-a1"], six("10.72.0.70", "one", "b"), 80)
    assert refused(site.host("b"), six("10.72.0.70", "one", "b"), 80)
    for name, node in site.nodes.items():
        node.call("new")
        report = node.call("apply", wanted=dataclasses.asdict(wanted(name, services())))
        assert report == {"changed": 0, "compared": True, "found": [], "forgotten": 0}
        for pod, (owner, addresses) in PODS.items():
            if owner == name:
                node.call("attach", pod=pod, addresses=addresses)
        assert node.call("verify") == []


@pytest.mark.parametrize(
    "damage",
    [
        ("nft", "flush", "map", "ip6", "swarmpy-lb", "vep"),
        ("nft", "flush", "chain", "ip6", "swarmpy-lb", "after"),
        ("nft", "flush", "set", "inet", "swarmpy", "net_pair6"),
        ("ip", "-6", "nexthop", "flush", "protocol", "83"),
        ("ip", "-6", "rule", "del", "priority", "8301"),
        ("ip", "-6", "neigh", "flush", "dev", "swx0", "nud", "permanent"),
    ],
    ids=lambda damage: "-".join(damage[:4]),
)
def test_damage_is_found_and_repaired(site: DualSite, damage: tuple[str, ...]) -> None:
    node = site.nodes["c"]
    sh("nsenter", f"--net={site.host('c')}", *damage)
    assert node.call("verify") != []
    node.call("repair")
    assert node.call("verify") == []
    assert answering(site.host("c"), VIP6, 80) == ALL


def test_a_client_keeps_its_task_through_every_node_while_that_lives(site: DualSite) -> None:
    site.apply(services(affinity=True))
    try:
        for address in (UNDERLAY, OUTSIDE):
            met = {ask(site.host("x"), address[node], 8080)[0] for node in "abc" for _ in range(8)}
            assert len(met) == 1, met
            site.apply(services(*(ALL - met), affinity=True))
            next_one = {ask(site.host("x"), address[node], 8080)[0] for node in "abc" for _ in range(8)}
            assert len(next_one) == 1
            assert next_one != met
            site.apply(services(affinity=True))
            assert {ask(site.host("x"), address["c"], 8080)[0] for _ in range(8)} == met
        assert len({ask(site.pins[pod], VIP6, 80)[0] for pod in ("pod-a1", "pod-a2", "pod-b1", "pod-a4")}) > 1
        for node in site.nodes.values():
            assert node.call("verify") == []
    finally:
        site.apply(services())


def test_a_node_prefers_its_own_tasks_while_it_has_any(site: DualSite) -> None:
    site.apply(services(prefer_local=True))
    try:
        for vip, published in ((plane.VIP, UNDERLAY), (VIP6, OUTSIDE)):
            assert answering(site.pins["pod-a4"], vip, 80) == {"pod-a1", "pod-a2"}
            assert answering(site.host("x"), published["b"], 8080) == {"pod-b1"}
            assert answering(site.host("x"), published["c"], 8080) == ALL, "it has none"
        site.apply(services("pod-a1", "pod-a2", prefer_local=True))
        assert answering(site.host("x"), OUTSIDE["b"], 8080) == {"pod-a1", "pod-a2"}
    finally:
        site.apply(services())


def test_a_backend_of_twice_the_weight_has_twice_the_numbers(site: DualSite) -> None:
    web, other = services("pod-a1", "pod-b1")
    heavy = (dataclasses.replace(web.backends[0], weight=3), web.backends[1])
    site.apply((dataclasses.replace(web, backends=heavy), other))
    try:
        met = [ask(site.host("c"), VIP6, 80)[0] for _ in range(60)]
        assert 30 <= met.count("pod-a1") < 60, met
        listed = sh("nsenter", f"--net={site.host('c')}", "nft", "list", "map", "ip6", "swarmpy-lb", "vep")
        assert listed.count(f"{VIP6} . ") == 4
    finally:
        site.apply(services())


def test_one_backend_more_or_less_changes_elements_only(site: DualSite) -> None:
    space = f"--net={site.host('c')}"

    def chains() -> list[str]:
        return [
            line
            for line in sh("nsenter", space, "nft", "-a", "list", "ruleset").splitlines()
            if "dnat" in line
        ]

    for chosen in (("pod-a1", "pod-a2"), ("pod-a1", "pod-a2", "pod-b1")):
        site.apply(services(*chosen))  # the chains for two and for three are there from now on
    before = chains()
    reports = site.apply(services("pod-a1", "pod-a2"))
    site.apply(services())
    assert reports["c"]["changed"] <= 24, "a delete and an add for each map of each family"
    assert chains() == before


def sctp_init(source: str, destination: str, port: int) -> bytes:
    """An SCTP packet with an INIT chunk, as the first packet of an association."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 1)
    body = struct.pack("!HHI", 4444, port, 0) + bytes(4) + chunk
    crc = crc32c(body)
    body = body[:8] + struct.pack("<I", crc) + body[12:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 132, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(destination) + body


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def test_sctp_is_published_too(site: DualSite) -> None:
    web, other = services("pod-b1")
    site.apply((dataclasses.replace(web, ports=(*web.ports, PortMap("sctp", 9000, 80, "ingress"))), other))

    def raw() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
        opened.settimeout(3)
        return opened

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
            out.sendto(sctp_init(UNDERLAY["x"], UNDERLAY["c"], 9000), (UNDERLAY["c"], 0))

    try:
        with within(site.pins["pod-b1"], raw) as listener:
            within(site.host("x"), send)
            data, peer = listener.recvfrom(200)
        assert peer[0] == UNDERLAY["x"]
        assert struct.unpack("!HH", data[20:24]) == (4444, 80)
    finally:
        site.apply(services())


def test_policies_hold_in_both_families(site: DualSite) -> None:
    friend = tuple(ip for _, ip, _ in PODS["pod-a1"][1])
    policy = Policy("p", "ingress", "one", ("pod-b1",), friend, (), (("tcp", 80, 80),))
    site.apply(services("pod-b1"), policies=(policy,))
    try:
        for target in ("10.72.0.69", ADDRESS6["pod-b1"], plane.VIP, VIP6):
            assert ask(site.pins["pod-a1"], target, 80)[0] == "pod-b1", target
            assert refused(site.pins["pod-a2"], target, 80), target
        assert ask(site.host("c"), ADDRESS6["pod-b1"], 80)[0] == "pod-b1", "nodes may always"
        assert refused(site.host("x"), OUTSIDE["c"], 8080)
    finally:
        site.apply(services())
    assert ask(site.pins["pod-a2"], ADDRESS6["pod-b1"], 80)[0] == "pod-b1"


def test_networks_without_ipv6_have_none(site: DualSite) -> None:
    only4 = Network("two", "two", plane.TWO[1], True, (("a", "10.72.64.0/26"), ("b", "10.72.64.64/26")))
    for name, node in site.nodes.items():
        changed = wanted(name, services())
        networks = tuple(only4 if network.id == "two" else network for network in changed.networks)
        node.call("apply", wanted=dataclasses.asdict(dataclasses.replace(changed, networks=networks)))
    assert refused(site.pins["pod-a1"], ADDRESS6["pod-b2"], 80)
    assert ask(site.pins["pod-a1"], ADDRESS6["pod-b1"], 80)[0] == "pod-b1"
    site.apply(services())


def test_teardown_leaves_nothing(site: DualSite) -> None:
    for server in site.servers.values():
        plane.end(server)
    site.servers.clear()
    for name, node in site.nodes.items():
        node.call("stop", teardown=True)
        run = ("nsenter", f"--net={site.host(name)}")
        assert sh(*run, "nft", "list", "ruleset") == ""
        assert sh(*run, "ip", "-6", "nexthop") == ""
        assert "proto 83" not in sh(*run, "ip", "-6", "route", "show", "table", "all")
        assert [line.split(":")[0] for line in sh(*run, "ip", "-6", "rule").splitlines()] == ["0", "32766"]
