"""Virtual addresses and published ports as elements of nftables maps. Pure.

Theory
  A packet to a virtual address finds in `vip` a verdict: go to chain `v<n>`, which draws a number below n
  and looks up (address, number) in `vep`: the backend. Published ports work the same with `port` and `pep`,
  those bound to one address with `bound` and `bep`. With no backend the verdict is `refuse`. Each family has a
  table with these maps; here the sets of IPv6 are called `vip6`, `vep6`, ….
  Backends keep their number while they live, so one backend more or less changes two or three elements, in one
  transaction. A packet looks up twice, and the transaction may come in between: what nothing leads to any more
  (LINGERING, `surplus`) is therefore deleted later, by a second one. Then no packet ever meets a number without a
  backend, or a backend that meets itself without its own address being changed on the way.
  With client affinity the chain is `vh<n>`: the number is a hash of the client's address, n is AFFINITY_SLOTS,
  and every number belongs to the backend that ranks first for it (rendezvous hashing). All nodes rank alike, and
  a backend that leaves moves only its own clients.
  A backend of weight 3 has three numbers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address

from swarmpy.overlay import nfcodec
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.wanted import Backend, Service, Wanted

REFUSE = "refuse"
KINDS = (("vip", "vep", "v"), ("port", "pep", "p"), ("bound", "bep", "b"))
SUFFIXES = ("", "6")
MAPS = tuple(
    (verdicts + six, backends + six, letter) for six in SUFFIXES for verdicts, backends, letter in KINDS
)
LINGERING = (*(backends for _, backends, _ in MAPS), "hairpin", "hairpin6")
AFFINITY_SLOTS = 128
WEIGHT_MAX = 16


def surplus(gone: Mapping[str, Elements], stays: Mapping[str, Elements]) -> dict[str, Elements]:
    """Those of the elements that go that have to stay a little longer, by set; `stays` has what is wanted."""
    found = {
        name: {key: data for key, data in gone.get(name, {}).items() if key not in stays.get(name, {})}
        for name in LINGERING
    }
    return {name: elements for name, elements in found.items() if elements}


def suffix_of(address: str) -> str:
    """Which family's sets an address is in."""
    return "6" if ":" in address else ""


def is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def slots(previous: Sequence[bytes], wanted: Iterable[bytes]) -> list[bytes]:
    """Number `wanted` from 0, each where it was in `previous` if that is possible without a gap.

    One that is wanted several times gets several numbers.
    """
    rest = Counter(wanted)
    out: list[bytes | None] = list(previous)
    gaps: list[int] = []
    for place, old in enumerate(previous):
        if rest[old] > 0:
            rest[old] -= 1
        else:
            out[place] = None
            gaps.append(place)
    waiting = list(rest.elements())[::-1]
    for place in gaps:
        if waiting:
            out[place] = waiting.pop()
            continue
        while out and out[-1] is None:
            out.pop()
        if place < len(out):
            out[place] = out.pop()
    return [item for item in out if item is not None] + waiting[::-1]


@lru_cache(maxsize=4096)
def ranks(backend: bytes) -> tuple[int, ...]:
    """How high a backend ranks for each number of a service with affinity."""
    words = hashlib.shake_256(backend).digest(AFFINITY_SLOTS * 4)
    return tuple(int.from_bytes(words[n : n + 4], "big") for n in range(0, len(words), 4))


def affine(backends: Iterable[bytes]) -> list[bytes]:
    """The backend of each number; several times the same backend rank as often."""
    known: list[tuple[tuple[int, ...], bytes]] = []
    seen: dict[bytes, int] = {}
    for backend in backends:
        copy = seen[backend] = seen.get(backend, 0) + 1
        known.append((ranks(backend + copy.to_bytes(2, "big")), backend))
    if not known:
        return []
    return [max(known, key=lambda entry: (entry[0][n], entry[1]))[1] for n in range(AFFINITY_SLOTS)]


class Balancer:
    """Collects one verdict map and its map of backends, keeping the numbering of `previous`."""

    def __init__(self, letter: str, previous: Elements) -> None:
        self.letter = letter
        self.verdicts: Elements = {}
        self.backends: Elements = {}
        self._previous: dict[bytes, dict[int, bytes]] = {}
        for key, data in previous.items():
            assert isinstance(data, bytes)
            number = int.from_bytes(key[-4:], "little")
            self._previous.setdefault(key[:-4], {})[number] = data

    def add(self, key: bytes, backends: Sequence[bytes], *, affinity: bool = False) -> None:
        """Balance `key` over `backends`; the first one to claim a key has it."""
        if key in self.verdicts:
            return
        if affinity:
            chosen = affine(backends)
        else:
            before = self._previous.get(key, {})
            chosen = slots([before[number] for number in sorted(before)], backends)
        letter = self.letter + ("h" if affinity else "")
        self.verdicts[key] = f"{letter}{len(chosen)}" if chosen else REFUSE
        for number, backend in zip(nfcodec.numbers(len(chosen)), chosen, strict=True):
            self.backends[key + number] = backend


