"""Real containers, by each OCI runtime of the machine: what a user sees, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.runtime import (
    ContainerRequest,
    MissingTool,
    NoSpace,
    Runtime,
    RuntimeFailure,
    StartRejected,
    UnknownContainer,
    cgroups,
    logs,
    system,
)
from swarmpy.node.runtime import runtime as runtime_module
from swarmpy.proto import types_pb2

BUSYBOX = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
RUNTIMES = [
    name for name in ("crun", "runc") if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
]
OUTSIDE = ("layers", "netns", "hosts", "labels", "resolv_conf", "own_network", "ids", "volumes", "files")
APPLETS = (
    "sh",
    "sleep",
    "cat",
    "echo",
    "id",
    "ls",
    "head",
    "dd",
    "true",
    "test",
    "touch",
    "mount",
    "ip",
    "seq",
    "stat",
    "tr",
    "stty",
    "ln",
    "mkdir",
    "nc",
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces, mounts and cgroups"),
    pytest.mark.skipif(
        BUSYBOX is None or not RUNTIMES or not shutil.which("conmon"),
        reason="needs busybox-static, conmon and crun or runc: apt-get install busybox-static conmon crun",
    ),
]


def make_layer(directory: Path) -> Path:
    assert BUSYBOX is not None
    for name in ("bin", "etc", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nweb:x:1000:\nextra:x:2000:web\n")
    return directory


@dataclass
class Box:
    """One node's directories and the short way to ask for a container."""

    base: Path
    runtime: str = "auto"
    owner: str = field(default_factory=lambda: "test" + uuid.uuid4().hex[:8])

    @property
    def layer(self) -> Path:
        return self.base / "layer"

    def make(self) -> Runtime:
        return Runtime(
            state_dir=self.base / "state",
            run_dir=self.base / "run",
            log_dir=self.base / "logs",
            owner=self.owner,
            runtime=self.runtime,
        )

    def request(self, name: str, *command: str, **more: Any) -> ContainerRequest:
        limits = more.pop("resources", types_pb2.ResourceRequirements())
        outside = {key: more.pop(key) for key in OUTSIDE if key in more}
        image = more.pop("image_config", {})
        spec = types_pb2.ContainerSpec(command=list(command), **more)
        return ContainerRequest(
            id=name, spec=spec, resources=limits, image_config=image, hostname="box",
            **{"layers": (self.layer,), "netns": None, **outside},
        )  # fmt: skip

    def leaks(self, keep: frozenset[str] | None = None) -> list[str]:
        """What the kernel and the disk hold of containers not in `keep`; None = after a destroy."""
        kept, containers = keep or frozenset(), self.base / "run/containers"
        points = [point.relative_to(containers).parts[0] for point in system.mounts_below(containers)]
        found = [f"mount {name}" for name in points if name not in kept]
        for tree in cgroups.detect().trees:
            tops = list(tree.glob(f"swarmpy-{self.owner}"))
            found += [f"cgroup {top}" for top in tops if keep is None]
            found += [
                f"cgroup {path}"
                for top in tops
                for path in top.iterdir()
                if path.is_dir() and path.name not in kept
            ]
        for pid in system.pids():
            arguments = system.command_line(pid)
            if (
                any(str(self.base) in one for one in arguments)
                and pid != os.getpid()
                and not kept & set(arguments)
            ):
                found.append(f"process {pid} {arguments}")
        for top in ("run/containers", "run/exits", "run/oci", "state/containers"):
            if (self.base / top).is_dir():
                found += [f"file {path}" for path in (self.base / top).iterdir() if path.name not in kept]
        return found


def opened(base: Path, runtime: str) -> Iterator[Box]:
    """A box that is emptied whatever its test did, and checked when the test did well."""
    make_layer(base / "layer")
    box = Box(base, runtime)
    try:
        yield box
        assert box.leaks() == []
    finally:
        box.runtime = "auto"
        asyncio.run(destroy(box))


