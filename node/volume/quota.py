"""Limits of a volume's size: a project quota where the file system has it, else a file with a file system.

The loop file takes its whole size at once, so that a full disk is told when the volume is made and not when
somebody writes to it.
"""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from swarmpy.node.volume import kernel
from swarmpy.node.volume.errors import VolumeRejected

if TYPE_CHECKING:
    from swarmpy.node.volume.local import Record

NO_QUOTAS = {
    errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.ESRCH, errno.EINVAL, errno.ENOTBLK, errno.EPERM,
    errno.ENODEV,
}  # fmt: skip
PROJECTS = (1 << 20, 1 << 30)
MKE2FS_TIMEOUT_S = 120.0
MKE2FS = ("/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs")
MKE2FS_OPTIONS = ("-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0")


def limit(directory: Path, record: Record, taken: Set[int], note: Callable[[Record], None]) -> Record:
    """Limit what `directory`/fs may hold; the record says how, and is noted before it is true. Blocks."""
    project = _free_project(directory / "fs", taken)
    if project:
        limited = replace(record, kind="quota", project=project)
        note(limited)
        kernel.set_project(directory / "fs", project)
        kernel.set_project_limit(directory / "fs", project, record.limit_bytes)
        return limited
    _make_image(directory / "image", record)
    return replace(record, kind="image")


def _free_project(fs: Path, taken: Set[int]) -> int:
    """A project nobody uses; 0 where the file system knows none, or does not count for them."""
    try:
        while True:
            project = PROJECTS[0] + secrets.randbelow(PROJECTS[1] - PROJECTS[0])
            if project not in taken and kernel.project_usage(fs, project) == (0, 0):
                return project
    except OSError as error:
        if error.errno in NO_QUOTAS:
            return 0
        raise


def forget(fs: Path, project: int) -> None:
    """The project's number is free again."""
    try:
        kernel.set_project_limit(fs, project, 0)
    except OSError as error:
        if error.errno not in {*NO_QUOTAS, errno.ENOENT}:
            raise


def _make_image(image: Path, record: Record) -> None:
    program = next((path for path in MKE2FS if os.access(path, os.X_OK)), None)
    why = f"volume {record.name}: size={record.options.get('size')} is not possible on this node: "
    if program is None or not os.path.exists("/dev/loop-control"):
        missing = (
            "mke2fs (apt-get install e2fsprogs)" if program is None else "/dev/loop-control (modprobe loop)"
        )
        raise VolumeRejected(
            f"{why}the file system of {image.parent.parent} has no project quotas (mount it with prjquota), and "
            f"for a loop file {missing} is missing"
        )
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, record.limit_bytes)
    finally:
        os.close(fd)
    try:
        subprocess.run(
            [program, *MKE2FS_OPTIONS, str(image)], check=True, capture_output=True, timeout=MKE2FS_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-300:]
        raise VolumeRejected(f"{why}mke2fs failed: {said or error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise VolumeRejected(f"{why}mke2fs took more than {MKE2FS_TIMEOUT_S:g} s") from error
