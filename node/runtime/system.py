"""System calls the standard library lacks, and identities of processes.

A process is identified by pid and start time: a pid alone may have been given to another.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
from pathlib import Path

STAT_BYTES_MAX = 4096
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 1 << 18, 1 << 19
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, MOVE_MOUNT_F_EMPTY_PATH = 1, 0x8000, 0x1000, 4
MOUNT_ATTR_IDMAP, AT_FDCWD = 0x0010_0000, -100
SYS_OPENAT2 = 437  # the same on every architecture
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.syscall.restype = ctypes.c_long


def _check(result: int, *paths: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *paths[:1])
    return result


def mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    _check(
        _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode()), str(target)
    )


def mount_idmapped(source: Path, target: Path, userns_fd: int, *, recursive: bool) -> None:
    """Mount `source` at `target` so that its ids appear as that user namespace maps them. OSError."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    tree = _check(
        _libc.syscall(
            ctypes.c_long(SYS_OPEN_TREE), ctypes.c_int(AT_FDCWD), ctypes.c_char_p(os.fsencode(source)),
            ctypes.c_uint(flags),
        ),
        str(source),
    )  # fmt: skip
    try:
        attributes = struct.pack("=QQQQ", MOUNT_ATTR_IDMAP, 0, MS_PRIVATE, userns_fd)
        _check(
            _libc.syscall(
                ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_int(tree), ctypes.c_char_p(b""),
                ctypes.c_uint(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)), ctypes.c_char_p(attributes),
                ctypes.c_size_t(len(attributes)),
            ),
            str(source),
        )  # fmt: skip
        _check(
            _libc.syscall(
                ctypes.c_long(SYS_MOVE_MOUNT), ctypes.c_int(tree), ctypes.c_char_p(b""),
                ctypes.c_int(AT_FDCWD), ctypes.c_char_p(os.fsencode(target)),
                ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
            ),
            str(target),
        )  # fmt: skip
    finally:
        os.close(tree)


def is_namespace(path: Path) -> bool:
    """Whether a namespace is pinned there: all namespaces share one device number."""
    try:
        return path.stat().st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def umount(target: Path, *, detach: bool = False) -> None:
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
    _check(_libc.umount2(os.fsencode(target), flags), str(target))


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open `path` as a process with that root directory would: links can not lead outside."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    result: int = _libc.syscall(
        ctypes.c_long(SYS_OPENAT2), ctypes.c_int(root_fd), ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_char_p(how), ctypes.c_size_t(len(how)),
    )  # fmt: skip
    return _check(result, path)


def inotify_init() -> int:
    return _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(fd: int, path: Path, mask: int) -> int:
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)), str(path))


def inotify_rm_watch(fd: int, watch: int) -> None:
    _libc.inotify_rm_watch(fd, watch)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None where no such process lives (a zombie does not)."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        text = os.read(fd, STAT_BYTES_MAX)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    state, *fields = text.rpartition(b")")[2].split()
    return None if state in b"ZX" else int(fields[18])


def command_line(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [os.fsdecode(part) for part in raw.split(b"\0")[:-1]]


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def mounts_below(directory: Path) -> list[Path]:
    """Mount points below a directory, deepest first."""
    prefix = f"{directory}/"
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point.startswith(prefix):
            found.append(Path(point))
    return found[::-1]


def is_interpreted_elf(path: Path) -> bool:
    """Whether an ELF program needs a dynamic loader (PT_INTERP); False also for what is no 64-bit ELF."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return False
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        table = file.read(size * count)
    return any(struct.unpack_from("<I", table, size * n)[0] == 3 for n in range(count))


def kill_process(pid: int, started: int | None, signal_number: int) -> bool:
    """Signal exactly that process; False where it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if started is not None and start_time(pid) != started:
            return False
        signal.pidfd_send_signal(fd, signal_number)
    except ProcessLookupError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    return True
