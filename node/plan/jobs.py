"""Jobs: tasks that run to their end, a number of times (replicated-job) or once on every node (global-job).

A slot is done when a task of this *iteration* is COMPLETE. An iteration is a value of the task
template's `force_update`: `--force` runs a job again, other updates concern what has not run yet. At most
`max_concurrent` tasks are under way, the lowest slots first; one that was told to stop counts until it has
stopped. A slot whose task failed is tried again by the restart policy (`any` means `on-failure` here); one
whose node was lost, or that was told to stop, is tried again at once and that is no failure. More failures
than `backoff_limit` (6), a deadline, or a policy that tries no more, end the job as FAILED and stop what
still runs.

Failures are counted from the tasks: `restart.count` is carried from attempt to attempt in each slot, so a
new leader counts the same. A replicated job's task has its index in SWARMPY_JOB_INDEX (from 0).

Keys: service ids. Writes Task.desired_state, Service.job, and pending_delete when a job's `ttl` is over
and no service waits for it to complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from swarmpy.node.plan import restart
from swarmpy.node.plan.base import (
    CHANGES_PER_PLAN,
    ChangeEvent,
    NewId,
    Plan,
    View,
    copy_of,
    desired_running,
    earliest,
    is_failure,
    is_live,
    is_ready,
    is_terminal,
    may_run,
)
from swarmpy.node.plan.filters import eligible, startable
from swarmpy.node.plan.gate import JOB_MODES, Dependents, awaited_jobs, obstacle
from swarmpy.node.plan.replicated import services_on_node, task_event_matters
from swarmpy.node.plan.tasks import READY, REMOVE, RUNNING, SHUTDOWN, Edits, age_order, new_task
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

BACKOFF_LIMIT = 6
COMPLETE = types_pb2.TASK_COMPLETE
_ENDED = (objects_pb2.JOB_COMPLETE, objects_pb2.JOB_FAILED)


def is_job(service: object) -> bool:
    return isinstance(service, objects_pb2.Service) and service.spec.WhichOneof("mode") in JOB_MODES


def policy_of(service: objects_pb2.Service) -> objects_pb2.JobPolicy:
    if service.spec.WhichOneof("mode") == "global_job":
        return service.spec.global_job.policy
    return service.spec.replicated_job.policy


def backoff_limit(service: objects_pb2.Service) -> int:
    policy = policy_of(service)
    return policy.backoff_limit if policy.HasField("backoff_limit") else BACKOFF_LIMIT


class JobsPlanner:
    """See the module."""

    name = "jobs"
    keys_per_plan = 20

    def __init__(self) -> None:
        self._dependents = Dependents()

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        keys: list[str] = []
        if event.kind == store_pb2.KIND_SERVICE:
            keys = [event.id] if is_job(event.new) else []
            if isinstance(event.old, objects_pb2.Service):
                keys += awaited_jobs(event.old, view)  # which may be deleted now
        elif event.kind == store_pb2.KIND_TASK and task_event_matters(event):
            task = event.new or event.old
            if isinstance(task, objects_pb2.Task) and is_job(view.service(task.service_id)):
                keys = [task.service_id]
        elif event.kind == store_pb2.KIND_NODE:
            everywhere = [s.meta.id for s in view.services() if s.spec.HasField("global_job")]
            keys = [*services_on_node(event, view), *everywhere]
        return [*keys, *self._dependents.of(event, view)]

    def all_keys(self, view: View) -> Iterable[str]:
        self._dependents.forget()
        return [service.meta.id for service in view.services() if is_job(service)]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        plan = Plan()
        for key in keys:
            service = view.service(key)
            if service is None or service.pending_delete or not is_job(service):
                continue  # a service on its way out is the replicated planner's, whatever its mode
            if len(plan.changes) >= CHANGES_PER_PLAN:
                plan.wake_ms = now_ms
                break
            run = _Job(view, service, now_ms, new_id)
            run.plan()
            plan.changes += run.edits.changes
            plan.wake_ms = earliest(plan.wake_ms, run.wake_ms)
        return plan


@dataclass(slots=True)
class _Slot:
    number: int
    node_id: str
    tasks: list[objects_pb2.Task] = field(default_factory=list)  # of this iteration, oldest first

    @property
    def newest(self) -> objects_pb2.Task | None:
        return self.tasks[-1] if self.tasks else None

    @property
    def is_done(self) -> bool:
        """Any attempt counts: one that was told to stop may complete while its successor is being made."""
        return any(task.status.state == COMPLETE for task in self.tasks)

    @property
    def failures(self) -> int:
        newest = self.newest
        return 0 if newest is None else newest.restart.count + is_failure(newest.status.state)


def _may_hold(node: objects_pb2.Node) -> bool:
    """Whether a global job waits for the node: it answers, and is not being emptied."""
    drained = node.spec.availability == types_pb2.AVAILABILITY_DRAIN
    return node.status.state == types_pb2.NODE_READY and not drained and not node.removed


class _Job:
    """One planning run for one job."""

    def __init__(self, view: View, service: objects_pb2.Service, now_ms: int, new_id: NewId) -> None:
        self.view, self.service, self.now_ms, self.new_id = view, service, now_ms, new_id
        self.edits = Edits(now_ms=now_ms)
        self.wake_ms: int | None = None
        self.waiting = ""
        self.busy = 0  # tasks that run or are to, those that are still stopping with them
        self.status = objects_pb2.JobStatus()
        self.status.CopyFrom(service.job)
        self.iteration = service.spec.task.force_update
        self.is_global = service.spec.WhichOneof("mode") == "global_job"
        if not self.status.started_ms or self.status.iteration != self.iteration:
            self.status.CopyFrom(objects_pb2.JobStatus(iteration=self.iteration))

    def plan(self) -> None:
        tasks = self.view.tasks_of_service(self.service.meta.id)
        if self.service.spec.stopped:
            self._stop(tasks, "STOPPED")
            return
        slots = self._slots(tasks)
        self.busy = sum(is_live(task, self.view) or may_run(task, self.view) for task in tasks)
        if self.status.state != objects_pb2.JOB_FAILED:
            self.waiting = obstacle(self.view, self.service, tasks)
            self._go_on(slots)
        else:
            self._stop(tasks, "JOB_FAILED")
        self._end()
        changed = copy_of(self.service)
        changed.job.CopyFrom(self.status)
        changed.waiting = self.waiting
        changed.pending_delete = self._is_over_due()
        if changed != self.service:
            self.edits.put_service(changed)

    def _slots(self, tasks: Iterable[objects_pb2.Task]) -> list[_Slot]:
        """The slots there should be, with their tasks; others and earlier iterations are removed."""
        slots: dict[tuple[int, str], _Slot] = {}
        if self.is_global:
            chosen = self.service.pull_nodes
            for node in self.view.nodes():
                if chosen and not (node.meta.id in chosen and is_ready(node)):
                    continue
                if _may_hold(node) and eligible(node, self.service.spec.task):
                    slots[0, node.meta.id] = _Slot(0, node.meta.id)
        else:
            for number in range(1, self.service.spec.replicated_job.completions + 1):
                slots[number, ""] = _Slot(number, "")
        for task in tasks:
            slot = slots.get((task.slot, task.node_id if self.is_global else ""))
            if task.spec.force_update != self.iteration:
                self.edits.desire(task, REMOVE, "SUPERSEDED")
            elif slot is None:
                # What was done on a node that is down now need not be done again when it returns.
                gone = not self.is_global or task.status.state != COMPLETE
                self.edits.desire(task, REMOVE if gone else COMPLETE, "SCALED_DOWN")
            elif task.desired_state != REMOVE:
                slot.tasks.append(task)
        for slot in slots.values():
            slot.tasks.sort(key=age_order)
        return [slot for slot in slots.values() if not self.is_global or self._counts(slot)]

    def _counts(self, slot: _Slot) -> bool:
        """A tainted node is none of a global job's, unless the job was there before the taint."""
        if slot.is_done or self._is_under_way(slot):
            return True
        node = self.view.node(slot.node_id)
        return node is not None and startable(node, self.service.spec.task)

    def _go_on(self, slots: list[_Slot]) -> None:
        self.status.started_ms = self.status.started_ms or (0 if self.waiting else self.now_ms)
        for slot in slots:
            self._close(slot)
        failures = sum(slot.failures for slot in slots)
        self.status.succeeded, self.status.failures = sum(slot.is_done for slot in slots), failures
        if failures > backoff_limit(self.service):
            self._give_up(slots, f"{failures} attempts failed, the limit is {backoff_limit(self.service)}")
            return
        policy = policy_of(self.service)
        if policy.deadline_ms and self.status.started_ms:
            due_ms = self.status.started_ms + policy.deadline_ms
            if due_ms <= self.now_ms and self.status.succeeded < len(slots):
                self._give_up(slots, f"it took longer than {policy.deadline_ms / 1000:g} s")
                return
            self.wake_ms = earliest(self.wake_ms, due_ms if due_ms > self.now_ms else None)
        hopeless = self._start(slots)
        missing = len(slots) - self.status.succeeded
        if hopeless and hopeless == missing:
            self._give_up(slots, f"{hopeless} of {len(slots)} tasks failed and are not tried again")
        elif slots and not missing and not self.waiting:
            self.status.state, self.status.message = objects_pb2.JOB_COMPLETE, ""
        else:
            self.status.state = objects_pb2.JOB_RUNNING

    def _close(self, slot: _Slot) -> None:
        """What ended is wanted no more: its history may be shortened."""
        for task in slot.tasks:
            if task.status.state == COMPLETE:
                self.edits.desire(task, COMPLETE)
            elif desired_running(task) and not is_live(task, self.view):
                self.edits.desire(task, SHUTDOWN, "NODE_LOST")
            elif slot.is_done:
                self.edits.desire(task, SHUTDOWN, "SLOT_DONE")

    def _start(self, slots: list[_Slot]) -> int:
        """Start what may run; returns how many slots will not be tried again."""
        limit = 0 if self.is_global else self.service.spec.replicated_job.max_concurrent
        room = limit - self.busy if limit else len(slots)
        hopeless = 0
        for slot in slots:
            newest = slot.newest
            if slot.is_done:
                continue
            if newest is not None and self._is_under_way(slot):
                self._start_if_due(newest)
                continue
            carried = newest.restart if newest is not None else None
            if newest is not None and is_failure(newest.status.state):
                carried = restart.successor(newest, self.now_ms)
                if carried is None:
                    hopeless += 1
                    continue
                if carried.start_after_ms > self.now_ms and not restart.was_prepared(newest):
                    self.wake_ms = earliest(self.wake_ms, carried.start_after_ms)
                    continue  # it would fail again at once
            may_start = not self.waiting and len(self.edits) < CHANGES_PER_PLAN
            if room > 0 and may_start and self._node_takes(slot):
                self._make(slot, carried)
                room -= 1
        return hopeless

    def _is_under_way(self, slot: _Slot) -> bool:
        """A task runs, waits for its time, or, of a fenced service, is still stopping."""
        return any(
            is_live(task, self.view) or (task.spec.fenced and may_run(task, self.view)) for task in slot.tasks
        )

    def _node_takes(self, slot: _Slot) -> bool:
        return not self.is_global or is_ready(self.view.node(slot.node_id))

    def _start_if_due(self, task: objects_pb2.Task) -> None:
        if task.desired_state != READY:
            return
        if task.restart.start_after_ms > self.now_ms:
            self.wake_ms = earliest(self.wake_ms, task.restart.start_after_ms)
        else:
            self.edits.desire(task, RUNNING)

    def _make(self, slot: _Slot, carried: objects_pb2.Restart | None) -> None:
        due_ms = carried.start_after_ms if carried is not None else 0
        task = new_task(
            self.service, self.new_id, self.now_ms, slot=slot.number, node_id=slot.node_id,
            desired=READY if due_ms > self.now_ms else RUNNING, restart=carried,
        )  # fmt: skip
        if not self.is_global:
            completions = self.service.spec.replicated_job.completions
            task.env.extend(
                [
                    f"SWARMPY_JOB_INDEX={slot.number - 1}",
                    f"SWARMPY_JOB_COMPLETIONS={completions}",
                    f"JOB_COMPLETION_INDEX={slot.number - 1}",
                ]
            )
        self.edits.create(task)
        self.wake_ms = earliest(self.wake_ms, due_ms if due_ms > self.now_ms else None)

    def _give_up(self, slots: list[_Slot], message: str) -> None:
        created = [key for key, change in self.edits.by_id.items() if not change.expected_version]
        for key in created:
            del self.edits.by_id[key]
        self.status.state, self.status.message = objects_pb2.JOB_FAILED, message
        for slot in slots:
            self._stop(slot.tasks, "JOB_FAILED")

    def _stop(self, tasks: Iterable[objects_pb2.Task], reason: str) -> None:
        for task in tasks:
            if desired_running(task) and not is_terminal(task.status.state):
                self.edits.desire(task, SHUTDOWN, reason)

    def _end(self) -> None:
        """The time a job ended: set once, gone when it goes on."""
        if self.status.state not in _ENDED:
            self.status.completed_ms = 0
        elif not self.status.completed_ms:
            self.status.completed_ms = self.now_ms

    def _is_over_due(self) -> bool:
        ttl_ms = policy_of(self.service).ttl_ms
        if not ttl_ms or not self.status.completed_ms:
            return False
        if any(self.service.meta.id in awaited_jobs(other, self.view) for other in self.view.services()):
            return False
        due_ms = self.status.completed_ms + ttl_ms
        if due_ms > self.now_ms:
            self.wake_ms = earliest(self.wake_ms, due_ms)
            return False
        return True
