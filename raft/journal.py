"""The durable part of a member: term, vote and log entries, in segments on disk.

Rules.
* `write` returns only when its batch is on disk; after any error the journal refuses all
  further use (a failed fsync must never be retried: the kernel may have dropped the data).
* One batch, one fsync. A batch is `marker | sequence | length | crc32 | body`, the marker
  being the segment's own random 8 bytes. On opening, a batch that does not check out is a
  torn tail, never acknowledged, and is cut — unless a later marker follows it or it is not
  in the newest segment: then acknowledged data is damaged and the journal refuses to open.
* `seal` puts a page of padding and one more marker behind the newest batch when the log
  rests, so that a damaged page of data written long ago is never taken for a torn tail.
* Segments are filled with zeros when made (an fdatasync then writes no metadata, and a
  shorter file is damage, not a torn tail), each is
  written under another name, synced and renamed, and opens with all that is needed to
  read it without its predecessors; compaction is therefore unlinking the oldest ones.
* Everything here blocks: the shell calls it from one thread at a time.

`Sealer` is where encryption at rest goes: it sees each batch body with its position.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from google.protobuf.message import DecodeError
from swarmpy.proto import raft_pb2
from swarmpy.raft.core_log import Entry
from swarmpy.raft.log import LogClosed, LogDamaged

SEGMENT_BYTES = 8 * 1024 * 1024
FORMAT = 1
MAGIC = b"SWPYWAL1"
FILE_HEADER = struct.Struct(">8s8sQI")
BATCH_HEADER = struct.Struct(">8sQII")
RECORD_HEADER = struct.Struct(">BI")
START, HARD_STATE, ENTRY, PADDING = 1, 2, 3, 4
SEAL_BYTES = 4096


class Sealer(Protocol):
    def seal(self, body: bytes, position: bytes) -> bytes: ...
    def open(self, body: bytes, position: bytes) -> bytes: ...


class Plain:
    def seal(self, body: bytes, position: bytes) -> bytes:
        return body

    def open(self, body: bytes, position: bytes) -> bytes:
        return body


@dataclass
class Recovered:
    """What the disk said: entries follow each other from base_index + 1."""

    term: int = 0
    vote: str = ""
    base_index: int = 0
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)
    torn_bytes: int = 0

    @property
    def empty(self) -> bool:
        return not self.term and not self.entries and not self.base_index


@dataclass
class Segment:
    path: Path
    sequence: int
    max_index: int


class Batch(NamedTuple):
    sequence: int
    body: bytes
    end: int


class Journal:
    def __init__(
        self,
        directory: Path,
        node_id: str,
        *,
        sealer: Sealer | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._node_id = node_id
        self._sealer = sealer or Plain()
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._fd = -1
        self._salt = b""
        self._offset = self._size = self._batch = 0
        self._sealed = True
        self._broken = ""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = self._lock()
        self._loaded = Recovered()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._load()
            undo.pop_all()

    @property
    def recovered(self) -> Recovered:
        """What opening found; the caller may take the entries over."""
        return self._loaded

    @property
    def sealed(self) -> bool:
        """Whether damage to the newest data could no longer be taken for a torn tail."""
        return self._sealed

    @property
    def size_bytes(self) -> int:
        return sum(segment.path.stat().st_size for segment in self._segments)

    def _lock(self) -> int:
        path = self._directory / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise LogClosed(f"{path} is held by another process: stop it first") from None
        return fd

    # -- writing

    def write(self, hard_state: tuple[int, str] | None, entries: Sequence[Entry]) -> None:
        """Make a term, a vote and entries durable, all or nothing."""
        records = []
        if hard_state is not None:
            self._loaded.term, self._loaded.vote = hard_state
            state = raft_pb2.HardState(term=hard_state[0], vote=hard_state[1])
            records.append((HARD_STATE, state.SerializeToString()))
        for entry in entries:
            message = raft_pb2.Entry(index=entry.index, term=entry.term, kind=entry.kind, data=entry.data)  # type: ignore[arg-type]
            records.append((ENTRY, message.SerializeToString()))
        with self._guard():
            body = pack(records)
            if self._offset + BATCH_HEADER.size + len(body) > self._size:
                first = entries[0] if entries else None
                self._rotate(len(body), first)
            self._append(body)
            self._sealed = False
            if entries:
                last = entries[-1]
                segment = self._segments[-1]
                segment.max_index = max(segment.max_index, last.index)
                self._last = (last.index, last.term)

    def seal(self) -> None:
        """Close the newest batch in, if it is not yet."""
        if self._sealed or self._broken:
            return
        with self._guard():
            body = pack([(PADDING, bytes(SEAL_BYTES))])
            if self._offset + 2 * BATCH_HEADER.size + len(body) > self._size:
                self._rotate(0, None)
            else:
                self._append(body)
                self._append(b"")
            self._sealed = True

    def reset(self, index: int, term: int) -> None:
        """Forget all entries: a snapshot up to `index` has taken their place."""
        with self._guard():
            old, self._segments = self._segments, []
            sequence = old[-1].sequence + 1 if old else 1
            self._last = (index, term)
            self._create(sequence, 0, reset=True)
            self._unlink(old)

    def compact(self, index: int) -> None:
        """Remove segments that hold nothing after `index`."""
        with self._guard():
            count = 0
            while count < len(self._segments) - 1 and self._segments[count].max_index <= index:
                count += 1
            old, self._segments = self._segments[:count], self._segments[count:]
            self._unlink(old)

    def close(self) -> None:
        if self._fd >= 0:
            try:
                self.seal()
            except (OSError, LogClosed):
                pass
            os.close(self._fd)
            self._fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        self._broken = self._broken or "closed"

    def _guard(self) -> _Guard:
        if self._broken:
            raise LogClosed(f"the journal in {self._directory} is not in use ({self._broken})")
        return _Guard(self)

    def _append(self, body: bytes) -> None:
        position = struct.pack(">QQ", self._segments[-1].sequence, self._batch)
        body = self._sealer.seal(body, position)
        data = batch_header(self._salt, self._batch, body) + body
        write_all(self._fd, data, self._offset)
        os.fdatasync(self._fd)
        self._offset += len(data)
        self._batch += 1

    def _rotate(self, body_bytes: int, first: Entry | None) -> None:
        if first is not None and first.index <= self._last[0]:
            self._last = (first.index - 1, 0)  # only informative: entries of older segments remain
        self._create(self._segments[-1].sequence + 1, body_bytes, reset=False)

    def _create(self, sequence: int, body_bytes: int, *, reset: bool) -> None:
        state = self._loaded
        start = raft_pb2.JournalSegment(
            format=FORMAT, node_id=self._node_id, sequence=sequence, prev_index=self._last[0],
            prev_term=self._last[1], term=state.term, vote=state.vote, reset=reset,
        )  # fmt: skip
        salt = secrets.token_bytes(8)
        body = self._sealer.seal(pack([(START, start.SerializeToString())]), struct.pack(">QQ", sequence, 0))
        head_bytes = FILE_HEADER.size + BATCH_HEADER.size + len(body)
        size = max(self._segment_bytes, head_bytes + 2 * BATCH_HEADER.size + body_bytes)
        data = file_header(salt, size) + batch_header(salt, 0, body) + body
        path = self._directory / f"{sequence:016x}.wal"
        fd = make_file(path, data, size)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._salt, self._offset, self._size, self._batch = fd, salt, len(data), size, 1
        self._segments.append(Segment(path, sequence, self._last[0]))

    def _unlink(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            segment.path.unlink()
        if segments:
            sync_directory(self._directory)

    # -- reading

    def _load(self) -> None:
        for leftover in self._directory.glob("*.wal.tmp"):
            leftover.unlink()
        paths = sorted(self._directory.glob("*.wal"))
        self._last = (0, 0)
        if not paths:
            self._create(1, 0, reset=False)
            return
        for number, path in enumerate(paths):
            self._load_segment(path, number, newest=number == len(paths) - 1)
        state = self._loaded
        last = state.entries[-1] if state.entries else None
        self._last = (last.index, last.term) if last else (state.base_index, state.base_term)

    def _load_segment(self, path: Path, number: int, *, newest: bool) -> None:
        data = path.read_bytes()
        salt = self._file_salt(path, data)
        sequence = int(path.name.removesuffix(".wal"), 16)
        if number and sequence != self._segments[-1].sequence + 1:
            raise LogDamaged(f"{path}: the segment before it is missing. {ADVICE}")
        segment = Segment(path, sequence, 0)
        self._segments.append(segment)
        offset, batches = FILE_HEADER.size, 0
        for batch in read_batches(data, salt, offset):
            self._replay(path, segment, batch, number)
            offset, batches = batch.end, batches + 1
        if (
            batches == 0
            or later_marker(data, salt, offset, batches)
            or (not newest and any_data(data, offset))
        ):
            raise LogDamaged(f"{path}: damaged at byte {offset}, with acknowledged data behind it. {ADVICE}")
        if newest:
            self._continue(path, data, salt, offset, batches)

    def _file_salt(self, path: Path, data: bytes) -> bytes:
        if len(data) < FILE_HEADER.size:
            raise LogDamaged(f"{path}: shorter than its header. {ADVICE}")
        _, salt, size, _ = FILE_HEADER.unpack_from(data)
        if data[: FILE_HEADER.size] != file_header(salt, size):
            raise LogDamaged(f"{path}: not a journal segment or its header is damaged. {ADVICE}")
        if len(data) != size:
            raise LogDamaged(f"{path}: {len(data)} bytes long, was made with {size}. {ADVICE}")
        assert isinstance(salt, bytes)
        return salt

    def _continue(self, path: Path, data: bytes, salt: bytes, offset: int, batches: int) -> None:
        """Go on writing behind the last good batch; what is torn becomes zeros again."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._salt, self._offset, self._size, self._batch = salt, offset, len(data), batches
        tail = data[offset:].rstrip(b"\0")
        if tail:
            self._loaded.torn_bytes = len(tail)
            write_all(self._fd, bytes(len(tail)), offset)
            os.fdatasync(self._fd)
        self._sealed = False

    def _replay(self, path: Path, segment: Segment, batch: Batch, number: int) -> None:
        position = struct.pack(">QQ", segment.sequence, batch.sequence)
        try:
            for kind, payload in unpack(self._sealer.open(batch.body, position)):
                if kind == START:
                    self._replay_start(path, segment, raft_pb2.JournalSegment.FromString(payload), number)
                elif kind == HARD_STATE:
                    state = raft_pb2.HardState.FromString(payload)
                    self._loaded.term, self._loaded.vote = state.term, state.vote
                elif kind == ENTRY:
                    self._replay_entry(path, segment, raft_pb2.Entry.FromString(payload))
                elif kind != PADDING:
                    raise LogDamaged(f"{path}: record of unknown kind {kind}: written by a newer version?")
        except (DecodeError, struct.error) as error:
            raise LogDamaged(f"{path}: batch {batch.sequence} cannot be read ({error}). {ADVICE}") from error

    def _replay_start(
        self, path: Path, segment: Segment, start: raft_pb2.JournalSegment, number: int
    ) -> None:
        if start.format != FORMAT:
            raise LogDamaged(f"{path}: format {start.format}, this version reads {FORMAT}: upgrade swarmpy")
        if start.node_id != self._node_id or start.sequence != segment.sequence:
            raise LogDamaged(
                f"{path}: belongs to node {start.node_id}, segment {start.sequence}, not to {self._node_id}: "
                "is the state directory another node's?"
            )
        state = self._loaded
        state.term, state.vote = start.term, start.vote
        segment.max_index = start.prev_index
        if start.reset or number == 0:
            state.base_index, state.base_term, state.entries = start.prev_index, start.prev_term, []

    def _replay_entry(self, path: Path, segment: Segment, message: raft_pb2.Entry) -> None:
        state = self._loaded
        entry = Entry(message.index, message.term, int(message.kind), message.data)
        offset = entry.index - state.base_index - 1
        if not 0 <= offset <= len(state.entries):
            raise LogDamaged(f"{path}: entry {entry.index} does not follow the ones before it. {ADVICE}")
        del state.entries[offset:]
        state.entries.append(entry)
        segment.max_index = max(segment.max_index, entry.index)


