"""The parts of a task's spec, checked one by one: container, resources, restart and update policies.

Used by validate; each function yields the problems below the path it is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from swarmpy.node import payloads
from swarmpy.node.plan.base import MEMORY_BYTES_MIN, NANO_CPUS_MIN
from swarmpy.node.plan.revisions import share
from swarmpy.proto import types_pb2

DURATION_MS_MAX = 365 * 24 * 3_600_000
LABEL_BYTES_MAX = 4096
FILES_MAX = 100
ID_MAX = 2**32 - 2
PROBE_MS_MIN = 50
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
_USER = re.compile(r"[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+)?")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[-.A-Za-z0-9]*[A-Za-z0-9])?")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9+-]*|[0-9]{1,2}")
_CAPABILITY = re.compile(r"(?:CAP_)?[A-Z][A-Z_]*", re.IGNORECASE)
_SYSCTL = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_*-]+)+")
_PROPAGATIONS = {"", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
_PULL_POLICIES = {"", "always", "missing", "never"}
_ULIMITS = {
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What is wrong, where: `message` reads on from the field path."""

    field_path: str
    message: str


def container(spec: types_pb2.ContainerSpec, path: str) -> Iterator[Problem]:
    if not spec.image:
        yield Problem(path + ".image", "is not set: name an image such as docker.io/library/nginx:1.27")
    elif len(spec.image) > 512 or not _IMAGE.fullmatch(spec.image):
        yield Problem(path + ".image", f"{spec.image[:80]!r} is no image such as registry:5000/name:tag")
    for field in ("command", "args"):
        if any("\0" in text for text in getattr(spec, field)):
            yield Problem(f"{path}.{field}", "may not hold a NUL character")
    for position, text in enumerate(spec.env):
        name, equals, _ = text.partition("=")
        if not equals or not name or "\0" in text:
            yield Problem(f"{path}.env[{position}]", f"{text[:40]!r} is not of the form NAME=value")
    if spec.dir and not spec.dir.startswith("/"):
        yield Problem(path + ".dir", f"{spec.dir!r} is not an absolute path")
    if spec.user and not _USER.fullmatch(spec.user):
        yield Problem(path + ".user", f"{spec.user!r} is not of the form user or user:group")
    if (
        "{{" not in spec.hostname
        and spec.hostname
        and (len(spec.hostname) > 63 or not _HOSTNAME.fullmatch(spec.hostname))
    ):
        yield Problem(path + ".hostname", f"{spec.hostname!r} is no host name of at most 63 characters")
    if spec.stop_signal and not _SIGNAL.fullmatch(spec.stop_signal):
        yield Problem(path + ".stop_signal", f"{spec.stop_signal!r} is no signal such as SIGTERM or 15")
    if spec.pull_policy not in _PULL_POLICIES:
        yield Problem(path + ".pull_policy", f"is {spec.pull_policy!r}: write always, missing or never")
    if spec.init and spec.no_init:
        yield Problem(path + ".init", "is set together with no_init: choose one")
    yield from _duration(spec.stop_grace_ms, path + ".stop_grace_ms")
    yield from _duration(spec.drain_delay_ms, path + ".drain_delay_ms")
    yield from labels(spec.labels, path + ".labels")
    yield from _mounts(spec.mounts, path + ".mounts")
    yield from _files(spec, path)
    for probe in ("health", "readiness", "startup"):
        yield from _probe(spec, probe, f"{path}.{probe}")
    yield from _process(spec, path)


def _process(spec: types_pb2.ContainerSpec, path: str) -> Iterator[Problem]:
    for position, host in enumerate(spec.hosts):
        if not host.name or not _is_address(host.address):
            yield Problem(f"{path}.hosts[{position}]", f"{host.name}:{host.address} is not NAME:IP-ADDRESS")
    for position, server in enumerate(spec.dns_servers):
        if not _is_address(server):
            yield Problem(f"{path}.dns_servers[{position}]", f"{server!r} is not an IP address")
    for name in spec.sysctls:
        if not _SYSCTL.fullmatch(name):
            yield Problem(path + ".sysctls", f"{name!r} is no sysctl such as net.core.somaxconn")
    for field in ("cap_add", "cap_drop"):
        for name in getattr(spec, field):
            if not _CAPABILITY.fullmatch(name):
                yield Problem(f"{path}.{field}", f"{name!r} is no capability such as NET_ADMIN")
    for position, ulimit in enumerate(spec.ulimits):
        where = f"{path}.ulimits[{position}]"
        if ulimit.name not in _ULIMITS:
            yield Problem(where, f"{ulimit.name!r} is no ulimit: one of {', '.join(sorted(_ULIMITS))}")
        if min(ulimit.soft, ulimit.hard) < -1:
            yield Problem(where, "a limit is 0 or more, or -1 for none")
        elif ulimit.hard != -1 and (ulimit.soft == -1 or ulimit.soft > ulimit.hard):
            yield Problem(where, f"its soft limit {ulimit.soft} is above its hard limit {ulimit.hard}")
    if not -1000 <= spec.oom_score_adj <= 1000:
        yield Problem(path + ".oom_score_adj", f"is {spec.oom_score_adj}: it goes from -1000 to 1000")
    if spec.shm_size_bytes < 0:
        yield Problem(path + ".shm_size_bytes", "must be 0 (64 MiB) or more")
    for position, device in enumerate(spec.devices):
        if not device.startswith("/dev/"):
            yield Problem(f"{path}.devices[{position}]", f"{device!r} must begin with /dev/")


