"""Network policies as values: boxes that do not overlap, ranges with holes, groups, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.cli import network_policy as cli
from swarmpy.node.manager import policies
from swarmpy.node.manager.errors import Invalid, NotFound, Refused, Taken
from swarmpy.node.plan.validate_policy import validate_policy
from swarmpy.overlay import policy
from swarmpy.overlay.wanted import Network, Node, Policy, Wanted
from swarmpy.proto import objects_pb2

from tests.store_world import World

SMALL = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(st.tuples(SMALL, st.lists(SMALL, max_size=4)), max_size=5))
def test_boxes_cover_the_same_and_never_overlap(boxes: list[tuple[policy.Range, list[policy.Range]]]) -> None:
    def points(some: list[tuple[policy.Range, list[policy.Range]]]) -> list[tuple[int, int]]:
        return [
            (port, address)
            for (first, last), ranges in some
            for low, high in ranges
            for port in range(first, last + 1)
            for address in range(low, high + 1)
        ]

    found = points(policy.cut(boxes))
    assert len(found) == len(set(found)), "two boxes overlap"
    assert set(found) == set(points(boxes))


@given(SMALL, st.lists(SMALL, max_size=4))
def test_holes(whole: policy.Range, holes: list[policy.Range]) -> None:
    def numbers(ranges: list[policy.Range]) -> set[int]:
        return {number for low, high in ranges for number in range(low, high + 1)}

    assert numbers(policy.without(whole, holes)) == numbers([whole]) - numbers(holes)


def test_groups_that_collide_get_their_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "GROUP_BITS", 2)
    groups = [("ingress", (str(number),)) for number in range(6)]
    numbers = policy.group_numbers(groups)
    assert len(set(numbers.values())) == 6
    assert numbers == policy.group_numbers(groups[::-1])


def test_a_task_that_comes_changes_elements_of_its_own_only() -> None:
    def wanted(*peers: str) -> Wanted:
        rule = Policy("p", "ingress", "", ("db",), peers, (), (("tcp", 5432, 5432),))
        nodes = (Node("a", 1, "10.9.0.1", "10.9.0.1"),)
        return Wanted("a", "10.64.0.0/10", 4790, 1450, nodes, policies=(rule,))

    pods = {"db": (("one", "10.72.0.2", "10.72.0.0/18"),)}
    before = policy.build(wanted("10.72.0.9"), pods)
    after = policy.build(wanted("10.72.0.9", "10.72.0.77"), pods)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"policy_port"}
    assert len(after["policy_port"]) == len(before["policy_port"]) + 1
    assert before["policy_port"].keys() < after["policy_port"].keys()


def test_a_network_that_denies_by_default_selects_every_pod_in_it() -> None:
    nodes = (Node("a", 1, "10.9.0.1", "10.9.0.1"),)
    networks = (Network("one", "one", "10.72.0.0/18", False, (), default_deny=True),)
    wanted = Wanted("a", "10.64.0.0/10", 4790, 1450, nodes, networks)
    pods = {"db": (("one", "10.72.0.2", "10.72.0.0/18"),), "web": (("two", "10.72.64.2", "10.72.64.0/18"),)}
    built = policy.build(wanted, pods)
    assert list(built["policy_in"]) == [bytes((10, 72, 0, 2))]
    assert not built["policy_any"]
    assert not built["policy_port"]
    assert policy.is_selected(wanted, "db", pods["db"])
    assert not policy.is_selected(wanted, "web", pods["web"])


def made(**spec: object) -> objects_pb2.Policy:
    found = objects_pb2.Policy(spec=objects_pb2.PolicySpec(**spec))  # type: ignore[arg-type]
    found.meta.name = "p"
    if not found.spec.subjects:
        found.spec.subjects.add()
    return found


@pytest.mark.parametrize(
    ("policy_", "path"),
    [
        (made(blocks=[objects_pb2.PolicyBlock(cidr="10.0.0.1/8")]), "spec.blocks[0].cidr"),
        (made(blocks=[objects_pb2.PolicyBlock(cidr="10.0.0.0/8", excluded=["11.0.0.0/16"])]), "excluded"),
        (made(blocks=[objects_pb2.PolicyBlock(cidr="10.0.0.0/8", excluded=["fd00::/16"])]), "excluded"),
        (made(ports=[objects_pb2.PolicyPort(first=0)]), "spec.ports[0]"),
        (made(ports=[objects_pb2.PolicyPort(first=9, last=8)]), "spec.ports[0]"),
        (made(ports=[objects_pb2.PolicyPort(first=9)] * 65), "spec.ports"),
        (objects_pb2.Policy(), "spec.subjects"),
    ],
)
def test_what_is_refused(policy_: objects_pb2.Policy, path: str) -> None:
    assert any(path in problem.field_path for problem in validate_policy(policy_))


def test_names_and_networks_of_policies() -> None:
    world = World()
    network = objects_pb2.Network()
    network.meta.id, network.meta.name = "w1", "back"
    world.put(network)
    assert policies.new_policy(world.store, made(network="back"), "id1").spec.network == "w1"
    unnamed = made()
    unnamed.meta.name = ""
    assert policies.new_policy(world.store, unnamed, "0123456789").meta.name == "policy-01234567"
    with pytest.raises(NotFound, match="no network 'front'"):
        policies.new_policy(world.store, made(network="front"), "id1")
    world.put(policies.new_policy(world.store, made(network="back"), "id1"))
    with pytest.raises(Taken, match="exists already"):
        policies.new_policy(world.store, made(), "id2")
    with pytest.raises(Refused, match="used by policy 'p'"):
        policies.check_network_unused(world.store, network)
    changed = objects_pb2.Network()
    changed.CopyFrom(network)
    changed.spec.default_deny = True
    assert policies.changed_network(world.store, changed).spec.default_deny
    changed.spec.internal = True
    with pytest.raises(Invalid, match="only the default policy"):
        policies.changed_network(world.store, changed)


def test_values_of_the_command_line() -> None:
    assert cli.selector_value("app=web,tier=") == {"app": "web", "tier": ""}
    assert cli.selector_value("*") == {}
    assert cli.block_value("10.0.0.0/8,except=10.1.0.0/16") == ("10.0.0.0/8", ("10.1.0.0/16",))
    assert cli.port_value("53/udp") == ("udp", 53, 53)
    assert cli.port_value("8000-8010") == ("tcp", 8000, 8010)
    assert cli.target_value("[fd00::1]:80/udp") == ("fd00::1", "udp", 80)
    for bad in ("web", "=x", "a=b,"):
        with pytest.raises(ValueError, match="selects no services"):
            cli.selector_value(bad)
    for bad in ("0", "1-0", "80/icmp", "x", "70000"):
        with pytest.raises(ValueError, match="is not PORT"):
            cli.port_value(bad)
    for bad in ("db", ":80", "db:80-81"):
        with pytest.raises(ValueError, match="is not TARGET:PORT"):
            cli.target_value(bad)
    with pytest.raises(ValueError, match="not part of"):
        cli.block_value("10.0.0.0/8,11.0.0.0/16")
