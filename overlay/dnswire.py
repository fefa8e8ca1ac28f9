"""DNS messages: parse a query, build an answer, look into an upstream's answer. Pure.

Everything is bounds-checked against hostile input: a compression pointer must
point backwards, a name has at most 255 octets, a query one question. Names are
folded to lower case (ASCII only) for lookup; the answer repeats the question's
octets as they came, so a client's random upper case survives. An answer that
does not fit is cut at a record and marked truncated. Malformed input raises
`BadMessage`, which carries the rcode to answer, or None to stay silent.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 255
CLASS_IN, CLASS_ANY = 1, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
BADVERS = 16

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
HEADER = struct.Struct(">HHHHHH")
UDP_PLAIN_MAX = 512
UDP_EDNS_MAX = 1232
TCP_MAX = 65535
QUERY_BYTES_MAX = 4096
NAME_OCTETS_MAX = 255
_POINTERS_MAX = 64
_RECORD_FIXED = struct.Struct(">HHIH")


class BadMessage(Exception):
    """Not a message to work with; `rcode` is the answer it deserves, None = none at all."""

    def __init__(self, reason: str, rcode: int | None = None) -> None:
        super().__init__(reason)
        self.rcode = rcode


@dataclass(frozen=True)
class Query:
    """One question. `name` is lower case without the final dot ("" = the root);
    a dot or backslash inside a label is escaped by a backslash, so it never
    equals a plain name. `size_max` is what the client takes by UDP."""

    id: int
    flags: int
    name: str
    type: int
    dns_class: int
    question: bytes = field(repr=False)
    edns: bool = False
    dnssec_ok: bool = False
    edns_version: int = 0
    size_max: int = UDP_PLAIN_MAX


@dataclass(frozen=True)
class Record:
    """One answer. `value`: A, AAAA an address; PTR, CNAME, NS a name; TXT a text;
    SRV (priority, weight, port, name); SOA (mname, rname, serial, minimum)."""

    name: str
    type: int
    ttl: int
    value: str | tuple[int, int, int, str] | tuple[str, str, int, int]


@dataclass(frozen=True)
class Answer:
    """What to say, before it has octets."""

    rcode: int = NOERROR
    records: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    authoritative: bool = True


def parse_query(data: bytes) -> Query:
    """The question in `data`. Raises BadMessage."""
    if len(data) < HEADER.size or len(data) > QUERY_BYTES_MAX:
        raise BadMessage(f"{len(data)} bytes are no query")
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if flags & QR:
        raise BadMessage("a response, not a query")
    if (flags >> 11) & 0xF:
        raise BadMessage("not a standard query", NOTIMP)
    if questions != 1 or answers or authorities or additionals > 2:
        raise BadMessage("not exactly one question", FORMERR)
    name, offset = read_name(data, HEADER.size, compressed=False)
    if offset + 4 > len(data):
        raise BadMessage("the question is cut off", FORMERR)
    kind, dns_class = struct.unpack_from(">HH", data, offset)
    question = data[HEADER.size : offset + 4]
    offset += 4
    edns, dnssec_ok, version, size = False, False, 0, UDP_PLAIN_MAX
    for _ in range(additionals):
        owner, offset = read_name(data, offset)
        record_type, record_class, ttl, offset, end = _record_head(data, offset)
        if record_type == OPT:
            if edns or owner:
                raise BadMessage("more than one OPT, or one with a name", FORMERR)
            edns, version, dnssec_ok = True, (ttl >> 16) & 0xFF, bool(ttl & 0x8000)
            size = min(max(record_class, UDP_PLAIN_MAX), UDP_EDNS_MAX)
        offset = end
    return Query(ident, flags, name, kind, dns_class, question, edns, dnssec_ok, version, size)


def build(query: Query, answer: Answer, size_max: int, *, recursion: bool = True) -> bytes:
    """The response to `query`, at most `size_max` octets, truncated and marked where it must be."""
    flags = QR | (query.flags & RD) | (RA if recursion else 0) | (answer.rcode & 0xF)
    if answer.authoritative:
        flags |= AA
    opt = b""
    if query.edns:
        extended = (answer.rcode >> 4) << 24 | (0x8000 if query.dnssec_ok else 0)
        opt = b"\0" + _RECORD_FIXED.pack(OPT, UDP_EDNS_MAX, extended, 0)
    body = bytearray(HEADER.size) + query.question
    names = {query.name: HEADER.size} if query.name else {}
    room = size_max - len(opt)
    counts = [0, 0, 0]
    truncated = False
    for section, records in enumerate((answer.records, answer.authority, answer.additional)):
        for record in records:
            mark, known = len(body), dict(names)
            _write_record(body, record, names)
            if len(body) > room:
                del body[mark:]
                names = known
                truncated = truncated or section < 2
                break
            counts[section] += 1
        if truncated:
            break
    if truncated:
        flags |= TC
    if opt:
        body += opt
        counts[2] += 1
    HEADER.pack_into(body, 0, query.id, flags, 1, *counts)
    return bytes(body)


def error_response(data: bytes, rcode: int) -> bytes:
    """A bare answer to a query that could not be parsed (only its header is known)."""
    ident, flags = struct.unpack_from(">HH", data)
    return HEADER.pack(ident, QR | (flags & (RD | 0x7800)) | rcode, 0, 0, 0, 0)


def read_name(data: bytes, offset: int, *, compressed: bool = True) -> tuple[str, int]:
    """The name at `offset`, lower case, and the offset after it. Raises BadMessage."""
    labels: list[str] = []
    end = -1
    octets = 1
    lowest = offset
    for _ in range(_POINTERS_MAX + NAME_OCTETS_MAX):
        if offset >= len(data):
            raise BadMessage("a name runs over the end", FORMERR)
        length = data[offset]
        if length & 0xC0 == 0xC0:
            if not compressed or offset + 2 > len(data):
                raise BadMessage("a compression pointer where none may be", FORMERR)
            target = ((length & 0x3F) << 8) | data[offset + 1]
            end = offset + 2 if end < 0 else end
            if target >= lowest or target < HEADER.size:
                raise BadMessage("a compression pointer that does not point backwards", FORMERR)
            offset = lowest = target
        elif length & 0xC0:
            raise BadMessage("an unknown kind of label", FORMERR)
        elif length == 0:
            return ".".join(labels), offset + 1 if end < 0 else end
        else:
            octets += length + 1
            label = data[offset + 1 : offset + 1 + length]
            if len(label) != length or octets > NAME_OCTETS_MAX:
                raise BadMessage("a name that is too long or cut off", FORMERR)
            labels.append(_text(label))
            offset += length + 1
    raise BadMessage("a name without end", FORMERR)


def response_fits(query: Query, response: bytes) -> bool:
    """Whether an upstream's response answers this question (id aside): the guard against forgeries."""
    if len(response) < HEADER.size:
        return False
    _, flags, questions, *_rest = HEADER.unpack_from(response)
    if not flags & QR or questions != 1:
        return False
    try:
        name, offset = read_name(response, HEADER.size)
    except BadMessage:
        return False
    return (name, response[offset : offset + 4]) == (query.name, query.question[-4:])


