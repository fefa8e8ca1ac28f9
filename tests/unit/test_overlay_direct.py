"""Nodes on one segment: who they are, what is let in and sent without VXLAN, and the probe's bytes."""

from __future__ import annotations

import dataclasses
import struct

from swarmpy.overlay import direct, netlink, nfcodec, ping, rules
from swarmpy.overlay.direct import Near, Target
from swarmpy.overlay.wanted import Network, Node

from tests.unit.test_overlay_rules import DEVICE, WANTED

MAC = "02:00:00:00:00:02"
NEAR = {"b": Near(3, MAC, proven=True)}


def test_nodes_of_ones_own_subnet_are_candidates_and_no_others() -> None:
    nodes = (*WANTED.nodes, Node("c", 3, "10.9.1.3", "10.9.1.3"), Node("d", 4, "fd00::4", "10.9.0.4"))
    wanted = dataclasses.replace(WANTED, nodes=nodes)
    assert direct.candidates(wanted, [(3, "10.9.0.1", 24), (4, "10.9.1.9", 24)]) == {"b": 3}
    assert direct.candidates(wanted, [(3, "10.9.0.1", 16)]) == {"b": 3, "c": 3}
    assert direct.candidates(wanted, [(3, "10.9.0.1", 32)]) == {}  # routed, as in many clouds
    assert direct.candidates(wanted, [(4, "10.9.0.9", 24)]) == {}  # the subnet of another address


def test_a_mac_of_several_nodes_or_of_a_router_is_nobodys() -> None:
    found = {"b": MAC, "c": "02:00:00:00:00:03", "d": "02:00:00:00:00:03", "e": "02:00:00:00:00:05"}
    assert direct.own_macs(found, {"02:00:00:00:00:05"}) == {"b": MAC}


def test_direct_routes_are_halves_beside_the_way_by_vxlan() -> None:
    state = rules.desired(WANTED, {}, DEVICE, {}, near=NEAR)
    hop = direct.NEXTHOPS + 2
    assert state.direct == {hop: (3, "10.9.0.2")}
    main = {route.destination: route.nexthop for route in state.routes.values() if route.nexthop}
    assert main == {
        "10.72.0.64/26": rules.MARK + 2, "10.72.0.64/27": hop, "10.72.0.96/27": hop,
        "10.72.64.0/26": rules.MARK + 2, "10.72.64.0/27": hop, "10.72.64.32/27": hop,
    }  # fmt: skip
    assert all(route.source == "10.64.0.1" for route in state.routes.values() if route.nexthop)


def test_what_is_not_proven_is_let_in_but_not_sent() -> None:
    state = rules.desired(WANTED, {}, DEVICE, {}, near={"b": Near(3, MAC)})
    assert (state.direct, len([r for r in state.routes.values() if r.nexthop])) == ({}, 2)
    ether = nfcodec.ether(MAC)
    assert state.sets["direct_source"].keys() == {
        ether + nfcodec.ends(prefix)[0] + ether + nfcodec.ends(prefix)[1]
        for prefix in ("10.64.0.2/32", "10.72.0.64/26", "10.72.64.0/26")
    }
    assert state.sets["vtep"][netlink.mac_bytes(MAC)] == nfcodec.number(rules.MARK + 2)


def test_switched_off_nothing_is_sent_directly() -> None:
    state = rules.desired(dataclasses.replace(WANTED, direct=False), {}, DEVICE, {}, near=NEAR)
    assert state.direct == {}
    assert state.sets["direct_source"]  # the others may not have heard yet


def test_encrypted_networks_never_go_directly() -> None:
    one, two = WANTED.networks
    wanted = dataclasses.replace(WANTED, networks=(dataclasses.replace(one, seal="esp"), two))
    state = rules.desired(wanted, {}, DEVICE, {}, near=NEAR)
    assert state.routes[(254, "10.72.0.64/26")].nexthop == rules.MARK + 2
    assert (254, "10.72.0.64/27") not in state.routes
    ends = {key[8:12] for key in state.sets["direct_source"]}
    assert ends == {nfcodec.address("10.64.0.2"), nfcodec.address("10.72.64.0")}


def test_other_neighbours_change_only_their_part() -> None:
    before = rules.desired(WANTED, {}, DEVICE, {})
    after = rules.with_near(before, WANTED, DEVICE, NEAR, mesh=False)
    assert after == rules.desired(WANTED, {}, DEVICE, {}, near=NEAR)
    assert rules.with_near(after, WANTED, DEVICE, {}, mesh=False) == before


def test_a_new_process_learns_from_the_kernel() -> None:
    for near in (NEAR, {"b": Near(3, MAC)}):
        state = rules.desired(WANTED, {}, DEVICE, {}, near=near)
        learnt = direct.adopted(WANTED, state.direct, state.sets["direct_source"])
        assert (learnt["b"].mac, learnt["b"].proven) == (MAC, near["b"].proven)
    assert direct.adopted(WANTED, {}, {}) == {}


def test_a_network_outside_the_prefix_is_in_the_set_for_those() -> None:
    far = Network("far", "far", "192.168.7.0/24", False, (("b", "192.168.7.0/26"),))
    sets = rules.desired(dataclasses.replace(WANTED, networks=(*WANTED.networks, far)), {}, DEVICE, {}).sets
    low, high = nfcodec.ends(far.subnet)
    assert sets["subnets"].keys() == sets["outer_subnets"].keys() == {low * 2 + high * 2}


def test_probe_is_a_whole_packet_of_the_size_asked_for() -> None:
    target = Target("b", "eth0", "02:00:00:00:00:01", MAC, "10.64.0.1", "10.64.0.2")
    frame = direct.frame(target, 7, 1, 1450)
    assert frame[:14].hex() == "020000000002" + "020000000001" + "0800"
    packet = frame[14:]
    assert (len(packet), struct.unpack_from("!H", packet, 2)[0]) == (1450, 1450)
    assert ping.checksum(packet[:20]) == 0
    assert ping.checksum(packet[20:]) == 0
    assert packet[12:20] == nfcodec.address("10.64.0.1") + nfcodec.address("10.64.0.2")
