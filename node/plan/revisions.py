"""A service's past and present specifications, and what a person may do with an update.

A *revision* is a task template: it changes when tasks must be replaced, and its number is the
`spec_version` it first had. The newest ten earlier ones are kept, or as many as the service says, of large
ones as many as have 600 kB together. Going back takes the template, ports and
networks of an earlier revision under a new number; replicas, labels and update policies stay as they
are now, because who rolls an image back does not mean to undo a scaling. A revision that was rolled back is
kept with its problem and is never gone back to by itself.

    ValueError
    └── NotNow     the update is not in a state for that; the sentence says in which it is
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.node.plan.base import SPEC_HISTORY_BYTES, SPEC_HISTORY_LIMIT, View, copy_of, is_live
from swarmpy.node.plan.tasks import host_ports_of
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

_RUNNING = (objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_WAITING)
_PAUSES = {
    objects_pb2.UPDATE_UPDATING: objects_pb2.UPDATE_PAUSED,
    objects_pb2.UPDATE_ROLLBACK_STARTED: objects_pb2.UPDATE_ROLLBACK_PAUSED,
}
_RESUMES = {paused: running for running, paused in _PAUSES.items()}
_WORDS = {
    objects_pb2.UPDATE_NONE: "no update was made yet",
    objects_pb2.UPDATE_UPDATING: "an update is under way",
    objects_pb2.UPDATE_PAUSED: "the update is paused",
    objects_pb2.UPDATE_COMPLETED: "the last update is complete",
    objects_pb2.UPDATE_ROLLBACK_STARTED: "a rollback is under way",
    objects_pb2.UPDATE_ROLLBACK_PAUSED: "a rollback is paused",
    objects_pb2.UPDATE_ROLLBACK_COMPLETED: "the last update was rolled back",
    objects_pb2.UPDATE_WAITING: "the update waits for promotion",
}


class NotNow(ValueError):
    """The action does not fit the state of the service's update."""


def task_template_changed(old: objects_pb2.ServiceSpec, new: objects_pb2.ServiceSpec) -> bool:
    """Whether going from one spec to the other replaces the tasks."""
    return old.task != new.task or host_ports_of(old) != host_ports_of(new)


def with_new_spec(
    service: objects_pb2.Service, spec: objects_pb2.ServiceSpec, now_ms: int = 0
) -> objects_pb2.Service:
    """A copy of the service with a new spec, as a user's update makes it."""
    changed = copy_of(service)
    if task_template_changed(service.spec, spec):
        if not _only_forced(service.spec, spec):
            changed.spec.history_limit = spec.history_limit
            _remember(changed, service, "")
        hidden = list(service.update_status.hidden_versions)
        changed.ClearField("update_status")
        if hidden:  # nothing that was kept out of traffic comes into it by a further update
            changed.update_status.hidden_versions.extend(hidden)
        changed.spec_version += 1
        changed.revision_ms = now_ms
    changed.spec.CopyFrom(spec)
    if len(changed.previous_specs) > (limit := history_limit(spec)):
        _keep(changed, changed.previous_specs[:limit], revisions(changed)[:limit])
    return changed


def history_limit(spec: objects_pb2.ServiceSpec) -> int:
    """How many earlier revisions are kept."""
    return spec.history_limit or SPEC_HISTORY_LIMIT


def _only_forced(old: objects_pb2.ServiceSpec, new: objects_pb2.ServiceSpec) -> bool:
    """A restart makes no revision: it would push a real one out of the ten."""
    like_old = copy_of(new.task)
    like_old.force_update = old.task.force_update
    return like_old == old.task and host_ports_of(old) == host_ports_of(new)


def _remember(changed: objects_pb2.Service, service: objects_pb2.Service, problem: str) -> None:
    """Put the present spec first among the earlier ones."""
    entry = objects_pb2.Revision(
        revision=service.spec_version,
        since_ms=service.revision_ms or service.meta.created_ms,
        problem=problem,
    )
    specs = [service.spec, *changed.previous_specs][: history_limit(changed.spec)]
    while len(specs) > 1 and sum(spec.ByteSize() for spec in specs) > SPEC_HISTORY_BYTES:
        specs.pop()
    _keep(changed, specs, [entry, *revisions(changed)][: len(specs)])


def _keep(
    changed: objects_pb2.Service,
    specs: Sequence[objects_pb2.ServiceSpec],
    entries: Sequence[objects_pb2.Revision],
) -> None:
    kept = [copy_of(spec) for spec in specs]  # they may be of the list that is emptied
    del changed.previous_specs[:], changed.previous[:]
    changed.previous_specs.extend(kept)
    changed.previous.extend(entries)


def revisions(service: objects_pb2.Service) -> list[objects_pb2.Revision]:
    """One for each of `previous_specs`; those of older clusters are numbered backwards."""
    known = list(service.previous)
    lowest = known[-1].revision if known else service.spec_version
    missing = len(service.previous_specs) - len(known)
    return [*known, *(objects_pb2.Revision(revision=max(0, lowest - 1 - n)) for n in range(missing))]


