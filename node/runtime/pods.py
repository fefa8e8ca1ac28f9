"""What the containers of a pod share on this node: IPC, shared memory, directories, a parent control group.

    run directory    pods/<id>/{ipc,net,pid,shm} namespaces kept by bind mounts, and one tmpfs: no process
                     pods/<id>/limits            of all its containers together
    state directory  pods/<id>/volumes/<name>    directories (or tmpfs) of the pod, gone with it

Everything is named after the pod's id, so that what a crash left is found again. All functions block.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swarmpy.node.runtime import bundle, cgroups, mounts, recover, system
from swarmpy.node.runtime.errors import RuntimeFailure, from_os_error
from swarmpy.node.runtime.request import IdRange, Shared
from swarmpy.proto import types_pb2

CLONE_NEWIPC, CLONE_NEWNET = 0x0800_0000, 0x4000_0000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
MS_BIND, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1000, 0x2, 0x4, 0x8
DEFAULT_SHM_BYTES = 64 * 1024 * 1024
LIMITS = "limits"  # the file that says which the pod has
VOLUME_MODE, SHM_MODE = 0o777, 0o1777
THREAD_TIMEOUT_S = 10
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Pods:
    """The pods below a node's run and state directories."""

    run: Path
    state: Path
    owner: str
    _limits: dict[str, str] = field(default_factory=dict)  # what each pod has, as in its file

    def place(self, pod_id: str) -> Path:
        return self.run / "pods" / pod_id

    def volume(self, pod_id: str, name: str) -> Path:
        return self.state / "pods" / pod_id / "volumes" / name

    def ids(self) -> set[str]:
        """Every pod that left something."""
        tops = [self.run / "pods", self.state / "pods"]
        return {entry.name for top in tops if top.is_dir() for entry in top.iterdir()}

    def make(
        self, pod_id: str, spec: types_pb2.TaskSpec, volumes: Iterable[types_pb2.Mount], ids: IdRange | None
    ) -> Shared:
        """Make or complete a pod; `volumes` are its mounts of type pod. What its containers share, but processes."""
        place = self.place(pod_id)
        own_ipc, own_network = spec.container.ipc_mode != "host", spec.network_mode == "none"
        try:
            for directory in (place.parent, place):  # through, but not to look around: as for bundles
                directory.mkdir(mode=0o711, parents=True, exist_ok=True)
                directory.chmod(0o711)
            present = set(system.mounts_below(place))
            if own_ipc and place / "ipc" not in present:
                pin_new(CLONE_NEWIPC, "ipc", place / "ipc")
            if own_network:
                if place / "net" not in present:
                    pin_new(CLONE_NEWNET, "net", place / "net")
                in_thread("bringing up the loopback", lambda: _loopback_up(place / "net"))
            if own_ipc:
                self._make_shm(place / "shm", spec.container.shm_size_bytes, ids, present)
            for volume in volumes:
                self._make_volume(pod_id, volume)
        except OSError as error:
            raise from_os_error(f"making pod {pod_id}", error) from error
        return Shared(
            pod_id, place / "ipc" if own_ipc else None, place / "shm" if own_ipc else None,
            net=place / "net" if own_network else None,
        )  # fmt: skip

    def _make_shm(self, path: Path, size_bytes: int, ids: IdRange | None, present: set[Path]) -> None:
        if path not in present:
            path.mkdir(exist_ok=True)
            flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
            size = size_bytes or DEFAULT_SHM_BYTES
            system.mount("shm", path, "tmpfs", flags, f"mode={SHM_MODE:o},size={size}")
        if ids is not None:
            os.chown(path, ids.first, ids.first)

    def _make_volume(self, pod_id: str, volume: types_pb2.Mount) -> None:
        path = self.volume(pod_id, volume.source)
        mode = volume.tmpfs_mode or VOLUME_MODE
        fresh = not path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        if volume.tmpfs_size_bytes and path not in system.mounts_below(path.parent):
            data = f"mode={mode:o},size={volume.tmpfs_size_bytes}"
            system.mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, data)
        elif fresh:
            path.chmod(mode)  # not by mkdir: the umask has no say

    def share_pid(self, pod_id: str, pid: int) -> Path:
        """Keep the process namespace of a pod's main container; it ends with that container."""
        pin = self.place(pod_id) / "pid"
        try:
            if pin in system.mounts_below(pin.parent):
                system.umount(pin, detach=True)  # of an earlier main container
            pin.touch(mode=0o600)
            system.mount(f"/proc/{pid}/ns/pid", pin, "", MS_BIND, "")
        except OSError as error:
            raise from_os_error(f"sharing the processes of pod {pod_id}", error) from error
        return pin

    def _group(self, pod_id: str) -> cgroups.Cgroup:
        layout = cgroups.detect()
        return cgroups.Cgroup(layout, f"{layout.group(self.owner)}/{pod_id}")

    def has_limits(self, pod_id: str, wanted: types_pb2.ResourceRequirements) -> bool:
        if pod_id not in self._limits:
            try:
                self._limits[pod_id] = (self.place(pod_id) / LIMITS).read_text()
            except FileNotFoundError:
                self._limits[pod_id] = ""
        return self._limits[pod_id] == bundle.resources_text(wanted)

    def limit(self, pod_id: str, wanted: types_pb2.ResourceRequirements) -> None:
        """Limit CPU, memory and pids of all containers of a pod together, once the first of them is there.

        May be repeated; nothing happens where the pod is not there. Raises RuntimeFailure as Cgroup.change does.
        """
        group = self._group(pod_id)
        if self.has_limits(pod_id, wanted) or not group.directories():
            return
        # A pod has no default: without a limit it has none. Swap is limited container by container.
        limits = types_pb2.ResourceRequirements(
            limits=wanted.limits, pids_limit=wanted.pids_limit or -1, swap_bytes=-1
        )
        group.change(limits)
        text = bundle.resources_text(wanted)
        try:
            bundle.write_file(self.place(pod_id) / LIMITS, text)
        except OSError as error:
            raise from_os_error(f"limits of pod {pod_id}", error) from error
        self._limits[pod_id] = text

    def remove(self, pod_id: str) -> None:
        """Everything of a pod whose containers are gone; an unknown one is fine."""
        self._limits.pop(pod_id, None)
        group = self._group(pod_id)
        if not group.remove(recover.KILL_TIMEOUT_S):
            raise RuntimeFailure(f"pod {pod_id}: its processes do not end; look for blocked I/O")
        try:
            for top in (self.place(pod_id), self.state / "pods" / pod_id):
                if top.is_dir():
                    mounts.unmount_all(top)
                    shutil.rmtree(top)
        except OSError as error:
            raise from_os_error(f"removal of pod {pod_id}", error) from error

    def remove_all(self) -> None:
        for pod_id in self.ids():
            self.remove(pod_id)
        for top in (self.run / "pods", self.state / "pods"):
            with contextlib.suppress(FileNotFoundError):
                top.rmdir()


def pin_new(flag: int, kind: str, pin: Path) -> None:
    """A new namespace, kept by a bind mount."""

    def make() -> None:
        _check(_libc.unshare(flag), "unshare")
        system.mount(f"/proc/thread-self/ns/{kind}", pin, "", MS_BIND, "")

    pin.touch(mode=0o600)
    in_thread(f"a new {kind} namespace", make)


def in_thread(what: str, work: Callable[[], None]) -> None:
    """Do what leaves the thread in other namespaces; it ends with its way back. Raises the work's OSError."""
    failure: list[OSError] = []

    def run() -> None:
        try:
            work()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(THREAD_TIMEOUT_S)
    if thread.is_alive():
        raise RuntimeFailure(f"{what}: not done within {THREAD_TIMEOUT_S} s")
    if failure:
        raise failure[0]


def _loopback_up(pin: Path) -> None:
    """See netdevice(7)."""
    fd = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNET), "setns")
    finally:
        os.close(fd)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
