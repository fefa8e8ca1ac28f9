"""Merging of log streams, and which logs of ended tasks go."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.agent.log_keep import DeadLog, LogKeep, too_much
from swarmpy.node.manager.merge import AHEAD_MAX, Merge
from swarmpy.proto import control_pb2

Line = control_pb2.LogLine


async def stream(times: list[int], name: str = "") -> AsyncIterator[Line]:
    for time_ns in times:
        yield Line(time_ns=time_ns, task_id=name)
        await asyncio.sleep(0)


@given(st.lists(st.lists(st.integers(0, 50), max_size=20).map(sorted), max_size=5))
def test_ordered_streams_come_out_ordered_and_whole(streams: list[list[int]]) -> None:
    async def story() -> list[int]:
        merge = Merge(patience_s=60)
        for times in streams:
            merge.add(stream(times))
        merge.finish()
        return [line.time_ns async for line in merge.lines()]

    assert asyncio.run(story()) == sorted(time for times in streams for time in times)


def test_a_silent_stream_is_not_waited_for_forever() -> None:
    async def silent() -> AsyncIterator[Line]:
        await asyncio.Event().wait()
        yield Line()

    async def story() -> None:
        merge = Merge(patience_s=0.05)
        merge.add(silent())
        merge.add(stream(list(range(2 * AHEAD_MAX))))
        lines = merge.lines()
        found = [(await anext(lines)).time_ns for _ in range(2 * AHEAD_MAX)]
        assert found == list(range(2 * AHEAD_MAX))
        merge.add(stream([7], "late"))
        assert (await anext(lines)).task_id == "late"
        await merge.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_stream_that_is_ahead_waits() -> None:
    taken = 0

    async def endless() -> AsyncIterator[Line]:
        nonlocal taken
        while True:
            taken += 1
            yield Line(time_ns=taken)

    async def story() -> None:
        merge = Merge(patience_s=1)
        merge.add(endless())
        for _ in range(10):
            await asyncio.sleep(0)
        assert taken <= AHEAD_MAX + 1
        await merge.close()

    asyncio.run(story())


def test_a_broken_stream_is_an_error() -> None:
    async def broken() -> AsyncIterator[Line]:
        yield Line(time_ns=1)
        raise ValueError("broken")

    async def story() -> None:
        merge = Merge(patience_s=1)
        merge.add(broken())
        merge.finish()
        lines = merge.lines()
        assert (await anext(lines)).time_ns == 1
        with pytest.raises(ValueError, match="broken"):
            await anext(lines)

    asyncio.run(story())


def test_old_and_too_many_dead_logs_go() -> None:
    logs = [DeadLog(Path(f"/{age}"), 1000.0 - age, 100) for age in (5, 500, 50)]
    assert [d.path.name for d in too_much(logs, 1000.0, 400.0, 1000)] == ["500"]
    assert [d.path.name for d in too_much(logs, 1000.0, 4000.0, 150)] == ["500", "50"]
    assert too_much(logs, 1000.0, 4000.0, 300) == []


def test_the_logs_of_known_tasks_stay(tmp_path: Path) -> None:
    for name in ("alive", "dead", "fresh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ctr.log").write_text("x")
        if name != "fresh":
            os.utime(tmp_path / name / "ctr.log", (0, 0))
    keep = LogKeep(tmp_path, lambda name: name == "alive", age_s_max=100)
    now_s = (tmp_path / "fresh/ctr.log").stat().st_mtime
    assert asyncio.run(keep.sweep(now_s)) == ["dead"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive", "fresh"]
