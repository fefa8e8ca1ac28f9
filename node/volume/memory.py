"""Files that exist in memory only: what tasks are given of secrets and configs.

    TOP/            a tmpfs of its own, never swapped out where the kernel can say so (Linux 6.4)
    TOP/TASK/       only root goes there; and the ids of a user namespace of the task's own, through
    TOP/TASK/NAME   one file, written under another name first: what is there is complete

The mount outlives the process that made it, so that a new agent finds the files of its running containers;
a reboot takes them all. Nothing here waits for a disk: it may be called from an event loop, and then nothing
is written for a task that was released meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from swarmpy.node.volume import kernel
from swarmpy.node.volume.errors import VolumeFailure, from_os_error
from swarmpy.node.volume.local import unmount_below

SIZE_BYTES_MAX = 256 * 1024 * 1024
FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV
TEMPORARY = ".new"


class MemoryFiles:
    """The files of one node, below a directory that nothing else uses."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def open(self, keep: Collection[str]) -> None:
        """Mount what is not mounted; forget tasks that are not to be kept. Raises VolumeError."""
        try:
            self._top.mkdir(mode=0o711, parents=True, exist_ok=True)
            if not self.is_open():
                self._mount()
            for entry in list(self._top.iterdir()):
                if entry.name not in keep:
                    shutil.rmtree(entry)
        except OSError as error:
            raise from_os_error(f"{self._top}: no file system in memory", error) from error

    def is_open(self) -> bool:
        return os.path.ismount(self._top)

    def _mount(self) -> None:
        options = f"mode=0711,size={SIZE_BYTES_MAX}"
        try:
            kernel.mount("swarmpy-payloads", self._top, "tmpfs", FLAGS, options + ",noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            kernel.mount("swarmpy-payloads", self._top, "tmpfs", FLAGS, options)

    def known(self, task_id: str, name: str) -> Path | None:
        """The file, where it was written before."""
        path = self._top / task_id / name
        return path if path.is_file() else None

    def write(
        self, task_id: str, name: str, data: bytes, *, owner: tuple[int, int], mode: int, first_id: int = 0
    ) -> Path:
        """A new file; `first_id` is the node's id of the container's root. Raises VolumeError."""
        directory = self._top / task_id
        path = directory / name
        try:
            if not self.is_open():
                raise VolumeFailure(f"{self._top} is not mounted (any more): start the node again")
            directory.mkdir(mode=0o700, exist_ok=True)
            if first_id:
                os.chown(directory, 0, first_id)
                directory.chmod(0o710)
            fresh = directory / (name + TEMPORARY)
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchown(descriptor, owner[0] + first_id, owner[1] + first_id)
                os.fchmod(descriptor, mode)
            fresh.rename(path)
        except OSError as error:
            raise from_os_error(f"{path} cannot be written", error) from error
        return path

    def release(self, task_id: str) -> None:
        """The task's containers are gone; nothing happens where it had no files."""
        with contextlib.suppress(FileNotFoundError):
            try:
                shutil.rmtree(self._top / task_id)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise from_os_error(f"files of task {task_id}", error) from error


def close(top: Path) -> None:
    """Unmount, and with it forget everything. Raises VolumeFailure."""
    unmount_below(top, detach=True)
    with contextlib.suppress(OSError):
        top.rmdir()
