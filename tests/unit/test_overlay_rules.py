"""The wanted kernel state of a node, from values alone."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from swarmpy.node.manager.members import overlay_mtu
from swarmpy.node.plan import addresses as plan_addresses
from swarmpy.overlay import ingress, ipam, netlink, nfcodec, rules, skeleton
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.plane import MTU_MAX
from swarmpy.overlay.wanted import Backend, Network, Node, PortMap, Service, Wanted, without_ipv6

DEVICE = 7
NODES = (Node("a", 1, "10.9.0.1", "10.9.0.1"), Node("b", 2, "10.9.0.2", "192.0.2.2"))
NETWORKS = (
    Network("one", "one", "10.72.0.0/18", False, (("a", "10.72.0.0/26"), ("b", "10.72.0.64/26"))),
    Network("two", "two", "10.72.64.0/18", True, (("b", "10.72.64.0/26"), ("gone", "10.72.65.0/26"))),
)
WANTED = Wanted("a", "10.64.0.0/10", 4790, 1450, NODES, NETWORKS)


def backend(number: int, node: str = "b") -> Backend:
    return Backend(f"t{number}", node, (("one", f"10.72.0.{number}"),))


def service(*backends: Backend, ports: tuple[PortMap, ...] = ()) -> Service:
    return Service("s", (("one", "10.65.0.1"),), ports, backends)


def sets_of(
    *services: Service, previous: dict[str, Elements] | None = None, **more: object
) -> dict[str, Elements]:
    wanted = dataclasses.replace(WANTED, services=services, **more)  # type: ignore[arg-type]
    return rules.desired(wanted, {}, DEVICE, previous or {}).sets


def readable(elements: Elements) -> dict[str, str]:
    """Backends of virtual addresses: "address/number" -> address."""
    return {
        f"{IPv4Address(key[:4])}/{int.from_bytes(key[-4:], 'little')}": str(IPv4Address(data[:4]))
        for key, data in elements.items()
        if isinstance(data, bytes)
    }


def test_every_other_node_gets_one_entry_of_each_kind() -> None:
    state = rules.desired(WANTED, {}, DEVICE, {})
    mark = rules.MARK + 2
    assert state.nexthops == {mark: "10.64.0.2"}
    assert state.neighbours == {"10.64.0.2": "0a:53:57:00:00:02"}
    assert state.forwarding == {"0a:53:57:00:00:02": "10.9.0.2"}
    main = {route.destination: route for (table, _), route in state.routes.items() if table == 254}
    assert {destination: (route.nexthop, route.device) for destination, route in main.items()} == {
        "10.64.0.0/10": (0, DEVICE),
        "10.72.0.0/26": (0, rules.LOOPBACK_INDEX),  # the node's own block: nobody there is a reset
        "10.72.0.64/26": (mark, 0),
        "10.72.64.0/26": (mark, 0),
    }


def test_replies_find_their_way_by_marks_once_a_port_is_published() -> None:
    mark = rules.MARK + 2
    assert rules.desired(WANTED, {}, DEVICE, {}).rules == frozenset()
    published = dataclasses.replace(WANTED, services=(service(ports=(PortMap("tcp", 80, 80, "ingress"),)),))
    state = rules.desired(published, {}, DEVICE, {})
    assert state.routes[(mark, "0.0.0.0/0")].gateway == "10.64.0.2"
    assert {rule.mark for rule in state.rules if rule.action == netlink.RULE_TO_TABLE} == {mark}
    host = dataclasses.replace(WANTED, services=(service(ports=(PortMap("tcp", 80, 80, "host"),)),))
    assert skeleton.features(host) == set()
    assert skeleton.features(published) == {skeleton.MESH}


def test_both_addresses_of_a_node_are_protected() -> None:
    assert {str(IPv4Address(key)) for key in sets_of()["nodes"]} == {"10.9.0.1", "10.9.0.2", "192.0.2.2"}


def test_one_backend_less_keeps_the_others_in_place() -> None:
    first = sets_of(service(backend(70), backend(71), backend(72)))
    assert first["vip"] == {nfcodec.address("10.65.0.1"): "v3"}
    second = sets_of(service(backend(71), backend(72)), previous=first)
    assert second["vip"] == {nfcodec.address("10.65.0.1"): "v2"}
    assert readable(second["vep"]) == {"10.65.0.1/0": "10.72.0.72", "10.65.0.1/1": "10.72.0.71"}
    third = sets_of(service(backend(71), backend(72), backend(73)), previous=second)
    assert readable(third["vep"]) == {**readable(second["vep"]), "10.65.0.1/2": "10.72.0.73"}


def test_no_backend_is_a_refusal_for_addresses_and_ports() -> None:
    sets = sets_of(service(ports=(PortMap("tcp", 8080, 80, "ingress"), PortMap("udp", 53, 53, "host"))))
    assert list(sets["vip"].values()) == [ingress.REFUSE]
    assert sets["port"] == {nfcodec.protocol("tcp") + nfcodec.port(8080): ingress.REFUSE}
    assert sets["vep"] == sets["pep"] == {}


@pytest.mark.parametrize(
    ("address", "filled"),
    [("", "port"), ("0.0.0.0", "port"), ("::", "port"), ("10.9.0.1", "bound"), ("::1", "")],
)
def test_bind_addresses_choose_the_map(address: str, filled: str) -> None:
    sets = sets_of(service(backend(70), ports=(PortMap("tcp", 80, 80, "ingress", address),)))
    assert [name for name in ("port", "bound") if sets[name]] == ([filled] if filled else [])


def test_a_host_port_wins_over_the_mesh_and_leads_to_one_pod() -> None:
    sets = sets_of(
        service(backend(70), backend(71), ports=(PortMap("tcp", 80, 8000, "ingress"),)),
        host_ports=(("tcp", 80, "10.72.0.5", 8080, ""),),
    )
    assert list(sets["port"].values()) == ["p1"]
    assert list(sets["pep"].values()) == [nfcodec.address("10.72.0.5") + nfcodec.port(8080)]


def test_the_outside_prefers_a_backend_address_that_is_not_internal() -> None:
    both = Backend("t", "b", (("two", "10.72.64.1"), ("one", "10.72.0.70")))
    sets = sets_of(service(both, ports=(PortMap("tcp", 80, 80, "ingress"),)))
    assert list(sets["pep"].values()) == [nfcodec.address("10.72.0.70") + nfcodec.port(80)]


def test_only_local_backends_can_meet_themselves() -> None:
    sets = sets_of(service(backend(5, "a"), backend(70, "b")))
    assert list(sets["hairpin"]) == [nfcodec.address("10.72.0.5") * 2]


def test_a_pod_of_two_networks_may_use_either_address() -> None:
    pods = {"p": (("one", "10.72.0.5", "10.72.0.0/18"), ("two", "10.72.64.5", "10.72.64.0/18"))}
    sets = rules.desired(WANTED, pods, DEVICE, {}).sets
    assert set(sets["other_net"].values()) == {nfcodec.address("10.72.0.5"), nfcodec.address("10.72.64.5")}
    assert len(sets["net_pair"]) == len(NETWORKS) + 2


def test_skeleton_marker_follows_what_is_written_into_it() -> None:
    marks = {
        skeleton.mark(dataclasses.replace(WANTED, **change))
        for change in ({}, {"vxlan_port": 4791}, {"self_id": "b"}, {"cluster_cidr": "10.64.0.0/11"})
    }
    assert len(marks) == 4
    assert skeleton.mark(dataclasses.replace(WANTED, networks=())) == skeleton.mark(WANTED)
    text = skeleton.skeleton(WANTED)
    assert skeleton.mark(WANTED) in text
    assert not [word for word in ("@CLUSTER@", "@PORT@", "@NODE@", "@DNS@", "@HASH@") if word in text]


def test_node_addresses_and_their_limits() -> None:
    assert ipam.node_address(1, "10.64.0.0/10") == "10.64.0.1"
    assert ipam.node_address(258, "10.64.0.0/10") == "10.64.1.2"
    assert ipam.node_mac(258) == "0a:53:57:00:01:02"
    for index, cidr in ((0, "10.64.0.0/10"), (65535, "10.64.0.0/10"), (255, "10.64.0.0/24")):
        with pytest.raises(ValueError, match="has no address"):
            ipam.node_address(index, cidr)
    with pytest.raises(ValueError, match="outside"):
        ipam.node_mac(1 << 24)


def test_route_message_is_what_the_kernel_reads() -> None:
    """Field by field, from uapi/linux/rtnetlink.h."""
    message = netlink.route_add(netlink.Route(254, "10.72.0.64/26", nexthop=9, source="10.64.0.1"))
    raw = netlink.encode(message, 5, netlink.ACK)
    assert raw[:16].hex() == "3c000000" + "1800" + "0505" + "05000000" + "00000000"
    assert raw[16:28].hex() == "021a0000fe53000100000000"
    assert raw[28:].hex() == "080001000a480040" + "08000f00fe000000" + "08001e0009000000" + "080007000a400001"


def test_affinity_moves_only_the_clients_of_the_backend_that_left() -> None:
    backends = [nfcodec.address(f"10.72.0.{n}") for n in range(70, 78)]
    before, after = ingress.affine(backends), ingress.affine(backends[1:])
    assert len(before) == len(after) == ingress.AFFINITY_SLOTS
    assert all(new == old for old, new in zip(before, after, strict=True) if old != backends[0])
    assert set(before) == set(backends)
    assert ingress.affine([]) == []
    heavy = ingress.affine([backends[0]] * 3 + [backends[1]])
    assert heavy.count(backends[0]) > 2 * heavy.count(backends[1])


def test_affinity_and_preference_are_in_the_maps() -> None:
    here, there = backend(5, "a"), backend(70, "b")
    both = service(here, there, ports=(PortMap("tcp", 80, 80, "ingress"),))
    sets = sets_of(dataclasses.replace(both, affinity=True))
    assert list(sets["vip"].values()) == [f"vh{ingress.AFFINITY_SLOTS}"]
    assert list(sets["port"].values()) == [f"ph{ingress.AFFINITY_SLOTS}"]
    sets = sets_of(dataclasses.replace(both, prefer_local=True))
    assert set(readable(sets["vep"]).values()) == {"10.72.0.5"}
    sets = sets_of(dataclasses.replace(both, prefer_local=True, backends=(there,)))
    assert set(readable(sets["vep"]).values()) == {"10.72.0.70"}
    sets = sets_of(dataclasses.replace(both, backends=(dataclasses.replace(here, weight=3), there)))
    assert list(sets["vip"].values()) == ["v4"]


def test_ipv6_follows_from_ipv4_and_is_the_same_everywhere() -> None:
    prefix = "fd12:3456:789a::/48"
    assert ipam.node_address6(258, prefix) == "fd12:3456:789a::102"
    assert ipam.vip6("10.65.0.1", prefix) == plan_addresses.vip6("10.65.0.1", IPv6Network(prefix))
    block = IPv6Network(ipam.node_block6("fd12:3456:789a:2::/64", 7))
    assert block.prefixlen == 96
    assert IPv6Address(ipam.address6("10.72.0.5", "fd12:3456:789a:2::/64", 7)) in block


def test_without_ipv6_nothing_of_it_is_made() -> None:
    six = dataclasses.replace(
        WANTED, prefix6="fd12:3456:789a::/48",
        networks=tuple(dataclasses.replace(n, subnet6=f"fd12:3456:789a:{i}::/64") for i, n in enumerate(NETWORKS, 2)),
        services=(Service("s", (("one", "10.65.0.1"), ("one", "fd12:3456:789a:1::a41:1")), (), ()),),
    )  # fmt: skip
    state = rules.desired(six, {}, DEVICE, {})
    assert state.sets["vip6"]
    assert state.nexthops[rules.NEXTHOP6 + 2] == "fd12:3456:789a::2"
    assert any(":" in destination for _, destination in state.routes)
    bare = rules.desired(without_ipv6(six), {}, DEVICE, {})
    assert not any(elements for name, elements in bare.sets.items() if name.endswith("6"))
    assert not any(":" in destination for _, destination in bare.routes)
    assert "ip6" not in skeleton.skeleton(without_ipv6(six))
    assert "table ip6" in skeleton.skeleton(six)
    assert "127.0.0.0" not in skeleton.balance6()
    assert "ip daddr" not in skeleton.balance6()


def test_the_overlays_packets_fit_between_any_two_nodes() -> None:
    assert overlay_mtu([9000, 1500]) == 1450
    assert overlay_mtu([]) == 1450
    assert overlay_mtu([65536]) == MTU_MAX, "a cluster of one on 127.0.0.1"
