"""What the containers of a pod share on this node: IPC, shared memory, directories, a parent control group.

    run directory    pods/<id>/{ipc,pid,shm}     namespaces kept by bind mounts, and one tmpfs: no process
    state directory  pods/<id>/volumes/<name>    directories (or tmpfs) of the pod, gone with it

Everything is named after the pod's id, so that what a crash left is found again. All functions block.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.runtime import cgroups, mounts, recover, system
from swarmpy.node.runtime.errors import RuntimeFailure, from_os_error
from swarmpy.proto import types_pb2

CLONE_NEWIPC = 0x0800_0000
MS_BIND, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1000, 0x2, 0x4, 0x8
DEFAULT_SHM_BYTES = 64 * 1024 * 1024
VOLUME_MODE, SHM_MODE = 0o777, 0o1777
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Pods:
    """The pods below a node's run and state directories."""

    run: Path
    state: Path
    owner: str

    def place(self, pod_id: str) -> Path:
        return self.run / "pods" / pod_id

    def volume(self, pod_id: str, name: str) -> Path:
        return self.state / "pods" / pod_id / "volumes" / name

    def ids(self) -> set[str]:
        """Every pod that left something."""
        tops = [self.run / "pods", self.state / "pods"]
        return {entry.name for top in tops if top.is_dir() for entry in top.iterdir()}

    def make(self, pod_id: str, shm_bytes: int, volumes: Iterable[types_pb2.Mount]) -> None:
        """Make or complete a pod; `volumes` are its mounts of type pod."""
        place = self.place(pod_id)
        try:
            place.mkdir(mode=0o711, parents=True, exist_ok=True)
            present = set(system.mounts_below(place))
            if place / "ipc" not in present:
                pin_new_ipc(place / "ipc")
            if place / "shm" not in present:
                (place / "shm").mkdir(exist_ok=True)
                flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
                size = shm_bytes or DEFAULT_SHM_BYTES
                system.mount("shm", place / "shm", "tmpfs", flags, f"mode={SHM_MODE:o},size={size}")
            for volume in volumes:
                self._make_volume(pod_id, volume)
        except OSError as error:
            raise from_os_error(f"making pod {pod_id}", error) from error

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

    def remove(self, pod_id: str) -> None:
        """Everything of a pod whose containers are gone; an unknown one is fine."""
        layout = cgroups.detect()
        group = cgroups.Cgroup(layout, f"{layout.group(self.owner)}/{pod_id}")
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


def pin_new_ipc(pin: Path) -> None:
    """A new IPC namespace, kept by a bind mount. The thread that makes it ends with its way back."""
    failure: list[OSError] = []

    def make() -> None:
        try:
            if _libc.unshare(CLONE_NEWIPC) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "unshare")
            system.mount("/proc/thread-self/ns/ipc", pin, "", MS_BIND, "")
        except OSError as error:
            failure.append(error)

    pin.touch(mode=0o600)
    thread = threading.Thread(target=make, name="new ipc namespace")
    thread.start()
    thread.join(10)
    if thread.is_alive():
        raise RuntimeFailure(f"{pin}: no new IPC namespace within 10 s")
    if failure:
        raise failure[0]
