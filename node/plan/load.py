"""What a node's machine is used for: how measurements become part of the state, and of the score. Pure.

A node says with its heartbeats what part of its CPUs and memory is in use. Not each sample is stored: only in steps
of ten points, and only when it is ten or more away from what is stored, at most once in a while. So decisions
depend on the store alone, and a machine at the edge of a step does not write for ever.
"""

from __future__ import annotations

from swarmpy.proto import objects_pb2
from swarmpy.raft.store import ChangeEvent

STEP = 10  # points
WRITE_EVERY_MS = 30_000  # of one node
LOAD_WEIGHT = 5.0  # a machine that is used to the last counts as so many tasks


def to_store(
    stored: objects_pb2.MachineUse, measured: objects_pb2.MachineUse
) -> objects_pb2.MachineUse | None:
    """What to store instead; None where the measurement says nothing new. All in percent."""
    moved = max(
        abs(measured.cpu_percent - stored.cpu_percent), abs(measured.memory_percent - stored.memory_percent)
    )
    if moved < STEP:
        return None
    return objects_pb2.MachineUse(
        cpu_percent=_stepped(measured.cpu_percent), memory_percent=_stepped(measured.memory_percent)
    )


def _stepped(percent: int) -> int:
    return min(100, (percent + STEP // 2) // STEP * STEP)


def part_in_use(node: objects_pb2.Node) -> float:
    """The larger of the two parts, 0 to 1; 0 where nothing is known."""
    return max(node.usage.cpu_percent, node.usage.memory_percent) / 100


def is_usage_alone(event: ChangeEvent) -> bool:
    """Whether a node differs from before in its use only: no filter asks for that."""
    old, new = event.old, event.new
    if (
        not isinstance(old, objects_pb2.Node)
        or not isinstance(new, objects_pb2.Node)
        or old.usage == new.usage
    ):
        return False
    like_old = objects_pb2.Node()
    like_old.CopyFrom(new)
    like_old.usage.CopyFrom(old.usage)
    if not old.HasField("usage"):
        like_old.ClearField("usage")
    like_old.meta.version, like_old.meta.updated_ms = old.meta.version, old.meta.updated_ms
    return like_old == old
