"""Pods of real containers under their supervisor: order, sharing, restarts in place, probes, no leaks."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.agent import pod, probes, sharing
from swarmpy.node.agent.health import Prober
from swarmpy.node.agent.supervisor import Ended, Supervisor, Task
from swarmpy.node.runtime import Runtime, StartRejected, cgroups, system
from swarmpy.node.runtime.request import Exit
from swarmpy.proto import objects_pb2, types_pb2

from tests.integration.test_runtime_containers import BUSYBOX, RUNTIMES, Box, lines, opened

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces, mounts and cgroups"),
    pytest.mark.skipif(
        BUSYBOX is None or not RUNTIMES or not shutil.which("conmon"),
        reason="needs busybox-static, conmon and crun or runc: apt-get install busybox-static conmon crun",
    ),
]
ID = "task1"


def container(*command: str, **more: Any) -> types_pb2.ContainerSpec:
    return types_pb2.ContainerSpec(command=command, stop_grace_ms=3000, **more)


def entry(name: str, *command: str, **more: Any) -> types_pb2.PodContainer:
    return types_pb2.PodContainer(name=name, container=container(*command, **more))


def volume(target: str, **more: Any) -> types_pb2.Mount:
    return types_pb2.Mount(type=types_pb2.MOUNT_POD, source="data", target=target, **more)


class Node:
    """One task of one node, driven as its worker drives it."""

    def __init__(self, box: Box, runtime: Runtime, prober: Prober, spec: types_pb2.TaskSpec) -> None:
        self.box, self.runtime, self.prober, self.spec = box, runtime, prober, spec
        self.status = objects_pb2.TaskStatus()
        self.parts = pod.parts(spec)
        self.supervisor: Supervisor | None = None

    async def create(self, part: pod.Part) -> None:
        container_id = pod.container_id(ID, part.name)
        if self.runtime.pids().get(container_id):
            return
        request = self.box.request(container_id)
        request.spec.CopyFrom(part.container)
        if self.spec.container.userns:
            pins = sharing.namespaces(self.runtime, ID, self.spec)
            request = replace(request, ids=await self.runtime.pin_user(ID, pins))
        await sharing.create(self.runtime, ID, self.spec, part.role, request)

    async def stop(self, container_id: str) -> Exit:
        return await self.runtime.stop(container_id, "SIGTERM", 3000)

    async def prepare(self) -> None:
        for part in sorted(self.parts, key=lambda part: part.role != pod.MAIN_ROLE):
            if part.role != pod.INIT_ROLE:
                await self.create(part)

    def begin(self) -> Supervisor:
        checks = {part.name: probes.checks_of(part.container, None) for part in self.parts}
        self.supervisor = Supervisor(
            self.runtime, self.prober, Task(ID, self.parts, checks, ""), self.status,
            create=self.create, stop=self.stop,
        )  # fmt: skip
        return self.supervisor

    async def until(self, condition: Callable[[Supervisor], bool]) -> None:
        supervisor = self.supervisor or self.begin()
        while not condition(supervisor):
            ended = await supervisor.next()
            assert ended is None, ended
            self.keep()

    def keep(self) -> None:
        """As the agent keeps the record of the task."""
        assert self.supervisor is not None
        del self.status.containers[:]
        self.status.containers.extend(self.supervisor.progress.containers)

    async def end(self) -> Ended:
        supervisor = self.supervisor or self.begin()
        while (ended := await supervisor.next()) is None:
            self.keep()
        self.keep()
        return ended

    async def clean(self) -> None:
        if self.supervisor is not None:
            await self.supervisor.close()
        for container_id in pod.ids_of(ID, self.runtime.pids()):
            await self.runtime.remove(container_id)
        await asyncio.to_thread(self.runtime.pods.remove, ID)

    async def log(self, name: str) -> list[str]:
        return [line.decode() for line in await lines(self.runtime, pod.container_id(ID, name))]

    def of(self, name: str) -> objects_pb2.ContainerStatus:
        return next(one for one in self.status.containers if one.name == name)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, "auto")


def leaks_of_pods(box: Box) -> list[str]:
    tops = [box.base / "run/pods", box.base / "state/pods"]
    left = [str(path) for top in tops if top.is_dir() for path in top.iterdir()]
    return left + [str(point) for point in system.mounts_below(box.base / "run")]


def play(box: Box, spec: types_pb2.TaskSpec, story: Callable[[Node], Awaitable[None]]) -> None:
    """Prepare the pod, run the story, clean; nothing may be left, not even before the runtime is destroyed."""

    async def whole() -> None:
        runtime = box.make()
        prober = Prober(runtime)
        node = Node(box, runtime, prober, spec)
        try:
            await runtime.open()
            await asyncio.wait_for(story(node), 60)
            await node.clean()
            assert leaks_of_pods(box) == []
            assert box.leaks(frozenset()) == []
        finally:
            await node.clean()
            prober.close()
            await runtime.destroy()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(whole())
    assert len(os.listdir("/proc/self/fd")) == before


def task(
    *command: str, init: list[Any] | None = None, sidecars: list[Any] | None = None, **more: Any
) -> types_pb2.TaskSpec:
    pid = more.pop("share_pid", False)
    return types_pb2.TaskSpec(
        container=container(*command, **more), init_containers=init, sidecars=sidecars, share_pid=pid
    )


def test_init_containers_run_in_order_before_all_others_and_share_a_volume(box: Box) -> None:
    spec = task(
        "sh", "-c", "cat /data/first /data/second", mounts=[volume("/data", read_only=True)],
        init=[
            entry("first", "sh", "-c", "echo first > /d/first", mounts=[volume("/d")]),
            entry("second", "sh", "-c", "ls /d > /d/second; id -u >> /d/second", mounts=[volume("/d")], user="web"),
        ],
        sidecars=[entry("beside", "sleep", "60", init=False)],
    )  # fmt: skip

    async def story(node: Node) -> None:
        await node.prepare()
        ended = await node.end()
        assert (ended.exit_code, ended.failure) == (0, "")
        assert await node.log("main") == ["first", "first", "second", "1000"]
        assert [one.state for one in node.status.containers] == [pod.EXITED] * 4
        assert node.of("beside").exit_code in (143, 137)

    play(box, spec, story)


def test_an_init_container_that_fails_ends_the_task_and_says_why(box: Box) -> None:
    spec = task("sleep", "60", init=[entry("migrate", "sh", "-c", "exit 3")])

    async def story(node: Node) -> None:
        await node.prepare()
        ended = await node.end()
        assert ended.failure == "init container migrate: exit code 3"
        assert ended.reason == "INIT_FAILED"
        assert node.of("main").state == pod.WAITING

    play(box, spec, story)


def test_a_sidecar_that_dies_is_started_again_in_place_and_the_main_container_goes_on(box: Box) -> None:
    spec = task("sleep", "60", sidecars=[entry("proxy", "sh", "-c", "echo up; sleep 0.2; exit 7")])

    async def story(node: Node) -> None:
        await node.prepare()
        await node.until(lambda supervisor: supervisor.started)
        main = node.runtime.pids()[ID]
        await node.until(lambda _: node.status.containers and node.of("proxy").restarts == 2)  # type: ignore[arg-type,return-value]
        assert node.of("proxy").exit_code == 7
        assert node.runtime.pids()[ID] == main
        assert system.start_time(main) is not None
        assert (await node.log("proxy"))[:2] == ["up", "up"]
        assert node.supervisor is not None
        assert node.supervisor.progress.ready

    play(box, spec, story)


def test_main_waits_for_a_sidecars_startup_check_and_readiness_of_both_counts(box: Box) -> None:
    started = types_pb2.HealthConfig(
        test=["CMD", "ls", "/data/up"], interval_ms=60_000, start_interval_ms=100
    )
    ready = types_pb2.HealthConfig(
        test=["CMD", "ls", "/data/ready"], interval_ms=100, retries=1, start_interval_ms=100
    )
    spec = task(
        "sh", "-c", "ls /data/up; exec sleep 60", mounts=[volume("/data")],
        sidecars=[
            entry("proxy", "sh", "-c", "sleep 0.5; touch /data/up; exec sleep 60", mounts=[volume("/data")],
                  startup=started, readiness=ready),
        ],
    )  # fmt: skip

    async def story(node: Node) -> None:
        await node.prepare()
        await node.until(lambda supervisor: supervisor.started)
        assert node.supervisor is not None
        assert not node.supervisor.progress.ready
        shared = node.runtime.pods.volume(ID, "data")
        (shared / "ready").touch()
        await node.until(lambda supervisor: supervisor.progress.ready)
        (shared / "ready").unlink()
        await node.until(lambda supervisor: not supervisor.progress.ready)
        node.keep()
        kinds = {probe.kind: probe for probe in node.of("proxy").probes}
        assert "exited with 1" in kinds[objects_pb2.PROBE_READINESS].failure
        (shared / "ready").touch()
        await node.until(lambda supervisor: supervisor.progress.ready)
        assert node.of("proxy").restarts == 0
        assert (await node.log("main")) == ["/data/up"]

    play(box, spec, story)


def test_an_unhealthy_main_container_ends_the_task_and_an_unhealthy_sidecar_does_not(box: Box) -> None:
    bad = types_pb2.HealthConfig(
        test=["CMD", "ls", "/nothing"], interval_ms=100, retries=2, start_interval_ms=100
    )

    async def main_fails(node: Node) -> None:
        await node.prepare()
        ended = await node.end()
        assert ended.reason == "UNHEALTHY"
        assert ended.failure.startswith("unhealthy: the check exited with 1")

    async def sidecar_restarts(node: Node) -> None:
        await node.prepare()
        await node.until(lambda _: any(one.restarts for one in node.status.containers))
        assert "unhealthy" in node.of("proxy").error or node.of("proxy").state == pod.RUNNING
        assert node.supervisor is not None
        assert node.supervisor.started

    play(box, task("sleep", "60", health=bad, sidecars=[entry("proxy", "sleep", "60")]), main_fails)
    play(box, task("sleep", "60", sidecars=[entry("proxy", "sleep", "60", health=bad)]), sidecar_restarts)


def test_containers_share_ipc_memory_and_a_parent_group_and_processes_only_when_asked(box: Box) -> None:
    async def story(node: Node) -> None:
        await node.prepare()
        await node.until(lambda supervisor: supervisor.started)
        pids = node.runtime.pids()
        main, other = pids[ID], pids[f"{ID}.other"]

        def namespace(pid: int, kind: str) -> str:
            return os.readlink(f"/proc/{pid}/ns/{kind}")

        assert namespace(main, "ipc") == namespace(other, "ipc") != os.readlink("/proc/self/ns/ipc")
        assert (namespace(main, "pid") == namespace(other, "pid")) is node.spec.share_pid
        assert namespace(main, "mnt") != namespace(other, "mnt")
        said = await node.runtime.exec(ID, ["sh", "-c", "echo hello > /dev/shm/note"], timeout_s=10)
        assert said.code == 0
        heard = await node.runtime.exec(f"{ID}.other", ["cat", "/dev/shm/note"], timeout_s=10)
        assert heard.output == b"hello\n"
        seen = await node.runtime.exec(f"{ID}.other", ["sh", "-c", "ls -d /proc/[0-9]*"], timeout_s=10)
        assert (seen.output.count(b"\n") >= 4) is node.spec.share_pid
        group = f"/swarmpy-{box.owner}/{ID}/"
        assert all(group in Path(f"/proc/{pid}/cgroup").read_text() for pid in (main, other))

    for share in (False, True):
        # Both end by SIGTERM: a first process without a handler would ignore it.
        spec = task("sh", "-c", "sleep 60 & wait", sidecars=[entry("other", "sleep", "60")], share_pid=share)
        play(box, spec, story)


def test_a_pod_volume_in_memory_has_its_size(box: Box) -> None:
    spec = task(
        "sh", "-c", "dd if=/dev/zero of=/data/x bs=1024 count=2048; stat -c %s /data/x",
        mounts=[volume("/data", tmpfs_size_bytes=1 << 20)], init=[entry("before", "true")],
    )  # fmt: skip

    async def story(node: Node) -> None:
        await node.prepare()
        await node.end()
        assert str(1 << 20) in await node.log("main")

    play(box, spec, story)


def test_a_sidecar_without_a_program_is_refused_by_name(box: Box) -> None:
    spec = task("sleep", "60", sidecars=[entry("proxy", "no-such-program")])

    async def story(node: Node) -> None:
        with pytest.raises(StartRejected, match="no-such-program"):
            await node.prepare()

    play(box, spec, story)


@pytest.mark.parametrize("moment", ["init", "running", "sidecar-dead", "main-dead"])
def test_another_agent_goes_on_where_one_was_killed(box: Box, moment: str) -> None:
    """The runtime is closed as a kill leaves it, and opened again: nothing runs twice, nothing is lost."""
    spec = task(
        "sh", "-c", "echo main; exec sleep 60",
        init=[
            entry("one", "sh", "-c", "echo one"),
            entry("two", "sh", "-c", "echo two; while ! ls /data/go; do sleep 0.05; done", mounts=[volume("/data")]),
        ],
        sidecars=[entry("beside", "sh", "-c", "echo beside; exec sleep 60", mounts=[volume("/data")])],
    )  # fmt: skip

    async def story(node: Node) -> None:
        await node.prepare()
        shared = node.runtime.pods.volume(ID, "data")
        if moment == "init":
            await node.until(lambda _: bool(node.status.containers) and node.of("two").state == pod.RUNNING)
        else:
            (shared).mkdir(parents=True, exist_ok=True)
            (shared / "go").touch()
            await node.until(lambda supervisor: supervisor.started)
            node.keep()
        before = node.runtime.pids()
        assert node.supervisor is not None
        await node.supervisor.close()
        node.supervisor = None
        await node.runtime.close()
        if moment == "sidecar-dead":
            os.kill(before[f"{ID}.beside"], 9)
        if moment == "main-dead":
            os.kill(before[ID], 9)

        node.runtime = box.make()
        await node.runtime.open()
        node.prober = Prober(node.runtime)
        try:
            await resumed(node, before, shared)
        finally:
            await node.clean()
            node.prober.close()
            await node.runtime.close()

    async def resumed(node: Node, before: dict[str, int], shared: Path) -> None:
        if moment == "main-dead":
            ended = await node.end()
            assert ended.exit_code in (137, None)
            assert node.of("beside").state == pod.EXITED
            return
        (shared / "go").touch()
        if moment == "running":  # known at once, before anything was asked again
            assert node.begin().started
            assert node.supervisor is not None
            assert node.supervisor.progress.ready
        await node.until(lambda supervisor: supervisor.started)
        after = node.runtime.pids()
        if moment == "init":
            assert f"{ID}.one" not in after
        elif moment == "running":
            assert after == before
        else:
            await node.until(
                lambda _: node.of("beside").restarts == 1 and node.of("beside").state == pod.RUNNING
            )
            assert after[ID] == before[ID]
        for name in ("one", "main"):
            while not (found := await node.log(name)):  # it runs, but may not have written yet
                await asyncio.sleep(0.05)
            assert found == [name], "it was run twice"

    play(box, spec, story)
    assert cgroups.detect().trees
