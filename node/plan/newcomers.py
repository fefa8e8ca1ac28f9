"""Tasks that a plan creates, admitted and given a node by the same plan: one write instead of three. Pure.

A task that nothing holds back is NEW, PENDING and ASSIGNED at one moment; the allocator's question and the
scheduler's are asked here as they ask them, over the same picture of the nodes. Whatever is not plain stays with
them: a task is left NEW or PENDING and takes the way through their plans where

- the picture is not whole yet, or is of another view;
- other tasks wait for nodes: they may come first;
- it mounts volumes, whose homes the scheduler decides, or has static addresses, which the allocator gives.

Planners that place are carried out one after the other (`places`): what one has booked the next one must see.
"""

from __future__ import annotations

from swarmpy.node.plan import statics, volumes
from swarmpy.node.plan.allocator import obstacle
from swarmpy.node.plan.base import NewId, View
from swarmpy.node.plan.inventory import Inventory
from swarmpy.node.plan.scheduler import Batch
from swarmpy.node.plan.tasks import enter
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

COST_OF_TASK, NODES_PER_TASK = 4, 3  # to place one, as looking at so many; nodes looked at in that time


class Newcomers:
    """For one plan; what it books on nodes is undone at its end."""

    def __init__(self, view: View, inventory: Inventory, now_ms: int, new_id: NewId) -> None:
        self._view, self._inventory, self._now_ms = view, inventory, now_ms
        self._new_id = new_id
        self._batch: Batch | None = None
        self._count = 0  # of the tasks that it tried to place

    @property
    def cost(self) -> int:
        """Of what it did, as so many tasks looked at."""
        return (
            0 if self._batch is None else COST_OF_TASK * self._count + self._batch.looked_at // NODES_PER_TASK
        )

    def __enter__(self) -> Newcomers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._batch is not None:
            self._batch.undo()

    def placed(self, service: objects_pb2.Service, changes: list[store_pb2.Change]) -> list[store_pb2.Change]:
        """The changes for a service, its new tasks with them as far as they get."""
        created = [change for change in changes if _creates(change, service)]
        if not created or not self._inventory.is_whole(self._view):
            return changes
        spec = service.spec.task
        if obstacle(self._view, service, spec) or statics.networks_of(spec):
            return changes
        for change in created:
            enter(change.put.task, types_pb2.TASK_PENDING, self._now_ms, "waiting for the scheduler")
        if self._inventory.waiting or self._inventory.bound or any(volumes.mounts_of(service.spec.task)):
            return changes
        if self._batch is None:
            self._batch = Batch.over(self._view, self._now_ms, self._inventory, self._new_id)
        batch = self._batch
        if batch.is_full:
            return changes
        before = len(batch.changes)
        self._count += len(created)
        batch.place_group([change.put.task for change in created])
        found = {change.put.task.meta.id: change for change in batch.changes[before:]}
        return [found.get(change.put.task.meta.id, change) if found else change for change in changes]


def _creates(change: store_pb2.Change, service: objects_pb2.Service) -> bool:
    """Whether it makes a task as the service wants them now, for any node."""
    if change.expected_version or not change.put.HasField("task"):
        return False
    task = change.put.task
    return task.spec_version == service.spec_version and not task.node_id
