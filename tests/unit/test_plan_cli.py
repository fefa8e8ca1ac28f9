"""`--plan` and `--check-index`, from the command line to the planners of a real manager."""

from __future__ import annotations

import asyncio

import click
import pytest
from click.testing import CliRunner, Result
from swarmpy.cli import events
from swarmpy.cli.main import COMMANDS, load, root
from swarmpy.node.config import Paths
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.tables import KINDS

from tests.unit.test_manager_process import Running, get, paths, run, service

__all__ = ["paths"]

MUTATING = {
    "service": (
        *("create", "update", "rollback", "scale", "rm"),
        *("promote", "abort", "pause", "resume", "restart"),
    ),
    "node": ("update", "promote", "demote", "drain", "activate", "pause", "rm"),
    "network": ("create", "rm"),
    "image": ("rm",),
    "swarm": ("update",),
    "cron": ("create", "suspend", "resume", "trigger", "rm"),
    "job": ("run", "retry", "rm"),
    "task": ("kill", "restart"),
    "volume": ("create", "update", "rm"),
    "secret": ("create", "rm"),
    "config": ("create", "rm"),
    "stack": ("deploy", "rm"),
}


async def cli(m: Running, *arguments: str) -> Result:
    host = ["-H", f"unix://{m.process.paths.control_socket}", "--timeout", "20"]
    return await asyncio.to_thread(CliRunner().invoke, root, [*host, *arguments])


def at_rest(m: Running) -> bool:
    """No node is up, and the planners have nothing to add to any of them."""
    return all(node.status.state != types_pb2.NODE_READY and node.index for node in m.store.nodes())


@pytest.mark.parametrize("noun", sorted(MUTATING))
def test_every_verb_that_writes_can_plan(noun: str) -> None:
    group = load(COMMANDS[noun].target, noun)
    context = click.Context(group)
    for verb in MUTATING[noun]:
        command = group.get_command(context, verb)  # type: ignore[attr-defined]
        names = {name for parameter in command.params for name in parameter.opts}
        assert {"--plan", "--check-index"} <= names, f"{noun} {verb}"


def test_plan_shows_fields_and_tasks_and_writes_nothing(paths: Paths) -> None:
    async def story(m: Running) -> None:
        await m.control.Create(service("web", 2))
        await m.until(lambda: m.store.count(4) == 2, "two tasks")
        before = m.store.service((await m.control.Get(get("web"))).object.service.meta.id)
        scaled = await cli(m, "service", "scale", "web=3", "--plan")
        assert scaled.exit_code == 2, scaled.output
        assert "spec.replicated.replicas  2 -> 3" in scaled.output
        assert "wait     web.3  no suitable node" in scaled.output
        same = await cli(m, "service", "scale", "web=2", "--plan")
        assert same.exit_code == 0, same.output
        assert "service web: as it is" in same.output
        gone = await cli(m, "service", "rm", "web", "--plan")
        assert gone.exit_code == 2
        assert "- remove service web" in gone.output
        assert "Tasks: 2 stop, 0 stay." in gone.output
        missing = await cli(m, "service", "scale", "nobody=2", "--plan")
        assert missing.exit_code == 4
        refused = await cli(m, "service", "update", "web", "--update-parallelism", "1", "--plan")
        assert "spec.update.parallelism  - -> 1" in refused.output
        assert "Tasks: 2 stay." in refused.output
        assert m.store.service(before.meta.id) is not None  # type: ignore[union-attr]
        assert m.store.count(4) == 2

    run(paths, story)


def test_check_index_refuses_when_the_world_moved(paths: Paths) -> None:
    async def story(m: Running) -> None:
        await m.control.Create(service("web", 1))
        await m.until(
            lambda: [t.status.message for t in m.store.tasks() if "no suitable" in t.status.message], "judged"
        )
        planned = await cli(m, "service", "scale", "web=3", "--plan")
        index = planned.output.partition("Planned at index ")[2].partition(":")[0]
        await m.new_node("w9")
        moved = await cli(m, "service", "scale", "web=3", "--check-index", index, "-d")
        assert moved.exit_code == 5, moved.output
        assert f"after the plan of index {index}: plan again" in moved.output
        found = (await m.control.Get(get("web"))).object.service
        assert found.spec.replicated.replicas == 1
        await m.until(lambda: at_rest(m), "no agent came, and every node has its numbers")
        planned = await cli(m, "service", "scale", "web=3", "--plan")
        index = planned.output.partition("Planned at index ")[2].partition(":")[0]
        done = await cli(m, "service", "scale", "web=3", "--check-index", index, "-d")
        assert done.exit_code == 0, done.output
        future = await cli(m, "service", "scale", "web=4", "--check-index", "99999999", "-d")
        assert future.exit_code == 1
        assert "in the future" in future.output

    run(paths, story)


