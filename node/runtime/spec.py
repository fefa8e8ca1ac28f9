"""From a request and facts about the host to the OCI `config.json`. Pure.

Rules:
- Secure unless asked otherwise: no_new_privileges, the seccomp allow-list of `seccomp.json`, Docker's
  capabilities without MKNOD, NET_RAW and AUDIT_WRITE, masked /proc and read-only /sys, a pids limit.
- The specification beats the image, the image beats our defaults.
- What can never work is refused here with the name of the field, before anything exists on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmpy.node.runtime import spec_limits, spec_seccomp
from swarmpy.node.runtime.errors import StartRejected
from swarmpy.node.runtime.request import ContainerRequest, GivenFile, IdRange
from swarmpy.proto import types_pb2

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_TARGET = "/dev/init"
DEFAULT_SHM_BYTES = 64 * 1024 * 1024
UNLIMITED = -1
MASK_64 = (1 << 64) - 1

DEFAULT_CAPABILITIES = frozenset({
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
})  # fmt: skip
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
    "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# Sysctls that live in a namespace the container owns.
IPC_SYSCTLS = re.compile(
    r"kernel\.(shmall|shmmax|shmmni|shm_rmid_forced|msgmax|msgmnb|msgmni|sem)$|fs\.mqueue\."
)


@dataclass(frozen=True)
class User:
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True)
class Device:
    path: str  # inside
    kind: str  # "c" or "b"
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


@dataclass(frozen=True)
class HostFacts:
    """What `build` must know about this machine and what was prepared on it."""

    machine: str  # platform.machine()
    cgroup_path: str
    rootfs: str
    user: User
    files: Mapping[str, str]  # path inside -> file on the host, bound there
    mount_sources: Sequence[str]  # one per spec.mounts, "" for tmpfs
    seccomp: Mapping[str, Any]  # the parsed seccomp.json
    capabilities: frozenset[str]  # those the kernel knows
    hard_limits: Mapping[str, int]  # RLIMIT_* -> hard limit, -1 = unlimited
    init: str = ""  # static init program on the host, "" = none
    init_separator: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    swap_limits: bool = True
    mqueue: bool = True
    pure_v2: bool = False
    kernel: tuple[int, int] = (5, 10)
    recursive_read_only: bool = False  # the mount option "rro" works here
    single_files: frozenset[int] = frozenset()  # mounts of a file: nothing is below, and crun's "rro" fails
    ids: IdRange | None = None  # a user namespace of the container's own
    userns_path: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def build(request: ContainerRequest, facts: HostFacts) -> dict[str, Any]:
    """The OCI configuration; StartRejected where the request can never run."""
    spec = request.spec
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": process(request, facts),
        "root": {"path": facts.rootfs, "readonly": spec.read_only},
        "hostname": hostname(request),
        "mounts": list(mounts(request, facts)),
        "annotations": {**spec.annotations, **facts.annotations},
        "linux": linux(request, facts),
    }
    if spec.domainname:
        config["domainname"] = spec.domainname
    return config


# --- the process --------------------------------------------------------------------------------


def command(request: ContainerRequest) -> list[str]:
    """Command line without the init; a new command drops the image's arguments, as with Docker."""
    spec, image = request.spec, request.image_config
    if spec.command:
        argv = [*spec.command, *spec.args]
    else:
        argv = [*(image.get("Entrypoint") or []), *(spec.args or image.get("Cmd") or [])]
    if not argv or not argv[0]:
        raise StartRejected(
            "container.command: neither the specification nor the image names a program to run"
        )
    return argv


def environment(request: ContainerRequest, user: User) -> list[str]:
    spec = request.spec
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname(request), "HOME": user.home}
    if spec.tty:
        merged["TERM"] = "xterm"
    for entry in [*(request.image_config.get("Env") or []), *spec.env]:
        name, separator, value = entry.partition("=")
        if "\0" in entry or not name:
            raise StartRejected(f"container.env: {entry!r} is not NAME=value")
        if separator:
            merged[name] = value
        else:
            merged.pop(name, None)
    return [f"{name}={value}" for name, value in merged.items()]


def working_dir(request: ContainerRequest) -> str:
    cwd = request.spec.dir or request.image_config.get("WorkingDir") or "/"
    return cwd if cwd.startswith("/") else "/" + cwd


def hostname(request: ContainerRequest) -> str:
    return (request.spec.hostname or request.hostname or request.id)[:63]


def uses_init(request: ContainerRequest, facts: HostFacts) -> bool:
    if request.spec.init and not facts.init:
        raise StartRejected("container.init: no static init program on this node; apt-get install tini")
    first = request.spec.pid_mode != "host"  # an init must be process 1
    return bool(facts.init) and first and not request.spec.no_init


def process(request: ContainerRequest, facts: HostFacts) -> dict[str, Any]:
    spec, user = request.spec, facts.user
    argv = command(request)
    if uses_init(request, facts):
        argv = [INIT_TARGET, *facts.init_separator, *argv]
    names = sorted(capabilities(spec, facts))
    return {
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": argv,
        "env": environment(request, user),
        "cwd": working_dir(request),
        "capabilities": {"bounding": names, "effective": names, "permitted": names},
        "rlimits": rlimits(spec, facts.hard_limits),
        "noNewPrivileges": not (spec.allow_new_privileges or spec.privileged),
        "oomScoreAdj": spec.oom_score_adj,
    }


