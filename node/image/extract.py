"""Unpack one layer into a directory that stands alone as an overlayfs layer.

Runs in the confined child (see unpack). The archive is hostile until proven
otherwise: names are opened through LayerTree only, and the last component is
never followed: what is there is removed and a new inode is created exclusively.

What a layer may contain: files, directories, symlinks, hard links, fifos. Device
nodes are left out (containers get their own /dev). Owner, mode (setuid too: only
root reaches the store), time, `user.*` and `security.capability` are kept;
`trusted.*` and every other attribute, which would steer overlayfs, are not.

Whiteouts `.wh.NAME` become a 0:0 character device, but only where a parent layer
has NAME (elsewhere it would show as garbage); opaque directories are returned
to the caller, who has the right to mark them. A hard link to a file that only a
parent has copies it up first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swarmpy.node.image import kernel
from swarmpy.node.image.compression import CHUNK
from swarmpy.node.image.errors import FULL_DISK, ArchiveDamaged, ArchiveHostile
from swarmpy.node.image.tar import Entry, TarReader
from swarmpy.node.image.tree import INSIDE, OPEN_DIRECTORY, LayerTree, Names, is_whiteout

ID_MAX = (1 << 32) - 2
TIME_MAX = 1 << 33
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
# Faults of the machine, not of the archive.
_OURS = FULL_DISK | {
    errno.EIO,
    errno.EROFS,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
}
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass
class Unpacked:
    entries: int = 0
    size_bytes: int = 0
    skipped_devices: int = 0
    opaque: list[str] = field(default_factory=list)


class Extractor:
    def __init__(
        self, root_fd: int, parents: Callable[[], Sequence[int]], what: str, *, bytes_max: int
    ) -> None:
        self._root = root_fd
        self._tree = LayerTree(root_fd, parents, what)
        self._what = what
        self._bytes_max = bytes_max
        self._times: dict[Names, float] = {}
        self._result = Unpacked()

    def run(self, reader: TarReader) -> Unpacked:
        try:
            for entry in reader.entries():
                self._result.entries += 1
                self._place_checked(entry, reader)
            if () not in self._times:
                self._dress_root_as_below()
            self._set_directory_times()
        finally:
            self._tree.forget()
        self._result.opaque = sorted("/".join(path) for path in self._tree.opaque)
        return self._result

    def _dress_root_as_below(self) -> None:
        """A layer that says nothing of its root changes nothing of it: the top layer's is what is seen."""
        for _, info in self._tree.in_parents(()):
            os.fchown(self._root, info.st_uid, info.st_gid)
            os.fchmod(self._root, stat.S_IMODE(info.st_mode))
            return

    def _place_checked(self, entry: Entry, reader: TarReader) -> None:
        try:
            self._place(entry, reader)
        except OSError as error:
            if error.errno in _OURS:
                raise
            if error.errno == errno.EFBIG:
                raise ArchiveHostile(f"{self._what}: {entry.name[:200]!r} is too large") from error
            raise ArchiveDamaged(
                f"{self._what}: {entry.name[:200]!r} cannot be made: {error.strerror or error}"
            ) from error
        except ValueError as error:
            raise ArchiveDamaged(f"{self._what}: {entry.name[:200]!r}: {error}") from error

    def _place(self, entry: Entry, reader: TarReader) -> None:
        path = self._tree.names(entry.name)
        if entry.uid > ID_MAX or entry.gid > ID_MAX:
            raise ArchiveDamaged(f"{self._what}: {entry.name[:200]!r} has an owner out of range")
        if not path:
            if entry.kind == "directory":
                self._dress_directory((), self._root, entry)
            return
        parent, parent_fd = self._tree.directory(path[:-1])
        name = path[-1]
        if name.startswith(WHITEOUT):
            self._whiteout(parent, parent_fd, name)
        elif entry.kind in {"char", "block"}:
            self._result.skipped_devices += 1
        elif entry.kind == "directory":
            self._directory((*parent, name), entry)
        elif entry.kind == "hardlink":
            self._hard_link(parent, name, entry)
        else:
            parent_fd = self._tree.clear(parent, name)
            if entry.kind == "file":
                self._file(parent_fd, name, entry, reader)
                return
            if entry.kind == "symlink":
                os.symlink(entry.link, name, dir_fd=parent_fd)
            else:
                os.mkfifo(name, 0o600, dir_fd=parent_fd)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
            if entry.kind == "fifo":
                os.chmod(name, entry.mode, dir_fd=parent_fd)
            os.utime(name, (_time(entry.mtime),) * 2, dir_fd=parent_fd, follow_symlinks=False)

    def _file(self, parent_fd: int, name: str, entry: Entry, reader: TarReader) -> None:
        self._count_bytes(entry.name, entry.size)
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)
        try:
            while data := reader.read(CHUNK):
                _write(fd, data)
            self._dress(fd, entry)
            os.utime(fd, (_time(entry.mtime),) * 2)
        finally:
            os.close(fd)

    def _count_bytes(self, name: str, size: int) -> None:
        self._result.size_bytes += size
        if self._result.size_bytes > self._bytes_max:
            raise ArchiveHostile(
                f"{self._what}: with {name[:200]!r} it is larger than {self._bytes_max} bytes when unpacked"
            )

    def _directory(self, path: Names, entry: Entry) -> None:
        parent_fd = self._tree.directory(path[:-1])[1]
        info = self._tree.lstat(parent_fd, path[-1])
        if info is None or not stat.S_ISDIR(info.st_mode):
            if info is not None and not is_whiteout(info):
                parent_fd = self._tree.clear(path[:-1], path[-1])
            self._tree.make_directory(path, parent_fd)
        fd = kernel.openat2(parent_fd, path[-1], OPEN_DIRECTORY, INSIDE)
        try:
            self._dress_directory(path, fd, entry)
        finally:
            os.close(fd)

    def _whiteout(self, parent: Names, parent_fd: int, marker: str) -> None:
        if marker == OPAQUE:
            if any(True for _ in self._tree.in_parents(parent)):
                self._tree.opaque.add(parent)
            return
        name = marker.removeprefix(WHITEOUT)
        if name.startswith(WHITEOUT):
            return  # bookkeeping of an older storage driver
        if name in {"", ".", ".."}:
            raise ArchiveHostile(f"{self._what}: the whiteout {marker!r} names no file")
        path = (*parent, name)
        if not any(True for _ in self._tree.in_parents(path)):
            return
        info = self._tree.lstat(parent_fd, name)
        if info is None:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent_fd)
        elif stat.S_ISDIR(info.st_mode):
            self._tree.opaque.add(path)

    def _hard_link(self, parent: Names, name: str, entry: Entry) -> None:
        source = self._tree.names(entry.link)
        if not source:
            raise ArchiveDamaged(f"{self._what}: {entry.name[:200]!r} is a hard link to nothing")
        source_parent, source_fd = self._tree.directory(source[:-1])
        source_name = source[-1]
        if (source_parent, source_name) == (parent, name):
            return
        info = self._tree.lstat(source_fd, source_name)
        if info is None:
            self._copy_up((*source_parent, source_name), source_fd, entry)
        elif stat.S_ISDIR(info.st_mode) or is_whiteout(info):
            raise ArchiveDamaged(
                f"{self._what}: {entry.name[:200]!r} is a hard link to {entry.link[:200]!r}, which is no file"
            )
        self._tree.clear(parent, name)
        # Opened again: making room may have closed what was open, or removed the target itself.
        source_fd = self._tree.directory(source_parent)[1]
        target_fd = self._tree.directory(parent)[1]
        os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)

    def _copy_up(self, path: Names, fd: int, entry: Entry) -> None:
        """Bring the highest parent's file into this layer, so that a link to it can be made."""
        for parent_fd, info in self._tree.in_parents(path):
            if not stat.S_ISREG(info.st_mode):
                break
            self._count_bytes(path[-1], info.st_size)
            source = os.open(path[-1], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent_fd)
            target = os.open(path[-1], _NEW_FILE, 0o600, dir_fd=fd)
            try:
                while data := os.read(source, CHUNK):
                    _write(target, data)
                os.fchown(target, info.st_uid, info.st_gid)
                os.fchmod(target, stat.S_IMODE(info.st_mode))
                for key in os.listxattr(source):
                    if _keeps(key):
                        os.setxattr(target, key, os.getxattr(source, key))
                os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
            finally:
                os.close(source)
                os.close(target)
            return
        raise ArchiveDamaged(
            f"{self._what}: {entry.name[:200]!r} is a hard link to {entry.link[:200]!r}, which does not exist"
        )

    def _dress_directory(self, path: Names, fd: int, entry: Entry) -> None:
        self._dress(fd, entry)
        self._times[path] = entry.mtime

    def _dress(self, fd: int, entry: Entry) -> None:
        """Owner first: changing it would drop setuid bits and file capabilities."""
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        for key, value in entry.xattrs.items():
            if _keeps(key):
                try:
                    os.setxattr(fd, key, value)
                except OSError as error:
                    if error.errno != errno.ENOTSUP or not key.startswith("user."):
                        raise

    def _set_directory_times(self) -> None:
        """Last, because making a directory's children changes its time."""
        self._tree.forget()
        for path, mtime in self._times.items():
            try:
                fd = kernel.openat2(self._root, "/".join(path) or ".", OPEN_DIRECTORY, INSIDE)
            except OSError:
                continue  # a later entry of the archive replaced it
            try:
                os.utime(fd, (_time(mtime),) * 2)
            finally:
                os.close(fd)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _keeps(key: str) -> bool:
    return key == "security.capability" or (key.startswith("user.") and not key.startswith("user.overlay."))


def _time(mtime: float) -> float:
    return min(max(mtime, float(-(1 << 31))), float(TIME_MAX))
