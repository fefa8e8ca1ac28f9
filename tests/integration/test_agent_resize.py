"""The agent's worker gives running containers their new limits, says what is refused, and tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.agent import pod as agent_pod
from swarmpy.node.agent import resize
from swarmpy.node.agent.images import AgentImages
from swarmpy.node.agent.keep import Keep
from swarmpy.node.agent.machine import Local
from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.runner import Runner
from swarmpy.node.agent.worker import Worker
from swarmpy.node.image.store import ImageStore
from swarmpy.node.runtime import Runtime
from swarmpy.proto import objects_pb2, types_pb2

from tests.integration.test_runtime_containers import Box, opened, run
from tests.integration.test_runtime_containers import pytestmark as pytestmark

MEBIBYTE = 1 << 20
NOTHING: Any = None  # no network is asked for, and no other node


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, "auto")


def task_with(mebibytes: int) -> objects_pb2.Task:
    task = objects_pb2.Task(desired_state=types_pb2.TASK_RUNNING)
    task.meta.id = "a"
    task.spec.resources.limits.memory_bytes = mebibytes * MEBIBYTE
    return task


def test_limits_follow_what_is_wanted(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "RETRY_S", 0.05)

    async def story(runtime: Runtime) -> None:
        script = (
            "dd if=/dev/zero of=/dev/shm/a bs=1M count=30 2>/dev/null; echo filled; "
            "while ! test -e /dev/shm/go; do sleep 0.05; done; : > /dev/shm/a; exec sleep 1000"
        )
        request = box.request("a", "sh", "-c", script, resources=task_with(64).spec.resources)
        await runtime.create(request)
        await runtime.start("a")
        async for _ in runtime.logs("a", follow=True):
            break
        images = AgentImages(ImageStore(box.base / "images"), NOTHING, "n", lambda: None, lambda: None)
        worker = Worker(
            Runner(runtime, NOTHING, images, NOTHING, NOTHING, "n"), Keep(box.base / "agent"), lambda _: None
        )
        status = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING)
        worker.tasks["a"] = Local("a", task_with(64), status, container=True)

        async def until(reason: str, mebibytes: int) -> str:
            while worker.tasks["a"].status.reason != reason or not (
                reason or runtime.has_limits("a", task_with(mebibytes).spec.resources)
            ):
                await asyncio.sleep(0.02)
            return worker.tasks["a"].status.error

        try:
            worker.want(Picture(tasks={"a": task_with(128)}))
            assert await until("", 128) == ""
            worker.want(Picture(tasks={"a": task_with(8)}))
            assert "memory limit of 8 MiB is below" in await until(resize.REASON, 8)
            assert worker.tasks["a"].state == types_pb2.TASK_RUNNING
            assert (await runtime.exec("a", ["touch", "/dev/shm/go"], timeout_s=20)).code == 0
            assert await until("", 8) == ""  # there was room after a while
        finally:
            await worker.close()

    run(box, story)


def test_a_sidecar_is_resized_beside_its_main_container(box: Box) -> None:
    def pod_of(main_pids: int, sidecar_pids: int) -> objects_pb2.Task:
        task = task_with(64)
        task.spec.resources.pids_limit = main_pids
        task.spec.sidecars.add(name="log").resources.pids_limit = sidecar_pids
        return task

    async def story(runtime: Runtime) -> None:
        first = pod_of(100, 50)
        for name, limits in (("a", first.spec.resources), ("a.log", first.spec.sidecars[0].resources)):
            await runtime.create(box.request(name, "sleep", "1000", resources=limits))
            await runtime.start(name)
        images = AgentImages(ImageStore(box.base / "images"), NOTHING, "n", lambda: None, lambda: None)
        runner = Runner(runtime, NOTHING, images, NOTHING, NOTHING, "n")
        worker = Worker(runner, Keep(box.base / "agent"), lambda _: None)
        status = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING)
        worker.tasks["a"] = Local("a", first, status, container=True)

        def pids(name: str) -> str:
            tops = runtime.inside(name).group.directories()
            return next(file.read_text().strip() for top in tops if (file := top / "pids.max").exists())

        async def until(wanted: objects_pb2.Task, reason: str = "") -> str:
            worker.want(Picture(tasks={"a": wanted}))
            limits = resize.limits_of(worker.tasks["a"])
            assert not limits.pop("a/").ByteSize(), "of both together: none"
            while worker.tasks["a"].status.reason != reason or not (
                reason or all(runtime.has_limits(name, limits[name]) for name in limits)
            ):
                await asyncio.sleep(0.02)
            return worker.tasks["a"].status.error

        try:
            await until(pod_of(100, 60))
            assert (pids("a"), pids("a.log")) == ("100", "60")
            impossible = pod_of(110, 60)
            impossible.spec.sidecars[0].resources.cpuset_cpus = "999"
            assert (await until(impossible, resize.REASON)).startswith("container log: limits not changed")
            assert (pids("a"), pids("a.log")) == ("110", "60")
            assert await until(pod_of(120, 70)) == ""
            assert (pids("a"), pids("a.log")) == ("120", "70")
            whole = pod_of(120, 70)
            whole.spec.pod_resources.pids_limit = 200  # of a pod that is not there: nothing to limit
            worker.want(Picture(tasks={"a": whole}))
            await asyncio.sleep(0)
            assert resize.limits_of(worker.tasks["a"])["a/"].pids_limit == 200
            again = runner._as_wanted_now(first, agent_pod.parts(first.spec)[0])
            assert again[1].resources.pids_limit == 70, "what it is made with after it ended"
        finally:
            await worker.close()

    run(box, story)