async def destroy(box: Box) -> None:
    runtime = box.make()
    await runtime.open()
    await runtime.destroy()


@pytest.fixture(params=RUNTIMES or ["crun"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, request.param)


@pytest.fixture
def auto_box(tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, "auto")


def run(box: Box, story: Callable[[Runtime], Awaitable[None]]) -> None:
    """Open, run the story, destroy; and no file descriptor may be left."""

    async def whole() -> None:
        runtime = box.make()
        try:
            await runtime.open()
            await asyncio.wait_for(story(runtime), 60)
        finally:
            await runtime.destroy()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(whole())
    assert len(os.listdir("/proc/self/fd")) == before


async def lines(runtime: Runtime, name: str, **options: Any) -> list[bytes]:
    return [line.line async for line in runtime.logs(name, **options)]


async def output(runtime: Runtime, request: ContainerRequest) -> list[str]:
    await runtime.create(request)
    await runtime.start(request.id)
    await runtime.wait(request.id)
    text = [line.decode() for line in await lines(runtime, request.id)]
    await runtime.remove(request.id)
    return text


def test_runs_to_its_exit_code_and_logs_both_streams(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await runtime.create(box.request("a", "sh", "-c", "echo out; echo err >&2; exit 7"))
        assert await runtime.start("a") > 0
        ended = await runtime.wait("a")
        assert (ended.code, ended.oom) == (7, False)
        got = [(line.stderr, line.line) async for line in runtime.logs("a")]
        assert sorted(got) == [(False, b"out"), (True, b"err")]
        await runtime.remove("a")
        await runtime.remove("a")
        assert await lines(runtime, "a", tail=-1, follow=True)
        runtime.remove_logs("a")
        with pytest.raises(UnknownContainer):
            await lines(runtime, "a")

    run(box, story)


def test_is_confined_by_default(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        text = await output(runtime, box.request("a", "cat", "/proc/self/status", no_init=True))
        status = dict(line.split(":\t", 1) for line in text if ":\t" in line)
        assert status["CapEff"] == status["CapBnd"] == "00000000800405fb"
        assert (status["NoNewPrivs"], status["Seccomp"], status["Pid"]) == ("1", "2", "1")
        refused = await output(
            runtime,
            box.request(
                "b",
                "sh",
                "-c",
                "mount -t tmpfs x /tmp; echo 1 >/proc/sys/kernel/panic; touch /sys/x; ls /proc/acpi",
            ),
        )
        assert len(refused) == 3, refused

    run(box, story)


def test_privileged_is_not_confined(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        request = auto_box.request(
            "a", "sh", "-c", "mount -t tmpfs x /tmp && echo done; ls /dev/null", privileged=True
        )
        assert await output(runtime, request) == ["done", "/dev/null"]

    run(auto_box, story)


def test_user_environment_directory_and_files(box: Box) -> None:
    script = (
        "id -u; id -g; id -G; echo $FROM $BOTH $HOME; cat /etc/hostname; cat /etc/hosts;"
        " cat /etc/resolv.conf; ls -di $PWD; echo x >/dev/stdout"
    )

    async def story(runtime: Runtime) -> None:
        request = box.request(
            "a", "sh", "-c", script,
            user="web", env=["BOTH=spec"], hosts=(("10.1.1.1", "db"),), resolv_conf="nameserver 10.9.9.9\n",
            image_config={"Env": ["FROM=image", "BOTH=image"], "WorkingDir": "/srv/here", "User": "root"},
        )  # fmt: skip
        text = await output(runtime, request)
        assert text[:3] == ["1000", "1000", "1000 2000"]
        assert text[3:5] == ["image spec /home/web", "box"]
        assert "10.1.1.1\tdb" in text
        assert "nameserver 10.9.9.9" in text
        assert text[-2].endswith("/srv/here")
        assert text[-1] == "x"

    run(box, story)


def test_image_program_is_used_and_overridden(auto_box: Box) -> None:
    image = {"Entrypoint": ["echo", "image"], "Cmd": ["default"]}

    async def story(runtime: Runtime) -> None:
        assert await output(runtime, auto_box.request("a", image_config=image)) == ["image default"]
        assert await output(runtime, auto_box.request("b", image_config=image, args=["mine"])) == [
            "image mine"
        ]
        assert await output(runtime, auto_box.request("c", "echo", "other", image_config=image)) == ["other"]

    run(auto_box, story)


def test_mounts_volumes_tmpfs_and_read_only_root(auto_box: Box) -> None:
    shared = auto_box.base / "shared"
    mounts = [
        types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, source="data", target="/data"),
        types_pb2.Mount(
            type=types_pb2.MOUNT_BIND,
            source=str(shared),
            target="/shared",
            create_source=True,
            read_only=True,
        ),
        types_pb2.Mount(type=types_pb2.MOUNT_TMPFS, target="/cache", tmpfs_size_bytes=1 << 20),
    ]

    async def story(runtime: Runtime) -> None:
        shared.mkdir()
        (shared / "note").write_text("hello\n")
        data = auto_box.base / "volume"
        data.mkdir()
        volumes = {"data": data}
        write = (
            "echo kept >/data/f; cat /shared/note; touch /shared/x; touch /x;"
            " dd if=/dev/zero of=/cache/f bs=1M count=2 2>/dev/null; stat -c %s /cache/f"
        )
        text = await output(
            runtime, auto_box.request("a", "sh", "-c", write, mounts=mounts, volumes=volumes, read_only=True)
        )
        assert "hello" in text
        assert sum("Read-only file system" in line for line in text) == 2
        assert str(1 << 20) in text
        again = auto_box.request("b", "cat", "/data/f", mounts=mounts[:1], volumes=volumes)
        assert await output(runtime, again) == ["kept"]

    run(auto_box, story)


def test_empty_volume_begins_as_the_image_has_it(auto_box: Box) -> None:
    data = auto_box.layer / "var/data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_text("from the image\n")
    (data / "link").symlink_to("/etc/shadow")
    os.chown(data, 1000, 1000)
    data.chmod(0o700)
    mounts = [types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, source="vol", target="/var/data")]
    bare = [types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, target="/var/data")]
    volume, other = auto_box.base / "vol/data", auto_box.base / "other"

    async def story(runtime: Runtime) -> None:
        volume.mkdir(parents=True)
        other.mkdir()
        script = "cat /var/data/sub/file && echo mine >/var/data/sub2 && stat -c '%u %a' /var/data"
        given = {"mounts": mounts, "volumes": {"vol": volume}}
        text = await output(runtime, auto_box.request("a", "sh", "-c", script, user="web", **given))
        assert text == ["from the image", "1000 700"]
        assert (volume / "link").readlink() == Path("/etc/shadow")
        assert [path.name for path in volume.parent.iterdir()] == ["data"], "nothing is left of the copying"
        assert await output(runtime, auto_box.request("b", "cat", "/var/data/sub2", **given)) == ["mine"]
        mounts[0].volume_nocopy = True
        empty = {"mounts": mounts, "volumes": {"vol": other}}
        assert await output(runtime, auto_box.request("c", "ls", "/var/data", **empty)) == []
        text = await output(runtime, auto_box.request("d", "sh", "-c", script, mounts=bare, user="web"))
        assert text == ["from the image", "1000 700"], "a volume without a name, too"
        await runtime.remove("d")
        assert not (auto_box.base / "state/containers/d").exists(), "and it goes with its container"

    run(auto_box, story)


def test_full_disk_is_told_apart(auto_box: Box) -> None:
    state = auto_box.base / "state"

    async def story(runtime: Runtime) -> None:
        system.mount("tmpfs", state, "tmpfs", 0, "size=64k,nr_inodes=8")
        try:
            (state / "containers").mkdir()
            (state / "volumes").mkdir()
            with pytest.raises(NoSpace, match="free some disk space"):
                await runtime.create(auto_box.request("a", "true"))
        finally:
            system.umount(state)

    run(auto_box, story)


def test_terminal_and_limits_without_bound(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        request = box.request(
            "a", "sh", "-c", "test -t 1 && echo terminal $TERM; ulimit -c",
            tty=True, open_stdin=True, ulimits=[types_pb2.Ulimit(name="core", soft=-1, hard=-1)],
        )  # fmt: skip
        text = [line.strip() for line in await output(runtime, request)]
        assert text == ["terminal xterm", "unlimited"]

    run(box, story)


def test_seccomp_refuses_new_namespaces_unless_granted(box: Box) -> None:
    (box.layer / "bin/unshare").symlink_to("busybox")

    async def story(runtime: Runtime) -> None:
        script = (
            "(echo forked); for kind in -m -U -n; do unshare $kind true 2>/dev/null && echo escaped; done"
        )
        assert await output(runtime, box.request("a", "sh", "-c", script)) == ["forked"]
        granted = box.request("b", "sh", "-c", "unshare -m true && echo done", cap_add=["SYS_ADMIN"])
        assert await output(runtime, granted) == ["done"]

    run(box, story)


def test_many_layers_stack(auto_box: Box) -> None:
    layers = [auto_box.layer]
    for number in range(60):
        directory = auto_box.base / "layers" / ("x" * 100) / str(number)
        directory.mkdir(parents=True)
        (directory / "top").write_text(f"{number}\n")
        layers.append(directory)

    async def story(runtime: Runtime) -> None:
        assert await output(runtime, auto_box.request("a", "cat", "/top", layers=tuple(layers))) == ["59"]

    run(auto_box, story)


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("not found", {"command": ["nosuch"]}),
        ("not executable", {"command": ["/etc/passwd"]}),
        ("no user", {"user": "ghost"}),
        ("does not exist", {"mounts": [types_pb2.Mount(source="/no/such/place", target="/x")]}),
        ("not allowed", {"sysctls": {"kernel.panic": "1"}}),
        ("neither", {"command": []}),
    ],
)
def test_impossible_is_refused_without_a_trace(auto_box: Box, what: str, more: dict[str, Any]) -> None:
    async def story(runtime: Runtime) -> None:
        command = more.get("command", ["true"])
        rest = {key: value for key, value in more.items() if key != "command"}
        with pytest.raises(StartRejected, match=what):
            await runtime.create(auto_box.request("a", *command, **rest))
        assert auto_box.leaks(keep=frozenset()) == []
        assert await output(runtime, auto_box.request("a", "echo", "again")) == ["again"]

    run(auto_box, story)


