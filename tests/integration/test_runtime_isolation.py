"""What the isolation flags do to real containers, by each OCI runtime of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from swarmpy.node.runtime import (
    Runtime,
    RuntimeFailure,
    StartRejected,
    cgroups,
    logs,
    meters,
    mounts,
    spec_limits,
    system,
)
from swarmpy.proto import types_pb2

from tests.integration.test_runtime_containers import RUNTIMES, Box, lines, opened, output, run
from tests.integration.test_runtime_containers import pytestmark as pytestmark

MEBIBYTE = 1 << 20
THROTTLE_FILES = (*spec_limits.throttle_files(False), *spec_limits.throttle_files(True))


@pytest.fixture(params=RUNTIMES or ["crun"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, request.param)


@pytest.fixture
def auto_box(tmp_path: Path) -> Iterator[Box]:
    """For what does not depend on the OCI runtime."""
    yield from opened(tmp_path, "auto")


@contextlib.asynccontextmanager
async def reopened(box: Box) -> AsyncIterator[Runtime]:
    """The next agent's runtime, which has found the container "a"."""
    runtime = box.make()
    try:
        assert [found.id for found in await runtime.open()] == ["a"]
        yield runtime
    finally:
        await runtime.close()


def test_namespaces_of_the_node_are_shared_only_when_asked_for(box: Box) -> None:
    marker = Path("/dev/shm") / f"swarmpy-{uuid.uuid4().hex}"

    async def story(runtime: Runtime) -> None:
        look = [
            "sh",
            "-c",
            f"readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; ls {marker}; ls /sys/class/net",
        ]
        own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc")]
        shared = await output(runtime, box.request("a", *look, pid_mode="host", ipc_mode="host"))
        assert shared[:3] == [*own, str(marker)]
        assert sorted(shared[3:]) == sorted(os.listdir("/sys/class/net"))
        apart = await output(runtime, box.request("b", *look))
        assert apart[0] not in own
        assert apart[1] not in own
        assert str(marker) not in apart

    marker.touch()
    try:
        run(box, story)
    finally:
        marker.unlink()


