"""A hostile container (threat T2): root inside, default settings, everything it can think of; it stays inside."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.runtime import ContainerError, Runtime, userns
from swarmpy.node.runtime.bundle import CAPABILITIES
from swarmpy.node.runtime.spec import DEFAULT_CAPABILITIES
from swarmpy.proto import types_pb2

from tests.integration.test_runtime_containers import RUNTIMES, Box, lines, opened, output, run
from tests.integration.test_runtime_containers import pytestmark as containers_can_run

PYTHON = Path("/usr/bin/python3")
pytestmark = [
    *containers_can_run,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs /usr/bin/python3: apt-get install python3-minimal"),
]
MEBIBYTE = 1 << 20
REFUSED = {"EPERM", "ENOSYS"}
OUT_OF_REACH = {"EPERM", "EACCES", "EROFS", "ENOENT", "EINVAL", "EIO", "ENOSYS", "ESRCH"}
DEVICES = {
    "console",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "tty",
    "urandom",
    "zero",
    "init",
}


@pytest.fixture(params=RUNTIMES or ["crun"])
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-test-") as name:
        base = Path(name)
        base.chmod(0o711)
        try:
            yield from opened(base, request.param)
        finally:
            userns.release_pin(base / "net")


def with_python(box: Box) -> list[types_pb2.Mount]:
    """The node's Python in the container: /usr read-only, and the program."""
    for name in ("lib", "lib64"):
        if not (box.layer / name).is_symlink() and Path("/" + name).is_symlink():
            (box.layer / name).symlink_to("usr/" + name)
    program = box.base / "escapes.py"
    shutil.copy(Path(__file__).with_name("escapes.py"), program)
    program.chmod(0o644)
    return [
        types_pb2.Mount(source="/usr", target="/usr", read_only=True),
        types_pb2.Mount(source=str(program), target="/escapes.py", read_only=True),
    ]


async def attempts(runtime: Runtime, box: Box, *, own_ids: bool, **more: Any) -> dict[str, Any]:
    canary = box.base / "canary"
    canary.write_text("secret of the node")
    canary.chmod(0o644)
    command = (str(PYTHON), "-I", "/escapes.py", str(canary), str(os.getpid()))
    request = box.request("a", *command, mounts=with_python(box), own_network=True, **more)
    if own_ids:
        netns = box.base / "net"
        request = replace(request, ids=await runtime.pin_user("a", {"net": netns}), netns=netns)
    await runtime.create(request)
    await runtime.start("a")
    await runtime.wait("a")
    said = [line.decode() for line in await lines(runtime, "a")]
    await runtime.remove("a")
    found: dict[str, Any] = json.loads(said[-1])
    return found


