"""The planners alone: placements per second, a plan with nothing to do, the longest plan of a large cluster.

    python -m bench.planner [--nodes 500] [--json]

No cluster and no peer: Docker Swarm's and Kubernetes' schedulers cannot be run without theirs. Published
figures of others for whole systems are in docs/benchmarks.md. Times are processor time of the planning
thread, so that what else runs on the machine does not count; the store's own work between plans is in none of
them but a task's way from its service to RUNNING. Rates, that way and the idle plan are medians of three rounds;
the longest plan is the longest seen while 30,000 tasks start on 1,000 nodes, a new leader takes over, 30 services
change, and a node is lost.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence

from swarmpy.node.manager import statuses
from swarmpy.node.manager.loop import LoopState, parts_of
from swarmpy.node.plan.base import Planner
from swarmpy.node.plan.planners import all_planners
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit, Store, result_of, transaction
from swarmpy.raft.tables import Entity, wrap

ROUNDS = 3
SERVICES_AT_ONCE = 8
MIB = 1 << 20


class Bench:
    """A store with every planner's loop state, driven by hand."""

    def __init__(self, nodes: int) -> None:
        self.store = Store()
        self.index = 0
        self.now_ms = 1_700_000_000_000
        self.ids = (f"t{number:08d}" for number in itertools.count())
        self.longest: dict[str, float] = {}
        self._lead()
        self.commit((), first=True)
        self.store.listeners.append(self._feed)
        cluster = objects_pb2.Cluster()
        cluster.meta.id = "cluster"
        self.put([cluster])
        self.put([node(number) for number in range(nodes)])
        self.take_over()

    def _lead(self) -> None:
        self.planners = {planner.name: planner for planner in all_planners()}
        self.states = {name: LoopState(planner) for name, planner in self.planners.items()}

    def take_over(self) -> None:
        """A new leader: planners that remember nothing look at everything."""
        self._lead()
        for state in self.states.values():
            state.restart(self.store)

    def _feed(self, commit: Commit) -> None:
        for state in self.states.values():
            state.feed(commit, self.store)

    def commit(self, changes: Sequence[store_pb2.Change], *, first: bool = False) -> None:
        self.index += 1
        self.now_ms += 1
        command = transaction(changes, epoch=1, now_ms=self.now_ms, actor="bench", new_epoch=first)
        result = result_of(self.store.apply(self.index, command))
        assert not result.error_code, result

    def put(self, entities: Sequence[Entity]) -> None:
        changes = [store_pb2.Change(put=wrap(e), expected_version=e.meta.version) for e in entities]
        for part in parts_of(changes):
            self.commit(part)

    def round(self, name: str) -> tuple[float, int]:
        """One plan of a planner, applied; its seconds and its changes."""
        planner: Planner = self.planners[name]
        keys = self.states[name].take(self.now_ms)
        if not keys:
            return 0.0, 0
        started = time.thread_time()
        plan = planner.plan(self.store, keys, self.now_ms, lambda: next(self.ids))
        took = time.thread_time() - started
        self.longest[name] = max(self.longest.get(name, 0.0), took)
        self.states[name].look_again(keys, plan.wake_ms)
        self.states[name].mark(plan.unseen)
        for part in parts_of(plan.changes):
            self.commit(part)
        return took, len(plan.changes)

    def until_quiet(self, names: Sequence[str]) -> tuple[float, int]:
        """Rounds of some planners until none changes anything; planning seconds and changes."""
        total, made = 0.0, 0
        while True:
            before = made
            for name in names:
                took, changes = self.round(name)
                total, made = total + took, made + changes
            if made == before and not any(self.states[name].wait_ms(self.now_ms) == 0 for name in names):
                return total, made


def node(number: int) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = made.description.hostname = f"node{number:05d}"
    made.meta.labels["zone"] = "abc"[number % 3]
    made.description.resources.nano_cpus = 64_000_000_000
    made.description.resources.memory_bytes = 256 << 30
    made.status.state = types_pb2.NODE_READY
    made.index = number + 1
    return made


def service(number: int, replicas: int, *, constraint: str = "", spread: str = "") -> objects_pb2.Service:
    made = objects_pb2.Service(spec_version=1)
    made.meta.id = made.meta.name = f"service{number:05d}"
    made.spec.task.container.image = "docker.io/library/app:1"
    made.spec.task.resources.reservations.nano_cpus = 100_000_000
    made.spec.task.resources.reservations.memory_bytes = 64 * MIB
    made.spec.replicated.replicas = replicas
    if constraint:
        made.spec.task.placement.constraints.append(constraint)
    if spread:
        made.spec.task.placement.preferences.add(spread=spread)
    return made


