"""Pre-deploy steps: a job that runs once before a service's new revision makes its first task.

The step is a service of its own (NAME-pre-VERSION, owned by the service): one task with the service's
environment, mounts and networks, and the step's image and command. When it completes, the service's
`pre_deployed` is its version and the gate opens. When it fails, or takes longer than its timeout (5 min),
the update fails as its policy says: back to the revision before, or paused with the reason. The last step
stays, for its logs; it goes with the service or when the next step is made. It reserves nothing, so that
it finds a place while the tasks of the revision before hold theirs.

Keys: service ids. Writes Service.pre_deployed, the update status when a step failed, and the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import ChangeEvent, Draft, NewId, Plan, View, copy_of, is_full, limited
from swarmpy.node.plan.gate import needs_step, step_name
from swarmpy.node.plan.revisions import rolled_back
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

TIMEOUT_MS = 300_000
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
                if service.spec.HasField("pre_deploy"):
                    keys.append(event.id)
                if service.owner_version:
                    keys.append(service.owner_id)
        return keys

    def all_keys(self, view: View) -> Iterable[str]:
        owners = {service.owner_id for service in view.services() if service.owner_version}
        return sorted(owners | {s.meta.id for s in view.services() if s.spec.HasField("pre_deploy")})

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
    needed = not gone and service is not None and needs_step(service)
    for step in steps:
        last = service is not None and step.owner_version == (
            service.spec_version if needed else service.pre_deployed
        )
        if gone or not last:
            _remove(draft, step)
    if service is None or not needed:
        return
    present = next((step for step in steps if step.owner_version == service.spec_version), None)
    if present is None:
        draft.put(_step_of(draft, service, now_ms, new_id))
    elif present.job.state == objects_pb2.JOB_COMPLETE:
        changed = copy_of(service)
        changed.pre_deployed = service.spec_version
        draft.put(changed)
    elif present.job.state == objects_pb2.JOB_FAILED and service.update_status.state != _PAUSED:
        draft.put(_failed(service, present, now_ms))


def _step_of(draft: Draft, service: objects_pb2.Service, now_ms: int, new_id: NewId) -> objects_pb2.Service:
    wanted = service.spec.pre_deploy
    step = objects_pb2.Service(spec_version=1, owner_id=service.meta.id, owner_version=service.spec_version)
    step.meta.id, step.meta.namespace = new_id(), service.meta.namespace
    name = step_name(service)
    taken = draft.by_name(store_pb2.KIND_SERVICE, name, service.meta.namespace) is not None
    step.meta.name = f"{name}-{step.meta.id[:6]}" if taken else name
    step.meta.created_ms = now_ms
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


def _failed(service: objects_pb2.Service, step: objects_pb2.Service, now_ms: int) -> objects_pb2.Service:
    message = f"pre-deploy step {step.meta.name} failed: {step.job.message or 'no reason given'}"
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
