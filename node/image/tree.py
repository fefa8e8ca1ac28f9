"""The directories of a layer being unpacked, opened so that nothing leads out of it.

Every directory is opened by openat2 from the layer's root with RESOLVE_BENEATH
and RESOLVE_NO_SYMLINKS. Where that fails because the archive made a symlink (or
a parent layer has one), the path is resolved here, name by name, clamped to the
root, and the result is opened in the same way. `forget` closes what was opened;
removing a directory or symlink calls it, since resolved paths may now be wrong.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence

from swarmpy.node.image import kernel
from swarmpy.node.image.errors import ArchiveDamaged, ArchiveHostile

DEPTH_MAX = 255
SYMLINKS_MAX = 40
CACHED_MAX = 128
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
INSIDE = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV

Names = tuple[str, ...]


class LayerTree:
    def __init__(self, root_fd: int, parents: Callable[[], Sequence[int]], what: str) -> None:
        """`parents` gives the roots of the layers below, lowest first; it may wait until they are made."""
        self._root = root_fd
        self._parents = parents
        self._what = what
        self._cache: dict[Names, tuple[Names, int]] = {}
        self.opaque: set[Names] = set()

    def names(self, path: str) -> Names:
        """The components of a name from the archive, taken from the layer's root."""
        names = tuple(part for part in path.split("/") if part not in {"", "."})
        if ".." in names:
            raise ArchiveHostile(f"{self._what}: {path[:200]!r} has '..' in it")
        return names

    def directory(self, path: Names) -> tuple[Names, int]:
        """The real place of a directory and a descriptor of it (the tree's, do not close).

        Missing directories are made, with the looks they have in a parent layer.
        """
        if (cached := self._cache.pop(path, None)) is None:
            try:
                cached = path, self._open(path)
            except (FileNotFoundError, NotADirectoryError):
                cached = self._open_resolved(path)
            except OSError as error:
                if error.errno != kernel.ELOOP:
                    raise
                cached = self._open_resolved(path)
            if len(self._cache) >= CACHED_MAX:
                os.close(self._cache.pop(next(iter(self._cache)))[1])
        self._cache[path] = cached
        return cached

    def clear(self, parent: Names, name: str) -> int:
        """Remove whatever is at parent/name; the descriptor of the parent, opened again if need be."""
        fd = self.directory(parent)[1]
        info = self.lstat(fd, name)
        if info is None:
            return fd
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(name, dir_fd=fd)
            if not stat.S_ISLNK(info.st_mode):
                return fd
        else:
            shutil.rmtree(name, dir_fd=fd)
            gone = (*parent, name)
            self.opaque = {path for path in self.opaque if path[: len(gone)] != gone}
        self.forget()
        return self.directory(parent)[1]

    def forget(self) -> None:
        for _, fd in self._cache.values():
            os.close(fd)
        self._cache.clear()

    def make_directory(self, path: Names, parent_fd: int) -> None:
        """A new directory; where a whiteout stood, it also hides what the parents have there."""
        if len(path) > DEPTH_MAX:
            raise ArchiveHostile(f"{self._what}: directories nested deeper than {DEPTH_MAX}")
        info = self.lstat(parent_fd, path[-1])
        if info is not None and is_whiteout(info):
            os.unlink(path[-1], dir_fd=parent_fd)
            self.opaque.add(path)
        os.mkdir(path[-1], 0o755, dir_fd=parent_fd)

    def in_parents(self, path: Names) -> Iterator[tuple[int, os.stat_result]]:
        """Where the parents have `path`, highest first: a descriptor of its directory, and its stat."""
        for root in reversed(self._parents()):
            try:
                fd = kernel.openat2(root, "/".join(path[:-1]) or ".", OPEN_DIRECTORY, kernel.RESOLVE_IN_ROOT)
            except FileNotFoundError:
                continue
            except OSError:
                return  # a file or whiteout stands where a directory would be: lower layers are hidden
            try:
                info = self.lstat(fd, path[-1] if path else ".")
                if info is not None:
                    if is_whiteout(info):
                        return
                    yield fd, info
            finally:
                os.close(fd)

    @staticmethod
    def lstat(fd: int, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _open(self, path: Names) -> int:
        return kernel.openat2(self._root, "/".join(path) or ".", OPEN_DIRECTORY, INSIDE)

    def _open_resolved(self, path: Names) -> tuple[Names, int]:
        """Walk name by name, follow symlinks inside the root, make what is missing."""
        todo = list(reversed(path))
        here: Names = ()
        follows = 0
        while todo:
            name = todo.pop()
            if name == "..":
                here = here[:-1]
                continue
            fd = self._open(here)
            try:
                target = self._step(here, fd, name)
            finally:
                os.close(fd)
            if target is None:
                here = (*here, name)
                continue
            if (follows := follows + 1) > SYMLINKS_MAX:
                raise ArchiveHostile(f"{self._what}: {'/'.join(path)[:200]!r} is a loop of symlinks")
            if target.startswith("/"):
                here = ()
            todo.extend(part for part in reversed(target.split("/")) if part not in {"", "."})
        return here, self._open(here)

    def _step(self, here: Names, fd: int, name: str) -> str | None:
        """Where a symlink at this name leads; None when there is now a directory."""
        info = self.lstat(fd, name)
        if info is not None and not is_whiteout(info):
            if stat.S_ISLNK(info.st_mode):
                return os.readlink(name, dir_fd=fd)
            if not stat.S_ISDIR(info.st_mode):
                raise ArchiveDamaged(
                    f"{self._what}: {'/'.join((*here, name))[:200]!r} is used as a directory, but is none"
                )
            return None
        looks = None
        if info is None:
            for parent_fd, parent_info in self.in_parents((*here, name)):
                if stat.S_ISLNK(parent_info.st_mode):
                    return os.readlink(name, dir_fd=parent_fd)
                looks = parent_info if stat.S_ISDIR(parent_info.st_mode) else None
                break
        self.make_directory((*here, name), fd)
        if looks is not None:
            os.chown(name, looks.st_uid, looks.st_gid, dir_fd=fd, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(looks.st_mode), dir_fd=fd)
        return None


def is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