def median(measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    found = []
    for _ in range(rounds):
        gc.collect()
        found.append(measure())
    return statistics.median(found)


def placements_per_s(nodes: int, services: int, replicas: int, **options: str) -> float:
    """The scheduler alone: pending tasks to assigned ones, booked in the store between its plans."""

    def measure() -> float:
        bench = Bench(nodes)
        bench.put([service(number, replicas, **options) for number in range(services)])
        bench.until_quiet(["allocator", "replicated"])
        took, made = bench.until_quiet(["scheduler"])
        assert made == services * replicas, made
        return made / took

    return median(measure)


def idle_plan_ms(replicas: int = 100, nodes: int = 500) -> float:
    """A replicated service's plan when there is nothing to do."""
    bench = Bench(nodes)
    bench.put([service(0, replicas)])
    start_all(bench)
    planner = bench.planners["replicated"]

    def measure() -> float:
        started = time.thread_time()
        for _ in range(200):
            plan = planner.plan(bench.store, ["service00000"], bench.now_ms, lambda: "unused")
        assert not plan.changes
        return (time.thread_time() - started) / 200 * 1000

    return median(measure)


def start_all(bench: Bench) -> None:
    """Make, place and start everything, as if every node had reported its tasks running."""
    everything = ["allocator", "replicated", "global", "scheduler"]
    bench.round("scheduler")  # as a leader's does long before there is anything to place
    bench.until_quiet(everything)
    started = []
    for task in bench.store.tasks_in_state(types_pb2.TASK_ASSIGNED):
        copied = objects_pb2.Task()
        copied.CopyFrom(task)
        copied.status.state, copied.status.ready = types_pb2.TASK_RUNNING, True
        copied.status.started_ms = bench.now_ms
        started.append(copied)
    bench.put(started)
    bench.now_ms += 600_000
    bench.until_quiet(everything)


def whole_way_ms(nodes: int, services: int = 50, replicas: int = 50) -> float:
    """A task from its service to RUNNING: every plan and every write of a leader, without log, network and disk."""

    def measure() -> float:
        bench = Bench(nodes)
        everything = list(bench.planners)
        bench.until_quiet(everything)
        made = [service(number, replicas) for number in range(services)]
        began = time.thread_time()
        for position in range(0, services, SERVICES_AT_ONCE):
            bench.put(made[position : position + SERVICES_AT_ONCE])
            bench.until_quiet(everything)
            reported = bench.store.tasks_in_state(types_pb2.TASK_ASSIGNED)
            for begin in range(0, len(reported), statuses.CHANGES_PER_TRANSACTION):
                part = reported[begin : begin + statuses.CHANGES_PER_TRANSACTION]
                bench.commit(statuses.task_changes(bench.store, running(part, bench.now_ms), bench.now_ms))
            bench.until_quiet(everything)
        took = time.thread_time() - began
        assert len(bench.store.tasks_in_state(types_pb2.TASK_RUNNING)) == services * replicas
        return took / (services * replicas) * 1000

    return median(measure)


def running(tasks: Sequence[objects_pb2.Task], now_ms: int) -> dict[str, objects_pb2.TaskStatus]:
    """What nodes report of tasks that they started."""
    status = objects_pb2.TaskStatus(
        state=types_pb2.TASK_RUNNING, since_ms=now_ms, started_ms=now_ms, ready=True, ready_ms=now_ms
    )
    return {task.meta.id: status for task in tasks}


def longest_plans_ms(nodes: int = 1000, services: int = 300, replicas: int = 100) -> dict[str, float]:
    """Every planner's longest plan: start of 30,000 tasks, a take-over, a rescale, an update, a lost node."""
    bench = Bench(nodes)
    everything = list(bench.planners)
    bench.put([service(number, replicas, spread="node.labels.zone") for number in range(services)])
    start_all(bench)
    started, bench.longest = bench.longest, {}
    bench.take_over()
    bench.until_quiet(everything)
    taken_over, bench.longest = bench.longest, started
    edited = []
    for number in range(0, services, 10):
        changed = objects_pb2.Service()
        stored = bench.store.service(f"service{number:05d}")
        assert stored is not None
        changed.CopyFrom(stored)
        if number % 20:
            changed.spec.replicated.replicas = 50
        else:
            changed.spec.task.container.image = "docker.io/library/app:2"
            changed.spec_version += 1
        edited.append(changed)
    bench.put(edited)
    bench.until_quiet(everything)
    lost = objects_pb2.Node()
    present = bench.store.node("node00000")
    assert present is not None
    lost.CopyFrom(present)
    lost.status.state, lost.status.since_ms = types_pb2.NODE_DOWN, bench.now_ms
    bench.put([lost])
    bench.until_quiet(everything)
    found = {name: seconds * 1000 for name, seconds in sorted(bench.longest.items())}
    found.update({f"{n}, after a take-over": s * 1000 for n, s in sorted(taken_over.items()) if s > 0.001})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    gc.set_threshold(100_000, 50, 1000)  # as a manager has it
    found = {
        "machine": f"{platform.machine()} {platform.python_implementation()} {platform.python_version()}",
        "nodes": asked.nodes,
        "placements_per_s": {
            "10 services of 500 tasks": round(placements_per_s(asked.nodes, 10, 500)),
            "the same, spread over zones": round(
                placements_per_s(asked.nodes, 10, 500, spread="node.labels.zone")
            ),
            "100 services of 20 tasks, a constraint": round(
                placements_per_s(asked.nodes, 100, 20, constraint="node.labels.zone!=c")
            ),
            "1000 services of 1 task": round(placements_per_s(asked.nodes, 1000, 1)),
        },
        "idle_plan_of_100_tasks_ms": round(idle_plan_ms(), 3),
        "created_to_running_ms_a_task": round(whole_way_ms(asked.nodes), 3),
        "longest_plan_ms_1000_nodes_30000_tasks": {
            name: round(value, 1) for name, value in longest_plans_ms().items()
        },
    }
    if asked.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            print(name)
            for row, number in value.items():
                print(f"    {row:45} {number:>10}")
        else:
            print(f"{name:49} {value:>10}" if not isinstance(value, str) else f"{name} {value}")


if __name__ == "__main__":
    main()
