"""Reaching into real containers: exec with and without a terminal, attach, files, connections, numbers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from swarmpy.node.runtime import (
    ContainerError,
    Runtime,
    RuntimeFailure,
    StartRejected,
    copying,
    forward,
    meters,
    processes,
)
from swarmpy.node.runtime.interactive import STDERR, STDOUT, Attachment, Execution, NoProgram, Program
from swarmpy.proto import types_pb2

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
        while len(before := group.members()) < 2:  # the init, and the program
            await asyncio.sleep(0.01)
        execution = Execution(runtime.inside("c1"), Program(["sh", "-c", "trap '' HUP; sleep 500"]))
        await execution.start()
        while not group.members() - before:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await execution.close()
        while group.members() != before:  # the killed need a moment to be gone
            await asyncio.sleep(0.01)
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


# -- files -----------------------------------------------------------------------------------------


def sent(runtime: Runtime, path: str, **how: bool) -> dict[str, tarfile.TarInfo]:
    buffer = io.BytesIO()
    copying.send(runtime.inside("c1"), path, buffer, **how)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        return {member.name: member for member in tar}


def received(runtime: Runtime, path: str, *members: tuple[str, bytes | str | None], **how: bool) -> None:
    """Members: bytes = a file, text = a link to it, None = a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            info.uid = info.gid = 1000
            info.mode = 0o755 if what is None else 0o640
            info.type = tarfile.DIRTYPE if what is None else tarfile.REGTYPE
            if isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
            data = what if isinstance(what, bytes) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    copying.receive(runtime.inside("c1"), path, buffer, **how)


def test_files_out(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, auto_box)
        script = "mkdir -p /d/s; echo hi > /d/s/f; ln -s f /d/s/l; ln -s /etc /d/e; ln /d/s/f /d/h"
        assert (await executed(runtime, Program(["sh", "-c", script])))[0] == 0
        found = sent(runtime, "/d")
        assert sorted(found) == ["d", "d/e", "d/h", "d/s", "d/s/f", "d/s/l"]
        assert found["d/e"].linkname == "/etc"
        assert found["d/s/f"].islnk()
        assert sorted(sent(runtime, "/d/s/.")) == [".", "./f", "./l"]
        assert sent(runtime, "/d/s/l")["l"].issym()
        assert sent(runtime, "/d/s/l", follow_link=True)["l"].isreg()
        assert "proc/1" not in sent(runtime, "/")
        with pytest.raises(copying.NoSuchPath, match="/gone in the container"):
            sent(runtime, "/gone")

    run(auto_box, story)


def test_files_in(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await started(runtime, auto_box)
        received(runtime, "/tmp", ("d", None), ("d/f", b"one"), ("d/l", "f"))
        received(runtime, "/tmp/other", ("f", b"two"), keep_owner=True)
        received(runtime, "/tmp/d", (".", None), ("./g", b"three"))
        script = "cat /tmp/d/l /tmp/other /tmp/d/g; stat -c ' %u %a' /tmp/d/f /tmp/other"
        assert await executed(runtime, Program(["sh", "-c", script])) == (
            0,
            b"onetwothree 0 640\n 1000 640\n",
            b"",
        )
        with pytest.raises(copying.NoSuchPath, match="no directory"):
            received(runtime, "/tmp/other", ("d", None))
        with pytest.raises(copying.NoSuchPath):
            received(runtime, "/none/f", ("f", b""))

    run(auto_box, story)


def test_links_of_a_container_lead_nowhere_outside(auto_box: Box, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")

    async def story(runtime: Runtime) -> None:
        await started(runtime, auto_box)
        script = f"ln -s {outside} /esc; ln -s {outside}/secret /sec; ln -s /proc/1/root /magic; mkdir -p {outside}"
        await executed(runtime, Program(["sh", "-c", script]))
        received(runtime, "/esc", ("mine", b"x"))
        received(runtime, "/sec", ("f", b"x"))
        assert (await executed(runtime, Program(["cat", f"{outside}/mine"])))[1] == b"x"
        for path in ("/sec/.", "/magic/etc/."):
            with pytest.raises(ContainerError):
                sent(runtime, path)
        with pytest.raises(StartRejected, match="outside"):
            received(runtime, "/tmp", ("../x", b"x"))

    run(auto_box, story)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"secret": "secret"}


# -- connections and numbers -----------------------------------------------------------------------


def test_connections_to_loopback_inside(auto_box: Box) -> None:
    namespace = f"rtinside-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)

    async def story(runtime: Runtime) -> None:
        serve = ["sh", "-c", "while true; do nc -l -p 4321 -e cat; done"]
        await started(runtime, auto_box, *serve, netns=Path("/run/netns") / namespace)
        own = os.stat("/proc/self/ns/net").st_ino
        while True:
            with contextlib.suppress(RuntimeFailure):
                reader, writer = await forward.connect(runtime.inside("c1"), 4321)
                break
            await asyncio.sleep(0.05)
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.close()
        await writer.wait_closed()
        with pytest.raises(RuntimeFailure, match="port 1 "):
            await forward.connect(runtime.inside("c1"), 1)
        assert os.stat("/proc/self/ns/net").st_ino == own

    try:
        run(auto_box, story)
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def test_what_a_container_uses(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        limits = types_pb2.ResourceRequirements()
        limits.limits.memory_bytes = 64 << 20
        limits.limits.nano_cpus = 500_000_000
        await started(runtime, auto_box, "sh", "-c", "while true; do :; done", resources=limits)
        kept = meters.Meters()
        try:
            first = kept.sample(runtime.inside("c1"))
            # Started is the init; the program is its child a moment later.
            while (later := kept.sample(runtime.inside("c1"))).cpu_ns <= first.cpu_ns or later.pids < 2:
                await asyncio.sleep(0.05)
            assert first.memory_limit_bytes == 64 << 20
            assert first.cpu_limit_nano == 500_000_000
            assert later.pids == 2  # the init, and the program
            assert 0 < first.memory_bytes < 64 << 20
            inside = runtime.inside("c1")
            init, found = processes.processes(inside)
            assert (init.inner_pid, found.parent_pid, found.user) == (1, init.pid, "root")
            assert found.command == "sh -c while true; do :; done"
            before = len(os.listdir("/proc/self/fd"))
            assert meters.Meters(kept_max=0).sample(inside).memory_limit_bytes == 64 << 20
            assert len(os.listdir("/proc/self/fd")) == before
            await runtime.stop("c1", "SIGKILL", 0)
            with pytest.raises(RuntimeFailure):
                kept.sample(inside)
        finally:
            kept.close()
        assert meters.machine().memory_total_bytes > 1 << 20

    run(auto_box, story)
