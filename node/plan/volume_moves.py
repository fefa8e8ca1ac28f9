"""The volumes planner: moves of volumes from node to node, and removals.

Keys: volume ids. Fields: Volume.node_id, holders and move; the desired state of tasks that must stop for the
last difference; deletion of a volume that no holder has anything of any more.

A move (`spec.moves` is ahead of `move.number`) goes

    COPYING    the target pulls rounds from the source while the tasks run, until little is left
    STOPPING   the tasks are wanted SHUTDOWN; their successors wait, because the scheduler places nothing
    FINAL      nothing writes any more: the target pulls the last difference
    DONE       one transaction makes the target the home: only now may anything start there

Until that transaction the source is the only truth: whatever goes wrong before (a node goes down, the
target's disk is full, the user asks for the present home again) ends in FAILED, the tasks start where they
were, and the target drops what it has. After it the source drops its copy. Both are derived from `holders`,
`node_id` and `move` (volumes.part_of), so a new leader goes on wherever the old one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import (
    ChangeEvent,
    Draft,
    NewId,
    Plan,
    View,
    copy_of,
    desired_running,
    earliest,
    is_full,
    limited,
)
from swarmpy.node.plan.volumes import MOVES_UNDER_WAY, is_homed, part_of, report_of, users_of
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2

STOP_LIMIT_MS = 10 * 60 * 1000
DOWN_LIMIT_MS = 60 * 1000  # while the tasks run nothing hurries: an agent may be restarted
COPYING, STOPPING = objects_pb2.VOLUME_MOVE_COPYING, objects_pb2.VOLUME_MOVE_STOPPING
FINAL, DONE = objects_pb2.VOLUME_MOVE_FINAL, objects_pb2.VOLUME_MOVE_DONE
FAILED, ABSENT = objects_pb2.VOLUME_MOVE_FAILED, objects_pb2.VOLUME_ABSENT


class VolumesPlanner:
    """See the module."""

    name = "volumes"

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        match event.kind:
            case store_pb2.KIND_VOLUME:
                return (event.id,)
            case store_pb2.KIND_TASK:
                return {
                    use.volume_id
                    for task in (event.old, event.new)
                    if isinstance(task, objects_pb2.Task)
                    for use in task.volumes
                }
            case store_pb2.KIND_NODE:
                return [volume.meta.id for volume in view.volumes() if event.id in volume.holders]
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        return [volume.meta.id for volume in view.volumes()]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft = Draft(view)
        wake_ms: int | None = None
        for key in sorted(keys):
            if is_full(draft):
                break
            wake_ms = earliest(wake_ms, _plan_volume(draft, key, now_ms))
        return limited(draft, now_ms, wake_ms)


def _plan_volume(draft: Draft, volume_id: str, now_ms: int) -> int | None:
    stored = draft.volume(volume_id)
    if stored is None:
        return None
    volume = copy_of(stored)
    wake_ms = None
    if volume.pending_delete:
        _end(volume, "the volume is being removed", now_ms)
    else:
        _begin(draft, volume, now_ms)
        wake_ms = _move(draft, volume, now_ms)
    _release_holders(draft, volume)
    if volume.pending_delete and not volume.holders and not users_of(draft, volume_id):
        draft.delete(store_pb2.KIND_VOLUME, volume_id)
    else:
        draft.put(volume)
    return wake_ms


def _begin(draft: Draft, volume: objects_pb2.Volume, now_ms: int) -> None:
    """Answer a wish to move."""
    spec, move = volume.spec, volume.move
    if spec.moves <= move.number:
        return
    _end(volume, "another move was asked for", now_ms)
    if not volume.node_id and is_homed(spec) and spec.node_id:
        volume.node_id = spec.node_id  # nothing is anywhere yet
        if spec.node_id not in volume.holders:
            volume.holders.append(spec.node_id)
    if spec.node_id == volume.node_id or not is_homed(spec):
        move.number = spec.moves  # it is there already: the end of a move under way
        return
    volume.move.CopyFrom(
        objects_pb2.VolumeMove(
            number=spec.moves,
            from_id=volume.node_id,
            to_id=spec.node_id,
            state=COPYING,
            started_ms=now_ms,
            message="copying",
        )
    )
    if spec.node_id not in volume.holders:
        volume.holders.append(spec.node_id)


def _end(volume: objects_pb2.Volume, why: str, now_ms: int) -> None:
    if volume.move.state in MOVES_UNDER_WAY:
        volume.move.state, volume.move.message, volume.move.ended_ms = FAILED, why, now_ms


def _move(draft: Draft, volume: objects_pb2.Volume, now_ms: int) -> int | None:
    """Bring a move that is under way forward; when to look again."""
    move = volume.move
    if move.state not in MOVES_UNDER_WAY:
        return None
    patience_ms = DOWN_LIMIT_MS if move.state == COPYING else 0
    for node_id in (move.from_id, move.to_id):
        problem, since_ms = _node_problem(draft, node_id)
        if problem and now_ms < since_ms + patience_ms:
            return since_ms + patience_ms
        if problem:
            _end(volume, problem, now_ms)
            return None
    report = report_of(volume, move.to_id)
    said = report.state if report is not None and report.move == move.number else 0
    if report is not None and said == objects_pb2.VOLUME_FAILED:
        _end(volume, report.message or "the copy failed", now_ms)
        return None
    if move.state == COPYING and said == objects_pb2.VOLUME_SYNCED:
        move.state, move.message, move.stopping_ms = STOPPING, "stopping its tasks", now_ms
    if move.state == STOPPING:
        users = users_of(draft, volume.meta.id)
        for task in users:
            _shut_down(draft, task)
        if not users:
            move.state, move.message = FINAL, "copying the last difference"
        elif now_ms >= move.stopping_ms + STOP_LIMIT_MS:
            _end(volume, f"{users[0].meta.name} did not stop", now_ms)
        else:
            return move.stopping_ms + STOP_LIMIT_MS
    elif move.state == FINAL and (users := users_of(draft, volume.meta.id)):
        # Placed by a plan that was made before; what it wrote may not be in the copy.
        _end(volume, f"{users[0].meta.name} started meanwhile", now_ms)
    elif move.state == FINAL and said == objects_pb2.VOLUME_COPIED:
        volume.node_id = move.to_id
        move.state, move.message, move.ended_ms = DONE, "moved", now_ms
    return None


def _node_problem(view: View, node_id: str) -> tuple[str, int]:
    """What keeps a node from its part, and since when."""
    node = view.node(node_id)
    if node is None or node.removed:
        return f"node {node_id} was removed from the cluster", 0
    if node.status.state == types_pb2.NODE_DOWN:
        return f"node {node.meta.name or node_id} went down", node.status.since_ms
    return "", 0


def _shut_down(draft: Draft, task: objects_pb2.Task) -> None:
    if desired_running(task):
        stopped = copy_of(task)
        stopped.desired_state = types_pb2.TASK_SHUTDOWN
        draft.put(stopped)


def _release_holders(draft: Draft, volume: objects_pb2.Volume) -> None:
    """Forget holders that have dropped what they had, and those that will never be back."""
    for node_id in list(volume.holders):
        node = draft.node(node_id)
        report = report_of(volume, node_id)
        # A report about an earlier move tells nothing of what has come to the node since.
        gone = report is not None and (report.state, report.move) == (ABSENT, volume.move.number)
        dropped = gone and part_of(volume, node_id) == dispatcher_pb2.VOLUME_DROP
        if node is None or node.removed or dropped:
            volume.holders.remove(node_id)
            if report is not None:
                volume.reports.remove(report)
