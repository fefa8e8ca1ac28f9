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


DEVICE_RATES = ("read_bps", "write_bps", "read_iops", "write_iops")


def edit(task: types_pb2.TaskSpec, flags: Flags) -> None:
    """All of them; a flag that was not given changes nothing."""
    container, resources = task.container, task.resources
    for flag, field in FIELDS.items():
        if flags.get(flag) is not None:
            setattr(container, field, flags[flag])
    for flag, field in RESOURCES.items():
        if flags.get(flag) is not None:
            setattr(resources, field, flags[flag])
    edit_io_devices(resources, flags)
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


def edit_io_devices(resources: types_pb2.ResourceRequirements, flags: Flags) -> None:
    """--device-read-bps and its like: one entry a disk; one without any limit is left out."""
    known = {entry.device: entry for entry in resources.io_devices}
    for field in DEVICE_RATES:
        for device in flags.get(f"device_{field}_rm", ()):
            if device in known:
                setattr(known[device], field, 0)
        for device, rate in flags.get(f"device_{field}_add", ()):
            entry = known.setdefault(device, types_pb2.DeviceLimits(device=device))
            setattr(entry, field, rate)
    kept = [known[device] for device in sorted(known) if any(getattr(known[device], f) for f in DEVICE_RATES)]
    if kept != list(resources.io_devices):
        fresh = types_pb2.ResourceRequirements(io_devices=kept)
        resources.ClearField("io_devices")
        resources.io_devices.extend(fresh.io_devices)


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
