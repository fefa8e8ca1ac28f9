"""The root file system of a container (overlayfs) and the sources of its mounts.

The upper directory lives under the state directory (it may grow), the mount point under the run directory.
A container's writable layer never survives the container, so the overlay is `volatile`: no fsync reaches
the disk for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import system
from swarmpy.node.runtime.errors import RuntimeFailure, StartRejected, from_os_error
from swarmpy.node.runtime.spec import Device
from swarmpy.node.volume import tree
from swarmpy.proto import types_pb2

OPTION_PAGE_BYTES = 4000
GPU_DEVICES = ("dri/*", "kfd", "nvidia*", "nvidia-caps/*", "dxg")


def mount_overlay(layers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount layers (lowest first) under a writable upper directory."""
    if not layers:
        raise StartRejected("container.image: the image has no layers")
    for layer in layers:
        if not layer.is_dir():
            raise RuntimeFailure(f"image layer {layer}: missing; pull the image again")
    lower = [str(layer) for layer in reversed(layers)]
    opened: list[int] = []
    try:
        if sum(len(path) + 1 for path in lower) > OPTION_PAGE_BYTES - 600 or any(
            ":" in p or "," in p for p in lower
        ):
            opened = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lower]
            lower = [f"/proc/self/fd/{fd}" for fd in opened]
        options = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work}"
        try:
            system.mount("overlay", target, "overlay", 0, options + ",volatile")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            system.mount("overlay", target, "overlay", 0, options)
    except OSError as error:
        raise from_os_error(f"overlay mount of {len(layers)} layers", error) from error
    finally:
        for fd in opened:
            os.close(fd)


def unmount_all(directory: Path) -> None:
    """Unmount everything below a directory, deepest first; lazily where it is busy."""
    for point in system.mounts_below(directory):
        try:
            system.umount(point)
        except OSError as error:
            if error.errno == errno.EBUSY:
                system.umount(point, detach=True)
            elif error.errno not in (errno.EINVAL, errno.ENOENT):
                raise


@dataclass(frozen=True)
class Sources:
    """Where the mounts of a container come from on this node."""

    volumes: Mapping[str, Path]  # contents of named volumes, by name
    anonymous: Path  # directories of volumes without a name: they go with the container
    rootfs: Path


def source_of(entry: types_pb2.Mount, number: int, sources: Sources, where: str, place: Path) -> str:
    """The directory or file on this node that a mount of a specification means; a part of one is at `place`."""
    if entry.type == types_pb2.MOUNT_TMPFS:
        return ""
    if entry.type == types_pb2.MOUNT_VOLUME:
        source = volume_of(entry, number, sources, where)
        if not entry.volume_nocopy:
            fill_volume(source, sources.rootfs, entry.target)
    else:
        source = Path(entry.source)
        if not source.is_absolute():
            raise StartRejected(f"{where}.source: {entry.source!r} must be an absolute path on the node")
        if not source.exists():
            if not entry.create_source:
                remedy = "create it there or set create_source"
                raise StartRejected(f"{where}.source: {source} does not exist on this node; {remedy}")
            source.mkdir(parents=True, exist_ok=True)
    return below(source, entry.subpath, where, place) if entry.subpath else str(source)


def without_submounts(source: str, place: Path) -> str:
    """The file or directory without what is mounted below it: crun's plain binds bring that along."""
    if os.path.isdir(source):
        place.mkdir()
    else:
        place.touch()
    system.mount(source, place, "none", system.MS_BIND, "")
    system.mount("none", place, "none", system.MS_PRIVATE, "")
    return str(place)


def volume_of(entry: types_pb2.Mount, number: int, sources: Sources, where: str) -> Path:
    if not entry.source:
        made = sources.anonymous / str(number) / "data"
        made.mkdir(mode=0o755, parents=True, exist_ok=True)
        return made
    if entry.source not in sources.volumes:
        raise RuntimeFailure(f"{where}.source: volume {entry.source!r} was not given to this node; try again")
    return sources.volumes[entry.source]


