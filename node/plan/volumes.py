"""Which volumes a task uses and which nodes have them. Pure; read by scheduler, volumes planner and Control.

A volume with contents of its own has a home node: a task that mounts it goes there or waits, because
anywhere else it would silently start with nothing. The first use of a name makes the volume, with the node
that the scheduler chose as its home. Contents that are elsewhere anyway (nfs, cifs) or last no longer than
their use (tmpfs) bind to no node. A volume made by a global service is one per node.

A name may hold templates (`data-{{.Task.Slot}}`); it is worked out per task and node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from swarmpy.node import templates
from swarmpy.node.plan import pods
from swarmpy.node.plan.base import NewId, View, copy_of, is_terminal
from swarmpy.node.plan.filters import NodeInfo
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
SHARED_TYPES = frozenset({"nfs", "nfs4", "cifs", "smb3"})
MOVES_THAT_STOP = (objects_pb2.VOLUME_MOVE_STOPPING, objects_pb2.VOLUME_MOVE_FINAL)
MOVES_UNDER_WAY = (objects_pb2.VOLUME_MOVE_COPYING, *MOVES_THAT_STOP)


def mounts_of(spec: types_pb2.TaskSpec) -> Iterator[types_pb2.Mount]:
    """The mounts of named volumes of all containers of a task."""
    for mount in pods.mounts(spec):
        if mount.type == types_pb2.MOUNT_VOLUME and mount.source:
            yield mount


def differs_by_task(spec: types_pb2.TaskSpec) -> bool:
    """Whether two tasks of a service may use different volumes."""
    return any("{{" in mount.source for mount in mounts_of(spec))


def name_for(source: str, task: objects_pb2.Task, node: objects_pb2.Node) -> str:
    """The volume that a mount's source means for a task on a node."""
    if "{{" not in source:
        return source
    values = templates.values_of(
        task, node_id=node.meta.id, hostname=node.description.hostname or node.meta.name,
        platform=(node.description.platform.os, node.description.platform.architecture),
    )  # fmt: skip
    return templates.filled(source, values)


def template_problem(source: str) -> str:
    """Why the source of a mount names no volume, whoever the task is; "" if it does."""
    filled = templates.filled(source, dict.fromkeys(templates.FIELDS, "x"))
    if "{{" not in filled and not VOLUME_NAME.fullmatch(filled):
        return f"{source!r} is no volume name: letters, digits, '_', '.', '-', at most 128"
    return ""


def is_homed(spec: objects_pb2.VolumeSpec) -> bool:
    """Whether the contents are on one node's disk."""
    return not spec.per_node and is_local(spec)


def is_local(spec: objects_pb2.VolumeSpec) -> bool:
    """Whether the contents are on nodes' own disks at all."""
    kind = spec.options.get("type", "") if spec.options else ""
    return kind not in SHARED_TYPES and kind != "tmpfs"


def uses(task: objects_pb2.Task, volume_id: str) -> bool:
    """Whether a task has, or is about to have, the volume on its node."""
    return not is_terminal(task.status.state) and any(u.volume_id == volume_id for u in task.volumes)


def users_of(view: View, volume_id: str) -> list[objects_pb2.Task]:
    return [task for task in view.tasks() if uses(task, volume_id)]


def services_of(view: View, name: str, namespace: str = "") -> list[objects_pb2.Service]:
    """The services whose specs name the volume outright."""
    return [
        service
        for service in view.services()
        if service.meta.namespace == namespace
        and any(mount.source == name for mount in mounts_of(service.spec.task))
    ]


def report_of(volume: objects_pb2.Volume, node_id: str) -> objects_pb2.VolumeReport | None:
    return next((report for report in volume.reports if report.node_id == node_id), None)


def exists_on(volume: objects_pb2.Volume, node_id: str) -> bool:
    """Whether the node ever said that it has the contents: from then on they must be there."""
    report = report_of(volume, node_id)
    return report is not None and report.held


def part_of(volume: objects_pb2.Volume, node_id: str) -> dispatcher_pb2.VolumePart:
    """What a holder is to do with what it has of a volume."""
    if volume.pending_delete:
        return dispatcher_pb2.VOLUME_DROP
    if volume.spec.per_node or volume.node_id == node_id or not is_local(volume.spec):
        return dispatcher_pb2.VOLUME_KEEP
    if volume.move.to_id == node_id and volume.move.state in MOVES_UNDER_WAY:
        return dispatcher_pb2.VOLUME_RECEIVE
    return dispatcher_pb2.VOLUME_DROP


