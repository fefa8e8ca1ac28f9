"""A volume as a tar archive (PAX), and back.

Entries begin with ".". Owners, modes, times to the nanosecond, extended attributes (`SCHILY.xattr.`), links
between files, pipes and devices are kept; sockets are not. What is written while it is read is in the archive
as it was met: a file has the size it had when its turn came. Zeros of some length come back as holes.

Restoring unpacks beside the contents and exchanges both when the archive has come whole; until then nothing
that is there has changed. Memory is bounded by one chunk on either side.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from swarmpy.node.volume import kernel, tree
from swarmpy.node.volume.errors import VolumeError, VolumeFailure, VolumeRejected, from_os_error

CHUNK_BYTES = 256 * 1024
HOLE_BYTES = 64 * 1024
QUEUE_CHUNKS = 8
XATTR = "SCHILY.xattr."


# --- out ------------------------------------------------------------------------------------------


def pack(top: Path) -> Iterator[bytes]:
    """The archive, chunk by chunk; a thread of its own reads the volume. Blocks."""
    read, write = os.pipe2(os.O_CLOEXEC)
    failed: list[Exception] = []

    def work() -> None:
        try:
            with open(write, "wb") as file, tarfile.open(
                fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES
            ) as tar:  # fmt: skip
                _add_all(tar, top)
        except BrokenPipeError:
            return  # nobody wants the rest
        except (OSError, tarfile.TarError, VolumeError, ValueError) as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="volume archive", daemon=True)
    thread.start()
    try:
        with open(read, "rb", buffering=0) as file:
            while data := file.read(CHUNK_BYTES):
                yield data
    finally:
        thread.join()
    if failed:
        raise VolumeFailure(f"the volume cannot be read: {failed[0]}") from failed[0]


def _add_all(tar: tarfile.TarFile, top: Path) -> None:
    linked: dict[int, str] = {}
    with kernel.opened(top) as top_fd:
        for found in tree.walk(top):
            status = found.status
            name = "./" + os.fsdecode(found.path) if found.path else "."
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
            info.mtime = status.st_mtime_ns // 10**9
            whole, part = divmod(status.st_mtime_ns, 10**9)
            info.pax_headers = {"mtime": f"{whole}.{part:09d}"}
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG and status.st_nlink > 1:
                first = linked.setdefault(status.st_ino, name)
                if first != name:
                    info.type, info.linkname = tarfile.LNKTYPE, first
                    tar.addfile(info)
                    continue
            _add(tar, top_fd, found, info, kind)


def _add(tar: tarfile.TarFile, top_fd: int, found: tree.Found, info: tarfile.TarInfo, kind: int) -> None:
    status = found.status
    if kind == stat.S_IFLNK:
        info.type, info.linkname = tarfile.SYMTYPE, os.fsdecode(found.link)
    elif kind == stat.S_IFIFO:
        info.type = tarfile.FIFOTYPE
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        info.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif kind in {stat.S_IFREG, stat.S_IFDIR}:
        try:
            fd = tree.open_beneath(top_fd, found.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return  # vanished, or something else by now
        try:
            now = os.fstat(fd)
            more = {
                XATTR + key: value.decode("utf-8", "surrogateescape")
                for key, value in tree.xattrs(fd).items()
            }
            info.pax_headers = {**info.pax_headers, **more}
            if kind == stat.S_IFDIR:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif stat.S_ISREG(now.st_mode):
                info.size = now.st_size
                tar.addfile(info, cast("IO[bytes]", _Padded(fd, now.st_size)))
        finally:
            os.close(fd)
        return
    else:
        return
    tar.addfile(info)


class _Padded:
    """A file that has exactly the size it was announced with, whatever is done to it meanwhile."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._left = fd, size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = b""
        while len(data) < size and (more := os.read(self._fd, size - len(data))):
            data += more
        self._left -= size
        return data.ljust(size, b"\0")


# --- in -------------------------------------------------------------------------------------------