def test_links_of_an_image_stay_in_the_image(auto_box: Box) -> None:
    """An image whose /etc/passwd points outside must not make us read the host's."""
    (auto_box.layer / "etc/passwd").unlink()
    (auto_box.layer / "etc/passwd").symlink_to("../../../../../../../../../../../etc/passwd")

    async def story(runtime: Runtime) -> None:
        with pytest.raises(StartRejected, match="no user 'daemon'"):
            await runtime.create(auto_box.request("a", "true", user="daemon"))

    run(auto_box, story)


def test_memory_limit_ends_it_as_oom(box: Box) -> None:
    resources = types_pb2.ResourceRequirements(limits=types_pb2.Resources(memory_bytes=16 << 20))

    async def story(runtime: Runtime) -> None:
        await runtime.create(
            box.request(
                "a",
                "dd",
                "if=/dev/zero",
                "of=/dev/null",
                "bs=64M",
                "count=1",
                resources=resources,
                no_init=True,
            )
        )
        await runtime.start("a")
        ended = await runtime.wait("a")
        assert (ended.code, ended.oom) == (137, True)

    run(box, story)


def test_pids_limit_and_stats(box: Box) -> None:
    resources = types_pb2.ResourceRequirements(
        pids_limit=10, limits=types_pb2.Resources(nano_cpus=500_000_000, memory_bytes=64 << 20)
    )
    script = "(for i in $(seq 30); do sleep 100 & done); exec sleep 100"

    async def story(runtime: Runtime) -> None:
        await runtime.create(box.request("a", "sh", "-c", script, resources=resources))
        await runtime.start("a")
        async for line in runtime.logs("a", follow=True):
            assert b"fork" in line.line
            break
        stats = await runtime.stats("a")
        assert 3 <= stats.pids <= 10
        assert 0 < stats.memory_bytes < 64 << 20
        assert stats.cpu_ns > 0

    run(box, story)


