"""Scenarios that a person can read: commands above, what became of them below each `show`.

A file in `scenarios/` is a list of lines. `service create` and `service update` are the command line's own,
with all its flags; the rest plays the cluster:

    node NAME [LABEL=VALUE…]      a node with 1.6 CPUs; also sets labels of one that is there
    taint NODE TAINT | untaint NODE | resource NODE KIND=NAME…
    image NAME NODE…              an image, and the nodes that have it
    kill NODE | revive NODE | drain NODE | elect
    stop SERVICE | start SERVICE | scale SERVICE N | force SERVICE | rm SERVICE
    fail TASK                     a running task (SERVICE.SLOT) ends with an error
    run DURATION                  time passes; every command is followed by 20 s of it
    show [SERVICE…]               what runs where, what waits and why, what was stopped and why

Images are named for what becomes of them: good runs on, once completes, never fails to start, bad now and
then. `REWRITE_GOLDEN=1 pytest tests/golden/test_scenarios.py` writes what came out; read the difference.
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
from swarmpy.cli.edit_placement import add_taints, edit_resources
from swarmpy.cli.edit_workload import set_replicas
from swarmpy.cli.service import service as service_group
from swarmpy.node.plan.base import copy_of, is_live
from swarmpy.node.plan.held import normalise
from swarmpy.node.plan.validate import validate_service
from swarmpy.proto import objects_pb2, types_pb2

from tests.sim.plan_world import World

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
        self.world = World(7, nodes=0)
        self.world.failure_rate = 0.0

    def line(self, text: str) -> Iterator[str]:
        """Carry out one line; yields what it shows."""
        verb, *words = shlex.split(text, comments=True)
        if verb == "show":
            yield from self.show(words)
            return
        getattr(self, f"do_{verb}")(*words)
        self.world.run(AFTER_MS)

    def service(self, name: str) -> objects_pb2.Service:
        found = self.world.store.service(name)
        assert found is not None, f"there is no service {name}"
        return found

    def do_service(self, verb: str, *words: str) -> None:
        flags = parsed(verb, list(words))
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

    def do_drain(self, name: str) -> None:
        drained = types_pb2.AVAILABILITY_DRAIN
        self.world.set_node(name, lambda node: setattr(node.spec, "availability", drained))

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
        service, _, slot = ref.rpartition(".")
        (task,) = [t for t in self.world.store.tasks_of_slot(service, int(slot)) if self.runs(t)]
        ended = copy_of(task)
        ended.status.state, ended.status.since_ms = types_pb2.TASK_FAILED, self.world.now_ms
        self.world.put(ended)

    def do_run(self, duration: str) -> None:
        self.world.run(parse.duration_ms(duration))

    def runs(self, task: objects_pb2.Task) -> bool:
        return task.status.state == types_pb2.TASK_RUNNING and is_live(task, self.world.store)

    def show(self, names: list[str]) -> Iterator[str]:
        """Nodes with their running tasks; what waits; what was stopped; jobs; updates."""
        store = self.world.store
        tasks = [task for task in store.tasks() if not names or task.service_name in names]
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
            if names and service.meta.name not in names:
                continue
            if service.waiting:
                yield f"service  {service.meta.name} {service.waiting}"
            if service.job.started_ms:
                state = objects_pb2.JobState.Name(service.job.state).removeprefix("JOB_").lower()
                counts = f"{service.job.succeeded} done, {service.job.failures} failures"
                yield f"job      {service.meta.name} {state}: {counts} {service.job.message}".rstrip()


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