@dataclass(frozen=True)
class Lifetime:
    """How long a response may be kept, and where its TTLs are, to count them down."""

    seconds: int
    negative: bool
    ttl_offsets: tuple[int, ...]


def lifetime(response: bytes) -> Lifetime:
    """The lifetime of an upstream's response; 0 seconds where it must not be kept. Raises BadMessage."""
    if len(response) < HEADER.size:
        raise BadMessage("a response without a header")
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(response)
    offset = HEADER.size
    for _ in range(questions):
        _, offset = read_name(response, offset)
        offset += 4
    offsets: list[int] = []
    positive: list[int] = []
    negative: list[int] = []
    for index in range(answers + authorities + additionals):
        _, offset = read_name(response, offset)
        at = offset + 4
        kind, _, ttl, offset, end = _record_head(response, offset)
        if kind != OPT:
            offsets.append(at)
            if index < answers:
                positive.append(ttl)
            elif kind == SOA and end - offset >= 4:
                negative.append(min(ttl, struct.unpack_from(">I", response, end - 4)[0]))
        offset = end
    rcode = flags & 0xF
    if flags & TC or rcode not in (NOERROR, NXDOMAIN):
        return Lifetime(0, True, ())
    if positive and rcode == NOERROR:
        return Lifetime(min(positive), False, tuple(offsets))
    return Lifetime(min(negative, default=0), True, tuple(offsets))


def aged(response: bytes, kept: Lifetime, age_s: int) -> bytes:
    """The response with its TTLs counted down."""
    body = bytearray(response)
    for offset in kept.ttl_offsets:
        (ttl,) = struct.unpack_from(">I", body, offset)
        struct.pack_into(">I", body, offset, max(ttl - age_s, 0))
    return bytes(body)


