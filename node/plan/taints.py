"""Taints of nodes and what tolerates them. Pure.

    NoSchedule          no new task without a toleration; those that run stay
    PreferNoSchedule    the last choice for tasks without a toleration
    NoExecute           as NoSchedule, and tasks that run there without a toleration are stopped

A toleration has a key (none: every taint), a value (none: any value) and an effect (none: any).
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.proto import objects_pb2, types_pb2

EFFECT_NAMES = {
    types_pb2.TAINT_NO_SCHEDULE: "NoSchedule",
    types_pb2.TAINT_PREFER_NO_SCHEDULE: "PreferNoSchedule",
    types_pb2.TAINT_NO_EXECUTE: "NoExecute",
}


def text_of(taint: types_pb2.Taint) -> str:
    """`gpu=true:NoSchedule`, as people write it."""
    value = f"={taint.value}" if taint.value else ""
    return f"{taint.key}{value}:{EFFECT_NAMES.get(taint.effect, '?')}"


def tolerates(toleration: types_pb2.Toleration, taint: types_pb2.Taint) -> bool:
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.HasField("value") and toleration.value != taint.value:
        return False
    return not toleration.HasField("effect") or toleration.effect == taint.effect


def untolerated(node: objects_pb2.Node, tolerations: Iterable[types_pb2.Toleration]) -> list[types_pb2.Taint]:
    """The node's taints that nothing tolerates."""
    if not node.spec.taints:
        return []
    known = list(tolerations)
    return [taint for taint in node.spec.taints if not any(tolerates(one, taint) for one in known)]


def taint_problem(node: objects_pb2.Node, tolerations: Iterable[types_pb2.Toleration]) -> str | None:
    """Why the node takes no new task, in the words of a filter."""
    for taint in untolerated(node, tolerations):
        if taint.effect != types_pb2.TAINT_PREFER_NO_SCHEDULE:
            return f"have the taint {text_of(taint)}"
    return None


def evicts(node: objects_pb2.Node, tolerations: Iterable[types_pb2.Toleration]) -> types_pb2.Taint | None:
    """The taint for which a running task has to go."""
    wanted = untolerated(node, tolerations)
    return next((taint for taint in wanted if taint.effect == types_pb2.TAINT_NO_EXECUTE), None)


def is_second_choice(node: objects_pb2.Node, tolerations: Iterable[types_pb2.Toleration]) -> bool:
    """Whether an untolerated PreferNoSchedule makes the node a last resort."""
    return any(taint.effect == types_pb2.TAINT_PREFER_NO_SCHEDULE for taint in untolerated(node, tolerations))
