"""Docker's value syntax, as pure functions from text to plain values.

Each function raises ValueError with a sentence that shows the form it wants; the flags turn that
into a usage error (exit code 2) which names the flag. Units of the results are in the names.
"""

from __future__ import annotations

import csv
import ipaddress
import re
import shlex
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation

DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
UNIT_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
           "h": 3600 * 10**9}  # fmt: skip
BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
PROTOCOLS = ("tcp", "udp", "sctp")
ULIMITS = ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
           "rss", "rtprio", "rttime", "sigpending", "stack")  # fmt: skip


@dataclass(frozen=True)
class PortValue:
    """One published port; published 0 = let the cluster choose."""

    target: int
    published: int = 0
    protocol: str = "tcp"
    mode: str = "ingress"
    address: str = ""
    name: str = ""


@dataclass(frozen=True)
class NetworkValue:
    """One --network: a name or id, the service's aliases, and the addresses of it and of its tasks there."""

    target: str
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    addresses6: tuple[str, ...] = ()


@dataclass(frozen=True)
class UlimitValue:
    """One --ulimit; -1 = unlimited."""

    name: str
    soft: int
    hard: int


def duration_ms(text: str) -> int:
    """Go's duration syntax (`1m30s`, `500ms`, `0`); a part of a millisecond counts as a whole one."""
    if text == "0":
        return 0
    parts = DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration: write a number with a unit, like 500ms, 10s or 1m30s")
    total_ns = sum(Decimal(number.rstrip(".") or "0") * UNIT_NS[unit] for number, unit in parts)
    total_ms = int((total_ns / 10**6).to_integral_value(ROUND_CEILING)) if total_ns else 0
    if total_ms >= 2**53:
        raise ValueError(f"{text!r} is longer than anyone can wait")
    return total_ms


def timeout_ms(text: str) -> int:
    """A duration where a plain number means seconds."""
    return duration_ms(f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text)


def size_bytes(text: str) -> int:
    """`512m`, `1.5GiB`, `64kb`: units of 1024, as Docker reads them."""
    match = BYTES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write a number with b, k, m or g, like 64m or 1.5g")
    power = " kmgtp".index(match[2].lower() or " ")
    size = int(Decimal(match[1]) * 1024**power)
    if size >= 2**63:
        raise ValueError(f"{text!r} is larger than any machine's memory")
    return size


def nano_cpus(text: str) -> int:
    """`0.5` -> 500000000."""
    try:
        value = Decimal(text) * 10**9
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0 or value != int(value) or value >= 2**63:
        raise ValueError(f"{text!r} is not a number of CPUs: write for example 0.5 or 2")
    return int(value)


def key_value(text: str) -> tuple[str, str]:
    """`key=value`, or `key` alone for an empty value."""
    key, _, value = text.partition("=")
    if not key:
        raise ValueError(f"{text!r} has no name before the '='")
    return key, value


def strict_key_value(text: str) -> tuple[str, str]:
    """`key=value`; the value is required."""
    key, value = key_value(text)
    if "=" not in text:
        raise ValueError(f"{text!r} has no value: write {text}=VALUE")
    return key, value


def filter_value(text: str) -> tuple[str, str]:
    """One -f/--filter."""
    key, value = strict_key_value(text)
    return key.strip().lower(), value.strip()


