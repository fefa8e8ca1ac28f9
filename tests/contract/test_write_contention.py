"""A write that names no version is not refused because a planner wrote the same object in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from swarmpy.node.manager.errors import Conflict
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import control_pb2, objects_pb2, store_pb2
from swarmpy.raft.tables import wrap

from tests.integration.manager_replicas import NAMES, Manager, Managers
from tests.integration.raft_cluster import wait_for

SERVICE, SCHEDULE = store_pb2.KIND_SERVICE, store_pb2.KIND_SCHEDULE


def run(directory: Path, body: Callable[[Manager], Awaitable[None]]) -> None:
    async def main() -> None:
        managers = Managers(directory)
        try:
            manager = await managers.start(NAMES[0], bootstrap=True)
            await wait_for(lambda: manager.leader.leading)
            await body(manager)
        finally:
            await managers.stop_all()

    asyncio.run(main())


def spec() -> objects_pb2.ServiceSpec:
    made = objects_pb2.ServiceSpec()
    made.replicated.replicas = 0
    made.task.container.image = "none:1"
    made.task.container.image_digest = "sha256:" + "0" * 64
    return made


async def met(
    manager: Manager, kind: store_pb2.Kind, ref: str, write: Callable[[], Awaitable[object]]
) -> None:
    """`write`, with a planner's change of the object on its way: proposed before, applied after its look."""
    found = manager.store.get(kind, ref)
    assert found is not None
    changed = copy_of(found)
    changed.meta.labels["by"] = "planner"
    change = store_pb2.Change(put=wrap(changed), expected_version=found.meta.version)
    planner = asyncio.ensure_future(manager.leader.commit([change], "planner"))
    await asyncio.sleep(0)
    assert manager.store.get(kind, ref) is found, "the planner was too early"
    try:
        await write()
    finally:
        await planner


def test_a_removal_meets_a_planner(tmp_path: Path) -> None:
    async def body(manager: Manager) -> None:
        schedule = objects_pb2.Schedule()
        schedule.meta.name, schedule.spec.cron = "nightly", "@daily"
        schedule.spec.service.replicated_job.completions = 1
        schedule.spec.service.task.CopyFrom(spec().task)
        made, _ = await manager.writer.create(schedule, "user", "", by_manager=False)
        await met(
            manager, SCHEDULE, made.meta.id,
            lambda: manager.writer.delete(SCHEDULE, "nightly", False, "user", ""),
        )  # fmt: skip
        assert manager.store.get(SCHEDULE, made.meta.id) is None

    run(tmp_path, body)


def test_a_rollout_keeps_what_the_planner_wrote(tmp_path: Path) -> None:
    async def body(manager: Manager) -> None:
        made, _ = await manager.writer.create(service(), "user", "", by_manager=False)
        request = control_pb2.RolloutRequest(service="web", action=control_pb2.ROLLOUT_RESTART)
        await met(manager, SERVICE, made.meta.id, lambda: manager.writer.rollout(request, "user"))
        found = manager.store.service(made.meta.id)
        assert found is not None and found.meta.labels["by"] == "planner"
        assert found.spec_version == 2

    run(tmp_path, body)


def test_a_write_about_an_index_is_refused_when_the_world_moves(tmp_path: Path) -> None:
    async def body(manager: Manager) -> None:
        made, index = await manager.writer.create(service(), "user", "", by_manager=False)
        with pytest.raises(Conflict, match="changed meanwhile"):
            await met(
                manager, SERVICE, made.meta.id,
                lambda: manager.writer.delete(SERVICE, "web", False, "user", "", index),
            )  # fmt: skip
        with pytest.raises(Conflict, match="plan again"):
            await manager.writer.delete(SERVICE, "web", False, "user", "", index)
        found = manager.store.service(made.meta.id)
        assert found is not None and not found.pending_delete

    run(tmp_path, body)


def service() -> objects_pb2.Service:
    made = objects_pb2.Service(spec=spec())
    made.meta.name = "web"
    return made