def rotatable(response: bytes, query: Query) -> tuple[int, int, int]:
    """(offset, count, octets of each) of the answer's A or AAAA records, all alike, or (0, 0, 0)."""
    count = HEADER.unpack_from(response)[3]
    start = HEADER.size + len(query.question)
    size = {A: 16, AAAA: 28}.get(query.type, 0)
    if not size or count < 2 or start + size * count > len(response):
        return 0, 0, 0
    pointer = struct.pack(">HHH", 0xC000 | HEADER.size, query.type, CLASS_IN)
    if all(response[at : at + 6] == pointer for at in range(start, start + size * count, size)):
        return start, count, size
    return 0, 0, 0


def rotated(response: bytes, start: int, count: int, size: int, first: int) -> bytes:
    """The response with record number `first` in front."""
    cut, end = start + size * first, start + size * count
    return response[:start] + response[cut:end] + response[start:cut] + response[end:]


def encode_name(name: str) -> bytes:
    """Octets of a name without compression. Raises BadMessage where it cannot be one."""
    out = bytearray()
    for label in _split(name):
        if not 0 < len(label) < 64:
            raise BadMessage(f"{name!r} is no name")
        out += bytes([len(label)]) + label
    if len(out) + 1 > NAME_OCTETS_MAX:
        raise BadMessage(f"{name!r} is too long for a name")
    return bytes(out) + b"\0"


def _text(label: bytes) -> str:
    text = label.decode("latin-1")
    if "." in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace(".", "\\.")
    # Only ASCII letters fold.
    return text.lower() if text.isascii() else "".join(c.lower() if c.isascii() else c for c in text)


def _split(name: str) -> list[bytes]:
    if not name:
        return []
    labels, current, escaped = [], "", False
    for character in name:
        if escaped or character not in ".\\":
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        else:
            labels.append(current)
            current = ""
    labels.append(current)
    try:
        return [label.encode("latin-1") for label in labels]
    except UnicodeEncodeError as error:
        raise BadMessage(f"{name!r} is no name") from error


def _record_head(data: bytes, offset: int) -> tuple[int, int, int, int, int]:
    """(type, class, ttl, offset of the data, offset after it)."""
    if offset + _RECORD_FIXED.size > len(data):
        raise BadMessage("a record is cut off", FORMERR)
    kind, dns_class, ttl, length = _RECORD_FIXED.unpack_from(data, offset)
    start = offset + _RECORD_FIXED.size
    if start + length > len(data):
        raise BadMessage("a record runs over the end", FORMERR)
    return kind, dns_class, ttl, start, start + length


def _write_record(body: bytearray, record: Record, names: dict[str, int]) -> None:
    _write_name(body, record.name, names)
    at = len(body)
    body += _RECORD_FIXED.pack(record.type, CLASS_IN, record.ttl, 0)
    _write_value(body, record, names)
    struct.pack_into(">H", body, at + 8, len(body) - at - _RECORD_FIXED.size)


def _write_value(body: bytearray, record: Record, names: dict[str, int]) -> None:
    value = record.value
    if record.type == SRV:
        assert isinstance(value, tuple)
        priority, weight, port, target = value
        body += struct.pack(">HHH", priority, weight, port) + encode_name(str(target))
    elif record.type == SOA:
        assert isinstance(value, tuple)
        primary, mailbox, serial, minimum = value
        body += encode_name(str(primary)) + encode_name(str(mailbox))
        body += struct.pack(">IIIII", serial, 3600, 600, 86400, minimum)
    else:
        assert isinstance(value, str)
        if record.type in (A, AAAA):
            body += ipaddress.ip_address(value).packed
        elif record.type == TXT:
            text = value.encode()
            for start in range(0, len(text) or 1, 255):
                piece = text[start : start + 255]
                body += bytes([len(piece)]) + piece
        else:
            _write_name(body, value, names)


def _write_name(body: bytearray, name: str, names: dict[str, int]) -> None:
    """Write a name, pointing to the longest known tail of it."""
    encode_name(name)
    rest = name
    while rest:
        if rest in names:
            body += struct.pack(">H", 0xC000 | names[rest])
            return
        if len(body) < 0x4000:
            names[rest] = len(body)
        label = _split(rest)[0]
        body += bytes([len(label)]) + label
        rest = _tail(rest)
    body += b"\0"


def _tail(name: str) -> str:
    """The name without its first label."""
    escaped = False
    for index, character in enumerate(name):
        if character == "." and not escaped:
            return name[index + 1 :]
        escaped = character == "\\" and not escaped
    return ""


def records_of(kind: int, owner: str, ttl: int, values: Sequence[str]) -> tuple[Record, ...]:
    """One record of a type for each value."""
    return tuple(Record(owner, kind, ttl, value) for value in values)
