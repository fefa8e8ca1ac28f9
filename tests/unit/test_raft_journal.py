"""The journal: what it wrote it gives back, and damage is found, never believed."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from swarmpy.raft.core_log import COMMAND, Entry
from swarmpy.raft.journal import BATCH_HEADER, Journal
from swarmpy.raft.log import LogClosed, LogDamaged

SMALL = 16384


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(index, term, COMMAND, data or b"command %d" % index)


def opened(directory: Path, **options: int) -> Journal:
    return Journal(directory, "n1", segment_bytes=options.get("segment_bytes", SMALL))


def filled(directory: Path, batches: int = 20) -> list[Entry]:
    journal = opened(directory)
    entries = []
    for number in range(batches):
        new = [entry(3 * number + i, 1 + number // 5) for i in (1, 2, 3)]
        journal.write((1 + number // 5, "n2"), new)
        entries += new
    journal.close()
    return entries


def recovered(directory: Path) -> tuple[int, str, list[Entry]]:
    journal = opened(directory)
    found = journal.recovered
    journal.close()
    return found.term, found.vote, found.entries


def test_everything_comes_back(tmp_path: Path) -> None:
    entries = filled(tmp_path)
    assert recovered(tmp_path) == (4, "n2", entries)
    assert recovered(tmp_path) == (4, "n2", entries)


def test_an_index_again_replaces_it_and_what_follows(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write((1, ""), [entry(i) for i in range(1, 8)])
    journal.write((2, ""), [entry(4, 2)])
    journal.close()
    assert recovered(tmp_path)[2] == [entry(1), entry(2), entry(3), entry(4, 2)]


def test_compaction_removes_whole_segments_and_keeps_the_rest(tmp_path: Path) -> None:
    entries = filled(tmp_path, 400)
    journal = opened(tmp_path)
    before = len(list(tmp_path.glob("*.wal")))
    journal.compact(900)
    journal.write((9, "n3"), [])
    journal.close()
    assert len(list(tmp_path.glob("*.wal"))) < before
    term, vote, kept = recovered(tmp_path)
    assert (term, vote) == (9, "n3")
    assert kept == entries[kept[0].index - 1 :]
    assert kept[0].index <= 901


def test_reset_begins_after_the_snapshot(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = opened(tmp_path)
    journal.reset(500, 7)
    journal.write(None, [entry(501, 7)])
    journal.close()
    again = opened(tmp_path)
    assert (again.recovered.base_index, again.recovered.base_term) == (500, 7)
    assert again.recovered.entries == [entry(501, 7)]
    assert (again.recovered.term, again.recovered.vote) == (4, "n2")
    again.close()


def test_a_batch_larger_than_a_segment_fits(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    big = entry(1, 1, b"x" * 50_000)
    journal.write((1, ""), [big])
    journal.write(None, [entry(2)])
    journal.close()
    assert recovered(tmp_path)[2] == [big, entry(2)]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Segments have their full size from the start, so a shorter one was never only torn."""
    filled(tmp_path)
    path = max(tmp_path.glob("*.wal"))
    whole = path.read_bytes()
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        with pytest.raises(LogDamaged):
            opened(tmp_path)
    path.write_bytes(whole)
    recovered(tmp_path)


def test_a_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    """The log was closed, so nothing in it can pass for a torn tail: no silent loss at any byte."""
    expected = (4, "n2", filled(tmp_path))
    for path in sorted(tmp_path.glob("*.wal")):
        whole = path.read_bytes()
        end = len(whole.rstrip(b"\0"))
        for offset in [*range(0, end, 3), *range(end, len(whole), 509)]:
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << (offset % 8)
            path.write_bytes(damaged)
            try:
                assert recovered(tmp_path) == expected, f"{path.name} byte {offset}"
            except LogDamaged:
                pass
            path.write_bytes(whole)  # a cut tail was rewritten
        path.write_bytes(whole)
    assert recovered(tmp_path) == expected


def test_a_torn_last_batch_is_cut_at_every_length(tmp_path: Path) -> None:
    """What a power cut leaves of a batch that was never acknowledged: some of it, or pages of zeros."""
    journal = opened(tmp_path, segment_bytes=65536)
    journal.write((1, ""), [entry(i) for i in range(1, 11)])
    path = next(tmp_path.glob("*.wal"))
    acknowledged = path.read_bytes()
    journal.write((2, "n3"), [entry(11, 2), entry(12, 2)])
    both = path.read_bytes()
    os.close(journal._lock_fd)
    os.close(journal._fd)
    journal._fd = journal._lock_fd = -1
    end = len(both.rstrip(b"\0"))
    begin = next(i for i in range(end) if acknowledged[i] != both[i])
    for cut in range(begin, end):
        for torn in (both[:cut] + bytes(len(both) - cut), acknowledged[:cut] + both[cut:]):
            if torn == both:
                continue
            path.write_bytes(torn)
            term, vote, entries = recovered(tmp_path)
            assert (term, vote, entries) == (1, "", [entry(i) for i in range(1, 11)]), cut
            again = opened(tmp_path)
            again.write(None, [entry(11, 3)])
            again.close()
            assert recovered(tmp_path)[2][-1] == entry(11, 3)
    assert begin > BATCH_HEADER.size


def test_random_damage_never_invents(tmp_path: Path) -> None:
    expected = (4, "n2", filled(tmp_path))
    chance = random.Random(5)
    for _ in range(300):
        path = chance.choice(sorted(tmp_path.glob("*.wal")))
        whole = path.read_bytes()
        damaged = bytearray(whole)
        start = chance.randrange(len(whole))
        length = chance.choice((1, 16, 512))
        damaged[start : start + length] = chance.choice((bytes(length), chance.randbytes(length)))[
            : len(whole) - start
        ]
        path.write_bytes(damaged)
        try:
            assert recovered(tmp_path) == expected
        except LogDamaged:
            pass
        path.write_bytes(whole)


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, 400)
    paths = sorted(tmp_path.glob("*.wal"))
    paths[1].unlink()
    with pytest.raises(LogDamaged, match="missing"):
        opened(tmp_path)


def test_another_nodes_directory_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(LogDamaged, match="belongs to node n1"):
        Journal(tmp_path, "n2", segment_bytes=SMALL)


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    with pytest.raises(LogClosed, match="another process"):
        opened(tmp_path)
    journal.close()


def test_after_a_failed_write_nothing_is_written_again(tmp_path: Path) -> None:
    """A real full file: the size limit of the process makes the kernel refuse."""
    journal = opened(tmp_path)
    journal.write((1, ""), [entry(1)])
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, old[1]))
        with pytest.raises(OSError) as error:
            journal.write(None, [entry(2, 1, b"x" * 12000)])
        assert error.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(LogClosed):
        journal.write(None, [entry(2)])
    journal.close()
    assert recovered(tmp_path)[2] == [entry(1)]


WRITER = """
import sys
from pathlib import Path
from swarmpy.raft.core_log import Entry
from swarmpy.raft.journal import Journal
journal = Journal(Path(sys.argv[1]), "n1", segment_bytes=16384)
index = len(journal.recovered.entries)
while True:
    index += 1
    journal.write(None, [Entry(index, 1, 1, b"x" * 100)])
    print(index, flush=True)
"""


def test_killed_while_writing_it_has_all_it_said(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(60):
                said = int(writer.stdout.readline())
            writer.kill()
            rest = writer.stdout.read().split()
            said = int(rest[-1]) if rest and rest[-1].isdigit() else said
        assert len(recovered(tmp_path)[2]) >= said