def environment(values: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """`NAME=value` stays; `NAME` takes its value from `own` and is left out where that has none."""
    result = []
    for text in values:
        key_value(text)
        if "=" in text:
            result.append(text)
        elif text in own:
            result.append(f"{text}={own[text]}")
    return result


def env_file_lines(text: str, file: str) -> list[str]:
    """The entries of an --env-file: one NAME=value or NAME per line, # starts a comment line."""
    result = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip("\ufeff").lstrip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or re.search(r"\s", name):
            raise ValueError(f"{file}, line {number}: {name!r} is not a variable name")
        result.append(line)
    return result


def port_number(text: str, *, lowest: int = 1) -> int:
    """A port, 1 to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not lowest <= int(text) <= 65535:
        raise ValueError(f"{text!r} is not a port: write a number from {lowest} to 65535")
    return int(text)


def port_range(text: str) -> range:
    """`80` or `80-83`."""
    first, dash, last = text.partition("-")
    low = port_number(first)
    high = port_number(last) if dash else low
    if high < low:
        raise ValueError(f"the port range {text!r} runs backwards")
    return range(low, high + 1)


def publish(text: str) -> list[PortValue]:
    """Short `[ip:][published:]target[/protocol]` or long `published=8080,target=80,mode=host,…`."""
    if not text:
        raise ValueError("a port is missing: write PUBLISHED:TARGET, for example 8080:80")
    return [publish_long(text)] if "=" in text else publish_short(text)


def publish_short(text: str) -> list[PortValue]:
    """Docker's short form; ranges become one value per port."""
    ports, slash, protocol = text.partition("/")
    protocol = one_of(protocol.lower(), PROTOCOLS, "protocol") if slash else "tcp"
    rest, colon, target_text = ports.rpartition(":")
    targets = port_range(target_text)
    if not colon:
        return [PortValue(port, protocol=protocol) for port in targets]
    address, has_address, published_text = rest.rpartition(":")
    address = ip_address(address.strip("[]")) if has_address else ""
    if not published_text and has_address:
        return [PortValue(port, protocol=protocol, address=address) for port in targets]
    published = port_range(published_text)
    if len(published) != len(targets):
        raise ValueError(f"{text!r} publishes {len(published)} ports for {len(targets)} targets")
    pairs = zip(published, targets, strict=True)
    return [PortValue(target, outer, protocol, "ingress", address) for outer, target in pairs]


def publish_long(text: str) -> PortValue:
    """Docker's long form, with `ip=` and `name=` added."""
    values: dict[str, str] = {}
    for key, value in csv_pairs(text):
        if key not in {"target", "published", "protocol", "mode", "ip", "name"}:
            raise ValueError(
                f"{key!r} is not a key of --publish: use target, published, protocol, mode, ip, name"
            )
        values[key] = value
    if "target" not in values:
        raise ValueError(f"{text!r} has no target port: add target=PORT")
    return PortValue(
        target=port_number(values["target"]),
        published=port_number(values.get("published", "0"), lowest=0),
        protocol=one_of(values.get("protocol", "tcp").lower(), PROTOCOLS, "protocol"),
        mode=one_of(values.get("mode", "ingress"), ("ingress", "host"), "mode"),
        address=ip_address(values["ip"]) if values.get("ip") else "",
        name=values.get("name", ""),
    )


def publish_rm(text: str) -> PortValue:
    """What --publish-rm takes: `target[/protocol]` or `published:target[/protocol]`."""
    ports = publish(text)
    if len(ports) != 1:
        raise ValueError(f"{text!r} is a range: name one port")
    return ports[0]


def network(text: str) -> NetworkValue:
    """`NAME` or `name=NAME,alias=ALIAS,…`."""
    if "=" not in text:
        if not text:
            raise ValueError("the network's name is empty")
        return NetworkValue(text)
    name, aliases = "", []
    addresses: dict[str, list[str]] = {"ip": [], "ip6": []}
    for key, value in csv_pairs(text):
        if key == "name":
            name = value
        elif key == "alias":
            aliases.append(value)
        elif key in addresses:
            addresses[key].append(ip_address(value, 6 if key == "ip6" else 4))
        elif key == "driver-opt":
            raise ValueError("driver-opt is not built yet: leave it out")
        else:
            raise ValueError(f"{key!r} is not a key of --network: use name, alias, ip, ip6")
    if not name:
        raise ValueError(f"{text!r} names no network: add name=NETWORK")
    return NetworkValue(name, tuple(aliases), tuple(addresses["ip"]), tuple(addresses["ip6"]))


def ulimit(text: str) -> UlimitValue:
    """`nofile=1024[:2048]`."""
    name, value = strict_key_value(text)
    soft, colon, hard = value.partition(":")
    try:
        low, high = int(soft), int(hard if colon else soft)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a limit: write NAME=SOFT[:HARD], for example nofile=1024:2048"
        ) from None
    one_of(name, ULIMITS, "ulimit")
    if min(low, high) < -1 or (high != -1 and (low == -1 or low > high)):
        raise ValueError(f"{text!r}: the soft limit must not be above the hard limit (-1 = unlimited)")
    return UlimitValue(name, low, high)


def host(text: str) -> tuple[str, str]:
    """`name:ip` (or `name=ip`) for the container's hosts file."""
    name, separator, address = text.partition("=" if "=" in text.partition(":")[0] else ":")
    if not separator or not name:
        raise ValueError(f"{text!r} is not an extra host: write NAME:ADDRESS")
    return name, ip_address(address.strip("[]"))


