"""What a task of several containers is for the planners: all its containers, and what they take together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from swarmpy.proto import types_pb2


def containers(spec: types_pb2.TaskSpec) -> Iterator[types_pb2.ContainerSpec]:
    """The main container first."""
    yield spec.container
    for part in (*spec.init_containers, *spec.sidecars):
        yield part.container


def reservations(spec: types_pb2.TaskSpec) -> types_pb2.Resources:
    """What a node keeps for a task: main container and sidecars together, or an init container that needs more.

    Init containers run one at a time, before the others.
    """
    own = spec.resources.reservations
    if not (spec.init_containers or spec.sidecars):
        return own
    total = types_pb2.Resources()
    total.CopyFrom(own)
    for sidecar in spec.sidecars:
        part = sidecar.resources.reservations
        total.nano_cpus += part.nano_cpus
        total.memory_bytes += part.memory_bytes
        for name, count in part.generic.items():
            total.generic[name] += count
    for init in spec.init_containers:
        part = init.resources.reservations
        total.nano_cpus = max(total.nano_cpus, part.nano_cpus)
        total.memory_bytes = max(total.memory_bytes, part.memory_bytes)
        for name, count in part.generic.items():
            total.generic[name] = max(total.generic[name], count)
    return total


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a node must have that cannot be used up."""

    runtimes: tuple[str, ...] = ()  # OCI runtimes, by name
    gpus: bool = False


def equipment(spec: types_pb2.TaskSpec) -> Equipment:
    """What its containers ask for; equal tasks give equal values."""
    runtimes = {container.runtime for container in containers(spec)} - {""}
    return Equipment(tuple(sorted(runtimes)), any(container.gpus for container in containers(spec)))


def mounts(spec: types_pb2.TaskSpec) -> Iterator[types_pb2.Mount]:
    """The mounts of all containers."""
    for container in containers(spec):
        yield from container.mounts


def forget_digests(spec: types_pb2.TaskSpec, before: types_pb2.TaskSpec) -> None:
    """Drop the pinned digest of every container with another image than the one of its name had. In place."""
    had = {part.name: part.container.image for part in (*before.init_containers, *before.sidecars)}
    if spec.container.image != before.container.image:
        spec.container.image_digest = ""
    for part in (*spec.init_containers, *spec.sidecars):
        if part.container.image != had.get(part.name):
            part.container.image_digest = ""


def names(spec: types_pb2.TaskSpec) -> list[str]:
    """What its containers are called, the main one first; the same name is what users address them by."""
    return ["main", *(part.name for part in (*spec.sidecars, *spec.init_containers))]