def test_updates_by_hand(paths: Paths) -> None:
    async def story(m: Running) -> None:
        made = (await m.control.Create(service("web", 2))).object.service

        def forced() -> int:
            stored = m.store.service(made.meta.id)
            return stored.spec.task.force_update if stored is not None else -1

        done = await cli(m, "service", "restart", "web", "--batch", "50%", "-d")
        assert done.exit_code == 0, done.output
        assert forced() == 1
        refused = await cli(m, "service", "promote", "web")
        assert refused.exit_code == 1
        assert "has nothing to promote" in refused.output
        assert (await cli(m, "service", "pause", "web")).exit_code == 0
        stored = m.store.service(made.meta.id)
        assert stored is not None
        assert stored.update_status.state == objects_pb2.UPDATE_PAUSED
        assert (await cli(m, "service", "resume", "web", "-d")).exit_code == 0
        for value in ("1", "2"):
            changed = await cli(m, "service", "update", "web", "--env-add", f"A={value}", "-d")
            assert changed.exit_code == 0, changed.output
        listed = await cli(m, "service", "history", "web", "--format", "{{.Revision}} {{.Problem}}")
        assert listed.output.split("\n")[:3] == ["4 (present)", "3 ", "2 "]
        assert (await cli(m, "service", "diff", "web")).output == "task.container.env  A=1 -> A=2\n"
        assert "task.container.env  - -> A=1" in (await cli(m, "service", "diff", "web", "2", "3")).output
        assert (await cli(m, "service", "diff", "web", "77")).exit_code == 4
        planned = await cli(m, "service", "rollback", "web", "--to", "2", "--plan")
        assert "spec.task.container.env  A=2 -> -" in planned.output
        assert "update_status.state      - -> update_rollback_started" in planned.output.replace(
            "update_updating", "-"
        )
        assert (await cli(m, "service", "rollback", "web", "--to", "2", "-d")).exit_code == 0
        stored = m.store.service(made.meta.id)
        assert stored is not None
        assert not stored.spec.task.container.env
        gone = await cli(m, "service", "rollback", "web", "--to", "55")
        assert gone.exit_code == 1
        assert "has no revision 55 any more" in gone.output

    run(paths, story)


def test_explain_and_rebalance_from_the_command_line(paths: Paths) -> None:
    async def story(m: Running) -> None:
        await m.control.Create(service("web", 1))
        await m.until(lambda: at_rest(m) and m.store.count(4), "no agent came")
        why = await cli(m, "explain", "web")
        assert why.exit_code == 0, why.output
        assert "ready: are down" in why.output
        assert "bring n1 back" in why.output
        by_slot = await cli(m, "explain", "web.1", "--label", "n1:zone=a", "--reserve-memory", "64m")
        assert "(what if)" in by_slot.output
        document = await cli(m, "explain", "web", "--format", "json")
        assert '"problem": "are down"' in document.output
        assert (await cli(m, "explain", "nobody")).exit_code == 4
        assert (await cli(m, "explain", "web", "--label", "nobody:a=b")).exit_code == 4
        planned = await cli(m, "rebalance", "--plan")
        assert planned.exit_code == 0
        assert "Nothing to move" in planned.output
        assert (await cli(m, "rebalance", "--service", "nobody")).exit_code == 4
        assert (await cli(m, "swarm", "update", "--auto-rebalance", "true")).exit_code == 0
        cluster = m.store.cluster()
        assert cluster is not None
        assert cluster.spec.auto_rebalance

    run(paths, story)


def test_autoscale_from_the_command_line(paths: Paths) -> None:
    async def story(m: Running) -> None:
        made = (await m.control.Create(service("web", 1))).object.service
        none = await cli(m, "service", "autoscale", "web", "--max", "5", "--cpu", "60%")
        assert none.exit_code == 1
        assert "reserves and limits none" in none.output
        assert (await cli(m, "service", "autoscale", "web", "--cpu", "60%")).exit_code == 2
        made_one = await cli(
            m, "service", "autoscale", "web", "--min", "2", "--max", "5", "--connections", "30"
        )
        assert made_one.exit_code == 0, made_one.output

        def wanted() -> int:
            stored = m.store.service(made.meta.id)
            return int(stored.spec.replicated.replicas) if stored is not None else 0

        await m.until(lambda: wanted() == 2, "the minimum holds")
        shown = await cli(m, "service", "autoscale", "--show", "web")
        assert "web: 2 of 2–5 tasks; connections 30" in shown.output
        assert "1 -> 2: no metric is known: nothing changes; limited by below the minimum" in shown.output
        changed = await cli(m, "service", "autoscale", "web", "--scale-up", "1/1m", "--stabilize-down", "30s")
        assert changed.exit_code == 0, changed.output
        (scaler,) = m.store.autoscalers()
        assert (scaler.spec.up.policies[0].tasks, scaler.spec.down.stabilization_ms) == (1, 30_000)
        assert scaler.spec.metrics[0].target == 30
        planned = await cli(m, "service", "autoscale", "web", "--max", "9", "--plan")
        assert (planned.exit_code, "spec.max  5 -> 9" in planned.output) == (2, True)
        assert (await cli(m, "service", "autoscale", "web", "--rm")).exit_code == 0
        assert (await cli(m, "service", "autoscale", "--show", "web")).exit_code == 4

    run(paths, story)


def test_events_know_every_kind_of_object() -> None:
    assert set(events.KIND_NAMES) == {info.field for info in KINDS.values()}