def rolled_back(
    service: objects_pb2.Service, now_ms: int, message: str, *, revision: int = 0, problem: str = ""
) -> objects_pb2.Service | None:
    """A copy of the service going back to an earlier revision; None if there is none to go back to."""
    entries = revisions(service)
    fits = [n for n, e in enumerate(entries) if (e.revision == revision if revision else not e.problem)]
    if not fits:
        return None
    position = fits[0]
    target = service.previous_specs[position]
    changed = copy_of(service)
    del changed.previous[:]
    changed.previous.extend(entries)
    del changed.previous_specs[position], changed.previous[position]
    _remember(changed, service, problem)
    changed.spec.task.CopyFrom(target.task)
    if target.HasField("endpoint"):
        changed.spec.endpoint.CopyFrom(target.endpoint)
    else:
        changed.spec.ClearField("endpoint")
    changed.spec_version += 1
    changed.revision_ms = now_ms
    status = objects_pb2.UpdateStatus(
        state=objects_pb2.UPDATE_ROLLBACK_STARTED, message=message, started_ms=now_ms
    )
    if service.update_status.hidden_versions:  # blue-green: the old tasks still run, and take over at once
        status.hidden_versions.append(service.spec_version)
    changed.update_status.CopyFrom(status)
    return changed


def acted(
    view: View, service: objects_pb2.Service, request: control_pb2.RolloutRequest, now_ms: int, actor: str
) -> objects_pb2.Service:
    """A copy of the service after what a person asked for; raises NotNow."""
    status, action = service.update_status, request.action
    name = service.meta.name
    if action == control_pb2.ROLLOUT_ROLLBACK:
        return _back(service, now_ms, request.revision, f"rollback by {actor}")
    if action == control_pb2.ROLLOUT_ABORT:
        if status.state not in (*_RUNNING, objects_pb2.UPDATE_PAUSED):
            raise NotNow(f"service {name} has nothing to abort: {_WORDS[status.state]}")
        return _back(service, now_ms, 0, f"update aborted by {actor}", problem=f"aborted by {actor}")
    changed = copy_of(service)
    if action == control_pb2.ROLLOUT_PROMOTE:
        if status.state != objects_pb2.UPDATE_WAITING:
            raise NotNow(f"service {name} has nothing to promote: {_WORDS[status.state]}")
        promote(changed, view, now_ms, f"promoted by {actor}")
    elif action == control_pb2.ROLLOUT_PAUSE:
        if status.state not in _PAUSES:
            raise NotNow(f"service {name} has nothing to pause: {_WORDS[status.state]}")
        changed.update_status.state = _PAUSES[status.state]
        changed.update_status.message = f"paused by {actor}"
    elif action == control_pb2.ROLLOUT_RESUME:
        if status.state not in _RESUMES:
            raise NotNow(f"service {name} has nothing to resume: {_WORDS[status.state]}")
        changed.update_status.state = _RESUMES[status.state]
        changed.update_status.message = f"resumed by {actor}"
        changed.update_status.started_ms = now_ms  # failures from before count no more
        changed.update_status.completed_ms = 0
    else:
        restart(changed, now_ms, request.batch, actor)
    return changed


def _back(
    service: objects_pb2.Service, now_ms: int, revision: int, message: str, *, problem: str = ""
) -> objects_pb2.Service:
    name = service.meta.name
    if revision and revision == service.spec_version:
        raise NotNow(f"service {name} is at revision {revision} already")
    back = rolled_back(service, now_ms, message, revision=revision, problem=problem)
    if back is not None:
        return back
    if revision:
        kept = ", ".join(str(entry.revision) for entry in revisions(service)) or "none"
        raise NotNow(f"service {name} has no revision {revision} any more (kept: {kept})")
    raise NotNow(f"service {name} has no earlier specification to go back to")


def promote(changed: objects_pb2.Service, view: View, now_ms: int, message: str) -> None:
    """Let the waiting update go on; of a blue-green one the traffic moves with this very change."""
    status = changed.update_status
    status.state, status.message, status.promoted_ms = objects_pb2.UPDATE_UPDATING, message, now_ms
    if status.hidden_versions:
        old = {
            task.spec_version
            for task in view.tasks_of_service(changed.meta.id)
            if task.spec_version != changed.spec_version and is_live(task, view)
        }
        del status.hidden_versions[:]
        status.hidden_versions.extend(sorted(old))


def restart(changed: objects_pb2.Service, now_ms: int, batch: str, actor: str) -> None:
    """Replace every task by one like it."""
    if batch and share(batch, 100) < 0:
        raise NotNow(f"batch {batch!r} is neither a number such as 2 nor a part such as 25%")
    if changed.update_status.state in (*_RUNNING, *_PAUSES, *_RESUMES):
        raise NotNow(
            f"service {changed.meta.name} cannot be restarted now: {_WORDS[changed.update_status.state]}"
        )
    changed.spec.task.force_update += 1
    changed.spec_version += 1
    changed.update_status.CopyFrom(
        objects_pb2.UpdateStatus(
            state=objects_pb2.UPDATE_UPDATING,
            message=f"restart by {actor}",
            started_ms=now_ms,
            promoted_ms=now_ms,
            batch=batch,
        )
    )


def share(text: str, total: int) -> int:
    """`3` -> 3, `25%` -> a quarter of the total but at least 1; -1 where the text is neither."""
    number, percent, rest = text.partition("%")
    if rest or not number.isascii() or not number.isdigit() or len(number) > 9:
        return -1
    if not percent:
        return int(number)
    return max(1, total * int(number) // 100) if 1 <= int(number) <= 100 else -1


def parallelism_of(config: types_pb2.UpdateConfig, batch: str, total: int, default: int) -> int:
    """How many slots an update replaces at once; 0 = all."""
    if batch:
        return share(batch, total)
    if config.parallelism_percent:
        return max(1, total * config.parallelism_percent // 100)
    return config.parallelism if config.HasField("parallelism") else default
