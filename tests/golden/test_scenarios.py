"""Scenarios that a person can read: commands above, what became of them below each `show`.

A file in `scenarios/` is a list of lines. `service create` and `service update` are the command line's own,
with all its flags; the rest plays the cluster:

    node NAME [LABEL=VALUE…]      a node with 1.6 CPUs; also sets labels of one that is there
    taint NODE TAINT | untaint NODE | resource NODE KIND=NAME…
    image NAME NODE…              an image, and the nodes that have it
    kill NODE | revive NODE | elect | rebalance [N]
    availability NODE active|pause|drain [PARALLELISM]
    stop SERVICE | start SERVICE | scale SERVICE N | force SERVICE | rm SERVICE
    pause | resume | promote | abort | restart SERVICE, rollback SERVICE [REVISION]
    cron NAME EXPRESSION allow|forbid|replace IMAGE
    service autoscale NAME FLAGS
    fail TASK                     a running task (SERVICE.SLOT) ends with an error
    unready TASK | ready TASK     what its readiness check says
    run DURATION                  time passes; every command is followed by 20 s of it
    use SERVICE CORES DURATION    so much CPU is used by all its tasks together; when their number changes, and why
    show [SERVICE…]               what runs where, what waits and why, what was stopped and why
    traffic SERVICE | history SERVICE | states TASK | attempts TASK | explain SERVICE

Images are named for what becomes of them: good runs on, once completes, never fails to start, unready never
gets ready, bad fails now and then.

`REWRITE_GOLDEN=1 pytest tests/golden/test_scenarios.py` writes what came out; read the difference.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from swarmpy.cli import edit, parse, parse_placement
from swarmpy.cli.autoscale import edit as autoscale_edit
from swarmpy.cli.edit_placement import add_taints, edit_resources
from swarmpy.cli.edit_workload import set_replicas
from swarmpy.cli.service import service as service_group
from swarmpy.node.manager.assignments import endpoints_item
from swarmpy.node.manager.plans import rebalance_plan
from swarmpy.node.plan.autoscale import AutoscalePlanner
from swarmpy.node.plan.base import copy_of, is_live
from swarmpy.node.plan.explain import explain
from swarmpy.node.plan.held import normalise
from swarmpy.node.plan.revisions import acted, revisions
from swarmpy.node.plan.samples import Sample
from swarmpy.node.plan.tasks import with_history
from swarmpy.node.plan.validate import validate_service
from swarmpy.proto import control_pb2, objects_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.sim.test_partition_sim import CutWorld

SAMPLE_MS = 5_000
FOLDER = Path(__file__).parent / "scenarios"
AFTER_MS = 20_000


def parsed(verb: str, words: list[str]) -> dict[str, Any]:
    """The command line's own reading of its flags."""
    group = service_group
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    return dict(command.make_context(verb, words, resilient_parsing=False).params)