def capabilities(spec: types_pb2.ContainerSpec, facts: HostFacts) -> frozenset[str]:
    add = [capability(name, "cap_add") for name in spec.cap_add]
    drop = [capability(name, "cap_drop") for name in spec.cap_drop]
    for name in [*add, *drop]:
        if name != "ALL" and name not in facts.capabilities:
            raise StartRejected(f"container.cap_add/cap_drop: this kernel has no {name}")
    base = facts.capabilities if spec.privileged or "ALL" in add else DEFAULT_CAPABILITIES
    if "ALL" in drop:
        base = frozenset()
    kept = (base | {name for name in add if name != "ALL"}) - set(drop)
    return frozenset(kept & facts.capabilities)


def capability(name: str, where: str) -> str:
    upper = name.upper()
    if not re.fullmatch(r"[A-Z_]+", upper):
        raise StartRejected(f"container.{where}: {name!r} is not the name of a capability")
    return upper if upper == "ALL" or upper.startswith("CAP_") else "CAP_" + upper


def rlimits(spec: types_pb2.ContainerSpec, hard_limits: Mapping[str, int]) -> list[dict[str, Any]]:
    """Never above what the host allows: the runtime would fail with an unclear error."""
    wanted = {"RLIMIT_NOFILE": (1024, 524_288)}
    for limit in spec.ulimits:
        name = "RLIMIT_" + limit.name.upper().removeprefix("RLIMIT_")
        if name not in hard_limits:
            raise StartRejected(f"container.ulimits: {limit.name!r} is unknown; known: {known(hard_limits)}")
        wanted[name] = (limit.soft, limit.hard or limit.soft)
    return [
        {"type": name, "soft": clamped(soft, bound), "hard": bound}
        for name, (soft, hard) in sorted(wanted.items())
        for bound in [clamped(hard, hard_limits.get(name, UNLIMITED) & MASK_64)]
    ]


def known(hard_limits: Mapping[str, int]) -> str:
    return ", ".join(sorted(name.removeprefix("RLIMIT_").lower() for name in hard_limits))


def clamped(value: int, bound: int) -> int:
    return min(value & MASK_64, bound & MASK_64)


# --- mounts -------------------------------------------------------------------------------------


def mounts(request: ContainerRequest, facts: HostFacts) -> Iterator[dict[str, Any]]:
    spec = request.spec
    sys_mode = "rw" if spec.privileged else "ro"
    shm = spec.shm_size_bytes or DEFAULT_SHM_BYTES
    hardened = ["nosuid", "noexec", "nodev"]
    yield mount("/proc", "proc", "proc", hardened)
    yield mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"])
    yield mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    )
    if request.shared is not None and request.shared.shm is not None:
        yield mount("/dev/shm", "bind", str(request.shared.shm), ["bind", *hardened, "rprivate"])  # noqa: S108
    elif spec.ipc_mode == "host":  # mqueue shows the queues of the namespace it is mounted in
        yield mount("/dev/shm", "bind", "/dev/shm", ["rbind", "rprivate", *hardened])  # noqa: S108
    else:
        yield mount("/dev/shm", "tmpfs", "shm", [*hardened, "mode=1777", f"size={shm}"])  # noqa: S108
    if facts.mqueue:
        yield mount("/dev/mqueue", "mqueue", "mqueue", hardened)
    yield mount("/sys", "sysfs", "sysfs", [*hardened, sys_mode])
    yield mount("/sys/fs/cgroup", "cgroup", "cgroup", [*hardened, "relatime", sys_mode])
    taken = {entry.target.rstrip("/") for entry in spec.mounts}
    for inside, outside in facts.files.items():
        if inside not in taken:
            yield mount(inside, "bind", outside, ["bind", "rprivate"])
    if uses_init(request, facts):
        yield mount(INIT_TARGET, "bind", facts.init, ["bind", "ro", "rprivate"])
    wanted = [given_file(file) for file in request.files]
    for number, entry in enumerate(spec.mounts):
        where = f"container.mounts[{number}]"
        single = number in facts.single_files
        below = facts.recursive_read_only and not single
        wanted.append(user_mount(entry, facts.mount_sources[number], where, below, single))
    yield from sorted(wanted, key=lambda made: made["destination"].count("/"))


def mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def given_file(file: GivenFile) -> dict[str, Any]:
    access = ["bind", "ro", "rprivate", "nosuid", "nodev", *([] if file.executable else ["noexec"])]
    return mount(file.target, "bind", str(file.source), access)


