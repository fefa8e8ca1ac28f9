"""The bytes of a journal segment: header, batches, records; and files written durably.

segment = magic | marker (8 random bytes) | size | salt | key id | crc32, then batches
batch   = marker | sequence | length | crc32 | sealed body
body    = records: kind | length | payload
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from swarmpy.raft.log import DiskFull

MAGIC = b"SWPYWAL2"
FILE_HEADER = struct.Struct(">8s8sQ16sII")
BATCH_HEADER = struct.Struct(">8sQII")
RECORD_HEADER = struct.Struct(">BI")
START, HARD_STATE, ENTRY, PADDING = 1, 2, 3, 4
ZEROS = bytes(1024 * 1024)
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Batch(NamedTuple):
    sequence: int
    body: bytes
    end: int


class FileHead(NamedTuple):
    marker: bytes
    size: int
    salt: bytes
    key_id: int


def pack(records: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(RECORD_HEADER.pack(kind, len(payload)) + payload for kind, payload in records)


def unpack(body: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(body):
        kind, length = RECORD_HEADER.unpack_from(body, offset)
        offset += RECORD_HEADER.size
        if offset + length > len(body):
            raise struct.error("a record is longer than its batch")
        yield kind, body[offset : offset + length]
        offset += length


def file_header(head: FileHead) -> bytes:
    data = FILE_HEADER.pack(MAGIC, *head, 0)[:-4]
    return data + struct.pack(">I", zlib.crc32(data))


def read_file_header(data: bytes) -> FileHead | None:
    """None when it is not a header as it was written."""
    if len(data) < FILE_HEADER.size:
        return None
    _, marker, size, salt, key_id, _ = FILE_HEADER.unpack_from(data)
    head = FileHead(marker, size, salt, key_id)
    return head if data[: FILE_HEADER.size] == file_header(head) else None


def batch_header(marker: bytes, sequence: int, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(struct.pack(">QI", sequence, len(body))))
    return BATCH_HEADER.pack(marker, sequence, len(body), crc)


def read_batches(data: bytes, marker: bytes, offset: int) -> Iterator[Batch]:
    """Batches up to the first that does not check out."""
    expected = 0
    while offset + BATCH_HEADER.size <= len(data):
        found, sequence, length, _ = BATCH_HEADER.unpack_from(data, offset)
        begin = offset + BATCH_HEADER.size
        end = begin + length
        if found != marker or sequence != expected or end > len(data):
            return
        body = data[begin:end]
        if data[offset:begin] != batch_header(marker, sequence, body):
            return
        yield Batch(sequence, body, end)
        offset, expected = end, expected + 1


def later_marker(data: bytes, marker: bytes, offset: int, expected: int) -> bool:
    """Whether a batch after the `expected` one begins anywhere behind `offset`."""
    found = data.find(marker, offset)
    while found >= 0 and found + BATCH_HEADER.size <= len(data):
        if BATCH_HEADER.unpack_from(data, found)[1] > expected:
            return True
        found = data.find(marker, found + 1)
    return False


def any_data(data: bytes, offset: int) -> bool:
    return bool(data[offset:].rstrip(b"\0"))


def write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def write_zeros(fd: int, begin: int, end: int) -> None:
    for offset in range(begin, end, len(ZEROS)):
        write_all(fd, ZEROS[: end - offset], offset)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, at: Callable[[str], None] = lambda step: None) -> None:
    """A 0600 file that is the old one or the new one whatever happens. `at` hears of each step."""
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.ExitStack() as undo:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, fd)
        at("made")
        write_all(fd, data, 0)
        at("written")
        os.fsync(fd)
    at("synced")
    temporary.rename(path)
    at("renamed")
    sync_directory(path.parent)
    at("durable")


def kind_of(sequence: int) -> str:
    return f"journal {sequence}"


@contextlib.contextmanager
def full_disk_is_said(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(str(directory)) from error
        raise


def read_synced(path: Path) -> bytes:
    """The content as the disk has it, not as a page cache says whose sync may have failed."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return path.read_bytes()
    finally:
        os.close(fd)
