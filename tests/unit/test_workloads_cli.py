"""Jobs, schedules, taints and steps from the command line to the planners of a real manager; no node is up."""

from __future__ import annotations

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.unit.test_manager_process import Running, paths, run, service
from tests.unit.test_plan_cli import cli

__all__ = ["paths"]
IMAGE = "docker.io/library/app@sha256:" + "a" * 64


def schedule_of(m: Running, name: str) -> objects_pb2.Schedule | None:
    found = m.store.by_name(store_pb2.KIND_SCHEDULE, name)
    return found if isinstance(found, objects_pb2.Schedule) else None


def waiting(m: Running) -> list[objects_pb2.Task]:
    return [task for task in m.store.tasks() if "no suitable node" in task.status.message]


def named(m: Running, name: str) -> objects_pb2.Service | None:
    found = m.store.by_name(store_pb2.KIND_SERVICE, name)
    return found if isinstance(found, objects_pb2.Service) else None


def test_a_schedule_is_checked_stored_with_its_zone_and_run(paths: Paths) -> None:
    async def story(m: Running) -> None:
        create = ("cron", "create", "--name", "tick", "--schedule")
        for flags, part in (
            (("61 * * * *",), "the minute '61' is not from 0 to 59"),
            (("0 0 30 2 *",), "fits no day"),
            (("@daily", "--tz", "Europe/Nowhere"), "there is no time zone"),
            (
                ("@daily", "--completions", "2", "--limit-memory", "1m"),
                "service.task.resources.limits.memory_bytes",
            ),
        ):
            refused = await cli(m, *create, *flags, IMAGE)
            assert refused.exit_code == 1, refused.output
            assert part in refused.output
        made = await cli(m, *create, "30 2 * * *", "--tz", "Europe/Berlin", IMAGE, "backup")
        assert made.exit_code == 0, made.output
        stored = schedule_of(m, "tick")
        assert stored is not None
        assert stored.zone.rule.startswith("CET-1CEST")
        assert stored.spec.service.task.container.image_digest, "the image of the time of writing"
        await m.until(lambda: (s := schedule_of(m, "tick")) is not None and s.status.next_ms > 0, "planned")
        again = await cli(m, *create, "@daily", IMAGE)
        assert again.exit_code == 5, again.output
        assert (await cli(m, "cron", "trigger", "tick")).exit_code == 0
        await m.until(
            lambda: named(m, "tick-1") is not None and m.store.count(store_pb2.KIND_TASK) == 1, "a run"
        )
        listed = await cli(m, "cron", "ls", "--format", "{{.Name}} {{.Active}} {{.Message}}")
        assert listed.output == "tick 1 started tick-1\n"
        jobs = await cli(m, "job", "ls", "--format", "{{.Name}} {{.State}}")
        assert jobs.output == "tick-1 Running\n"
        await updated_schedule(m)
        assert (await cli(m, "cron", "rm", "tick")).exit_code == 0
        await m.until(
            lambda: named(m, "tick-1") is None and not m.store.count(store_pb2.KIND_TASK), "all gone"
        )

    run(paths, story)


async def updated_schedule(m: Running) -> None:
    changed = await cli(
        m, "cron", "update", "--schedule", "0 4 * * *", "--tz", "Asia/Kolkata", "--overlap", "forbid",
        "--keep", "5:2", "--env-add", "LEVEL=3", "--label-add", "team=ops", "tick",
    )  # fmt: skip
    assert changed.output == "tick\n", changed.output
    stored = schedule_of(m, "tick")
    assert stored is not None
    spec = stored.spec
    assert (spec.cron, spec.overlap) == ("0 4 * * *", objects_pb2.OVERLAP_FORBID)
    assert (spec.keep_succeeded, spec.keep_failed) == (5, 2)
    assert stored.zone.rule.startswith("IST")
    assert "LEVEL=3" in spec.service.task.container.env
    assert list(spec.service.task.container.args) == ["backup"], "what was not named stays"
    assert spec.starting_deadline_ms == 3_600_000
    assert dict(stored.meta.labels) == dict(spec.labels) == {"team": "ops"}
    refused = await cli(m, "cron", "update", "--schedule", "61 * * * *", "tick")
    assert refused.exit_code == 1
    assert "the minute '61'" in refused.output
    assert (await cli(m, "cron", "update", "--schedule", "@daily", "nothing")).exit_code == 4

    def is_planned() -> bool:
        found = schedule_of(m, "tick")
        return found is not None and found.status.next_ms // 60_000 % 1440 == 22 * 60 + 30

    await m.until(is_planned, "04:00 in India is 22:30 UTC")


