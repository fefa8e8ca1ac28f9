"""`node ls`: who the nodes are, and what of them is used, reserved and there. Pure but for protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarmpy.cli.output import Row, span
from swarmpy.cli.views import AVAILABILITY_WORDS, NODE_STATE_WORDS
from swarmpy.proto import control_pb2, types_pb2

NODE_COLUMNS = (
    ("ID", "IDSelf"),
    ("HOSTNAME", "Hostname"),
    ("STATUS", "Status"),
    ("AVAILABILITY", "Availability"),
    ("MANAGER STATUS", "ManagerStatus"),
    ("ENGINE VERSION", "EngineVersion"),
    ("ADDRESS", "Address"),
    ("CPU", "CPU"),
    ("MEMORY", "Memory"),
    ("TASKS", "Tasks"),
    ("AGE", "Age"),
)
GIBIBYTE = 1 << 30


def node_rows(
    nodes: Iterable[Any], tasks: Iterable[Any], status: control_pb2.StatusResponse, now_ms: int
) -> list[Row]:
    """By name; `*` marks the node that answers. CPU and memory: used as measured lately, reserved, there."""
    members = {member.node_id: member for member in status.members}
    here: dict[str, list[Any]] = {}
    for task in tasks:
        if task.node_id and task.status.state < types_pb2.TASK_COMPLETE:
            here.setdefault(task.node_id, []).append(task)
    return [
        {
            "ID": node.meta.id,
            "IDSelf": node.meta.id + (" *" if node.meta.id == status.node_id else ""),
            "Self": node.meta.id == status.node_id,
            "Hostname": node.meta.name or node.description.hostname,
            "Status": NODE_STATE_WORDS.get(node.status.state, "Unknown"),
            "Availability": AVAILABILITY_WORDS.get(node.spec.availability, "?"),
            "ManagerStatus": manager_status(node, members.get(node.meta.id)),
            "EngineVersion": node.description.version,
            "Address": node.status.address or node.description.address,
            **_shares(node, here.get(node.meta.id, [])),
            "Age": span(max(0, now_ms - node.meta.created_ms) // 1000) if node.meta.created_ms else "",
            "Labels": dict(node.meta.labels),
        }
        for node in sorted(nodes, key=lambda node: (node.meta.name, node.meta.id))
    ]


def manager_status(node: Any, member: Any) -> str:
    """Docker's words for a manager's part in the Raft group."""
    if member is not None:
        return "Leader" if member.leader else "Reachable" if member.reachable else "Unreachable"
    return "Joining" if node.spec.role == types_pb2.ROLE_MANAGER else ""


def _shares(node: Any, tasks: list[Any]) -> Row:
    """`0.8/1.5/4` CPUs, `1.2/2/7.8GiB`, and how many tasks run; what a node that is down uses, nobody knows."""
    cpus, memory = node.description.resources.nano_cpus / 1e9, node.description.resources.memory_bytes
    wanted = [_reserved(task.spec) for task in tasks]
    known = node.HasField("usage") and node.status.state == types_pb2.NODE_READY
    used_cpus = f"{cpus * node.usage.cpu_percent / 100:.3g}" if known else "-"
    used_memory = f"{memory * node.usage.memory_percent / 100 / GIBIBYTE:.3g}" if known else "-"
    return {
        "CPU": f"{used_cpus}/{sum(cpu for cpu, _ in wanted):.3g}/{cpus:g}",
        "Memory": f"{used_memory}/{sum(size for _, size in wanted) / GIBIBYTE:.3g}/{memory / GIBIBYTE:.3g}GiB",
        "Tasks": sum(task.status.state == types_pb2.TASK_RUNNING for task in tasks),
    }


def _reserved(spec: types_pb2.TaskSpec) -> tuple[float, int]:
    """CPUs and bytes that a node keeps for a task: its containers together, or an init container that needs more."""
    parts = [spec.resources.reservations, *(sidecar.resources.reservations for sidecar in spec.sidecars)]
    first = [init.resources.reservations for init in spec.init_containers]
    nano_cpus = max([sum(part.nano_cpus for part in parts), *(part.nano_cpus for part in first)])
    return nano_cpus / 1e9, max(
        [sum(part.memory_bytes for part in parts), *(part.memory_bytes for part in first)]
    )
