"""Which tracked connections lead to a backend that will not answer any more."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

from swarmpy.overlay import ingress, rules
from swarmpy.overlay.nfcodec import Connection
from swarmpy.overlay.rules import State
from swarmpy.overlay.wanted import Wanted

Prefix = IPv4Network | IPv6Network
CONNECTIONS = Path("/proc/sys/net/netfilter/nf_conntrack_count")
BACKEND_MAPS = tuple(backends for _, backends, _ in ingress.MAPS)


def backends(state: State) -> set[str]:
    found: set[str] = set()
    for name in BACKEND_MAPS:
        size = 16 if name.endswith("6") else 4
        known = {value[:size] for value in state.sets.get(name, {}).values() if isinstance(value, bytes)}
        found.update(str(ip_address(value)) for value in known)
    return found


def tracked_connections() -> int:
    """How many there are in the thread's namespace."""
    try:
        return int(CONNECTIONS.read_text())
    except OSError:
        return 0


def dead_blocks(wanted: Wanted, alive: set[str]) -> Iterable[str]:
    """The blocks, of both families, of nodes that do not answer."""
    for network in wanted.networks:
        for six in ingress.SUFFIXES if wanted.prefix6 else ingress.SUFFIXES[:1]:
            for owner, block in rules.blocks_of(wanted, network, six):
                if owner and owner not in alive:
                    yield block


def is_lost(entry: Connection, removed: set[str], dead: list[Prefix]) -> bool:
    """Whether a connection through a changed destination leads to a backend that will not answer."""
    backend = entry.reply[0]
    if not entry.is_led:
        return False
    if entry.is_led_udp and backend in removed:
        return True
    return bool(dead) and any(ip_address(backend) in block for block in dead)