def fill_volume(content: Path, rootfs: Path, target: str) -> None:
    """An empty volume begins as a copy of what the image has at its place, owner and mode included."""
    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source_fd = system.open_in_root(root_fd, target, os.O_PATH | os.O_DIRECTORY)
    except OSError:  # the image has nothing there
        return
    finally:
        os.close(root_fd)
    try:
        tree.copy_up(Path(os.readlink(f"/proc/self/fd/{source_fd}")), content)
    finally:
        os.close(source_fd)


def below(top: Path, subpath: str, where: str, place: Path) -> str:
    """`subpath` inside `top`, with links resolved as if `top` were the root, mounted at `place`; that.

    Mounted by what was opened, not by its name: another container that has the volume, too, could put a link
    to anywhere on the node in its place before the runtime looks.
    """
    top_fd = os.open(top, os.O_PATH | os.O_CLOEXEC)
    try:
        fd = system.open_in_root(top_fd, subpath, os.O_PATH)
    except OSError as error:
        raise StartRejected(f"{where}.subpath: {subpath!r} in {top}: {error.strerror}") from error
    finally:
        os.close(top_fd)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            place.mkdir()
        else:
            place.touch()
        system.mount(f"/proc/self/fd/{fd}", place, "none", system.MS_BIND | system.MS_REC, "")
        # What is unmounted here with the container must stay where it came from.
        system.mount("none", place, "none", system.MS_SLAVE | system.MS_REC, "")
    finally:
        os.close(fd)
    return str(place)


def devices_of(text: str) -> list[Device]:
    """`host[:container[:rwm]]`; a directory means every device below it."""
    host, _, rest = text.partition(":")
    if not os.path.isdir(host):
        return [device_of(text)]
    inside, _, access = rest.partition(":")
    found = []
    for root, _, names in os.walk(host):
        for name in sorted(names):
            path = os.path.join(root, name)
            shown = os.path.join(inside or host, os.path.relpath(path, host))
            if not os.path.islink(path) and _is_device(path):
                found.append(device_of(f"{path}:{shown}:{access}"))
    if not found:
        raise StartRejected(f"container.devices: {host!r} holds no device on this node")
    return found


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def gpu_devices(dev: Path = Path("/dev")) -> list[Device]:
    """Every device of the node's graphics processors; the libraries for them are the image's."""
    paths = gpu_paths(dev)
    if not paths:
        raise StartRejected(f"container.gpus: this node has no GPU: no device like {dev}/{GPU_DEVICES[0]}")
    return [device_of(path) for path in paths]


def gpu_paths(dev: Path = Path("/dev")) -> list[str]:
    return sorted(
        {str(path) for pattern in GPU_DEVICES for path in dev.glob(pattern) if _is_device(str(path))}
    )


def device_of(text: str) -> Device:
    """`host[:container[:rwm]]` to what the kernel calls that device."""
    host, _, rest = text.partition(":")
    inside, _, access = rest.partition(":")
    try:
        found = os.stat(host)
    except OSError as error:
        raise StartRejected(f"container.devices: {host!r}: {error.strerror} on this node") from error
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise StartRejected(f"container.devices: {host!r} is not a device")
    if not re.fullmatch(r"[rwm]{0,3}", access):
        raise StartRejected(f"container.devices: {access!r} in {text!r} must be of the letters r, w, m")
    return Device(
        path=inside or host,
        kind="c" if stat.S_ISCHR(found.st_mode) else "b",
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        access=access or "rwm",
    )


def all_devices() -> list[Device]:
    """Every device of the node's /dev, for privileged containers; terminals stay the container's own."""
    found = []
    for root, directories, names in os.walk("/dev"):
        directories[:] = [name for name in directories if name not in {"pts", "shm", "mqueue", "fd"}]
        for name in names:
            path = os.path.join(root, name)
            if path in {"/dev/console", "/dev/ptmx", "/dev/tty"} or os.path.islink(path):
                continue
            with contextlib.suppress(StartRejected):
                found.append(device_of(path))
    return found
