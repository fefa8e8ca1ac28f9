"""Rolling updates: which outdated slots are replaced now, and when an update failed or is done.

There is no updater process: each plan works out from the tasks how far the
update is. Tasks made with the present `spec_version` are the update's. A slot
*in flight* holds one that does not run yet, or runs for less than the delay; at
most `parallelism` slots are in flight. A slot *failed* when such a task ended by
itself before or within the monitor time, or was not running within ten minutes.
More failed slots than the allowed ratio: roll back (once; a rollback that fails
pauses), pause, or go on. The update is complete when no slot is outdated and the
last task has run for the monitor time.

Whoever writes specs (Control, and the rollback here) goes through
`with_new_spec`: it keeps history, bumps `spec_version` only when tasks must be
replaced, and clears a finished, failed or running update's status.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.node.plan.base import (
    SPEC_HISTORY_LIMIT,
    UPDATE_MONITOR_MS,
    UPDATE_PARALLELISM,
    copy_of,
    is_failure,
)
from swarmpy.node.plan.slots import Phase, ServicePlanner, Slot, active_config
from swarmpy.node.plan.tasks import OWN_END_STATES, RUNNING, host_ports_of
from swarmpy.proto import objects_pb2, types_pb2

PROGRESS_DEADLINE_MS = 600_000
ROLLED_BACK_BY = "update rolled back: "
_PAUSED = (objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_ROLLBACK_PAUSED)
_ACTIVE = (objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_ROLLBACK_STARTED)


def task_template_changed(old: objects_pb2.ServiceSpec, new: objects_pb2.ServiceSpec) -> bool:
    """Whether going from one spec to the other replaces the tasks."""
    return old.task != new.task or host_ports_of(old) != host_ports_of(new)


def with_new_spec(service: objects_pb2.Service, spec: objects_pb2.ServiceSpec) -> objects_pb2.Service:
    """A copy of the service with a new spec, as a user's update makes it."""
    changed = copy_of(service)
    if task_template_changed(service.spec, spec):
        history = [service.spec, *service.previous_specs][:SPEC_HISTORY_LIMIT]
        del changed.previous_specs[:]
        changed.previous_specs.extend(history)
        changed.spec_version += 1
        changed.ClearField("update_status")
    changed.spec.CopyFrom(spec)
    return changed


def rolled_back(service: objects_pb2.Service, now_ms: int, message: str) -> objects_pb2.Service | None:
    """A copy of the service going back to its previous spec; None if there is none."""
    if not service.previous_specs:
        return None
    changed = copy_of(service)
    changed.spec.CopyFrom(service.previous_specs[0])
    del changed.previous_specs[0]
    changed.spec_version += 1
    changed.update_status.CopyFrom(
        objects_pb2.UpdateStatus(
            state=objects_pb2.UPDATE_ROLLBACK_STARTED, message=message, started_ms=now_ms
        )
    )
    return changed


def advance(planner: ServicePlanner, slots: Sequence[Slot]) -> None:
    """Take the next step of the service's update, given its settled slots."""
    outdated = [slot for slot in slots if slot.phase is Phase.OUTDATED]
    status = planner.service.update_status
    if status.state in _PAUSED:
        return
    if status.state not in _ACTIVE and not any(map(planner.can_replace, outdated)):
        return
    run = _Update(planner, slots, status.started_ms)
    if status.state not in _ACTIVE:
        run.started_ms = planner.now_ms
        run.set_status(objects_pb2.UPDATE_UPDATING, "update in progress")
    elif run.act_on_failures():
        return
    run.replace_next(outdated)
    run.finish_if_done()


