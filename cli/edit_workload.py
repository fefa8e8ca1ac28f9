"""Mode, jobs, dependencies and steps: flags -> ServiceSpec (see edit.py)."""

from __future__ import annotations

from swarmpy.cli import edit
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.proto import objects_pb2, types_pb2

FIELDS = {"replicated-job": "replicated_job", "global-job": "global_job"}
CONDITIONS = {
    "started": objects_pb2.DEPENDENCY_STARTED,
    "healthy": objects_pb2.DEPENDENCY_HEALTHY,
    "completed": objects_pb2.DEPENDENCY_COMPLETED,
}
JOB_FLAGS = ("backoff_limit", "job_ttl", "job_deadline")


def set_mode(spec: objects_pb2.ServiceSpec, mode: str) -> None:
    """What `service create --mode` begins with: one task, or one per node."""
    match mode:
        case "replicated":
            spec.replicated.replicas = 1
        case "ordered":
            spec.ordered.replicas = 1
        case "replicated-job":
            spec.replicated_job.completions = 1
        case _:
            getattr(spec, FIELDS.get(mode, mode)).SetInParent()
    if mode in FIELDS:
        spec.task.restart.condition = types_pb2.RESTART_ON_FAILURE


def replicas_of(spec: objects_pb2.ServiceSpec) -> int | None:
    """How many tasks a service is asked to have; None where the nodes decide."""
    match spec.WhichOneof("mode"):
        case "replicated":
            return int(spec.replicated.replicas)
        case "ordered":
            return int(spec.ordered.replicas)
        case "replicated_job":
            return int(spec.replicated_job.completions)
    return None


def set_replicas(spec: objects_pb2.ServiceSpec, count: int) -> None:
    match spec.WhichOneof("mode"):
        case "ordered":
            spec.ordered.replicas = count
        case "replicated_job":
            spec.replicated_job.completions = count
        case "global" | "global_job":
            raise UsageRefused("--replicas does not fit a global service: it runs one task per node.")
        case _:
            spec.replicated.replicas = count


def scale(name: str, spec: objects_pb2.ServiceSpec, count: int, sign: str) -> None:
    """`service scale`."""
    present, mode = replicas_of(spec), spec.WhichOneof("mode")
    if present is None or mode == "replicated_job":
        word = "a job" if mode in {"replicated_job", "global_job"} else "global"
        why = "it runs to its end" if word == "a job" else "it runs one task per node"
        raise CliError(f"Service {name} is {word}: {why} and cannot be scaled.")
    set_replicas(spec, {"": count, "+": present + count, "-": max(0, present - count)}[sign])


def apply(spec: objects_pb2.ServiceSpec, flags: edit.Flags) -> None:
    """Everything that flags_workload declares, and --replicas."""
    if flags.get("replicas") is not None:
        set_replicas(spec, flags["replicas"])
    added = [
        objects_pb2.Dependency(service=name, condition=CONDITIONS[condition])
        for name, condition in flags.get("depends_on_add", ())
    ]
    gone = [name.partition("=")[0] for name in flags.get("depends_on_rm", ())]
    edit.replace(spec.depends_on, edit.keyed(spec.depends_on, added, gone, lambda one: one.service))
    edit_job(spec, flags)
    if flags.get("restart_backoff") is not None:
        spec.task.restart.constant_delay = flags["restart_backoff"] == "constant"
    if flags.get("pre_deploy") is not None:
        image, args = flags["pre_deploy"]
        step = spec.pre_deploy
        if step.image != image:
            step.image, step.image_digest = image, ""
        step.args[:] = args
        step.SetInParent()
    if flags.get("pre_deploy_timeout") is not None:
        if not spec.HasField("pre_deploy"):
            raise UsageRefused("--pre-deploy-timeout needs --pre-deploy.")
        spec.pre_deploy.timeout_ms = flags["pre_deploy_timeout"]


def edit_job(spec: objects_pb2.ServiceSpec, flags: edit.Flags) -> None:
    mode = spec.WhichOneof("mode")
    given = [flag for flag in (*JOB_FLAGS, "max_concurrent") if flags.get(flag) is not None]
    if not given:
        return
    if mode not in {"replicated_job", "global_job"}:
        name = given[0].replace("_", "-")
        raise UsageRefused(f"--{name} is only for jobs: use --mode replicated-job or global-job.")
    if flags.get("max_concurrent") is not None:
        if mode != "replicated_job":
            raise UsageRefused("--max-concurrent does not fit a global job: it runs one task per node.")
        spec.replicated_job.max_concurrent = flags["max_concurrent"]
    policy = spec.replicated_job.policy if mode == "replicated_job" else spec.global_job.policy
    for flag, field in (
        ("backoff_limit", "backoff_limit"),
        ("job_ttl", "ttl_ms"),
        ("job_deadline", "deadline_ms"),
    ):
        if flags.get(flag) is not None:
            setattr(policy, field, flags[flag])
