"""A service, its nodes and what happens to them, drawn step by step; one planner at a time looks after it.

`Play` runs the planner of the service's mode, the nodes planner and the reaper until they rest, after every
thing that happens. Of each plan it checks what is asked of all planners: a planner without memory makes the
same one, and once it is carried out there is nothing left to do; at rest a new leader finds nothing, either.
What a planner promises itself is checked by `before`, which is called with every plan, and `rested`, which is
called when nothing moves any more.

`DEEP=20 pytest tests/property -k plan_` tries twenty times as many examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from swarmpy.node.manager.loop import LoopState
from swarmpy.node.plan.base import Plan, Planner, copy_of, is_live, is_lost, is_ready, is_terminal
from swarmpy.node.plan.global_ import GlobalPlanner
from swarmpy.node.plan.jobs import JobsPlanner
from swarmpy.node.plan.nodes import NodesPlanner
from swarmpy.node.plan.ordered import OrderedPlanner
from swarmpy.node.plan.reaper import Reaper
from swarmpy.node.plan.replicated import ReplicatedPlanner
from swarmpy.node.plan.revisions import NotNow, acted
from swarmpy.node.plan.tasks import enter, with_history
from swarmpy.node.plan.update import with_new_spec
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.tables import unwrap

from tests.store_world import World, cluster, node

RUNNING = types_pb2.TASK_RUNNING
SHUTDOWN = types_pb2.TASK_SHUTDOWN
NODES = ("n0", "n1", "n2")
SERVICE = "s"
STEPS = (
    types_pb2.TASK_ASSIGNED,
    types_pb2.TASK_ACCEPTED,
    types_pb2.TASK_PREPARING,
    types_pb2.TASK_READY,
    types_pb2.TASK_STARTING,
    types_pb2.TASK_RUNNING,
)
PLANNERS: dict[str, Callable[[], Planner]] = {
    "replicated": ReplicatedPlanner,
    "global": GlobalPlanner,
    "ordered": OrderedPlanner,
    "replicated_job": JobsPlanner,
    "global_job": JobsPlanner,
}
Action = tuple[str, int]


def examples(count: int) -> settings:
    """So many in the usual run, DEEP times as many when asked."""
    return settings(deadline=None, max_examples=count * int(os.environ.get("DEEP", "1")))


def actions(names: Sequence[str], most: int = 25) -> st.SearchStrategy[list[Action]]:
    """Things that happen one after the other; the number says to which, or how much."""
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 11)), max_size=most)


class Play(World):
    """See the module."""

    def __init__(
        self,
        service: objects_pb2.Service,
        *,
        cut: int = 0,
        history_limit: int = 0,
        before: Callable[[Play, Planner, Plan], None] | None = None,
        rested: Callable[[Play], None] | None = None,
    ) -> None:
        self.mode = service.spec.WhichOneof("mode")
        self.made = 0
        self.cut, self.before, self.rested = cut, before, rested
        super().__init__(*self._planners())
        self.put(cluster(task_history_limit=history_limit), service, *map(node, NODES))
        self.rest()

    def _planners(self) -> list[Planner]:
        own = PLANNERS[
            str(self.mode)
        ]()  # what is on its way out is the replicated planner's, whatever its mode
        removal = [] if isinstance(own, ReplicatedPlanner) else [ReplicatedPlanner()]
        return [own, NodesPlanner(), Reaper(), *removal]

    @property
    def service(self) -> objects_pb2.Service:
        found = self.store.service(SERVICE)
        assert found is not None
        return found

    @property
    def tasks(self) -> list[objects_pb2.Task]:
        """In an order that has nothing to do with their ids."""
        found = self.store.tasks_of_service(SERVICE)
        return sorted(found, key=lambda t: (*slot_of(t), t.meta.created_ms, t.restart.count, t.spec_version))

    @property
    def live(self) -> list[objects_pb2.Task]:
        return [task for task in self.tasks if is_live(task, self.store)]

    def new_id(self) -> str:
        self.made += 1
        return f"id{self.made:06d}"

    def elect(self) -> None:
        """A new leader, whose planners know nothing; the tasks' places are this world's, so nothing is attached."""
        self.send((), epoch=self.store.epoch + 1, new_epoch=True)
        self.loops = [(planner, LoopState(planner)) for planner in self._planners()]
        for planner, state in self.loops:
            state.mark(list(planner.all_keys(self.store)))

    def _step(self, planner: Planner, state: LoopState) -> bool:
        keys = state.take(self.now_ms)
        if not keys:
            return False
        made = self.made
        plan = planner.plan(self.store, keys, self.now_ms, self.new_id)
        after, self.made = self.made, made
        fresh = type(planner)().plan(self.store, keys, self.now_ms, self.new_id)
        assert plan.changes == fresh.changes, f"{planner.name} plans by what it remembers"
        self.made = max(after, self.made)
        if self.before is not None:
            self.before(self, planner, plan)
        state.look_again(keys, plan.wake_ms)
        state.mark(plan.unseen)
        changes = plan.changes[: self.cut] if self.cut else plan.changes
        if changes:
            result = self.send(changes, actor=planner.name)
            assert not result.error_code, result.error
        if len(changes) < len(plan.changes):
            state.mark(keys)
        elif is_whole(plan, self.now_ms):
            again = planner.plan(self.store, keys, self.now_ms, self.new_id)
            assert not again.changes, f"{planner.name} plans again what is done: {again.changes}"
        return True

    def rest(self) -> None:
        """Plan and place until nothing moves."""
        self.settle()
        while self._place():
            self.settle()
        check_rest(self)
        if self.rested is not None:
            self.rested(self)

    def _place(self) -> bool:
        """What the allocator and the scheduler do, with no regard to anything but the slot."""
        ready = [found.meta.id for found in self.store.nodes() if is_ready(found)]
        new = [t for t in self.tasks if t.status.state < types_pb2.TASK_ASSIGNED and is_live(t, self.store)]
        placed = []
        for task in new if ready else ():
            changed = copy_of(task)
            changed.node_id = task.node_id or ready[(task.slot + task.spec_version) % len(ready)]
            enter(changed, types_pb2.TASK_ASSIGNED, self.now_ms, "assigned")
            placed.append(changed)
        self.put(*placed)
        return bool(placed)

    # what happens

    def act(self, action: Action) -> None:
        name, number = action
        getattr(self, f"do_{name}")(number)
        self.rest()

    def _pick(self, tasks: list[objects_pb2.Task], number: int) -> objects_pb2.Task | None:
        there = [
            t
            for t in tasks
            if t.status.state >= types_pb2.TASK_ASSIGNED
            and not is_terminal(t.status.state)
            and not is_lost(t, self.store)
        ]
        return copy_of(there[number % len(there)]) if there else None

    def report(self, task: objects_pb2.Task, state: types_pb2.TaskState, *, ready: bool = False) -> None:
        """As the dispatcher writes it."""
        new = copy_of(task)
        status = new.status
        status.state, status.since_ms, status.ready = state, self.now_ms, ready
        if state == RUNNING and not status.started_ms:
            status.started_ms = self.now_ms
        if ready and not status.ready_ms:
            status.ready_ms = self.now_ms
        new.status.CopyFrom(with_history(task, status, self.now_ms))
        self.put(new)

    def step(self, task: objects_pb2.Task) -> None:
        """One step on its way up, or down to its end where it is wanted no more."""
        if task.desired_state > RUNNING:
            self.report(task, SHUTDOWN)
        elif task.status.state < min(task.desired_state, RUNNING):
            state = STEPS[STEPS.index(task.status.state) + 1]
            self.report(task, state, ready=state == RUNNING)

    def do_step(self, number: int) -> None:
        if (task := self._pick(self.tasks, number)) is not None:
            self.step(task)

    def do_up(self, number: int) -> None:
        """A task comes up, all the way; one that is to stop stops."""
        task = self._pick(self.tasks, number)
        for _ in STEPS:
            if task is not None and not is_terminal(task.status.state):
                self.step(task)
                task = self.store.task(task.meta.id)

    def do_all(self, number: int) -> None:
        """Everything goes on as far as it can."""
        for task in self.tasks:
            for _ in STEPS:
                now = self.store.task(task.meta.id)
                if now is None or self._pick([now], 0) is None:
                    break
                self.step(now)

    def do_fail(self, number: int) -> None:
        if (task := self._pick(self.tasks, number)) is not None:
            prepared = task.status.state >= types_pb2.TASK_READY
            self.report(task, types_pb2.TASK_FAILED if prepared else types_pb2.TASK_REJECTED)

    def do_complete(self, number: int) -> None:
        if (task := self._pick([t for t in self.tasks if t.status.state == RUNNING], number)) is not None:
            self.report(task, types_pb2.TASK_COMPLETE)

    def do_unready(self, number: int) -> None:
        if (task := self._pick([t for t in self.tasks if t.status.state == RUNNING], number)) is not None:
            self.report(task, RUNNING, ready=not task.status.ready)

    def do_kill(self, number: int) -> None:
        """A person stops a task."""
        if (task := self._pick(self.live, number)) is not None:
            task.desired_state = SHUTDOWN
            self.put(task)

    def set_node(self, number: int, change: Callable[[objects_pb2.Node], None]) -> None:
        changed = copy_of(self.store.node(NODES[number % len(NODES)]))  # type: ignore[type-var]
        change(changed)
        self.put(changed)

    def do_down(self, number: int) -> None:
        self.set_node(number, lambda n: setattr(n.status, "state", types_pb2.NODE_DOWN))

    def do_back(self, number: int) -> None:
        """A node returns; it stops what is wanted no more."""
        self.set_node(number, lambda n: setattr(n.status, "state", types_pb2.NODE_READY))

    def do_availability(self, number: int) -> None:
        value = types_pb2.Availability.values()[number // len(NODES) % 3]
        self.set_node(number, lambda n: setattr(n.spec, "availability", value))

    def do_wait(self, number: int) -> None:
        self.now_ms += (0, 1, 900, 1_000, 5_000, 6_000, 10_000, 20_000, 30_000, 60_000, 120_000, 700_000)[
            number
        ]

    def do_elect(self, number: int) -> None:
        self.elect()

    def set_spec(self, change: Callable[[objects_pb2.ServiceSpec], None]) -> None:
        spec = copy_of(self.service.spec)
        change(spec)
        self.put(with_new_spec(self.service, spec, self.now_ms))

    def do_scale(self, number: int) -> None:
        def change(spec: objects_pb2.ServiceSpec) -> None:
            if spec.HasField("ordered"):
                spec.ordered.replicas = number % 5
            elif spec.HasField("replicated"):
                spec.replicated.replicas = number % 7
            elif spec.HasField("replicated_job"):
                spec.replicated_job.completions = number % 5

        self.set_spec(change)

    def do_image(self, number: int) -> None:
        self.set_spec(lambda spec: setattr(spec.task.container, "image", f"image:{number}"))

    def do_force(self, number: int) -> None:
        self.set_spec(lambda spec: setattr(spec.task, "force_update", spec.task.force_update + 1))

    def do_person(self, number: int) -> None:
        """Pause, resume, go back, promote, abort, restart: where it can be done now."""
        action = control_pb2.RolloutAction.values()[number % 6]
        request = control_pb2.RolloutRequest(service=SERVICE, action=action)
        with suppress(NotNow):
            self.put(acted(self.store, self.service, request, self.now_ms, "me"))

    def do_drain(self, number: int) -> None:
        """A node is emptied, so many tasks at once; or it is no more."""

        def change(found: objects_pb2.Node) -> None:
            drained = number // len(NODES) % 3
            found.spec.availability = (
                types_pb2.AVAILABILITY_DRAIN if drained else types_pb2.AVAILABILITY_ACTIVE
            )
            found.spec.drain_parallelism, found.drain_ms = drained - 1 if drained else 0, self.now_ms

        self.set_node(number, change)

    def do_stop(self, number: int) -> None:
        self.set_spec(lambda spec: setattr(spec, "stopped", not spec.stopped))


def new_service(mode: str, count: int = 0) -> objects_pb2.Service:
    """A service of a mode, with defaults throughout."""
    made = objects_pb2.Service(meta=types_pb2.Meta(id=SERVICE, name="web"), spec_version=1)
    made.spec.task.container.image = "image:0"
    match mode:
        case "replicated":
            made.spec.replicated.replicas = count
        case "ordered":
            made.spec.ordered.replicas = count
        case "replicated_job":
            made.spec.replicated_job.completions = count
        case _:
            getattr(made.spec, mode).SetInParent()
    return made


def slot_of(task: objects_pb2.Task) -> tuple[int, str]:
    """A number, or a node."""
    return task.slot, "" if task.slot else task.node_id


def check_rest(world: World) -> None:
    """Nothing was overlooked: a leader that looks at everything finds nothing to do, not even later."""
    for planner, state in world.loops:
        fresh = type(planner)()
        keys = list(fresh.all_keys(world.store))
        plan = fresh.plan(world.store, keys, world.now_ms, world.new_id)
        # What is on its way already may stop at once, if a drain is asked anew.
        changes = [change for change in plan.changes if not change.put.task.leaving_ms]
        assert not changes, f"{planner.name} overlooked something: {changes}"
        if plan.wake_ms is not None:
            wait_ms = state.wait_ms(world.now_ms)
            sleeps = wait_ms is None or world.now_ms + wait_ms > plan.wake_ms
            assert not sleeps, f"{planner.name} would sleep beyond {plan.wake_ms}"


def is_whole(plan: Plan, now_ms: int) -> bool:
    """Whether it is to leave nothing to do. One that writes the service goes on when that is written."""
    at_once = plan.wake_ms is not None and plan.wake_ms <= now_ms
    service = any(c.HasField("put") and c.put.HasField("service") for c in plan.changes)
    return not (plan.unseen or at_once or service)


def created(plan: Plan) -> list[objects_pb2.Task]:
    """The tasks that a plan makes."""
    puts = [unwrap(change.put) for change in plan.changes if not change.expected_version]
    return [made for made in puts if isinstance(made, objects_pb2.Task)]


def changed(plan: Plan) -> list[objects_pb2.Task]:
    """The tasks that a plan changes, as they are after it."""
    found = [unwrap(c.put) for c in plan.changes if c.expected_version and c.HasField("put")]
    return [task for task in found if isinstance(task, objects_pb2.Task)]


def deleted(plan: Plan, kind: store_pb2.Kind) -> list[str]:
    return [
        change.delete.id
        for change in plan.changes
        if change.HasField("delete") and change.delete.kind == kind
    ]
