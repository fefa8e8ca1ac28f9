"""Directory trees that strangers write to while we read them: walked, dressed, copied up, exchanged.

Every path is opened from the top with openat2 so that no symbolic link and no `..` is followed: a container
that swaps a directory for a link while its volume is read leads nobody outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from swarmpy.node.volume import kernel

SYS_OPENAT2 = 437
RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x04, 0x08
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
COPY_BYTES = 1 << 20
STAGE, OLD, MARKER = "stage", "old", "exchange"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class Usage:
    used_bytes: int
    files: int
    free_bytes: int = 0


@dataclass(frozen=True)
class Found:
    """One entry of a walk. `path` is below the top, b"" the top itself."""

    path: bytes
    status: os.stat_result
    link: bytes = b""


def open_beneath(top_fd: int, path: bytes, flags: int) -> int:
    """Open `path` below the directory; a link anywhere on the way is ELOOP."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
    result: int = _libc.syscall(
        ctypes.c_long(SYS_OPENAT2), ctypes.c_int(top_fd), ctypes.c_char_p(path or b"."),
        ctypes.c_char_p(how), ctypes.c_size_t(len(how)),
    )  # fmt: skip
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(path))
    return result


@contextlib.contextmanager
def parent_of(top_fd: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """The open directory that holds `path`, and the last part of the name."""
    head, _, name = path.rpartition(b"/")
    fd = open_beneath(top_fd, head, DIRECTORY)
    try:
        yield fd, name
    finally:
        os.close(fd)


def walk(top: Path) -> Iterator[Found]:
    """Every entry, directories before what is in them. What vanishes meanwhile is left out."""
    with kernel.opened(top) as top_fd:
        yield Found(b"", os.fstat(top_fd))
        stack = [b""]
        while stack:
            directory = stack.pop()
            try:
                fd = open_beneath(top_fd, directory, DIRECTORY)
            except OSError as error:
                if directory and error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
                    continue
                raise
            try:
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    with contextlib.suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        path = directory + b"/" + name if directory else name
                        link = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else b""
                        yield Found(path, status, link)
                        if stat.S_ISDIR(status.st_mode):
                            stack.append(path)
            finally:
                os.close(fd)


def usage(top: Path) -> Usage:
    used, files, linked = 0, 0, set()
    for found in walk(top):
        files += not stat.S_ISDIR(found.status.st_mode)
        if found.status.st_nlink > 1 and not stat.S_ISDIR(found.status.st_mode):
            if found.status.st_ino in linked:
                continue
            linked.add(found.status.st_ino)
        used += found.status.st_blocks * 512
    return Usage(used, files)


def xattrs(fd: int) -> dict[str, bytes]:
    """Of an open file or directory; empty where the file system has none."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    found = {}
    for name in names:
        with contextlib.suppress(OSError):  # removed meanwhile
            found[name] = os.getxattr(fd, name)
    return found


def set_xattrs(fd: int, wanted: Mapping[str, bytes]) -> None:
    """Make the attributes those wanted; one that the file system does not take is an error only if it is new."""
    for name in xattrs(fd).keys() - wanted.keys():
        with contextlib.suppress(OSError):
            os.removexattr(fd, name)
    for name, value in wanted.items():
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or name.startswith("user."):
                raise


def dress(
    parent_fd: int, name: bytes, *, mode: int, uid: int, gid: int, mtime_ns: int, xattr: Mapping[str, bytes]
) -> None:
    """Owner, mode, attributes and time of an entry that is there. Owner first: chown takes set-id bits away."""
    os.chown(name, uid, gid, dir_fd=parent_fd, follow_symlinks=False)
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(mode), dir_fd=parent_fd)
    if kind in {stat.S_IFREG, stat.S_IFDIR}:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            set_xattrs(fd, xattr)
        finally:
            os.close(fd)
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)


def remove_at(parent_fd: int, name: bytes) -> None:
    """Whatever is there, with all that is in it."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass


def is_empty(directory: Path) -> bool:
    with os.scandir(directory) as entries:
        return next(entries, None) is None


# --- an empty volume begins as what the image has there -----------------------------------------


def copy_up(source: Path, content: Path) -> None:
    """Copy what is in `source` into `content` if that is empty, owner and mode of the top included.

    Staged beside `content`, so that a crash leaves it empty and not half full; only where `content` is a file
    system of its own it is filled in place. Of two that begin with it at once one does it.
    """
    with kernel.opened(content) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not is_empty(content):
            return
        beside = content.stat().st_dev == content.parent.stat().st_dev
        stage = content.parent / f".{content.name}-{STAGE}" if beside else content
        if beside:
            if stage.exists():
                shutil.rmtree(stage)
            stage.mkdir(mode=0o700)
        try:
            copy_tree(source, stage)
            if beside:
                for name in os.listdir(stage):
                    (stage / name).rename(content / name)
            found = source.stat()
            os.chown(content, found.st_uid, found.st_gid)
            shutil.copystat(source, content)
        finally:
            if beside:
                shutil.rmtree(stage, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """A directory's contents with owners, modes, times, attributes and links between files."""
    linked: dict[int, bytes] = {}
    dirs: list[tuple[Found, dict[str, bytes]]] = []
    with kernel.opened(source) as from_fd, kernel.opened(target) as to_fd:
        for found in walk(source):
            kind = stat.S_IFMT(found.status.st_mode)
            if found.path == b"" or kind == stat.S_IFSOCK:
                continue
            if kind == stat.S_IFREG and found.status.st_nlink > 1:
                first = linked.setdefault(found.status.st_ino, found.path)
                if first != found.path:
                    with parent_of(to_fd, first) as (a, old), parent_of(to_fd, found.path) as (b, new):
                        os.link(old, new, src_dir_fd=a, dst_dir_fd=b, follow_symlinks=False)
                    continue
            attributes = _copy_entry(from_fd, to_fd, found)
            if kind == stat.S_IFDIR:
                dirs.append((found, attributes))
            else:
                _dress_as(to_fd, found, attributes)
        for found, attributes in reversed(dirs):
            _dress_as(to_fd, found, attributes)


def _dress_as(to_fd: int, found: Found, attributes: Mapping[str, bytes]) -> None:
    status = found.status
    with parent_of(to_fd, found.path) as (fd, name):
        dress(
            fd, name, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid,
            mtime_ns=status.st_mtime_ns, xattr=attributes,
        )  # fmt: skip


def _copy_entry(from_fd: int, to_fd: int, found: Found) -> dict[str, bytes]:
    """Make one entry; its attributes, which are set once everything is in place."""
    with parent_of(to_fd, found.path) as (fd, name):
        match stat.S_IFMT(found.status.st_mode):
            case stat.S_IFLNK:
                os.symlink(found.link, name, dir_fd=fd)
                return {}
            case stat.S_IFDIR:
                os.mkdir(name, 0o700, dir_fd=fd)
            case stat.S_IFREG:
                pass
            case _:
                os.mknod(name, found.status.st_mode, found.status.st_rdev, dir_fd=fd)
                return {}
        source = open_beneath(from_fd, found.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(found.status.st_mode):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                made = os.open(name, flags, 0o600, dir_fd=fd)
                try:
                    for offset, length in extents(source, found.status.st_size):
                        _copy_range(source, made, offset, length)
                    os.truncate(made, found.status.st_size)
                finally:
                    os.close(made)
            return xattrs(source)
        finally:
            os.close(source)


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    while length > 0:
        data = os.pread(source, min(length, COPY_BYTES), offset)
        if not data:
            return
        os.pwrite(target, data, offset)
        offset, length = offset + len(data), length - len(data)


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole, up to `size`."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                return
            yield offset, size - offset
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if end > start:
            yield start, end - start
        offset = max(end, start + 1)


# --- other contents in the place of those that are there ----------------------------------------


def exchange(fs: Path) -> None:
    """Put what is in fs/stage in the place of what is in fs/data, which may be mounted in containers.

    The marker says how far it came, so that `finish_swap` goes on after a crash: out with the old, in with
    the new. Before the marker nothing has changed.
    """
    kernel.sync(fs)
    _mark(fs, "out")
    finish_swap(fs)


def finish_swap(fs: Path) -> None:
    """Complete an exchange that began; else clear what prepared one. Also copies half made."""
    marker, stage, old, data = fs / MARKER, fs / STAGE, fs / OLD, fs / "data"
    step = marker.read_text() if marker.exists() else ""
    if step == "out":
        old.mkdir(mode=0o700, exist_ok=True)
        for name in os.listdir(data):
            (data / name).rename(old / name)
        _mark(fs, "in")
        step = "in"
    if step == "in":
        found = stage.stat()
        for name in os.listdir(stage):
            (stage / name).rename(data / name)
        os.chown(data, found.st_uid, found.st_gid)
        shutil.copystat(stage, data)
        os.utime(data, ns=(found.st_mtime_ns, found.st_mtime_ns))
        kernel.sync(fs)
        marker.unlink()
    for left in (stage, old, fs / f".data-{STAGE}"):
        if left.exists():
            shutil.rmtree(left)


def _mark(fs: Path, step: str) -> None:
    fresh = fs / (MARKER + ".new")
    fresh.write_text(step)
    fresh.rename(fs / MARKER)
    kernel.sync(fs)
