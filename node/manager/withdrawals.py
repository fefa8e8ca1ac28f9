"""Which stopping tasks are out of service on every node, as far as the nodes have said. Memory of the leader.

A task that is to stop leaves the endpoints in the transaction that asks for it. Each node that has applied the
set without it says so (`Applied`); once all have, the task's own node is told and begins its drain delay. Nodes
that are down are not waited for, and the task's node waits a few seconds only: a node that hangs delays a stop,
it does not prevent it. A new leader begins with every task that is stopping, and asks again.

Generations count the commits of this leadership. A node has reached generation g once it has applied a set that
was made after g.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import ChangeEvent, View

PENDING_MAX = 256
_UNWANTED = [state for state in types_pb2.TaskState.values() if state > types_pb2.TASK_RUNNING]


class Progress:
    """What one node was sent and what it has applied."""

    def __init__(self) -> None:
        self.applied = 0
        self._holds: bytes | None = None
        self._pending: deque[tuple[bytes, int]] = deque(maxlen=PENDING_MAX)

    def sent(self, holds: bytes, generation: int) -> None:
        """The set with this digest was made after `generation`."""
        if self._pending and self._pending[-1][0] == holds:
            self._pending[-1] = (holds, generation)
        elif not self._pending and self._holds == holds:
            self.applied = generation
        else:
            self._pending.append((holds, generation))

    def confirmed(self, holds: bytes) -> None:
        """The node runs with the set of this digest now."""
        for position in range(len(self._pending) - 1, -1, -1):
            if self._pending[position][0] == holds:
                self.applied, self._holds = self._pending[position][1], holds
                for _ in range(position + 1):
                    self._pending.popleft()
                return


class Withdrawals:
    """Tasks on their way out: those some node may still send to, and those none does."""

    def __init__(self) -> None:
        self.generation = 1
        self._waiting: dict[str, tuple[str, int]] = {}  # task -> its node, generation
        self._out: dict[str, str] = {}  # task -> its node

    @property
    def waiting(self) -> bool:
        """Whether any task waits for nodes."""
        return bool(self._waiting)

    def restart(self, view: View) -> None:
        """As a new leader, or over a store that was replaced."""
        self.generation += 1
        self._out = {}
        self._waiting = {
            task.meta.id: (task.node_id, self.generation)
            for state in _UNWANTED
            for task in view.tasks_desired(state)  # type: ignore[arg-type]
            if is_stopping(task)
        }

    def note(self, events: Iterable[ChangeEvent]) -> bool:
        """Take a commit's events; whether a task began to stop."""
        self.generation += 1
        begun = False
        for event in events:
            if event.kind != store_pb2.KIND_TASK:
                continue
            task = event.new
            if not isinstance(task, objects_pb2.Task) or not is_stopping(task):
                self._waiting.pop(event.id, None)
                self._out.pop(event.id, None)
            elif event.id not in self._waiting and event.id not in self._out:
                self._waiting[event.id] = (task.node_id, self.generation)
                begun = True
        return begun

    def reached(self, generation: int) -> dict[str, list[str]]:
        """All nodes have reached `generation`: tasks that are out of service since, by their node."""
        found: dict[str, list[str]] = {}
        for task_id, (node_id, wanted) in list(self._waiting.items()):
            if wanted <= generation:
                del self._waiting[task_id]
                self._out[task_id] = node_id
                found.setdefault(node_id, []).append(task_id)
        return found

    def out_on(self, node_id: str) -> list[str]:
        """The node's tasks that are out of service, for one that asks anew."""
        return [task_id for task_id, owner in self._out.items() if owner == node_id]


def is_stopping(task: objects_pb2.Task) -> bool:
    """Whether it runs and shall not."""
    running = types_pb2.TASK_STARTING <= task.status.state <= types_pb2.TASK_RUNNING
    return running and task.desired_state > types_pb2.TASK_RUNNING and bool(task.node_id)
