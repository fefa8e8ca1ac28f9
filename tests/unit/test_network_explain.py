"""The way of a packet through a kernel state, and where it ends when something is missing."""

from __future__ import annotations

import dataclasses

import pytest
from swarmpy.overlay import explain, ingress, netlink, rules
from swarmpy.overlay.explain import Step
from swarmpy.overlay.rules import State
from swarmpy.overlay.wanted import Backend, Network, Node, Policy, PortMap, Service, Wanted

DEVICE = 7
NODES = (Node("a", 1, "10.9.0.1", "10.9.0.1"), Node("b", 2, "10.9.0.2", "10.9.0.2"))
NETWORKS = (
    Network("one", "one", "10.72.0.0/18", False, (("a", "10.72.0.0/26"), ("b", "10.72.0.64/26"))),
    Network("two", "two", "10.72.64.0/18", True, (("b", "10.72.64.0/26"),)),
)
WEB = Service(
    "web", (("one", "10.65.0.1"),),
    (PortMap("tcp", 8080, 80, "ingress"), PortMap("tcp", 8081, 81, "ingress", "10.9.0.2")),
    tuple(Backend(f"t{n}", "b", (("one", f"10.72.0.{n}"),)) for n in (70, 71)),
)  # fmt: skip
EMPTY = Service("empty", (("one", "10.65.0.2"),), (), ())
WANTED = Wanted("a", "10.64.0.0/10", 4790, 1450, NODES, NETWORKS, (WEB, EMPTY))


def state() -> State:
    return rules.desired(WANTED, {}, DEVICE, {})


def ends(steps: tuple[Step, ...]) -> list[str]:
    return [step.text for step in steps if step.failed]


@pytest.mark.parametrize(
    ("target", "port", "backends"),
    [
        ("10.65.0.1", 443, [("10.72.0.70", 443), ("10.72.0.71", 443)]),
        ("10.9.0.1", 8080, [("10.72.0.70", 80), ("10.72.0.71", 80)]),
        ("127.0.0.1", 8080, [("10.72.0.70", 80), ("10.72.0.71", 80)]),
        ("10.9.0.2", 8081, [("10.72.0.70", 81), ("10.72.0.71", 81)]),
        ("10.72.0.70", 80, [("10.72.0.70", 80)]),
        ("192.0.2.1", 80, [("192.0.2.1", 80)]),
    ],
)
def test_where_a_destination_leads(target: str, port: int, backends: list[tuple[str, int]]) -> None:
    way = explain.way(state(), WANTED, target, port, "tcp")
    assert list(way.backends) == backends
    assert not ends(way.steps)


def test_what_has_no_backend_or_is_not_published_ends_there() -> None:
    assert "no ready task" in ends(explain.way(state(), WANTED, "10.65.0.2", 80, "tcp").steps)[0]
    assert "not published" in ends(explain.way(state(), WANTED, "10.9.0.1", 8080, "udp").steps)[0]
    assert "not published" in ends(explain.way(state(), WANTED, "10.9.0.1", 8081, "tcp").steps)[0]


def test_a_damaged_map_or_chain_is_seen() -> None:
    found = state()
    found.sets["vep"].popitem()
    assert "draws among 2" in ends(explain.way(found, WANTED, "10.65.0.1", 80, "tcp").steps)[0]
    found = dataclasses.replace(state(), chains=frozenset())
    assert "not there" in ends(explain.way(found, WANTED, "10.65.0.1", 80, "tcp").steps)[0]
    assert ingress.REFUSE


def test_rules_between_networks() -> None:
    found = state()
    assert not explain.allowed(found, "10.72.0.5", "10.72.0.70", translated=False).failed
    assert explain.allowed(found, "10.72.0.5", "10.72.64.1", translated=False).failed
    assert not explain.allowed(found, "10.72.0.5", "10.72.64.1", translated=True).failed
    assert "internal" in explain.allowed(found, "10.72.64.5", "10.72.0.70", translated=True).text


def test_the_way_to_another_node_and_each_of_its_gaps() -> None:
    found = state()
    (step,) = explain.hop(found, WANTED, "10.72.0.70")
    assert (step.failed, "to 10.9.0.2" in step.text) == (False, True)
    for name, word in (("nexthops", "nexthop"), ("neighbours", "neighbour"), ("forwarding", "endpoint")):
        (step,) = explain.hop(dataclasses.replace(found, **{name: {}}), WANTED, "10.72.0.70")
        assert (step.failed, word in step.text) == (True, True), name
    block = (netlink.TABLE_MAIN, "10.72.0.64/26")
    routes = {key: route for key, route in found.routes.items() if key != block}
    (step,) = explain.hop(dataclasses.replace(found, routes=routes), WANTED, "10.72.0.70")
    assert (step.failed, "no node has a block" in step.text) == (True, True)
    down = dataclasses.replace(WANTED, nodes=(NODES[0], dataclasses.replace(NODES[1], down=True)))
    assert [step.failed for step in explain.hop(found, down, "10.72.0.70")] == [True]
    (step,) = explain.hop(found, WANTED, "10.72.0.5")
    assert "own block" in step.text


@pytest.mark.parametrize("six", [False, True])
def test_policies_of_both_ends(six: bool) -> None:
    """As netfilter would find them: by group, other end, protocol and port."""
    pod, friend, stranger = (
        ("fd00:0:0:2:0:1:a48:5", "fd00:0:0:2:0:2:a48:46", "fd00:0:0:2:0:2:a48:47") if six
        else ("10.72.0.5", "10.72.0.70", "10.72.0.71")
    )  # fmt: skip
    subnet = "fd00:0:0:2::/64" if six else "10.72.0.0/18"
    policies = (
        Policy("in", "ingress", "one", ("p",), peers=(friend,), ports=(("tcp", 80, 90),)),
        Policy("out", "egress", "", ("p",), blocks=((subnet, (f"{stranger}/{128 if six else 32}",)),)),
    )
    wanted = dataclasses.replace(WANTED, policies=policies, prefix6="fd00::/48")
    found = rules.desired(wanted, {"p": (("one", pod, subnet),)}, DEVICE, {})

    def says(direction: str, other: str, port: int, protocol: str = "tcp") -> bool | None:
        step = explain.policies(found, direction, pod, other, port, protocol)
        return None if step is None else not step.failed

    assert [says("in", friend, port) for port in (79, 80, 90, 91)] == [False, True, True, False]
    assert says("in", friend, 80, "udp") is False
    assert says("in", stranger, 80) is False
    assert (says("out", friend, 1), says("out", stranger, 1)) == (True, False)
    node = "fd00::2" if six else "10.64.0.2"
    assert says("in", node, 1) is True
    assert explain.policies(found, "in", friend, pod, 80, "tcp") is None


def test_whose_packets_are_trusted() -> None:
    found = state()
    assert explain.trusted(found, "10.72.0.70", "0a:53:57:00:00:02")
    assert not explain.trusted(found, "10.72.0.5", "0a:53:57:00:00:02")
    assert not explain.trusted(found, "10.72.0.70", "0a:53:57:00:00:03")
