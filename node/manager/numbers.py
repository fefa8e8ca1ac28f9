"""What a manager shows to Prometheus: its names are Swarm's with our prefix, where Swarm has them.

Everything but the histograms is worked out when somebody looks. `swarmpy_manager_leader` is 1 on one
manager only; the other numbers of the state are each manager's own copy.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from swarmpy.node.manager.attempt import Troubles
from swarmpy.node.manager.leader import Leader
from swarmpy.node.metrics import CONTENT_TYPE, Family, Page, Registry, by_label, counter, gauge
from swarmpy.node.plan.planners import all_planners
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.log import LogError
from swarmpy.raft.store import Commit, Store
from swarmpy.raft.tables import KINDS, noun


class Numbers:
    """Feeds itself from the store's commits and the leader's writes."""

    def __init__(
        self, leader: Leader, store: Store, connected: Callable[[], int], troubles: Troubles
    ) -> None:
        self._leader, self._store, self._connected, self._troubles = leader, store, connected, troubles
        self._changes = 0
        self.registry = Registry()
        self._writes = self.registry.histogram(
            "swarmpy_raft_transaction_latency_seconds", "From a proposal to its result, on the leader."
        )
        self._delays = self.registry.histogram(
            "swarmpy_dispatcher_scheduling_delay_seconds",
            "From a task's creation until it runs, on the leader.",
        )
        self.registry.collect(self._raft)
        self.registry.collect(self._state)
        self.registry.collect(self._planners)
        store.listeners.append(self._on_commit)
        leader.wrote = self._writes.observe

    async def page(self) -> Page:
        return Page(self.registry.text(), content_type=CONTENT_TYPE)

    def _on_commit(self, commit: Commit) -> None:
        self._changes += len(commit.events)
        if not self._leader.leading:
            return
        for event in commit.events:
            if event.kind == store_pb2.KIND_TASK and _began(event.old, event.new):
                assert isinstance(event.new, objects_pb2.Task)
                self._delays.observe(max(0, commit.now_ms - event.new.meta.created_ms) / 1000)

    def _raft(self) -> Iterator[Family]:
        yield gauge("swarmpy_manager_leader", "1 where this manager leads.", float(self._leader.leading))
        with contextlib.suppress(LogError):
            status = self._leader.raft.status()
            lag = max(0, status.commit_index - status.applied_index)
            yield gauge("swarmpy_raft_term", "The term of this member.", status.term)
            yield gauge(
                "swarmpy_raft_commit_index", "The last entry known to be committed.", status.commit_index
            )
            yield gauge("swarmpy_raft_apply_lag", "Committed entries that are not applied yet.", lag)
            yield gauge("swarmpy_raft_members", "Members of the group.", len(status.members))
            yield gauge(
                "swarmpy_raft_members_reachable", "Members this one hears from, itself included.",
                sum(m.reachable or m.node_id == status.node_id for m in status.members),
            )  # fmt: skip
        yield gauge("swarmpy_manager_sessions", "Nodes with a session to this manager.", self._connected())
        yield counter(
            "swarmpy_store_changes_total", "Objects written since this manager started.", self._changes
        )

    def _planners(self) -> Iterator[Family]:
        counts = {planner.name: self._troubles.counts[planner.name] for planner in all_planners()}
        yield by_label(
            "swarmpy_planner_failures_total", "counter",
            "Plans that raised an error or were refused by the store, since this manager started.",
            "planner", counts,
        )  # fmt: skip
        failing = self._troubles.failing()
        yield by_label(
            "swarmpy_planner_failing", "gauge", "Keys that a planner fails for now, on the leader.",
            "planner", {name: failing[name] for name in counts},
        )  # fmt: skip

    def _state(self) -> Iterator[Family]:
        nodes = Counter(_word(types_pb2.NodeState.Name(node.status.state)) for node in self._store.nodes())
        yield by_label(
            "swarmpy_manager_nodes", "gauge", "Nodes by state.", "state", _all(nodes, _NODE_STATES)
        )
        tasks = Counter(_word(types_pb2.TaskState.Name(task.status.state)) for task in self._store.tasks())
        yield by_label(
            "swarmpy_manager_tasks_total",
            "gauge",
            "Tasks by observed state.",
            "state",
            _all(tasks, _TASK_STATES),
        )
        for kind in KINDS:
            if kind not in (store_pb2.KIND_CLUSTER, store_pb2.KIND_NODE, store_pb2.KIND_TASK):
                yield gauge(
                    f"swarmpy_manager_{noun(kind)}s_total",
                    f"Objects of kind {noun(kind)}.",
                    self._store.count(kind),
                )


def _began(old: object, new: object) -> bool:
    """Whether a task was seen to run for the first time."""
    if not isinstance(new, objects_pb2.Task) or new.status.state != types_pb2.TASK_RUNNING:
        return False
    return not isinstance(old, objects_pb2.Task) or old.status.state < types_pb2.TASK_RUNNING


def _word(name: str) -> str:
    return name.partition("_")[2].lower()


_NODE_STATES = tuple(_word(name) for name in types_pb2.NodeState.keys())  # noqa: SIM118 - an enum wrapper
_TASK_STATES = tuple(_word(name) for name in types_pb2.TaskState.keys())  # noqa: SIM118


def _all(counted: Counter[str], states: tuple[str, ...]) -> dict[str, float]:
    """Every state, also those that nothing is in: a series that vanishes looks like a broken one."""
    return {state: counted[state] for state in states}
