"""A volume on its way from one node to another: what the source tells, and what the target makes of it.

Rounds: the target asks for the source's tree, compares each entry with what it copied before (inode, change
time, size), fetches what is new or changed, removes what is gone. The change time is the kernel's and nobody
can set it back, so a file that was written to is always seen. What the target knows is kept beside the copy
after each round and put on the disk with it: an agent that dies goes on from its last whole round. Kernels
count change times in ticks: what changed within the last few is taken again in the next round.

Of a large file that the target has an older copy of, both sides sum up blocks and only those that differ
travel, so that the last round of a database takes the time of reading it and not of sending it.

The source reads while tasks write, so a round may catch a file half written; the next one sees that. The
last round runs when nothing writes any more, and is repeated until the tree no longer changes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError
from swarmpy.node.volume import kernel, tree
from swarmpy.node.volume.errors import VolumeFailure, VolumeRejected
from swarmpy.proto import volumes_pb2

ENTRIES_PER_PART = 500
TICKS_NS = 50_000_000
ENTRIES_MAX = 1_000_000  # 400 bytes of memory each on the target
PIECE_BYTES = 1 << 20
BATCH_FILES, BATCH_BYTES = 500, 256 << 20
PATCH_BYTES = 8 << 20  # files from this size on are patched
BLOCK_BYTES, BLOCKS_MAX, SUM_BYTES = 1 << 20, 1 << 16, 16
KNOWN = "known"
INCOMING = "incoming"

Signature = tuple[int, int, int, int]  # inode, change time, size, mode


# --- the source ---------------------------------------------------------------------------------


def listing(top: Path) -> Iterator[volumes_pb2.TreePart]:
    """The tree below `top`, directories before what is in them. Blocks at each step."""
    part, size = volumes_pb2.TreePart(), 0
    with kernel.opened(top) as top_fd:
        for count, found in enumerate(tree.walk(top)):
            if count >= ENTRIES_MAX:
                raise VolumeRejected(
                    f"the volume has more than {ENTRIES_MAX} files: a backup of it takes any number"
                )
            if stat.S_ISSOCK(found.status.st_mode):
                continue
            entry = _entry(top_fd, found)
            if entry is not None:
                part.entries.append(entry)
                size += entry.ByteSize()
            if len(part.entries) == ENTRIES_PER_PART or size > PIECE_BYTES:
                yield part
                part, size = volumes_pb2.TreePart(), 0
    yield part


def _entry(top_fd: int, found: tree.Found) -> volumes_pb2.TreeEntry | None:
    """None for what vanished meanwhile."""
    status = found.status
    entry = volumes_pb2.TreeEntry(
        path=found.path, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid, link=found.link,
        mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, size_bytes=status.st_size,
        disk_bytes=status.st_blocks * 512, device=status.st_rdev, inode=status.st_ino, links=status.st_nlink,
        young=status.st_ctime_ns > time.time_ns() - TICKS_NS,
    )  # fmt: skip
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        try:
            fd = tree.open_beneath(top_fd, found.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
                return None
            raise
        try:
            for name, value in tree.xattrs(fd).items():
                entry.xattrs[name] = value
        finally:
            os.close(fd)
    return entry


def sum_of(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SUM_BYTES).digest()


def block_at(fd: int, offset: int, length: int) -> bytes:
    """So many bytes, fewer only at the end of the file."""
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


def contents(
    top: Path, paths: Iterable[bytes], basis: Iterable[volumes_pb2.Basis] = ()
) -> Iterator[volumes_pb2.FileData]:
    """The data of files, without their holes and what the target has. Blocks at each step."""
    known = {entry.position: entry for entry in basis}
    with kernel.opened(top) as top_fd:
        for position, path in enumerate(paths):
            try:
                fd = tree.open_beneath(top_fd, path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
                    raise
                yield volumes_pb2.FileData(position=position, vanished=True)
                continue
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    yield volumes_pb2.FileData(position=position, vanished=True)
                    continue
                if position in known:
                    yield from _other_blocks(fd, status.st_size, known[position])
                else:
                    yield from _pieces(fd, position, status.st_size)
                yield volumes_pb2.FileData(position=position, end=True, size_bytes=status.st_size)
            finally:
                os.close(fd)


def _pieces(fd: int, position: int, size: int) -> Iterator[volumes_pb2.FileData]:
    for start, length in tree.extents(fd, size):
        offset, end = start, start + length
        while offset < end and (data := os.pread(fd, min(PIECE_BYTES, end - offset), offset)):
            yield volumes_pb2.FileData(position=position, offset=offset, data=data)
            offset += len(data)


def _other_blocks(fd: int, size: int, basis: volumes_pb2.Basis) -> Iterator[volumes_pb2.FileData]:
    length = basis.block_bytes
    if not BLOCK_BYTES <= length <= 1 << 32:
        raise VolumeFailure(f"blocks of {length} bytes were asked for")
    for number, offset in enumerate(range(0, size, length)):
        data = block_at(fd, offset, min(length, size - offset))
        if not data or sum_of(data) == basis.sums[number * SUM_BYTES : (number + 1) * SUM_BYTES]:
            continue
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            made = volumes_pb2.FileData(position=basis.position, offset=offset + start)
            if piece.count(0) == len(piece):
                made.zeros = len(piece)
            else:
                made.data = piece
            yield made


# --- the target ---------------------------------------------------------------------------------


@dataclass
class Round:
    """One comparison: what is to fetch, and what to do afterwards."""

    entries: dict[bytes, volumes_pb2.TreeEntry] = field(default_factory=dict)
    fetch: list[bytes] = field(default_factory=list)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)  # (first name, further name)
    fetch_bytes: int = 0
    changed: int = 0  # entries that are not as they were known

    def batches(self) -> Iterator[list[bytes]]:
        batch: list[bytes] = []
        size = 0
        for path in self.fetch:
            bytes_more = self.entries[path].disk_bytes
            if batch and (len(batch) == BATCH_FILES or size + bytes_more > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(path)
            size += bytes_more
        if batch:
            yield batch


def signature(entry: volumes_pb2.TreeEntry) -> Signature:
    """What an entry is known by; nothing equals a young one."""
    return (entry.inode, -1 if entry.young else entry.ctime_ns, entry.size_bytes, entry.mode)


class Copy:
    """The copy in `<place>/fs/data`; nobody else looks at it until it is complete. Every method blocks."""

    def __init__(self, place: Path) -> None:
        self.place, self.top = place, place / "fs/data"
        self.known: dict[bytes, Signature] = {}
        self._incoming = place / "fs" / INCOMING
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        self._load()

    # what was copied before

    def _load(self) -> None:
        try:
            kept = volumes_pb2.TreePart.FromString((self.place / KNOWN).read_bytes())
        except FileNotFoundError:
            return
        except DecodeError as error:
            raise VolumeFailure(f"{self.place / KNOWN} is damaged: move the volume again") from error
        self.known = {entry.path: signature(entry) for entry in kept.entries}

    def keep(self, entries: Iterable[volumes_pb2.TreeEntry]) -> None:
        """The copy is as the source was: put it on the disk, then note it."""
        kernel.sync(self.top)
        kept = volumes_pb2.TreePart()
        for entry in entries:
            kept.entries.add(
                path=entry.path, inode=entry.inode, ctime_ns=entry.ctime_ns, size_bytes=entry.size_bytes,
                mode=entry.mode, young=entry.young,
            )  # fmt: skip
        fresh = self.place / (KNOWN + ".new")
        fresh.write_bytes(kept.SerializeToString())
        fresh.rename(self.place / KNOWN)
        kernel.sync(self.place)
        self.known = {entry.path: signature(entry) for entry in kept.entries}

    # a round

    def compare(self, parts: Iterable[volumes_pb2.TreeEntry]) -> Round:
        """Make directories, links and devices; collect the files to fetch."""
        found = Round()
        first_of: dict[int, bytes] = {}
        changed_inodes: set[int] = set()
        with kernel.opened(self.top) as top_fd:
            for entry in parts:
                _check_path(entry.path)
                found.entries[entry.path] = entry
                same = not entry.young and self.known.get(entry.path) == signature(entry)
                found.changed += not same
                kind = stat.S_IFMT(entry.mode)
                if kind == stat.S_IFREG:
                    first = first_of.setdefault(entry.inode, entry.path) if entry.links > 1 else entry.path
                    if first != entry.path:
                        if not same or entry.inode in changed_inodes:
                            found.links.append((first, entry.path))
                    elif not same:
                        changed_inodes.add(entry.inode)
                        found.fetch.append(entry.path)
                        found.fetch_bytes += entry.disk_bytes
                elif not same:
                    _make(top_fd, entry)
        return found

    def basis(self, found: Round, batch: list[bytes]) -> list[volumes_pb2.Basis]:
        """What is here of the files of a batch; what is of no use makes room."""
        made = []
        with kernel.opened(self.top) as top_fd:
            for position, path in enumerate(batch):
                entry = self._basis_of(top_fd, position, path, found.entries[path].size_bytes)
                if entry is None:
                    _remove(top_fd, path)
                else:
                    made.append(entry)
        return made

    def _basis_of(self, top_fd: int, position: int, path: bytes, size: int) -> volumes_pb2.Basis | None:
        try:
            fd = tree.open_beneath(top_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            # Another name of the same file would be patched with it.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size < PATCH_BYTES:
                return None
            length = max(BLOCK_BYTES, -(-max(size, status.st_size) // BLOCKS_MAX))
            offsets = range(0, status.st_size, length)
            sums = b"".join(sum_of(block_at(fd, offset, length)) for offset in offsets)
            return volumes_pb2.Basis(position=position, block_bytes=length, sums=sums)
        finally:
            os.close(fd)

    def open_patch(self, position: int, path: bytes) -> int:
        """The file that is here, out of its place until it is as the source's."""
        with kernel.opened(self.top) as top_fd, tree.parent_of(top_fd, path) as (fd, name):
            os.rename(name, self._incoming / str(position), src_dir_fd=fd)
        return os.open(self._incoming / str(position), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def open_incoming(self, position: int) -> int:
        path = self._incoming / str(position)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def place_file(self, position: int, entry: volumes_pb2.TreeEntry) -> None:
        """A file that came whole takes its place."""
        with kernel.opened(self.top) as top_fd, tree.parent_of(top_fd, entry.path) as (fd, name):
            _clear_way(fd, name, stat.S_IFREG)
            os.rename(self._incoming / str(position), name, dst_dir_fd=fd)
            _dress(fd, name, entry)

    def finish(self, found: Round, vanished: set[bytes]) -> None:
        """Further names of files, removals, and what directories look like, now that nothing is made in them."""
        with kernel.opened(self.top) as top_fd:
            for first, path in found.links:
                if first in vanished:
                    vanished.add(path)
                    continue
                with tree.parent_of(top_fd, first) as (a, old), tree.parent_of(top_fd, path) as (b, new):
                    tree.remove_at(b, new)
                    os.link(old, new, src_dir_fd=a, dst_dir_fd=b, follow_symlinks=False)
            for path in sorted(self.known.keys() - found.entries.keys(), reverse=True):
                _remove(top_fd, path)
            for path in vanished:
                _remove(top_fd, path)
                found.entries.pop(path, None)
            for path, entry in sorted(found.entries.items(), reverse=True):
                if stat.S_ISDIR(entry.mode):
                    with tree.parent_of(top_fd, path) as (fd, name):
                        _dress(fd, name or b".", entry)

    def complete(self) -> None:
        """Only the volume is left."""
        for name in (KNOWN, KNOWN + ".new"):
            (self.place / name).unlink(missing_ok=True)
        for left in self._incoming.iterdir():
            left.unlink()
        self._incoming.rmdir()
        kernel.sync(self.top)


def _check_path(path: bytes) -> None:
    if path and (path.startswith(b"/") or any(part in {b"", b".", b".."} for part in path.split(b"/"))):
        raise VolumeFailure(f"the source sent the path {path[:80]!r}, which no volume can have")


def _make(top_fd: int, entry: volumes_pb2.TreeEntry) -> None:
    if not entry.path:
        return
    kind = stat.S_IFMT(entry.mode)
    with tree.parent_of(top_fd, entry.path) as (fd, name):
        there = _clear_way(fd, name, kind)
        if kind == stat.S_IFDIR:
            if not there:
                os.mkdir(name, 0o700, dir_fd=fd)
            return  # it is dressed when it is full
        if kind == stat.S_IFLNK:
            os.symlink(entry.link, name, dir_fd=fd)
        else:
            os.mknod(name, entry.mode, entry.device, dir_fd=fd)
        _dress(fd, name, entry)


def _clear_way(fd: int, name: bytes, kind: int) -> bool:
    """Whether a directory stays that is wanted; whatever else is there goes."""
    try:
        there = stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
    if there == kind == stat.S_IFDIR:
        return True
    if not there == kind == stat.S_IFREG:  # a rename replaces a file by itself
        tree.remove_at(fd, name)
    return False


def _remove(top_fd: int, path: bytes) -> None:
    try:
        with tree.parent_of(top_fd, path) as (fd, name):
            tree.remove_at(fd, name)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise


def _dress(fd: int, name: bytes, entry: volumes_pb2.TreeEntry) -> None:
    tree.dress(
        fd, name, mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=entry.mtime_ns,
        xattr=dict(entry.xattrs),
    )  # fmt: skip