@dataclass(slots=True)
class Places:
    """The volumes as one scheduling run sees and changes them."""

    view: View
    new_id: NewId
    changed: dict[str, store_pb2.Change] = field(default_factory=dict)  # volume id -> its one change
    created: dict[tuple[str, str], str] = field(default_factory=dict)  # (namespace, name) -> id

    def narrow(
        self, task: objects_pb2.Task, candidates: list[NodeInfo], reasons: Counter[str]
    ) -> tuple[list[NodeInfo], Counter[str]]:
        """Those of the candidates that have the task's volumes, and why the others are none."""
        if next(mounts_of(task.spec), None) is None:
            return candidates, reasons
        kept, counted = [], Counter(reasons)
        for info in candidates:
            problem = self.problem(task, info.node)
            if problem is None:
                kept.append(info)
            else:
                counted[problem] += 1
        return kept, counted

    def problem(self, task: objects_pb2.Task, node: objects_pb2.Node) -> str | None:
        """Why a node is no place for a task's volumes."""
        for mount in mounts_of(task.spec):
            name = name_for(mount.source, task, node)
            if not VOLUME_NAME.fullmatch(name):
                return f"do not accept the volume name {name[:140]!r}"
            volume = self._named(task.meta.namespace, name)
            if volume is not None and (problem := self._misfit(volume, node.meta.id)):
                return problem
        return None

    def is_undecided(self, task: objects_pb2.Task) -> bool:
        """Whether placing this task decides where others of its kind may go."""
        for mount in mounts_of(task.spec):
            volume = self._named(task.meta.namespace, mount.source)
            if volume is None or (is_homed(volume.spec) and not volume.node_id):
                return True
        return False

    def take(self, task: objects_pb2.Task, node: objects_pb2.Node, *, is_global: bool) -> None:
        """Note in a task that is placed which volumes it gets; homes and holders with them."""
        del task.volumes[:]
        for source in dict.fromkeys(mount.source for mount in mounts_of(task.spec)):
            mount = next(mount for mount in mounts_of(task.spec) if mount.source == source)
            name = name_for(source, task, node)
            volume = self._named(task.meta.namespace, name)
            if volume is None:
                volume = self._create(task, mount, name, per_node=is_global and "{{" not in source)
            task.volumes.add(source=source, volume_id=volume.meta.id)
            self._hold(volume, node.meta.id)

    def _named(self, namespace: str, name: str) -> objects_pb2.Volume | None:
        if (created := self.created.get((namespace, name))) is not None:
            return self.changed[created].put.volume
        found = self.view.by_name(store_pb2.KIND_VOLUME, name, namespace)
        if not isinstance(found, objects_pb2.Volume):
            return None
        change = self.changed.get(found.meta.id)
        return found if change is None else change.put.volume

    def _misfit(self, volume: objects_pb2.Volume, node_id: str) -> str | None:
        name = volume.meta.name
        if volume.pending_delete:
            return f"have to wait until volume {name} is removed"
        if not is_homed(volume.spec):
            return None
        home = volume.node_id or volume.spec.node_id
        if not home:
            return None
        node = self.view.node(home)
        if node is None or node.removed:
            return f"have lost volume {name}: its node was removed from the cluster"
        if home != node_id:
            return f"are not {node.meta.name or home}, the home of volume {name}"
        if volume.move.state in MOVES_THAT_STOP:
            to = self.view.node(volume.move.to_id)
            return (
                f"have to wait until volume {name} has moved to {to.meta.name if to else volume.move.to_id}"
            )
        return None

    def _create(
        self, task: objects_pb2.Task, mount: types_pb2.Mount, name: str, *, per_node: bool
    ) -> objects_pb2.Volume:
        change = store_pb2.Change()
        volume = change.put.volume
        volume.meta.id = self.new_id()
        volume.meta.name, volume.meta.namespace = name, task.meta.namespace
        volume.meta.labels.update(mount.volume_labels)
        volume.spec.driver = mount.volume_driver
        volume.spec.options.update(mount.volume_options)
        volume.spec.per_node = per_node and is_local(volume.spec)
        self.changed[volume.meta.id] = change
        self.created[(task.meta.namespace, name)] = volume.meta.id
        return volume

    def _hold(self, volume: objects_pb2.Volume, node_id: str) -> None:
        home = node_id if is_homed(volume.spec) else ""
        held = volume.node_id == home and node_id in volume.holders
        # While it moves it is written again as it is, so that this placement fails if the move went on.
        if not is_local(volume.spec) or (held and volume.move.state not in MOVES_UNDER_WAY):
            return
        change = self.changed.get(volume.meta.id)
        if change is None:
            change = store_pb2.Change(expected_version=volume.meta.version)
            change.put.volume.CopyFrom(copy_of(volume))
            self.changed[volume.meta.id] = change
        change.put.volume.node_id = home
        if node_id not in change.put.volume.holders:
            change.put.volume.holders.append(node_id)

    def changes(self) -> Iterable[store_pb2.Change]:
        return self.changed.values()
