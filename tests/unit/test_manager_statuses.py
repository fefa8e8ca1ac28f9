"""What nodes report is stored, however much comes at once; one report that cannot be costs the others nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import wrap

from tests.unit.test_chaos_leadership import LoneLog

TASKS = 40


def task(number: int) -> objects_pb2.Task:
    made = objects_pb2.Task(node_id="n", service_id="s", desired_state=types_pb2.TASK_RUNNING)
    made.meta.id = made.meta.name = f"t{number}"
    made.status.state = types_pb2.TASK_ASSIGNED
    made.spec.container.seccomp_profile = "x" * 60_000  # all of them are more than one transaction takes
    return made


def test_many_large_tasks_and_one_report_beyond_all_bounds() -> None:
    async def main() -> None:
        store = Store()
        log: Any = LoneLog(store)
        leader = Leader(log, store)
        statuses = StatusWriter(leader)
        begun = asyncio.Event()

        async def job() -> None:
            begun.set()
            await statuses.run()

        leader.jobs = [job]
        leading = asyncio.create_task(leader.run())
        log.announce(True, 1)
        await asyncio.wait_for(begun.wait(), 5)
        for number in range(TASKS):
            change = store_pb2.Change(put=wrap(task(number)))
            assert not (await leader.try_commit([change], "test")).error_code
        for number in range(TASKS):
            status = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING)
            if number == 3:
                status.error = "y" * 2_000_000
            if number == 4:
                status.state = 9_999  # type: ignore[assignment]
            statuses.task("n", dispatcher_pb2.TaskReport(task_id=f"t{number}", status=status))
        await asyncio.wait_for(statuses.flushed(), 20)
        running = {found.meta.id for found in store.tasks() if found.status.state == types_pb2.TASK_RUNNING}
        assert running == {f"t{number}" for number in range(TASKS) if number not in (3, 4)}
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    asyncio.run(main())
