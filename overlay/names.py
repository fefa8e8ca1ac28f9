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
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from swarmpy.overlay import dnswire
from swarmpy.overlay.dnswire import Answer, Query, Record

TTL_S = 5
ROOT_DOMAIN = "swarm.internal"
NODE_DOMAIN = "node.swarm.internal"
# A large table has thousands of addresses; ipaddress takes five times as long.
_OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"{_OCTET}(\.{_OCTET}){{3}}", re.ASCII)
_HOW = "the agent writes this file; restart it if this persists"


class BadTable(Exception):
    """The table file is damaged."""


@dataclass(frozen=True)
class NetworkEntry:
    id: str
    name: str
    subnet: str
    subnet6: str = ""  # "" = IPv4 alone
    internal: bool = False


@dataclass(frozen=True)
class PortEntry:
    name: str
    protocol: str  # "tcp", "udp", "sctp"
    target: int


@dataclass(frozen=True)
class TaskEntry:
    """A ready task that is not draining; others do not belong into the table."""

    slot: int
    name: str
    node: str
    addresses: Mapping[str, str]  # network id -> IPv4 address
    addresses6: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceEntry:
    name: str
    network_ids: tuple[str, ...]
    vips: Mapping[str, str] = field(default_factory=dict)  # network id -> IPv4 address
    mode: str = "vip"  # or "dnsrr"
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # network id -> names
    ports: tuple[PortEntry, ...] = ()
    tasks: tuple[TaskEntry, ...] = ()
    vips6: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeEntry:
    hostname: str
    address: str  # of either family


