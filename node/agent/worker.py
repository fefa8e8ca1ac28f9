"""Runs the node's tasks: asks the machine for each task's next step and does it.

One asyncio task per local task; it ends when there is nothing left to do until the wanted
task changes. Every new status is kept on disk before it is reported. Nothing here needs a
manager: with the kept assignments a node runs on alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from swarmpy.node.agent import machine, resize
from swarmpy.node.agent.keep import Keep
from swarmpy.node.agent.machine import Action, Local, Outcome
from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.runner import Runner
from swarmpy.node.runtime.request import Found
from swarmpy.proto import objects_pb2, types_pb2

log = logging.getLogger(__name__)
STEP_RETRY_S = 2.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Worker:
    """The tasks of this node. `on_status` is called for every change of a status."""

    def __init__(self, runner: Runner, keep: Keep, on_status: Callable[[str], None]) -> None:
        self.tasks: dict[str, Local] = {}
        self._runner = runner
        self._keep = keep
        self._on_status = on_status
        self._running: dict[str, asyncio.Task[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._unkept: set[str] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resizer = resize.Resizer(runner.runtime, self._limits)
        runner.tasks = self.tasks

    def adopt(self, found: list[Found], picture: Picture) -> None:
        """Bring the kept records and the containers that are there together, at start."""
        containers = {container.id: container for container in found}
        for task_id, status in self._keep.load_tasks().items():
            local = Local(task_id, picture.tasks.get(task_id), status, container=True)
            if task_id not in containers and status.state <= types_pb2.TASK_RUNNING:
                local = machine.lost(local, now_ms())
            self.tasks[task_id] = local
        for task_id in {found_id.partition(".")[0] for found_id in containers} - self.tasks.keys():
            # No record: its removal was under way. Finish that.
            status = objects_pb2.TaskStatus(state=types_pb2.TASK_SHUTDOWN, message="left over")
            self.tasks[task_id] = Local(task_id, None, status, container=True)
        for local in self.tasks.values():
            self._runner.adopted(local)

    def want(self, picture: Picture) -> None:
        """Take the tasks the managers want here."""
        for task_id in {*self.tasks, *picture.tasks}:
            task = picture.tasks.get(task_id)
            local = self.tasks.get(task_id)
            if local is None:
                status = objects_pb2.TaskStatus(state=types_pb2.TASK_ASSIGNED)
                self._store(Local(task_id, task, status))
            elif local.wanted != task:
                self.tasks[task_id] = replace(local, wanted=task)
                self._changed.setdefault(task_id, asyncio.Event()).set()
            self._drive(task_id)
            if task_id in self.tasks:
                self._resizer.look(self.tasks[task_id])

    def give_up(self, task_ids: list[str], why: str) -> None:
        """Stop tasks without a manager's word; nothing takes that back."""
        for task_id in task_ids:
            self.tasks[task_id] = replace(self.tasks[task_id], cut_off=why)
            self._changed.setdefault(task_id, asyncio.Event()).set()
            self._drive(task_id)

    def _limits(self, task_id: str, refusal: str) -> None:
        local = self.tasks.get(task_id)
        if local is not None and not local.finished:
            self._store(replace(local, status=resize.with_refusal(local.status, refusal)))

    def keep_again(self) -> bool:
        """Try once more to keep the records that could not be written; whether all are kept now."""
        for task_id in sorted(self._unkept):
            if (local := self.tasks.get(task_id)) is not None:
                self._keep_record(local)
            else:
                self._unkept.discard(task_id)
        return not self._unkept

    def _keep_record(self, local: Local) -> None:
        """A full disk costs the record, which is written later; it does not cost the node its agent."""
        try:
            self._keep.save_task(local.task_id, local.status)
            self._unkept.discard(local.task_id)
        except OSError as error:
            if local.task_id not in self._unkept:
                log.error("task record not kept task=%s error=%s", local.task_id, error)
            self._unkept.add(local.task_id)

    async def failed(self) -> None:
        """Ends with the error of a step that broke in a way no step may."""
        await self._failed

    async def close(self) -> None:
        """Stop driving; the containers keep running."""
        await self._resizer.close()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _drive(self, task_id: str) -> None:
        if task_id in self._running or machine.next_action(self.tasks[task_id]) is None:
            return
        task = asyncio.create_task(self._run(task_id), name=f"task {task_id}")
        self._running[task_id] = task
        task.add_done_callback(lambda done: self._ended(task_id, done))

    def _ended(self, task_id: str, done: asyncio.Task[None]) -> None:
        self._running.pop(task_id, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            if not self._failed.done():
                self._failed.set_exception(error)
        elif task_id in self.tasks:
            self._drive(task_id)

    async def _run(self, task_id: str) -> None:
        while (local := self.tasks.get(task_id)) is not None:
            action = machine.next_action(local)
            if action is None:
                return
            if action is Action.FORGET:
                # The managers dropped the task; its logs stay for a while (see LogKeep).
                self._keep.drop_task(task_id)
                self.tasks.pop(task_id, None)
                self._changed.pop(task_id, None)
                return
            started = machine.begun(local, action, now_ms())
            if started is not local:
                self._store(started)
            outcome = await self._step(started, action)
            if outcome is not None:
                current = self.tasks[task_id]
                self._store(machine.after(replace(current, status=self.tasks[task_id].status), outcome))
            failed = outcome is None or bool(outcome.failure)
            if failed and action in (Action.STOP, Action.CLEAN):
                await asyncio.sleep(STEP_RETRY_S)

    async def _step(self, local: Local, action: Action) -> Outcome | None:
        """Do the step; None when the wanted task changed meanwhile and the step is void."""
        if action in (Action.STOP, Action.CLEAN, Action.ACCEPT):
            return await self._runner.do(local, action)
        changed = self._changed.setdefault(local.task_id, asyncio.Event())
        changed.clear()
        step = asyncio.create_task(self._runner.do(local, action))
        waiter = asyncio.create_task(changed.wait())
        try:
            while True:
                await asyncio.wait({step, waiter}, return_when=asyncio.FIRST_COMPLETED)
                if step.done():
                    return step.result()
                current = self.tasks[local.task_id]
                if current.desired > types_pb2.TASK_RUNNING:
                    return None
                changed.clear()
                waiter = asyncio.create_task(changed.wait())
        finally:
            waiter.cancel()
            if not step.done():
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)

    def _store(self, local: Local) -> None:
        before = self.tasks.get(local.task_id)
        self.tasks[local.task_id] = local
        if before is None or before.status != local.status or before.container != local.container:
            self._keep_record(local)
        if before is None or before.status != local.status:
            log.info(
                "task state=%s task=%s error=%s",
                types_pb2.TaskState.Name(local.status.state), local.task_id, local.status.error,
            )  # fmt: skip
            self._on_status(local.task_id)
