"""Virtual addresses and published ports as elements of nftables maps. Pure.

Theory
  A packet to a virtual address finds in `vip` a verdict: go to chain `v<n>`, which draws a number below n
  and looks up (address, number) in `vep`: the backend. Published ports work the same with `port` and `pep`,
  those bound to one address with `bound` and `bep`. With no backend the verdict is `refuse`.
  Backends keep their number while they live, so one backend more or less changes two or three elements,
  and all of a change is one transaction: no packet ever meets a number without a backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address

from swarmpy.overlay import nfcodec
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.wanted import Backend, Service, Wanted

REFUSE = "refuse"
MAPS = (("vip", "vep", "v"), ("port", "pep", "p"), ("bound", "bep", "b"))


def is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def slots(previous: Sequence[bytes], wanted: Iterable[bytes]) -> list[bytes]:
    """Number `wanted` from 0, each where it was in `previous` if that is possible without a gap."""
    rest = dict.fromkeys(wanted)
    kept: list[bytes | None] = []
    for old in previous:
        kept.append(old if old in rest else None)
        rest.pop(old, None)
    out: list[bytes] = []
    added = iter(rest)
    while kept:
        item: bytes | None = kept.pop(0)
        if item is None:
            item = next(added, None)
        while item is None and kept:
            item = kept.pop()
        if item is not None:
            out.append(item)
    out.extend(added)
    return out


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

    def add(self, key: bytes, backends: Sequence[bytes]) -> None:
        """Balance `key` over `backends`; the first one to claim a key has it."""
        if key in self.verdicts:
            return
        before = self._previous.get(key, {})
        chosen = slots([before[number] for number in sorted(before)], backends)
        self.verdicts[key] = f"{self.letter}{len(chosen)}" if chosen else REFUSE
        for number, backend in enumerate(chosen):
            self.backends[key + nfcodec.number(number)] = backend


def build(wanted: Wanted, previous: dict[str, Elements]) -> dict[str, Elements]:
    """The content of all balancing maps, numbered as in `previous` where possible."""
    vip, port, bound = (Balancer(letter, previous.get(backends, {})) for _, backends, letter in MAPS)
    internal = {network.id for network in wanted.networks if network.internal}
    for protocol, published, address, target, bind in sorted(wanted.host_ports):
        publish(port, bound, (protocol, published, bind), [nfcodec.address(address) + nfcodec.port(target)])
    for service in sorted(wanted.services, key=lambda service: service.id):
        for network_id, address in service.vips:
            chosen = [
                ip for backend in service.backends for net, ip in backend.addresses if net == network_id
            ]
            vip.add(nfcodec.address(address), [nfcodec.address(ip) for ip in sorted(chosen)])
        add_ports(service, port, bound, internal)
    balancers = (vip, port, bound)
    out: dict[str, Elements] = {}
    for (verdicts, backends, _), balancer in zip(MAPS, balancers, strict=True):
        out[verdicts], out[backends] = balancer.verdicts, balancer.backends
    return out


def add_ports(service: Service, port: Balancer, bound: Balancer, internal: set[str]) -> None:
    reachable = sorted(filter(None, (outer_address(backend, internal) for backend in service.backends)))
    for entry in service.ports:
        if entry.mode == "ingress":
            targets = [nfcodec.address(ip) + nfcodec.port(entry.target) for ip in reachable]
            publish(port, bound, (entry.protocol, entry.published, entry.address), targets)


def publish(port: Balancer, bound: Balancer, entry: tuple[str, int, str], backends: Sequence[bytes]) -> None:
    protocol, published, bind = entry
    key = nfcodec.protocol(protocol) + nfcodec.port(published)
    if bind in {"", "0.0.0.0", "::"}:
        port.add(key, backends)
    elif is_ipv4(bind):
        bound.add(nfcodec.address(bind) + key, backends)


def outer_address(backend: Backend, internal: set[str]) -> str:
    """By which the outside reaches a backend: its first address that is not internal, else its first."""
    outer = [ip for network_id, ip in backend.addresses if network_id not in internal]
    return next(iter(outer or [ip for _, ip in backend.addresses]), "")
