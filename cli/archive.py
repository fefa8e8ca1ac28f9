"""Tar archives of `cp` on this machine.

What comes out of a task is a stranger's: below the destination no link is followed, set-id bits are dropped,
devices left out, and everything belongs to whoever runs the command unless asked otherwise.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from typing import IO, Protocol, cast

CHUNK_BYTES = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ArchiveError(Exception):
    """The archive, or where it should go, cannot be used; the message lacks its full stop."""


class Reader(Protocol):
    def read(self, size: int) -> bytes: ...


def pack(source: str, follow_link: bool) -> Iterator[bytes]:
    """The archive of a path; its entries begin with the path's last part, or "." for what is in PATH/."""
    contents = source in {".", "./"} or source.endswith("/.")
    name = "." if contents else os.path.basename(os.path.abspath(source)) or "."
    path = os.path.realpath(source) if contents or follow_link or source.endswith("/") else source
    read, write = os.pipe2(os.O_CLOEXEC)
    failed: list[OSError] = []

    def work() -> None:
        try:
            with open(write, "wb") as file, tarfile.open(
                fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES
            ) as tar:  # fmt: skip
                tar.add(path, name)
        except BrokenPipeError:
            return  # nobody wants the rest
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="pack", daemon=True)
    thread.start()
    with open(read, "rb", buffering=0) as file:
        while data := file.read(CHUNK_BYTES):
            yield data
    thread.join()
    if failed:
        raise failed[0]


def unpack(reader: Reader, destination: str, *, keep_owner: bool) -> int:
    """Place an archive as `cp -r` would; the bytes of its files. Raises ArchiveError, OSError."""
    size = 0
    placed: _Place | None = None
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=CHUNK_BYTES) as tar:
            for member in tar:
                parts = [part for part in member.name.split("/") if part not in {"", "."}]
                if ".." in parts:
                    raise ArchiveError(f"the archive's entry {member.name!r} leads outside")
                if placed is None:
                    placed = _Place.of(destination, member.isdir(), not parts, keep_owner)
                if parts:
                    placed.entry(tar, member, parts)
                    size += member.size
    except tarfile.TarError as error:
        raise ArchiveError(f"the archive is damaged or incomplete ({error})") from error
    finally:
        if placed is not None:
            placed.close()
    return size


class _Place:
    """An open directory, and the name that takes the place of the entries' first one."""

    def __init__(self, directory: str, renamed: str, keep_owner: bool) -> None:
        self._fd = os.open(directory, _DIRECTORY)
        self._renamed, self._keep_owner = renamed, keep_owner

    @classmethod
    def of(cls, destination: str, is_directory: bool, contents: bool, keep_owner: bool) -> _Place:
        if os.path.isdir(destination):
            return cls(destination, "", keep_owner)
        slash = destination.endswith("/")
        if os.path.lexists(destination) and (is_directory or slash):
            raise ArchiveError(f"{destination} is no directory")
        if slash and not is_directory:
            raise ArchiveError(f"{destination} does not exist; make it first")
        parent, name = os.path.split(destination.rstrip("/"))
        if contents:
            os.mkdir(destination)
            return cls(destination, "", keep_owner)
        return cls(parent or ".", name, keep_owner)

    def close(self) -> None:
        os.close(self._fd)

    def entry(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: list[str]) -> None:
        path = [self._renamed or parts[0], *parts[1:]]
        with self._directory(path[:-1]) as fd:
            name = path[-1]
            if member.isdir():
                if _is_directory(fd, name):
                    return  # was there before: its owner and mode are its own
                os.mkdir(name, dir_fd=fd)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
                if not self._make(tar, member, fd, name):
                    return
            self._dress(member, fd, name)

    @contextlib.contextmanager
    def _directory(self, path: list[str]) -> Iterator[int]:
        fd = os.dup(self._fd)
        try:
            for name in path:
                deeper = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = deeper
            yield fd
        finally:
            os.close(fd)

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, fd: int, name: str) -> bool:
        """False for what needs no owner and mode of its own, or is left out."""
        if member.isreg():
            source = tar.extractfile(member)
            assert source is not None
            with open(os.open(name, _NEW, 0o600, dir_fd=fd), "wb") as file:
                while data := source.read(CHUNK_BYTES):
                    file.write(data)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=fd)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=fd)
        elif member.islnk():
            parts = [part for part in member.linkname.split("/") if part not in {"", "."}]
            if not parts or ".." in parts:
                raise ArchiveError(f"the archive's entry {member.name!r} is a link to outside")
            path = [self._renamed or parts[0], *parts[1:]]
            with self._directory(path[:-1]) as there:
                os.link(path[-1], name, src_dir_fd=there, dst_dir_fd=fd, follow_symlinks=False)
            return False
        else:
            return False
        return True

    def _dress(self, member: tarfile.TarInfo, fd: int, name: str) -> None:
        if self._keep_owner:
            os.chown(name, member.uid, member.gid, dir_fd=fd, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, stat.S_IMODE(member.mode) & 0o777, dir_fd=fd)
            os.utime(name, (member.mtime, member.mtime), dir_fd=fd)


def _is_directory(fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
