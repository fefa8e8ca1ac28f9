"""The system calls that Python does not wrap: openat2, unshare, prctl, capset, syncfs.

x86-64, arm64 and riscv64 share the number of openat2; the rest goes through libc.
"""

from __future__ import annotations

import ctypes
import errno
import os

LIBC = ctypes.CDLL(None, use_errno=True)
ELOOP = errno.ELOOP
SYS_OPENAT2 = 437
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
O_PATH = 0o10000000

CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETFCAP = 31
CAP_LAST = 40
_CAPABILITY_VERSION_3 = 0x20080522


class OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def openat2(directory_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open below `directory_fd`; the kernel itself refuses what `resolve` forbids."""
    how = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    result: int = LIBC.syscall(
        SYS_OPENAT2, directory_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    return checked(result, path)


def unshare(flags: int) -> None:
    checked(LIBC.unshare(flags), "unshare")


def no_new_privileges() -> None:
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def keep_only(capabilities: frozenset[int]) -> None:
    """Drop every other capability from all five sets of the calling thread."""
    for capability in range(CAP_LAST + 1):
        if capability not in capabilities and LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # without SETPCAP the bounding set stays; with no_new_privs it gives nothing back
    LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << capability for capability in capabilities)
    header = CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (CapData * 2)(CapData(mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0), CapData(mask >> 32, mask >> 32, 0))
    checked(LIBC.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def sync_filesystem(fd: int) -> None:
    checked(LIBC.syncfs(fd), "syncfs")


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