def user_mount(
    entry: types_pb2.Mount, source: str, where: str, can_rro: bool, single: bool
) -> dict[str, Any]:
    target = entry.target
    if not target.startswith("/") or target.strip("/") == "" or ".." in target.split("/"):
        raise StartRejected(f"{where}.target: {target!r} must be an absolute path below /")
    access = "ro" if entry.read_only else "rw"
    if entry.type == types_pb2.MOUNT_TMPFS:
        options = ["nosuid", "nodev", access, f"mode={(entry.tmpfs_mode or 0o1777):o}"]
        if entry.tmpfs_size_bytes:
            options.append(f"size={entry.tmpfs_size_bytes}")
        return mount(target, "tmpfs", "tmpfs", options)
    propagation = entry.propagation or "rprivate"
    if propagation not in {"private", "rprivate", "slave", "rslave", "shared", "rshared"}:
        raise StartRejected(
            f"{where}.propagation: {propagation!r} is not one of [r]private, [r]slave, [r]shared"
        )
    bind = "bind" if entry.recursive == "disabled" else "rbind"
    options = [bind, access, propagation, "nosuid", "nodev"]
    if entry.read_only and bind == "rbind" and entry.recursive != "writable":
        if can_rro:
            options.append("rro")
        elif entry.recursive == "readonly" and not single:
            remedy = "use bind-recursive=enabled, or Linux 5.12 or later"
            raise StartRejected(
                f"{where}.recursive: this kernel cannot make mounts below read-only; {remedy}"
            )
    return mount(target, "bind", source, options)


# --- the kernel's side --------------------------------------------------------------------------


def linux(request: ContainerRequest, facts: HostFacts) -> dict[str, Any]:
    spec = request.spec
    section: dict[str, Any] = {
        "cgroupsPath": facts.cgroup_path,
        "namespaces": namespaces(request, facts),
        "resources": resources(request, facts),
        "rootfsPropagation": "rprivate",
        "sysctl": sysctls(request, facts.ids),
        "devices": [device_node(device) for device in facts.devices],
    }
    if not spec.privileged:
        section["maskedPaths"] = list(MASKED_PATHS)
        section["readonlyPaths"] = list(READONLY_PATHS)
        if (rules := seccomp(spec, facts)) is not None:
            section["seccomp"] = rules
    if facts.ids is not None:
        mapping = [{"containerID": 0, "hostID": facts.ids.first, "size": facts.ids.count}]
        section["uidMappings"] = section["gidMappings"] = mapping
    return section


def namespaces(request: ContainerRequest, facts: HostFacts) -> list[dict[str, str]]:
    spec = request.spec
    kinds = ["uts", "mount", "cgroup"]
    kinds += ["pid"] if spec.pid_mode != "host" else []
    kinds += ["ipc"] if spec.ipc_mode != "host" else []
    shared = {"ipc": request.shared.ipc, "pid": request.shared.pid} if request.shared else {}
    made: list[dict[str, str]] = [
        {"type": kind, "path": str(path)} if (path := shared.get(kind)) else {"type": kind} for kind in kinds
    ]
    if request.netns is not None:
        made.append({"type": "network", "path": str(request.netns)})
    elif request.own_network:
        made.append({"type": "network"})
    if facts.ids is not None:
        made.append({"type": "user", "path": facts.userns_path})
    return made


def seccomp(spec: types_pb2.ContainerSpec, facts: HostFacts) -> dict[str, Any] | None:
    granted = capabilities(spec, facts)
    match spec.seccomp:
        case "":
            known = facts.machine in facts.seccomp["architectures"]
            return spec_seccomp.default(facts.seccomp, facts.machine, granted) if known else None
        case "profile":
            return spec_seccomp.custom(spec.seccomp_profile, facts.machine, granted, facts.kernel)
        case "unconfined":
            return None
    raise StartRejected(f'container.seccomp: {spec.seccomp!r} is unknown; use "", "unconfined" or "profile"')


def device_node(device: Device) -> dict[str, Any]:
    return {
        "path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    }  # fmt: skip


def resources(request: ContainerRequest, facts: HostFacts) -> dict[str, Any]:
    can = spec_limits.Abilities(facts.pure_v2, facts.swap_limits)
    return {"devices": device_rules(request.spec, facts), **spec_limits.section(request.resources, can)}


def device_rules(spec: types_pb2.ContainerSpec, facts: HostFacts) -> list[dict[str, Any]]:
    if spec.privileged:
        return [{"allow": True, "access": "rwm"}]
    return [
        {"allow": False, "access": "rwm"},
        *(
            {"allow": True, "type": d.kind, "major": d.major, "minor": d.minor, "access": d.access}
            for d in facts.devices
        ),
    ]


def sysctls(request: ContainerRequest, ids: IdRange | None) -> dict[str, str]:
    own_network = request.netns is not None or request.own_network
    own_ipc = request.spec.ipc_mode != "host"
    values: dict[str, str] = {}
    if own_network:
        groups = 2_147_483_647 if ids is None else ids.count - 1
        values = {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": f"0 {groups}",
        }
    for name, value in request.spec.sysctls.items():
        if not ((own_ipc and IPC_SYSCTLS.match(name)) or (own_network and name.startswith("net."))):
            reason = (
                "it would change the whole node"
                if own_network or not name.startswith("net.")
                else ("a container on the host network must not change it")
            )
            raise StartRejected(f"container.sysctls[{name}]: not allowed, {reason}")
        values[name] = value
    return values
