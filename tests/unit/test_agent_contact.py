"""A node without a manager stops what asks for it, also after its agent was killed; nothing takes that back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.agent import contact as module
from swarmpy.node.agent.contact import Contact, overdue
from swarmpy.node.agent.keep import Keep
from swarmpy.node.agent.machine import Local
from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.runner import Runner
from swarmpy.node.agent.worker import Worker
from swarmpy.proto import objects_pb2, types_pb2

NOTHING: Any = None  # tasks that are stopped before they began need neither runtime nor network
READY = types_pb2.TASK_READY


def task(name: str, after_ms: int) -> objects_pb2.Task:
    made = objects_pb2.Task(desired_state=READY)
    made.meta.id = name
    made.spec.stop_after_ms = after_ms
    return made


def local(name: str, after_ms: int, state: types_pb2.TaskState = READY) -> Local:
    return Local(name, task(name, after_ms), objects_pb2.TaskStatus(state=state))


@pytest.mark.parametrize(
    ("silent_ms", "expected"),
    [(0, []), (9_999, []), (10_000, ["a"]), (20_000, ["a", "b"]), (None, ["a", "b"])],
)
def test_whose_time_is_over(silent_ms: int | None, expected: list[str]) -> None:
    ended = local("d", 10_000, types_pb2.TASK_FAILED)
    tasks = [local("a", 10_000), local("b", 20_000), local("c", 0), ended, Local("e", None)]
    assert overdue(tasks, silent_ms) == expected


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1_000_000
        monkeypatch.setattr(module, "now_ms", lambda: self.now_ms)


def test_silence_goes_on_while_the_agent_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given_up = Clock(monkeypatch), list[str]()
    tasks: dict[str, Local] = {}

    def agent() -> Contact:
        return Contact(tmp_path / "contact", tasks, lambda ids, why: given_up.extend(ids))

    first = agent()
    assert first.silent_ms is None
    first.heard(clock.now_ms - 100)  # when it was sent, not when the answer came
    assert first.silent_ms == 100
    tasks.update(a=local("a", 10_000), b=local("b", 0))
    clock.now_ms += 9_000
    first.look()
    second = agent()
    second.look()
    assert (second.silent_ms, given_up) == (9_100, [])
    clock.now_ms += 900
    agent().look()
    assert given_up == ["a"]
    second.heard(clock.now_ms)
    assert agent().silent_ms == 0


def test_an_answer_does_not_undo_a_silence_that_was_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole agent was stopped meanwhile: the answer is there before it has looked."""
    clock, given_up = Clock(monkeypatch), list[str]()
    tasks = {"a": local("a", 10_000)}
    contact = Contact(tmp_path / "contact", tasks, lambda ids, why: given_up.extend(ids))
    tasks.clear()
    contact.heard(clock.now_ms)
    tasks["a"] = local("a", 10_000)
    contact.look()
    assert not given_up
    clock.now_ms += 10_000
    contact.heard(clock.now_ms)
    assert given_up == ["a"]


@pytest.mark.parametrize("text", ["", "another-boot 999999", "no number"])
def test_what_nobody_knows_was_no_contact(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    (tmp_path / "contact").write_text(text)
    assert Contact(tmp_path / "contact", {}, lambda ids, why: None).silent_ms is None


def test_the_record_is_there_before_the_first_task_that_asks_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    tasks: dict[str, Local] = {}
    first = Contact(tmp_path / "contact", tasks, lambda ids, why: None)
    first.heard(999_000)
    assert not (tmp_path / "contact").exists(), "nobody asks"
    tasks["a"] = local("a", 10_000)
    first.look()
    assert Contact(tmp_path / "contact", tasks, lambda ids, why: None).silent_ms == 1_000


def test_tasks_are_not_looked_through_while_none_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    class Counted(dict[str, Local]):
        def values(self) -> Any:
            nonlocal looks
            looks += 1
            return super().values()

    async def turns(contact: Contact) -> None:
        running = asyncio.create_task(contact.run())
        for sent_ms in range(20):
            contact.heard(sent_ms)
            await asyncio.sleep(0.001)
        running.cancel()

    monkeypatch.setattr(module, "LOOK_S", 0.001)
    tasks = Counted({"a": local("a", 0)})
    contact = Contact(tmp_path / "contact", tasks, lambda ids, why: None)
    asyncio.run(turns(contact))
    assert looks <= 2
    tasks["a"] = local("a", 10**9)
    contact.look()
    asyncio.run(turns(contact))
    assert looks > 4
    assert contact.silent_ms is not None
    assert (tmp_path / "contact").exists()


def test_what_was_given_up_ends_though_it_is_wanted(tmp_path: Path) -> None:
    async def main() -> None:
        reported: list[str] = []
        keep = Keep(tmp_path / "agent")
        worker = Worker(Runner(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, "n"), keep, reported.append)
        worker.tasks["a"] = local("a", 10_000, types_pb2.TASK_ACCEPTED)
        worker.give_up(["a"], "no manager")
        worker.want(Picture(tasks={"a": task("a", 10_000)}))  # a manager is there again, and knows of nothing
        async with asyncio.timeout(10):
            while "a" not in reported:
                await asyncio.sleep(0.001)
        status = worker.tasks["a"].status
        assert (status.state, status.reason) == (types_pb2.TASK_SHUTDOWN, "CUT_OFF")
        assert (status.message, status.error) == ("no manager", "")
        assert keep.load_tasks()["a"] == status
        await worker.close()

    asyncio.run(main())