def _files(spec: types_pb2.ContainerSpec, path: str) -> Iterator[Problem]:
    """Secrets and configs."""
    targets: dict[str, str] = {mount.target: mount.target for mount in spec.mounts}
    for field in ("secrets", "configs"):
        if len(getattr(spec, field)) > FILES_MAX:
            yield Problem(f"{path}.{field}", f"{len(getattr(spec, field))} of them, at most {FILES_MAX}")
    for use in payloads.uses(spec):
        where, name = f"{path}.{use.noun}s[{use.position}]", use.reference.source
        if not name:
            yield Problem(where + ".source", f"names no {use.noun}")
        elif ".." in use.target.split("/") or "\0" in use.target or use.target.endswith("/"):
            yield Problem(where + ".target", f"{use.target!r} is not the path of a file in the container")
        elif use.target in targets:
            yield Problem(where + ".target", f"{use.target} is there twice: {targets[use.target]} and {name}")
        targets[use.target] = name
        if max(use.reference.uid, use.reference.gid) > ID_MAX:
            yield Problem(where, f"uid and gid are at most {ID_MAX}")
        if use.mode > 0o777:
            yield Problem(where + ".mode", f"is {use.mode:o}: permissions are from 0 to 777 (octal)")


def _mounts(mounts: Iterable[types_pb2.Mount], path: str) -> Iterator[Problem]:
    targets: set[str] = set()
    for position, mount in enumerate(mounts):
        where = f"{path}[{position}]"
        if not mount.target.startswith("/") or ".." in mount.target.split("/"):
            yield Problem(where + ".target", f"{mount.target!r} is not an absolute path in the container")
        elif mount.target.rstrip("/") == "":
            yield Problem(where + ".target", "may not be the container's root")
        if mount.target in targets:
            yield Problem(where + ".target", f"{mount.target} is mounted twice")
        targets.add(mount.target)
        if mount.type == types_pb2.MOUNT_BIND and not mount.source.startswith("/"):
            yield Problem(where + ".source", f"{mount.source!r} is not an absolute path on the node")
        if mount.type == types_pb2.MOUNT_TMPFS and mount.source:
            yield Problem(where + ".source", "a tmpfs has no source: leave it out")
        if mount.propagation not in _PROPAGATIONS:
            yield Problem(where + ".propagation", f"is {mount.propagation!r}: e.g. rprivate, rshared, rslave")
        if mount.tmpfs_size_bytes < 0 or mount.tmpfs_mode > 0o7777:
            yield Problem(where, "tmpfs size must be 0 (no limit) or more and its mode octal, at most 7777")


def _probe(spec: types_pb2.ContainerSpec, field: str, path: str) -> Iterator[Problem]:
    """health may hold only timings, or nothing: the image may say what is asked."""
    probe: types_pb2.HealthConfig = getattr(spec, field)
    if probe.test and probe.test[0] not in {"NONE", "CMD", "CMD-SHELL"}:
        yield Problem(path + ".test", f"begins with {probe.test[0]!r}: it must be NONE, CMD or CMD-SHELL")
    elif list(probe.test[:1]) in (["CMD"], ["CMD-SHELL"]) and len(probe.test) < 2:
        yield Problem(path + ".test", f"{probe.test[0]} is followed by no command")
    asked = sum((bool(probe.test), bool(probe.http), bool(probe.tcp), bool(probe.grpc)))
    if asked > 1:
        yield Problem(path, "has more than one probe: choose one of a command, http, tcp and grpc")
    if field != "health" and spec.HasField(field) and not asked:
        yield Problem(path, "asks nothing: give a command, http, tcp or grpc")
    if probe.retries < 0:
        yield Problem(path + ".retries", "must be 1 or more, or 0 for the default")
    for kind, behind, form in (
        ("http", r"(/\S*)?", ":PORT/PATH"),
        ("tcp", "", ":PORT"),
        ("grpc", r"(/[A-Za-z0-9_.]{1,100})?", ":PORT or :PORT/SERVICE"),
    ):
        target = getattr(probe, kind)
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+)?:(\d{1,5})" + behind, target)
        if target and (
            found is None
            or not 0 < int(found[2]) < 65_536
            or (found[1] and not _is_address(found[1].strip("[]")))
        ):
            yield Problem(
                f"{path}.{kind}", f"{target!r} is not of the form {form}, an IP address before it or not"
            )
    for name in ("interval_ms", "timeout_ms", "start_period_ms", "start_interval_ms"):
        yield from _duration(getattr(probe, name), f"{path}.{name}")
        if 0 < getattr(probe, name) < PROBE_MS_MIN and name != "start_period_ms":
            yield Problem(f"{path}.{name}", f"is {getattr(probe, name)} ms, at least {PROBE_MS_MIN} ms")