def test_a_task_can_be_stopped_and_its_history_read(paths: Paths) -> None:
    async def story(m: Running) -> None:
        await m.control.Create(service("web", 1))
        await m.until(lambda: [t for t in m.store.tasks() if "no suitable" in t.status.message], "judged")
        (first,) = m.store.tasks()
        assert (await cli(m, "task", "kill", first.meta.id)).exit_code == 0
        await m.until(lambda: [t for t in waiting(m) if t.meta.id != first.meta.id], "another one")
        (second,) = [t for t in waiting(m) if t.meta.id != first.meta.id]
        shown = await cli(m, "task", "history", second.meta.id, "--format", "{{.State}}")
        assert shown.output.split() == ["new", "pending"]
        assert (await cli(m, "task", "kill", "--force", second.meta.id)).exit_code == 0

    run(paths, story)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--mode", "replicated-job", "--min-available", "1"), "min_available: a job has no number"),
        (("--mode", "replicated-job", "-p", "80:80"), "a job publishes no ports"),
        (("--mode", "ordered", "--update-order", "start-first"), "always stops the old task first"),
        (("--placement-pref", "spread=node.hair"), "is not node.labels.KEY"),
        (("--placement-pref", "spread=node.zone:a=70%,b=70%"), "add up to more than 100 %"),
        (("--affinity", "service==x,topology=rack"), "is no key such as node.labels.rack"),
        (("--on-partition", "fence=2s"), "stop_after_ms: is 2 s: from 10 s"),
        (
            ("--on-partition", "fence", "--update-order", "start-first"),
            "of a fenced service never run at once",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(paths: Paths, flags: tuple[str, ...], part: str) -> None:
    async def story(m: Running) -> None:
        refused = await cli(m, "service", "create", "-d", "--name", "web", *flags, IMAGE)
        assert refused.exit_code == 1, refused.output
        assert part in refused.output

    run(paths, story)


def test_a_step_waits_for_a_node_and_the_service_for_the_step(paths: Paths) -> None:
    async def story(m: Running) -> None:
        made = await cli(m, "service", "create", "-d", "--name", "web", "--pre-deploy", ". migrate", IMAGE)
        assert made.exit_code == 0, made.output
        await m.until(lambda: named(m, "web-pre-1") is not None, "the step")
        await m.until(lambda: (w := named(m, "web")) is not None and "web-pre-1" in w.waiting, "the reason")
        assert {t.service_name for t in m.store.tasks()} <= {"web-pre-1"}
        node = next(iter(m.store.nodes()))
        tainted = await cli(m, "node", "taint", "add", node.meta.id, "gpu:NoSchedule")
        assert tainted.exit_code == 0, tainted.output
        stored = m.store.node(node.meta.id)
        assert stored is not None
        assert [(t.key, t.effect) for t in stored.spec.taints] == [("gpu", types_pb2.TAINT_NO_SCHEDULE)]
        planned = await cli(m, "cron", "create", "--name", "n", "--schedule", "@daily", "--plan", IMAGE)
        assert planned.exit_code == 2, planned.output
        assert schedule_of(m, "n") is None
        assert (await cli(m, "service", "rm", "-d", "web")).exit_code == 0
        await m.until(lambda: not list(m.store.services()), "the step goes with its service")

    run(paths, story)
