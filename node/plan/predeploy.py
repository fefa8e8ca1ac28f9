"""Steps before a service's new revision makes its first task: jobs that have to complete.

**Prefetch** (`--prefetch`): a global job (NAME-pull-VERSION) on the nodes that run the service, and as many others
that may, whose tasks only get the new images. It is made of nothing but these: no network, no volume, no
reservation. An image that cannot be had fails the update before anything was stopped; the job may fail a few times
and take as long as a task of the update.

**Pre-deploy**: the step is a service of its own (NAME-pre-VERSION, owned by the service): one task with the service's
environment, mounts and networks, and the step's image and command. When it completes, the service's
`pre_deployed` is its version and the gate opens. When it fails, or takes longer than its timeout (5 min),
the update fails as its policy says: back to the revision before, or paused with the reason. The last step
stays, for its logs; it goes with the service or when the next step is made. It reserves nothing, so that
it finds a place while the tasks of the revision before hold theirs.

Keys: service ids. Writes Service.prefetched and pre_deployed, the update status when a step failed, and the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import (
    ChangeEvent,
    Draft,
    NewId,
    Plan,
    View,
    copy_of,
    is_failure,
    is_full,
    is_live,
    is_ready,
    limited,
)
from swarmpy.node.plan.filters import eligible, startable
from swarmpy.node.plan.gate import PRE_DEPLOY, PULL, awaited_step, has_steps, step_name
from swarmpy.node.plan.revisions import rolled_back
from swarmpy.node.plan.update import PROGRESS_DEADLINE_MS
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

TIMEOUT_MS = 300_000
PULL_FAILURES_MAX = 3
_PAUSED = objects_pb2.UPDATE_PAUSED


class PreDeployPlanner:
    """See the module."""

    name = "pre-deploy"
    heeds = (store_pb2.KIND_SERVICE,)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind != store_pb2.KIND_SERVICE:
            return ()
        keys = []
        for service in (event.old, event.new):
            if isinstance(service, objects_pb2.Service):
                if has_steps(service.spec):
                    keys.append(event.id)
                if service.owner_version:
                    keys.append(service.owner_id)
        return keys

    def all_keys(self, view: View) -> Iterable[str]:
        owners = {service.owner_id for service in view.services() if service.owner_version}
        return sorted(owners | {s.meta.id for s in view.services() if has_steps(s.spec)})

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft = Draft(view)
        for key in dict.fromkeys(keys):
            if is_full(draft):
                break
            steps = [s for s in view.services() if s.owner_id == key and s.owner_version]
            _plan_service(draft, view.service(key), steps, now_ms, new_id)
        return limited(draft, now_ms)


def _plan_service(
    draft: Draft,
    service: objects_pb2.Service | None,
    steps: list[objects_pb2.Service],
    now_ms: int,
    new_id: NewId,
) -> None:
    gone = service is None or service.pending_delete
    awaited = "" if gone or service is None else awaited_step(service)
    for step in steps:
        if gone or service is None or not _is_kept(step, service, awaited):
            _remove(draft, step)
    if service is None or not awaited:
        return
    pulls = awaited == PULL
    present = next((step for step in steps if _is_of(step, service, pulls=pulls)), None)
    if present is None:
        made = _pull_of(draft, service) if pulls else _step_of(service)
        if made is not None:
            draft.put(_named(draft, made, service, now_ms, new_id))
            return
    if present is None or present.job.state == objects_pb2.JOB_COMPLETE:
        changed = copy_of(service)
        setattr(changed, "prefetched" if pulls else "pre_deployed", service.spec_version)
        draft.put(changed)
    elif present.job.state == objects_pb2.JOB_FAILED and service.update_status.state != _PAUSED:
        draft.put(_failed(draft, service, present, now_ms))


def _is_of(step: objects_pb2.Service, service: objects_pb2.Service, *, pulls: bool) -> bool:
    """Whether it is the step of that sort before the present revision."""
    return bool(step.pull_nodes) == pulls and step.owner_version == service.spec_version


def _is_kept(step: objects_pb2.Service, service: objects_pb2.Service, awaited: str) -> bool:
    """The one that is waited for; else the last pre-deploy step, for its logs."""
    if step.pull_nodes:
        return awaited == PULL and _is_of(step, service, pulls=True)
    return step.owner_version == (service.spec_version if awaited == PRE_DEPLOY else service.pre_deployed)


def _named(
    draft: Draft, step: objects_pb2.Service, service: objects_pb2.Service, now_ms: int, new_id: NewId
) -> objects_pb2.Service:
    """The step as the service's own."""
    step.spec_version, step.owner_id, step.owner_version = 1, service.meta.id, service.spec_version
    step.meta.id, step.meta.namespace = new_id(), service.meta.namespace
    name = step_name(service)
    taken = draft.by_name(store_pb2.KIND_SERVICE, name, service.meta.namespace) is not None
    step.meta.name = f"{name}-{step.meta.id[:6]}" if taken else name
    step.meta.created_ms = now_ms
    return step


