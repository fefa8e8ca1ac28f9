"""What the agent does about a wish, up to the word to its supervisor; this process plays the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node import builds
from swarmpy.node.agent.builds import AgentBuilds
from swarmpy.node.config import Paths
from swarmpy.proto import dispatcher_pb2, objects_pb2

OWN = "a" * 64


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The signals that the supervisor got."""
    got: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _frame: got.append(number))
    monkeypatch.setenv("SWARMPY_SUPERVISOR", str(os.getpid()))
    monkeypatch.setenv(builds.BUILD_VARIABLE, OWN)
    yield got
    signal.signal(signal.SIGHUP, before)


def played(state: Path, drive: Callable[[AgentBuilds, list[str]], Any], *, ready: bool = False) -> None:
    """Run an agent of the build OWN while `drive` is at it; it is given the states that the managers were told."""

    async def main() -> None:
        said: list[str] = []

        async def is_ready() -> bool:
            return ready

        images: Any = None  # going back to what is installed takes none
        agent = AgentBuilds(Paths(state), images, is_ready, lambda: said.append(state_of(agent)))
        running = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(20):
                await drive(agent, said)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def state_of(agent: AgentBuilds) -> str:
    return objects_pb2.BuildState.Name(agent.status().state).removeprefix("BUILD_")


def wish(digest: str = "", attempt: int = 1, *, go: bool = False) -> dispatcher_pb2.BuildAssignment:
    source = dispatcher_pb2.ImageSource(digest=digest)
    return dispatcher_pb2.BuildAssignment(source=source, version="0.1.0", attempt=attempt, go=go)


def settled(state: Path) -> None:
    record = builds.Record()
    record.current, record.installed, record.interpreter = OWN, "0.1.0", "/bin/false"
    builds.save(state, record)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_the_supervisor_hears_of_it_once_and_only_after_the_leader_knows(
    tmp_path: Path, told: list[int]
) -> None:
    settled(tmp_path)

    async def drive(agent: AgentBuilds, said: list[str]) -> None:
        agent.want(wish())
        await until(lambda: said == ["FETCHING", "TRYING"])
        assert not told
        assert builds.load(tmp_path).trial is None
        agent.want(wish(go=True))
        await until(lambda: bool(told))
        record = builds.load(tmp_path)
        assert (record.trial, record.attempt, record.stage) == ("", 1, builds.ROLES)
        for _ in range(5):  # every other change of the assignments comes by here, too
            agent.want(wish(go=True))
            await asyncio.sleep(0.02)
        assert told == [signal.SIGHUP]
        assert vars(builds.load(tmp_path)) == vars(record)

    played(tmp_path, drive)


def test_a_wish_for_what_runs_already_needs_no_restart(tmp_path: Path, told: list[int]) -> None:
    settled(tmp_path)

    async def drive(agent: AgentBuilds, said: list[str]) -> None:
        agent.want(wish(f"sha256:{OWN}", 4))
        await until(lambda: said == ["SETTLED"])
        assert agent.status().attempt == builds.load(tmp_path).attempt == 4
        assert not told

    played(tmp_path, drive)


def test_an_agent_that_died_before_it_could_tell_is_followed_by_one_that_does(
    tmp_path: Path, told: list[int]
) -> None:
    settled(tmp_path)
    record = builds.load(tmp_path)
    record.began("", 2, 60.0)
    builds.save(tmp_path, record)

    async def drive(agent: AgentBuilds, said: list[str]) -> None:
        await until(lambda: bool(told))
        assert state_of(agent) == "TRYING"

    played(tmp_path, drive)


def test_a_build_on_trial_says_that_it_is_healthy_only_when_it_is(tmp_path: Path, told: list[int]) -> None:
    settled(tmp_path)
    record = builds.load(tmp_path)
    record.began(OWN, 2, 60.0)
    builds.save(tmp_path, record)

    async def unhealthy(agent: AgentBuilds, said: list[str]) -> None:
        await asyncio.sleep(4)
        assert not builds.ready_file(tmp_path).exists()

    async def healthy(agent: AgentBuilds, said: list[str]) -> None:
        await until(builds.ready_file(tmp_path).exists)
        assert builds.ready_file(tmp_path).read_text() == builds.ready_text(OWN, record)
        record.proved()
        record.proved()
        builds.save(tmp_path, record)  # what the supervisor does
        await until(lambda: said == ["SETTLED"])

    played(tmp_path, unhealthy)
    played(tmp_path, healthy, ready=True)
    assert not told
