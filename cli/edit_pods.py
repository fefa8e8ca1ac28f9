"""The flags of pods -> TaskSpec: each container through the same functions as the main one.

What a container of a pod may be given are the flags of `service create` that are about one container; a
scratch service takes them, and what they made of it becomes the container. Imports protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swarmpy.cli import edit, edit_runtime, flag_values, flags_health, yaml_tree
from swarmpy.cli.edit_health import edit_health
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.parse_pods import ContainerValue, PodValue, pod
from swarmpy.proto import objects_pb2, types_pb2

Flags = Mapping[str, Any]
LISTS = {
    "env", "container-label", "mount", "tmpfs", "host", "dns", "dns-search", "dns-option", "group", "ulimit",
    "sysctl", "annotation", "device", "secret", "config",
    "device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops",
}  # fmt: skip
SCALARS = {
    "stop-signal", "stop-grace-period", "pull", "oom-score-adj", "limit-cpu", "limit-memory", "limit-pids",
    "reserve-cpu", "reserve-memory", "memory-swap", "memory-swappiness", "blkio-weight", "cpuset-cpus", "cpuset-mems",
    "gpus", "log-driver", "runtime", "entrypoint", *(name for name, _, _ in flags_health.SCALARS),
}  # fmt: skip
SWITCHES = {"init", "read_only", "privileged", "no_healthcheck", "oom_kill_disable"}
PRE_START = "pre-start-"


def edit_pods(task: types_pb2.TaskSpec, flags: Flags) -> None:
    """--pod replaces all containers but the main one; the other flags add and take away single ones."""
    if flags.get("pod") is not None:
        described = read_pod(flags["pod"])
        task.share_pid = described.share_pid
        edit.replace(task.init_containers, map(message, described.init_containers))
        edit.replace(task.sidecars, map(message, described.sidecars))
    if flags.get("share_pid") is not None:
        task.share_pid = flags["share_pid"]
    change(task.sidecars, flags.get("sidecar_add", ()), flags.get("sidecar_rm", ()), "--sidecar-rm")
    gone = (*flags.get("init_container_rm", ()), *flags.get("pre_start_rm", ()))
    change(task.init_containers, flags.get("init_container_add", ()), gone, "--init-container-rm")
    short = flags.get("pre_start_add", ())
    change(task.init_containers, named(task.init_containers, short), (), "")
    if not task.sidecars:
        task.share_pid = False
    whole = task.pod_resources
    for flag, holder, field in (
        ("pod_limit_cpu", whole.limits, "nano_cpus"),
        ("pod_limit_memory", whole.limits, "memory_bytes"),
        ("pod_limit_pids", whole, "pids_limit"),
    ):
        if flags.get(flag) is not None:
            setattr(holder, field, flags[flag])
    edit.drop_empty(whole, "limits", "reservations")
    edit.drop_empty(task, "pod_resources")


def change(field: Any, added: Iterable[ContainerValue], removed: Iterable[str], flag: str) -> None:
    have = {entry.name for entry in field}
    for name in removed:
        if name not in have:
            known = ", ".join(sorted(have)) or "there are none"
            raise UsageRefused(f"{flag} {name}: the service has no such container ({known}).")
    edit.replace(field, edit.keyed(field, map(message, added), removed, lambda entry: entry.name))


def named(present: Iterable[types_pb2.PodContainer], short: Iterable[ContainerValue]) -> list[ContainerValue]:
    """Names for --pre-start: the first free numbers."""
    taken = {entry.name for entry in present}
    result = []
    for value in short:
        number = next(n for n in range(1, 1000) if f"{PRE_START}{n}" not in taken)
        taken.add(f"{PRE_START}{number}")
        result.append(ContainerValue(f"{PRE_START}{number}", value.given, value.command, value.where))
    return result


def read_pod(file: str) -> PodValue:
    try:
        return pod(yaml_tree.load(Path(file).read_text(encoding="utf-8"), file), file)
    except (OSError, ValueError) as error:
        raise UsageRefused(f"--pod: {error}.") from None


def message(value: ContainerValue) -> types_pb2.PodContainer:
    """One container of the specification. Raises UsageRefused."""
    flags = converted(value)
    scratch = objects_pb2.ServiceSpec()
    task = scratch.task
    task.container.args.extend(value.command)
    edit.edit_container(task.container, flags)
    edit.edit_process(task.container, flags)
    edit_health(task.container, flags)
    edit.edit_task(scratch, flags)
    edit_runtime.edit(task, flags)
    edit.drop_empty(task.container, "health", "readiness", "startup", "log")
    edit.drop_empty(task.resources, "limits", "reservations")
    made = types_pb2.PodContainer(name=value.name, container=task.container)
    if task.resources.ByteSize():
        made.resources.CopyFrom(task.resources)
    return made


def converted(value: ContainerValue) -> dict[str, Any]:
    """The values as click would give them to a command."""
    kinds = known()
    result: dict[str, Any] = {}
    for name, texts in value.given.items():
        if name not in kinds:
            keys = ", ".join(sorted(["name", "cmd", *kinds]))
            raise UsageRefused(f"{value.where}: {name!r} is not a key of a container: use {keys}.")
        kind = kinds[name]
        if len(texts) > 1 and not kind.several:
            raise UsageRefused(f"{value.where}: {name} is there {len(texts)} times.")
        try:
            found = [flag_values.read(kind, text) for text in texts]
        except ValueError as error:
            raise UsageRefused(f"{value.where}: {name}: {str(error).rstrip('.')}.") from None
        result[kind.dest] = tuple(found) if kind.several else found[0]
    return result


def known() -> dict[str, flag_values.Kind]:
    """What a container of a pod may be given."""
    return flag_values.kinds(lambda name: name in LISTS | SCALARS | SWITCHES)
