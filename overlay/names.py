"""Which name means what to whom. Pure: a table and a view in, an answer out.

The table is what the agent knows: networks, services, their ready tasks, nodes.
A view is what one source may see: a pod the networks it is attached to, the
node itself everything. Names, each plain (the first network of the view that
knows it) or below `<network>.swarm.internal`:

    svc              its VIP, or its tasks' addresses in dnsrr mode; aliases likewise
    tasks.svc        addresses of its ready tasks
    N.svc            the task in slot N
    svc.N.id         a task by its name
    _port._tcp.svc   SRV; `_port._tcp.tasks.svc` one record per task
    host.node.swarm.internal, and PTR for every address above

A gives the IPv4 addresses of a name, AAAA its IPv6 ones. A known name without
a record of the wanted type is NODATA. `resolve` returns
None only for names that are nobody's here, and these may be forwarded: never
one label alone, `tasks.svc` or `N.svc` (a service that does not exist yet must
fail fast, and must not be answered from outside), nothing below swarm.internal,
no address of a network. A pod whose networks are all internal gets nothing
from outside at all: names are a way out, too. `pod_upstreams` are a pod's own
resolvers in place of the node's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from swarmpy.overlay import dnswire
from swarmpy.overlay.dnswire import Answer, Query, Record
from swarmpy.overlay.nametable import ServiceEntry, Table

TTL_S = 5
ROOT_DOMAIN = "swarm.internal"
NODE_DOMAIN = "node.swarm.internal"
SUM_NAME = "table.dns.swarm.internal"


@dataclass(frozen=True)
class Target:
    """What a name leads to in one network; addresses of both families."""

    addresses: tuple[str, ...]
    service: ServiceEntry | None = None
    tasks: bool = False  # stands for the tasks even in vip mode


class _Index:
    """What one network's services and their aliases are called."""

    def __init__(self) -> None:
        self.owners: dict[str, tuple[str, str]] = {}  # address -> (key of the service, plain name)
        self._services: dict[str, dict[str, ServiceEntry]] = {}
        self._aliases: dict[str, dict[str, ServiceEntry]] = {}

    def add(self, service: ServiceEntry, network_id: str) -> None:
        name = service.name.lower()
        self._services.setdefault(name, {})[service.key] = service
        for alias in service.aliases.get(network_id, ()):
            self._aliases.setdefault(alias.lower(), {})[service.key] = service
        for address in _both(network_id, service.vips, service.vips6):
            self.owners[address] = (service.key, name)
        for task in service.tasks:
            for address in _both(network_id, task.addresses, task.addresses6):
                self.owners[address] = (service.key, task.name.lower())

    def discard(self, service: ServiceEntry, network_id: str) -> None:
        """Take away what `add` gave; an address that another service has by now stays that one's."""
        _remove(self._services, service.name.lower(), service.key)
        for alias in service.aliases.get(network_id, ()):
            _remove(self._aliases, alias.lower(), service.key)
        taken = [*_both(network_id, service.vips, service.vips6)]
        for task in service.tasks:
            taken += _both(network_id, task.addresses, task.addresses6)
        for address in taken:
            if self.owners.get(address, ("", ""))[0] == service.key:
                del self.owners[address]

    def find(self, name: str, network_id: str) -> Target | None:
        """A service's name goes before its tasks' names, and these before an alias."""
        if (service := self._named(name)) is not None:
            return _target(service, network_id)
        first, _, rest = name.partition(".")
        if (service := self._named(rest)) is not None:
            if first == "tasks":
                return _target(service, network_id, tasks=True)
            if first.isdecimal() and (found := _slot(service, network_id, first)):
                return Target(found)
        if (service := self._named(name.rsplit(".", 2)[0])) is not None:
            for task in service.tasks:
                found = _both(network_id, task.addresses, task.addresses6)
                if found and task.name.lower() == name:
                    return Target(found)
        if name in self._aliases:
            return self._shared(name, network_id, tasks=False)
        if first == "tasks" and rest in self._aliases:
            return self._shared(rest, network_id, tasks=True)
        return None

    def _named(self, name: str) -> ServiceEntry | None:
        found = self._services.get(name)
        return found[max(found)] if found else None

    def _shared(self, alias: str, network_id: str, *, tasks: bool) -> Target:
        """Several services may share an alias."""
        known = self._aliases[alias]
        targets = [_target(known[key], network_id, tasks=tasks) for key in sorted(known)]
        addresses = tuple(dict.fromkeys(address for target in targets for address in target.addresses))
        return Target(addresses, targets[0].service, tasks)


def _remove(where: dict[str, dict[str, ServiceEntry]], name: str, key: str) -> None:
    where[name].pop(key, None)
    if not where[name]:
        del where[name]


