"""Reaching into real containers: exec with and without a terminal, attach, files, connections, numbers."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from swarmpy.node.runtime import Runtime, RuntimeFailure
from swarmpy.node.runtime.interactive import STDERR, STDOUT, Attachment, Execution, NoProgram, Program

from tests.integration.test_runtime_containers import Box, auto_box, box, pytestmark, run

__all__ = ["auto_box", "box", "pytestmark"]


async def started(runtime: Runtime, box: Box, *command: str, **more: object) -> str:
    await runtime.create(box.request("c1", *(command or ("sleep", "600")), **more))
    await runtime.start("c1")
    return "c1"


async def executed(
    runtime: Runtime, program: Program, given: bytes | None = None
) -> tuple[int, bytes, bytes]:
    execution = Execution(runtime.inside("c1"), program)
    out = {STDOUT: b"", STDERR: b""}
    try:
        await execution.start()
        feeding = asyncio.create_task(feed(execution, given))
        async for stream, data in execution.output():
            out[stream] += data
        await feeding
        return await execution.wait(), out[STDOUT], out[STDERR]
    finally:
        await execution.close()


async def feed(execution: Execution, given: bytes | None) -> None:
    if given is not None:
        await execution.write(given)
        await execution.end_input()


def test_exec_streams_and_codes(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, box)
        script = "echo out; echo err >&2; exit 7"
        assert await executed(runtime, Program(["sh", "-c", script])) == (7, b"out\n", b"err\n")
        assert await executed(runtime, Program(["sh", "-c", "kill -9 $$"])) == (137, b"", b"")
        big = os.urandom(3_000_000)
        assert await executed(runtime, Program(["cat"], stdin=True), big) == (0, big, b"")
        code, out, _ = await executed(
            runtime, Program(["sh", "-c", "id -u; pwd; echo $A"], user="web", workdir="/tmp", env=["A=b"])
        )
        assert (code, out) == (0, b"1000\n/tmp\nb\n")
        if box.runtime == "crun":  # a program left behind that holds the pipes does not hold up the end
            assert (await executed(runtime, Program(["sh", "-c", "sleep 500 & echo x"])))[:2] == (0, b"x\n")

    run(box, story)


def test_exec_of_what_is_not_there(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, auto_box)
        with pytest.raises(NoProgram, match="'nope' not found") as missing:
            await executed(runtime, Program(["nope"]))
        assert missing.value.code == 127
        with pytest.raises(NoProgram) as unfit:
            await executed(runtime, Program(["/etc/passwd"]))
        assert unfit.value.code == 126
        await runtime.stop("c1", "SIGKILL", 0)
        with pytest.raises(RuntimeFailure, match="exited, not running"):
            runtime.inside("c1")

    run(auto_box, story)


def test_exec_with_a_terminal(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, box)
        program = Program(["sh"], tty=True, stdin=True, rows=33, columns=77)
        execution = Execution(runtime.inside("c1"), program)
        said = b""
        try:
            await execution.start()
            output = execution.output()
            await execution.write(b"test -t 0 && test -t 1 && echo yes=$TERM; stty size\n")
            while b"33 77" not in said:
                said += (await anext(output))[1]
            assert b"yes=xterm" in said
            execution.resize(44, 88)
            said = b""
            while b"44 88" not in said:
                await execution.write(b"stty size\n")
                said += (await anext(output))[1]
            await execution.write(b"exit 5\n")
            async for _, data in output:
                said += data
            assert await execution.wait() == 5
        finally:
            await execution.close()

    run(box, story)


def test_exec_ends_with_its_caller(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, box)
        group = runtime.inside("c1").group
        before = group.members()
        execution = Execution(runtime.inside("c1"), Program(["sh", "-c", "trap '' HUP; sleep 500"]))
        await execution.start()
        while not group.members() - before:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await execution.close()
        assert group.members() == before
        assert not list((box.base / "run/containers/c1").glob("exec-*"))

    run(box, story)


def test_attach(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        script = "while read line; do echo got $line; [ $line = end ] && exit 9; done"
        await started(runtime, box, "sh", "-c", script, open_stdin=True)
        async with attached(runtime) as one, attached(runtime) as two:
            await one.write(b"hello\n")
            for attachment in (one, two):
                assert await anext(attachment.output()) == (STDOUT, b"got hello\n")
            await two.write(b"end\n")
            assert [data async for _, data in one.output()] == [b"got end\n"]
        assert (await runtime.wait("c1")).code == 9

    run(box, story)


@contextlib.asynccontextmanager
async def attached(runtime: Runtime):  # type: ignore[no-untyped-def]
    attachment = Attachment(runtime.inside("c1"))
    try:
        await attachment.start()
        yield attachment
    finally:
        await attachment.close()


def test_attach_to_a_terminal(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, box, "sh", tty=True, open_stdin=True)
        async with attached(runtime) as attachment:
            attachment.resize(21, 43)
            output, said = attachment.output(), b""
            while b"21 43" not in said:
                await attachment.write(b"stty size\n")
                said += (await anext(output))[1]

    run(box, story)


def test_a_slow_attachment_does_not_hold_up_the_program(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, auto_box, "sh", "-c", "read x; seq 1 1500000", open_stdin=True)
        async with attached(runtime) as attachment:
            await attachment.write(b"go\n")
            assert (await runtime.wait("c1")).code == 0
            with pytest.raises(RuntimeFailure, match="faster than it was fetched"):
                _ = [data async for data in attachment.output()]

    run(auto_box, story)
