"""The line in front of the disk: what is written at once, what by the thread, and that it stays a line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from swarmpy.raft import disk as disk_module
from swarmpy.raft.core import Output
from swarmpy.raft.core_log import COMMAND, Entry
from swarmpy.raft.disk import QUICK_WRITES, SMALL_BYTES, Disk
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import DiskFull

Written = list[int]


def run(directory: Path, work: Callable[[Disk, Written], Awaitable[None]]) -> list[int]:
    """Carry out `work`; the entries that a new journal finds afterwards."""

    async def main() -> None:
        written: Written = []
        disk = Disk(
            Journal(directory, "n1"),
            on_written=lambda line, state, last: written.append(last.index if last is not None else 0),
            on_low=lambda: None,
            on_fatal=pytest.fail,
        )
        await work(disk, written)
        await disk.drained()
        await disk.stop()

    asyncio.run(main())
    again = Journal(directory, "n1")
    again.close()
    return [entry.index for entry in again.recovered.entries]


def entries(index: int, size_bytes: int = 10) -> Output:
    return Output(entries=[Entry(index, 1, COMMAND, bytes(size_bytes))])


async def become_quick(disk: Disk, written: Written) -> None:
    for index in range(1, QUICK_WRITES + 1):
        disk.put(entries(index))
        assert len(written) == index - 1
        await disk.drained()


def test_a_quick_disk_is_written_to_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "QUICK_S", 60.0)

    async def work(disk: Disk, written: Written) -> None:
        await become_quick(disk, written)
        disk.put(entries(17))
        assert written[-1] == 17
        assert not disk.busy

    assert run(tmp_path, work) == list(range(1, 18))


def test_a_slow_disk_never_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "QUICK_S", 0.0)

    async def work(disk: Disk, written: Written) -> None:
        await become_quick(disk, written)
        disk.put(entries(17))
        assert written[-1] == 16
        assert disk.busy

    assert run(tmp_path, work) == list(range(1, 18))


def test_one_slow_write_sends_the_next_to_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "QUICK_S", 60.0)

    async def work(disk: Disk, written: Written) -> None:
        await become_quick(disk, written)
        monkeypatch.setattr(disk_module, "QUICK_S", 0.0)
        disk.put(entries(17))
        assert written[-1] == 17
        disk.put(entries(18))
        assert written[-1] == 17

    assert run(tmp_path, work) == list(range(1, 19))


def test_what_is_large_or_behind_another_waits_in_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "QUICK_S", 60.0)

    async def work(disk: Disk, written: Written) -> None:
        await become_quick(disk, written)
        disk.put(entries(17, SMALL_BYTES))
        disk.put(entries(18))
        assert written[-1] == 16
        await disk.drained()
        assert written[-2:] == [17, 18]

    assert run(tmp_path, work) == list(range(1, 19))


def test_nothing_is_written_beside_other_work_on_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "QUICK_S", 60.0)

    async def work(disk: Disk, written: Written) -> None:
        await become_quick(disk, written)
        gate = threading.Event()
        other = asyncio.create_task(disk.run(lambda: assert_opened(gate)))
        await asyncio.sleep(0)
        disk.put(entries(17))
        assert written[-1] == 16
        gate.set()
        await other
        await disk.drained()
        disk.put(entries(18))
        assert written[-2:] == [17, 18]

    assert run(tmp_path, work) == list(range(1, 19))


def assert_opened(gate: threading.Event) -> None:
    assert gate.wait(30)


def test_a_line_that_waits_for_room_is_not_drained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "QUICK_S", 60.0)
    monkeypatch.setattr(disk_module, "LOOK_S", 0.0)

    async def work(disk: Disk, written: Written) -> None:
        await become_quick(disk, written)
        with monkeypatch.context() as full:
            full.setattr(disk.journal, "write", refuse)
            disk.put(entries(17))
        assert written[-1] == 16
        await disk.drained()
        assert written[-1] == 17

    assert run(tmp_path, work) == list(range(1, 18))


def refuse(*_: object) -> None:
    raise DiskFull("/small")
