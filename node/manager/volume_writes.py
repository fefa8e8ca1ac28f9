"""Users' writes of volumes: made, moved (`spec.moves`), relabelled, removed. Checked against the store.

What a volume is made of never changes; its removal waits for its holders, see plan/volume_moves.
"""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.node.manager.errors import Invalid, NotFound, Refused, Taken
from swarmpy.node.plan import volume_checks, volumes
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Ambiguous
from swarmpy.raft.tables import NotFound as Missing


def created(store: Store, obj: objects_pb2.Volume, new_id: Callable[[], str]) -> objects_pb2.Volume:
    """The object to store; as it is stored already where the same was made before, as with Docker."""
    if problems := volume_checks.validate_volume(obj):
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
    spec = objects_pb2.VolumeSpec(
        driver=obj.spec.driver, options=obj.spec.options, per_node=obj.spec.per_node
    )
    if obj.spec.node_id:
        spec.node_id = _node(store, obj.spec.node_id).meta.id
        if not volumes.is_homed(spec):
            why = "every node has its own" if spec.per_node else "its contents are not on a node's disk"
            raise Invalid(f"spec.node_id: volume {obj.meta.name!r} has no home node: {why}")
    if spec.per_node and not volumes.is_local(spec):
        raise Invalid("spec.per_node: only volumes on nodes' disks can be one per node")
    known = store.by_name(store_pb2.KIND_VOLUME, obj.meta.name, obj.meta.namespace)
    if isinstance(known, objects_pb2.Volume):
        return _same(known, spec)
    volume = objects_pb2.Volume(spec=spec, node_id=spec.node_id)
    if spec.node_id:
        volume.holders.append(spec.node_id)
    volume.meta.id = new_id()
    volume.meta.name, volume.meta.namespace = obj.meta.name, obj.meta.namespace
    volume.meta.labels.update(obj.meta.labels)
    return volume


def _same(known: objects_pb2.Volume, wanted: objects_pb2.VolumeSpec) -> objects_pb2.Volume:
    name = known.meta.name
    if known.pending_delete:
        raise Taken(f"volume {name!r} is being removed: try again once it is gone, see `volume inspect`")
    same = (known.spec.driver or "local", known.spec.options, known.spec.per_node) == (
        wanted.driver or "local", wanted.options, wanted.per_node,
    )  # fmt: skip
    if not same or (wanted.node_id and wanted.node_id != (known.node_id or known.spec.node_id)):
        raise Taken(f"a volume named {name!r} exists already with other options: choose another name")
    return known


def changed(store: Store, obj: objects_pb2.Volume) -> objects_pb2.Volume:
    """Labels, and a wish to move."""
    stored = store.volume(obj.meta.id)
    if stored is None or stored.pending_delete:
        raise NotFound(f"there is no volume {obj.meta.name or obj.meta.id!r}")
    volume = objects_pb2.Volume()
    volume.CopyFrom(stored)
    volume.meta.labels.clear()
    volume.meta.labels.update(obj.meta.labels)
    spec, wanted = stored.spec, obj.spec
    # A change that was made from a read has no password.
    same = wanted.options in (spec.options, volume_checks.shown_options(spec.options))
    if not same or (spec.driver, spec.per_node) != (wanted.driver, wanted.per_node):
        raise Invalid("spec: the driver and the options of a volume cannot be changed: make another one")
    if problems := volume_checks.validate_volume(volume):
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
    if wanted.moves > spec.moves:
        _check_move(store, volume, _node(store, wanted.node_id))
        volume.spec.node_id = _node(store, wanted.node_id).meta.id
        volume.spec.moves = spec.moves + 1
    elif (wanted.moves, wanted.node_id) != (spec.moves, spec.node_id):
        raise Invalid("spec.node_id: another home is a move: let spec.moves grow by one")
    return volume


def _check_move(store: Store, volume: objects_pb2.Volume, to: objects_pb2.Node) -> None:
    name = volume.meta.name
    if not volumes.is_local(volume.spec):
        raise Refused(f"volume {name!r} is not on a node's disk: its tasks may run anywhere as it is")
    if volume.spec.per_node:
        raise Refused(f"every node has its own volume {name!r}: back it up on one and restore it on another")
    if dict(volume.spec.options).get("type"):
        raise Refused(f"volume {name!r} is a device or directory of its node that others lack: back it up")
    if to.meta.id == volume.node_id:
        if volume.move.state in volumes.MOVES_UNDER_WAY:
            return  # the end of that move
        raise Refused(f"volume {name!r} is on node {to.meta.name} already")
    if volume.move.state in volumes.MOVES_UNDER_WAY:
        raise Refused(
            f"volume {name!r} is being moved to {_name_of(store, volume.move.to_id)}: wait, or end that with "
            f"`swarmpy volume mv {name} {_name_of(store, volume.node_id)}`"
        )
    home = store.node(volume.node_id)
    for node in [to, *([home] if home is not None else [])]:
        if node.removed or node.status.state != types_pb2.NODE_READY:
            raise Refused(f"node {node.meta.name!r} is down: a volume moves between nodes that are up")
    if volume.node_id and home is None:
        raise Refused(f"the node that had volume {name!r} was removed from the cluster: restore a backup")


def removable(store: Store, volume: objects_pb2.Volume) -> objects_pb2.Volume:
    """The volume marked for removal; Refused while something uses it."""
    name = volume.meta.name
    tasks = [task.meta.name for task in volumes.users_of(store, volume.meta.id)]
    services = [s.meta.name for s in volumes.services_of(store, name, volume.meta.namespace)]
    if services:
        raise Refused(
            f"volume {name!r} is used by service {', '.join(sorted(services)[:5])}: remove that first"
        )
    if tasks:
        raise Refused(f"volume {name!r} is used by task {', '.join(sorted(tasks)[:5])}: it must end first")
    marked = objects_pb2.Volume()
    marked.CopyFrom(volume)
    marked.pending_delete = True
    return marked


def _node(store: Store, ref: str) -> objects_pb2.Node:
    try:
        node = store.find(store_pb2.KIND_NODE, ref)
    except Missing as error:
        raise NotFound(f"there is no node {ref!r}") from error
    except Ambiguous as error:
        raise Invalid(str(error)) from error
    assert isinstance(node, objects_pb2.Node)
    return node


def _name_of(store: Store, node_id: str) -> str:
    node = store.node(node_id)
    return node.meta.name if node is not None else node_id