@pytest.mark.parametrize("own_ids", [False, True], ids=["node-ids", "own-ids"])
def test_a_hostile_root_stays_inside(box: Box, own_ids: bool) -> None:
    async def story(runtime: Runtime) -> None:
        found = await attempts(runtime, box, own_ids=own_ids)
        calls = {
            "mount", "umount2", "pivot_root", "unshare", "fsopen", "open_tree", "move_mount", "mount_setattr",
            "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup",
            "kexec_load", "init_module", "finit_module", "reboot", "swapon", "open_by_handle_at", "settimeofday",
            "sethostname", "acct", "syslog", "clone3", "quotactl",
        }  # fmt: skip
        assert {name: found[name] for name in calls if found[name] not in REFUSED} == {}
        for name, result in found.items():
            if name.startswith(("setns ", "write ", "read ", "mknod ", "kill ", "ptrace ")):
                assert result in OUT_OF_REACH or (name, result) == ("read kcore", 0), (name, result)
        for family in ("AF_INET", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
            assert found[f"socket {family}"] in {"EPERM", "EACCES", "EAFNOSUPPORT"}, family
        assert set(found["devices"]) <= DEVICES
        assert found["fds 1"] == []
        assert [link for link in found["fds self"] if link != "/escapes.py"] == []
        assert found["pids"] < 50

    run(box, story)


def test_its_rights_are_the_default_ones(box: Box) -> None:
    mask = sum(1 << bit for bit, name in enumerate(CAPABILITIES) if f"CAP_{name}" in DEFAULT_CAPABILITIES)

    async def story(runtime: Runtime) -> None:
        found = await attempts(runtime, box, own_ids=False)
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert {int(found[name], 16) for name in ("CapEff", "CapBnd")} == {mask}
        assert {int(found[name], 16) for name in ("CapInh", "CapAmb")} == {0}

    run(box, story)


def test_a_setuid_program_gives_nothing(box: Box) -> None:
    shutil.copy("/usr/bin/id", box.layer / "bin/set-id")
    (box.layer / "bin/set-id").chmod(0o4755)

    async def story(runtime: Runtime) -> None:
        async def effective(name: str, **more: Any) -> list[str]:
            request = box.request(name, "/bin/set-id", "-u", user="web", mounts=with_python(box), **more)
            return await output(runtime, request)

        assert await effective("a") == ["1000"]
        assert await effective("b", allow_new_privileges=True) == ["0"]

    run(box, story)


def test_a_fork_bomb_and_a_memory_hog_are_contained(box: Box) -> None:
    bomb = (
        "import os, time\nn = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(1000)\n  n += 1\n"
        "except OSError as e: print(n, e.errno, flush=True)\ntime.sleep(1000)\n"
    )

    async def story(runtime: Runtime) -> None:
        few = types_pb2.ResourceRequirements(pids_limit=40)
        request = box.request("a", str(PYTHON), "-I", "-c", bomb, resources=few, mounts=with_python(box))
        await runtime.create(request)
        await runtime.start("a")
        async for line in runtime.logs("a", follow=True):
            children, error = map(int, line.line.split())
            break
        assert (30 < children < 40, error) == (True, errno.EAGAIN)
        assert (await runtime.stats("a")).pids == 40
        await runtime.stop("a", "SIGKILL", 0)
        await runtime.remove("a")
        little = types_pb2.ResourceRequirements(limits=types_pb2.Resources(memory_bytes=48 * MEBIBYTE))
        hog = "print(len(bytearray(1 << 30)))"
        request = box.request("b", str(PYTHON), "-I", "-c", hog, resources=little, mounts=with_python(box))
        await runtime.create(request)
        await runtime.start("b")
        ended = await runtime.wait("b")
        assert ended.oom
        assert ended.code == 137

    run(box, story)


def test_a_working_directory_in_a_leaked_descriptor_leads_nowhere(box: Box) -> None:
    """CVE-2024-21626: a descriptor of the node's that is open while the container starts."""
    (box.base / "canary").write_text("secret of the node")

    async def story(runtime: Runtime) -> None:
        for number in range(3, 10):
            name = f"c{number}"
            path = "/".join([*[".."] * 8, str(box.base / "canary").lstrip("/")])
            request = box.request(name, "cat", path, dir=f"/proc/self/fd/{number}")
            try:
                await runtime.create(request)
                await runtime.start(name)
            except ContainerError:
                await runtime.remove(name)
                continue
            await runtime.wait(name)
            assert b"secret" not in b"".join(await lines(runtime, name)), number
            await runtime.remove(name)

    run(box, story)


def test_the_runtimes_program_cannot_be_written_from_inside(box: Box) -> None:
    """CVE-2019-5736: whoever is executed into the container must not be found there as a file to write."""
    program = shutil.which(box.runtime, path="/usr/bin:/usr/sbin:/usr/local/bin:/sbin")
    assert program is not None
    before = hashlib.sha256(Path(program).read_bytes()).hexdigest()
    hunt = (
        "import os\nwhile True:\n for p in os.listdir('/proc'):\n  if p.isdigit() and p != str(os.getpid()):\n"
        "   try:\n    n = os.readlink(f'/proc/{p}/exe')\n    if 'crun' in n or 'runc' in n:\n"
        "     print('SEEN', n, flush=True)\n     fd = os.open(f'/proc/{p}/exe', os.O_WRONLY)\n"
        "     print('OPENED', n, flush=True)\n   except OSError:\n    pass\n"
    )

    async def story(runtime: Runtime) -> None:
        mounts = with_python(box)
        await runtime.create(box.request("a", str(PYTHON), "-I", "-c", hunt, mounts=mounts))
        await runtime.start("a")
        for _ in range(4):
            await runtime.exec("a", ["true"], timeout_s=20)
        said = await lines(runtime, "a")
        assert not [line for line in said if line.startswith(b"OPENED")], said

    run(box, story)
    assert hashlib.sha256(Path(program).read_bytes()).hexdigest() == before
