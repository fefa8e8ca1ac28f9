"""kill -9 of the agent at any moment: its successor adopts what runs and leaves nothing else behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.runtime import Exit, Found, Runtime, system

from tests.integration.test_runtime_containers import Box, destroy, lines, make_layer, opened
from tests.integration.test_runtime_containers import pytestmark as pytestmark

AGENT = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from tests.integration.test_runtime_containers import Box

    box = Box(Path(sys.argv[2]), sys.argv[4], sys.argv[3])

    async def main():
        runtime = box.make()
        await runtime.open()
        await story(runtime)

    async def start(runtime, name, *command, **more):
        await runtime.create(box.request(name, *command, **more))
        return await runtime.start(name)

    async def story(runtime):
    {story}

    asyncio.run(main())
    """
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, "auto")


def agent(box: Box, story: str) -> subprocess.Popen[str]:
    """Another process with a runtime of this box; the story prints a line when the test may go on."""
    program = AGENT.replace("{story}", textwrap.indent(textwrap.dedent(story).strip(), "    "))
    arguments = [sys.executable, "-c", program, str(ROOT), str(box.base), box.owner, box.runtime]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_running_is_adopted_ended_is_reported_created_is_removed(box: Box) -> None:
    process = agent(
        box,
        """
        loop = 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done'
        await start(runtime, "runs", "sh", "-c", loop, labels={"task": "one"})
        await start(runtime, "ends", "sh", "-c", "sleep 0.5; echo bye; exit 9")
        await start(runtime, "ended", "sh", "-c", "exit 4")
        await runtime.wait("ended")
        await runtime.create(box.request("created", "true"))
        print("ready", flush=True)
        await asyncio.sleep(1000)
        """,
    )
    assert said(process) == "ready"
    kill(process)

    async def successor() -> None:
        runtime = box.make()
        try:
            found = {one.id: one for one in await runtime.open()}
            assert set(found) == {"runs", "ends", "ended"}
            assert (found["runs"].state, found["runs"].labels) == ("running", {"task": "one"})
            assert found["ended"].exit is not None
            assert found["ended"].exit.code == 4
            assert (await runtime.wait("ends")).code == 9
            assert await lines(runtime, "ends") == [b"bye"]
            numbers = runtime.logs("runs", follow=True)
            seen = [line.line async for line in _first(numbers, 30)]
            assert seen == [str(n).encode() for n in range(1, 31)]
            assert (await runtime.exec("runs", ["echo", "hi"], timeout_s=20)).output == b"hi\n"
            assert (await runtime.stop("runs", "SIGKILL", 1000)).code == 137
            await runtime.create(box.request("created", "true"))
            await runtime.start("created")
            assert (await runtime.wait("created")).code == 0
        finally:
            await runtime.destroy()

    asyncio.run(successor())


async def _first(source, count):  # type: ignore[no-untyped-def]
    async for item in source:
        yield item
        count -= 1
        if count == 0:
            break
    await source.aclose()


def test_kill_at_any_moment_leaves_nothing(box: Box) -> None:
    """Rounds of an agent killed while it creates, starts, executes, stops and removes six at once."""
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    print(f"SEED={seed}")
    delays = random.Random(seed)
    story = """
        async def churn(number):
            while True:
                name = f"c{number}"
                await runtime.remove(name)
                await start(runtime, name, "sleep", "1000")
                if number == 0:
                    print("started", flush=True)
                await runtime.exec(name, ["true"], timeout_s=20)
                await runtime.stop(name, "SIGKILL", 1000)
        print("ready", flush=True)
        await asyncio.gather(*(churn(number) for number in range(6)))
        """

    async def look() -> list[Found]:
        runtime = box.make()
        try:
            found = await runtime.open()
            for one in found:
                if one.state == "running":
                    result = await runtime.exec(one.id, ["echo", "alive"], timeout_s=20)
                    assert result.output == b"alive\n", one
            assert box.leaks(keep=frozenset(one.id for one in found)) == []
            return found
        finally:
            await runtime.close()

    met: set[str] = set()
    for number in range(12):
        process = agent(box, story)
        assert said(process) == "ready"
        if number % 3 == 2:  # a busy machine might else never be met with one running
            assert said(process) == "started"
        asyncio.run(asyncio.sleep(delays.uniform(0, 0.4)))
        kill(process)
        met |= {one.state for one in asyncio.run(look())}
    assert "running" in met
    asyncio.run(destroy(box))


def test_lost_monitor_means_unknown_code(box: Box) -> None:
    """While we watch, and while nobody watches."""

    async def story() -> None:
        runtime = box.make()
        try:
            await runtime.open()
            for name in ("watched", "orphan"):
                await runtime.create(box.request(name, "sleep", "1000"))
                await runtime.start(name)
            monitors = {
                n: int((box.base / "run/containers" / n / "conmon.pid").read_text())
                for n in ("watched", "orphan")
            }
            os.kill(monitors["watched"], signal.SIGKILL)
            assert (await runtime.stop("watched", "SIGKILL", 5000)).code is None
            await runtime.close()
            os.kill(monitors["orphan"], signal.SIGKILL)
            while system.start_time(monitors["orphan"]) is not None:
                await asyncio.sleep(0.01)
            runtime = box.make()
            found = {one.id: one for one in await runtime.open()}
            assert found["orphan"].state == "exited"
            assert found["orphan"].exit == Exit(None, False, found["orphan"].exit.finished_ms)  # type: ignore[union-attr]
        finally:
            await runtime.destroy()

    asyncio.run(story())


def test_after_a_reboot_nothing_is_believed(box: Box) -> None:
    async def story() -> None:
        runtime = box.make()
        await runtime.open()
        await runtime.create(box.request("a", "true"))
        await runtime.start("a")
        await runtime.wait("a")
        await runtime.close()
        (box.base / "run/boot_id").write_text("another boot")
        runtime = box.make()
        assert await runtime.open() == []
        assert box.leaks(keep=frozenset()) == []
        await runtime.destroy()

    asyncio.run(story())


def test_neighbours_on_one_machine_are_left_alone(box: Box, tmp_path: Path) -> None:
    make_layer(tmp_path / "other" / "layer")
    other = Box(tmp_path / "other")

    async def one(runtime: Runtime, of: Box) -> None:
        await runtime.open()
        await runtime.create(of.request("same", "sleep", "1000"))
        await runtime.start("same")

    async def story() -> None:
        first, second = box.make(), other.make()
        try:
            await one(first, box)
            await one(second, other)
            await first.destroy()
            assert (await second.exec("same", ["echo", "here"], timeout_s=20)).output == b"here\n"
        finally:
            await second.destroy()
            await first.close()

    asyncio.run(story())
    assert other.leaks() == []
