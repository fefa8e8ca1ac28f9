"""The flags that isolate a container -> the specification. Part of edit.py's work, in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swarmpy.cli import parse_runtime
from swarmpy.cli.errors import UsageRefused
from swarmpy.proto import types_pb2

Flags = Mapping[str, Any]
FIELDS = {
    "pid": "pid_mode",
    "ipc": "ipc_mode",
    "userns": "userns",
    "cgroup_parent": "cgroup_parent",
    "runtime": "runtime",
    "domainname": "domainname",
}
RESOURCES = {
    "memory_swap": "swap_bytes",
    "blkio_weight": "io_weight",
    "cpuset_cpus": "cpuset_cpus",
    "cpuset_mems": "cpuset_mems",
    "oom_kill_disable": "no_oom_kill",
}


def edit(task: types_pb2.TaskSpec, flags: Flags) -> None:
    """All of them; a flag that was not given changes nothing."""
    container, resources = task.container, task.resources
    for flag, field in FIELDS.items():
        if flags.get(flag) is not None:
            setattr(container, field, flags[flag])
    for flag, field in RESOURCES.items():
        if flags.get(flag) is not None:
            setattr(resources, field, flags[flag])
    if (swappiness := flags.get("memory_swappiness")) is not None:
        if swappiness < 0:
            resources.ClearField("swappiness")
        else:
            resources.swappiness = swappiness
    for key in flags.get("annotation_rm", ()):
        container.annotations.pop(key, None)
    container.annotations.update(dict(flags.get("annotation_add", ())))
    if flags.get("gpus") is not None:
        container.gpus, paths = flags["gpus"]
        container.devices.extend(path for path in paths if path not in container.devices)
    edit_log(container, flags)


def edit_log(container: types_pb2.ContainerSpec, flags: Flags) -> None:
    if flags.get("log_driver") is not None:
        container.log.driver = flags["log_driver"]
        if flags["log_driver"] == "none":
            container.log.max_size_bytes = container.log.max_files = 0
    for key, value in flags.get("log_opt", ()):
        setattr(container.log, {"max-size": "max_size_bytes", "max-file": "max_files"}[key], value)


def security(container: types_pb2.ContainerSpec, options: Iterable[tuple[str, str]]) -> None:
    """--security-opt; the last of a kind wins."""
    for key, value in options:
        if key == "no-new-privileges":
            container.allow_new_privileges = value == "false"
            continue
        container.seccomp_profile = ""
        container.seccomp = {"default": "", "unconfined": "unconfined"}.get(value, "profile")
        if container.seccomp == "profile":
            try:
                container.seccomp_profile = parse_runtime.seccomp_profile(value)
            except ValueError as error:
                raise UsageRefused(f"--security-opt seccomp: {error}.") from None


def take_network_modes(task: types_pb2.TaskSpec, added: Iterable[str], removed: Iterable[str]) -> None:
    """`--network host` and `none` are no networks of the cluster but ways to have none."""
    for name in removed:
        if parse_runtime.network_mode(name) == task.network_mode:
            task.network_mode = ""
    for name in added:
        if mode := parse_runtime.network_mode(name):
            task.network_mode = mode
