"""Nodes on one segment without VXLAN: real packets, the overlay's attacks again, and every way back to VXLAN."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import test_overlay_plane as plane
from tests.integration.test_overlay_plane import UNDERLAY, Site, ask, ask_udp, sh, udp_listener, within

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("ip", "nft", "nsenter")),
        reason="needs ip, nft and nsenter",
    ),
]
FILTER = """table inet foreign {
  chain pre { type filter hook prerouting priority -400; iifname "eth0" ip saddr 10.64.0.0/10 drop; }
}
"""


class DirectSite(Site):
    letters = "dir"

    def build(self) -> None:
        super().build()
        self.probe()

    def probe(self) -> dict[str, list[str]]:
        """The first round makes them known to each other, the second one is answered."""
        for node in self.nodes.values():
            node.call("near")
        return {name: node.call("near") for name, node in self.nodes.items()}

    def encapsulated(self, node: str) -> int:
        """Packets that its VXLAN device has sent and received."""
        counted = sh(
            "ip", "netns", "exec", self.host(node).name, "cat",
            "/sys/class/net/swx0/statistics/tx_packets", "/sys/class/net/swx0/statistics/rx_packets",
        )  # fmt: skip
        return sum(map(int, counted.split()))

    def talk(self) -> None:
        assert ask(self.pins["pod-a1"], "10.72.0.69", 80) == ("pod-b1", "10.72.0.5")
        assert ask_udp(self.pins["pod-b1"], "10.72.0.6", 80) == ("pod-a2", "10.72.0.69")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectSite]:
    with plane.standing(DirectSite(tmp_path_factory.mktemp("overlay"))) as built:
        yield built


def test_pods_talk_without_vxlan_also_by_virtual_addresses_and_published_ports(site: DirectSite) -> None:
    assert site.probe() == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]}
    before = site.encapsulated("a"), site.encapsulated("b")
    site.talk()
    assert plane.answering(site.pins["pod-a1"], plane.VIP, 80) == plane.ALL
    assert (site.encapsulated("a"), site.encapsulated("b")) == before
    assert ask(site.host("c"), "10.72.0.69", 80) == ("pod-b1", "10.64.0.3")  # nodes themselves: back by VXLAN
    for node in "abc":
        answers = {ask(site.host("x"), UNDERLAY[node], 8080) for _ in range(24)}
        assert answers == {(name, UNDERLAY["x"]) for name in plane.ALL}, node
    for node in site.nodes.values():
        assert node.call("verify") == []


test_networks_are_isolated = plane.test_networks_are_isolated
test_control_ports_of_nodes_are_closed_to_pods = plane.test_control_ports_of_nodes_are_closed_to_pods
test_outside_reaches_pods_only_through_published_ports = (
    plane.test_outside_reaches_pods_only_through_published_ports
)
test_spoofed_source_is_dropped = plane.test_spoofed_source_is_dropped
test_published_port_from_nodes = plane.test_published_port_from_nodes_to_themselves_each_other_and_loopback
test_connections_to_a_pod_that_is_gone_are_reset = plane.test_connections_to_a_pod_that_is_gone_are_reset


def mac(site: DirectSite, node: str) -> bytes:
    shown = sh("ip", "netns", "exec", site.host(node).name, "cat", "/sys/class/net/eth0/address")
    return bytes.fromhex(shown.strip().replace(":", ""))


def send_frame(own: bytes, other: bytes, source: str, target: str, port: int) -> None:
    """A datagram on the segment, whoever sends it."""
    payload = b"forged"
    udp = struct.pack("!HHHH", 1, port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(other + own + b"\x08\x00" + head + udp)


def test_only_the_node_that_has_a_block_sends_from_it(site: DirectSite) -> None:
    target = mac(site, "b")
    with udp_listener(site.pins["pod-b1"], 6000) as listener:

        def sends(host: str, source: str) -> bool:
            own = mac(site, host)
            within(site.host(host), lambda: send_frame(own, target, source, "10.72.0.69", 6000))
            try:
                return listener.recvfrom(100)[1][0] == source
            except TimeoutError:
                return False

        assert sends("a", "10.72.0.5")
        assert not sends("x", "10.72.0.5")  # a stranger on the segment
        assert not sends("c", "10.72.0.5")  # another node
        assert not sends("x", UNDERLAY["x"])  # straight to a pod, not by a published port
        assert not sends("a", "10.72.0.70")  # an address of the receiver's own block


def test_a_node_hands_on_nothing_of_strangers(site: DirectSite) -> None:
    """Node b would take it, since it comes by node a's MAC."""
    stranger = site.host("x").name
    sh("ip", "-n", stranger, "route", "add", "10.72.0.64/26", "via", UNDERLAY["a"])
    try:
        with pytest.raises(TimeoutError):
            ask(site.host("x"), "10.72.0.69", 80)
    finally:
        sh("ip", "-n", stranger, "route", "del", "10.72.0.64/26")


