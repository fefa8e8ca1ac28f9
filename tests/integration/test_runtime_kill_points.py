"""The agent dies at every single step of a container's life: nothing else ends, nothing is left.

The fast test takes every eleventh step from a random first one; the slow one takes them all:
`pytest tests/integration/test_runtime_kill_points.py -m slow` (a few minutes).
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from swarmpy.node.runtime import Runtime, system, userns

from tests.integration.test_runtime_containers import Box, lines, opened
from tests.integration.test_runtime_containers import pytestmark as pytestmark

ADOPTED_WITHIN_S = 2.0
STEPS_MIN = 60  # fewer would mean that the steps are no longer seen
STRIDE = 11


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-test-") as name:
        base = Path(name)
        base.chmod(0o711)
        (base / "shared").mkdir()
        try:
            yield from opened(base, "auto")
        finally:
            userns.release_pin(base / "net-victim")


@dataclass
class Sweep:
    """The program that dies, and what must survive it."""

    box: Box
    bystander: int = 0  # its pid
    slowest_s: float = 0.0
    steps: dict[int, str] = field(default_factory=dict)

    def __enter__(self) -> Sweep:
        base = self.box.base
        arguments = [str(base), self.box.owner, self.box.runtime, str(base / "shared")]
        self.program = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_points.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.program.stdin is not None
        self.program.stdin.write(" ".join(arguments) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.close()
        self.program.wait(60)
        self.program.stdout.close()

    def die_at(self, number: int) -> str:
        """Where the agent died, as "phase: step"; "end: N" where it has only N steps."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(f"{number}\n")
        self.program.stdin.flush()
        said = self.program.stdout.readline().strip()
        assert said, f"step {number}: the program failed"
        assert self.program.stdout.readline() == "\n"
        self.steps[number] = said
        return said

    async def begin(self) -> None:
        runtime = self.box.make()
        await runtime.open()
        loop = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"
        await runtime.create(self.box.request("bystander", "sh", "-c", loop))
        self.bystander = await runtime.start("bystander")
        await runtime.close()

    async def look(self, step: str) -> None:
        """The next agent: adopts in time, nothing but what it knows is there, and it can do the work."""
        runtime, box = self.box.make(), self.box
        try:
            began = time.monotonic()
            found = {one.id: one.state for one in await runtime.open()}
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            assert found.pop("bystander") == "running", step
            assert system.start_time(self.bystander) is not None, step
            leaks = box.leaks(keep=frozenset({"bystander", *found}))
            assert leaks == [], step
            holders = [os.readlink(link) for link in (box.base / "ids").iterdir()]
            assert holders == [f"{box.owner}/{name}" for name in found], step
            if step.startswith(("exec", "resize", "stop")):
                assert "victim" in found, step  # what runs is never lost
            if found.get("victim") == "running":
                assert (await runtime.exec("victim", ["echo", "hi"], timeout_s=20)).output == b"hi\n", step
            if found:
                await runtime.stop("victim", "SIGKILL", 1000)
            await runtime.remove("victim")
            userns.release_pin(box.base / "net-victim")
            assert box.leaks(keep=frozenset({"bystander"})) == [], step
            assert list((box.base / "ids").iterdir()) == [], step
        finally:
            await runtime.close()

    async def end(self) -> None:
        """The log of the one that was never touched has no gap."""
        runtime: Runtime = self.box.make()
        try:
            await runtime.open()
            await runtime.stop("bystander", "SIGKILL", 1000)
            numbers = [int(line) for line in await lines(runtime, "bystander")]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) > 50
        finally:
            await runtime.destroy()


def sweep(box: Box, first: int, stride: int) -> Sweep:
    with Sweep(box) as made:
        asyncio.run(made.begin())
        number, step = first, ""
        while not step.startswith("end"):
            step = made.die_at(number)
            asyncio.run(made.look(step))
            number += stride
        asyncio.run(made.end())
    total = int(step.split()[1])
    print(f"{total} steps, slowest adoption {made.slowest_s:.2f} s")
    assert total >= STEPS_MIN
    return made


def test_killed_at_some_steps(box: Box) -> None:
    first = int(os.environ.get("SEED", "0")) % STRIDE or random.randrange(1, STRIDE + 1)
    print(f"SEED={first}")
    made = sweep(box, first, STRIDE)
    assert {step.partition(":")[0] for step in made.steps.values()} >= {"create", "remove", "end"}


@pytest.mark.slow
def test_killed_at_every_step(box: Box) -> None:
    made = sweep(box, 1, 1)
    phases = {step.partition(":")[0] for step in made.steps.values()}
    assert phases == {"create", "start", "exec", "resize", "stop", "remove", "end"}
    assert made.slowest_s <= ADOPTED_WITHIN_S
