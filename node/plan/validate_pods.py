"""Whether a task of several containers can be carried out: names, what they share, what only one may say.

Beside `limits`, which looks at each container by itself. What the containers of a pod have in common (the
network, IPC, the process namespace, the ids, the parent control group) is the pod's: the main container says
it for all, single containers may not ask for something else instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from swarmpy.node.plan import limits, limits_runtime, volume_checks
from swarmpy.node.plan.limits import Problem
from swarmpy.proto import types_pb2

CONTAINERS_MAX = 20
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
MAIN = "main"
_OF_THE_POD = ("pid_mode", "ipc_mode", "userns", "cgroup_parent")  # the main container says it for all
_MAIN_ONLY = ("hostname", "domainname", "drain_delay_ms", "shm_size_bytes", "open_stdin", "tty")


def problems(task: types_pb2.TaskSpec, path: str) -> Iterator[Problem]:
    yield from _pod_mounts(task.container, path + ".container", pod=is_pod(task))
    yield from _pod_resources(task, path + ".pod_resources")
    if not is_pod(task):
        if task.share_pid:
            yield Problem(path + ".share_pid", "needs sidecars to share the processes with")
        return
    if task.share_pid and not task.sidecars:
        yield Problem(path + ".share_pid", "needs sidecars to share the processes with")
    if task.share_pid and task.container.pid_mode == "host":
        yield Problem(
            path + ".share_pid", "excludes pid_mode host: all containers see the node's processes then"
        )
    if task.container.cgroup_parent:
        where = path + ".container.cgroup_parent"
        yield Problem(where, "cannot be combined with init containers and sidecars yet")
    seen = {MAIN: path + ".container"}
    for field in ("init_containers", "sidecars"):
        entries = getattr(task, field)
        if len(entries) > CONTAINERS_MAX:
            yield Problem(f"{path}.{field}", f"are {len(entries)}, at most {CONTAINERS_MAX}")
        for position, entry in enumerate(entries):
            where = f"{path}.{field}[{position}]"
            if not _NAME.fullmatch(entry.name):
                yield Problem(
                    where + ".name", f"{entry.name!r} must be 1 to 40 of a-z, 0-9 and -, no - at its ends"
                )
            elif entry.name in seen:
                yield Problem(where + ".name", f"{entry.name!r} is the name of {seen[entry.name]} already")
            seen.setdefault(entry.name, where)
            yield from _entry(entry, where, init=field == "init_containers")
            yield from _isolation(entry.container, where + ".container", task.container)


def _pod_resources(task: types_pb2.TaskSpec, path: str) -> Iterator[Problem]:
    wanted = task.pod_resources
    if wanted.ByteSize() and not is_pod(task):
        yield Problem(path, "are for tasks of several containers: limit the container itself")
    yield from limits.resources(wanted, path)
    allowed = types_pb2.ResourceRequirements(pids_limit=wanted.pids_limit)
    allowed.limits.nano_cpus, allowed.limits.memory_bytes = (
        wanted.limits.nano_cpus,
        wanted.limits.memory_bytes,
    )
    if not wanted.HasField("limits"):
        allowed.ClearField("limits")
    if wanted != allowed:
        yield Problem(
            path, "may limit CPU, memory and pids; what else there is, containers have of their own"
        )


def is_pod(task: types_pb2.TaskSpec) -> bool:
    return bool(task.init_containers or task.sidecars)


def _entry(entry: types_pb2.PodContainer, where: str, *, init: bool) -> Iterator[Problem]:
    container, path = entry.container, where + ".container"
    yield from limits.container(container, path)
    yield from limits_runtime.container(container, path)
    yield from limits.resources(entry.resources, where + ".resources")
    yield from limits_runtime.resources(entry.resources, where + ".resources")
    for position, mount in enumerate(container.mounts):
        yield from volume_checks.mount(mount, f"{path}.mounts[{position}]")
    yield from _pod_mounts(container, path, pod=True)
    for field, _ in container.ListFields():
        if field.name in _MAIN_ONLY:
            yield Problem(f"{path}.{field.name}", "is the main container's to say: leave it out")
        if init and field.name in {"health", "readiness", "startup"}:
            yield Problem(
                f"{path}.{field.name}", "an init container ends by itself: it is not asked how it is"
            )


def _isolation(
    container: types_pb2.ContainerSpec, path: str, main: types_pb2.ContainerSpec
) -> Iterator[Problem]:
    for name in _OF_THE_POD:
        if getattr(container, name):
            yield Problem(f"{path}.{name}", "is the same in all containers: say it of the main one")
    if container.init and main.pid_mode == "host":
        yield Problem(path + ".init", "excludes pid_mode host: an init must be process 1 of its namespace")
    if container.privileged and main.userns:
        yield Problem(
            path + ".privileged", "excludes userns: a container with ids of its own has no rights there"
        )


def _pod_mounts(container: types_pb2.ContainerSpec, path: str, *, pod: bool) -> Iterator[Problem]:
    for position, mount in enumerate(container.mounts):
        where = f"{path}.mounts[{position}]"
        if mount.type != types_pb2.MOUNT_POD:
            continue
        if not pod:
            yield Problem(where + ".type", "is pod: that needs init containers or sidecars to share it with")
        if not _VOLUME.fullmatch(mount.source):
            yield Problem(where + ".source", f"{mount.source!r} is no name of letters, digits, _, . and -")
