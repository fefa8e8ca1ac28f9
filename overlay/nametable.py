"""The table of a node's resolver as values and as a file. Pure.

The file is lines, and grows: with 100,000 tasks to name, a change of one service must not cost all of them.

    {…}         the table: networks, nodes, pods, resolvers (and services, where somebody writes it by hand)
    +KEY {…}    a service, in place of the one with that key
    -KEY        it is gone
    =SUM        what came before is complete; the sum of the CRC-32 of the last {…} and of all live + lines

Lines count from the = after them on; a sum that does not fit means that the whole file has to be read, and one
that does not fit then means that it is damaged and what was known stays. `Lines` writes, `Follower` reads. A file
of a first line alone needs no sum.
"""

from __future__ import annotations

import ipaddress
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    id: str = ""

    @property
    def key(self) -> str:
        """By what it is told from others."""
        return self.id or self.name.lower()

    def to_json(self) -> str:
        return json.dumps(self, default=vars, separators=(",", ":"))


@dataclass(frozen=True)
class NodeEntry:
    hostname: str
    address: str  # of either family


@dataclass(frozen=True)
class Table:
    """All a node's resolver needs."""

    node_id: str = ""
    networks: tuple[NetworkEntry, ...] = ()
    services: tuple[ServiceEntry, ...] = ()
    nodes: tuple[NodeEntry, ...] = ()
    pods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # address -> network ids
    upstreams: tuple[str, ...] = ()  # ip or ip:port
    pod_upstreams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # address -> its own

    def to_json(self) -> str:
        return json.dumps(self, default=vars, separators=(",", ":"), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Table:
        """Read a table. Raises BadTable naming the field."""
        root = _Reader("table", _json(text))
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
        )


def _service(item: _Reader) -> ServiceEntry:
    if (mode := item.text("mode")) not in ("vip", "dnsrr"):
        raise item.bad("mode", "is neither vip nor dnsrr")
    return ServiceEntry(
        id=item.text("id"),
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


class Lines:
    """What was written into a file so far, as far as the next lines depend on it."""

    def __init__(self) -> None:
        self._head = 0
        self._services: dict[str, int] = {}

    @property
    def sum(self) -> str:
        return f"{self._head + sum(self._services.values()):016x}"

    def start(self, head: str) -> bytes:
        """The first line of a file, and of a change of all but the services."""
        line = head.encode()
        self._head = zlib.crc32(line)
        return line + b"\n"

    def put(self, key: str, text: str) -> bytes:
        return self.keep(key, f"+{key} {text}".encode())

    def keep(self, key: str, line: bytes) -> bytes:
        """A service's line as it is written already."""
        self._services[key] = zlib.crc32(line)
        return line + b"\n"

    def drop(self, key: str) -> bytes:
        del self._services[key]
        return f"-{key}\n".encode()

    def end(self) -> bytes:
        return f"={self.sum}\n".encode()


def live(data: bytes) -> dict[str, bytes]:
    """The lines of the services that a file holds, by key."""
    found: dict[str, bytes] = {}
    for line in data.split(b"\n"):
        if line.startswith(b"+"):
            found[line[1:].partition(b" ")[0].decode()] = line
        elif line.startswith(b"-"):
            found.pop(line[1:].decode(), None)
    return found


@dataclass(frozen=True)
class Changes:
    """What a reader has to do; `size` octets of what it gave are used up."""

    size: int
    sum: str
    checked: bool = False  # the file has a sum: it may grow
    head: Table | None = None
    put: tuple[ServiceEntry, ...] = ()
    drop: frozenset[str] = frozenset()


class Follower:
    """What a file said so far. After BadTable it is as before."""

    def __init__(self) -> None:
        self.sum = ""
        self._head = b""
        self._known: dict[str, tuple[int, int]] = {}  # hash of the line, to know it again; CRC

    def read(self, data: bytes, *, anew: bool) -> Changes:
        """Go on with what was appended, or `anew` with a whole file, of which only what differs is taken apart."""
        lines, size = complete(data, anew=anew)
        known = {} if anew else dict(self._known)
        head, said = b"" if anew else self._head, ""
        staged: dict[str, bytes] = {}
        for number, line in enumerate(lines):
            mark, rest = line[:1], line[1:]
            if mark == b"{" or (anew and not number):
                head = line
            elif mark == b"+":
                name, _, text = rest.partition(b" ")
                key = name.decode(errors="replace")
                known[key], staged[key] = (hash(line), zlib.crc32(line)), text
            elif mark == b"-":
                known.pop(rest.decode(errors="replace"), None)
            elif mark == b"=":
                said = rest.decode(errors="replace")
            elif line:
                raise BadTable(f"a line of the DNS table begins with {mark!r}; {_HOW}")
        total = f"{zlib.crc32(head) + sum(crc for _, crc in known.values()):016x}"
        if said and said != total:
            raise BadTable(f"the DNS table has the checksum {total}, not {said}; {_HOW}")
        table = Table.from_json(head) if head != self._head else None
        put = [
            _service(_Reader(f"service {key}", _json(text)))
            for key, text in staged.items()
            if key in known and known[key] != self._known.get(key)
        ]
        for service in table.services if table else ():
            put.append(service)
            known.setdefault(service.key, (0, 0))
        gone = frozenset(self._known.keys() - known.keys())
        self.sum, self._head, self._known = total, head, known
        return Changes(size, total, bool(said), table, tuple(put), gone)


def complete(data: bytes, *, anew: bool) -> tuple[list[bytes], int]:
    """The lines up to the last sum, and how many octets they are."""
    at = data.rfind(b"\n=", 0, data.rfind(b"\n")) + 1
    if not at and not anew and not data.startswith(b"="):
        return [], 0
    if not at and anew:
        if b"\n" in data.rstrip(b"\n"):
            raise BadTable(f"the DNS table ends in the middle; {_HOW}")
        return [data.rstrip(b"\n")], len(data)
    size = data.find(b"\n", at) + 1
    return data[:size].split(b"\n")[:-1], size


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadTable(f"the DNS table is not JSON: {error}; {_HOW}") from error
