"""Encryption as values: generations, which key is used when, both ends' keys, the kernel's wire formats."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.agent.seals import SealKeys
from swarmpy.node.plan import sealing as plan
from swarmpy.overlay import netlink, seal, wgcodec, xfrmcodec
from swarmpy.overlay.seal import Schedule, SealState
from swarmpy.overlay.wanted import Network, Node, Wanted
from swarmpy.proto import objects_pb2, types_pb2

from tests.store_world import World

HOUR = 3_600_000
SECRETS = {(name, g): bytes([ord(name), g]) * 16 for name in "abc" for g in (7, 8, 9)}


def public(name: str, generation: int) -> bytes:
    return seal.public_of(X25519PrivateKey.from_private_bytes(SECRETS[name, generation]))


def wanted(
    name: str, method: str, has: dict[str, tuple[int, ...]], ready: dict[str, int] | None = None
) -> Wanted:
    nodes = tuple(
        Node(
            n, i, f"10.9.0.{i}", f"10.9.0.{i}",
            seal_keys=tuple((g, public(n, g)) for g in has.get(n, ())), seal_ready=(ready or {}).get(n, 0),
        )
        for i, n in enumerate("abc", 1)
    )  # fmt: skip
    networks = (Network("s", "s", "10.72.0.0/18", False, (), seal=method),)
    keys = tuple((g, SECRETS[name, g]) for g in has.get(name, ()))
    return Wanted(name, "10.64.0.0/10", 4790, 1450, nodes, networks, seal_keys=keys)


@given(st.integers(2, 10**6), st.integers(0, 12 * HOUR - 1))
def test_generations_overlap_around_every_change(number: int, since_ms: int) -> None:
    schedule = Schedule()
    now = schedule.generations(number * schedule.rotate_ms + since_ms)
    assert number in now
    assert now == list(range(now[0], now[-1] + 1))
    assert len(now) <= 2
    assert (now[-1] > number) == (since_ms >= 11 * HOUR)
    assert (now[0] < number) == (since_ms < HOUR)


def test_a_key_is_sent_by_only_when_the_other_end_has_it() -> None:
    peer = seal.others(wanted("a", "esp", {}))[0]
    both = {"a": (7, 8), "b": (7, 8)}
    for ready, expected in ((0, 7), (7, 7), (8, 8), (9, 8)):
        asked = wanted("a", "esp", both, {"b": ready})
        assert seal.outgoing(asked, seal.others(asked)[0]) == expected
    assert seal.outgoing(wanted("a", "esp", {"a": (7,), "b": (8,)}), peer) is None


def test_ready_means_that_every_node_is_known() -> None:
    assert seal.ready(wanted("a", "esp", {"a": (7, 8), "b": (7, 8), "c": (7,)})) == 7
    everybody = wanted("a", "esp", {"a": (7, 8), "b": (7, 8), "c": (7, 8)})
    assert seal.ready(everybody) == 8
    late = replace(wanted("a", "esp", {"a": (7, 8), "b": (7, 8), "c": (7,)}))
    nodes = tuple(replace(node, down=node.id == "c") for node in late.nodes)
    assert seal.ready(replace(late, nodes=nodes)) == 8, "a node that is down holds nobody back"
    assert seal.ready(wanted("a", "esp", {})) == 0


def test_both_ends_of_esp_agree_and_directions_differ() -> None:
    has = {"a": (7, 8), "b": (7, 8), "c": (7,)}
    ready = {"a": 8, "b": 8, "c": 7}
    states = {name: seal.desired(wanted(name, "esp", has, ready)) for name in "abc"}
    for name, state in states.items():
        own = f"10.9.0.{'abc'.index(name) + 1}"
        assert set(state.policies) == {f"10.9.0.{i}" for i in (1, 2, 3)} - {own}
        for policy in state.policies.values():
            sent = state.associations[policy.destination, policy.spi]
            other = states["abc"[int(policy.destination[-1]) - 1]]
            taken = other.associations[policy.destination, policy.spi]
            assert (sent.source, sent.key) == (taken.source, taken.key) == (own, sent.key)
            assert (sent.mark, taken.mark) == (0, seal.MARK), "what comes in is marked, what goes out is not"
    keys = [entry.key for entry in states["a"].associations.values()]
    assert len(keys) == len(set(keys)) == 6
    assert states["a"].policies["10.9.0.2"].spi == seal.spi_of(8, 1)
    assert states["a"].policies["10.9.0.3"].spi == seal.spi_of(7, 1)


def test_bad_public_keys_lead_nowhere() -> None:
    asked = wanted("a", "esp", {"a": (7,), "b": (7,)}, {"b": 7})
    for bad in (bytes(32), b"short"):
        nodes = tuple(
            replace(node, seal_keys=((7, bad),)) if node.id == "b" else node for node in asked.nodes
        )
        assert seal.desired(replace(asked, nodes=nodes)) == SealState()


def test_wireguard_has_a_device_per_generation_and_one_way_to_each_node() -> None:
    has = {"a": (7, 8), "b": (7, 8), "c": (7,)}
    state = seal.desired(wanted("a", "wireguard", has, {"b": 8, "c": 7}))
    assert state.routes == {"10.9.0.2": "swwg0", "10.9.0.3": "swwg1"}
    assert {name: (device.port, len(device.peers)) for name, device in state.devices.items()} == {
        "swwg1": (4792, 2), "swwg0": (4791, 1),
    }  # fmt: skip
    (peer,) = state.devices["swwg0"].peers
    assert peer == wgcodec.Peer(public("b", 8), ("10.9.0.2", 4791), ("10.9.0.2/32",))
    assert state.reachable == {"10.9.0.2", "10.9.0.3"}
    shown = repr(state) + repr(wanted("a", "wireguard", has))
    assert SECRETS["a", 7].hex() not in shown
    assert repr(SECRETS["a", 7]) not in shown


def test_nothing_without_encrypted_networks() -> None:
    assert seal.desired(wanted("a", "", {"a": (7,), "b": (7,)})) == SealState()


# Wire formats


def test_associations_and_policies_come_back_as_they_were_sent() -> None:
    for source, destination in (("10.9.0.1", "10.9.0.2"), ("fd00::1", "fd00::2")):
        entry = xfrmcodec.Association(source, destination, 0x08000001, bytes(range(36)), 5, 0xFF000000)
        message = xfrmcodec.association_add(entry)
        assert xfrmcodec.parse_association(message.body) == entry
        assert message.body[56:76] == netlink.packed(destination).ljust(16, b"\0") + b"\x08\0\0\x01"
        policy = xfrmcodec.Policy(source, destination, 4790, seal.MARK, seal.MASK, 0x08000001)
        assert xfrmcodec.parse_policy(xfrmcodec.policy_set(policy).body) == policy
        assert len(xfrmcodec.policy_delete(policy).body) == 64 + 12
        assert len(xfrmcodec.association_delete(destination, 7).body) == 24
    foreign = bytearray(message.body)
    foreign[208:212] = bytes(4)
    assert xfrmcodec.parse_association(bytes(foreign)) is None, "somebody else's association is left alone"


# The structures of uapi/linux/xfrm.h, field by field: selector, id, source, limits, counters, statistics,
# numbers, then the attributes for the algorithm and for 64-bit sequence numbers.
GOLDEN_ASSOCIATION = (
    "00" * 40 + "0200" + "00" * 14 + "0a090002" + "00" * 12 + "08000001" + "32000000" + "0a090001" + "00" * 12
    + "ff" * 32 + "00" * 32 + "00" * 44 + "00000000" + "59505753" + "0200" + "00" + "00" + "80" + "00" * 7
    + "70001200" + b"rfc4106(gcm(aes))".hex() + "00" * 47 + "20010000" + "80000000" + bytes(range(36)).hex()
    + "2c001700" + "04000000" + "00" * 16 + "80000000" + "00" * 16
)  # fmt: skip


def test_golden_association() -> None:
    entry = xfrmcodec.Association("10.9.0.1", "10.9.0.2", 0x08000001, bytes(range(36)))
    assert xfrmcodec.association_add(entry).body.hex() == GOLDEN_ASSOCIATION


def test_wireguard_messages_are_what_another_program_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pyroute2 = pytest.importorskip("pyroute2.netlink.generic.wireguard")
    # PySyncObj, once imported, puts a version for Windows in the place of socket.inet_ntop.
    monkeypatch.setattr(pyroute2, "inet_ntop", lambda _, raw: netlink.unpacked(raw))
    peer = wgcodec.Peer(bytes(range(32)), ("10.9.0.2", 4791), ("10.9.0.2/32", "fd00::/64"))
    (message,) = wgcodec.peers_set(30, "swwg0", [peer])
    read = pyroute2.wgmsg(netlink.encode(message, 1))
    read.decode()
    assert read.get_attr("WGDEVICE_A_IFNAME") == "swwg0"
    (found,) = read.get_attr("WGDEVICE_A_PEERS")
    assert found.get_attr("WGPEER_A_FLAGS") == wgcodec.REPLACE_ALLOWED
    endpoint = found.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == ("10.9.0.2", 4791)
    allowed = [entry["addr"] for entry in found.get_attr("WGPEER_A_ALLOWEDIPS")]
    assert allowed == ["10.9.0.2/32", "fd00::/64"]


def test_a_device_is_read_from_several_messages() -> None:
    peers = [
        wgcodec.Peer(bytes([number]) * 32, ("10.9.1.1", 4791), (f"10.9.{number}.0/24",))
        for number in range(1, 251)
    ]
    messages = list(wgcodec.peers_set(30, "swwg0", peers))
    assert [len(message.body) < 65536 for message in messages] == [True, True]
    device = wgcodec.Device("swwg0", bytes(31) + b"\x40", 4791, frozenset(peers))
    bodies = [wgcodec.device_set(30, device).body, *(message.body for message in messages)]
    assert wgcodec.parse_device(bodies, "swwg0") == device
    assert wgcodec.parse_sockaddr(wgcodec.sockaddr("fd00::1", 9)) == ("fd00::1", 9)


def test_keys_are_kept_privately_and_renewed_when_due(tmp_path: object) -> None:
    path = tmp_path / "run" / "seal.json"  # type: ignore[operator]
    path.parent.mkdir()
    keys = SealKeys(path)
    start = 50 * 12 * HOUR + 6 * HOUR
    assert keys.renew(start)
    assert not keys.renew(start + HOUR)
    assert path.stat().st_mode & 0o777 == 0o600
    again = SealKeys(path)
    again.load()
    assert again.pairs == keys.pairs
    assert [key.generation for key in again.public()] == [50]
    assert keys.renew(start + 5 * HOUR)
    assert [number for number, _ in keys.pairs] == [50, 51]
    assert keys.pairs[0] == again.pairs[0], "the key in use stays"
    assert keys.renew(start + 7 * HOUR)
    assert [number for number, _ in keys.pairs] == [51]
    path.write_text("{")
    damaged = SealKeys(path)
    damaged.load()
    assert damaged.pairs == ()
    assert os.listdir(path.parent) == ["seal.json"]


# Which way is taken


def node(name: str, *methods: str, state: types_pb2.NodeState = types_pb2.NODE_READY) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = name
    made.status.state = state
    made.description.seal_methods.extend(methods)
    return made


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("n1", "wireguard", "esp"), node("n2", "wireguard")], "wireguard"),
        ([node("n1", "wireguard", "esp"), node("n2", "esp")], "esp"),
        ([node("n1", "esp"), node("n2", state=types_pb2.NODE_DOWN)], "esp"),
        ([node("n1", "esp"), node("n2")], "the kernel of node n2 has neither WireGuard nor ESP: load"),
        ([node("n1"), node("n2")], "the kernel of node n1 has neither WireGuard nor ESP (and 1 more): load"),
        ([node("n1", "esp"), node("n2", "wireguard")], "some nodes' kernels have only WireGuard and others only ESP"),
    ],
)  # fmt: skip
def test_the_way_that_all_nodes_have(nodes: list[objects_pb2.Node], expected: str) -> None:
    world = World()
    world.put(*nodes)
    try:
        found = plan.method(world.store)
    except plan.CannotEncrypt as error:
        found = str(error)
    assert found.startswith(expected)


def test_networks_share_one_way() -> None:
    world = World()
    world.put(node("n1", "wireguard", "esp"))
    first = objects_pb2.Network(seal="esp")
    first.meta.id = first.meta.name = "first"
    world.put(first)
    assert plan.method(world.store) == "esp"
    world.put(node("n2", "wireguard"))
    with pytest.raises(plan.CannotEncrypt, match="n2 does not have ESP"):
        plan.method(world.store)


def test_the_option() -> None:
    for options, expected in (({}, False), ({"encrypted": ""}, True), ({"encrypted": "false"}, False)):
        assert plan.is_wanted(objects_pb2.NetworkSpec(options=options)) is expected
