"""User namespaces of containers: a range of the node's ids each, pinned before anything uses it.

    /run/swarmpy/ids/<number>       a link to "<owner>/<container>": that range is taken, for all nodes of a machine
    run directory   userns/<id>/    ids (the first id), user (the pinned namespace)

Id 0 inside is an id outside that owns nothing else on the node. Files stay as they are on disk: layers and
volumes are mounted with their ids shifted (an idmapped mount), so that root's files are root's inside. The
network namespace, and in a pod the IPC namespace, are made in the same moment, or their owner would be the
node's root: no sysctl could be set, no /sys mounted. The containers of a pod are in one user namespace.
Everything here is named after the container, or the pod, first and made then, so a sweep finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import system
from swarmpy.node.runtime.errors import MissingTool, RuntimeFailure, StartRejected, from_os_error
from swarmpy.node.runtime.oci import environment, find_program
from swarmpy.node.runtime.request import IdRange

FIRST_ID = 0x2000_0000  # beyond what distributions and other container engines hand out
COUNT = 65_536
RANGES = 16_384
HELPER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Places:
    """Where the user namespaces of one node's containers are kept."""

    registry: Path  # shared by all nodes of the machine
    pins: Path
    owner: str

    def pin(self, container_id: str) -> Path:
        return self.pins / container_id / "user"

    def make(self) -> None:
        for directory in (self.registry, self.pins):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def holder(self, container_id: str) -> str:
        return f"{self.owner}/{container_id}"


def take(places: Places, container_id: str) -> IdRange:
    """A range that no other container on this machine has, kept until `release`. Blocks."""
    holder = places.holder(container_id)
    start = int.from_bytes(hashlib.sha256(holder.encode()).digest()[:4], "big")
    for step in range(RANGES):
        number = (start + step) % RANGES
        link = places.registry / str(number)
        try:
            os.symlink(holder, link)
        except FileExistsError:
            if os.readlink(link) != holder:
                continue
        return IdRange(FIRST_ID + number * COUNT, COUNT)
    raise RuntimeFailure(f"container.userns: all {RANGES} ranges of ids are in use on this machine")


def create(places: Places, container_id: str, others: Mapping[str, Path]) -> IdRange:
    """Pin a user namespace, and at `others` ("net", "ipc") those that belong to it. Blocks; may be repeated."""
    directory = places.pins / container_id
    try:
        places.make()  # another node of this machine may have left, and removed the empty registry
        directory.mkdir(mode=0o700, exist_ok=True)
        ids = take(places, container_id)
        pin = places.pin(container_id)
        if all(system.is_namespace(path) for path in (pin, *others.values())):
            return ids
        release_pin(pin)
        with _helper(ids) as pid:
            _bind(f"/proc/{pid}/ns/user", pin)
            for kind, path in others.items():
                release_pin(path)
                _bind(f"/proc/{pid}/ns/{kind}", path)
    except OSError as error:
        raise from_os_error(f"user namespace of container {container_id}", error) from error
    return ids


def _bind(source: str, target: Path) -> None:
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    target.touch(mode=0o600)
    system.mount(source, target, "none", system.MS_BIND, "")


@contextlib.contextmanager
def _helper(ids: IdRange) -> Iterator[int]:
    """The pid of a process in fresh user, IPC and network namespaces with that range; it ends with this process."""
    unshare, cat = find_program("unshare"), find_program("cat")
    if unshare is None or cat is None:
        raise MissingTool("unshare: not on this node; apt-get install util-linux")
    child = subprocess.Popen(
        [unshare, "--user", "--ipc", "--net", cat], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env=environment(), start_new_session=True, cwd="/",
    )  # fmt: skip
    try:
        _wait_apart(child)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child.pid}/{name}").write_text(f"0 {ids.first} {ids.count}\n")
        yield child.pid
    finally:
        child.kill()
        child.communicate()


def _wait_apart(child: subprocess.Popen[bytes]) -> None:
    """Until the child is in namespaces of its own, network last."""
    deadline = time.monotonic() + HELPER_TIMEOUT_S
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "net")]
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            theirs = [os.readlink(f"/proc/{child.pid}/ns/{kind}") for kind in ("user", "net")]
            if all(a != b for a, b in zip(own, theirs, strict=True)):
                return
        if child.poll() is not None:
            said = (child.stderr.read() if child.stderr else b"").decode(errors="replace").strip()
            remedy = "sysctl user.max_user_namespaces=16384, or create the service without --userns"
            raise StartRejected(f"container.userns: this node makes no user namespaces: {said}; {remedy}")
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"container.userns: no namespace within {HELPER_TIMEOUT_S:g} s")
        time.sleep(0.001)


def release_pin(pin: Path) -> None:
    if pin.exists():
        while system.is_namespace(pin):
            system.umount(pin, detach=True)
        pin.unlink(missing_ok=True)


def release(places: Places, container_id: str) -> None:
    """Let go of the namespace and give the range back; nothing happens where there is none. Blocks."""
    directory = places.pins / container_id
    if not directory.exists():
        return
    release_pin(places.pin(container_id))
    free(places, {places.holder(container_id)})
    shutil.rmtree(directory)


def sweep(places: Places, keep: set[str]) -> None:
    """Release what containers not in `keep` have left. Blocks."""
    for entry in list(places.pins.iterdir()):
        if entry.name not in keep:
            release(places, entry.name)
    kept = {places.holder(container_id) for container_id in keep}
    free(places, {h for h in _holders(places).values() if h.startswith(f"{places.owner}/")} - kept)


def free(places: Places, holders: set[str]) -> None:
    for name, holder in _holders(places).items():
        if holder in holders:
            (places.registry / name).unlink(missing_ok=True)


def _holders(places: Places) -> dict[str, str]:
    found: dict[str, str] = {}
    if not places.registry.is_dir():
        return found
    for name in os.listdir(places.registry):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(places.registry / name)
    return found


# --- mounts with shifted ids --------------------------------------------------------------------


def shifted(source: Path, place: Path, pin: Path, where: str, *, recursive: bool) -> str:
    """`source` mounted at `place` with the ids of the namespace pinned at `pin`; `place`. Blocks."""
    if source.is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    fd = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        system.mount_idmapped(source, place, fd, recursive=recursive)
    except OSError as error:
        remedy = "needs Linux 5.19 and a file system with idmapped mounts (ext4, xfs, btrfs, tmpfs)"
        raise StartRejected(
            f"{where}: cannot shift the ids of {source}: {error.strerror}; --userns auto {remedy}"
        ) from error
    finally:
        os.close(fd)
    return str(place)