Key = tuple[str, bytes]  # verdict map, its key
Entries = dict[Key, tuple[list[bytes], bool]]  # backends, affinity


def build(wanted: Wanted, previous: dict[str, Elements]) -> dict[str, Elements]:
    """The content of all balancing maps, numbered as in `previous` where possible."""
    balancers = {
        verdicts: Balancer(letter, previous.get(backends, {})) for verdicts, backends, letter in MAPS
    }
    internal = internal_networks(wanted)
    for (name, key), (backends, _) in host_entries(wanted).items():
        balancers[name].add(key, backends)
    for service in sorted(wanted.services, key=lambda service: service.id):
        for (name, key), (backends, affinity) in entries(service, wanted.self_id, internal).items():
            balancers[name].add(key, backends, affinity=affinity)
    out: dict[str, Elements] = {}
    for verdicts, backends_map, _ in MAPS:
        out[verdicts] = balancers[verdicts].verdicts
        out[backends_map] = balancers[verdicts].backends
    return out


def internal_networks(wanted: Wanted) -> set[str]:
    return {network.id for network in wanted.networks if network.internal}


def host_entries(wanted: Wanted) -> Entries:
    """Ports of this node that lead to one task; the first one to claim a key has it."""
    out: Entries = {}
    for protocol, published, address, target, bind in sorted(wanted.host_ports):
        backend = nfcodec.address(address) + nfcodec.port(target)
        for key in publish(suffix_of(address), (protocol, published, bind)):
            out.setdefault(key, ([backend], False))
    return out


def entries(service: Service, self_id: str, internal: set[str]) -> Entries:
    """What one service wants in the maps."""
    out: Entries = {}
    backends = chosen_backends(service, self_id)
    for network_id, address in service.vips:
        six = suffix_of(address)
        chosen = sorted(
            ip
            for backend in backends
            for net, ip in backend.addresses * backend.weight
            if net == network_id and suffix_of(ip) == six
        )
        found = [nfcodec.address(ip) for ip in chosen]
        out.setdefault(("vip" + six, nfcodec.address(address)), (found, service.affinity))
    for six in SUFFIXES if service.ports else ():
        reachable = sorted(
            address
            for backend in backends
            for address in [outer_address(backend, internal, six)] * backend.weight
            if address
        )
        if six and not reachable and not any(suffix_of(address) for _, address in service.vips):
            continue  # a service without IPv6 takes no port there
        for entry in service.ports:
            if entry.mode == "ingress":
                targets = [nfcodec.address(ip) + nfcodec.port(entry.target) for ip in reachable]
                for key in publish(six, (entry.protocol, entry.published, entry.address)):
                    out.setdefault(key, (targets, service.affinity))
    return out


def keys_of(service: Service, self_id: str, internal: set[str]) -> set[Key]:
    """Where `entries` puts something; without published ports that is known without looking at the tasks."""
    if service.ports:
        return set(entries(service, self_id, internal))
    return {("vip" + suffix_of(address), nfcodec.address(address)) for _, address in service.vips}


def chosen_backends(service: Service, self_id: str) -> tuple[Backend, ...]:
    """All ready tasks, or this node's own where these are preferred and there are any."""
    local = tuple(backend for backend in service.backends if backend.node_id == self_id)
    return local if service.prefer_local and local else service.backends


def publish(six: str, entry: tuple[str, int, str]) -> Iterator[Key]:
    """Where (protocol, port, bind address) is looked up in one family."""
    protocol, published, bind = entry
    key = nfcodec.protocol(protocol) + nfcodec.port(published)
    if bind in {"", "::"} or (bind == "0.0.0.0" and not six):
        yield "port" + six, key
    elif bind != "0.0.0.0" and suffix_of(bind) == six:
        yield "bound" + six, nfcodec.address(bind) + key


def outer_address(backend: Backend, internal: set[str], six: str = "") -> str:
    """By which the outside reaches a backend: its first address that is not internal, else its first."""
    known = [(network_id, ip) for network_id, ip in backend.addresses if suffix_of(ip) == six]
    outer = [ip for network_id, ip in known if network_id not in internal]
    return next(iter(outer or [ip for _, ip in known]), "")
