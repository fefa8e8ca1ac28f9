"""What a service waits for before it makes tasks: other services, and the steps before an update. Pure.

    depends on X: started      one task of X runs
    depends on X: healthy      all tasks that X wants run and are ready
    depends on X: completed    X is a job (or a one-shot service) and has completed

Dependencies hold back only a service that runs nowhere: the first start, and the start after everything
was down. A service that runs is never taken down, nor left short, because another one is in trouble.

A step (images first on the nodes that run the service, then the pre-deploy step) holds back every task of a new
revision until it is done (see `predeploy`); tasks of the revision before run on: one of them that dies is replaced
by its like, and a slot that a rescale or a new node adds gets the revision that most of them are of. A rollback does
not wait: the step was made for going forward.

A job that others wait for to complete is not deleted by its `ttl` while they exist: they could never tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.node.plan.affinity import service_named
from swarmpy.node.plan.base import ChangeEvent, View, is_away, is_live
from swarmpy.node.plan.budgets import wanted_replicas
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

PULL, PRE_DEPLOY = "pull", "pre"  # sorts of steps, and what their names have in the middle
WAY_MAX = 200  # services of a chain that is followed; a longer circle waits without being named
JOB_MODES = frozenset({"replicated_job", "global_job"})
_ROLLED_BACK = (
    objects_pb2.UPDATE_ROLLBACK_STARTED,
    objects_pb2.UPDATE_ROLLBACK_PAUSED,
    objects_pb2.UPDATE_ROLLBACK_COMPLETED,
)


def obstacle(view: View, service: objects_pb2.Service, tasks: Iterable[objects_pb2.Task]) -> str:
    """Why no new task may be made now, or ""."""
    if service.spec.depends_on and not any(is_live(task, view) for task in tasks):
        for dependency in service.spec.depends_on:
            if problem := dependency_problem(view, service, dependency):
                return problem
    return _waits_for_step(service) if needs_step(service) else ""


def _waits_for_step(service: objects_pb2.Service) -> str:
    if awaited_step(service) == PULL:
        return f"waits for its image on the nodes that run it: {step_name(service)}"
    return f"waits for its pre-deploy step {step_name(service)}"


def keeps_before(service: objects_pb2.Service, waiting: str) -> bool:
    """Whether slots are kept filled with the revision before: nothing but a step is waited for."""
    return bool(waiting) and needs_step(service) and waiting == _waits_for_step(service)


def awaited_jobs(service: objects_pb2.Service, view: View) -> list[str]:
    """The services that this one waits for to complete."""
    found = (
        service_named(view, wanted.service, service.meta.namespace)
        for wanted in service.spec.depends_on
        if wanted.condition == objects_pb2.DEPENDENCY_COMPLETED
    )
    return [other.meta.id for other in found if other is not None]


def has_steps(spec: objects_pb2.ServiceSpec) -> bool:
    """Whether revisions of the service are preceded by a step."""
    return spec.HasField("pre_deploy") or spec.update.prefetch


def awaited_step(service: objects_pb2.Service) -> str:
    """The sort of the step that is to come before the present revision: PULL, PRE_DEPLOY, or "" = none."""
    spec, version = service.spec, service.spec_version
    if not has_steps(spec) or spec.stopped or service.update_status.state in _ROLLED_BACK:
        return ""
    if spec.update.prefetch and service.previous_specs and service.prefetched != version:
        return PULL
    return PRE_DEPLOY if spec.HasField("pre_deploy") and service.pre_deployed != version else ""


def needs_step(service: objects_pb2.Service) -> bool:
    """Whether a step before the present revision is still to come."""
    return bool(awaited_step(service))


def step_name(service: objects_pb2.Service) -> str:
    """The job that is the step a revision waits for."""
    return f"{service.meta.name[:40]}-{awaited_step(service)}-{service.spec_version}"


def dependency_problem(view: View, service: objects_pb2.Service, wanted: objects_pb2.Dependency) -> str:
    other = service_named(view, wanted.service, service.meta.namespace)
    if other is None or other.pending_delete:
        return f"waits for service {wanted.service}, which does not exist"
    if cycle := cycle_from(view, service):
        return f"waits for itself: {' → '.join(cycle)}"
    tasks = view.tasks_of_service(other.meta.id)
    live = [task for task in tasks if is_live(task, view) and not is_away(task, view)]
    up = [task for task in live if task.status.state == types_pb2.TASK_RUNNING]
    match wanted.condition:
        case objects_pb2.DEPENDENCY_COMPLETED:
            return "" if has_completed(other, tasks) else f"waits for service {wanted.service} to complete"
        case objects_pb2.DEPENDENCY_HEALTHY:
            ready, need = sum(task.status.ready for task in up), max(1, wanted_replicas(other, tasks))
            return (
                "" if ready >= need else f"waits for service {wanted.service}: {ready} of {need} are healthy"
            )
    return "" if up or has_completed(other, tasks) else f"waits for service {wanted.service} to start"


def has_completed(service: objects_pb2.Service, tasks: Iterable[objects_pb2.Task]) -> bool:
    """A job that is complete, or a service each of whose slots ended well for good."""
    if service.spec.WhichOneof("mode") in JOB_MODES:
        done = service.job.state == objects_pb2.JOB_COMPLETE
        return done and service.job.iteration == service.spec.task.force_update
    if service.spec.task.restart.condition == types_pb2.RESTART_ANY or not service.spec.replicated.replicas:
        return False
    done_slots = {task.slot for task in tasks if task.status.state == types_pb2.TASK_COMPLETE}
    return len(done_slots) >= service.spec.replicated.replicas


def cycle_from(view: View, service: objects_pb2.Service) -> list[str]:
    """The names on a way from the service back to itself, or nothing."""
    start, path, seen = service.meta.id, [service.meta.name], {service.meta.id}

    def walk(found: objects_pb2.Service) -> bool:
        for dependency in found.spec.depends_on:
            other = service_named(view, dependency.service, found.meta.namespace)
            if other is None:
                continue
            path.append(other.meta.name)
            if other.meta.id == start:
                return True
            if other.meta.id not in seen and len(path) < WAY_MAX:
                seen.add(other.meta.id)
                if walk(other):
                    return True
            path.pop()
        return False

    return path if walk(service) else []


class Dependents:
    """Which services wait on which, for marking them dirty; a memo, made anew when a service changes."""

    def __init__(self) -> None:
        self._by_target: dict[str, list[str]] | None = None

    def forget(self) -> None:
        self._by_target = None

    def of(self, event: ChangeEvent, view: View) -> list[str]:
        """Services whose dependencies an event may have met."""
        if event.kind == store_pb2.KIND_SERVICE:
            self._by_target = None
            return self._targets(view).get(event.id, [])
        new, old = event.new, event.old
        if self._by_target is not None and not self._by_target:
            return []
        if not isinstance(new, objects_pb2.Task) or not isinstance(old, objects_pb2.Task):
            return []
        if new.status.state == old.status.state and new.status.ready == old.status.ready:
            return []
        if new.status.state < types_pb2.TASK_RUNNING:
            return []
        return self._targets(view).get(new.service_id, [])

    def _targets(self, view: View) -> dict[str, list[str]]:
        if self._by_target is None:
            self._by_target = {}
            for service in view.services():
                for dependency in service.spec.depends_on:
                    other = service_named(view, dependency.service, service.meta.namespace)
                    if other is not None:
                        self._by_target.setdefault(other.meta.id, []).append(service.meta.id)
        return self._by_target


def put_waiting(service: objects_pb2.Service, reason: str) -> objects_pb2.Service | None:
    """A copy that says why the service waits; None if it says so already."""
    if service.waiting == reason:
        return None
    changed = objects_pb2.Service()
    changed.CopyFrom(service)
    changed.waiting = reason
    return changed