@dataclass(frozen=True)
class Table:
    """All a node's resolver needs. `generation` is the writer's, to tell what is loaded."""

    node_id: str = ""
    networks: tuple[NetworkEntry, ...] = ()
    services: tuple[ServiceEntry, ...] = ()
    nodes: tuple[NodeEntry, ...] = ()
    pods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # address -> network ids
    upstreams: tuple[str, ...] = ()  # ip or ip:port
    pod_upstreams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # address -> its own
    generation: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Table:
        """Read a table. Raises BadTable naming the field."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadTable(f"the DNS table is not JSON: {error}; {_HOW}") from error
        root = _Reader("table", data)
        return Table(
            node_id=root.text("node_id"),
            networks=tuple(
                NetworkEntry(
                    item.text("id"),
                    item.text("name"),
                    item.subnet("subnet"),
                    item.subnet6("subnet6"),
                    item.flag("internal"),
                )
                for item in root.items("networks")
            ),
            services=tuple(_service(item) for item in root.items("services")),
            nodes=tuple(
                NodeEntry(item.text("hostname"), item.address("address")) for item in root.items("nodes")
            ),
            pods={key: root.names(f"pods.{key}", value) for key, value in root.mapping("pods").items()},
            upstreams=root.names("upstreams", root.data.get("upstreams", [])),
            pod_upstreams={
                key: root.names(f"pod_upstreams.{key}", value)
                for key, value in root.mapping("pod_upstreams").items()
            },
            generation=root.number("generation"),
        )


def _service(item: _Reader) -> ServiceEntry:
    if (mode := item.text("mode")) not in ("vip", "dnsrr"):
        raise item.bad("mode", "is neither vip nor dnsrr")
    return ServiceEntry(
        name=item.text("name"),
        network_ids=item.names("network_ids", item.data.get("network_ids", [])),
        vips=item.addresses("vips"),
        vips6=item.addresses("vips6", version=6),
        mode=mode,
        aliases={key: item.names(f"aliases.{key}", names) for key, names in item.mapping("aliases").items()},
        ports=tuple(
            PortEntry(port.text("name"), port.text("protocol"), port.number("target"))
            for port in item.items("ports")
        ),
        tasks=tuple(
            TaskEntry(
                task.number("slot"),
                task.text("name"),
                task.text("node"),
                task.addresses("addresses"),
                task.addresses("addresses6", version=6),
            )
            for task in item.items("tasks")
        ),
    )


class _Reader:
    """Typed access to parsed JSON that names the field in its errors."""

    def __init__(self, path: str, data: Any) -> None:
        self.path = path
        if not isinstance(data, dict):
            raise BadTable(f"{path} of the DNS table is not an object; {_HOW}")
        self.data: dict[str, Any] = data

    def bad(self, key: str, problem: str) -> BadTable:
        return BadTable(f"{self.path}.{key} of the DNS table {problem}; {_HOW}")

    def text(self, key: str) -> str:
        if not isinstance(value := self.data.get(key, ""), str):
            raise self.bad(key, "is not a string")
        return value

    def number(self, key: str) -> int:
        if not isinstance(value := self.data.get(key, 0), int) or not 0 <= value < 1 << 63:
            raise self.bad(key, "is not a number")
        return value

    def flag(self, key: str) -> bool:
        if not isinstance(value := self.data.get(key, False), bool):
            raise self.bad(key, "is not true or false")
        return value

    def address(self, key: str) -> str:
        value = self.data.get(key)
        return self._address(key, value, 6 if isinstance(value, str) and ":" in value else 4)

    def subnet(self, key: str) -> str:
        try:
            return str(ipaddress.IPv4Network(self.text(key)))
        except ValueError as error:
            raise self.bad(key, "is not an IPv4 subnet") from error

    def subnet6(self, key: str) -> str:
        try:
            return str(ipaddress.IPv6Network(text)) if (text := self.text(key)) else ""
        except ValueError as error:
            raise self.bad(key, "is not an IPv6 subnet") from error

    def mapping(self, key: str) -> dict[str, Any]:
        if not isinstance(value := self.data.get(key, {}), dict):
            raise self.bad(key, "is not an object")
        return value

    def addresses(self, key: str, version: int = 4) -> dict[str, str]:
        return {
            name: self._address(f"{key}.{name}", value, version) for name, value in self.mapping(key).items()
        }

    def names(self, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.bad(key, "is not a list of strings")
        return tuple(value)

    def items(self, key: str) -> Iterable[_Reader]:
        if not isinstance(value := self.data.get(key, []), list):
            raise self.bad(key, "is not a list")
        return [_Reader(f"{self.path}.{key}[{index}]", item) for index, item in enumerate(value)]

    def _address(self, key: str, value: Any, version: int) -> str:
        if version == 6 and isinstance(value, str):
            try:
                return str(ipaddress.IPv6Address(value))
            except ValueError as error:
                raise self.bad(key, "is not an IPv6 address") from error
        if not isinstance(value, str) or _IPV4.fullmatch(value) is None:
            raise self.bad(key, f"is not an IPv{version} address")
        return value


@dataclass(frozen=True)
class Target:
    """What a name leads to in one network; addresses of both families."""

    addresses: tuple[str, ...]
    service: ServiceEntry | None = None
    tasks: bool = False  # stands for the tasks even in vip mode


class Zone:
    """The table, indexed for lookups."""

    def __init__(self, table: Table) -> None:
        self.table = table
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
        self._names: dict[str, dict[str, Target]] = {network_id: {} for network_id in self.all}
        self._owners: dict[str, dict[str, str]] = {network_id: {} for network_id in self.all}
        for service in table.services:
            for network_id in service.network_ids:
                if network_id in self._names:
                    self._index(service, network_id)
        for service in table.services:
            for network_id, aliases in service.aliases.items():
                if network_id in self._names and network_id in service.network_ids:
                    for alias in aliases:
                        self._index_alias(alias.lower(), service, network_id)

    def view(self, source: str, listen: str = "") -> tuple[str, ...] | None:
        """The network ids `source` may see; None: a stranger, who gets nothing."""
        if source in self.table.pods:
            return tuple(i for i in self.table.pods[source] if i in self._names)
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
            if (target := self._names[network_id].get(name)) is not None:
                return target
        return None

    def owner(self, address: str, view: Sequence[str]) -> str | None:
        """The full name of an address."""
        for network_id in view:
            if (name := self._owners[network_id].get(address)) is not None:
                return name
        for name, node_address in self.hosts.items():
            if node_address == address:
                return name
        return None

    def is_inside(self, address: str) -> bool:
        """Whether the address belongs to any network of the cluster."""
        parsed = ipaddress.ip_address(address)
        return any(parsed in subnet for subnet, _ in self.subnets)

    def _index(self, service: ServiceEntry, network_id: str) -> None:
        names, owners = self._names[network_id], self._owners[network_id]
        name, suffix = service.name.lower(), f"{self.network_names[network_id]}.{ROOT_DOMAIN}"
        tasks = [
            (task, found)
            for task in service.tasks
            if (found := _both(network_id, task.addresses, task.addresses6))
        ]
        addresses = tuple(address for _, found in tasks for address in found)
        vips = _both(network_id, service.vips, service.vips6)
        names[name] = Target(vips if service.mode == "vip" and vips else addresses, service)
        names[f"tasks.{name}"] = Target(addresses, service, tasks=True)
        owners.update(dict.fromkeys(vips, f"{name}.{suffix}"))
        for task, found in tasks:
            names.setdefault(task.name.lower(), Target(found))
            owners.update(dict.fromkeys(found, f"{task.name.lower()}.{suffix}"))
            if task.slot:
                slot = f"{task.slot}.{name}"
                before = names[slot].addresses if slot in names else ()
                names[slot] = Target((*before, *found))

    def _index_alias(self, alias: str, service: ServiceEntry, network_id: str) -> None:
        names = self._names[network_id]
        for prefix in ("", "tasks."):
            own = names[f"{prefix}{service.name.lower()}"]
            before = names.get(prefix + alias)
            if before is None:
                names[prefix + alias] = own
            elif before.service is not None and before.service.name.lower() != alias:
                # Several services may share an alias; a real name is never extended by one.
                merged = tuple(dict.fromkeys(before.addresses + own.addresses))
                names[prefix + alias] = Target(merged, before.service, before.tasks)


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
        if name == f"generation.dns.{ROOT_DOMAIN}":
            return _only_type(query, Record(name, dnswire.TXT, 0, str(zone.table.generation)))
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
