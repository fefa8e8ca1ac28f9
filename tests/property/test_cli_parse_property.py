"""Values written in Docker's syntax come back as they were; no text at all breaks a parser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.cli import parse, parse_mounts, parse_runtime, template
from swarmpy.cli.parse import PortValue
from swarmpy.cli.parse_mounts import MountValue

PORTS = st.integers(1, 65535)
FUNCTIONS: list[Callable[[str], Any]] = [
    parse.duration_ms,
    parse.timeout_ms,
    parse.size_bytes,
    parse.nano_cpus,
    parse.publish,
    parse.publish_rm,
    parse_mounts.mount,
    parse_mounts.tmpfs,
    parse.network,
    parse.ulimit,
    parse.host,
    parse.host_rm,
    parse.constraint,
    parse_runtime.security_option,
    parse.capability,
    parse.device,
    parse.stop_signal,
    parse.ratio,
    parse.words,
    parse.scale,
    parse.key_value,
    parse.filter_value,
    lambda text: parse.moment_ms(text, 0),
    lambda text: parse.env_file_lines(text, "file"),
    lambda text: template.render(text, {"Name": "x", "Labels": {}}),
]
PIECES = st.sampled_from(
    ["=", ":", ",", "-", "/", "+", ".", '"', "'", "{{", "}}", "type", "target", "80", "1s", "m", " "]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=8).map("".join))


@pytest.mark.parametrize("function", FUNCTIONS)
@given(text=TEXTS)
def test_any_text_is_taken_or_refused_with_a_sentence(function: Callable[[str], Any], text: str) -> None:
    try:
        function(text)
    except ValueError as error:
        assert str(error)


@given(
    hours=st.integers(0, 999),
    minutes=st.integers(0, 999),
    seconds=st.integers(0, 999),
    ms=st.integers(0, 999),
)
def test_durations_add_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    total = ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms
    assert parse.duration_ms(f"{hours}h{minutes}m{seconds}s{ms}ms") == total


@given(number=st.integers(0, 2**40), unit=st.sampled_from(["", "b", "k", "kb", "KiB", "m", "g"]))
def test_sizes_are_powers_of_1024(number: int, unit: str) -> None:
    power = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3}[unit[:1].lower()]
    if number * 1024**power < 2**63:
        assert parse.size_bytes(f"{number}{unit}") == number * 1024**power


@given(outer=PORTS, target=PORTS, protocol=st.sampled_from(parse.PROTOCOLS), address=st.ip_addresses())
def test_short_and_long_ports_agree(outer: int, target: int, protocol: str, address: Any) -> None:
    ip = f"[{address}]" if address.version == 6 else str(address)
    short = parse.publish(f"{ip}:{outer}:{target}/{protocol}")
    long = parse.publish(f"published={outer},target={target},protocol={protocol},ip={address}")
    assert short == long == [PortValue(target, outer, protocol, "ingress", str(address))]


@given(first=st.integers(1, 65000), shift=st.integers(0, 500), count=st.integers(1, 30))
def test_a_range_is_its_ports(first: int, shift: int, count: int) -> None:
    text = f"{first + shift}-{first + shift + count - 1}:{first}-{first + count - 1}"
    assert parse.publish(text) == [PortValue(first + i, first + shift + i) for i in range(count)]


@given(
    source=st.from_regex(r"/[a-z, ]{1,10}", fullmatch=True),
    target=st.from_regex(r"/[a-z,]{1,10}", fullmatch=True),
)
def test_mounts_keep_commas_in_quotes(source: str, target: str) -> None:
    mount = parse_mounts.mount(f'type=bind,"source={source}","target={target}"')
    assert mount == MountValue("bind", target, source)
