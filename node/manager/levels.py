"""Gates for what only newer versions understand (the rule: raft/levels)."""

from __future__ import annotations

from swarmpy.node.manager.errors import Refused
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import View


def managers(view: View) -> list[objects_pb2.Node]:
    """Nodes that are managers, or shall become one."""
    wanted = types_pb2.ROLE_MANAGER
    return [
        node for node in view.nodes() if not node.removed and wanted in (node.role, node.spec.role)
    ]  # fmt: skip


def common(view: View) -> int:
    """The level that every manager understands; 0 where one has not said."""
    return min((node.description.state_level for node in managers(view)), default=0)


def in_force(view: View) -> int:
    cluster = view.cluster()
    return cluster.state_level if cluster is not None else 0


def require(view: View, level: int, what: str) -> None:
    """Raises Refused until every manager understands `level`."""
    if in_force(view) >= level:
        return
    behind = [
        f"{node.meta.name} ({node.description.version or 'not heard of yet'})"
        for node in managers(view)
        if node.description.state_level < level
    ]
    who = f"not of {', '.join(sorted(behind))}: upgrade these first" if behind else "they are about to agree"
    raise Refused(f"{what} must be understood by every manager, {who}")


def require_on_nodes(view: View, level: int, what: str) -> None:
    """Raises Refused until every manager and every node that is up understands `level`."""
    require(view, level, what)
    behind = sorted(
        node.meta.name
        for node in view.nodes()
        if node.status.state == types_pb2.NODE_READY and node.description.state_level < level
    )
    if behind:
        raise Refused(
            f"{what} needs a newer swarmpy on every node, not yet on {', '.join(behind[:5])}: upgrade these first"
        )


def check_promotion(view: View, node: objects_pb2.Node) -> None:
    """Raises Refused for a node whose version is too old to be a manager of this cluster."""
    if not understands(view, node):
        raise Refused(
            f"node {node.meta.name!r} runs version {node.description.version or '?'}, which does not understand "
            f"state level {in_force(view)} of this cluster: upgrade it before it becomes a manager"
        )


def understands(view: View, node: objects_pb2.Node) -> bool:
    return node.description.state_level >= in_force(view)
