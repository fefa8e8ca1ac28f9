"""What of a task's spec may change while it runs, and when it does.

Limits and reservations of CPU and memory, sets of CPUs, the limits of processes and of swap, swappiness, what
happens at the memory limit, the weight and the limits of block I/O, those of sidecars and of pods as well: a task
whose service differs in nothing else gets the new ones in place, and its node changes its control groups.
Everything else replaces the task. A larger reservation replaces it, too, where its node has not that much left:
another may have.
"""

from __future__ import annotations

from swarmpy.node.plan import pods
from swarmpy.node.plan.base import View, copy_of, desired_running, is_terminal, room_of
from swarmpy.proto import objects_pb2, types_pb2

NAMES = (
    "pids_limit",
    "swap_bytes",
    "io_weight",
    "io_devices",
    "cpuset_cpus",
    "cpuset_mems",
    "swappiness",
    "no_oom_kill",
)


def fixed(spec: types_pb2.TaskSpec) -> types_pb2.TaskSpec:
    """The spec without what may change in place, of all its containers."""
    bare = copy_of(spec)
    bare.ClearField("pod_resources")
    holders: list[types_pb2.TaskSpec | types_pb2.PodContainer]
    holders = [bare, *bare.init_containers, *bare.sidecars]
    for holder in holders:
        resources = holder.resources
        for part in (resources.limits, resources.reservations):
            part.nano_cpus = part.memory_bytes = 0
        for name in NAMES:
            resources.ClearField(name)
        for name in ("limits", "reservations"):
            if not getattr(resources, name).ByteSize():
                resources.ClearField(name)
        if not resources.ByteSize():
            holder.ClearField("resources")
    return bare


def same_but_limits(old: types_pb2.TaskSpec, new: types_pb2.TaskSpec) -> bool:
    return old == new or (limits_of(old) != limits_of(new) and fixed(old) == fixed(new))


def limits_of(spec: types_pb2.TaskSpec) -> list[types_pb2.ResourceRequirements]:
    """Of the pod, of the main container, then of the others."""
    return [
        spec.pod_resources,
        spec.resources,
        *(part.resources for part in (*spec.init_containers, *spec.sidecars)),
    ]


def fits(view: View, task: objects_pb2.Task, wanted: types_pb2.TaskSpec) -> bool:
    """Whether the task's node has room for what the new spec reserves."""
    old, new = pods.reservations(task.spec), pods.reservations(wanted)
    if new.nano_cpus <= old.nano_cpus and new.memory_bytes <= old.memory_bytes:
        return True
    node = view.node(task.node_id) if task.node_id else None
    if node is None:
        return True
    cpus, memory = new.nano_cpus, new.memory_bytes
    for other in view.tasks_of_node(task.node_id):
        if other.meta.id == task.meta.id or is_terminal(other.status.state):
            continue
        taken = pods.reservations(other.spec)
        same = other.service_id == task.service_id and desired_running(other)  # it is to grow, too
        cpus += max(taken.nano_cpus, new.nano_cpus) if same else taken.nano_cpus
        memory += max(taken.memory_bytes, new.memory_bytes) if same else taken.memory_bytes
    room_cpus, room_bytes = room_of(node)
    return cpus <= room_cpus and memory <= room_bytes