class _Update:
    def __init__(self, planner: ServicePlanner, slots: Sequence[Slot], started_ms: int) -> None:
        config = active_config(planner.service)
        self.planner, self.slots, self.started_ms, self.config = planner, slots, started_ms, config
        self.rolling_back = planner.service.update_status.state == objects_pb2.UPDATE_ROLLBACK_STARTED
        monitor_ms = config.monitor_ms if config.HasField("monitor_ms") else UPDATE_MONITOR_MS
        self.monitor_ms = monitor_ms if config.delay_ms < monitor_ms else config.delay_ms + 1000
        self.given_up = 0

    def set_status(self, state: objects_pb2.UpdateState, message: str) -> None:
        service = copy_of(self.planner.service)
        service.update_status.state = state
        service.update_status.message = message
        service.update_status.started_ms = self.started_ms
        if state not in _ACTIVE:
            service.update_status.completed_ms = self.planner.now_ms
        self.planner.edits.put_service(service)

    def act_on_failures(self) -> bool:
        """Carry out the failure action if too many slots failed; True if the update ended by that."""
        failed = [task for task in map(self._failed_task, self.slots) if task is not None]
        if not failed or len(failed) / len(self.slots) <= self.config.max_failure_ratio:
            return False
        task = failed[0]
        cause = task.status.error or task.status.message or "no reason given"
        message = f"{len(failed)} of {len(self.slots)} slots failed, first task {task.meta.id}: {cause}"
        action = self.config.failure_action
        if action == types_pb2.FAILURE_CONTINUE:
            return False
        if self.rolling_back:
            self.set_status(objects_pb2.UPDATE_ROLLBACK_PAUSED, f"rollback paused: {message}")
            return True
        back = None
        if action == types_pb2.FAILURE_ROLLBACK:
            back = rolled_back(self.planner.service, self.planner.now_ms, f"{ROLLED_BACK_BY}{message}")
        if back is None:
            self.set_status(objects_pb2.UPDATE_PAUSED, f"update paused: {message}")
        else:
            self.planner.edits.by_id.clear()  # what was planned for the spec that is given up
            self.planner.edits.put_service(back)
        return True

    def _failed_task(self, slot: Slot) -> objects_pb2.Task | None:
        return next((task for task in slot.tasks if self._is_ours(task) and self._has_failed(task)), None)

    def _is_ours(self, task: objects_pb2.Task) -> bool:
        return (
            task.spec_version == self.planner.service.spec_version and task.meta.created_ms >= self.started_ms
        )

    def _has_failed(self, task: objects_pb2.Task) -> bool:
        status, now_ms = task.status, self.planner.now_ms
        if status.state < RUNNING:
            wanted = self.planner.edits.wanted(task) <= RUNNING
            return wanted and now_ms >= self._deadline_ms(task)
        if status.state not in OWN_END_STATES:
            return False
        if not is_failure(status.state) and task.spec.restart.condition != types_pb2.RESTART_ANY:
            return False
        return not status.started_ms or status.since_ms - status.started_ms <= self.monitor_ms

    @staticmethod
    def _deadline_ms(task: objects_pb2.Task) -> int:
        return max(task.meta.created_ms, task.restart.start_after_ms) + PROGRESS_DEADLINE_MS

    def replace_next(self, outdated: Sequence[Slot]) -> None:
        parallelism = self.config.parallelism if self.config.HasField("parallelism") else UPDATE_PARALLELISM
        free = parallelism - sum(map(self._in_flight, self.slots)) if parallelism else len(outdated)
        ordered = sorted(outdated, key=lambda slot: _runs(slot, self.planner))
        for slot in ordered:
            if free <= 0:
                break
            if self.planner.replace(slot):
                free -= 1
            else:
                self.given_up += 1

    def _in_flight(self, slot: Slot) -> bool:
        if slot.created:
            return True
        task = slot.current
        if slot.phase is not Phase.CURRENT or task is None or not self._is_ours(task):
            return False
        if task.status.state < RUNNING:
            self.planner.wake(self._deadline_ms(task))
            return not self._has_failed(task)
        due_ms = task.meta.updated_ms + self.config.delay_ms
        self.planner.wake(due_ms)
        return due_ms > self.planner.now_ms

    def finish_if_done(self) -> None:
        outdated = sum(slot.phase is Phase.OUTDATED for slot in self.slots)
        if outdated > self.given_up or not all(map(self._is_settled, self.slots)):
            return
        names = (
            ("rollback", objects_pb2.UPDATE_ROLLBACK_COMPLETED)
            if self.rolling_back
            else ("update", objects_pb2.UPDATE_COMPLETED)
        )
        left = f", {outdated} slots keep the old version" if outdated else ""
        before = self.planner.service.update_status.message
        cause = before.partition(ROLLED_BACK_BY)[2] if self.rolling_back else ""
        self.set_status(names[1], f"{names[0]} completed{left}{': ' if cause else ''}{cause}")

    def _is_settled(self, slot: Slot) -> bool:
        if slot.created:
            return False
        task = slot.current
        if slot.phase is not Phase.CURRENT or task is None:
            return True
        if task.status.state < RUNNING:
            return self._has_failed(task)
        if not self._is_ours(task):
            return True
        due_ms = task.meta.updated_ms + self.monitor_ms
        self.planner.wake(due_ms)
        return due_ms <= self.planner.now_ms


def _runs(slot: Slot, planner: ServicePlanner) -> tuple[bool, int]:
    runs = any(t.status.state == RUNNING and planner.edits.wanted(t) <= RUNNING for t in slot.tasks)
    return runs, slot.number