def _pull_of(draft: Draft, service: objects_pb2.Service) -> objects_pb2.Service | None:
    """Get the images of the present revision where the former ones run; None where that is nowhere."""
    nodes = _places(draft, service)
    if not nodes:
        return None
    step = objects_pb2.Service(pull_nodes=nodes)
    task, wanted = step.spec.task, service.spec.task
    task.pull_only, task.network_mode = True, "none"
    task.placement.tolerations.add()  # it goes where the service is
    task.container.CopyFrom(_bare(wanted.container))
    for part in (*wanted.init_containers, *wanted.sidecars):
        task.sidecars.add(name=part.name, container=_bare(part.container))
    task.restart.condition = types_pb2.RESTART_ON_FAILURE
    update, policy = service.spec.update, step.spec.global_job.policy
    given = update.HasField("progress_deadline_ms")
    policy.backoff_limit = PULL_FAILURES_MAX
    policy.deadline_ms = update.progress_deadline_ms if given else PROGRESS_DEADLINE_MS
    return step


def _places(draft: Draft, service: objects_pb2.Service) -> list[str]:
    """Nodes that run the service, and as many others that may, the emptiest first: successors go there."""
    tasks = (task for task in draft.tasks_of_service(service.meta.id) if is_live(task, draft))
    ready = {node.meta.id: node for node in draft.nodes() if is_ready(node)}
    running = {task.node_id for task in tasks} & ready.keys()
    spec = service.spec.task
    others = [
        node_id for node_id, node in ready.items()
        if node_id not in running and eligible(node, spec) and startable(node, spec)
    ]  # fmt: skip
    others.sort(key=lambda node_id: (len(draft.tasks_of_node(node_id)), node_id))
    return sorted([*running, *others[: len(running)]])


def _bare(container: types_pb2.ContainerSpec) -> types_pb2.ContainerSpec:
    """What is needed of it to get its image."""
    return types_pb2.ContainerSpec(
        image=container.image, image_digest=container.image_digest, pull_policy=container.pull_policy
    )


def _step_of(service: objects_pb2.Service) -> objects_pb2.Service:
    wanted = service.spec.pre_deploy
    step = objects_pb2.Service()
    task = step.spec.task
    task.CopyFrom(service.spec.task)
    task.restart.CopyFrom(types_pb2.RestartPolicy(condition=types_pb2.RESTART_NONE))
    task.placement.max_replicas_per_node = 0
    task.resources.ClearField("reservations")
    del task.init_containers[:], task.sidecars[:]
    for reference in task.networks:  # its tasks have theirs
        del reference.task_addresses[:], reference.task_addresses6[:]
    container = task.container
    for checks in ("health", "readiness", "startup"):  # of the service's program, which does not run here
        container.ClearField(checks)
    for mount in container.mounts:
        if mount.type == types_pb2.MOUNT_POD:  # with nobody to share it: a directory of its own
            mount.type, mount.source, mount.volume_nocopy = types_pb2.MOUNT_VOLUME, "", True
            mount.tmpfs_size_bytes = mount.tmpfs_mode = 0
    container.args[:] = wanted.args
    if wanted.image and wanted.image != container.image:
        container.image, container.image_digest = wanted.image, wanted.image_digest
        container.ClearField("command")
    job = step.spec.replicated_job
    job.completions = 1
    job.policy.backoff_limit = 0
    job.policy.deadline_ms = wanted.timeout_ms or TIMEOUT_MS
    return step


def _failed(
    draft: Draft, service: objects_pb2.Service, step: objects_pb2.Service, now_ms: int
) -> objects_pb2.Service:
    why = step.job.message or "no reason given"
    message = f"pre-deploy step {step.meta.name} failed: {why}"
    if step.pull_nodes:
        failed = (t for t in draft.tasks_of_service(step.meta.id) if is_failure(t.status.state))
        last = max(failed, key=lambda task: task.status.since_ms, default=None)
        message = (
            f"its image could not be had before the update: {why if last is None else last.status.error}"
        )
    if service.spec.update.failure_action == types_pb2.FAILURE_ROLLBACK:
        back = rolled_back(service, now_ms, f"update rolled back: {message}", problem=message)
        if back is not None:
            return back
    changed = copy_of(service)
    changed.update_status.state = _PAUSED
    changed.update_status.message = f"update paused: {message}"
    changed.update_status.completed_ms = now_ms
    return changed


def _remove(draft: Draft, step: objects_pb2.Service) -> None:
    marked = copy_of(step)
    marked.pending_delete = True
    draft.put(marked)
