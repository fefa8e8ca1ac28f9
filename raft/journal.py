"""The durable part of a member: term, vote and log entries, in segments on disk.

Rules.
* `write` returns only when its batch is on disk; after any error the journal refuses all
  further use (a failed fsync must never be retried: the kernel may have dropped the data).
  The one exception is DiskFull: no room for another segment, nothing was touched, try again.
* One batch, one fsync. A batch is `marker | sequence | length | crc32 | body`, the marker
  being the segment's own random 8 bytes. On opening, a batch that does not check out is a
  torn tail, never acknowledged, and is cut — unless a later marker follows it or it is not
  in the newest segment: then acknowledged data is damaged and the journal refuses to open.
  Before it is read the newest segment is synced and dropped from the page cache: what a
  killed process had written but not synced must not pass for durable.
* `seal` puts a page of padding and one more marker behind the newest batch when the log
  rests, so that a damaged page of data written long ago is never taken for a torn tail.
* Segments are filled with zeros when made (an fdatasync then writes no metadata, and a
  shorter file is damage, not a torn tail), each is
  written under another name, synced and renamed, and opens with all that is needed to
  read it without its predecessors; compaction is therefore unlinking the oldest ones.
* One more segment lies ready (`spare`): while it is there the disk may fill up without a
  write failing, and when it cannot be made the shell knows before it is too late. Without
  it the end of the segment is kept for last words, term and vote.
* Bodies are sealed (raft/seal.py): a batch is bound to the one before it, a segment's first
  to the last of the segment before.
* `incarnation` is drawn when the directory is empty: a member that lost its files is
  another one, which never voted.
* Everything here blocks: the shell calls it from one thread at a time (`make_spare` from
  any one other).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError
from swarmpy.proto import raft_pb2
from swarmpy.raft.core_log import Entry
from swarmpy.raft.log import DiskFull, LogClosed, LogDamaged, OtherVersion
from swarmpy.raft.seal import SALT_BYTES, Keys, NoKeys, PlainStream, SealBroken, Stream
from swarmpy.raft.segment import (
    BATCH_HEADER,
    ENTRY,
    FILE_HEADER,
    HARD_STATE,
    PADDING,
    START,
    Batch,
    FileHead,
    any_data,
    batch_header,
    file_header,
    full_disk_is_said,
    kind_of,
    later_marker,
    pack,
    read_batches,
    read_file_header,
    read_synced,
    sync_directory,
    unpack,
    write_all,
    write_zeros,
)

SEGMENT_BYTES = 8 * 1024 * 1024
FORMAT = 2
SEAL_BYTES = 4096
HEAD_BYTES_MAX = 4096
LAST_WORDS_BYTES_MAX = 64 * 1024
ADVICE = "Remove this manager from the cluster, empty its raft directory and join it again"


@dataclass
class Recovered:
    """What the disk said: entries follow each other from base_index + 1."""

    term: int = 0
    vote: str = ""
    base_index: int = 0
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)
    torn_bytes: int = 0
    incarnation: int = 0

    @property
    def empty(self) -> bool:
        return not self.term and not self.entries and not self.base_index


@dataclass
class Segment:
    path: Path
    sequence: int
    max_index: int
    key_id: int


class Journal:
    def __init__(
        self,
        directory: Path,
        node_id: str,
        *,
        keys: Keys | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._node_id = node_id
        self._keys = keys or NoKeys()
        self._stream: Stream = PlainStream()
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._fd = -1
        self._marker = b""
        self._offset = self._size = self._batch = 0
        self._sealed = True
        self._broken = ""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = self._lock()
        self._loaded = Recovered()
        self._spare = directory / "spare"
        self._spare_name = str(self._spare)
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
    def incarnation(self) -> int:
        return self._loaded.incarnation

    @property
    def key_ids(self) -> set[int]:
        """The data keys its segments are sealed with."""
        return {segment.key_id for segment in self._segments}

    @property
    def has_spare(self) -> bool:
        return os.path.exists(self._spare_name)  # asked for every batch: a Path is slow

    @property
    def room_bytes(self) -> int:
        """What entries may still take when no further segment can be made."""
        return max(0, self._size - self._offset - self._last_words_bytes)

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
            if not self._fits(len(body), last_words=not entries):
                self._rotate(len(body), entries[0] if entries else None)
            self._append(body)
            self._sealed = False
            if entries:
                last = entries[-1]
                segment = self._segments[-1]
                segment.max_index = max(segment.max_index, last.index)
                self._last = (last.index, last.term)

    @property
    def _last_words_bytes(self) -> int:
        return min(LAST_WORDS_BYTES_MAX, self._segment_bytes // 16)

    def _fits(self, body_bytes: int, *, last_words: bool, batches: int = 1) -> bool:
        end = self._offset + batches * (BATCH_HEADER.size + self._keys.overhead_bytes) + body_bytes
        kept = 0 if last_words or self.has_spare else self._last_words_bytes
        return end <= self._size - kept

    def seal(self) -> None:
        """Close the newest batch in, if it is not yet and there is room for it."""
        if self._sealed or self._broken:
            return
        with self._guard():
            body = pack([(PADDING, bytes(SEAL_BYTES))])
            if self._fits(len(body), last_words=False, batches=2):
                self._append(body)
                self._append(b"")
            elif self.has_spare:
                self._rotate(0, None)
            self._sealed = True

    def rotate(self) -> None:
        """Begin a new segment, sealed with the current data key."""
        with self._guard():
            self._rotate(0, None)

    def make_spare(self) -> None:
        """Have a segment ready for when this one is full. DiskFull."""
        if self.has_spare or self._broken:
            return
        temporary = self._spare.with_name("spare.tmp")
        try:
            with full_disk_is_said(self._directory):
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    write_zeros(fd, 0, self._segment_bytes)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                temporary.rename(self._spare)
        except (OSError, DiskFull):
            temporary.unlink(missing_ok=True)
            raise

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
        body = self._stream.seal(self._batch, body)
        data = batch_header(self._marker, self._batch, body) + body
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
            prev_tag=self._stream.tag, incarnation=state.incarnation,
        )  # fmt: skip
        marker, salt, key_id = secrets.token_bytes(8), secrets.token_bytes(SALT_BYTES), self._keys.current
        stream = self._keys.stream(key_id, kind_of(sequence), salt)
        body = stream.seal(0, pack([(START, start.SerializeToString())]))
        head_bytes = FILE_HEADER.size + BATCH_HEADER.size + len(body)
        needed = head_bytes + 2 * (BATCH_HEADER.size + self._keys.overhead_bytes) + body_bytes
        size = max(self._segment_bytes, needed + self._last_words_bytes)
        data = file_header(FileHead(marker, size, salt, key_id)) + batch_header(marker, 0, body) + body
        path = self._directory / f"{sequence:016x}.wal"
        with full_disk_is_said(self._directory):
            fd = self._make_file(path, data, size)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._marker, self._stream = fd, marker, stream
        self._offset, self._size, self._batch = len(data), size, 1
        self._segments.append(Segment(path, sequence, self._last[0], key_id))

    def _make_file(self, path: Path, data: bytes, size: int) -> int:
        """A file of `size` bytes that appears under its name only when complete and durable."""
        spare = size == self._segment_bytes and len(data) <= HEAD_BYTES_MAX and self.has_spare
        temporary = self._spare if spare else path.with_name(path.name + ".tmp")
        with contextlib.ExitStack() as undo:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, fd)
            if not spare:
                undo.callback(temporary.unlink, missing_ok=True)
            write_all(fd, data, 0)
            if not spare:
                write_zeros(fd, len(data), size)
            os.fsync(fd)
            temporary.rename(path)
            sync_directory(path.parent)
            undo.pop_all()
        return fd

    def _unlink(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            segment.path.unlink()
        if segments:
            sync_directory(self._directory)

    # -- reading

    def _load(self) -> None:
        for leftover in (*self._directory.glob("*.wal.tmp"), *self._directory.glob("spare.tmp")):
            leftover.unlink()
        self._check_spare()
        paths = sorted(self._directory.glob("*.wal"))
        self._last = (0, 0)
        if not paths:
            self._loaded.incarnation = secrets.randbits(63) | 1
            self._create(1, 0, reset=False)
            return
        for number, path in enumerate(paths):
            self._load_segment(path, number, newest=number == len(paths) - 1)
        state = self._loaded
        last = state.entries[-1] if state.entries else None
        self._last = (last.index, last.term) if last else (state.base_index, state.base_term)

    def _check_spare(self) -> None:
        """A spare that was about to be used, or is of another size, is none."""
        if not self.has_spare:
            return
        with self._spare.open("rb") as file:
            clean = not any(file.read(HEAD_BYTES_MAX))
        if not clean or self._spare.stat().st_size != self._segment_bytes:
            self._spare.unlink()

    def _load_segment(self, path: Path, number: int, *, newest: bool) -> None:
        data = read_synced(path) if newest else path.read_bytes()
        head = self._file_head(path, data)
        sequence = int(path.name.removesuffix(".wal"), 16)
        if number and sequence != self._segments[-1].sequence + 1:
            raise LogDamaged(f"{path}: the segment before it is missing. {ADVICE}")
        segment = Segment(path, sequence, 0, head.key_id)
        self._segments.append(segment)
        previous_tag = self._stream.tag
        offset, batches = FILE_HEADER.size, 0
        try:
            self._stream = self._keys.stream(head.key_id, kind_of(sequence), head.salt)
            for batch in read_batches(data, head.marker, offset):
                self._replay(path, segment, batch, previous_tag if number else None)
                offset, batches = batch.end, batches + 1
        except SealBroken as error:
            raise LogDamaged(
                f"{path}: batch {batches} at byte {offset} cannot be opened: {error}. {ADVICE}"
            ) from None
        if (
            batches == 0
            or later_marker(data, head.marker, offset, batches)
            or (not newest and any_data(data, offset))
        ):
            raise LogDamaged(f"{path}: damaged at byte {offset}, with acknowledged data behind it. {ADVICE}")
        if newest:
            self._continue(path, data, head.marker, offset, batches)

    def _file_head(self, path: Path, data: bytes) -> FileHead:
        if data[:7] == b"SWPYWAL" and data[7:8] != b"2":
            raise LogDamaged(f"{path}: written by another version of swarmpy. {ADVICE}")
        head = read_file_header(data)
        if head is None:
            raise LogDamaged(f"{path}: not a journal segment or its header is damaged. {ADVICE}")
        if len(data) != head.size:
            raise LogDamaged(f"{path}: {len(data)} bytes long, was made with {head.size}. {ADVICE}")
        if bool(head.key_id) != bool(self._keys.current):
            raise LogDamaged(
                f"{path}: sealed with key {head.key_id}, but keys are {self._keys.current}. {ADVICE}"
            )
        return head

    def _continue(self, path: Path, data: bytes, marker: bytes, offset: int, batches: int) -> None:
        """Go on writing behind the last good batch; what is torn becomes zeros again."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._marker, self._offset, self._size, self._batch = marker, offset, len(data), batches
        tail = data[offset:].rstrip(b"\0")
        if tail:
            self._loaded.torn_bytes = len(tail)
            write_all(self._fd, bytes(len(tail)), offset)
            os.fdatasync(self._fd)
        self._sealed = False

    def _replay(self, path: Path, segment: Segment, batch: Batch, previous_tag: bytes | None) -> None:
        body = self._stream.open(batch.sequence, batch.body)
        try:
            for kind, payload in unpack(body):
                if kind == START:
                    start = raft_pb2.JournalSegment.FromString(payload)
                    self._replay_start(path, segment, start, previous_tag)
                elif kind == HARD_STATE:
                    state = raft_pb2.HardState.FromString(payload)
                    self._loaded.term, self._loaded.vote = state.term, state.vote
                elif kind == ENTRY:
                    self._replay_entry(path, segment, raft_pb2.Entry.FromString(payload))
                elif kind != PADDING:
                    raise OtherVersion(f"{path} holds a record of kind {kind}")
        except (DecodeError, struct.error) as error:
            raise LogDamaged(f"{path}: batch {batch.sequence} cannot be read ({error}). {ADVICE}") from error

    def _replay_start(
        self, path: Path, segment: Segment, start: raft_pb2.JournalSegment, previous_tag: bytes | None
    ) -> None:
        if start.format != FORMAT:
            raise OtherVersion(f"{path} has format {start.format}, this version reads {FORMAT}")
        if start.node_id != self._node_id or start.sequence != segment.sequence:
            raise LogDamaged(
                f"{path}: belongs to node {start.node_id}, segment {start.sequence}, not to {self._node_id}: "
                "is the state directory another node's?"
            )
        if previous_tag is not None and start.prev_tag != previous_tag:
            raise LogDamaged(f"{path}: the end of the segment before it is missing. {ADVICE}")
        state = self._loaded
        state.term, state.vote, state.incarnation = start.term, start.vote, start.incarnation
        segment.max_index = start.prev_index
        if start.reset or previous_tag is None:
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


class _Guard:
    """Any error inside makes the journal unusable, but for DiskFull."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, DiskFull):
            self._journal._broken = str(error) or type(error).__name__
