"""Waiting for the cluster, with a progress display on standard error.

`follow` keeps a small copy of the world from the watch and asks a judge after every change; the
judge answers with a Verdict. Standard output stays free for the ids that scripts read.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import click
from swarmpy.cli.client import Client, inner
from swarmpy.cli.converge import Progress, assess, is_live
from swarmpy.cli.errors import NotConverged
from swarmpy.cli.watch import RESTART, Watcher
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

STABLE_S = 1.0
STUCK_S = 10.0
NO_NODES_S = 3.0


@dataclass
class World:
    """What the watch has shown so far."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    index: int = 0
    synced: bool = False

    def of(self, kind: str) -> dict[str, Any]:
        """The objects of a kind by id."""
        return self.objects.get(kind, {})

    def feed(self, event: Any) -> None:
        """One event, or RESTART."""
        if event is RESTART:
            self.objects, self.synced = {}, False
            return
        self.index = max(self.index, event.index)
        if event.action == control_pb2.EVENT_SYNC:
            self.synced = True
            return
        message = inner(event.object)
        if message is None:
            return
        known = self.objects.setdefault(message.DESCRIPTOR.name.lower(), {})
        if event.action == control_pb2.EVENT_DELETE:
            known.pop(message.meta.id, None)
        else:
            known[message.meta.id] = message


@dataclass(frozen=True)
class Verdict:
    """`done` must hold for `stable_s`, `give_up` for `patience_s`, before it counts."""

    done: bool = False
    stable_s: float = 0.0
    give_up: str = ""
    patience_s: float = 0.0
    summary: str = ""


Judge = Callable[[World], Verdict]


def follow(
    client: Client,
    kinds: Iterable[str],
    after_index: int,
    limit_s: float,
    judge: Judge,
    filters: dict[str, str] | None = None,
) -> None:
    """Until the judge is content; NotConverged when it gives up or the time is over."""
    deadline = time.monotonic() + limit_s
    world = World()
    verdict = Verdict()
    since: dict[str, float] = {}
    with Watcher(client, kinds, filters=filters) as watcher:
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise NotConverged(
                    f"Not converged within {limit_s:g}s: {verdict.summary or 'nothing was heard'}."
                )
            ends = [deadline]
            if world.synced and world.index >= after_index:
                verdict = judge(world)
                reached = {"done": verdict.stable_s if verdict.done else None,
                           verdict.give_up: verdict.patience_s if verdict.give_up else None}  # fmt: skip
                since = {name: since.get(name, now) for name, hold in reached.items() if hold is not None}
                for name, started in since.items():
                    end = started + (reached[name] or 0.0)
                    if end <= now and name == "done":
                        return
                    if end <= now:
                        raise NotConverged(f"Not converged: {verdict.give_up}.")
                    ends.append(end)
            take(watcher, world, min(ends) - now)


def take(watcher: Watcher, world: World, timeout_s: float) -> None:
    """Waits for an event and takes what else is there."""
    event = watcher.get(timeout_s)
    while event is not None:
        world.feed(event)
        event = watcher.get(0)


def service_converges(
    client: Client,
    before: objects_pb2.Service | None,
    answer: Any,
    *,
    limit_s: float,
    patient: bool,
    quiet: bool,
    wanted_back: bool = False,
) -> None:
    """After a create or update; `patient` = do not give up early, the user set the time."""
    written = answer.object.service
    old_status = before.update_status if before is not None else objects_pb2.UpdateStatus()
    display = Display(written.meta.name, quiet=quiet)

    def judge(world: World) -> Verdict:
        service = world.of("service").get(written.meta.id)
        if service is None:
            return Verdict(give_up=f"service {written.meta.name} was removed meanwhile")
        if service.meta.version < written.meta.version:
            return Verdict()
        tasks = [task for task in world.of("task").values() if task.service_id == written.meta.id]
        progress = assess(service, tasks, old_status, wanted_back=wanted_back)
        display.show(progress)
        return verdict_of(progress, patient)

    try:
        follow(client, ["service", "task"], answer.index, limit_s, judge, {"service": written.meta.id})
        display.end(f"{written.meta.name} converged")
    except NotConverged as error:
        display.end("")
        advice = f"The service stays: see `swarmpy service ps {written.meta.name}`."
        raise NotConverged(f"{error.message} {advice}") from None


def verdict_of(progress: Progress, patient: bool) -> Verdict:
    """What a state of the service means for the waiting."""
    summary = summary_of(progress)
    if progress.failure:
        return Verdict(give_up=progress.failure.rstrip("."), summary=summary)
    if progress.done:
        settle = NO_NODES_S if not progress.total else 0.0 if progress.monitored else STABLE_S
        return Verdict(done=True, stable_s=settle, summary=summary)
    if progress.stuck and not patient:
        return Verdict(give_up=summary, patience_s=STUCK_S, summary=summary)
    return Verdict(summary=summary)


def summary_of(progress: Progress) -> str:
    """`2/4 running; web.3: no suitable node …`."""
    reasons: dict[str, str] = {}
    for slot in progress.slots:
        if slot.error and not slot.good:
            reasons.setdefault(slot.error, slot.label)
    parts = [f"{progress.ready}/{progress.total} running", *([progress.note] if progress.note else [])]
    parts += [f"{label}: {error}" for error, label in list(reasons.items())[:5]]
    return "; ".join(parts).rstrip(".")