def test_a_container_of_the_nodes_pid_namespace_ends_with_all_it_started(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await runtime.create(box.request("a", "sh", "-c", "sleep 1000 & exec sleep 1001", pid_mode="host"))
        await runtime.start("a")
        members = runtime.inside("a").group.members()
        while len(members) < 2:
            members = runtime.inside("a").group.members()
        await runtime.stop("a", "SIGTERM", 200)
        await runtime.remove("a")
        assert not [pid for pid in members if system.start_time(pid) is not None]

    run(box, story)


def test_no_network_is_loopback_only(auto_box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        request = auto_box.request("a", "ls", "/sys/class/net", own_network=True)
        assert await output(runtime, request) == ["lo"]

    run(auto_box, story)


def test_a_parent_group_must_exist_and_is_left_as_it_was(box: Box) -> None:
    parent = f"/swarmpy-test-{uuid.uuid4().hex[:8]}"
    places = [tree / parent.strip("/") for tree in cgroups.detect().trees]

    async def story(runtime: Runtime) -> None:
        with pytest.raises(StartRejected, match=f"{parent} does not exist on this node"):
            await runtime.create(box.request("a", "sleep", "1000", cgroup_parent=parent))
        for place in places:
            place.mkdir()
        await runtime.create(box.request("a", "sleep", "1000", cgroup_parent=parent))
        pid = await runtime.start("a")
        assert f"{parent}/swarmpy-{box.owner}-a" in Path(f"/proc/{pid}/cgroup").read_text()
        await runtime.close()
        async with reopened(box) as again:
            assert (await again.stats("a")).pids >= 1
            await again.remove("a")
        assert [[entry.name for entry in place.iterdir() if entry.is_dir()] for place in places] == [
            [] for _ in places
        ]

    try:
        run(box, story)
    finally:
        for place in places:
            if place.exists():
                place.rmdir()


def test_the_runtime_of_a_container_is_kept_across_restarts(auto_box: Box, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program = tmp_path / "logged"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec runc "$@"\n')
    program.chmod(0o755)

    async def story(runtime: Runtime) -> None:
        with pytest.raises(StartRejected, match="'logged' is not on this node"):
            await runtime.create(auto_box.request("a", "true", runtime="logged"))
        await runtime.close()
        own = Runtime(
            state_dir=auto_box.base / "state", run_dir=auto_box.base / "run", log_dir=auto_box.base / "logs",
            owner=auto_box.owner, runtime=auto_box.runtime, runtimes={"logged": str(program)},
        )  # fmt: skip
        try:
            await own.open()
            await own.create(auto_box.request("a", "sleep", "1000", runtime="logged"))
            await own.start("a")
        finally:
            await own.close()
        async with reopened(auto_box) as again:  # whose configuration does not name it any more
            assert (await again.exec("a", ["echo", "hi"], timeout_s=20)).output == b"hi\n"
            await again.remove("a")
        said = calls.read_text()
        for word in (" create ", " start ", " exec ", " delete "):
            assert word in said, said

    if "runc" not in RUNTIMES:
        pytest.skip("needs runc: apt-get install runc")
    run(auto_box, story)


def test_a_seccomp_profile_of_ones_own(box: Box) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {
                "names": ["symlink", "symlinkat"],
                "action": "SCMP_ACT_ERRNO",
                "includes": {"caps": ["CAP_SYS_ADMIN"]},
            },
        ],
    }

    async def story(runtime: Runtime) -> None:
        own = {"seccomp": "profile", "seccomp_profile": json.dumps(profile)}
        command = ["sh", "-c", "mkdir /tmp/a; ln -s a /tmp/b && echo linked; grep Seccomp: /proc/self/status"]
        command[2] = command[2].replace("grep Seccomp: /proc/self/status", "head -n 60 /proc/self/status")
        said = await output(runtime, box.request("a", *command, **own))
        assert "mkdir: can't create directory '/tmp/a': No space left on device" in said
        assert "linked" in said
        assert "Seccomp:\t2" in said

    run(box, story)


def test_limits_reach_the_kernel(box: Box) -> None:
    layout = cgroups.detect()

    async def story(runtime: Runtime) -> None:
        wanted = types_pb2.ResourceRequirements(
            limits=types_pb2.Resources(memory_bytes=32 * MEBIBYTE), swap_bytes=8 * MEBIBYTE, cpuset_cpus="0",
        )  # fmt: skip
        if not layout.pure_v2:
            wanted.swappiness, wanted.no_oom_kill = 7, True
        await runtime.create(box.request("a", "sleep", "1000", resources=wanted))
        pid = await runtime.start("a")
        assert os.sched_getaffinity(pid) == {0}
        group = runtime.inside("a").group

        def read(controller: str, v1: str, v2: str) -> str:
            tree = layout.unified if layout.pure_v2 else layout.controllers[controller]
            assert tree is not None
            return (tree / group.path.strip("/") / (v2 if layout.pure_v2 else v1)).read_text().strip()

        assert read("memory", "memory.limit_in_bytes", "memory.max") == str(32 * MEBIBYTE)
        if layout.swap_limits:
            total = str((8 if layout.pure_v2 else 40) * MEBIBYTE)
            assert read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max") == total
        if not layout.pure_v2:
            assert read("memory", "memory.swappiness", "") == "7"
            assert "oom_kill_disable 1" in read("memory", "memory.oom_control", "")

    if not layout.swap_limits:
        pytest.skip("this kernel cannot limit swap (swapaccount=1)")
    run(box, story)


def test_read_only_goes_below_unless_told_otherwise(box: Box, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    system.mount("tmpfs", outer / "inner", "tmpfs", 0, "size=64k")

    async def story(runtime: Runtime) -> None:
        async def tries(name: str, recursive: str) -> list[str]:
            mount = types_pb2.Mount(source=str(outer), target="/m", read_only=True, recursive=recursive)
            command = (
                "touch /m/a 2>/dev/null && echo outer; touch /m/inner/a 2>/dev/null && echo inner; echo end"
            )
            return await output(runtime, box.request(name, "sh", "-c", command, mounts=[mount]))

        assert await tries("a", "") == ["end"]
        assert await tries("b", "writable") == ["inner", "end"]
        assert await tries("c", "readonly") == ["end"]
        assert await tries("d", "disabled") == ["end"]
        assert not (outer / "a").exists()

    try:
        run(box, story)
    finally:
        system.umount(outer / "inner")


def test_devices_by_directory_and_gpus(auto_box: Box, tmp_path: Path) -> None:
    directory = tmp_path / "devices"
    (directory / "below").mkdir(parents=True)
    os.mknod(directory / "below" / "zero", 0o20666, os.makedev(1, 5))
    assert mounts.gpu_paths(directory) == []
    (directory / "nvidia.conf").touch()  # no device
    os.mknod(directory / "nvidia0", 0o20600, os.makedev(195, 0))
    assert mounts.gpu_paths(directory) == [str(directory / "nvidia0")]
    (directory / "nvidia0").unlink()

    async def story(runtime: Runtime) -> None:
        request = auto_box.request(
            "a", "head", "-c", "2", "/dev/mine/below/zero", devices=[f"{directory}:/dev/mine:r"]
        )
        assert await output(runtime, request) == ["\0\0"]
        if not any(Path("/dev").glob(pattern) for pattern in ("dri/*", "nvidia*")):
            with pytest.raises(StartRejected, match="this node has no GPU"):
                await runtime.create(auto_box.request("b", "true", gpus="all"))

    run(auto_box, story)


def test_what_is_kept_of_the_output(auto_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmpy.node.runtime.runtime.ROTATE_INTERVAL_S", 0.02)

    async def story(runtime: Runtime) -> None:
        none = types_pb2.LogConfig(driver="none")
        assert await output(runtime, auto_box.request("a", "echo", "gone", log=none)) == []
        script = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo line $n; done; sleep 1000"
        for name, most in (("b", 5), ("c", 1)):
            small = types_pb2.LogConfig(max_size_bytes=20_000, max_files=most)
            await runtime.create(auto_box.request(name, "sh", "-c", script, log=small))
            await runtime.start(name)
            async for line in runtime.logs(name, follow=True):
                if line.line == b"line 3000":
                    break
            await asyncio.sleep(0.1)
            assert 1 <= len(logs.files(auto_box.base / "logs" / name)) <= most
            numbers = [int(line.split()[1]) for line in await lines(runtime, name)]
            assert numbers == list(range(3001 - len(numbers), 3001))

    run(auto_box, story)


def test_an_unknown_runtime_failure_is_still_told_from_a_refusal(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        wanted = types_pb2.ResourceRequirements(cpuset_cpus="9999")
        with pytest.raises((RuntimeFailure, StartRejected), match=r"cpuset|cpu"):
            await runtime.create(box.request("a", "true", resources=wanted))

    run(box, story)


def test_limits_change_in_place(box: Box) -> None:
    def limits(mebibytes: int, **more: int | str) -> types_pb2.ResourceRequirements:
        memory = types_pb2.Resources(memory_bytes=mebibytes * MEBIBYTE)
        return types_pb2.ResourceRequirements(limits=memory, **more)  # type: ignore[arg-type]

    async def story(runtime: Runtime) -> None:
        script = "dd if=/dev/zero of=/dev/shm/a bs=1M count=30 2>/dev/null; echo filled; exec sleep 1000"
        await runtime.create(box.request("a", "sh", "-c", script, resources=limits(64, pids_limit=20)))
        pid = await runtime.start("a")
        async for _ in runtime.logs("a", follow=True):
            break
        meter = meters.Meter(runtime.inside("a"))
        try:
            assert runtime.has_limits("a", limits(64, pids_limit=20))
            wanted = limits(128, pids_limit=30)
            wanted.limits.nano_cpus = 250_000_000
            await runtime.resize("a", wanted)
            sample = meter.sample()
            assert (sample.memory_limit_bytes, sample.pids_limit) == (128 * MEBIBYTE, 30)
            assert sample.cpu_limit_nano == 250_000_000
            every = os.sched_getaffinity(pid)
            one = max(every)
            await runtime.resize("a", limits(128, cpuset_cpus=str(one)))
            assert os.sched_getaffinity(pid) == {one}
            with pytest.raises(RuntimeFailure, match=r"refuses 9999 in cpuset\.cpus"):
                await runtime.resize("a", limits(128, cpuset_cpus="9999", pids_limit=7))
            assert os.sched_getaffinity(pid) == {one}
            await runtime.resize("a", wanted)
            assert os.sched_getaffinity(pid) == every
            with pytest.raises(RuntimeFailure, match=r"memory limit of 8 MiB is below the 3\d"):
                await runtime.resize("a", limits(8))
            assert runtime.has_limits("a", wanted)
        finally:
            meter.close()
        await runtime.resize("a", limits(0))
        assert system.start_time(pid) is not None
        await runtime.close()
        async with reopened(box) as again:
            assert again.has_limits("a", limits(0))
            meter = meters.Meter(again.inside("a"))
            assert meter.sample().memory_limit_bytes == 0
            meter.close()
            await again.remove("a")

    run(box, story)


def test_block_io_has_a_weight_that_changes_in_place_or_is_refused(box: Box) -> None:
    wanted = types_pb2.ResourceRequirements(io_weight=300)
    request = replace(box.request("a", "sleep", "1000"), resources=wanted)

    def weights(runtime: Runtime) -> set[int]:
        group = runtime.inside("a").group
        names = spec_limits.IO_WEIGHTS
        files = [top / name for top in group.directories() for name in names if (top / name).exists()]
        scaled = {"io.weight": lambda value: 10 + (value - 1) * 990 // 9999}
        found = [(file.name, int(file.read_text().split("\n")[0].removeprefix("default "))) for file in files]
        return {scaled.get(name, lambda value: value)(value) for name, value in found}

    async def story(runtime: Runtime) -> None:
        try:
            await runtime.create(request)
        except StartRejected as error:
            assert "io_weight: this node's control groups have neither" in str(error)
            assert not runtime.pids()
            return
        await runtime.start("a")
        assert 300 in weights(runtime)
        await runtime.resize("a", types_pb2.ResourceRequirements(io_weight=800))
        assert 800 in weights(runtime)
        await runtime.resize("a", types_pb2.ResourceRequirements())
        assert not {300, 800} & weights(runtime)
        await runtime.remove("a")

    run(box, story)


def test_limits_of_a_single_disk_change_in_place(box: Box) -> None:
    """Of some disk of this machine: nothing is read from it or written to it."""
    number = next(path.read_text().strip() for path in sorted(Path("/sys/block").glob("*/dev")))
    major, minor = map(int, number.split(":"))
    node = box.base / "disk"
    os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))

    def wanted(**rates: int) -> types_pb2.ResourceRequirements:
        entry = types_pb2.DeviceLimits(device=str(node), **rates)
        return types_pb2.ResourceRequirements(io_devices=[entry] if rates else [])

    def limits(runtime: Runtime) -> list[str]:
        files = [top / name for top in runtime.inside("a").group.directories() for name in THROTTLE_FILES]
        return [line for file in files if file.exists() for line in file.read_text().splitlines()]

    async def story(runtime: Runtime) -> None:
        request = replace(box.request("a", "sleep", "1000"), resources=wanted(read_bps=1 << 20, write_iops=9))
        await runtime.create(request)
        await runtime.start("a")
        v2 = f"{number} rbps={1 << 20} wbps=max riops=max wiops=9"
        assert limits(runtime) in ([v2], [f"{number} {1 << 20}", f"{number} 9"])
        await runtime.resize("a", wanted(write_iops=20))
        assert limits(runtime) in ([f"{number} rbps=max wbps=max riops=max wiops=20"], [f"{number} 20"])
        other = wanted(write_iops=30)
        other.io_devices.add(device="/dev/null", read_bps=1)
        with pytest.raises(RuntimeFailure, match=r"limits not changed: .*/dev/null is no block device"):
            await runtime.resize("a", other)
        assert "20" in limits(runtime)[0]
        await runtime.resize("a", wanted())
        assert limits(runtime) == []
        await runtime.remove("a")

    run(box, story)


def test_a_part_of_a_volume_is_what_was_looked_at_and_goes_with_the_container(auto_box: Box) -> None:
    volume, outside = auto_box.base / "volume", auto_box.base / "outside"
    for directory, text in ((volume / "part", "inside"), (outside, "secret"), (volume / "part/below", "")):
        directory.mkdir(parents=True)
        (directory / "file").write_text(text)
    (volume / "way-out").symlink_to(outside)
    entry = types_pb2.Mount(type=types_pb2.MOUNT_BIND, source=str(volume), target="/x", subpath="part")
    bundle, nested = auto_box.base / "bundle", volume / "part/below"
    bundle.mkdir()
    place = bundle / "part-0"
    sources = mounts.Sources({}, auto_box.base, auto_box.base)
    system.mount("tmpfs", nested, "tmpfs", 0, "")
    try:
        system.mount("none", nested, "none", 1 << 20, "")  # shared, as systemd makes everything
        assert mounts.source_of(entry, 0, sources, "m", place) == str(place)
        (volume / "part").rename(volume / "gone")
        (volume / "part").symlink_to(outside)
        assert (place / "file").read_text() == "inside"
        mounts.unmount_all(bundle)
        assert system.mounts_below(auto_box.base / "volume/gone") == [auto_box.base / "volume/gone/below"]
        place.rmdir()
        entry.subpath = "way-out"
        with pytest.raises(StartRejected, match="way-out"):
            mounts.source_of(entry, 0, sources, "m", place)
    finally:
        mounts.unmount_all(bundle)
        mounts.unmount_all(volume)
