"""Files into and out of a running container, as tar streams.

The container's files are a stranger's: every path is opened with the container's root as root (openat2), so
a link can lead nowhere else, and what is written replaces names, it never goes through a link at the end.
What is read travels under the source's own name, or as "." for the contents of a directory. Where it lands is
decided here as `cp -r` would: into a directory that exists, else as the name that was given.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from swarmpy.node.image.compression import Stream
from swarmpy.node.image.errors import ImageError
from swarmpy.node.image.tar import Entry, TarReader
from swarmpy.node.runtime import system
from swarmpy.node.runtime.errors import ContainerError, RuntimeFailure, StartRejected, from_os_error
from swarmpy.node.runtime.inside import Inside

NOBODY = 65_534
CHUNK_BYTES = 256 * 1024
DEPTH_MAX = 256
ENTRIES_MAX = 10_000_000
KERNEL_FILE_BYTES_MAX = 4 * 1024 * 1024
KERNEL_DIRECTORIES = ("/proc", "/sys", "/dev/pts", "/dev/mqueue")
KERNEL_ROOT_INODES = frozenset({1, 2})  # of proc, sysfs, devpts, mqueue
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NoSuchPath(StartRejected):
    """The path is not in the container, or is of the wrong kind."""


def split(path: str) -> tuple[str, str, bool]:
    """(directory, name, contents): the path's last part, and whether "/." asks for what is inside."""
    if "\0" in path:
        raise NoSuchPath("a path cannot hold a zero byte")
    contents = path == "." or path.endswith("/.")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts or parts[-1] == "..":
        return "/" + "/".join(parts), "", True
    return "/" + "/".join(parts[:-1]), parts[-1], contents


