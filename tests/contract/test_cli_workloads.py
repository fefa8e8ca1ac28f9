"""`job`, `cron`, `node taint`, `task history|kill` and the workload flags against the double of a manager."""

from __future__ import annotations

import json
from typing import Any

from swarmpy.proto import objects_pb2, types_pb2

from tests.contract.cli_double import Double
from tests.contract.test_cli_commands import Run, double, run, server, short_dir

__all__ = ["double", "run", "server", "short_dir"]


def specs(double: Double, kind: str) -> dict[str, Any]:
    return {found.meta.name: found.spec for found in double.objects[kind].values()}


def test_workload_flags_reach_the_manager(run: Run, double: Double) -> None:
    assert (
        run("service", "create", "-d", "--name", "db", "--mode", "ordered", "--replicas", "3", "ok").exit_code
        == 0
    )
    done = run(
        *("service", "create", "-d", "--name", "batch", "--mode", "replicated-job", "--replicas", "9"),
        *(
            "--max-concurrent",
            "3",
            "--backoff-limit",
            "0",
            "--job-ttl",
            "1h",
            "--depends-on",
            "db=healthy",
            "ok",
        ),
    )
    assert done.exit_code == 0, done.output
    found = specs(double, "service")
    assert found["db"].ordered.replicas == 3
    job = found["batch"].replicated_job
    assert (job.completions, job.max_concurrent, job.policy.backoff_limit, job.policy.ttl_ms) == (
        9,
        3,
        0,
        3_600_000,
    )
    assert job.policy.HasField("backoff_limit")
    assert [(d.service, d.condition) for d in found["batch"].depends_on] == [
        ("db", objects_pb2.DEPENDENCY_HEALTHY)
    ]
    run("service", "update", "-d", "--pre-deploy", "tool:2 migrate --all", "db")
    run("service", "scale", "-d", "db=+2")
    run("service", "stop", "-d", "db")
    spec = specs(double, "service")["db"]
    assert (spec.pre_deploy.image, list(spec.pre_deploy.args)) == ("tool:2", ["migrate", "--all"])
    assert (spec.ordered.replicas, spec.stopped) == (5, True)
    run("service", "start", "-d", "db")
    assert not specs(double, "service")["db"].stopped


def test_jobs_are_listed_run_again_and_not_scaled(run: Run, double: Double) -> None:
    job = objects_pb2.Service(
        job=objects_pb2.JobStatus(state=objects_pb2.JOB_FAILED, succeeded=2, failures=7)
    )
    job.meta.name = "batch"
    job.spec.replicated_job.completions = 5
    job.spec.task.container.image = "tool:1"
    double.put(job)
    rows = [json.loads(line) for line in run("job", "ls", "--format", "json").output.splitlines()]
    assert [(r["Name"], r["Completions"], r["State"], r["Failures"]) for r in rows] == [
        ("batch", "2/5", "Failed", "7")
    ]
    assert run("job", "retry", "batch").output == "batch\n"
    assert specs(double, "service")["batch"].task.force_update == 1
    scaled = run("service", "scale", "batch=3")
    assert scaled.exit_code == 1
    assert "is a job" in scaled.output


def test_a_schedule_is_made_suspended_triggered_and_removed(run: Run, double: Double) -> None:
    made = run(
        *("cron", "create", "--name", "nightly", "--schedule", "30 2 * * *", "--tz", "Europe/Berlin"),
        *("--overlap", "forbid", "--keep", "5:2", "--completions", "2", "--env", "A=1", "tool:1", "backup"),
    )
    assert made.exit_code == 0, made.output
    spec = specs(double, "schedule")["nightly"]
    assert (spec.cron, spec.time_zone, spec.overlap) == (
        "30 2 * * *",
        "Europe/Berlin",
        objects_pb2.OVERLAP_FORBID,
    )
    assert (spec.keep_succeeded, spec.keep_failed, spec.starting_deadline_ms) == (5, 2, 3_600_000)
    assert spec.service.replicated_job.completions == 2
    assert list(spec.service.task.container.args) == ["backup"]
    assert run("cron", "suspend", "nightly").exit_code == 0
    assert run("cron", "trigger", "nightly").exit_code == 0
    spec = specs(double, "schedule")["nightly"]
    assert (spec.suspended, spec.triggers) == (True, 1)
    assert run("cron", "ls", "--format", "{{.Name}} {{.Next}}").output == "nightly suspended\n"
    bad = run("cron", "create", "--name", "x", "--schedule", "@daily", "--keep", "many", "tool:1")
    assert bad.exit_code == 2
    assert "SUCCEEDED:FAILED" in bad.output
    assert run("cron", "rm", "nightly").exit_code == 0
    assert not specs(double, "schedule")


def test_taints_and_resources_of_a_node(run: Run, double: Double) -> None:
    assert run("node", "taint", "add", "w1", "gpu=true:NoSchedule", "old:NoExecute").output == "w1\n"
    assert run("node", "taint", "ls", "w1").output == "gpu=true:NoSchedule\nold:NoExecute\n"
    assert run("node", "taint", "rm", "w1", "gpu").exit_code == 0
    assert run("node", "taint", "rm", "w1", "gpu").exit_code == 2
    run("node", "update", "--generic-resource", "gpu=/dev/a", "--generic-resource", "gpu=/dev/b", "w1")
    assert list(specs(double, "node")["w1"].generic["gpu"].names) == ["/dev/a", "/dev/b"]


def test_a_tasks_history_is_a_table(run: Run, double: Double) -> None:
    task = objects_pb2.Task(stop_reason="PREEMPTED", stop_ms=1_700_000_002_500)
    task.meta.name = "web.1.x"
    for number, state in enumerate((types_pb2.TASK_NEW, types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN)):
        task.status.history.add(state=state, at_ms=1_700_000_000_500 + number * 1500, reason="")
    stored = double.put(task)
    shown = run("task", "history", stored.meta.id, "--format", "{{.After}} {{.State}} {{.Reason}}").output
    assert [line.rstrip() for line in shown.splitlines()] == [
        "0.000s new",
        "1.500s running",
        "2.000s told to stop PREEMPTED",
        "3.000s shutdown",
    ]
    assert run("task", "kill", stored.meta.id).exit_code == 0
    assert double.calls[-1] == "Delete"
