"""Names, views and what is nobody else's business."""

from __future__ import annotations

import pytest
from swarmpy.overlay import dnswire
from swarmpy.overlay.dnswire import Answer, Query
from swarmpy.overlay.names import SUM_NAME, Zone, resolve
from swarmpy.overlay.nametable import (
    BadTable,
    NetworkEntry,
    NodeEntry,
    PortEntry,
    ServiceEntry,
    Table,
    TaskEntry,
)

TABLE = Table(
    node_id="n" * 25,
    networks=(NetworkEntry("n1", "front", "10.1.0.0/16"), NetworkEntry("n2", "stack_back", "10.2.0.0/16")),
    services=(
        ServiceEntry(
            "web", ("n1", "n2"), {"n1": "10.1.0.2", "n2": "10.2.0.2"}, "vip",
            {"n2": ("www", "Shared")}, (PortEntry("http", "tcp", 8080), PortEntry("", "udp", 53)),
            (
                TaskEntry(1, "web.1.abc", {"n1": "10.1.1.1", "n2": "10.2.1.1"}),
                TaskEntry(2, "web.2.def", {"n1": "10.1.1.2", "n2": "10.2.1.2"}),
            ),
        ),
        ServiceEntry(
            "DB", ("n2",), {}, "dnsrr", {"n2": ("shared", "web")}, (),
            (TaskEntry(0, "DB.host1.xyz", {"n2": "10.2.1.9"}),),
        ),
        ServiceEntry("empty", ("n1",), {"n1": "10.1.0.9"}, "vip"),
        ServiceEntry("gone", ("n1",), {}, "dnsrr"),
    ),
    nodes=(NodeEntry("Host1", "192.0.2.1"), NodeEntry("host2", "192.0.2.2")),
    pods={"10.1.1.1": ("n1", "n2"), "10.1.1.50": ("n1",), "10.2.1.9": ("n2",), "10.1.1.60": ()},
    upstreams=("192.0.2.53",),
)  # fmt: skip
ZONE = Zone(TABLE)
BOTH, FRONT, BACK = ("n1", "n2"), ("n1",), ("n2",)


def ask(name: str, view: tuple[str, ...] = BOTH, kind: int = dnswire.A) -> Answer | None:
    question = dnswire.encode_name(name) + kind.to_bytes(2, "big") + b"\0\1"
    return resolve(ZONE, view, Query(1, dnswire.RD, name.lower(), kind, 1, question), list.sort)


def values(name: str, view: tuple[str, ...] = BOTH, kind: int = dnswire.A) -> list[object]:
    answer = ask(name, view, kind)
    assert answer is not None
    assert answer.rcode == dnswire.NOERROR
    return [record.value for record in answer.records]


@pytest.mark.parametrize(
    ("name", "view", "expected"),
    [
        ("web", BOTH, ["10.1.0.2"]),
        ("web", BACK, ["10.2.0.2"]),
        ("WEB", BOTH, ["10.1.0.2"]),
        ("tasks.web", FRONT, ["10.1.1.1", "10.1.1.2"]),
        ("2.web", BACK, ["10.2.1.2"]),
        ("web.1.abc", FRONT, ["10.1.1.1"]),
        ("db", BOTH, ["10.2.1.9"]),
        ("tasks.db", BACK, ["10.2.1.9"]),
        ("db.host1.xyz", BACK, ["10.2.1.9"]),
        ("www", BOTH, ["10.2.0.2"]),
        ("tasks.www", BACK, ["10.2.1.1", "10.2.1.2"]),
        ("shared", BACK, ["10.2.0.2", "10.2.1.9"]),
        ("web.front.swarm.internal", BOTH, ["10.1.0.2"]),
        ("web.stack_back.swarm.internal", BOTH, ["10.2.0.2"]),
        ("tasks.web.stack_back.swarm.internal", BOTH, ["10.2.1.1", "10.2.1.2"]),
        ("1.web.front.swarm.internal", BOTH, ["10.1.1.1"]),
        ("web.swarm.internal", BACK, ["10.2.0.2"]),
        ("host1.node.swarm.internal", FRONT, ["192.0.2.1"]),
        ("HOST2.node.swarm.internal", (), ["192.0.2.2"]),
        ("empty", FRONT, ["10.1.0.9"]),
    ],
)
def test_addresses(name: str, view: tuple[str, ...], expected: list[str]) -> None:
    assert values(name, view) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("web", dnswire.AAAA), ("web", dnswire.TXT), ("tasks.web", dnswire.AAAA), ("gone", dnswire.A),
        ("tasks.empty", dnswire.A), ("host1.node.swarm.internal", dnswire.AAAA),
        ("swarm.internal", dnswire.A),
        ("_http._tcp.web", dnswire.A), ("2.0.1.10.in-addr.arpa", dnswire.A),
    ],
)  # fmt: skip
def test_known_names_without_that_type_are_empty_and_never_forwarded(name: str, kind: int) -> None:
    assert values(name, BOTH, kind) == []


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("db", FRONT), ("www", FRONT), ("nothing", BOTH), ("tasks.nothing", BOTH), ("3.web", BOTH),
        ("web.front.swarm.internal", BACK), ("x.swarm.internal", BOTH), ("host9.node.swarm.internal", BOTH),
        ("web", ()), ("7.0.1.10.in-addr.arpa", BOTH), ("1.1.1.10.in-addr.arpa", BACK),
        ("_ssh._tcp.web", BOTH), ("_http._udp.web", BOTH),
    ],
)  # fmt: skip
def test_what_does_not_exist_for_this_source(name: str, view: tuple[str, ...]) -> None:
    answer = ask(name, view)
    assert answer is not None
    assert answer.rcode == dnswire.NXDOMAIN
    assert answer.records == ()


