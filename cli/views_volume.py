"""The rows of `volume ls`. Pure but for protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swarmpy.cli.output import Row
from swarmpy.proto import objects_pb2

VOLUME_COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"), ("NODE", "Node"), ("STATUS", "Status"))
MOVING = {
    objects_pb2.VOLUME_MOVE_COPYING: "copying",
    objects_pb2.VOLUME_MOVE_STOPPING: "stopping tasks",
    objects_pb2.VOLUME_MOVE_FINAL: "copying the rest",
}
ELSEWHERE = {"nfs", "nfs4", "cifs", "smb3", "tmpfs"}


def volume_rows(
    volumes: Iterable[objects_pb2.Volume], nodes: Mapping[str, str], used: frozenset[str]
) -> list[Row]:
    """By name; `used` holds the ids of volumes that tasks have."""
    return [
        {
            "ID": volume.meta.name,
            "Name": volume.meta.name,
            "Driver": volume.spec.driver or "local",
            "Scope": "node" if volume.spec.per_node else "swarm",
            "Node": node_word(volume, nodes),
            "Status": status_word(volume, nodes, used),
            "Labels": dict(volume.meta.labels),
            "Options": dict(volume.spec.options),
            "Mountpoint": "",
        }
        for volume in sorted(volumes, key=lambda volume: volume.meta.name)
    ]


def node_word(volume: Any, nodes: Mapping[str, str]) -> str:
    """Where the contents are."""
    kind = dict(volume.spec.options).get("type", "")
    if kind in ELSEWHERE:
        return f"({kind})"
    if volume.spec.per_node:
        return (
            ", ".join(sorted(nodes.get(node_id, node_id) for node_id in volume.holders)) or "(each its own)"
        )
    home = volume.node_id or volume.spec.node_id
    return nodes.get(home, f"{home} (removed)") if home else ""


def status_word(volume: Any, nodes: Mapping[str, str], used: frozenset[str]) -> str:
    """What goes on with it."""
    if volume.pending_delete:
        return "removing"
    if volume.move.state in MOVING:
        to = nodes.get(volume.move.to_id, volume.move.to_id)
        return f"moving to {to}: {MOVING[volume.move.state]}"
    return "in use" if volume.meta.id in used else "unused"