def resources(requirements: types_pb2.ResourceRequirements, path: str) -> Iterator[Problem]:
    limit, reserved = requirements.limits, requirements.reservations
    for name, part in (("limits", limit), ("reservations", reserved)):
        if part.nano_cpus and part.nano_cpus < NANO_CPUS_MIN:
            yield Problem(f"{path}.{name}.nano_cpus", f"is {part.nano_cpus / 1e9:g} CPU, at least 0.001")
        if part.memory_bytes and part.memory_bytes < MEMORY_BYTES_MIN:
            yield Problem(f"{path}.{name}.memory_bytes", f"is {part.memory_bytes} bytes, at least 4 MiB")
        for generic, amount in part.generic.items():
            if not generic or amount < 1:
                yield Problem(f"{path}.{name}.generic", f"{generic}={amount}: an amount is 1 or more")
    if limit.nano_cpus and reserved.nano_cpus > limit.nano_cpus:
        yield Problem(f"{path}.reservations.nano_cpus", "is above the limit: reserve less")
    if limit.memory_bytes and reserved.memory_bytes > limit.memory_bytes:
        yield Problem(f"{path}.reservations.memory_bytes", "is above the limit: reserve less")
    if requirements.pids_limit < -1:
        yield Problem(f"{path}.pids_limit", "must be -1 (no limit), 0 (default) or more")
    if requirements.swap_bytes < -1:
        yield Problem(f"{path}.swap_bytes", "must be -1 (no limit), 0 (default) or more")


def restart(policy: types_pb2.RestartPolicy, path: str) -> Iterator[Problem]:
    for field in ("delay_ms", "window_ms", "max_delay_ms"):
        yield from _duration(getattr(policy, field), f"{path}.{field}")
    if policy.max_attempts < 0:
        yield Problem(path + ".max_attempts", "must be 0 (no limit) or more")


def update(config: types_pb2.UpdateConfig, path: str) -> Iterator[Problem]:
    for field in ("delay_ms", "monitor_ms", "progress_deadline_ms", "keep_old_ms"):
        yield from _duration(getattr(config, field), f"{path}.{field}")
    if not 0 <= config.parallelism_percent <= 100:
        yield Problem(
            path + ".parallelism_percent", f"is {config.parallelism_percent}: it goes from 1 to 100"
        )
    if config.HasField("progress_deadline_ms") and config.progress_deadline_ms < 1000:
        yield Problem(path + ".progress_deadline_ms", "must be at least one second")
    yield from _gate(config, path)
    if config.parallelism < 0:
        yield Problem(path + ".parallelism", "must be 0 (all at once) or more")
    if not 0 <= config.max_failure_ratio <= 1:
        yield Problem(path + ".max_failure_ratio", f"is {config.max_failure_ratio:g}: it goes from 0 to 1")


def _gate(config: types_pb2.UpdateConfig, path: str) -> Iterator[Problem]:
    """Canary, blue-green and what promotes them."""
    if config.canary and (share(config.canary, 100) < 1 or share(config.canary, 100) > 100_000):
        yield Problem(
            path + ".canary", f"is {config.canary!r}: write a number such as 1 or a part such as 10%"
        )
    if config.canary and config.strategy == types_pb2.STRATEGY_BLUE_GREEN:
        yield Problem(path + ".canary", "does not go with blue-green, which starts every slot: choose one")
    rules = config.analysis
    if not 0 <= rules.max_failure_ratio <= 1:
        yield Problem(
            path + ".analysis.max_failure_ratio", f"is {rules.max_failure_ratio:g}: it goes from 0 to 1"
        )
    if rules.max_probe_ms < 0:
        yield Problem(path + ".analysis.max_probe_ms", "must be 0 (any) or more")
    yield from _duration(rules.window_ms, path + ".analysis.window_ms")


def labels(pairs: Mapping[str, str], path: str) -> Iterator[Problem]:
    for key, value in pairs.items():
        if not key or any(c.isspace() or not c.isprintable() for c in key):
            yield Problem(path, f"{key!r} is no label name: no spaces and not empty")
        if len(key.encode()) + len(value.encode()) > LABEL_BYTES_MAX:
            yield Problem(path, f"label {key[:40]!r} has more than {LABEL_BYTES_MAX} bytes")


def _duration(value_ms: int, path: str) -> Iterator[Problem]:
    if value_ms < 0:
        yield Problem(path, f"is {value_ms} ms: a duration may not be negative")
    elif value_ms > DURATION_MS_MAX:
        yield Problem(path, f"is {value_ms} ms: at most a year")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
