"""The files of one container on this node, made before it is created and removed after it ended.

    run directory    containers/<id>/{state.json,config.json,rootfs,pidfile,…}  exits/<id>  oci/<id>
    state directory  containers/<id>/{upper,work,files,volumes}
    log directory    <id>/ctr.log[.1,.2]

`state.json` is written before anything else exists: what it names can always be found again and removed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import platform
import resource
import shutil
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmpy.node.runtime import bpf, cgroups, mounts, oci, spec, system, userns, users
from swarmpy.node.runtime.errors import from_os_error
from swarmpy.node.runtime.monitor import Places
from swarmpy.node.runtime.request import ContainerRequest, Exit
from swarmpy.proto import types_pb2

INIT_PROGRAMS = (
    ("tini-static", ("--",)),
    ("catatonit", ("--",)),
    ("docker-init", ("--",)),
    ("tini", ("--",)),
)
CAPABILITIES = (  # in the kernel's order
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """What is kept about a container across restarts of this process."""

    id: str
    phase: str  # creating, created, starting, started, exited
    cgroup: str
    tty: bool = False
    pid: int = 0
    pid_start: int = 0
    monitor_pid: int = 0
    monitor_start: int = 0
    exit: Exit | None = None
    labels: dict[str, str] = field(default_factory=dict)
    runtime: str = ""  # the OCI runtime's program, "" = the node's choice
    log: tuple[int, int] = (0, 0)  # bytes per file, files; 0 = the default, -1 files = none kept
    first_id: int = 0  # the node's id that is 0 inside
    resources: str = ""  # the limits in force: a ResourceRequirements in hex


@dataclass(frozen=True)
class Directories:
    state: Path
    run: Path
    log: Path

    @property
    def containers(self) -> Path:
        return self.run / "containers"

    @property
    def data(self) -> Path:
        return self.state / "containers"

    @property
    def exits(self) -> Path:
        return self.run / "exits"

    def userns(self, owner: str) -> userns.Places:
        """Ranges of ids are shared out among all nodes of a machine, whose run directories are neighbours."""
        return userns.Places(self.run.parent / "ids", self.run / "userns", owner)

    def make(self) -> None:
        for directory in (self.run, self.containers, self.data, self.exits, self.log, self.run / "oci"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # runc goes to a root file system with the ids of its container: through, but not to look around.
        for directory in (self.run.parent, self.run, self.containers):
            directory.chmod(directory.stat().st_mode & 0o777 | 0o011)

    def places(self, container_id: str) -> Places:
        return Places(
            container_id, self.containers / container_id, self.exits, self.log / container_id / "ctr.log"
        )


def write_state(directories: Directories, state: State) -> None:
    write_file(directories.containers / state.id / "state.json", json.dumps(asdict(state)))


def read_state(directories: Directories, container_id: str) -> State | None:
    """None where the file is absent or is not one of ours; it is written by rename, so never half."""
    try:
        raw = json.loads((directories.containers / container_id / "state.json").read_text())
        ended = raw.pop("exit")
        raw["log"] = tuple(raw.get("log", (0, 0)))
        return replace(State(**raw), exit=Exit(**ended) if ended else None)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def resources_text(resources: types_pb2.ResourceRequirements) -> str:
    """Limits as `State.resources` keeps them."""
    return resources.SerializeToString(deterministic=True).hex()


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "w") as file:
        os.fchmod(fd, mode)
        file.write(text)
    fresh.rename(path)


def prepare(
    directories: Directories, layout: cgroups.Layout, request: ContainerRequest, cgroup: str, runtime: str
) -> None:
    """Root file system, files and config.json of a container whose state.json is written. Blocks."""
    try:
        _prepare(directories, layout, request, cgroup, runtime)
    except OSError as error:
        raise from_os_error(f"preparation of container {request.id}", error) from error


def _prepare(
    directories: Directories, layout: cgroups.Layout, request: ContainerRequest, cgroup: str, runtime: str
) -> None:
    places, data = directories.places(request.id), directories.data / request.id
    rootfs = places.bundle / "rootfs"
    for directory in (rootfs, data / "upper", data / "work", data / "files", places.log.parent):
        directory.mkdir(parents=True, exist_ok=True)
    (data / "upper").chmod(stat.S_IMODE(request.layers[-1].stat().st_mode) if request.layers else 0o755)
    wanted = request.spec
    devices = [device for text in wanted.devices for device in mounts.devices_of(text)]
    devices += mounts.gpu_devices() if wanted.gpus else []
    if wanted.privileged:
        devices = list({d.path: d for d in [*mounts.all_devices(), *devices]}.values())
    pin = directories.run / "userns" / request.user / "user"
    mount_root(request, places.bundle, data, pin)
    with unshifted_root(request, places.bundle, data) as original:
        given = mounts.Sources(request.volumes, data / "volumes", original)
        sources = [
            mounts.source_of(
                entry, number, given, f"container.mounts[{number}]", places.bundle / f"part-{number}"
            )
            for number, entry in enumerate(wanted.mounts)
        ]
    sources = [
        own_mount(source, wanted.mounts[number], places.bundle / f"mount-{number}", request, pin)
        for number, source in enumerate(sources)
    ]
    user = users.resolve(rootfs, wanted.user or request.image_config.get("User") or "", wanted.groups)
    init, separator = init_program()
    facts = spec.HostFacts(
        machine=platform.machine(),
        cgroup_path=cgroup,
        rootfs=str(rootfs),
        user=user,
        files=write_files(data / "files", request),
        mount_sources=sources,
        seccomp=seccomp_data(),
        capabilities=kernel_capabilities(),
        hard_limits=hard_limits(),
        init=init,
        init_separator=separator,
        devices=tuple(devices),
        swap_limits=layout.swap_limits,
        mqueue=kernel_has("mqueue"),
        pure_v2=layout.pure_v2,
        kernel=kernel_version(),
        recursive_read_only=kernel_version() >= (5, 12),
        single_files=frozenset(n for n, source in enumerate(sources) if source and not os.path.isdir(source)),
        ids=request.ids,
        userns_path=str(pin) if request.ids else "",
    )
    config = spec.build(request, facts)
    if Path(runtime).name in oci.WRAPPED and (filter_rules := config["linux"].get("seccomp")):
        config["annotations"] |= bpf.annotation(filter_rules)
    if not wanted.mounts and not request.files:  # which may bring it
        path = next(e for e in config["process"]["env"] if e.startswith("PATH=")).removeprefix("PATH=")
        users.require_program(rootfs, spec.command(request)[0], path, spec.working_dir(request))
    write_file(places.bundle / "config.json", json.dumps(config))


def mount_root(request: ContainerRequest, bundle: Path, data: Path, pin: Path) -> None:
    """The overlay of a container; with a user namespace of its own, of layers with shifted ids."""
    upper, work, rootfs = data / "upper", data / "work", bundle / "rootfs"
    if request.ids is None:
        mounts.mount_overlay(request.layers, upper, work, rootfs)
        return
    os.chown(upper, request.ids.first, request.ids.first)
    os.chown(bundle, 0, request.ids.first)
    bundle.chmod(0o710)
    places = [bundle / f"layer-{number}" for number in range(len(request.layers))]
    for layer, place in zip(request.layers, places, strict=True):
        userns.shifted(layer, place, pin, "container.userns", recursive=False)
    mounts.mount_overlay(places, upper, work, rootfs)
    for place in places:  # the overlay has mounts of its own
        system.umount(place, detach=True)
        place.rmdir()


@contextlib.contextmanager
def unshifted_root(request: ContainerRequest, bundle: Path, data: Path) -> Iterator[Path]:
    """The root file system with the ids of the image, of which new volumes begin as a copy."""
    volumes = any(entry.type == types_pb2.MOUNT_VOLUME for entry in request.spec.mounts)
    if request.ids is None or not volumes:
        yield bundle / "rootfs"
        return
    place, upper, work = bundle / "original", data / "original-upper", data / "original-work"
    for directory in (place, upper, work):
        directory.mkdir(exist_ok=True)
    mounts.mount_overlay(request.layers, upper, work, place)
    try:
        yield place
    finally:
        system.umount(place, detach=True)


def own_mount(source: str, entry: types_pb2.Mount, place: Path, request: ContainerRequest, pin: Path) -> str:
    """The source of a mount as this container gets it: with its ids, or without what is mounted below."""
    alone = entry.recursive == "disabled"
    if source and request.ids is not None:
        where = f"mount {entry.target}"
        return userns.shifted(Path(source), place, pin, where, recursive=not alone)
    return mounts.without_submounts(source, place) if alone else source


def write_files(directory: Path, request: ContainerRequest) -> dict[str, str]:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf; on disk, since the container may write to them."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet"]
    extra = [(host.address, host.name) for host in request.spec.hosts]
    lines += [f"{address}\t{name}" for address, name in dict.fromkeys([*request.hosts, *extra])]
    resolv = request.resolv_conf
    if not resolv:
        with contextlib.suppress(FileNotFoundError):
            resolv = Path("/etc/resolv.conf").read_text()
    texts = {
        "hosts": "\n".join(lines) + "\n",
        "hostname": spec.hostname(request) + "\n",
        "resolv.conf": resolv,
    }
    for name, text in texts.items():
        write_file(directory / name, text, 0o644)
        if request.ids is not None:
            os.chown(directory / name, request.ids.first, request.ids.first)
    return {f"/etc/{name}": str(directory / name) for name in texts}


def remove(directories: Directories, container_id: str) -> None:
    """Everything but the log of a container without processes. Blocks; may be repeated."""
    places = directories.places(container_id)
    try:
        mounts.unmount_all(places.bundle)
        for directory in (directories.data / container_id, places.bundle):
            if directory.exists():
                shutil.rmtree(directory)
        places.exit_file.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(f"removal of container {container_id}", error) from error


# --- facts about the machine --------------------------------------------------------------------


@functools.cache
def seccomp_data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / "seccomp.json").read_text())
    return loaded


@functools.cache
def kernel_capabilities() -> frozenset[str]:
    """Those this process may hand on: known to the kernel and in our own bounding set."""
    status = Path("/proc/self/status").read_text()
    bounding = int(next(line for line in status.splitlines() if line.startswith("CapBnd:")).split()[1], 16)
    return frozenset(f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if bounding >> bit & 1)


@functools.cache
def hard_limits() -> dict[str, int]:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
    return {name: resource.getrlimit(getattr(resource, name))[1] for name in names}


@functools.cache
def kernel_version() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(itertools.takewhile(str.isdigit, minor)) or 0)


@functools.cache
def kernel_has(filesystem: str) -> bool:
    return filesystem in Path("/proc/filesystems").read_text().split()


@functools.cache
def init_program() -> tuple[str, tuple[str, ...]]:
    """A static init: one that needs a loader would not run in every image."""
    for name, separator in INIT_PROGRAMS:
        path = oci.find_program(name)
        if path and not system.is_interpreted_elf(Path(path)):
            return path, separator
    return "", ()