def test_no_vxlan_packet_of_a_pod_comes_in_directly(site: DirectSite) -> None:
    """What a's rules would not let out: b's would not let it in."""
    inner = plane.vxlan_packet("10.72.0.5", "10.72.0.69", 6000)
    assert inner
    sh("ip", "netns", "exec", site.host("b").name, "nft", "add", "table", "inet", "watch")
    try:
        sh("ip", "netns", "exec", site.host("b").name, "nft", "add chain inet watch in "
           "{ type filter hook input priority -1 ; } ; add rule inet watch in udp dport 4790 counter")  # fmt: skip
        for target in ("10.64.0.2", UNDERLAY["b"]):
            own, other = mac(site, "a"), mac(site, "b")
            within(site.host("a"), lambda o=own, t=target, h=other: send_frame(o, h, "10.72.0.5", t, 4790))
        shown = sh("ip", "netns", "exec", site.host("b").name, "nft", "list", "table", "inet", "watch")
        assert "packets 0" in shown
    finally:
        sh("ip", "netns", "exec", site.host("b").name, "nft", "delete", "table", "inet", "watch")


def test_a_network_that_drops_foreign_addresses_is_crossed_by_vxlan(site: DirectSite) -> None:
    host = site.host("b").name
    subprocess.run(["ip", "netns", "exec", host, "nft", "-f", "-"], input=FILTER, text=True, check=True)
    try:
        assert site.probe() == {"a": ["c"], "b": ["a", "c"], "c": ["a"]}
        before = site.encapsulated("b")
        site.talk()
        assert site.encapsulated("b") > before
    finally:
        sh("ip", "netns", "exec", host, "nft", "delete", "table", "inet", "foreign")
    assert site.probe()["a"] == ["b", "c"]


def test_a_node_that_is_a_router_is_reached_by_vxlan(site: DirectSite) -> None:
    host = site.host("a").name
    sh("ip", "-n", host, "route", "add", "default", "via", UNDERLAY["b"])
    try:
        assert site.probe()["a"] == ["c"]
        assert "10.64.0.2" not in sources(site, "a")
    finally:
        sh("ip", "-n", host, "route", "del", "default")
    assert site.probe()["a"] == ["b", "c"]


def test_a_link_that_went_down_leaves_the_way_by_vxlan(site: DirectSite) -> None:
    host = site.host("a").name
    sh("ip", "-n", host, "link", "set", "eth0", "down")
    sh("ip", "-n", host, "link", "set", "eth0", "up")
    assert " nhid " not in sh("ip", "-n", host, "route", "show", "dev", "eth0")
    before = site.encapsulated("a")
    site.talk()
    assert site.encapsulated("a") > before
    site.probe()
    assert site.nodes["a"].call("verify") == []
    before = site.encapsulated("a")
    site.talk()
    assert site.encapsulated("a") == before


def test_a_new_process_keeps_what_is_proven(site: DirectSite) -> None:
    child = site.nodes["a"]
    child.call("new")
    child.call("start")
    services = site.services()
    report = child.call("apply", wanted=dataclasses.asdict(site.wanted("a", services)))
    assert report["found"] == []
    before = site.encapsulated("a")
    site.talk()
    assert site.encapsulated("a") == before


def test_a_node_that_left_is_not_let_in_any_more(site: DirectSite) -> None:
    assert "10.64.0.3" in sources(site, "a")
    alone = site.wanted("a", site.services())
    alone = dataclasses.replace(alone, nodes=alone.nodes[:2])
    site.nodes["a"].call("apply", wanted=dataclasses.asdict(alone))
    assert "10.64.0.3" not in sources(site, "a")
    assert site.nodes["a"].call("near") == ["b"]
    assert site.nodes["a"].call("verify") == []


def sources(site: DirectSite, node: str) -> str:
    name = site.host(node).name
    return sh("ip", "netns", "exec", name, "nft", "list", "set", "inet", "swarmpy", "direct_source")


def test_nothing_is_left(site: DirectSite) -> None:
    host = site.host("a").name
    site.nodes["a"].call("stop", teardown=True)
    assert sh("ip", "-n", host, "nexthop") == ""
    assert not [line for line in sh("ip", "-n", host, "route").splitlines() if "proto 83" in line]
    assert Path("/run/netns", host).exists()
