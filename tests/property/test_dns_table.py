"""The resolver's table, told a change at a time, is the table told at once; nothing damaged is ever taken."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.agent import dns_table
from swarmpy.node.agent.dns_table import DnsTable
from swarmpy.overlay.names import Zone
from swarmpy.overlay.nametable import (
    BadTable,
    Changes,
    Follower,
    Lines,
    NetworkEntry,
    NodeEntry,
    ServiceEntry,
    Table,
    TaskEntry,
    live,
)
from swarmpy.overlay.tablefile import TableFile

NETWORKS = (NetworkEntry("n1", "one", "10.1.0.0/16"), NetworkEntry("n2", "two", "10.2.0.0/16"))
NAMES = ("web", "db", "api")
Services = dict[str, ServiceEntry]


@st.composite
def entry(draw: st.DrawFn, number: int) -> ServiceEntry:
    name = draw(st.sampled_from(NAMES)) + str(number)
    networks = draw(st.sampled_from([("n1",), ("n1", "n2"), ("n2",)]))
    tasks = tuple(
        TaskEntry(slot, f"{name}.{slot}.{version}", {n: f"10.{n[1]}.{number}.{slot}" for n in networks})
        for slot in draw(st.sets(st.integers(1, 4), max_size=3))
        for version in "ab"[: draw(st.integers(1, 2))]
    )
    aliases = {n: tuple(draw(st.sets(st.sampled_from(["www", "db1", "x.y"]), max_size=2))) for n in networks}
    vips = {n: f"10.{n[1]}.0.{number}" for n in networks} if draw(st.booleans()) else {}
    mode = draw(st.sampled_from(["vip", "dnsrr"]))
    return ServiceEntry(name, networks, vips, mode, aliases, (), tasks, {}, f"id{number}")


@st.composite
def states(draw: st.DrawFn) -> tuple[Table, Services]:
    head = Table(networks=NETWORKS[: draw(st.integers(1, 2))], nodes=(NodeEntry("h", "192.0.2.1"),))
    return head, {f"id{n}": draw(entry(n)) for n in sorted(draw(st.sets(st.integers(1, 4))))}


def asked(zone: Zone) -> dict[str, object]:
    """Everything that could be asked of it."""
    plain = ["www", "db1", "x.y", *(name + str(n) for name in NAMES for n in range(1, 5))]
    slots = [f"{slot}.{name}" for name in plain for slot in (*range(5), "tasks")]
    tasks = [f"{name}.{slot}.{v}" for name in plain for slot in range(5) for v in "ab"]
    found: dict[str, object] = {"networks": zone.all}
    for network in zone.all:
        found |= {f"{network} {name}": zone.find(name, (network,)) for name in (*plain, *slots, *tasks)}
        for middle in range(5):
            for last in range(6):
                address = f"10.{network[1]}.{middle}.{last}"
                found[f"{network} {address}"] = zone.owner(address, (network,))
    return found


def take(zone: Zone, changes: Changes) -> None:
    for key in changes.drop:
        zone.drop(key)
    for service in changes.put:
        zone.put(service)
    if changes.head is not None:
        zone.set_head(changes.head)


@settings(max_examples=60, deadline=None)
@given(st.lists(states(), min_size=1, max_size=5), st.integers(0, 5))
def test_change_by_change_is_the_same_as_at_once(steps: list[tuple[Table, Services]], short: int) -> None:
    before, dns_table.APPENDED_MIN_BYTES = dns_table.APPENDED_MIN_BYTES, short * 500
    try:
        with tempfile.TemporaryDirectory() as name:
            written, zone = DnsTable(Path(name) / "table"), Zone(Table())
            read = TableFile(Path(name) / "table")
            for head, services in steps:
                written.write(
                    head, {k: v.to_json().encode() for k, v in services.items()}, services.__getitem__
                )
                assert written.problems() == []
                changes = read.read(changed=True)
                if changes is not None:
                    take(zone, changes)
                    assert changes.sum == written.sum
                assert zone.services == services
                whole = Zone(
                    Table(networks=head.networks, nodes=head.nodes, services=tuple(services.values()))
                )
                assert asked(zone) == asked(whole)
                anew = TableFile(Path(name) / "table").read()
                assert anew is not None
                assert {service.key: service for service in anew.put} == services
    finally:
        dns_table.APPENDED_MIN_BYTES = before


def text(*services: ServiceEntry) -> bytes:
    lines = Lines()
    data = lines.start(Table(networks=NETWORKS).to_json())
    return data + b"".join(lines.put(each.key, each.to_json()) for each in services) + lines.end()


ONE = ServiceEntry("web", ("n1",), {"n1": "10.1.0.1"}, id="one")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_file_with_any_damage_is_not_taken(data: st.DataObject) -> None:
    whole = text(ONE)
    at = data.draw(st.integers(0, len(whole) - 2))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    follower = Follower()
    first = follower.read(whole, anew=True)
    assert first.put == (ONE,)
    try:
        changes = follower.read(bytes(damaged), anew=True)
    except BadTable:
        pass
    else:  # the damage made two lines or one of it, and what is left is right
        assert not changes.put
        assert changes.head is None
    assert follower.read(whole, anew=True).put == (), "what was known is still known"


def test_only_what_is_followed_by_its_sum_counts() -> None:
    lines, follower = Lines(), Follower()
    data = lines.start(Table().to_json()) + lines.put("one", ONE.to_json()) + lines.end()
    assert follower.read(data, anew=True).put == (ONE,)
    more = lines.drop("one") + lines.end()
    for cut in range(len(more)):
        assert follower.read(more[:cut], anew=False) == Changes(0, follower.sum)
    assert follower.read(more + b"-x", anew=False).drop == {"one"}
    assert live(data + more) == {}
    with pytest.raises(BadTable, match="checksum"):
        follower.read(b"=0000000000000000\n", anew=False)
    with pytest.raises(BadTable, match="ends in the middle"):
        follower.read(data[: data.index(b"\n=")] + b"\n", anew=True)


def test_the_agents_file_is_made_whole_again_after_somebody_wrote_to_it(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    written, read = DnsTable(path), TableFile(path)
    written.write(Table(), {"one": b"1"}, lambda key: ONE)
    first = read.read()
    assert first is not None
    assert first.put == (ONE,)
    path.write_bytes(path.read_bytes().replace(b"10.1.0.1", b"10.9.0.1"))
    assert written.problems() == ["the DNS table on disk is not what was written"]
    assert read.read(changed=True) is None, "the checksum does not fit"
    other = ServiceEntry("web", ("n1",), {"n1": "10.1.0.2"}, id="one")
    written.write(Table(), {"one": b"2"}, lambda key: other)
    assert written.problems() == []
    second = read.read(changed=True)
    assert second is not None
    assert second.put == (other,)
    path.unlink()
    written.write(Table(), {"one": b"2"}, lambda key: other)
    assert written.problems() == []
