"""What a task gets besides its specification: variables, devices and a lasting name. Pure.

Resources that the scheduler gave a task show up as SWARMPY_RESOURCE_<KIND>: their names, or how many
where they have none; a name that is a device of the node is passed to the container, too. The
orchestrator's own variables (a job's index) and the host name of an ordered slot are in the task.
"""

from __future__ import annotations

import re

from swarmpy.proto import objects_pb2, types_pb2

_NO_NAME = re.compile(r"[^A-Za-z0-9]+")


def variables(task: objects_pb2.Task) -> list[str]:
    """NAME=value entries; the user's own come later and win."""
    resources = [
        f"SWARMPY_RESOURCE_{_NO_NAME.sub('_', held.kind).upper()}={','.join(held.names) or held.count}"
        for held in task.assigned_resources
    ]
    return [*task.env, *resources]


def devices(task: objects_pb2.Task) -> list[str]:
    """Device nodes among the names of the assigned resources."""
    return [name for held in task.assigned_resources for name in held.names if name.startswith("/dev/")]


def container(task: objects_pb2.Task) -> types_pb2.ContainerSpec:
    """The task's container with what is provided to it."""
    if not (task.env or task.assigned_resources or task.hostname):
        return task.spec.container
    full = types_pb2.ContainerSpec()
    full.CopyFrom(task.spec.container)
    full.env[:] = [*variables(task), *task.spec.container.env]
    have = {device.split(":")[0] for device in full.devices}
    full.devices.extend(device for device in devices(task) if device not in have)
    full.hostname = full.hostname or task.hostname
    return full
