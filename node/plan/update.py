"""Updates: which outdated slots are replaced now, and when an update failed or is done.

There is no updater process: each plan works out from the tasks how far the
update is. Tasks made with the present `spec_version` are the update's. A slot
*in flight* holds one that does not run yet, or runs for less than the delay; at
most `parallelism` slots are in flight. A slot *failed* when such a task ended by
itself before or within the monitor time, or was not running (and, with a readiness
check, ready) within the progress deadline (10 minutes).
More failed slots than the allowed ratio: roll back (once; a rollback that fails
pauses), pause, or go on; of those that may fail none is waited for. The update is
complete when no slot is outdated and the last task has run for the monitor time.

A new task is watched for the monitor time: 10 s, or, where it has a health check and no time is set, until it is
healthy. With a *canary* the update stops when so many slots are of the new spec, and waits (UPDATE_WAITING)
for promotion; *blue-green* starts a new task beside every old one first, waits in the same way, and
keeps the old ones for a while after the switch. Which half gets traffic is `hidden_versions`: one change of
one object. A person promotes, or an analysis of failures and probe times does.

Whoever writes specs (Control, and the rollback here) goes through `revisions`: it keeps history, bumps
`spec_version` only when tasks must be replaced, and clears a finished, failed or running update's status.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.node.plan.base import (
    UPDATE_MONITOR_MS,
    UPDATE_PARALLELISM,
    copy_of,
    desired_running,
    is_failure,
)
from swarmpy.node.plan.revisions import (
    parallelism_of,
    promote,
    rolled_back,
    share,
    task_template_changed,
    with_new_spec,
)
from swarmpy.node.plan.slots import Phase, ServicePlanner, Slot, active_config, is_outdated, serves
from swarmpy.node.plan.tasks import OWN_END_STATES, RUNNING, SHUTDOWN, awaits_readiness, is_up
from swarmpy.proto import objects_pb2, types_pb2

__all__ = ["advance", "rolled_back", "task_template_changed", "with_new_spec"]

PROGRESS_DEADLINE_MS = 600_000
KEEP_OLD_MS = 600_000
ANALYSIS_MS = 120_000
ANALYSIS_STEP_MS = 5_000
ROLLED_BACK_BY = "update rolled back: "
_PAUSED = (objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_ROLLBACK_PAUSED)
_ACTIVE = (objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_ROLLBACK_STARTED, objects_pb2.UPDATE_WAITING)


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
        run.begin()
    elif run.act_on_failures():
        return
    if run.gated:
        run.up_to_the_gate(outdated)
    else:
        run.replace_next(outdated)
        run.finish_if_done()


class _Update:
    def __init__(self, planner: ServicePlanner, slots: Sequence[Slot], started_ms: int) -> None:
        service = planner.service
        config = active_config(service)
        self.planner, self.slots, self.started_ms, self.config = planner, slots, started_ms, config
        self.status = service.update_status
        self.rolling_back = self.status.state == objects_pb2.UPDATE_ROLLBACK_STARTED
        self.monitor_ms = _monitor_ms(service.spec.task, config)
        self.given_up = 0
        self.blue_green = config.strategy == types_pb2.STRATEGY_BLUE_GREEN and planner.overlap
        self.canary = max(0, share(config.canary, len(slots))) if config.canary else 0

    @property
    def gated(self) -> bool:
        """Whether only part of the slots, or no traffic, may be the new spec's so far."""
        if self.rolling_back or self.status.promoted_ms:
            return False
        return self.blue_green or 0 < self.canary < len(self.slots)

    def begin(self) -> None:
        """Note that there is an update."""
        self.started_ms = self.planner.now_ms
        service = self._changed(objects_pb2.UPDATE_UPDATING, "update in progress")
        if not self.blue_green:
            del service.update_status.hidden_versions[:]
        elif service.spec_version not in service.update_status.hidden_versions:
            service.update_status.hidden_versions.append(service.spec_version)
        self.planner.edits.put_service(service)

    def _changed(self, state: objects_pb2.UpdateState, message: str) -> objects_pb2.Service:
        service = copy_of(self.planner.service)
        service.update_status.state = state
        service.update_status.message = message
        service.update_status.started_ms = self.started_ms
        if state not in _ACTIVE:
            service.update_status.completed_ms = self.planner.now_ms
        return service

    def set_status(self, state: objects_pb2.UpdateState, message: str) -> None:
        self.planner.edits.put_service(self._changed(state, message))

    def up_to_the_gate(self, outdated: Sequence[Slot]) -> None:
        """Replace what may be replaced before promotion; then wait for it."""
        wanted = len(self.slots) if self.blue_green else self.canary
        have = len(self.slots) - len(outdated)
        self.replace_next(outdated, most=max(0, wanted - have))
        ready = self._all_settled() and (have >= wanted or self.given_up)
        if not ready:
            return
        if self.status.state != objects_pb2.UPDATE_WAITING:
            what = (
                "the new tasks run beside the old"
                if self.blue_green
                else f"{have} of {len(self.slots)} slots are new"
            )
            service = self._changed(objects_pb2.UPDATE_WAITING, f"{what}: promote or abort")
            service.update_status.waiting_ms = self.planner.now_ms
            self.planner.edits.put_service(service)
        elif self.config.auto_promote:
            self._analyse()

    def _analyse(self) -> None:
        rules, now_ms = self.config.analysis, self.planner.now_ms
        ours = [task for slot in self.slots for task in slot.tasks if self._is_ours(task)]
        failed = [task for task in ours if is_failure(task.status.state)]
        problem = ""
        if len(failed) > rules.max_failure_ratio * max(1, len(ours)):
            problem = f"{len(failed)} of {len(ours)} new tasks failed"
        times_ms = [t for t in map(self.planner.probe_ms, (task.meta.id for task in ours)) if t is not None]
        known = bool(times_ms) or not rules.max_probe_ms
        if rules.max_probe_ms and times_ms and (mean := sum(times_ms) / len(times_ms)) > rules.max_probe_ms:
            problem = f"health checks take {mean:.0f} ms, the limit is {rules.max_probe_ms} ms"
        if problem:
            self._give_up(f"analysis failed: {problem}")
            return
        due_ms = self.status.waiting_ms + (rules.window_ms or ANALYSIS_MS)
        if known and now_ms >= due_ms:
            service = copy_of(self.planner.service)
            promote(service, self.planner.view, now_ms, "promoted: the analysis held")
            self.planner.edits.put_service(service)
        else:
            step_ms = now_ms + ANALYSIS_STEP_MS
            self.planner.wake(min(due_ms, step_ms) if due_ms > now_ms else step_ms)

    def _give_up(self, message: str) -> None:
        """Back to what was before, or stop here where nothing was."""
        back = rolled_back(
            self.planner.service, self.planner.now_ms, f"{ROLLED_BACK_BY}{message}", problem=message
        )
        if back is None:
            self.set_status(objects_pb2.UPDATE_PAUSED, f"update paused: {message}")
        else:
            self.planner.edits.by_id.clear()  # what was planned for the spec that is given up
            self.planner.edits.put_service(back)

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
        if action == types_pb2.FAILURE_ROLLBACK:
            self._give_up(message)
        else:
            self.set_status(objects_pb2.UPDATE_PAUSED, f"update paused: {message}")
        return True

    def _failed_task(self, slot: Slot) -> objects_pb2.Task | None:
        return next((task for task in slot.tasks if self._is_ours(task) and self._has_failed(task)), None)

    def _is_coming(self, slot: Slot) -> bool:
        """Its task of the present spec is made by this plan, or is not up yet."""
        task = slot.current
        return slot.created or (slot.phase is Phase.CURRENT and task is not None and not is_up(task))

    def _is_failing(self, slot: Slot) -> bool:
        """It failed, and does not run since; that so many may is the policy's, and the update goes on without it."""
        task = slot.current
        return self._failed_task(slot) is not None or (task is not None and self._has_failed(task))

    def _is_ours(self, task: objects_pb2.Task) -> bool:
        return (
            task.spec_version == self.planner.service.spec_version and task.meta.created_ms >= self.started_ms
        )

    def _has_failed(self, task: objects_pb2.Task) -> bool:
        status, now_ms = task.status, self.planner.now_ms
        if not is_up(task):
            wanted = self.planner.edits.wanted(task) <= RUNNING
            return wanted and now_ms >= self._deadline_ms(task)
        if status.state not in OWN_END_STATES:
            return False
        if not is_failure(status.state) and task.spec.restart.condition != types_pb2.RESTART_ANY:
            return False
        return not status.started_ms or status.since_ms - status.started_ms <= self.monitor_ms

    def _deadline_ms(self, task: objects_pb2.Task) -> int:
        config = self.config
        limit_ms = (
            config.progress_deadline_ms if config.HasField("progress_deadline_ms") else PROGRESS_DEADLINE_MS
        )
        return max(task.meta.created_ms, task.restart.start_after_ms) + limit_ms

    def replace_next(self, outdated: Sequence[Slot], most: int | None = None) -> None:
        in_order = self.planner.service.spec.HasField("ordered")  # one at a time, the highest first
        parallelism = parallelism_of(self.config, self.status.batch, len(self.slots), UPDATE_PARALLELISM)
        parallelism = 1 if in_order else parallelism
        if self.blue_green and self.gated:
            parallelism = 0
        free = parallelism - sum(map(self._in_flight, self.slots)) if parallelism else len(outdated)
        free = free if most is None else min(free, most)
        for slot in self._one_by_one(outdated) if in_order else self._idle_first(outdated):
            if free <= 0:
                break
            if self.planner.replace(slot):
                free -= not self._is_failing(slot)
            else:
                self.given_up += 1

    def _idle_first(self, outdated: Sequence[Slot]) -> list[Slot]:
        return sorted(outdated, key=lambda slot: _runs(slot, self.planner))

    def _one_by_one(self, outdated: Sequence[Slot]) -> list[Slot]:
        """The highest first; but no slot gets a task while a lower one is down: then that one, if it can be."""
        able = [slot for slot in outdated if self.planner.can_replace(slot)]
        for slot in self.slots:
            given_up = slot.phase is Phase.FINISHED or (slot.phase is Phase.OUTDATED and slot not in able)
            if not given_up and not serves(slot, self.planner.view):
                return [slot] if slot in able else []
        return sorted(outdated, key=lambda slot: -slot.number)

    def _in_flight(self, slot: Slot) -> bool:
        task = slot.current
        if self._is_coming(slot):
            # Whoever made it: before a pause, or before what is gone back from. What failed is waited for no more.
            if task is not None:
                self.planner.wake(self._deadline_ms(task))
            return not self._is_failing(slot)
        if slot.phase is not Phase.CURRENT or task is None or not self._is_ours(task):
            return False
        due_ms = _up_ms(task) + self.config.delay_ms
        self.planner.wake(due_ms)
        return due_ms > self.planner.now_ms

    def finish_if_done(self) -> None:
        outdated = sum(slot.phase is Phase.OUTDATED for slot in self.slots)
        if outdated > self.given_up or not self._all_settled():
            return
        if self._keeps_old():
            return
        names = (
            ("rollback", objects_pb2.UPDATE_ROLLBACK_COMPLETED)
            if self.rolling_back
            else ("update", objects_pb2.UPDATE_COMPLETED)
        )
        left = f", {outdated} slots keep the old version" if outdated else ""
        if failing := sum(self._is_coming(slot) and self._is_failing(slot) for slot in self.slots):
            left += f", {failing} of {len(self.slots)} do not run"
        before = self.planner.service.update_status.message
        cause = before.partition(ROLLED_BACK_BY)[2] if self.rolling_back else ""
        service = self._changed(names[1], f"{names[0]} completed{left}{': ' if cause else ''}{cause}")
        del service.update_status.hidden_versions[:]
        self.planner.edits.put_service(service)

    def _keeps_old(self) -> bool:
        """Whether the old half of a blue-green update still waits to be needed; stops it when not."""
        if self.rolling_back or not self.status.hidden_versions:
            return False
        config = self.config
        kept_ms = config.keep_old_ms if config.HasField("keep_old_ms") else KEEP_OLD_MS
        due_ms = self.status.promoted_ms + kept_ms
        self.planner.wake(due_ms)
        if due_ms > self.planner.now_ms:
            return True
        for slot in self.slots:  # before they are hidden no more
            for task in slot.tasks:
                if desired_running(task) and is_outdated(task, self.planner.service):
                    self.planner.edits.desire(task, SHUTDOWN)
        return False

    def _all_settled(self) -> bool:
        settled = list(
            map(self._is_settled, self.slots)
        )  # of each slot, so that each says when to look again
        return all(settled)

    def _is_settled(self, slot: Slot) -> bool:
        task = slot.current
        if self._is_coming(slot):
            if task is not None:
                self.planner.wake(self._deadline_ms(task))
            return self._is_failing(slot)
        if slot.phase is not Phase.CURRENT or task is None or not self._is_ours(task):
            return True
        due_ms = _up_ms(task) + self.monitor_ms
        self.planner.wake(due_ms)
        return due_ms <= self.planner.now_ms


def _runs(slot: Slot, planner: ServicePlanner) -> tuple[bool, int]:
    runs = any(t.status.state == RUNNING and planner.edits.wanted(t) <= RUNNING for t in slot.tasks)
    return runs, slot.number


def _up_ms(task: objects_pb2.Task) -> int:
    """Since when it is up. Not since it was last written: a report that says nothing new would begin that again."""
    return task.status.up_ms or task.meta.updated_ms


def _monitor_ms(spec: types_pb2.TaskSpec, config: types_pb2.UpdateConfig) -> int:
    """How long a new task is watched after it runs."""
    health = spec.container.health
    asked = health.http or health.tcp or health.grpc or (health.test and health.test[0] != "NONE")
    probed = bool(asked) or awaits_readiness(spec)
    monitor_ms = config.monitor_ms if config.HasField("monitor_ms") else 0 if probed else UPDATE_MONITOR_MS
    return monitor_ms if config.delay_ms < monitor_ms else config.delay_ms + (1000 if config.delay_ms else 0)
