"""The parts of a container's spec that decide how it is isolated, checked one by one.

Beside `limits`, which has the everyday parts. What one node may have and another not (a runtime, a control
group, a device) is not looked at here: the node refuses the task then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from swarmpy.node import templates
from swarmpy.node.plan.limits import Problem
from swarmpy.proto import objects_pb2, types_pb2

SECCOMP_BYTES_MAX = 32 * 1024
ANNOTATION_BYTES_MAX = 4096
LOG_BYTES_MIN, LOG_FILES_MAX = 4096, 100
LOG_DRIVERS = ("", "json-file", "local", "none")
RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
IO_DEVICES_MAX = 32
IOPS_MAX, BPS_MAX = 2**32 - 2, 2**63 - 1  # as the kernel counts them
_DISK = re.compile(r"/dev/[A-Za-z0-9/_.:+-]{1,200}")
_CPUSET = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
_CGROUP = re.compile(r"(/[A-Za-z0-9_@:.-]+)+")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[-.A-Za-z0-9]*[A-Za-z0-9])?")
_ACTION = re.compile(r"SCMP_ACT_[A-Z_]+")
# Annotations by which a runtime would weaken what the rest of the specification says.
_RESERVED = ("run.oci.", "org.systemd.", "io.katacontainers.", "dev.gvisor.")
_HARMLESS = {"run.oci.handler"}


def service(spec: objects_pb2.ServiceSpec, path: str) -> Iterator[Problem]:
    """Everything here that a service's spec may get wrong."""
    yield from container(spec.task.container, path + ".task.container")
    yield from resources(spec.task.resources, path + ".task.resources")
    yield from task(spec.task, path + ".task")
    yield from ports(spec.task, spec.endpoint.ports, path + ".endpoint.ports")


def container(spec: types_pb2.ContainerSpec, path: str) -> Iterator[Problem]:
    for field, text in templates.templated(spec):
        if "{{" in text and (wrong := templates.problem(text)):
            yield Problem(f"{path}.{field}", wrong)
    yield from _seccomp(spec, path)
    yield from _isolation(spec, path)
    for name in ("pid_mode", "ipc_mode"):
        if getattr(spec, name) not in {"", "host"}:
            yield Problem(f"{path}.{name}", f"is {getattr(spec, name)!r}: leave it empty or write host")
    if spec.init and spec.pid_mode == "host":
        yield Problem(path + ".init", "excludes pid_mode host: an init must be process 1 of its namespace")
    if spec.runtime and not RUNTIME.fullmatch(spec.runtime):
        yield Problem(
            path + ".runtime", f"{spec.runtime[:70]!r} is no name of a runtime such as crun or runsc"
        )
    if spec.cgroup_parent and (
        not _CGROUP.fullmatch(spec.cgroup_parent) or ".." in spec.cgroup_parent.split("/")
    ):
        yield Problem(
            path + ".cgroup_parent", f"{spec.cgroup_parent[:70]!r} is no control group such as /apps/batch"
        )
    if spec.domainname and (len(spec.domainname) > 64 or not _DOMAIN.fullmatch(spec.domainname)):
        yield Problem(path + ".domainname", f"{spec.domainname[:70]!r} is no domain name")
    for name, value in spec.annotations.items():
        if not name or len(name) + len(value.encode()) > ANNOTATION_BYTES_MAX:
            yield Problem(
                path + ".annotations", f"{name[:40]!r} is empty or above {ANNOTATION_BYTES_MAX} bytes"
            )
        elif name.startswith(_RESERVED) and name not in _HARMLESS:
            yield Problem(
                path + ".annotations", f"{name!r} would change how the container is confined: leave it out"
            )
    for position, entry in enumerate(spec.mounts):
        yield from mount(entry, f"{path}.mounts[{position}]")
    yield from _log(spec.log, path + ".log")


def _isolation(spec: types_pb2.ContainerSpec, path: str) -> Iterator[Problem]:
    if spec.userns not in {"", "auto"}:
        yield Problem(path + ".userns", f"is {spec.userns!r}: leave it empty or write auto")
    if spec.userns:
        for name in ("pid_mode", "ipc_mode", "privileged"):
            if getattr(spec, name):
                yield Problem(
                    path + ".userns", f"excludes {name}: a container with ids of its own has no rights there"
                )


def task(spec: types_pb2.TaskSpec, path: str) -> Iterator[Problem]:
    """How the container's settings and the network it asks for fit."""
    if spec.network_mode not in {"", "host", "none"}:
        yield Problem(
            path + ".network_mode", f"is {spec.network_mode!r}: leave it empty, or write host or none"
        )
    if not spec.network_mode:
        return
    if spec.networks:
        yield Problem(
            path + ".networks", f"cannot be joined with the network {spec.network_mode}: choose one of them"
        )
    if spec.network_mode == "host" and spec.container.userns:
        yield Problem(path + ".container.userns", "excludes the host's network")


def ports(spec: types_pb2.TaskSpec, published: Iterable[types_pb2.Port], path: str) -> Iterator[Problem]:
    """What a task without a network of its own may publish."""
    for position, port in enumerate(published):
        where = f"{path}[{position}]"
        if spec.network_mode == "none":
            yield Problem(where, "cannot be published: the service has no network")
        elif spec.network_mode == "host" and (
            port.mode != types_pb2.PUBLISH_HOST or port.published != port.target or port.address
        ):
            yield Problem(
                where,
                "cannot be mapped: on the host's network the program itself takes the node's port; leave it "
                f"out, or write published={port.target},target={port.target},mode=host to keep two tasks apart",
            )


