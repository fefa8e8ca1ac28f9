"""Time zones as data for the store: read once from this manager's zone files when a schedule is written.

A zone file (RFC 9636) holds the changes of the offset and, at its end, a POSIX rule for the time after the
last one. Kept are the changes from now on and that rule, so that planners need no files.

    ValueError
    └── ZoneError     no such zone, or a file that this cannot read
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

from swarmpy.node.plan.calendar import CalendarError, parse_rule
from swarmpy.proto import objects_pb2

CHANGES_MAX = 400
FILE_BYTES_MAX = 1 << 20
_HEADER = struct.Struct(">4s1c15x6I")


class ZoneError(ValueError):
    """The time zone cannot be used."""


def read_zone(name: str, now_s: int) -> objects_pb2.Zone:
    """The offsets of an IANA zone from `now_s` (seconds since 1970) on; "" and UTC are no zone files."""
    if name in {"", "UTC", "Etc/UTC"}:
        return objects_pb2.Zone()
    times, offsets, rule = _table(name)
    zone = objects_pb2.Zone(rule=rule)
    before = [offset for at_s, offset in zip(times, offsets, strict=True) if at_s <= now_s]
    zone.offset_s = before[-1] if before else offsets[0] if offsets else 0
    later = [(at_s, offset) for at_s, offset in zip(times, offsets, strict=True) if at_s > now_s]
    for at_s, offset in later[:CHANGES_MAX]:
        zone.changes.add(at_s=at_s, offset_s=offset)
    return zone


@lru_cache(maxsize=64)
def _table(name: str) -> tuple[list[int], list[int], str]:
    try:
        return _parse(_bytes_of(name))
    except (struct.error, IndexError, UnicodeDecodeError, CalendarError) as error:
        raise ZoneError(f"the file of time zone {name!r} cannot be read: {error}") from error


def _bytes_of(name: str) -> bytes:
    # With the first schedule that has a zone: these are a megabyte in every idle manager.
    from importlib import resources
    from zoneinfo import TZPATH

    parts = name.split("/")
    if not all(part and part[0].isalnum() for part in parts) or len(parts) > 3 or len(name) > 64:
        raise ZoneError(f"{name!r} is no time zone such as Europe/Berlin")
    for folder in TZPATH:
        path = Path(folder, *parts)
        if path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
            return path.read_bytes()
    try:
        return resources.files("tzdata.zoneinfo").joinpath(*parts).read_bytes()
    except (ModuleNotFoundError, OSError):
        raise ZoneError(
            f"there is no time zone {name!r} on this manager: write for example Europe/Berlin, "
            "or install the package tzdata on the managers"
        ) from None


def _parse(data: bytes) -> tuple[list[int], list[int], str]:
    """Times of change, the offset from each on, and the rule after the last."""
    size = _HEADER.size
    magic, version, *counts = _HEADER.unpack_from(data)
    if magic != b"TZif":
        raise ZoneError("it is no zone file")
    if version < b"2":
        raise ZoneError("it is of version 1, which has no rule for the future")
    utc, std, leap, changes, types, letters = counts
    start = size + changes * 5 + types * 6 + letters + leap * 8 + std + utc
    utc, std, leap, changes, types, letters = _HEADER.unpack_from(data, start)[2:]
    at = start + size
    times = list(struct.unpack_from(f">{changes}q", data, at))
    kinds = data[at + changes * 8 : at + changes * 9]
    at += changes * 9
    table = [struct.unpack_from(">i", data, at + 6 * number)[0] for number in range(types)]
    end = at + types * 6 + letters + leap * 12 + std + utc
    rule = data[end:].strip(b"\n").decode("ascii")
    parse_rule(rule)
    return times, [table[kind] for kind in kinds], rule
