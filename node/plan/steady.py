"""The usual case, seen quickly: tasks and services for which there is nothing to do. Pure.

A leader plans a service whenever one of its tasks changes; of a service of a thousand tasks 999 are as they
were. What is steady here is exactly what the full rules (`slots`, `update`) would leave alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.node.plan.base import View
from swarmpy.node.plan.gate import needs_step
from swarmpy.proto import objects_pb2, types_pb2

_RUNNING = types_pb2.TASK_RUNNING
_REMOVE = types_pb2.TASK_REMOVE
_UNDER_WAY = frozenset(
    {objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_ROLLBACK_STARTED, objects_pb2.UPDATE_WAITING}
)


class Steady:
    """For one plan: which nodes are lost is asked once."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lost: dict[str, bool] = {"": False}

    def lost(self, node_id: str) -> bool:
        """Whether tasks on the node count as lost (base.is_lost)."""
        known = self._lost.get(node_id)
        if known is None:
            node = self._view.node(node_id)
            known = node is None or node.removed or node.status.state == types_pb2.NODE_DOWN
            self._lost[node_id] = known
        return known

    def keeps(self, task: objects_pb2.Task, version: int) -> bool:
        """The only task of its slot, of the present spec, wanted, not ended and on a good node."""
        return (
            task.desired_state == _RUNNING
            and task.spec_version == version
            and task.status.state <= _RUNNING
            and not task.leaving_ms
            and not self.lost(task.node_id)
        )

    def service(self, service: objects_pb2.Service, tasks: Iterable[objects_pb2.Task], replicas: int) -> bool:
        """Every slot has its one task, none is too many, and no update is under way."""
        status = service.update_status
        if status.state in _UNDER_WAY or status.hidden_versions or service.waiting or needs_step(service):
            return False
        version, keeps = service.spec_version, self.keeps
        slots, former = set(), set()
        for task in tasks:
            if task.desired_state > _RUNNING:
                if task.desired_state != _REMOVE:
                    former.add(task.slot)
            elif not keeps(task, version) or task.slot in slots:
                return False
            else:
                slots.add(task.slot)
        return len(slots) == replicas and former <= slots and (bool(slots) or not service.spec.depends_on)
