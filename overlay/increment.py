"""What a change of a few services changes in the maps, without looking at the others. Pure.

With 100,000 endpoints working out everything takes seconds, one service microseconds. The result is the same: the
numbers of backends are given by the same rules from what is in the maps. Whatever is not only about services,
or would let two services claim one port, is left to `rules.desired`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import zip_longest

from swarmpy.overlay import ingress, nfcodec
from swarmpy.overlay.ingress import Key
from swarmpy.overlay.nfcodec import Data, Elements
from swarmpy.overlay.wanted import Service, Wanted

SERVICES_MAX = 64
DISPUTED = "*"
BACKENDS_OF = {verdicts: (backends, letter) for verdicts, backends, letter in ingress.MAPS}
Change = tuple[Service | None, Service | None]


@dataclass
class Delta:
    """Elements that go and come, by set; new balancing chains; the addresses that take no traffic any more."""

    gone: dict[str, Elements] = field(default_factory=dict)
    added: dict[str, Elements] = field(default_factory=dict)
    chains: set[tuple[int, str]] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)

    def differ(self, name: str, before: Elements, after: Elements) -> None:
        for key, data in before.items():
            if key not in after or after[key] != data:
                self.gone.setdefault(name, {})[key] = data
        for key, data in after.items():
            if key not in before or before[key] != data:
                self.added.setdefault(name, {})[key] = data


def owners(wanted: Wanted) -> dict[Key, str]:
    """Which service has which key; "" for ports of this node alone, DISPUTED where several want it."""
    out = dict.fromkeys(ingress.host_entries(wanted), "")
    internal = ingress.internal_networks(wanted)
    for service in sorted(wanted.services, key=lambda service: service.id):
        for key in ingress.entries(service, wanted.self_id, internal):
            out[key] = service.id if out.get(key, service.id) == service.id else DISPUTED
    return out


def changes(old: Wanted, new: Wanted) -> list[Change] | None:
    """The services that differ, (before, after); None when anything else does, or too many."""
    for each in fields(Wanted):
        if each.name != "services":
            before, after = getattr(old, each.name), getattr(new, each.name)
            if before is not after and before != after:
                return None
    found: list[Change] = []
    other = [(a, b) for a, b in zip(old.services, new.services, strict=False) if a is not b]
    pairs: Iterable[Change] = other
    if len(old.services) != len(new.services) or any(a.id != b.id for a, b in other):
        known, now = ({service.id: service for service in each.services} for each in (old, new))
        pairs = ((known.get(identity), now.get(identity)) for identity in known.keys() | now.keys())
    for one, two in pairs:
        if one is not two and one != two:
            found.append((one, two))
            if len(found) > SERVICES_MAX:
                return None
    return found


def delta(
    found: list[Change], wanted: Wanted, sets: Mapping[str, Elements], owned: dict[Key, str]
) -> Delta | None:
    """What the changes come to; None when a key is claimed twice. `owned` is kept current when it is not None."""
    out = Delta()
    internal = ingress.internal_networks(wanted)
    claimed: dict[Key, str] = {}
    left: list[Key] = []
    for old, new in found:
        before = ingress.keys_of(old, wanted.self_id, internal) if old else set()
        after = ingress.entries(new, wanted.self_id, internal) if new else {}
        identity = (new or old).id  # type: ignore[union-attr]
        for key in before | after.keys():
            if owned.get(key, identity) != identity or claimed.setdefault(key, identity) != identity:
                return None
            rebalance(out, sets, key, after.get(key))
        left += before - after.keys()
        out.removed |= addresses_of(old) - addresses_of(new)
        local = [addresses_of(service, wanted.self_id) for service in (old, new)]
        for six in ingress.SUFFIXES:
            met = [
                {nfcodec.address(ip) * 2: None for ip in each if ingress.suffix_of(ip) == six}
                for each in local
            ]
            out.differ("hairpin" + six, dict(met[0]), dict(met[1]))
    owned.update(claimed)
    for key in left:
        owned.pop(key, None)
    return out


def rebalance(
    out: Delta, sets: Mapping[str, Elements], key: Key, wanted: tuple[list[bytes], bool] | None
) -> None:
    """The elements of one key: those there are, and those there shall be."""
    name, raw = key
    backends_map, letter = BACKENDS_OF[name]
    verdict = sets[name].get(raw)
    there = sets[backends_map]
    before: list[Data] = []
    if isinstance(verdict, str) and verdict != ingress.REFUSE:
        before = [there[raw + number] for number in nfcodec.numbers(int(verdict.strip("vpbh")))]
    after: list[bytes] = []
    verdicts: Elements = {}
    if wanted is not None:
        backends, affinity = wanted
        previous = [data for data in before if isinstance(data, bytes)]
        after = ingress.affine(backends) if affinity else ingress.slots(previous, backends)
        chain = f"{letter}{'h' if affinity else ''}{len(after)}"
        verdicts = {raw: chain if after else ingress.REFUSE}
        if after:
            out.chains.add((nfcodec.NFPROTO_IPV6 if name.endswith("6") else nfcodec.NFPROTO_IPV4, chain))
    out.differ(name, {raw: verdict} if verdict is not None else {}, verdicts)
    changed = [n for n, (one, two) in enumerate(zip_longest(before, after)) if one != two]
    numbers = nfcodec.numbers(max(len(before), len(after))) if changed else ()
    out.differ(
        backends_map,
        {raw + numbers[n]: before[n] for n in changed if n < len(before)},
        {raw + numbers[n]: after[n] for n in changed if n < len(after)},
    )


def addresses_of(service: Service | None, node_id: str = "") -> set[str]:
    """The addresses of a service's backends, on one node or ("") on all."""
    if service is None:
        return set()
    backends = [each for each in service.backends if each.node_id == node_id] if node_id else service.backends
    return {ip for backend in backends for _, ip in backend.addresses}
