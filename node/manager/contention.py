"""Writes that name no version of what they change: made anew while planners or other users write in between.

Such a write is looked up, checked and worked out again, so it is either right for the newest state or refused
for a reason of its own. One that says `check_index` is about the state that its caller saw: it is not repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from swarmpy.node.manager.errors import Conflict, Invalid, NotLeading
from swarmpy.node.manager.leader import Leader
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.store import View
from swarmpy.raft.tables import Entity, kind_of, noun, wrap

T = TypeVar("T")
TRIES = 8
PAUSE_S = 0.01


async def settled(write: Callable[[], Awaitable[T]], check_index: int = 0) -> T:
    """What `write` gives; raises Conflict only if it met one every time, or for a `check_index`."""
    for attempt in range(1, TRIES + 1):
        try:
            return await write()
        except Conflict:
            if check_index or attempt == TRIES:
                raise
        await asyncio.sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")


def cluster_of(view: View) -> objects_pb2.Cluster:
    """Raises NotLeading while there is none."""
    cluster = view.cluster()
    if cluster is None:
        raise NotLeading("the cluster is still starting: try again shortly")
    return cluster


async def change_cluster(
    leader: Leader, edit: Callable[[objects_pb2.Cluster], None], actor: str, request_id: str = ""
) -> objects_pb2.Cluster:
    """The Cluster as `edit` left it, stored; `edit` is called anew, on the newest one, where somebody else wrote."""

    async def write() -> objects_pb2.Cluster:
        changed = copy_of(cluster_of(leader.store))
        version = changed.meta.version
        edit(changed)
        change = store_pb2.Change(put=wrap(changed), expected_version=version)
        await leader.commit([change], actor, request_id)
        return changed

    return await settled(write)


def check_index(view: View, index: int, entity: Entity | None = None) -> None:
    """Raises Conflict if the object or a node is newer than the plan that the caller saw; 0 = saw none."""
    if not index:
        return
    if index > view.index:
        raise Invalid(f"check_index: {index} is in the future of this cluster ({view.index})")
    for watched in [*view.nodes(), *([] if entity is None else [entity])]:
        stored = view.get(kind_of(watched), watched.meta.id)
        if stored is not None and stored.meta.version > index:
            raise Conflict(
                f"{noun(kind_of(watched))} {watched.meta.name or watched.meta.id!r} changed at index "
                f"{stored.meta.version}, after the plan of index {index}: plan again"
            )
