"""System calls of volumes that the standard library lacks: mounts, loop devices, project quotas.

A loop device is configured with AUTOCLEAR: it goes with its mount, also after a crash. A mount may live on in
another mount namespace that was copied meanwhile (every container's begins so): the image is then still one
device's, and a second device for it would be a second file system on the same blocks. So the device that has
the image is looked for first; mounting it again is the same file system. Project quotas are set
through the directory itself (quotactl_fd), so that nothing has to find out the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_MANDLOCK, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC = 64, 128, 1024, 2048, 4096, 16384
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25
UMOUNT_NOFOLLOW, MNT_DETACH = 8, 2
SYS_QUOTACTL_FD = 443  # the same on every architecture
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_GET_STATUS64, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 0x4C05, 4
LOOP_INFO_BYTES = 232
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_XFLAG_PROJINHERIT = 0x801C581F, 0x401C5820, 0x200
Q_GETQUOTA, Q_SETQUOTA, PRJQUOTA, QIF_BLIMITS = 0x800007, 0x800008, 2, 1
QUOTA_BLOCK_BYTES = 1024
_FSXATTR = struct.Struct("=IIIII8x")
_DQBLK = struct.Struct("=8QI4x")
_LOOP_CONFIG = struct.Struct("=II QQQQQ IIII 64s64s32s 2Q 8Q")
LOOP_TRIES = 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.syscall.restype = ctypes.c_long
_libc.syncfs.argtypes = [ctypes.c_int]


def _check(result: int, path: str = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path or None)
    return result


def mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data)),
        str(target),
    )


def umount(target: Path, *, detach: bool = False) -> None:
    _check(_libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)), str(target))


def mounts_at_or_below(directory: Path) -> list[Path]:
    """Mount points, deepest and newest first."""
    prefix = f"{directory}/"
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode()
        if point == str(directory) or point.startswith(prefix):
            found.append(Path(point))
    return found[::-1]


def sync(directory: Path) -> None:
    """Everything written to the file system of a directory is on the disk."""
    with opened(directory) as fd:
        _check(_libc.syncfs(fd), str(directory))


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def mount_image(image: Path, target: Path, kind: str) -> None:
    """Mount a file as the disk it is, through a loop device of its own."""
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(LOOP_TRIES):
            with contextlib.suppress(BlockingIOError):
                device, fd = _attached(file) or _attach(file, image)
                try:
                    mount(device, target, kind, MS_NODEV | MS_NOSUID, "")
                finally:
                    os.close(fd)  # AUTOCLEAR: the mount keeps the device, or nothing does
                return
        raise OSError(errno.EBUSY, "no free loop device", str(image))
    finally:
        os.close(file)


def _attached(file: int) -> tuple[str, int] | None:
    """The loop device that has an open file already, held open."""
    wanted = os.fstat(file)
    for entry in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        device = f"/dev/{entry.parent.parent.name}"
        try:
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            info = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(LOOP_INFO_BYTES))
        except OSError:  # let go meanwhile
            os.close(fd)
            continue
        if struct.unpack_from("=QQ", info) == (wanted.st_dev, wanted.st_ino):
            return device, fd
        os.close(fd)
    return None


def _attach(file: int, image: Path) -> tuple[str, int]:
    """A free loop device for an open file; BlockingIOError where another took it first."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    device = f"/dev/loop{number}"
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    name = os.fsencode(image)[-63:]
    config = _LOOP_CONFIG.pack(
        file, 0, 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, name, b"", b"", 0, 0, *[0] * 8
    )
    try:
        fcntl.ioctl(fd, LOOP_CONFIGURE, config)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            raise BlockingIOError from error
        raise
    return device, fd


def set_project(directory: Path, project: int) -> None:
    """Everything made below the directory from now on counts for the project."""
    with opened(directory) as fd:
        flags, extent, count, _, cow = _FSXATTR.unpack(
            fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
        )
        wanted = _FSXATTR.pack(flags | FS_XFLAG_PROJINHERIT, extent, count, project, cow)
        fcntl.ioctl(fd, FS_IOC_FSSETXATTR, wanted)


def project_usage(directory: Path, project: int) -> tuple[int, int]:
    """(bytes used, bytes allowed, 0 = no limit) of a project on the directory's file system."""
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    try:
        _quotactl(directory, Q_GETQUOTA, project, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:  # XFS: nothing is known of this project
            return 0, 0
        raise
    hard, _, used, *_ = _DQBLK.unpack(buffer.raw)
    return used, hard * QUOTA_BLOCK_BYTES


def set_project_limit(directory: Path, project: int, limit_bytes: int) -> None:
    blocks = -(-limit_bytes // QUOTA_BLOCK_BYTES)
    packed = _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, QIF_BLIMITS)
    _quotactl(directory, Q_SETQUOTA, project, ctypes.create_string_buffer(packed, _DQBLK.size))


def _quotactl(directory: Path, command: int, project: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    with opened(directory) as fd:
        _check(
            _libc.syscall(
                ctypes.c_long(SYS_QUOTACTL_FD), ctypes.c_uint(fd),
                ctypes.c_uint(command << 8 | PRJQUOTA), ctypes.c_int(project), buffer,
            ),
            str(directory),
        )  # fmt: skip
