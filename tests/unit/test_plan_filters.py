"""Constraints, resources, host ports: which nodes fit, and what people are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.plan.filters import (
    ConstraintError,
    NodeInfo,
    demand_of,
    parse_constraint,
    placement_problem,
    sentence,
)
from swarmpy.proto import objects_pb2, types_pb2


def node() -> objects_pb2.Node:
    made = objects_pb2.Node(role=types_pb2.ROLE_MANAGER)
    made.meta.id = "abc123"
    made.meta.labels["zone"] = "East"
    made.meta.labels["disks"] = "12"
    made.description.hostname = "Alpha"
    made.description.platform.os = "linux"
    made.description.platform.architecture = "x86_64"
    made.description.labels["storage"] = "ssd"
    made.status.address = "10.1.2.3"
    made.description.kernel = "5.10.0-28-amd64"
    return made


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("node.id==abc123", True),
        ("node.id == abc12", False),
        ("node.hostname==alpha", True),
        ("node.hostname!=alpha", False),
        ("node.role==manager", True),
        ("node.role != manager", False),
        ("node.platform.os==Linux", True),
        ("node.platform.arch==amd64", True),
        ("node.platform.arch==x86_64", True),
        ("node.platform.arch!=arm64", True),
        ("node.labels.zone==east", True),
        ("node.labels.zone!=east", False),
        ("node.labels.none==x", False),
        ("node.labels.none!=x", True),
        ("engine.labels.storage==ssd", True),
        ("node.ip==10.1.2.3", True),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip!=10.1.0.0/16", False),
        ("node.ip==10.2.0.0/16", False),
        ("node.labels.disks>9", True),
        ("node.kernel>=5.4", True),
        ("node.kernel>=5.15", False),
        ("node.kernel<5.15", True),
        ("node.kernel~amd64$", True),
        ("node.kernel==5.10.0-28-AMD64", True),
        ("node.labels.disks<=12", True),
        ("node.labels.disks<12", False),
        ("node.labels.zone in (west, east)", True),
        ("node.labels.zone in (west)", False),
        ("node.labels.zone~^ea", True),
        ("node.labels.zone~^st", False),
        ("node.labels.zone exists", True),
        ("node.labels.none exists", False),
    ],
)
def test_constraint(text: str, fits: bool) -> None:
    assert parse_constraint(text).matches(node()) is fits


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("node.labels.zone", "is no constraint"),
        ("node.has()", "is no constraint"),
        ("node.has(redis) == maybe", "is no constraint"),
        ("node.holds==redis", "node.has"),
        ("node.labels.zone=east", "is no constraint"),
        ("node.label.zone==east", "unknown key"),
        ("node.labels.zone==", "empty value"),
        ("node.kernel>=new", "no kernel release"),
        ("node.ip==10.1", "no IP address"),
        ("node.ip>10.0.0.1", "takes only"),
        ("node.labels.zone~(", "bad pattern"),
        ("node.labels.zone==" + "x" * 600, "limit"),
    ],
)
def test_bad_constraint_is_one_clear_sentence(text: str, part: str) -> None:
    with pytest.raises(ConstraintError, match=part):
        parse_constraint(text)


@given(st.text(max_size=40) | st.from_regex(r"node\.[a-z.]{0,12}\s?(==|!=|~|in|<)\s?.{0,12}", fullmatch=True))
def test_any_text_is_a_constraint_or_a_constraint_error(text: str) -> None:
    try:
        constraint = parse_constraint(text)
    except ConstraintError:
        return
    assert constraint.matches(node()) in (True, False)


def test_platform() -> None:
    arm, amd = types_pb2.Platform(os="linux", architecture="arm64"), types_pb2.Platform(architecture="amd64")
    assert placement_problem(node(), (), [arm]) == "are not of platform linux/arm64"
    assert placement_problem(node(), (), [arm, amd]) is None


def info(nano_cpus: int = 10**9, memory_bytes: int = 1 << 30) -> NodeInfo:
    return NodeInfo(node(), "abc123", nano_cpus, memory_bytes, {"gpu": 1})


def test_reservations_are_used_up() -> None:
    task = objects_pb2.Task(service_id="s")
    task.spec.resources.reservations.memory_bytes = 700 << 20
    task.spec.resources.reservations.generic["gpu"] = 1
    demand, place = demand_of(task), info()
    assert demand.problem(place) is None
    demand.take(place)
    assert demand.problem(place) == "lack memory (need 700 MiB)"
    task.spec.resources.reservations.memory_bytes = 0
    assert demand_of(task).problem(place) == "lack gpu (need 1)"
    task.spec.resources.reservations.generic.clear()
    task.spec.resources.reservations.nano_cpus = 1_500_000_000
    assert demand_of(task).problem(place) == "lack CPU (need 1.5)"


@pytest.mark.parametrize(
    ("first", "second", "collides"),
    [("", "", True), ("10.0.0.1", "", True), ("", "10.0.0.1", True), ("10.0.0.1", "10.0.0.2", False)],
)
def test_host_ports_collide_by_address(first: str, second: str, collides: bool) -> None:
    place = info()
    for address, expected in ((first, False), (second, collides)):
        task = objects_pb2.Task(service_id="s")
        task.host_ports.add(target=80, published=8080, address=address)
        demand = demand_of(task)
        assert (demand.problem(place) is not None) is expected
        demand.take(place)


def test_the_sentence_counts_and_agrees() -> None:
    reasons = [
        ("do not meet constraint node.labels.zone==x", 2),
        ("lack memory (need 1 GiB)", 3),
        ("are down", 1),
    ]
    assert sentence(reasons, 6) == (
        "no suitable node: 3 of 6 lack memory (need 1 GiB); "
        "2 do not meet constraint node.labels.zone==x; 1 is down"
    )
    assert sentence([], 0) == "no suitable node: the cluster has no nodes"