@pytest.mark.parametrize(
    "name",
    ["", "example.com", "tasks.example.com", "swarm.internal.example.com", "notswarm.internal",
     "1.2.0.192.in-addr.arpa.", "9.9.9.9.in-addr.arpa", "_http._tcp.example.com", "x.in-addr.arpa"],
)  # fmt: skip
def test_the_rest_is_forwarded(name: str) -> None:
    if name.endswith("."):  # the address of a node is known
        assert values(name[:-1], BOTH, dnswire.PTR) == ["host1.node.swarm.internal"]
    else:
        assert ask(name) is None


def test_service_records() -> None:
    answer = ask("_http._tcp.web", FRONT, dnswire.SRV)
    assert answer is not None
    assert [r.value for r in answer.records] == [(0, 0, 8080, "web.front.swarm.internal")]
    assert [(r.name, r.value) for r in answer.additional] == [("web.front.swarm.internal", "10.1.0.2")]
    answer = ask("_53._udp.tasks.web.stack_back.swarm.internal", BOTH, dnswire.SRV)
    assert answer is not None
    assert [r.value for r in answer.records] == [
        (0, 0, 53, "web.1.abc.stack_back.swarm.internal"), (0, 0, 53, "web.2.def.stack_back.swarm.internal"),
    ]  # fmt: skip


def test_reverse() -> None:
    assert values("2.0.1.10.in-addr.arpa", FRONT, dnswire.PTR) == ["web.front.swarm.internal"]
    assert values("2.1.2.10.in-addr.arpa", BACK, dnswire.PTR) == ["web.2.def.stack_back.swarm.internal"]


def test_every_reverse_name_leads_back() -> None:
    for address in ("10.1.0.2", "10.1.1.2", "10.2.1.9", "192.0.2.2"):
        reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
        (name,) = values(reverse, BOTH, dnswire.PTR)
        assert values(str(name)) == [address]


def test_views() -> None:
    assert ZONE.view("10.1.1.1") == BOTH
    assert ZONE.view("10.1.1.50") == FRONT
    assert ZONE.view("10.1.1.60") == ()
    assert ZONE.view("10.2.200.1") == BACK
    assert ZONE.view("127.0.0.1") == BOTH
    assert ZONE.view("169.254.1.53", "169.254.1.53") == BOTH
    assert ZONE.view("192.0.2.1") == BOTH
    assert ZONE.view("198.51.100.1", "169.254.1.53") is None


