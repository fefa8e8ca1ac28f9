"""The codec against hostile and random input."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.overlay import dnswire
from swarmpy.overlay.dnswire import Answer, BadMessage, Record

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
ADDRESS = st.ip_addresses(v=4).map(str)


def query(name: str, kind: int = dnswire.A, *, size: int | None = None, upper: bool = False) -> bytes:
    encoded = dnswire.encode_name(name)
    encoded = encoded.upper() if upper else encoded
    opt = b"" if size is None else b"\0" + struct.pack(">HHIH", dnswire.OPT, size, 0, 0)
    return (
        struct.pack(">HHHHHH", 0xABCD, dnswire.RD, 1, 0, 0, bool(opt))
        + encoded
        + struct.pack(">HH", kind, 1)
        + opt
    )


def walk(message: bytes) -> tuple[int, int, list[list[tuple[str, int, bytes]]]]:
    """(id, flags, records by section), read strictly: nothing may be left over."""
    ident, flags, questions, *counts = dnswire.HEADER.unpack_from(message)
    offset = dnswire.HEADER.size
    for _ in range(questions):
        _, offset = dnswire.read_name(message, offset)
        offset += 4
    sections: list[list[tuple[str, int, bytes]]] = []
    for count in counts:
        records = []
        for _ in range(count):
            name, offset = dnswire.read_name(message, offset)
            kind, _, _, length = struct.unpack_from(">HHIH", message, offset)
            offset += 10
            if kind in (dnswire.PTR, dnswire.CNAME):
                data = dnswire.read_name(message, offset)[0].encode()
            else:
                data = message[offset : offset + length]
            records.append((name, kind, data))
            offset += length
        sections.append(records)
    assert offset == len(message)
    return ident, flags, sections


@given(st.binary(max_size=300))
@settings(max_examples=1000)
def test_any_octets_are_a_query_or_a_bad_message(data: bytes) -> None:
    for function in (dnswire.parse_query, dnswire.lifetime):
        with contextlib.suppress(BadMessage):
            function(data)
    with contextlib.suppress(BadMessage):
        dnswire.parse_query(struct.pack(">HHHHHH", 1, 0, 1, 0, 0, len(data) % 3) + data)
    with contextlib.suppress(BadMessage):
        dnswire.lifetime(struct.pack(">HHHHHH", 1, dnswire.QR, 1, len(data) % 5, 1, 1) + data)


@given(NAME, st.integers(0, 65535), st.integers(0, 300), st.data())
def test_damaged_queries(name: str, kind: int, cut: int, data: st.DataObject) -> None:
    good = bytearray(query(name, kind, size=4096))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadMessage):
        parsed = dnswire.parse_query(bytes(good[: len(good) - cut]))
        dnswire.build(parsed, Answer(), parsed.size_max)


@given(
    NAME,
    NAME,
    st.lists(ADDRESS, max_size=90, unique=True),
    st.sampled_from([None, 0, 512, 1232, 4096, 65535]),
)
def test_answers_read_back_and_fit(name: str, other: str, addresses: list[str], size: int | None) -> None:
    parsed = dnswire.parse_query(query(name, size=size, upper=True))
    assert parsed.name == name
    answer = Answer(
        records=(*dnswire.records_of(dnswire.A, name, 5, addresses), Record(name, dnswire.CNAME, 5, other)),
        additional=(Record(f"{other}.{name}"[:120].strip("."), dnswire.A, 5, "192.0.2.1"),),
    )
    message = dnswire.build(parsed, answer, parsed.size_max)
    assert len(message) <= parsed.size_max <= 1232
    ident, flags, (answers, _, additional) = walk(message)
    assert ident == 0xABCD
    whole = len(answers) == len(addresses) + 1
    assert bool(flags & dnswire.TC) == (not whole)
    expected = [(name, dnswire.A, bytes(map(int, a.split(".")))) for a in addresses]
    assert answers[: len(addresses)] == expected[: len(answers)]
    assert not whole or answers[-1] == (name, dnswire.CNAME, other.encode())
    assert (size is not None) == any(kind == dnswire.OPT for _, kind, _ in additional)
    assert message[12 : 12 + len(parsed.question)] == parsed.question
    assert dnswire.response_fits(parsed, message)


@given(
    NAME,
    st.one_of(
        st.tuples(st.just(dnswire.A), st.lists(ADDRESS, min_size=2, max_size=25, unique=True)),
        st.tuples(
            st.just(dnswire.AAAA),
            st.lists(st.ip_addresses(v=6).map(str), min_size=2, max_size=25, unique=True),
        ),
    ),
    st.data(),
)
def test_rotation_keeps_the_set(name: str, records: tuple[int, list[str]], data: st.DataObject) -> None:
    kind, addresses = records
    parsed = dnswire.parse_query(query(name, kind))
    message = dnswire.build(parsed, Answer(records=dnswire.records_of(kind, name, 5, addresses)), 65535)
    start, count, size = dnswire.rotatable(message, parsed)
    assert count == len(addresses)
    first = data.draw(st.integers(0, count - 1))
    _, _, (before, _, _) = walk(message)
    _, _, (after, _, _) = walk(dnswire.rotated(message, start, count, size, first))
    assert after == before[first:] + before[:first]


def test_mixed_answers_are_not_rotated() -> None:
    parsed = dnswire.parse_query(query("web"))
    records = (Record("web", dnswire.CNAME, 5, "x"), Record("x", dnswire.A, 5, "192.0.2.1"))
    assert dnswire.rotatable(dnswire.build(parsed, Answer(records=records), 512), parsed) == (0, 0, 0)


def header(flags: int = 0, questions: int = 1, answers: int = 0, additional: int = 0) -> bytes:
    return struct.pack(">HHHHHH", 1, flags, questions, answers, 0, additional)


QUESTION = b"\3web\0\0\1\0\1"
OPT = b"\0" + struct.pack(">HHIH", dnswire.OPT, 1232, 0, 0)


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None), (b"x" * 11, None), (b"\0" * 5000, None), (header(dnswire.QR) + QUESTION, None),
        (header(0x2800) + QUESTION, dnswire.NOTIMP), (header(questions=0), dnswire.FORMERR),
        (header(questions=2) + QUESTION * 2, dnswire.FORMERR),
        (header(answers=1) + QUESTION, dnswire.FORMERR),
        (header() + QUESTION[:-1], dnswire.FORMERR), (header() + b"\xc0\x0c\0\1\0\1", dnswire.FORMERR),
        (header() + b"\x40web\0\0\1\0\1", dnswire.FORMERR), (header() + b"\x3fweb", dnswire.FORMERR),
        (header() + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", dnswire.FORMERR),
        (header(additional=2) + QUESTION + OPT * 2, dnswire.FORMERR),
        (header(additional=1) + QUESTION + OPT[:-1], dnswire.FORMERR),
        (header(additional=1) + QUESTION + b"\1a" + OPT, dnswire.FORMERR),
    ],
)  # fmt: skip
def test_refused_input(data: bytes, rcode: int | None) -> None:
    with pytest.raises(BadMessage) as caught:
        dnswire.parse_query(data)
    assert caught.value.rcode == rcode


def test_pointer_loops_end() -> None:
    loop = header(dnswire.QR) + b"\xc0\x0c"
    with pytest.raises(BadMessage):
        dnswire.read_name(loop, 12)
    chain = header() + b"\1a\xc0\x0e"
    with pytest.raises(BadMessage):
        dnswire.read_name(chain, 12)


def test_dots_and_high_octets_inside_labels_match_no_plain_name() -> None:
    parsed = dnswire.parse_query(header() + b"\7web.com\0\0\1\0\1")
    assert parsed.name == "web\\.com"
    assert dnswire.encode_name(parsed.name) == b"\7web.com\0"
    assert dnswire.parse_query(header() + b"\3W\xc9B\0\0\1\0\1").name == "w\xc9b"


def test_lifetime_and_age() -> None:
    parsed = dnswire.parse_query(query("web", size=1232))
    records = (Record("web", dnswire.CNAME, 40, "x"), Record("x", dnswire.A, 9, "192.0.2.1"))
    message = dnswire.build(parsed, Answer(records=records), 512)
    kept = dnswire.lifetime(message)
    assert (kept.seconds, kept.negative) == (9, False)
    assert dnswire.lifetime(dnswire.aged(message, kept, 4)).seconds == 5
    assert dnswire.lifetime(dnswire.aged(message, kept, 400)).seconds == 0
    soa = Record("web", dnswire.SOA, 60, ("a", "b", 1, 30))
    negative = dnswire.build(parsed, Answer(rcode=dnswire.NXDOMAIN, authority=(soa,)), 512)
    assert (dnswire.lifetime(negative).seconds, dnswire.lifetime(negative).negative) == (30, True)
    assert dnswire.lifetime(dnswire.build(parsed, Answer(rcode=dnswire.SERVFAIL), 512)).seconds == 0