def _target(service: ServiceEntry, network_id: str, *, tasks: bool = False) -> Target:
    """A service's virtual addresses; where it has none, or the tasks are asked for, theirs."""
    vips = _both(network_id, service.vips, service.vips6)
    if vips and service.mode == "vip" and not tasks:
        return Target(vips, service)
    found = (_both(network_id, task.addresses, task.addresses6) for task in service.tasks)
    return Target(tuple(address for each in found for address in each), service, tasks)


def _slot(service: ServiceEntry, network_id: str, slot: str) -> tuple[str, ...]:
    """The addresses of the tasks in a slot: more than one while one takes the other's place."""
    found = (
        _both(network_id, task.addresses, task.addresses6)
        for task in service.tasks
        if task.slot and str(task.slot) == slot
    )
    return tuple(address for each in found for address in each)


class Zone:
    """The table, indexed for lookups. Services come and go one by one; what names mean is worked out when asked."""

    def __init__(self, table: Table) -> None:
        self.services: dict[str, ServiceEntry] = {}
        self.sum = ""  # of the file this is from, to tell what is loaded
        self._indexes: dict[str, _Index] = {}
        self.set_head(table)
        for service in table.services:
            self.put(service)

    def set_head(self, table: Table) -> None:
        """All but the services."""
        self.table = replace(table, services=())
        self.network_names = {network.id: network.name.lower() for network in table.networks}
        self.subnets = [
            (ipaddress.ip_network(subnet), n.id)
            for n in table.networks
            for subnet in (n.subnet, n.subnet6)
            if subnet
        ]
        self._outer = {network.id for network in table.networks if not network.internal}
        self.all = tuple(network.id for network in table.networks)
        self.hosts = {f"{node.hostname.lower()}.{NODE_DOMAIN}": node.address for node in table.nodes}
        self._own = {node.address for node in table.nodes}

    def put(self, service: ServiceEntry) -> None:
        """Add a service, or take it in place of the one with its key."""
        self.drop(service.key)
        self.services[service.key] = service
        for network_id in dict.fromkeys(service.network_ids):
            self._indexes.setdefault(network_id, _Index()).add(service, network_id)

    def drop(self, key: str) -> None:
        """Take a service away; one that is not there is fine."""
        service = self.services.pop(key, None)
        for network_id in dict.fromkeys(service.network_ids) if service else ():
            self._indexes[network_id].discard(service, network_id)  # type: ignore[arg-type]

    def view(self, source: str, listen: str = "") -> tuple[str, ...] | None:
        """The network ids `source` may see; None: a stranger, who gets nothing."""
        if source in self.table.pods:
            return tuple(i for i in self.table.pods[source] if i in self.network_names)
        address = ipaddress.ip_address(source)
        if address.is_loopback or source == listen or source in self._own:
            return self.all
        for subnet, network_id in self.subnets:
            if address in subnet:
                return (network_id,)
        return None

    def upstreams(self, source: str, view: Sequence[str]) -> tuple[str, ...]:
        """Whom to ask for names from outside on behalf of a source; nobody for internal networks alone."""
        if source in self.table.pods and not self._outer.intersection(view):
            return ()
        return self.table.pod_upstreams.get(source, self.table.upstreams)

    def find(self, name: str, view: Sequence[str]) -> Target | None:
        """The first network of the view that knows the plain name."""
        for network_id in view:
            index = self._indexes.get(network_id)
            if index is not None and (target := index.find(name, network_id)) is not None:
                return target
        return None

    def owner(self, address: str, view: Sequence[str]) -> str | None:
        """The full name of an address."""
        for network_id in view:
            index = self._indexes.get(network_id)
            if index is not None and (found := index.owners.get(address)) is not None:
                return f"{found[1]}.{self.network_names[network_id]}.{ROOT_DOMAIN}"
        for name, node_address in self.hosts.items():
            if node_address == address:
                return name
        return None

    def is_inside(self, address: str) -> bool:
        """Whether the address belongs to any network of the cluster."""
        parsed = ipaddress.ip_address(address)
        return any(parsed in subnet for subnet, _ in self.subnets)


