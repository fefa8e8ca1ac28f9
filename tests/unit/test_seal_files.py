"""Sealed files: what was written comes back; anything else is found, cut as a torn tail, or harmless."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from swarmpy.proto import raft_pb2
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.core_log import COMMAND, Entry
from swarmpy.raft.journal import Journal
from swarmpy.raft.keyring import KeyRing, Locked, WrongKey
from swarmpy.raft.log import DiskFull, LogDamaged
from swarmpy.raft.seal import DataKeys, SealBroken
from swarmpy.raft.segment import FILE_HEADER, batch_header, read_batches, read_file_header

SMALL = 16384
KEK = bytes(range(32))
SECRET = b"canary in a command"


def ring(directory: Path, unlock_key: bytes = b"", node_id: str = "n1", cluster_id: str = "c1") -> KeyRing:
    return KeyRing(directory, cluster_id, node_id, unlock_key=unlock_key)


def opened(directory: Path, keys: KeyRing | None = None) -> Journal:
    return Journal(directory, "n1", keys=keys or ring(directory), segment_bytes=SMALL)


def entry(index: int, term: int = 1) -> Entry:
    return Entry(index, term, COMMAND, SECRET + b" %d" % index)


def filled(directory: Path, count: int = 40) -> list[Entry]:
    journal = opened(directory)
    entries = [entry(i, 1 + i // 10) for i in range(1, count + 1)]
    for one in entries:
        journal.write((one.term, "n2"), [one])
    journal.close()
    return entries


def content(directory: Path) -> tuple[int, str, list[Entry]]:
    journal = opened(directory)
    found = journal.recovered
    journal.close()
    return found.term, found.vote, found.entries


def snapshot(directory: Path) -> tuple[Checkpoints, Path, list[bytes]]:
    checkpoints = Checkpoints(directory, ring(directory))
    chunks = [SECRET * 20, b"x" * 300, b"end"]
    path = checkpoints.write(raft_pb2.SnapshotMeta(index=7, term=2), iter(chunks))
    return checkpoints, path, chunks


def test_nothing_on_disk_is_readable(tmp_path: Path) -> None:
    filled(tmp_path)
    snapshot(tmp_path)
    keys = ring(tmp_path)
    keys.lock(KEK)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert SECRET not in data
        for key in keys.keys.values():
            assert key not in data


def test_a_record_opens_only_at_its_own_place() -> None:
    keys = DataKeys("c1", "n1", {1: bytes(32)}, 1)
    salt = bytes(16)
    writer = keys.stream(1, "journal 1", salt)
    first, second, third = (writer.seal(number, b"body") for number in range(3))
    assert len({first, second, third}) == 3
    reader = keys.stream(1, "journal 1", salt)
    assert [reader.open(n, r) for n, r in enumerate((first, second, third))] == [b"body"] * 3
    elsewhere = [
        (DataKeys("c1", "n2", {1: bytes(32)}, 1), "journal 1", salt, [(0, first)]),
        (DataKeys("c2", "n1", {1: bytes(32)}, 1), "journal 1", salt, [(0, first)]),
        (DataKeys("c1", "n1", {1: bytes(31) + b"1"}, 1), "journal 1", salt, [(0, first)]),
        (keys, "journal 2", salt, [(0, first)]),
        (keys, "snapshot", salt, [(0, first)]),
        (keys, "journal 1", bytes(15) + b"1", [(0, first)]),
        (keys, "journal 1", salt, [(0, second)]),
        (keys, "journal 1", salt, [(0, first), (1, third)]),
        (keys, "journal 1", salt, [(0, first), (2, third)]),
        (keys, "journal 1", salt, [(0, first[:10])]),
    ]
    for others, kind, other_salt, records in elsewhere:
        stream = others.stream(1, kind, other_salt)
        with pytest.raises(SealBroken):
            for number, record in records:
                stream.open(number, record)


def test_what_was_torn_and_written_again_never_shares_a_nonce(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write(None, [entry(1)])
    path = next(tmp_path.glob("*.wal"))
    before = path.read_bytes()
    journal.write(None, [entry(2)])
    torn = path.read_bytes()
    head = read_file_header(torn)
    assert head is not None
    nonce = list(read_batches(torn, head.marker, FILE_HEADER.size))[2].body[:4]
    journal.close()
    path.write_bytes(before)
    again = opened(tmp_path)
    again.write(None, [entry(2, 2)])
    again.close()
    data = path.read_bytes()
    assert list(read_batches(data, head.marker, FILE_HEADER.size))[2].body[:4] != nonce


def check_sweep(
    path: Path, look: Callable[[], object], expected: object, torn: Callable[[object], bool], step: int = 1
) -> tuple[int, int]:
    """Flip a bit of every byte, cut at every offset: refused, as it was, or a torn tail; never else."""
    whole = path.read_bytes()
    refused = same = 0
    for damaged in damages(whole, step):
        path.write_bytes(damaged)
        try:
            seen = look()
        except LogDamaged:
            refused += 1
        else:
            assert seen == expected or torn(seen), f"{path.name}: damage was not seen"
            same += 1
        path.write_bytes(whole)
    return refused, same


def damages(whole: bytes, step: int) -> list[bytes]:
    end = len(whole.rstrip(b"\0"))
    out = []
    for offset in [*range(0, end, step), *range(end, len(whole), 997)]:
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << (offset % 8)
        out.append(bytes(flipped))
    return [*out, *(whole[:size] for size in [*range(0, end, 7 * step), len(whole) - 1])]


def test_every_byte_of_a_journal(tmp_path: Path) -> None:
    expected = (1, "n2", filled(tmp_path, 8))
    path = next(tmp_path.glob("*.wal"))
    refused, _ = check_sweep(path, lambda: content(tmp_path), expected, lambda seen: False, step=5)
    assert refused > 500
    assert content(tmp_path) == expected


def test_every_byte_of_a_journal_that_was_cut_off(tmp_path: Path) -> None:
    """Not closed in: damage to the newest batch is a torn tail, what was before is still exact."""
    entries = [entry(1), entry(2)]
    journal = opened(tmp_path)
    for one in entries:
        journal.write((1, ""), [one])
    os.close(journal._lock_fd)
    os.close(journal._fd)
    journal._fd = journal._lock_fd = -1
    path = next(tmp_path.glob("*.wal"))
    shorter = ((1, "", entries[:1]), (0, "", []))
    check_sweep(path, lambda: content(tmp_path), (1, "", entries), lambda seen: seen in shorter)


def test_every_byte_of_a_snapshot(tmp_path: Path) -> None:
    checkpoints, path, chunks = snapshot(tmp_path)

    def look() -> object:
        return checkpoints.verify(path).term, list(checkpoints.chunks(path))

    refused, same = check_sweep(path, look, (2, chunks), lambda seen: False)
    assert refused
    assert not same


@pytest.mark.parametrize("unlock_key", [b"", KEK], ids=["clear", "locked"])
def test_every_byte_of_the_key_file(tmp_path: Path, unlock_key: bytes) -> None:
    keys = ring(tmp_path)
    keys.begin_rotation(unlock_key)
    expected = (keys.keys, keys.current, keys.lock_id)

    def look() -> object:
        found = ring(tmp_path, unlock_key)
        return found.keys, found.current, found.lock_id

    refused, same = check_sweep(keys.path, look, expected, lambda seen: False)
    assert refused
    assert not same


def test_a_forged_batch_with_a_right_checksum_is_refused(tmp_path: Path) -> None:
    """Whoever can write the disk can make checksums, but no seals."""
    filled(tmp_path, 8)
    path = next(tmp_path.glob("*.wal"))
    whole = path.read_bytes()
    head = read_file_header(whole)
    assert head is not None
    batches = list(read_batches(whole, head.marker, FILE_HEADER.size))
    begin = batches[2].end
    body = bytes([batches[3].body[0] ^ 1]) + batches[3].body[1:]
    forged = whole[:begin] + batch_header(head.marker, 3, body) + body
    path.write_bytes(forged + whole[len(forged) :])
    with pytest.raises(LogDamaged, match="cannot be opened"):
        content(tmp_path)
    swapped = whole[:begin] + batch_header(head.marker, 3, batches[2].body) + batches[2].body
    path.write_bytes(swapped + bytes(len(whole) - len(swapped)))
    with pytest.raises(LogDamaged, match="cannot be opened"):
        content(tmp_path)


def test_the_end_of_an_older_segment_cannot_be_dropped(tmp_path: Path) -> None:
    filled(tmp_path, 400)
    first = min(tmp_path.glob("*.wal"))
    whole = first.read_bytes()
    head = read_file_header(whole)
    assert head is not None
    batches = list(read_batches(whole, head.marker, FILE_HEADER.size))
    end = batches[-2].end
    first.write_bytes(whole[:end] + bytes(len(whole) - end))
    with pytest.raises(LogDamaged, match="the end of the segment before it is missing"):
        content(tmp_path)


def test_files_of_another_node_cluster_or_key_are_refused(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    filled(mine)
    filled(other)
    with pytest.raises(LogDamaged, match="another node"):
        ring(mine, node_id="n2")
    with pytest.raises(LogDamaged, match="another node"):
        ring(mine, cluster_id="c2")
    shutil.copy(other / "keys", mine / "keys")
    with pytest.raises(LogDamaged, match="cannot be opened"):
        content(mine)
    (mine / "keys").unlink()
    with pytest.raises(LogDamaged, match="is missing"):
        ring(mine)


def test_a_snapshot_under_another_index_is_refused(tmp_path: Path) -> None:
    checkpoints, path, _ = snapshot(tmp_path)
    path.rename(checkpoints.path(99))
    with pytest.raises(LogDamaged, match="holds the snapshot of index 7"):
        checkpoints.verify(checkpoints.path(99))


def test_the_lock(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.lock(KEK)
    with pytest.raises(Locked, match=keys.lock_id.hex()):
        ring(tmp_path)
    with pytest.raises(WrongKey, match="enter the one from before"):
        ring(tmp_path, bytes(32))
    assert ring(tmp_path, KEK).keys == keys.keys
    keys.lock(b"")
    assert ring(tmp_path).keys == keys.keys
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_said_and_goes_away(tmp_path: Path) -> None:
    """No further segment can be made: entries wait, last words fit, and it goes on when there is room."""
    journal = opened(tmp_path)
    refuse = tmp_path / "0000000000000002.wal.tmp"
    refuse.symlink_to("/dev/full")
    index = 0
    try:
        with pytest.raises(DiskFull):
            while True:
                journal.write(None, [entry(index + 1)])
                index += 1
        assert not journal.has_spare
        journal.write((5, "n3"), [])
        refuse.unlink(missing_ok=True)
        journal.make_spare()
        journal.write(None, [entry(index + 1)])
    finally:
        journal.close()
    assert content(tmp_path) == (5, "n3", [entry(i) for i in range(1, index + 2)])