def service_vanishes(client: Client, service: objects_pb2.Service, answer: Any, limit_s: float) -> None:
    """After a delete: until the service and its tasks are gone, but for those on nodes that are down."""
    away: list[objects_pb2.Task] = []

    def judge(world: World) -> Verdict:
        tasks = [task for task in world.of("task").values() if task.service_id == service.meta.id]
        away[:] = [task for task in tasks if runs(task) and is_down(world, task.node_id)]
        here = sum(runs(task) for task in tasks) - len(away)
        there = service.meta.id in world.of("service")
        summary = f"{service.meta.name} is being removed, {here} tasks still run"
        return Verdict(done=not here and (not there or bool(away)), summary=summary)

    follow(client, ["service", "task", "node"], answer.index, limit_s, judge)
    if away:
        nodes = ", ".join(sorted({task.node_id for task in away}))
        click.echo(
            f"Warning: {len(away)} tasks are on nodes that are down ({nodes}) and end later.", err=True
        )


def node_empties(
    client: Client, node: objects_pb2.Node, answer: Any, *, limit_s: float, quiet: bool = True
) -> None:
    """After a drain: until no task is left on the node and those that moved run elsewhere."""
    moved: set[str] = set()
    shown: list[int] = []

    def judge(world: World) -> Verdict:
        tasks = world.of("task").values()
        moved.update(task.service_id for task in tasks if task.node_id == node.meta.id)
        down = is_down(world, node.meta.id)
        left = [task for task in tasks if task.node_id == node.meta.id and runs(task) and not down]
        wanted = [task for task in tasks if is_live(task) and task.service_id in moved]
        starting = [task for task in wanted if task.status.state < types_pb2.TASK_RUNNING]
        stuck = [
            task for task in starting if task.status.message and task.status.state <= types_pb2.TASK_PENDING
        ]
        summary = f"{len(left)} tasks still run on {node.meta.name}"
        if not quiet and shown[-1:] != [len(left)] and (left or shown):
            shown.append(len(left))
            click.echo(f"{node.meta.name}: {len(left)} of {max(shown)} tasks left", err=True)
        if not left and stuck and len(stuck) == len(starting):
            reason = f"{node.meta.name} is empty, but {len(stuck)} tasks wait: {stuck[0].status.message}"
            return Verdict(give_up=reason.rstrip("."), patience_s=STUCK_S, summary=reason)
        return Verdict(done=not left and not starting, summary=summary)

    follow(client, ["task", "node"], answer.index, limit_s, judge)


def role_changes(client: Client, node_id: str, role: types_pb2.Role, answer: Any, limit_s: float) -> None:
    """After a promotion or demotion: until the node has taken the role."""

    def judge(world: World) -> Verdict:
        node = world.of("node").get(node_id)
        if node is None:
            return Verdict(give_up="the node was removed meanwhile")
        return Verdict(done=node.role == role, summary=f"{node.meta.name} has not changed its role yet")

    follow(client, ["node"], answer.index, limit_s, judge)


def runs(task: objects_pb2.Task) -> bool:
    """On a node, and not ended as far as anyone knows."""
    return types_pb2.TASK_ASSIGNED <= task.status.state <= types_pb2.TASK_RUNNING


def is_down(world: World, node_id: str) -> bool:
    """Whether a node is not there to say what its tasks do."""
    node = world.of("node").get(node_id)
    return node is None or node.status.state == types_pb2.NODE_DOWN


class Display:
    """Progress on standard error: redrawn lines on a terminal, else a line per change."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._name = name
        self._quiet = quiet
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()
        self._drawn = 0
        self._shown: set[str] = set()

    def show(self, progress: Progress) -> None:
        """The present state."""
        if self._quiet:
            return
        if self._terminal:
            self._redraw(lines_of(progress, shutil.get_terminal_size()))
            return
        new = [f"{self._name}: {progress.ready}/{progress.total} running"]
        new += [f"{self._name}: {progress.note}"] if progress.note else []
        new += [f"{slot.label}: {slot.error}" for slot in progress.slots if slot.error and not slot.good]
        for line in new:
            if line not in self._shown:
                self._shown.add(line)
                click.echo(line, err=True)

    def end(self, line: str) -> None:
        """The last word."""
        if line and not self._quiet:
            click.echo(line, err=True)

    def _redraw(self, lines: list[str]) -> None:
        back = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._stream.write(back + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)


def lines_of(progress: Progress, size: Any) -> list[str]:
    """One line per slot as long as they fit, those with errors first."""
    head = [f"overall progress: {progress.ready} out of {progress.total} tasks"]
    head += [progress.note] if progress.note else []
    room = max(1, min(20, size.lines - 3 - len(head)))
    slots = list(progress.slots)
    if len(slots) > room:
        slots = [slot for slot in slots if slot.error and not slot.good][:room]
    lines = [f"{slot.label}: {slot.state}" + (f"  {slot.error}" if slot.error else "") for slot in slots]
    return [line[: max(20, size.columns - 1)] for line in (*head, *lines)]