def host_rm(text: str) -> tuple[str, str]:
    """`name` or `name:ip`."""
    return host(text) if ":" in text or "=" in text else (text, "")


def constraint(text: str) -> str:
    """Only the outer form; the managers know which fields exist."""
    asks_for_image = re.fullmatch(r"\s*node\.has\([^()]+\)\s*", text, re.IGNORECASE)
    form = r"\s*([\w.\-/]+|node\.has\([^()]+\))\s*((==|!=|>=|<=|>|<|\bin\b|~).*\S|\s+exists)\s*"
    if not asks_for_image and not re.fullmatch(form, text, re.IGNORECASE):
        raise ValueError(f"{text!r} is not a constraint: write for example node.labels.zone==east")
    return text


def capability(text: str) -> str:
    """`net_admin` -> `CAP_NET_ADMIN`; ALL stays."""
    name = text.strip().upper()
    if not re.fullmatch(r"[A-Z_]+", name):
        raise ValueError(f"{text!r} is not a capability: write for example NET_ADMIN")
    return name if name in {"ALL", "RESET"} or name.startswith("CAP_") else f"CAP_{name}"


def device(text: str) -> str:
    """`/dev/x[:/dev/y[:rwm]]`."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[0].startswith("/"):
        raise ValueError(f"{text!r} is not a device: write /dev/NAME[:/dev/NAME[:rwm]]")
    if len(parts) == 3 and not re.fullmatch(r"[rwm]{1,3}", parts[2]):
        raise ValueError(f"{parts[2]!r} are not device permissions: use letters of rwm")
    return text


def stop_signal(text: str) -> str:
    """`SIGINT`, `INT` or `2`; the result is what the user wrote, in capitals."""
    name = text.upper()
    if name.isdigit():
        if not 1 <= int(name) <= 64:
            raise ValueError(f"{text!r} is not a signal: numbers go from 1 to 64")
        return name
    full = name if name.startswith("SIG") else f"SIG{name}"
    if full not in signal.Signals.__members__ and not re.fullmatch(r"SIGRT(MIN|MAX)([+-]\d+)?", full):
        raise ValueError(f"{text!r} is not a signal: write for example SIGTERM")
    return full


def ratio(text: str) -> float:
    """A part of one: 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a ratio: write a number from 0 to 1")
    return value


def words(text: str) -> list[str]:
    """A command line in shell quoting."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}".lower()) from None


def scale(text: str) -> tuple[str, int, str]:
    """`web=3` -> (web, 3, ''); `web=+2` -> (web, 2, '+')."""
    name, _, count = text.partition("=")
    match = re.fullmatch(r"([+-]?)(\d{1,9})", count)
    if not name or match is None:
        raise ValueError(f"{text!r} is not a scale: write SERVICE=REPLICAS, for example web=3")
    return name, int(match[2]), match[1]


def moment_ms(text: str, now_ms: int) -> int:
    """A point in time: a duration ago, RFC 3339, or seconds since 1970."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(Decimal(text) * 1000)
    try:
        return now_ms - duration_ms(text)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write 10m, 2026-01-31T12:00:00Z or seconds") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def csv_pairs(text: str) -> list[tuple[str, str]]:
    """`a=b,c,"d=e,f"` -> [(a, b), (c, 'true'), (d, 'e,f')]."""
    try:
        fields = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        raise ValueError(f"{text!r} has an open quote") from None
    pairs = [(field.partition("=")[0].strip().lower(), field.partition("=")[1:]) for field in fields]
    return [(key, value if separator else "true") for key, (separator, value) in pairs]


def boolean(text: str) -> bool:
    """As Docker reads flags: true, false, 1, 0."""
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in {"true", "1"}


def octal(text: str) -> int:
    """A file mode."""
    if not re.fullmatch(r"0?[0-7]{1,4}", text):
        raise ValueError(f"{text!r} is not a file mode: write for example 1777")
    return int(text, 8)


def ip_address(text: str, version: int = 0) -> str:
    """An address, of either family or of one."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    if found is None or version not in (0, found.version):
        raise ValueError(f"{text!r} is not an IP{f'v{version}' if version else ''} address")
    return str(found)


def one_of(text: str, choices: Iterable[str], what: str) -> str:
    """The text, if it is one of the choices."""
    allowed = tuple(choices)
    if text not in allowed:
        raise ValueError(f"{text!r} is not a {what}: use {', '.join(allowed)}")
    return text
