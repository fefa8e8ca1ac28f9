"""A network whose subnet lies outside the cluster's prefix (`network create --subnet`): the same isolation, attacked.

Nothing is published at first, so that the rules for published ports are added to a network in use.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from swarmpy.overlay import ipam
from swarmpy.overlay.wanted import Backend, Network, PortMap, Service, Wanted

from tests.integration import test_overlay_plane as plane
from tests.integration.test_overlay_plane import UNDERLAY, Site, ask, refused, sh, udp_listener, within

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("ip", "nft", "nsenter")),
        reason="needs ip, nft and nsenter",
    ),
]
FAR = "192.168.77.0/24"
FAR_A, FAR_B = "192.168.77.5", "192.168.77.69"
PODS = {
    "pod-a1": ("a", (("one", "10.72.0.5", plane.ONE[1]),)),
    "pod-b1": ("b", (("one", "10.72.0.69", plane.ONE[1]),)),
    "far-a": ("a", (("far", FAR_A, FAR),)),
    "far-b": ("b", (("far", FAR_B, FAR),)),
}


class FarSite(Site):
    letters = "far"
    pods = PODS

    def services(self) -> tuple[Service, ...]:
        backend = Backend("far-b", "b", (("far", FAR_B),))
        return (Service("far", (("far", plane.VIP),), (), (backend,)),)

    def published(self) -> tuple[Service, ...]:
        return (dataclasses.replace(self.services()[0], ports=(PortMap("tcp", 8070, 80, "ingress"),)),)

    def wanted(self, name: str, wanted_services: tuple[Service, ...], **changes: Any) -> Wanted:
        built = super().wanted(name, wanted_services)
        blocks = (("a", "192.168.77.0/26"), ("b", "192.168.77.64/26"))
        far = Network("far", "far", FAR, False, blocks)
        return dataclasses.replace(built, networks=(*built.networks, far), host_ports=(), **changes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarSite]:
    with plane.standing(FarSite(tmp_path_factory.mktemp("overlay"))) as built:
        yield built


def test_its_pods_reach_each_other_their_services_and_the_outside(site: FarSite) -> None:
    assert ask(site.pins["far-a"], FAR_B, 80) == ("far-b", FAR_A)
    assert ask(site.pins["far-a"], plane.VIP, 80) == ("far-b", FAR_A)
    with within(site.host("x"), lambda: socket.create_server((UNDERLAY["x"], 7000))) as server:
        server.settimeout(3)
        with within(site.pins["far-a"], lambda: plane.connect(UNDERLAY["x"], 7000)):
            accepted, peer = server.accept()
            accepted.close()
    assert peer[0] == UNDERLAY["a"]


def chains(site: FarSite, node: str) -> set[str]:
    text = sh("ip", "netns", "exec", site.host(node).name, "nft", "list", "chains", "inet")
    return {line.split()[1] for line in text.splitlines() if line.strip().startswith("chain ")}


def test_the_first_published_port_brings_its_rules_and_cuts_nothing(site: FarSite) -> None:
    assert "mark_in" not in chains(site, "c")
    assert "fwmark" not in sh("ip", "-n", site.host("c").name, "rule")
    with within(site.pins["far-a"], lambda: plane.connect(plane.VIP, 80)) as kept:
        site.apply(site.published())
        kept.sendall(b"?")
        assert kept.recv(100).decode() == f"far-b {FAR_A}"
        for node in "abc":
            assert ask(site.host("x"), UNDERLAY[node], 8070) == ("far-b", UNDERLAY["x"])
        with within(site.host("x"), lambda: plane.connect(UNDERLAY["c"], 8070)) as client:
            site.apply(site.services())  # what began through the port goes on
            client.sendall(b"?")
            assert client.recv(100).decode() == f"far-b {UNDERLAY['x']}"
        kept.sendall(b"?")
        assert kept.recv(100).decode() == f"far-b {FAR_A}"
    for node in site.nodes.values():
        assert node.call("verify") == []
    sh("ip", "netns", "exec", site.host("c").name, "nft", "flush", "chain", "inet", "swarmpy", "mark_in")
    assert site.nodes["c"].call("verify") == ["the static rules were changed"]
    site.nodes["c"].call("repair")
    assert site.nodes["c"].call("verify") == []


def test_pods_of_other_networks_are_refused_both_ways_on_one_node_and_across(site: FarSite) -> None:
    for pod in ("pod-a1", "pod-b1"):
        for target in (FAR_A, FAR_B):
            assert refused(site.pins[pod], target, 80), (pod, target)
    for pod in ("far-a", "far-b"):
        for target in ("10.72.0.5", "10.72.0.69"):
            assert refused(site.pins[pod], target, 80), (pod, target)


def test_the_outside_reaches_them_only_by_published_ports(site: FarSite) -> None:
    site.apply(site.published())
    sh("ip", "-n", site.host("x").name, "route", "add", FAR, "via", UNDERLAY["a"])
    try:
        with pytest.raises(TimeoutError):
            ask(site.host("x"), FAR_B, 80)
    finally:
        sh("ip", "-n", site.host("x").name, "route", "del", FAR)


@pytest.mark.parametrize("source", [FAR_A, "10.72.0.5"])
def test_a_node_cannot_send_from_another_nodes_block(site: FarSite, source: str) -> None:
    """Node c is a member and makes a packet of its own; node b knows whose the block is."""
    target = FAR_B if source == FAR_A else "10.72.0.69"
    pod = site.pins["far-b" if source == FAR_A else "pod-b1"]
    with udp_listener(pod, 6000) as listener:
        within(site.host("a"), lambda: send_frame(1, source, target))
        assert listener.recvfrom(100)[1][0] == source  # from the node that has the block it arrives
        within(site.host("c"), lambda: send_frame(3, source, target))
        with pytest.raises(TimeoutError):
            listener.recvfrom(100)


def send_frame(index: int, source: str, target: str) -> None:
    """A datagram as swx0 of node `index` would send it to node b."""
    payload = b"forged"
    udp = struct.pack("!HHHH", 1, 6000, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    macs = [bytes.fromhex(ipam.node_mac(number).replace(":", "")) for number in (2, index)]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("swx0", 0))
        raw.send(b"".join(macs) + b"\x08\x00" + head + udp)
