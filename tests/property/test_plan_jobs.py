"""Jobs run what is left to run and nothing else; schedules serve each of their times once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.plan.base import Plan, Planner, copy_of, is_failure, is_lost, is_terminal
from swarmpy.node.plan.cron import KEEP_FAILED, KEEP_SUCCEEDED, STARTING_DEADLINE_MS, CronPlanner
from swarmpy.node.plan.jobs import backoff_limit
from swarmpy.proto import objects_pb2, types_pb2

from tests.property.plan_play import Action, Play, actions, created, examples, new_service, slot_of
from tests.store_world import World

COMPLETE = types_pb2.TASK_COMPLETE
HAPPENS = (
    "step", "up", "all", "fail", "complete", "complete", "kill", "down", "back", "drain", "wait", "wait", "elect",
    "scale", "force", "stop",
)  # fmt: skip
configs = st.fixed_dictionaries(
    {
        "completions": st.integers(0, 4),
        "at_once": st.integers(0, 2),
        "backoff_limit": st.sampled_from((0, 2, 6)),
        "deadline_ms": st.sampled_from((0, 30_000)),
        "condition": st.sampled_from(types_pb2.RestartCondition.values()),
        "history": st.integers(1, 2),
    }
)
Config = dict[str, int]


class JobPlay(Play):
    """Also remembers what was done, whether or not the reaper left its task there."""

    def __init__(self, mode: str, config: Config) -> None:
        self.done: dict[int, set[tuple[int, str]]] = defaultdict(set)
        service = new_service(mode, config["completions"])
        service.spec.task.restart.condition = config["condition"]  # type: ignore[assignment]
        job = getattr(service.spec, mode)
        job.policy.backoff_limit, job.policy.deadline_ms = config["backoff_limit"], config["deadline_ms"]
        if mode == "replicated_job":
            job.max_concurrent = config["at_once"]
        super().__init__(service, history_limit=config["history"], before=check_plan, rested=check_job)

    def report(self, task: objects_pb2.Task, state: types_pb2.TaskState, *, ready: bool = False) -> None:
        if state == COMPLETE:
            self.done[task.spec.force_update].add(slot_of(task))
        super().report(task, state, ready=ready)

    def do_scale(self, number: int) -> None:
        """Parts that there are no more are forgotten."""
        super().do_scale(number)
        most = self.service.spec.replicated_job.completions
        for iteration, done in self.done.items():
            self.done[iteration] = {(slot, node_id) for slot, node_id in done if slot <= most}


def may_run(play: Play, task: objects_pb2.Task) -> bool:
    """It holds a place on a node that answers, or is wanted."""
    if is_terminal(task.status.state) or is_lost(task, play.store):
        return False
    return task.status.state >= types_pb2.TASK_ASSIGNED or task.desired_state <= types_pb2.TASK_RUNNING


def check_plan(play: Play, planner: Planner, plan: Plan) -> None:
    """Nothing that is done is done again, and no more at once than may be."""
    if planner.name != "jobs" or not created(plan):
        return
    assert isinstance(play, JobPlay)
    spec = play.service.spec
    done = play.done[spec.task.force_update]
    again = [task.meta.name for task in created(plan) if slot_of(task) in done]
    assert not again, f"{again} are done already"
    at_once = spec.replicated_job.max_concurrent
    under_way = [task for task in play.tasks if may_run(play, task)]
    count = len(under_way) + len(created(plan))
    assert not at_once or count <= at_once, f"{count} at once, and {at_once} may be"


def check_job(play: Play) -> None:
    service, spec = play.service, play.service.spec
    assert isinstance(play, JobPlay)
    iteration = spec.task.force_update
    live = [task for task in play.live if task.spec.force_update == iteration]
    assert all(count == 1 for count in Counter(map(slot_of, live)).values()), "a slot twice"
    if spec.HasField("replicated_job"):
        wanted = {(n, "") for n in range(1, spec.replicated_job.completions + 1)}
        assert {slot_of(task) for task in live} <= wanted
        if service.job.state == objects_pb2.JOB_COMPLETE and not spec.stopped:
            assert wanted <= play.done[iteration], f"complete with {play.done[iteration]} of {wanted}"
    if service.job.state == objects_pb2.JOB_FAILED and not spec.stopped:
        assert not live, "it failed and goes on"
    failed = [task for task in live if is_failure(task.status.state)]
    assert not failed
    if service.job.state == objects_pb2.JOB_RUNNING:
        assert service.job.failures <= backoff_limit(service)


@given(configs, actions(HAPPENS))
@examples(20)
def test_a_job_does_each_part_once_and_no_more_at_once_than_it_may(
    config: Config, happens: list[Action]
) -> None:
    play = JobPlay("replicated_job", config)
    for action in happens:
        play.act(action)


@given(configs, actions(HAPPENS))
@examples(25)
def test_a_global_job_runs_once_on_every_node(config: Config, happens: list[Action]) -> None:
    play = JobPlay("global_job", config)
    for action in happens:
        play.act(action)


# Schedules: the clock, the leaders and the runs do what they like.

MINUTE_MS = 60_000
TICK_MS = (0, 1_000, 20_000, 40_000, 59_000, 61_000, 150_000, 3_600_000, 3_700_000, 90_000_000)
ALLOW, FORBID, REPLACE = objects_pb2.OVERLAP_ALLOW, objects_pb2.OVERLAP_FORBID, objects_pb2.OVERLAP_REPLACE
ticks = st.lists(
    st.tuples(
        st.sampled_from(("tick", "due", "due", "due", "elect", "complete", "fail", "trigger", "suspend")),
        st.integers(0, len(TICK_MS) - 1),
    ),
    max_size=30,
)


class CronPlay:
    """A schedule for every minute, and what it ought to have done."""

    def __init__(self, overlap: objects_pb2.Overlap, deadline_ms: int) -> None:
        self.world, self.overlap = World(CronPlanner()), overlap
        self.world.now_ms += 7
        self.deadline_ms = deadline_ms or STARTING_DEADLINE_MS
        self.since_ms = self.world.now_ms  # when it began, or was taken up again
        schedule = objects_pb2.Schedule(meta=types_pb2.Meta(id="c", name="c"))
        schedule.spec.cron, schedule.spec.overlap = "* * * * *", overlap
        schedule.spec.starting_deadline_ms = deadline_ms
        schedule.spec.service.replicated_job.completions = 1
        self.world.put(schedule)
        self.world.settle()

    @property
    def schedule(self) -> objects_pb2.Schedule:
        found = self.world.store.schedule("c")
        assert found is not None
        return found

    @property
    def runs(self) -> list[objects_pb2.Service]:
        return [run for run in self.world.store.services() if not run.pending_delete]

    @property
    def active(self) -> list[objects_pb2.Service]:
        return [run for run in self.runs if run.job.state == objects_pb2.JOB_RUNNING]

    def go_to(self, now_ms: int) -> None:
        """Time passes unseen, then the planner looks; the last time that has come is served if it should be."""
        world, before = self.world, {run.meta.id for run in self.active}
        last_ms = max(self.since_ms, world.now_ms)
        world.now_ms = now_ms
        due_ms = now_ms // MINUTE_MS * MINUTE_MS
        made = self.made(world.settle)
        for run in made:
            self.since_ms = max(self.since_ms, run.scheduled_ms)
        expected = due_ms > last_ms and not self.schedule.spec.suspended
        expected = expected and now_ms - due_ms <= self.deadline_ms
        expected = expected and not (before and self.overlap == FORBID)
        assert [run.scheduled_ms for run in made] == [due_ms] * expected
        if made and self.overlap == REPLACE:
            assert [run.meta.id for run in self.active] == [made[0].meta.id]

    def made(self, act: Callable[[], None]) -> list[objects_pb2.Service]:
        known = {run.meta.id for run in self.world.store.services()}
        act()
        return [run for run in self.world.store.services() if run.meta.id not in known]

    def set_spec(self, change: Callable[[objects_pb2.ScheduleSpec], None]) -> None:
        changed = copy_of(self.schedule)
        change(changed.spec)
        self.world.put(changed)
        self.world.settle()

    def act(self, name: str, number: int) -> None:
        world, runs = self.world, self.active
        match name:
            case "tick":
                self.go_to(world.now_ms + TICK_MS[number])
            case "due":
                self.go_to(world.wakes["cron"] or world.now_ms)
            case "elect":
                assert not self.made(world.restart) and not self.made(world.settle), (
                    "the next leader runs it again"
                )
            case "complete" | "fail" if runs:
                ended = copy_of(runs[number % len(runs)])
                ended.job.state = objects_pb2.JOB_COMPLETE if name == "complete" else objects_pb2.JOB_FAILED
                world.put(ended)
                world.settle()
            case "trigger":
                made = self.made(lambda: self.set_spec(lambda s: setattr(s, "triggers", s.triggers + 1)))
                assert len(made) == 1
            case "suspend":
                self.set_spec(lambda spec: setattr(spec, "suspended", not spec.suspended))
                self.since_ms = world.now_ms
        counts = Counter(run.job.state for run in self.runs)
        assert counts[objects_pb2.JOB_COMPLETE] <= KEEP_SUCCEEDED
        assert counts[objects_pb2.JOB_FAILED] <= KEEP_FAILED
        assert self.schedule.status.runs == len({run.meta.name for run in self.world.store.services()})


@given(st.sampled_from((ALLOW, FORBID, REPLACE)), st.sampled_from((0, 1_000, 30_000)), ticks)
@examples(25)
def test_a_schedule_serves_each_time_once_whoever_leads(
    overlap: objects_pb2.Overlap, deadline_ms: int, happens: list[tuple[str, int]]
) -> None:
    play = CronPlay(overlap, deadline_ms)
    for name, number in happens:
        play.act(name, number)