class Play:
    """One scenario in a world without chance failures."""

    def __init__(self) -> None:
        self.world = CutWorld(7, nodes=0)
        self.world.failure_rate = 0.0
        self.begun: dict[str, list[int]] = {}  # by slot: when its attempts were due
        self.used_ns: dict[str, float] = {}
        self.world.store.listeners.append(self.note)

    def note(self, commit: Commit) -> None:
        for event in commit.events:
            if event.old is None and isinstance(event.new, objects_pb2.Task):
                due_ms = max(event.new.meta.created_ms, event.new.restart.start_after_ms)
                self.begun.setdefault(label(event.new), []).append(due_ms)

    def line(self, text: str) -> Iterator[str]:
        """Carry out one line; yields what it shows."""
        verb, *words = shlex.split(text, comments=True)
        if verb in {"show", "traffic", "history", "states", "attempts", "explain", "use"}:
            yield from getattr(self, verb)(*words)
            return
        getattr(self, f"do_{verb}")(*words)
        self.world.run(AFTER_MS)

    def service(self, name: str) -> objects_pb2.Service:
        found = self.world.store.service(name)
        assert found is not None, f"there is no service {name}"
        return found

    def do_service(self, verb: str, *words: str) -> None:
        flags = parsed(verb, list(words))
        if verb == "autoscale":
            made_scaler = objects_pb2.Autoscaler(
                spec=objects_pb2.AutoscalerSpec(service_id=flags["name"], min=1)
            )
            made_scaler.meta.id = made_scaler.meta.name = flags["name"]
            autoscale_edit(made_scaler.spec, {key: v for key, v in flags.items() if v not in (None, ())})
            self.world.put(made_scaler)
            return
        if verb == "create":
            keys = ("name", "image", "command", "mode")
            name, image, command, mode = (flags.pop(key) for key in keys)
            made = edit.new_service(name, image, command, mode, flags)
            made.meta.id, made.spec_version, made.meta.created_ms = name, 1, self.world.now_ms
            assert not validate_service(made), validate_service(made)
            self.world.put(made)
            return
        name = flags.pop("name")
        wanted = copy_of(self.service(name))
        edit.apply(wanted, flags, lambda network: network)
        assert not validate_service(wanted), validate_service(wanted)
        self.world.set_service(name, lambda spec: spec.CopyFrom(wanted.spec))

    def do_node(self, name: str, *labels: str) -> None:
        if self.world.store.node(name) is None:
            self.world.add_node(name, zone="")
            self.world.set_node(name, lambda node: node.meta.labels.clear())
        self.world.set_node(name, lambda node: node.meta.labels.update(dict(map(parse.key_value, labels))))

    def do_taint(self, name: str, text: str) -> None:
        self.world.set_node(name, lambda node: add_taints(node.spec, [parse_placement.taint(text)]))

    def do_untaint(self, name: str) -> None:
        self.world.set_node(name, lambda node: node.spec.ClearField("taints"))

    def do_resource(self, name: str, *values: str) -> None:
        added = [parse_placement.node_resource(value) for value in values]
        self.world.set_node(name, lambda node: edit_resources(node.spec, added, ()))

    def do_image(self, name: str, *nodes: str) -> None:
        image = objects_pb2.Image(digest=f"sha256:{name}", holders=nodes)
        image.meta.id, image.meta.name = "".join(filter(str.isalnum, name)), normalise(name)
        present = self.world.store.image(image.meta.id)
        image.meta.version = present.meta.version if present is not None else 0
        self.world.put(image)

    def do_kill(self, name: str) -> None:
        self.world.kill(name)

    def do_revive(self, name: str) -> None:
        self.world.revive(name)

    def do_availability(self, name: str, word: str, parallelism: str = "0") -> None:
        def change(node: objects_pb2.Node) -> None:
            node.spec.availability = types_pb2.Availability.Value(f"AVAILABILITY_{word.upper()}")
            node.spec.drain_parallelism = int(parallelism)
            node.drain_ms = self.world.now_ms if word == "drain" else 0

        self.world.set_node(name, change)

    def do_rebalance(self, moves: str = "0") -> None:
        request = control_pb2.RebalanceRequest(max_moves=int(moves))
        _, changes = rebalance_plan(self.world.store, request, self.world.now_ms)
        assert not self.world.commit(changes, "user", self.world.epoch)

    def act(self, name: str, action: control_pb2.RolloutAction, revision: int = 0) -> None:
        request = control_pb2.RolloutRequest(service=name, action=action, revision=revision)
        self.world.put(acted(self.world.store, self.service(name), request, self.world.now_ms, "me"))

    def do_rollback(self, name: str, revision: str = "0") -> None:
        self.act(name, control_pb2.ROLLOUT_ROLLBACK, int(revision))

    def do_promote(self, name: str) -> None:
        self.act(name, control_pb2.ROLLOUT_PROMOTE)

    def do_abort(self, name: str) -> None:
        self.act(name, control_pb2.ROLLOUT_ABORT)

    def do_pause(self, name: str) -> None:
        self.act(name, control_pb2.ROLLOUT_PAUSE)

    def do_resume(self, name: str) -> None:
        self.act(name, control_pb2.ROLLOUT_RESUME)

    def do_restart(self, name: str) -> None:
        self.act(name, control_pb2.ROLLOUT_RESTART)

    def do_cron(self, name: str, expression: str, overlap: str, image: str) -> None:
        made = objects_pb2.Schedule()
        made.meta.id = made.meta.name = name
        made.spec.cron, made.spec.overlap = (
            expression,
            objects_pb2.Overlap.Value(f"OVERLAP_{overlap.upper()}"),
        )
        made.spec.service.task.container.image = image
        made.spec.service.replicated_job.completions = 1
        self.world.put(made)

    def do_elect(self) -> None:
        self.world.elect()

    def do_stop(self, name: str) -> None:
        self.world.set_service(name, lambda spec: setattr(spec, "stopped", True))

    def do_start(self, name: str) -> None:
        self.world.set_service(name, lambda spec: setattr(spec, "stopped", False))

    def do_scale(self, name: str, count: str) -> None:
        self.world.set_service(name, lambda spec: set_replicas(spec, int(count)))

    def do_force(self, name: str) -> None:
        def once_more(spec: objects_pb2.ServiceSpec) -> None:
            spec.task.force_update += 1

        self.world.set_service(name, once_more)

    def do_rm(self, name: str) -> None:
        removed = copy_of(self.service(name))
        removed.pending_delete = True
        self.world.put(removed)

    def do_fail(self, ref: str) -> None:
        task = self.running(ref)
        ended = copy_of(task)
        status = ended.status
        status.state, status.since_ms, status.error = types_pb2.TASK_FAILED, self.world.now_ms, "exit code 1"
        status.CopyFrom(with_history(task, status, self.world.now_ms))
        self.world.put(ended)

    def running(self, ref: str) -> objects_pb2.Task:
        service, _, slot = ref.rpartition(".")
        (task,) = [t for t in self.world.store.tasks_of_slot(service, int(slot)) if self.runs(t)]
        return task

    def do_ready(self, ref: str, ready: bool = True) -> None:
        changed = copy_of(self.running(ref))
        changed.status.ready = ready
        self.world.put(changed)

    def do_unready(self, ref: str) -> None:
        self.do_ready(ref, ready=False)

    def do_run(self, duration: str) -> None:
        self.world.run(parse.duration_ms(duration))

    def runs(self, task: objects_pb2.Task) -> bool:
        return task.status.state == types_pb2.TASK_RUNNING and is_live(task, self.world.store)

    def traffic(self, name: str) -> Iterator[str]:
        """Which tasks the service's address leads to."""
        backends = endpoints_item(self.world.store, self.service(name)).endpoints.backends
        found = [
            task for task in map(self.world.store.task, (b.task_id for b in backends)) if task is not None
        ]
        shown = sorted(f"{label(task)} ({task.spec.container.image})" for task in found)
        yield f"traffic  {' '.join(shown) or 'nobody'}"

    def history(self, name: str) -> Iterator[str]:
        """The revisions, the present one first."""
        service = self.service(name)
        yield f"{service.spec_version:<8} {service.spec.task.container.image}"
        for entry, spec in zip(revisions(service), service.previous_specs, strict=True):
            yield f"{entry.revision:<8} {spec.task.container.image}  {entry.problem}".rstrip()

    def states(self, ref: str) -> Iterator[str]:
        """Every state that the tasks of a slot went through, with the reasons; the oldest task first."""
        service, _, slot = ref.rpartition(".")
        for task in sorted(
            self.world.store.tasks_of_slot(service, int(slot)), key=lambda t: t.meta.created_ms
        ):
            names = [
                types_pb2.TaskState.Name(entry.state).removeprefix("TASK_").lower()
                + (f" ({entry.reason})" if entry.reason else "")
                for entry in task.status.history
            ]
            error = f": {task.status.error}" if task.status.error else ""
            yield f"{task.node_id or '-':<8} {' '.join(names)}{error}"

    def attempts(self, ref: str) -> Iterator[str]:
        """When each task of a slot was to start, in seconds after the first."""
        first, *_ = times = self.begun[ref]
        yield " ".join(f"{(at - first) / 1000:.0f}s" for at in times)

    def explain(self, name: str) -> Iterator[str]:
        """Each node's rank or problem, and the smallest change that would place the next task."""
        answer = explain(
            self.world.store, self.service(name), None, control_pb2.ExplainRequest(), self.world.now_ms
        )
        for node in sorted(answer.nodes, key=lambda node: node.node):
            problems = "; ".join(f"{check.name}: {check.problem}" for check in node.filters if check.problem)
            yield f"{node.node:<8} {problems or f'rank {node.rank}'}"
        yield from (f"advice   {line}" for line in answer.advice)

    def use(self, name: str, cores: str, duration: str) -> Iterator[str]:
        (planner,) = [one.planner for one in self.world.leaders if isinstance(one.planner, AutoscalePlanner)]
        before, passed_ms = self.service(name).spec.replicated.replicas, 0
        while passed_ms < parse.duration_ms(duration):
            self.world.run(SAMPLE_MS)
            passed_ms += SAMPLE_MS
            tasks = [task for task in self.world.store.tasks_of_service(name) if self.runs(task)]
            for task in tasks:
                used_ns = self.used_ns.get(task.meta.id, 0) + float(cores) / len(tasks) * SAMPLE_MS * 1e6
                self.used_ns[task.meta.id] = used_ns
                planner.samples.record(task.meta.id, Sample(self.world.now_ms, cpu_ns=int(used_ns)))
            count = self.service(name).spec.replicated.replicas
            if count != before:
                yield f"{passed_ms // 1000}s: {before} -> {count}"
            before = count
        scaler = self.world.store.autoscaler(name)
        if scaler is not None and scaler.status.decisions:
            yield f"last     {scaler.status.decisions[-1].reason}"

    def show(self, *names: str) -> Iterator[str]:
        """Nodes with their running tasks; what waits; what was stopped; jobs; updates."""
        store = self.world.store
        tasks = [task for task in store.tasks() if is_of(task.service_name, names)]
        tasks.sort(key=lambda task: (task.service_name, task.slot, task.meta.created_ms))
        for node in store.nodes():
            here = [label(task) for task in tasks if self.runs(task) and task.node_id == node.meta.id]
            yield f"{node.meta.name:<8} {' '.join(here) or '-'}"
        for message in sorted({t.status.message for t in tasks if t.status.state == types_pb2.TASK_PENDING}):
            slots = [label(t) for t in tasks if t.status.message == message]
            yield f"waits    {' '.join(slots)}: {message}"
        for reason in sorted({task.stop_reason for task in tasks if task.stop_reason}):
            yield f"stopped  {' '.join(label(t) for t in tasks if t.stop_reason == reason)}: {reason}"
        for service in store.services():
            if not is_of(service.meta.name, names):
                continue
            if service.waiting:
                yield f"service  {service.meta.name} {service.waiting}"
            if service.update_status.state:
                word = (
                    objects_pb2.UpdateState.Name(service.update_status.state).removeprefix("UPDATE_").lower()
                )
                yield f"update   {service.meta.name} {word}: {service.update_status.message}"
            if service.job.started_ms:
                state = objects_pb2.JobState.Name(service.job.state).removeprefix("JOB_").lower()
                counts = f"{service.job.succeeded} done, {service.job.failures} failures"
                yield f"job      {service.meta.name} {state}: {counts} {service.job.message}".rstrip()


def is_of(name: str, names: tuple[str, ...]) -> bool:
    """Whether something is to be shown: all of it, a service, or the runs of a schedule."""
    return not names or any(name == one or name.startswith(f"{one}-") for one in names)


def label(task: objects_pb2.Task) -> str:
    return f"{task.service_name}.{task.slot or '*'}"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(file: Path) -> None:
    play, made = Play(), []
    for text in file.read_text().splitlines():
        if text.startswith("    "):
            continue  # what came out before
        made.append(text)
        if text.strip() and not text.startswith("#"):
            made += [f"    {shown}" for shown in play.line(text)]
    whole = "\n".join(made) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        file.write_text(whole)
    assert whole == file.read_text()