ADVICE = "Remove this manager from the cluster, empty its raft directory and join it again"


class _Guard:
    """Any error inside makes the journal unusable."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._journal._broken = str(error) or type(error).__name__


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


def file_header(salt: bytes, size: int) -> bytes:
    head = FILE_HEADER.pack(MAGIC, salt, size, 0)[:-4]
    return head + struct.pack(">I", zlib.crc32(head))


def batch_header(salt: bytes, sequence: int, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(struct.pack(">QI", sequence, len(body))))
    return BATCH_HEADER.pack(salt, sequence, len(body), crc)


def read_batches(data: bytes, salt: bytes, offset: int) -> Iterator[Batch]:
    """Batches up to the first that does not check out."""
    expected = 0
    while offset + BATCH_HEADER.size <= len(data):
        marker, sequence, length, _ = BATCH_HEADER.unpack_from(data, offset)
        begin = offset + BATCH_HEADER.size
        end = begin + length
        if marker != salt or sequence != expected or end > len(data):
            return
        body = data[begin:end]
        if data[offset:begin] != batch_header(salt, sequence, body):
            return
        yield Batch(sequence, body, end)
        offset, expected = end, expected + 1


def later_marker(data: bytes, salt: bytes, offset: int, expected: int) -> bool:
    """Whether a batch after the `expected` one begins anywhere behind `offset`."""
    found = data.find(salt, offset)
    while found >= 0 and found + BATCH_HEADER.size <= len(data):
        if BATCH_HEADER.unpack_from(data, found)[1] > expected:
            return True
        found = data.find(salt, found + 1)
    return False


def any_data(data: bytes, offset: int) -> bool:
    return bool(data[offset:].rstrip(b"\0"))


def write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def make_file(path: Path, data: bytes, size: int) -> int:
    """A file of `size` bytes that appears under its name only when complete and durable."""
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.ExitStack() as undo:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, fd)
        write_all(fd, data, 0)
        zeros = bytes(1024 * 1024)
        for offset in range(len(data), size, len(zeros)):
            write_all(fd, zeros[: size - offset], offset)
        os.fsync(fd)
        temporary.rename(path)
        sync_directory(path.parent)
        undo.pop_all()
    return fd


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