class Unpacker:
    """Unpacks into `<fs>/stage` in a thread of its own; `finish` puts that in the place of `<fs>/data`."""

    def __init__(self, fs: Path) -> None:
        self._fs, self._stage = fs, fs / tree.STAGE
        tree.finish_swap(fs)
        self._stage.mkdir(mode=0o755)
        self._chunks: queue.Queue[bytes] = queue.Queue(QUEUE_CHUNKS)
        self._rest = b""
        self._ended = False
        self._gave_up = threading.Event()
        self._failed: list[VolumeError] = []
        self.files = self.bytes = 0
        self._thread = threading.Thread(target=self._work, name="volume restore", daemon=True)
        self._thread.start()

    def feed(self, data: bytes) -> None:
        """More of the archive; raises what unpacking met. Blocks while the disk is slower."""
        while True:
            self._raise()
            with contextlib.suppress(queue.Full):
                self._chunks.put(data, timeout=0.2)
                return

    def finish(self) -> tuple[int, int]:
        """The archive came whole: (files, bytes) of what is now in the volume. Blocks."""
        self.feed(b"")
        self._thread.join()
        self._raise()
        tree.exchange(self._fs)
        return self.files, self.bytes

    def close(self) -> None:
        """Clear what is left of a restore that did not finish. Blocks."""
        self._gave_up.set()
        with contextlib.suppress(queue.Full):
            self._chunks.put_nowait(b"")
        self._thread.join()
        tree.finish_swap(self._fs)

    def _raise(self) -> None:
        if self._failed:
            raise self._failed[0]

    def read(self, size: int) -> bytes:
        """What tarfile reads from."""
        while len(self._rest) < size and not self._ended:
            try:
                data = self._chunks.get(timeout=0.2)
            except queue.Empty:
                if self._gave_up.is_set():
                    raise VolumeFailure("the archive broke off") from None
                continue
            self._ended = not data
            self._rest += data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _work(self) -> None:
        try:
            with tarfile.open(
                fileobj=cast("IO[bytes]", self), mode="r|", bufsize=CHUNK_BYTES
            ) as tar, kernel.opened(self._stage) as top_fd:  # fmt: skip
                self._unpack(tar, top_fd)
            while self.read(CHUNK_BYTES):  # what follows the end of the archive
                pass
        except VolumeError as error:
            self._failed.append(error)
        except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
            text = f"this is no tar archive of a volume, or it is damaged ({error}): nothing was changed"
            self._failed.append(VolumeRejected(text))
        except OSError as error:
            self._failed.append(from_os_error("nothing was changed: the archive cannot be unpacked", error))

    def _unpack(self, tar: tarfile.TarFile, top_fd: int) -> None:
        directories: list[tuple[bytes, tarfile.TarInfo]] = []
        for info in tar:
            path = _path_of(info.name)
            if info.isdir():
                if path:
                    with tree.parent_of(top_fd, path) as (fd, name), contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=fd)
                directories.append((path, info))
                continue
            if not path:
                raise VolumeRejected(f"the archive's entry {info.name!r} has no name: nothing was changed")
            with self._parent(top_fd, path) as (fd, name):
                if self._make(tar, info, top_fd, fd, name):
                    _dress(fd, name, info)
                self.files += 1
        for path, info in reversed(directories):
            with tree.parent_of(top_fd, path) as (fd, name):
                _dress(fd, name or b".", info)

    @contextlib.contextmanager
    def _parent(self, top_fd: int, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory of an entry; archives need not name those they take for granted."""
        head = path.rpartition(b"/")[0]
        parts = head.split(b"/") if head else []
        for count in range(1, len(parts) + 1):
            made = tree.parent_of(top_fd, b"/".join(parts[:count]))
            with made as (fd, name), contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=fd)
        with tree.parent_of(top_fd, path) as opened:
            yield opened

    def _make(self, tar: tarfile.TarFile, info: tarfile.TarInfo, top_fd: int, fd: int, name: bytes) -> bool:
        """Whether owner, mode and time are still to be set."""
        tree.remove_at(fd, name)
        if info.isreg():
            source = tar.extractfile(info)
            assert source is not None, "a file has contents"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            made = os.open(name, flags, 0o600, dir_fd=fd)
            try:
                self._write(source, made, info.size)
            finally:
                os.close(made)
        elif info.issym():
            os.symlink(os.fsencode(info.linkname), name, dir_fd=fd)
        elif info.islnk():
            with tree.parent_of(top_fd, _path_of(info.linkname)) as (other, old):
                os.link(old, name, src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)
            return False
        elif info.isfifo():
            os.mkfifo(name, 0o600, dir_fd=fd)
        elif info.ischr() or info.isblk():
            kind = stat.S_IFCHR if info.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(info.devmajor, info.devminor), dir_fd=fd)
        else:
            raise VolumeRejected(
                f"the archive's entry {info.name!r} is of an unknown kind: nothing was changed"
            )
        return True

    def _write(self, source: IO[bytes], fd: int, size: int) -> None:
        offset = 0
        while data := source.read(HOLE_BYTES):
            if data.strip(b"\0"):
                os.pwrite(fd, data, offset)
            offset += len(data)
        if offset != size:
            raise VolumeRejected("the archive ends in the middle of a file: nothing was changed")
        os.truncate(fd, size)
        self.bytes += size


def _path_of(name: str) -> bytes:
    parts = [part for part in os.fsencode(name).split(b"/") if part not in {b"", b"."}]
    if b".." in parts or name.startswith("/"):
        raise VolumeRejected(f"the archive's entry {name!r} leads outside: nothing was changed")
    return b"/".join(parts)


def _dress(fd: int, name: bytes, info: tarfile.TarInfo) -> None:
    whole, _, part = str(info.pax_headers.get("mtime", info.mtime)).partition(".")
    mtime_ns = int(whole) * 10**9 + int((part + "0" * 9)[:9])
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.FIFOTYPE: stat.S_IFIFO,
             tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}  # fmt: skip
    found = {
        key.removeprefix(XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in info.pax_headers.items()
        if key.startswith(XATTR)
    }
    mode = kinds.get(info.type, stat.S_IFREG) | info.mode & 0o7777
    tree.dress(fd, name, mode=mode, uid=info.uid, gid=info.gid, mtime_ns=mtime_ns, xattr=found)
