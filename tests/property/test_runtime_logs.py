"""Log parsing must not depend on where blocks are cut, nor on how long lines were split by the monitor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.runtime.logs import Parser
from swarmpy.node.runtime.request import LogLine

texts = st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b" "))
written = st.lists(st.tuples(st.booleans(), st.lists(texts, min_size=1, max_size=4)), max_size=20)


def encode(lines: list[tuple[bool, list[bytes]]]) -> bytes:
    out = b""
    for number, (stderr, pieces) in enumerate(lines):
        stamp = f"2026-01-31T23:59:{number:02d}.000000{number:03d}+01:00".encode()
        stream = b"stderr" if stderr else b"stdout"
        for piece in pieces[:-1]:
            out += stamp + b" " + stream + b" P " + piece + b"\n"
        out += stamp + b" " + stream + b" F " + pieces[-1] + b"\n"
    return out


@given(written, st.lists(st.integers(min_value=1, max_value=40), max_size=60))
def test_lines_come_back_however_they_are_cut(lines: list[tuple[bool, list[bytes]]], cuts: list[int]) -> None:
    data, parser, got, position = encode(lines), Parser(), [], 0
    for cut in [*cuts, len(data)]:
        got += list(parser.feed(data[position : position + cut]))
        position += cut
    got += list(parser.feed(data[position:]))
    base = 1_769_900_340_000_000_000  # 2026-01-31T23:59:00+01:00
    assert got == [
        LogLine(base + number * 1_000_000_001, stderr, b"".join(pieces))
        for number, (stderr, pieces) in enumerate(lines)
    ]
    assert list(parser.flush()) == []


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    parser = Parser()
    list(parser.feed(data + b"\n"))
    list(parser.flush())
