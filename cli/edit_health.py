"""The probe flags -> HealthConfig: --health-*, --readiness-*, --startup-*, of one container.

Imports protobuf, so only commands that run import it; the flags themselves are in flags_health.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmpy.cli.errors import UsageRefused
from swarmpy.proto import types_pb2

KINDS = ("http", "tcp", "grpc")
DURATIONS = ("interval", "timeout", "start_period", "start_interval")


def edit_health(container: types_pb2.ContainerSpec, flags: Mapping[str, Any]) -> None:
    """All three probes of a container; a new way of asking takes the place of the old one."""
    if flags.get("no_healthcheck"):
        refuse_both("--no-healthcheck", "health", flags)
        container.health.CopyFrom(types_pb2.HealthConfig(test=["NONE"]))
    else:
        edit_probe(container.health, flags, "health")
    for prefix in ("readiness", "startup"):
        if flags.get(f"no_{prefix}"):
            refuse_both(f"--no-{prefix}", prefix, flags)
            container.ClearField(prefix)
        else:
            edit_probe(getattr(container, prefix), flags, prefix)


def edit_probe(config: types_pb2.HealthConfig, flags: Mapping[str, Any], prefix: str) -> None:
    given = values(flags, prefix)
    if not given:
        return
    if list(config.test) == ["NONE"]:
        config.test[:] = []
    if any(given.get(kind) for kind in ("cmd", *KINDS)):
        config.test[:] = []
        for kind in KINDS:
            config.ClearField(kind)
    if "cmd" in given:
        config.test[:] = ["CMD-SHELL", given["cmd"]] if given["cmd"] else []
    for field in (*KINDS, "retries"):
        if field in given:
            setattr(config, field, given[field])
    for field in DURATIONS:
        if field in given:
            setattr(config, f"{field}_ms", given[field])


def values(flags: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The flags of one probe that were given."""
    found = {key: flags.get(f"{prefix}_{key}") for key in ("cmd", *KINDS, "retries", *DURATIONS)}
    return {key: value for key, value in found.items() if value is not None}


def refuse_both(no: str, prefix: str, flags: Mapping[str, Any]) -> None:
    if values(flags, prefix):
        raise UsageRefused(f"{no} excludes the other --{prefix} flags.")
