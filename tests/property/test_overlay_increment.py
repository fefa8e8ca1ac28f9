"""A change worked out service by service comes to the same as working out everything."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.overlay import increment, ingress, nfcodec, rules
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.wanted import Backend, Network, Node, PortMap, Service, Wanted

NODES = (Node("a", 1, "10.9.0.1", "10.9.0.1"), Node("b", 2, "10.9.0.2", "fd99::2"))
NETWORKS = (
    Network("one", "one", "10.72.0.0/18", False, (("a", "10.72.0.0/26"),), subnet6="fd00:0:0:2::/64"),
    Network("two", "two", "10.72.64.0/18", True, (("b", "10.72.64.0/26"),)),
)
BASE = Wanted("a", "10.64.0.0/10", 4790, 1450, NODES, NETWORKS, prefix6="fd00::/48")


@st.composite
def service(draw: st.DrawFn, identity: int) -> Service:
    """Its tasks' addresses and its ports are its own, as in a cluster; ports may collide all the same."""
    tasks = draw(st.sets(st.integers(1, 6), max_size=6))
    backends = tuple(
        Backend(
            f"t{identity}.{task}", draw(st.sampled_from("ab")),
            (("one", f"10.72.{identity}.{task}"), ("one", f"fd00:0:0:2::{identity}:{task}"))
            if draw(st.booleans()) else (("two", f"10.72.{64 + identity}.{task}"),),
            draw(st.sampled_from([1, 1, 3])),
        )
        for task in sorted(tasks)
    )  # fmt: skip
    ports = tuple(
        PortMap("tcp", draw(st.sampled_from([80 + identity, 80 + identity, 99])), 80, "ingress", bind)
        for bind in draw(st.sets(st.sampled_from(["", "10.9.0.1", "fd99::2", "0.0.0.0"]), max_size=2))
    )
    vips = (("one", f"10.65.0.{identity}"), ("one", f"fd00:0:0:1::{identity}"))
    return Service(
        f"s{identity}", draw(st.sampled_from([vips, vips[:1], ()])), ports, backends,
        affinity=draw(st.booleans()), prefer_local=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> Wanted:
    known = draw(st.sets(st.integers(1, 4)))
    services = tuple(draw(service(identity)) for identity in sorted(known))
    return dataclasses.replace(BASE, services=services)


def applied(sets: dict[str, Elements], delta: increment.Delta) -> dict[str, Elements]:
    out = {name: dict(elements) for name, elements in sets.items()}
    for name, elements in delta.gone.items():
        for key in elements:
            del out[name][key]
    for name, elements in delta.added.items():
        assert not out[name].keys() & elements.keys(), "an element is added over another one"
        out[name].update(elements)
    return out


def missing(before: dict[str, Elements], meanwhile: dict[str, Elements]) -> list[str]:
    """What a packet does not find that looked up its chain before a transaction, and the rest after it."""
    found = [f"hairpin {key.hex()}" for key in before["hairpin"] if key not in meanwhile["hairpin"]]
    for verdicts, backends, _ in ingress.MAPS:
        for key, chain in before[verdicts].items():
            if isinstance(chain, str) and chain != ingress.REFUSE:
                numbers = nfcodec.numbers(int(chain.strip("vpbh")))
                found += [f"{backends} {key.hex()}" for n in numbers if key + n not in meanwhile[backends]]
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(worlds(), min_size=2, max_size=5))
def test_service_by_service_is_the_same_as_everything(steps: list[Wanted]) -> None:
    before = steps[0]
    sets = rules.desired(before, {}, 7, {}).sets
    owned = increment.owners(before)
    for after in steps[1:]:
        state = rules.desired(after, {}, 7, sets)
        found = increment.changes(before, after)
        assert found is not None
        delta = increment.delta(found, after, sets, dict(owned))
        if delta is not None:
            increment.delta(found, after, sets, owned)
            assert applied(sets, delta) == state.sets
            assert delta.chains <= state.chains
            left = ingress.surplus(delta.gone, delta.added)
            assert left == ingress.surplus(sets, state.sets)
            assert missing(sets, {n: e | left.get(n, {}) for n, e in state.sets.items()}) == []
            assert owned == increment.owners(after)
        else:
            owned = increment.owners(after)
        before, sets = after, state.sets


def test_what_is_not_about_services_is_left_to_the_long_way() -> None:
    for change in (
        {"mtu": 1400},
        {"networks": NETWORKS[:1]},
        {"host_ports": (("tcp", 1, "10.72.0.5", 1, ""),)},
    ):
        assert increment.changes(BASE, dataclasses.replace(BASE, **change)) is None  # type: ignore[arg-type]
    crowd = tuple(Service(f"s{n}", (), (), ()) for n in range(increment.SERVICES_MAX + 1))
    assert increment.changes(BASE, dataclasses.replace(BASE, services=crowd)) is None
    assert increment.changes(BASE, BASE) == []
