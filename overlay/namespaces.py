"""Network namespaces kept alive by bind mounts, entered by one thread only.

`netns_dir` is a private mount point, so that pins neither spread to other mount namespaces nor get covered
by other tools (`ip netns` re-binds /run/netns). Functions here change the namespace of the calling thread
and always change it back; sockets opened inside stay in the namespace they were opened in.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from swarmpy.overlay import netlink
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.links import Socket, route_socket

CLONE_NEWNET = 0x40000000
MS_BIND, MS_PRIVATE, MNT_DETACH = 0x1000, 1 << 18, 2
OWN_NAMESPACE = "/proc/thread-self/ns/net"
LOOPBACK_INDEX = 1

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        hint = ": run as root" if number == errno.EPERM else ""
        raise OverlayError(f"cannot {what}: {os.strerror(number)}{hint}")


def mount(source: str, target: str, flags: int) -> None:
    call(
        f"mount {source} on {target}",
        libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None),
    )


def unmount(target: Path) -> None:
    """Unmount; a path that is no mount point is fine."""
    if libc.umount2(str(target).encode(), MNT_DETACH):
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOENT):
            raise OverlayError(f"cannot unmount {target}: {os.strerror(number)}")


def mount_points() -> set[str]:
    """All mount points this process sees."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        fields = (line.split(" ", 5)[4] for line in lines)
        return {field.encode("latin-1", "replace").decode("unicode_escape") for field in fields}


def prepare_directory(directory: Path) -> None:
    """Make `directory` a private mount point, once."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    real = str(directory.resolve())
    if real not in mount_points():
        mount(real, real, MS_BIND)
    mount("none", real, MS_PRIVATE)


def remove_directory(directory: Path) -> None:
    real = directory.resolve()
    while str(real) in mount_points():
        unmount(real)
    with contextlib.suppress(FileNotFoundError):
        real.rmdir()


def is_pinned(path: Path) -> bool:
    """Whether a namespace is mounted there (all namespaces share one device number)."""
    try:
        return path.stat().st_dev == os.stat(OWN_NAMESPACE).st_dev
    except FileNotFoundError:
        return False


def pin(path: Path) -> None:
    """Make a new network namespace with `lo` up and keep it at `path`."""
    path.touch(mode=0o600)
    with own_namespace_restored():
        call("make a network namespace", libc.unshare(CLONE_NEWNET))
        mount(OWN_NAMESPACE, str(path), MS_BIND)
        with route_socket() as inside:
            inside.send([netlink.link_up(LOOPBACK_INDEX, "lo")])


def unpin(path: Path) -> None:
    unmount(path)
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def inside(namespace_fd: int) -> Iterator[Socket]:
    """A route socket of another namespace, while the thread is in it."""
    with own_namespace_restored():
        call("enter a network namespace", libc.setns(namespace_fd, CLONE_NEWNET))
        with route_socket() as opened:
            yield opened


@contextlib.contextmanager
def own_namespace_restored() -> Iterator[None]:
    saved = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        call("return to the own network namespace", libc.setns(saved, CLONE_NEWNET))
        os.close(saved)
