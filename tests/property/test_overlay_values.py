"""Laws of the overlay's pure parts: addresses, numbering, the wire formats."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.overlay import ingress, ipam, netlink, nfcodec
from swarmpy.overlay.netlink import Route, Rule
from swarmpy.overlay.nfcodec import Elements, Set

addresses = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
numbers = st.integers(1, 2**31 - 1)
blocks = st.lists(
    st.integers(0, 7).map(lambda n: f"10.72.{n}.0/29") | st.integers(0, 7).map(lambda n: f"10.72.{n}.64/30"),
    min_size=1,
    max_size=5,
)


@given(blocks, st.data())
def test_allocation_gives_each_address_once_and_then_none(pool: list[str], data: st.DataObject) -> None:
    expected = sum(IPv4Network(block).num_addresses - 2 for block in set(pool))
    used: set[str] = set()
    after = data.draw(st.none() | st.just("10.72.3.4") | st.just("10.72.7.66"))
    for _ in range(expected):
        got = ipam.allocate(pool, used, after)
        assert got is not None
        assert got not in used
        assert any(IPv4Address(got) in IPv4Network(block) for block in pool)
        used.add(got)
        after = data.draw(st.none() | st.just(got))
    assert ipam.allocate(pool, used, after) is None


def test_a_freed_address_is_reused_last() -> None:
    assert ipam.allocate(["10.72.0.0/29"], {"10.72.0.2"}, after="10.72.0.2") == "10.72.0.3"
    assert ipam.allocate(["10.72.0.0/29"], {"10.72.0.6"}, after="10.72.0.6") == "10.72.0.1"


items = st.lists(st.binary(min_size=1, max_size=1), unique=True, max_size=12)


@given(items, items)
def test_numbering_has_no_gap_and_moves_as_little_as_possible(
    previous: list[bytes], wanted: list[bytes]
) -> None:
    result = ingress.slots(previous, wanted)
    assert sorted(result) == sorted(wanted)
    kept = [number for number, item in enumerate(previous) if item in wanted]
    stay = [number for number in kept if number < len(wanted)]
    assert all(result[number] == previous[number] for number in stay)


@given(st.lists(st.tuples(st.integers(1, 60), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    raw = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert len(raw) % 4 == 0
    assert list(netlink.attribute_list(raw)) == pairs


@given(st.binary(max_size=200))
def test_garbage_is_refused_not_looped_over(raw: bytes) -> None:
    for reader in (lambda: list(netlink.decode(raw)), lambda: list(netlink.attribute_list(raw))):
        try:
            reader()
        except ValueError as error:
            assert "bytes" in str(error)


@given(
    numbers,
    addresses,
    st.integers(0, 32),
    numbers,
    addresses,
    st.sampled_from(["nexthop", "device", "gateway"]),
)
def test_routes_come_back(table: int, address: str, bits: int, number: int, other: str, kind: str) -> None:
    prefix = str(IPv4Network(f"{address}/{bits}", strict=False))
    route = {
        "nexthop": Route(table, prefix, nexthop=number, source=other),
        "device": Route(table, prefix, device=number),
        "gateway": Route(table, prefix, device=number, gateway=other),
    }[kind]
    assert netlink.parse_route(netlink.route_add(route).body) == route


@given(numbers, macs, addresses)
def test_neighbours_and_forwarding_entries_come_back(device: int, mac: str, address: str) -> None:
    for message in (netlink.neighbour_add(device, address, mac), netlink.fdb_add(device, mac, address)):
        assert netlink.parse_neighbour(message.body) == (device, True, address, mac)
    parsed = netlink.parse_nexthop(netlink.nexthop_add(device, 5, address).body)
    assert parsed == (device, 5, address)


@given(numbers, st.sampled_from([1, 2, 3]), numbers, numbers, st.booleans())
def test_rules_come_back(priority: int, action: int, target: int, mark: int, invert: bool) -> None:
    rule = Rule(priority, action, target if action != netlink.RULE_NOP else 0, mark, 0xFFFFFFFF, invert)
    assert netlink.parse_rule(netlink.rule_message(netlink.NEWRULE, rule).body) == rule


keys = st.binary(min_size=8, max_size=8)
data = st.none() | st.binary(min_size=4, max_size=4) | st.from_regex(r"[vpb][0-9]{1,3}", fullmatch=True)


@pytest.mark.parametrize("interval", [False, True])
@given(old=st.dictionaries(keys, data, max_size=20), new=st.dictionaries(keys, data, max_size=20))
def test_a_transaction_turns_the_old_set_into_the_new(interval: bool, old: Elements, new: Elements) -> None:
    target = Set("s", nfcodec.NFPROTO_IPV4, "t", interval)
    content = dict(old)
    for message in nfcodec.transaction({"s": target}, {"s": old}, {"s": new}):
        for key, value in nfcodec.parse_elements(message.body):
            if message.type & 0xFF == nfcodec.DELSETELEM:
                assert content.pop(key) == value
            else:
                assert key not in content, "an element is replaced by deleting it first"
                content[key] = value
    assert content == new
    assert nfcodec.transaction({"s": target}, {"s": new}, {"s": dict(new)}) == []