class _Sender:
    def __init__(self, root_fd: int, tar: tarfile.TarFile, first_id: int = 0) -> None:
        self._first_id = first_id  # what is 0 inside
        self._tar = tar
        self._links: dict[tuple[int, int], str] = {}
        self._kernel = {device for path in KERNEL_DIRECTORIES if (device := _device(root_fd, path))}

    def add(self, parent_fd: int, name: str, shown: str, depth: int = 0) -> None:
        """The entry `name` of a directory under the name `shown`, with all below it. Links are not followed."""
        info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        member = self._member(shown, info)
        if stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode):
            try:
                fd = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=parent_fd)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    return  # replaced meanwhile
                raise
            try:
                self.opened(fd, shown, depth)
            finally:
                os.close(fd)
        elif stat.S_ISLNK(info.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent_fd)
            self._tar.addfile(member)
        elif stat.S_ISFIFO(info.st_mode):
            member.type = tarfile.FIFOTYPE
            self._tar.addfile(member)

    def _member(self, name: str, info: os.stat_result) -> tarfile.TarInfo:
        """With the owner as it is called inside; nobody for what has no name there."""
        member = _member(name, info)
        if self._first_id:
            ids = (member.uid - self._first_id, member.gid - self._first_id)
            member.uid, member.gid = (number if 0 <= number < NOBODY else NOBODY for number in ids)
        return member

    def opened(self, fd: int, shown: str, depth: int = 0) -> None:
        """What is open already: a directory or a file; anything else is left out."""
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            self._directory(fd, self._member(shown, info), info, depth)
        elif stat.S_ISREG(info.st_mode):
            self._file(fd, self._member(shown, info), info)

    def _directory(self, fd: int, member: tarfile.TarInfo, info: os.stat_result, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise RuntimeFailure(f"{member.name}: more than {DEPTH_MAX} directories deep; copy a part of it")
        member.type = tarfile.DIRTYPE
        self._tar.addfile(member)
        if depth > 0 and info.st_dev in self._kernel and info.st_ino in KERNEL_ROOT_INODES:
            return  # the kernel's own files have no end
        for child in sorted(os.listdir(fd)):
            with contextlib.suppress(FileNotFoundError):
                self.add(fd, child, f"{member.name}/{child}", depth + 1)

    def _file(self, fd: int, member: tarfile.TarInfo, info: os.stat_result) -> None:
        first = self._links.setdefault((info.st_dev, info.st_ino), member.name)
        if info.st_nlink > 1 and first != member.name:
            member.type, member.linkname = tarfile.LNKTYPE, first
            self._tar.addfile(member)
        elif info.st_dev in self._kernel:  # says it has no size
            data = b""
            while len(data) < KERNEL_FILE_BYTES_MAX and (more := os.read(fd, CHUNK_BYTES)):
                data += more
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        else:
            member.size = info.st_size
            self._tar.addfile(member, cast("IO[bytes]", _Exactly(fd)))


class _Exactly:
    """The bytes of a file that may be cut short while it is read: zeros take their place."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size) or bytes(size)


def send(inside: Inside, path: str, file: IO[bytes], *, follow_link: bool = False) -> None:
    """Write the tar archive of a path of the container to `file`. Blocks. Raises ContainerError."""
    directory, name, contents = split(path)
    try:
        with inside.root() as root_fd, tarfile.open(
            fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES
        ) as tar:  # fmt: skip
            sender = _Sender(root_fd, tar, inside.first_id)
            if name and not contents and not follow_link and not path.endswith("/"):
                with _opened(root_fd, directory, _READ | os.O_DIRECTORY) as parent_fd:
                    sender.add(parent_fd, name, name)
            else:
                only_directory = os.O_DIRECTORY if contents or path.endswith("/") else 0
                with _opened(root_fd, f"{directory}/{name}", _READ | only_directory) as fd:
                    sender.opened(fd, "." if contents else name)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _path_error(path, error) from error


def receive(inside: Inside, path: str, file: IO[bytes], *, keep_owner: bool = False) -> tuple[int, int]:
    """Unpack a tar archive at a path of the container; (entries, bytes). Blocks. Raises ContainerError."""
    reader = TarReader(cast("Stream", file), "the files sent", entries_max=ENTRIES_MAX)
    try:
        with inside.root() as root_fd:
            return _Receiver(root_fd, reader, path, keep_owner, inside.first_id).run()
    except ImageError as error:
        raise StartRejected(str(error)) from error
    except OSError as error:
        raise _path_error(path, error) from error


class _Receiver:
    def __init__(
        self, root_fd: int, reader: TarReader, path: str, keep_owner: bool, first_id: int = 0
    ) -> None:
        self._first_id = first_id  # what is 0 inside
        self._root, self._reader, self._path, self._keep_owner = root_fd, reader, path, keep_owner
        self._base: tuple[str, str] | None = None  # where it lands: directory, and another first name or ""

    def run(self) -> tuple[int, int]:
        count = size = 0
        for entry in self._reader.entries():
            parts = [part for part in entry.name.split("/") if part not in {"", "."}]
            if ".." in parts:
                raise StartRejected(f"the files sent: {entry.name!r} leads outside")
            if self._base is None:
                self._base = self._landing(entry.kind == "directory", contents=not parts)
            self._place(entry, parts)
            count, size = count + 1, size + entry.size
        return count, size

    def _landing(self, is_directory: bool, contents: bool) -> tuple[str, str]:
        """As `cp -r` decides it: where, and under which name if not the source's own."""
        directory, name, _ = split(self._path)
        kind = self._kind(self._path)
        if kind == "directory":
            return self._path, ""
        if kind and (is_directory or self._path.endswith("/")):
            raise NoSuchPath(f"{self._path} in the container is no directory")
        if not kind and self._path.endswith("/") and not is_directory:
            raise NoSuchPath(f"{self._path} does not exist in the container; make it first")
        if self._kind(directory) != "directory":
            raise NoSuchPath(f"{directory} in the container does not exist or is no directory")
        if contents:
            with _opened(self._root, directory, _READ | os.O_DIRECTORY) as fd:
                os.mkdir(name, 0o755, dir_fd=fd)
            return self._path, ""
        return directory, name

    def _kind(self, path: str) -> str:
        """ "directory", "other", or "" for nothing; links are followed."""
        try:
            with _opened(self._root, path, os.O_PATH) as fd:
                return "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "other"
        except FileNotFoundError:
            return ""

    def _full(self, parts: list[str]) -> str:
        assert self._base is not None
        directory, renamed = self._base
        return "/".join([directory, *([renamed, *parts[1:]] if renamed else parts)])

    def _place(self, entry: Entry, parts: list[str]) -> None:
        if not parts:
            return  # the directory whose contents follow: it is there
        parent, _, name = self._full(parts).rpartition("/")
        with _opened(self._root, parent or "/", _READ | os.O_DIRECTORY) as fd:
            if entry.kind == "directory":
                if self._kind(f"{parent}/{name}") == "directory":
                    return
                os.mkdir(name, 0o755, dir_fd=fd)
                self._dress(fd, name, entry)
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
            self._make(fd, name, entry)

    def _make(self, fd: int, name: str, entry: Entry) -> None:
        match entry.kind:
            case "file":
                with open(os.open(name, _NEW, 0o600, dir_fd=fd), "wb", buffering=0) as file:
                    while data := self._reader.read(CHUNK_BYTES):
                        view = memoryview(data)
                        while view:
                            view = view[file.write(view) or 0 :]
            case "symlink":
                os.symlink(entry.link, name, dir_fd=fd)
            case "fifo":
                os.mkfifo(name, 0o600, dir_fd=fd)
            case "hardlink":
                self._link(fd, name, entry)
                return
            case _:
                raise StartRejected(f"the files sent: {entry.name!r} is a device; devices are not copied")
        self._dress(fd, name, entry)

    def _link(self, fd: int, name: str, entry: Entry) -> None:
        parts = [part for part in entry.link.split("/") if part not in {"", "."}]
        if not parts or ".." in parts:
            raise StartRejected(f"the files sent: {entry.name!r} is a link to outside")
        parent, _, source = self._full(parts).rpartition("/")
        with _opened(self._root, parent or "/", _READ | os.O_DIRECTORY) as source_fd:
            os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)

    def _dress(self, fd: int, name: str, entry: Entry) -> None:
        """Owner first: changing it drops setuid bits. Without keep_owner everything is root's."""
        owner = (entry.uid, entry.gid) if self._keep_owner else (0, 0)
        os.chown(name, owner[0] + self._first_id, owner[1] + self._first_id, dir_fd=fd, follow_symlinks=False)
        if entry.kind != "symlink":
            with _opened(fd, name, os.O_PATH | os.O_NOFOLLOW) as made:
                os.chmod(f"/proc/self/fd/{made}", entry.mode)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)


@contextlib.contextmanager
def _opened(root_fd: int, path: str, flags: int) -> Iterator[int]:
    """Opened as a process with that root would."""
    fd = system.open_in_root(root_fd, path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _device(root_fd: int, path: str) -> int:
    """The number of a file system of the kernel's own, 0 where there is none."""
    try:
        with _opened(root_fd, path, os.O_PATH) as fd:
            device = os.fstat(fd).st_dev
            return device if device != os.stat("/", dir_fd=root_fd).st_dev else 0
    except OSError:
        return 0


def _member(name: str, info: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    member.mtime = int(info.st_mtime)
    return member


def _path_error(path: str, error: OSError) -> ContainerError:
    """What went wrong, in words about the container."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return NoSuchPath(f"{path} in the container: {(error.strerror or str(error)).lower()}")
    if error.errno == errno.EOVERFLOW:  # an idmapped mount has no name for the node's root
        remedy = "pipe a tar archive through exec: exec -i TASK tar -x -C PATH"
        return StartRejected(f"{path} is in a volume of a container with ids of its own; {remedy}")
    return from_os_error(f"{path} in the container", error)
