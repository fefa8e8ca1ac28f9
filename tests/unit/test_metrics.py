"""Numbers for Prometheus: the text, the server and its bounds, the JSON log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node import log as node_log
from swarmpy.node import metrics
from swarmpy.node.metrics import Family, Page, Registry, Sample, Server, gauge

LINE = re.compile(r'[a-z_0-9]+(\{[a-z_]+="(\\.|[^"\\\n])*"(,[a-z_]+="(\\.|[^"\\\n])*")*\})? \S+')

NAMES = re.compile(
    r"swarmpy_(?:manager|raft|node|task|dispatcher|store|dns|network|image|planner)_[a-z0-9_]+"
)


def test_the_text_is_what_prometheus_reads() -> None:
    registry = Registry()
    registry.collect(
        lambda: [
            gauge("swarmpy_x", "Is x.", 3),
            Family(
                "swarmpy_y", "counter", "Is y.", (Sample(1.5, (("service", 'we"b\n'), ("task", "a\\b"))),)
            ),
        ]
    )
    seconds = registry.histogram("swarmpy_z_seconds", "Is z.")
    for value in (0.0005, 0.004, 0.004, 99):
        seconds.observe(value)
    lines = registry.text().splitlines()
    assert lines[:3] == ["# HELP swarmpy_x Is x.", "# TYPE swarmpy_x gauge", "swarmpy_x 3"]
    assert 'swarmpy_y{service="we\\"b\\n",task="a\\\\b"} 1.5' in lines
    assert 'swarmpy_z_seconds_bucket{le="0.001"} 1' in lines
    assert 'swarmpy_z_seconds_bucket{le="0.005"} 3' in lines
    assert 'swarmpy_z_seconds_bucket{le="30"} 3' in lines
    assert 'swarmpy_z_seconds_bucket{le="+Inf"} 4' in lines
    assert "swarmpy_z_seconds_count 4" in lines


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_no_label_breaks_a_line(value: str, number: float) -> None:
    shown = metrics.text([Family("swarmpy_x", "gauge", "Is x.", (Sample(number, (("name", value),)),))])
    samples = [line for line in shown.split("\n") if line and not line.startswith("#")]
    assert len(samples) == 1
    assert LINE.fullmatch(samples[0])
    assert float(samples[0].rpartition(" ")[2]) == number


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""  # closed before it was all read
    finally:
        writer.close()


def test_the_server_answers_get_of_its_pages_only(tmp_path: Path) -> None:
    async def page() -> Page:
        return Page("x 1\n", content_type=metrics.CONTENT_TYPE)

    async def main() -> None:
        server = Server({"/metrics": page})
        await server.start_unix(tmp_path / "m.sock")
        assert (tmp_path / "m.sock").stat().st_mode & 0o777 == 0o600
        assert await metrics.read_unix(tmp_path / "m.sock") == "x 1\n"
        assert (await ask(tmp_path / "m.sock", b"GET /other HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert (await ask(tmp_path / "m.sock", b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405")
        assert await ask(tmp_path / "m.sock", b"x" * 20_000) == b""
        await server.stop()
        assert not (tmp_path / "m.sock").exists()
        assert await metrics.read_unix(tmp_path / "m.sock") is None

    asyncio.run(main())


def test_silent_callers_do_not_keep_others_out_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "STEP_TIMEOUT_S", 0.3)

    async def page() -> Page:
        return Page("x 1\n")

    async def main() -> None:
        server = Server({"/metrics": page})
        await server.start_unix(tmp_path / "m.sock")
        silent = [
            await asyncio.open_unix_connection(tmp_path / "m.sock") for _ in range(metrics.CONNECTIONS_MAX)
        ]
        assert await ask(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        assert b"x 1" in await ask(tmp_path / "m.sock", b"GET /metrics HTTP/1.1\r\n\r\n")
        await server.stop()

    asyncio.run(main())


def test_a_json_line_has_the_pairs_as_fields() -> None:
    formatter = node_log.JsonFormatter("agent", "n1")
    record = logging.LogRecord(
        "swarmpy.node.agent",
        logging.WARNING,
        "f.py",
        1,
        "step failed task=%s error=%s",
        ("t1", "no room, at all"),
        None,
    )
    fields = json.loads(formatter.format(record))
    assert fields["message"] == "step failed"
    assert (fields["task"], fields["error"]) == ("t1", "no room, at all")
    assert (fields["node"], fields["process"], fields["level"]) == ("n1", "agent", "warning")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields["time"])
    assert node_log.split("listening") == ("listening", {})


def test_the_dashboard_asks_only_for_names_that_exist() -> None:
    """Every name in docs/grafana.json and docs/operations.md stands in a module that makes numbers."""
    top = Path(__file__).resolve().parents[2]
    made = "".join(path.read_text() for path in (top / "node").rglob("*.py"))
    made += "swarmpy_manager_services_total"  # one a kind
    tasks = re.findall(r'^    \("([a-z_]+)", "(?:counter|gauge)"', made, re.MULTILINE)
    known = set(re.findall(r"swarmpy_[a-z0-9_]+", made)) | {f"swarmpy_task_{name}" for name in tasks}
    for file in ("docs/grafana.json", "docs/operations.md"):
        for name in re.findall(
            r"swarmpy_(?:manager|raft|node|task|dispatcher|store|dns|network|image|planner)_[a-z0-9_]+",
            (top / file).read_text(),
        ):
            assert name.removesuffix("_bucket").removesuffix("_count") in known or name in known, (
                f"{file}: {name}"
            )