def _both(network_id: str, v4: Mapping[str, str], v6: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(found[network_id] for found in (v4, v6) if network_id in found)


def _kind(address: str) -> int:
    return dnswire.AAAA if ":" in address else dnswire.A


def resolve(
    zone: Zone, view: Sequence[str], query: Query, shuffle: Callable[[list[str]], None]
) -> Answer | None:
    """The answer to a question from a source with this view; None: not ours, may be forwarded."""
    if query.dns_class not in (dnswire.CLASS_IN, dnswire.CLASS_ANY):
        return Answer(rcode=dnswire.REFUSED, authoritative=False)
    name = query.name
    if name.endswith((".in-addr.arpa", ".ip6.arpa")):
        return _reverse(zone, view, query)
    inside = name == ROOT_DOMAIN or name.endswith("." + ROOT_DOMAIN)
    if inside:
        if (host := zone.hosts.get(name)) is not None:
            return _addresses(query, (host,), shuffle)
        if name == SUM_NAME:
            return _only_type(query, Record(name, dnswire.TXT, 0, zone.sum))
        if name in (ROOT_DOMAIN, NODE_DOMAIN):
            return Answer(authority=_authority(name))
    plain, networks = _below_network(zone, view, name) if inside else (name, view)
    if plain.startswith("_"):
        answer = _service_record(zone, networks, query, plain, shuffle)
        if answer is not None:
            return answer
    elif plain and (target := zone.find(plain, networks)) is not None:
        return _addresses(query, target.addresses, shuffle)
    first, _, rest = name.partition(".")
    if not name:
        return None
    if inside or not rest or ("." not in rest and (first == "tasks" or first.isdecimal())):
        return Answer(rcode=dnswire.NXDOMAIN, authority=_authority(name))
    return None


def _below_network(zone: Zone, view: Sequence[str], name: str) -> tuple[str, Sequence[str]]:
    """(`svc`, the networks meant) of `svc.<network>.swarm.internal` or `svc.swarm.internal`."""
    rest = name.removesuffix(ROOT_DOMAIN).removesuffix(".")
    for network_id in view:
        network = zone.network_names[network_id]
        if rest.endswith("." + network):
            return rest.removesuffix("." + network), (network_id,)
    return rest, view


def _addresses(query: Query, addresses: Sequence[str], shuffle: Callable[[list[str]], None]) -> Answer:
    mixed = [a for a in addresses if query.type in (_kind(a), dnswire.ANY)]
    if not mixed:
        return Answer(authority=_authority(query.name))
    shuffle(mixed)
    return Answer(records=tuple(Record(query.name, _kind(a), TTL_S, a) for a in mixed))


def _service_record(
    zone: Zone, view: Sequence[str], query: Query, plain: str, shuffle: Callable[[list[str]], None]
) -> Answer | None:
    """SRV: `_port._protocol.name`, the port by its name or number."""
    parts = plain.split(".", 2)
    if len(parts) != 3 or not parts[1].startswith("_"):
        return None
    for network_id in view:
        target = zone.find(parts[2], (network_id,))
        if target is None or target.service is None:
            continue
        service = target.service
        numbers = [
            port.target
            for port in service.ports
            if port.protocol == parts[1][1:] and parts[0][1:] in (port.name.lower(), str(port.target))
        ]
        if not numbers:
            return Answer(rcode=dnswire.NXDOMAIN, authority=_authority(query.name))
        if query.type not in (dnswire.SRV, dnswire.ANY):
            return Answer(authority=_authority(query.name))
        owners = [(zone.owner(address, (network_id,)), address) for address in target.addresses]
        known: dict[str, list[str]] = {}
        for name, address in owners:
            if name is not None:
                known.setdefault(name, []).append(address)
        order = list(known)
        shuffle(order)
        return Answer(
            records=tuple(Record(query.name, dnswire.SRV, TTL_S, (0, 0, numbers[0], n)) for n in order),
            additional=tuple(Record(n, _kind(a), TTL_S, a) for n in order for a in known[n]),
            authority=() if order else _authority(query.name),
        )
    return None


def _reverse(zone: Zone, view: Sequence[str], query: Query) -> Answer | None:
    if (address := _reversed(query.name)) is None:
        return None
    if (owner := zone.owner(address, view)) is not None:
        return _only_type(query, Record(query.name, dnswire.PTR, TTL_S, owner))
    if zone.is_inside(address):
        return Answer(rcode=dnswire.NXDOMAIN, authority=_authority(query.name))
    return None


def _reversed(name: str) -> str | None:
    """The address of a name below in-addr.arpa or ip6.arpa."""
    try:
        if name.endswith(".in-addr.arpa"):
            labels = name.removesuffix(".in-addr.arpa").split(".")
            return str(ipaddress.IPv4Address(".".join(reversed(labels))))
        nibbles = name.removesuffix(".ip6.arpa").split(".")
        if len(nibbles) != 32 or any(len(nibble) != 1 for nibble in nibbles):
            return None
        return str(ipaddress.IPv6Address(int("".join(reversed(nibbles)), 16)))
    except ValueError:
        return None


def _only_type(query: Query, record: Record) -> Answer:
    if query.type in (record.type, dnswire.ANY):
        return Answer(records=(record,))
    return Answer(authority=_authority(query.name))


def _authority(name: str) -> tuple[Record, ...]:
    """The SOA that lets clients keep a "no" for one TTL: of swarm.internal, or of the top label."""
    inside = name == ROOT_DOMAIN or name.endswith("." + ROOT_DOMAIN)
    owner = ROOT_DOMAIN if inside else name.rpartition(".")[2]
    if not inside and "\\" in name:
        return ()
    return (Record(owner, dnswire.SOA, TTL_S, (f"dns.{ROOT_DOMAIN}", f"root.{ROOT_DOMAIN}", 1, TTL_S)),)
