"""What every planner shares: its shape, the constants, and words for states.

A planner is a pure function from a View to changes. It is told keys to look at,
never what happened: the same view gives the same plan, whoever asks and however
often. Time comes in as `now_ms`, ids from `new_id()`. All timers are data in
objects; `Plan.wake_ms` says when to look again though nothing changed.

Rules for planners:
- one writer per field (see objects.proto); read anything, write your own;
- a plan that is applied makes the next plan for the same keys empty;
- at most CHANGES_PER_PLAN changes; what is left is taken up again, because the
  applied changes make their keys dirty, or by a `wake_ms` of now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from swarmpy.node.plan import partition
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import ChangeEvent, Draft, View

__all__ = ["ChangeEvent", "Draft", "NewId", "Plan", "Planner", "View"]

CHANGES_PER_PLAN = 200
BYTES_PER_PLAN = 1_000_000
TASK_HISTORY_LIMIT = 5
ORPHAN_AFTER_MS = 24 * 3600 * 1000
RESTART_DELAY_MS = 5_000
RESTART_MAX_DELAY_MS = 60_000
QUICK_FAILURES_BEFORE_BACKOFF = 3
FAULTY_NODE_FAILURES = 5
FAULTY_NODE_WINDOW_MS = 5 * 60 * 1000
UPDATE_PARALLELISM = 1
UPDATE_MONITOR_MS = 10_000
SPEC_HISTORY_LIMIT, SPEC_HISTORY_MAX = 10, 50  # earlier revisions kept: unless the service says, and at most
SPEC_HISTORY_BYTES = 600_000  # a service is written whole, in one transaction
DYNAMIC_PORT_MIN = 30_000
DYNAMIC_PORT_MAX = 32_767
NANO_CPUS_MIN = 1_000_000
MEMORY_BYTES_MIN = 4 << 20
CLUSTER_CIDR = "10.64.0.0/10"
DEFAULT_NETWORK_ID = "default"
DEFAULT_NETWORK_NAME = "swarmpy"

NewId = Callable[[], str]
MessageT = TypeVar(
    "MessageT",
    objects_pb2.Cluster,
    objects_pb2.Node,
    objects_pb2.Service,
    objects_pb2.Task,
    objects_pb2.Network,
    objects_pb2.Image,
    objects_pb2.Schedule,
    objects_pb2.Autoscaler,
    objects_pb2.Volume,
    objects_pb2.Token,
    objects_pb2.ServiceSpec,
    types_pb2.TaskSpec,
)


@dataclass
class Plan:
    """Changes to propose, and the absolute time to look again (None: only when something changes)."""

    changes: list[store_pb2.Change] = field(default_factory=list)
    wake_ms: int | None = None
    unseen: Sequence[str] = ()  # keys that were not looked at, to keep the plan short: they come next


class Planner(Protocol):
    """One concern of the leader. `dirty` and `all_keys` name what `plan` should look at."""

    name: str

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]: ...

    def all_keys(self, view: View) -> Iterable[str]: ...

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan: ...


def copy_of(message: MessageT) -> MessageT:
    """A copy to change: what a View returns must not be changed."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def earliest(*times_ms: int | None) -> int | None:
    """The soonest of several wake times."""
    return min((t for t in times_ms if t is not None), default=None)


def is_terminal(state: int) -> bool:
    """The observed state is final: nothing of the task runs any more (or nobody can know)."""
    return state >= types_pb2.TASK_COMPLETE


def is_failure(state: int) -> bool:
    return state in (types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED)


def desired_running(task: objects_pb2.Task) -> bool:
    """Wanted: running, or prepared for a start later (desired READY)."""
    return task.desired_state <= types_pb2.TASK_RUNNING


def is_ready(node: objects_pb2.Node | None) -> bool:
    """Takes new tasks: present, up, active and not on its way out."""
    return (
        node is not None
        and not node.removed
        and node.status.state == types_pb2.NODE_READY
        and node.spec.availability == types_pb2.AVAILABILITY_ACTIVE
    )


def is_away(task: objects_pb2.Task, view: View) -> bool:
    """Assigned to a node that is down, removed or gone: nobody reaches it."""
    if not task.node_id:
        return False
    node = view.node(task.node_id)
    return node is None or node.removed or node.status.state == types_pb2.NODE_DOWN


def is_lost(task: objects_pb2.Task, view: View) -> bool:
    """Away, and its slot may have another task: of a fenced one, once its node has surely stopped it."""
    if not is_away(task, view):
        return False
    node = view.node(task.node_id) if task.spec.fenced else None
    return node is None or node.removed or node.status.silent_ms >= partition.surely_stopped_ms(task.spec)


def may_run(task: objects_pb2.Task, view: View) -> bool:
    """Its node may be running it, for all that is known."""
    assigned = task.status.state >= types_pb2.TASK_ASSIGNED
    return assigned and not is_terminal(task.status.state) and not is_lost(task, view)


def is_live(task: objects_pb2.Task, view: View) -> bool:
    """Counts for its slot: wanted, not ended, and not on a lost node."""
    return desired_running(task) and not is_terminal(task.status.state) and not is_lost(task, view)


def room_of(node: objects_pb2.Node) -> tuple[int, int]:
    """How many nano CPUs and bytes of memory tasks may reserve on a node."""
    has, percent = node.description.resources, node.spec.room_percent or 100
    return has.nano_cpus * percent // 100, has.memory_bytes * percent // 100


def holds_resources(task: objects_pb2.Task) -> bool:
    """Uses its node's memory, ports and addresses: assigned and not ended."""
    return bool(task.node_id) and not is_terminal(task.status.state)


def limited(draft: Draft, now_ms: int, wake_ms: int | None = None) -> Plan:
    """The draft's changes as a Plan that fits one transaction; the rest is planned again at once.

    A prefix of a draft's changes must make sense on its own: touch first what others build on.
    """
    changes: list[store_pb2.Change] = []
    size_bytes = 0
    for change in draft.changes():
        size_bytes += change.ByteSize()
        if changes and (len(changes) == CHANGES_PER_PLAN or size_bytes > BYTES_PER_PLAN):
            return Plan(changes, now_ms)
        changes.append(change)
    return Plan(changes, wake_ms)


def is_full(draft: Draft) -> bool:
    """Enough for one transaction: planning more would be thrown away."""
    return len(draft) > CHANGES_PER_PLAN