def _seccomp(spec: types_pb2.ContainerSpec, path: str) -> Iterator[Problem]:
    if spec.seccomp not in {"", "unconfined", "profile"}:
        yield Problem(path + ".seccomp", f'is {spec.seccomp!r}: write "", unconfined or profile')
    if (spec.seccomp == "profile") != bool(spec.seccomp_profile):
        yield Problem(path + ".seccomp_profile", "goes with seccomp: profile, and only with it")
    if not spec.seccomp_profile:
        return
    where = path + ".seccomp_profile"
    if len(spec.seccomp_profile) > SECCOMP_BYTES_MAX:
        yield Problem(where, f"has {len(spec.seccomp_profile)} bytes, at most {SECCOMP_BYTES_MAX}")
        return
    try:
        profile = json.loads(spec.seccomp_profile)
    except ValueError as error:
        yield Problem(where, f"is not JSON: {error}")
        return
    if wrong := profile_problem(profile):
        yield Problem(where, wrong)


def profile_problem(profile: object) -> str:
    """What keeps a parsed profile from being one; "" for a good one."""
    if not isinstance(profile, dict) or not _ACTION.fullmatch(str(profile.get("defaultAction", ""))):
        return "needs a defaultAction such as SCMP_ACT_ERRNO"
    if any(key in profile for key in ("listenerPath", "listenerMetadata")):
        return "may not name a listener on the node"
    rules = profile.get("syscalls") or []
    if not isinstance(rules, list):
        return "needs a list of rules in syscalls"
    for position, rule in enumerate(rules):
        if not isinstance(rule, dict) or not _ACTION.fullmatch(str(rule.get("action", ""))):
            return f"needs an action such as SCMP_ACT_ALLOW in syscalls[{position}]"
        names = rule.get("names") or [rule.get("name")]
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            return f"needs names in syscalls[{position}]"
        if rule["action"] == "SCMP_ACT_NOTIFY":
            return f"cannot ask a listener in syscalls[{position}]: SCMP_ACT_NOTIFY is not supported"
        for part in ("includes", "excludes"):
            if not isinstance(rule.get(part) or {}, dict):
                return f"needs an object in syscalls[{position}].{part}"
    return ""


def _log(log: types_pb2.LogConfig, path: str) -> Iterator[Problem]:
    if log.driver not in LOG_DRIVERS:
        yield Problem(path + ".driver", f"{log.driver[:40]!r} is not built: use json-file, local or none")
    if log.driver == "none" and (log.max_size_bytes or log.max_files):
        yield Problem(path, "keeps nothing with the driver none: leave the options out")
    if log.max_size_bytes and log.max_size_bytes < LOG_BYTES_MIN:
        yield Problem(path + ".max_size_bytes", f"is {log.max_size_bytes}, at least {LOG_BYTES_MIN}")
    if not 0 <= log.max_files <= LOG_FILES_MAX:
        yield Problem(path + ".max_files", f"is {log.max_files}: from 1 to {LOG_FILES_MAX}")


def resources(wanted: types_pb2.ResourceRequirements, path: str) -> Iterator[Problem]:
    if (wanted.swap_bytes or wanted.no_oom_kill) and not wanted.limits.memory_bytes:
        yield Problem(
            path + ".swap_bytes", "and no_oom_kill need a memory limit: set limits.memory_bytes too"
        )
    if not 0 <= wanted.swappiness <= 100:
        yield Problem(path + ".swappiness", f"is {wanted.swappiness}: it goes from 0 to 100")
    if wanted.io_weight and not 10 <= wanted.io_weight <= 1000:
        yield Problem(path + ".io_weight", f"is {wanted.io_weight}: it goes from 10 to 1000, 0 = the default")
    yield from _io_devices(wanted, path + ".io_devices")
    for name in ("cpuset_cpus", "cpuset_mems"):
        text = getattr(wanted, name)
        if text and (len(text) > 256 or not _CPUSET.fullmatch(text)):
            yield Problem(f"{path}.{name}", f"{text[:40]!r} is not a list such as 0-3,5")


def _io_devices(wanted: types_pb2.ResourceRequirements, path: str) -> Iterator[Problem]:
    if len(wanted.io_devices) > IO_DEVICES_MAX:
        yield Problem(path, f"are {len(wanted.io_devices)} devices, at most {IO_DEVICES_MAX}")
    seen: set[str] = set()
    for position, entry in enumerate(wanted.io_devices):
        where = f"{path}[{position}]"
        if not _DISK.fullmatch(entry.device) or ".." in entry.device.split("/"):
            yield Problem(where + ".device", f"{entry.device[:70]!r} is no disk such as /dev/sda")
        elif entry.device in seen:
            yield Problem(where + ".device", f"{entry.device} is there twice")
        seen.add(entry.device)
        for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
            most = IOPS_MAX if name.endswith("iops") else BPS_MAX
            if getattr(entry, name) > most:
                yield Problem(f"{where}.{name}", f"is {getattr(entry, name)}, at most {most}; 0 = no limit")


def mount(entry: types_pb2.Mount, path: str) -> Iterator[Problem]:
    if entry.recursive not in {"", "enabled", "disabled", "writable", "readonly"}:
        yield Problem(
            path + ".recursive", f"is {entry.recursive!r}: use enabled, disabled, writable or readonly"
        )
    elif entry.recursive in {"writable", "readonly"} and not entry.read_only:
        yield Problem(path + ".recursive", f"{entry.recursive} needs the mount to be readonly")
    if entry.recursive and entry.type != types_pb2.MOUNT_BIND:
        yield Problem(path + ".recursive", "is for bind mounts only")
