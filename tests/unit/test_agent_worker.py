"""The worker when the disk does not take its records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from swarmpy.node.agent.keep import Keep
from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.runner import Runner
from swarmpy.node.agent.worker import Worker
from swarmpy.proto import objects_pb2, types_pb2

NOTHING: Any = None  # a task that is stopped before it began needs neither runtime nor network


def test_a_disk_that_takes_no_records_does_not_end_the_worker(tmp_path: Path) -> None:
    async def main() -> None:
        keep = Keep(tmp_path / "agent")
        reported: list[str] = []
        worker = Worker(Runner(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, "n1"), keep, reported.append)
        away = (tmp_path / "agent" / "tasks").rename(tmp_path / "away")
        task = objects_pb2.Task(desired_state=types_pb2.TASK_SHUTDOWN)
        task.meta.id = "t1"
        worker.want(Picture(tasks={"t1": task}))
        while worker.tasks["t1"].state != types_pb2.TASK_SHUTDOWN:
            await asyncio.sleep(0.001)
        assert "t1" in reported
        assert not worker.keep_again()
        away.rename(tmp_path / "agent" / "tasks")
        assert worker.keep_again()
        assert keep.load_tasks()["t1"].state == types_pb2.TASK_SHUTDOWN
        await worker.close()

    asyncio.run(asyncio.wait_for(main(), 20))