def test_stop_signals_first_and_kills_after_the_grace(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        obeys = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"
        ignores = "trap '' TERM USR1; echo up; while :; do sleep 100; done"
        for name, script in (("obeys", obeys), ("ignores", ignores)):
            await runtime.create(box.request(name, "sh", "-c", script))
            await runtime.start(name)
            async for _ in runtime.logs(name, follow=True):
                break
        assert (await runtime.stop("obeys", "SIGTERM", 20_000)).code == 3
        assert (await runtime.stop("ignores", "USR1", 100)).code == 128 + signal.SIGKILL
        assert (await runtime.stop("ignores", "USR1", 100)).code == 128 + signal.SIGKILL
        await runtime.create(box.request("unstarted", "true"))
        assert (await runtime.stop("unstarted", "", 10_000)).code is not None

    run(box, story)


def test_exec_gives_code_and_output_and_has_a_deadline(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await runtime.create(box.request("a", "sleep", "1000", env=["WHO=me"], user="web"))
        await runtime.start("a")
        done = await runtime.exec(
            "a", ["sh", "-c", "echo $WHO $MORE; id -u; exit 5"], timeout_s=20, env=["MORE=too"]
        )
        assert (done.code, done.output) == (5, b"me too\n1000\n")
        late = await runtime.exec("a", ["sh", "-c", "echo begun; sleep 777"], timeout_s=0.7)
        assert (late.code, late.output) == (None, b"begun\n")
        much = await runtime.exec(
            "a", ["sh", "-c", "dd if=/dev/zero bs=1M count=3 2>/dev/null"], timeout_s=20
        )
        assert (much.code, len(much.output)) == (0, 64 * 1024)
        if box.runtime == "crun":  # runc waits for whoever holds the output
            background = await runtime.exec("a", ["sh", "-c", "sleep 778 & echo back"], timeout_s=20)
            assert (background.code, background.output) == (0, b"back\n")
        assert (await runtime.exec("a", ["nosuch"], timeout_s=20)).code not in (0, None)
        left = await runtime.exec(
            "a", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"], timeout_s=20
        )
        assert b"777" not in left.output.split(), "what was ended at the deadline goes on"
        await runtime.stop("a", "SIGKILL", 10_000)
        with pytest.raises(RuntimeFailure, match="exited"):
            await runtime.exec("a", ["true"], timeout_s=20)

    run(box, story)


def test_logs_follow_tail_and_long_lines(auto_box: Box) -> None:
    script = "seq 5000; head -c 50000 /dev/zero | tr '\\0' x; echo; echo last"

    async def story(runtime: Runtime) -> None:
        await runtime.create(auto_box.request("a", "sh", "-c", script))
        follower = asyncio.create_task(lines(runtime, "a", follow=True))
        await runtime.start("a")
        got = await follower
        assert got == [*(str(n).encode() for n in range(1, 5001)), b"x" * 50_000, b"last"]
        assert await lines(runtime, "a") == got
        assert await lines(runtime, "a", tail=3) == got[-3:]
        assert await lines(runtime, "a", tail=0) == []
        times = [line.time_ns async for line in runtime.logs("a")]
        assert times == sorted(times)

    run(auto_box, story)


def test_logs_of_a_time_span(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await runtime.create(
            auto_box.request("a", "sh", "-c", "echo 1; sleep 0.2; echo 2; sleep 0.2; echo 3")
        )
        await runtime.start("a")
        await runtime.wait("a")
        times = [line.time_ns // 1_000_000 async for line in runtime.logs("a")]
        assert await lines(runtime, "a", since_ms=times[1]) == [b"2", b"3"]
        assert await lines(runtime, "a", until_ms=times[1] + 1) == [b"1", b"2"]
        assert await lines(runtime, "a", since_ms=times[0] + 50, until_ms=times[2] - 50, follow=True) == [
            b"2"
        ]

    run(auto_box, story)


def test_follow_ends_at_its_time_while_the_container_is_silent(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await runtime.create(auto_box.request("a", "sleep", "1000"))
        await runtime.start("a")
        assert await lines(runtime, "a", follow=True, until_ms=int(time.time() * 1000) + 200) == []

    run(auto_box, story)


def test_logs_survive_rotation_while_followed(auto_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "ROTATE_INTERVAL_S", 0.05)
    monkeypatch.setattr(logs, "ROTATE_BYTES", 20_000)

    async def story(runtime: Runtime) -> None:
        script = "for i in $(seq 40); do seq $((i*100)) $((i*100+99)); sleep 0.03; done"
        await runtime.create(auto_box.request("a", "sh", "-c", script))
        follower = asyncio.create_task(lines(runtime, "a", follow=True))
        await runtime.start("a")
        assert await follower == [str(n).encode() for n in range(100, 4100)]
        assert len(list((auto_box.base / "logs/a").iterdir())) > 1

    run(auto_box, story)


def test_own_network_namespace_is_joined(auto_box: Box) -> None:
    name = "rt" + uuid.uuid4().hex[:8]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:

        async def story(runtime: Runtime) -> None:
            script = "ip -o link; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
            text = await output(
                runtime, auto_box.request("a", "sh", "-c", script, netns=Path("/run/netns") / name)
            )
            assert len(text) == 2
            assert "lo" in text[0]
            assert text[1] == "0"

        run(auto_box, story)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_twenty_at_once(auto_box: Box) -> None:
    async def one(runtime: Runtime, number: int) -> None:
        name = f"c{number}"
        await runtime.create(auto_box.request(name, "sh", "-c", f"echo {number}; exit {number}"))
        await runtime.start(name)
        assert (await runtime.wait(name)).code == number
        assert await lines(runtime, name) == [str(number).encode()]
        await runtime.remove(name)

    async def story(runtime: Runtime) -> None:
        await asyncio.gather(*(one(runtime, number) for number in range(20)))

    run(auto_box, story)


def test_cancelled_create_leaves_nothing(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        for delay_ms in range(0, 60, 6):
            task = asyncio.create_task(runtime.create(auto_box.request("a", "sleep", "100")))
            await asyncio.sleep(delay_ms / 1000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await runtime.remove("a")
            assert auto_box.leaks(keep=frozenset()) == []

    run(auto_box, story)


def test_missing_runtime_says_what_to_install(auto_box: Box) -> None:
    auto_box.runtime = "nosuch-runtime"

    async def story() -> None:
        runtime = auto_box.make()
        with pytest.raises(MissingTool, match="apt-get install"):
            await runtime.open()
        await runtime.close()

    asyncio.run(story())


def test_second_agent_on_the_same_directory_is_refused(auto_box: Box) -> None:
    async def story(_: Runtime) -> None:
        second = auto_box.make()
        with pytest.raises(RuntimeFailure, match="another agent"):
            await second.open()
        await second.close()

    run(auto_box, story)