def test_table_survives_json() -> None:
    assert Table.from_json(TABLE.to_json()) == TABLE
    assert Table.from_json("{}") == Table()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"), ("[]", "not an object"),
        ('{"networks": 3}', "networks of the DNS table is not a list"),
        ('{"networks": [{"id": "a", "subnet": "10.0.0.1/8"}]}', "networks[0].subnet"),
        ('{"services": [{"mode": "x"}]}', "services[0].mode"),
        ('{"services": [{"mode": "vip", "vips": {"a": "10.0.0.256"}}]}', "services[0].vips.a"),
        ('{"pods": {"10.0.0.1": "n1"}}', "pods.10.0.0.1"), ('{"upstreams": [1]}', "upstreams"),
        ('{"nodes": [{"hostname": "a"}]}', "nodes[0].address"),
        ("[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_damaged_tables_are_named(text: str, says: str) -> None:
    with pytest.raises(BadTable) as caught:
        Table.from_json(text)
    assert says in str(caught.value)


def test_what_is_loaded_is_visible() -> None:
    zone = Zone(TABLE)
    zone.sum = "00c0ffee"
    question = dnswire.encode_name(SUM_NAME) + b"\0\x10\0\1"
    answer = resolve(zone, (), Query(1, dnswire.RD, SUM_NAME, dnswire.TXT, 1, question), list.sort)
    assert answer is not None
    assert [record.value for record in answer.records] == ["00c0ffee"]


SIX = Table(
    networks=(
        NetworkEntry("n1", "front", "10.1.0.0/16", "fd00:1::/64"),
        NetworkEntry("n2", "back", "10.2.0.0/16", internal=True),
    ),
    services=(
        ServiceEntry(
            "web", ("n1",), {"n1": "10.1.0.2"}, "vip", {}, (PortEntry("http", "tcp", 80),),
            (TaskEntry(1, "web.1.abc", {"n1": "10.1.1.1"}, {"n1": "fd00:1::11"}),),
            {"n1": "fd00:1::2"},
        ),
    ),
    nodes=(NodeEntry("host6", "2001:db8::6"),),
    pods={"10.1.1.1": ("n1",), "10.2.1.1": ("n2",), "10.1.1.9": ("n1", "n2")},
    upstreams=("192.0.2.53",),
    pod_upstreams={"10.1.1.9": ("192.0.2.99",), "10.2.1.1": ("192.0.2.99",)},
)  # fmt: skip


def ask_six(name: str, kind: int) -> list[object]:
    question = dnswire.encode_name(name) + kind.to_bytes(2, "big") + b"\0\1"
    answer = resolve(Zone(SIX), FRONT, Query(1, dnswire.RD, name, kind, 1, question), list.sort)
    assert answer is not None
    assert answer.rcode == dnswire.NOERROR
    return [record.value for record in (*answer.records, *answer.additional)]


def test_both_families() -> None:
    assert ask_six("web", dnswire.A) == ["10.1.0.2"]
    assert ask_six("web", dnswire.AAAA) == ["fd00:1::2"]
    assert ask_six("tasks.web", dnswire.AAAA) == ["fd00:1::11"]
    assert ask_six("1.web", dnswire.AAAA) == ["fd00:1::11"]
    assert ask_six("web", dnswire.ANY) == ["10.1.0.2", "fd00:1::2"]
    assert ask_six("host6.node.swarm.internal", dnswire.AAAA) == ["2001:db8::6"]
    assert ask_six("host6.node.swarm.internal", dnswire.A) == []
    name = "web.front.swarm.internal"
    assert ask_six("_http._tcp.web", dnswire.SRV) == [(0, 0, 80, name), "10.1.0.2", "fd00:1::2"]
    reverse = ".".join(reversed("fd000001" + "0" * 22 + "11")) + ".ip6.arpa"
    assert ask_six(reverse, dnswire.PTR) == ["web.1.abc.front.swarm.internal"]
    assert Table.from_json(SIX.to_json()) == SIX


def test_who_is_asked_about_the_outside() -> None:
    zone = Zone(SIX)
    assert zone.upstreams("10.1.1.1", FRONT) == ("192.0.2.53",)
    assert zone.upstreams("10.1.1.9", BOTH) == ("192.0.2.99",)
    assert zone.upstreams("10.2.1.1", BACK) == (), "an internal network has no way out by names either"
    assert zone.upstreams("127.0.0.1", BOTH) == ("192.0.2.53",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"networks": [{"id": "a", "subnet": "10.0.0.0/8", "subnet6": "10.0.0.0/8"}]}',
            "networks[0].subnet6",
        ),
        ('{"networks": [{"id": "a", "subnet": "10.0.0.0/8", "internal": 1}]}', "networks[0].internal"),
        ('{"services": [{"mode": "vip", "vips6": {"a": "10.0.0.1"}}]}', "services[0].vips6.a"),
        ('{"pod_upstreams": {"10.0.0.1": 3}}', "pod_upstreams.10.0.0.1"),
    ],
)
def test_damaged_tables_of_both_families_are_named(text: str, says: str) -> None:
    with pytest.raises(BadTable) as caught:
        Table.from_json(text)
    assert says in str(caught.value)
