"""The backup file: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.manager import backup_file
from swarmpy.node.manager.backup_file import (
    BackupDamaged,
    BackupError,
    KeyNeeded,
    NotABackup,
    Secret,
    WrongKey,
)
from swarmpy.proto import recovery_pb2

KEY = Secret(cluster_key=bytes(range(32)))
PLAIN = Secret()


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_file, "LOG2_N", 10)


def made(chunks: list[bytes], secret: Secret) -> bytes:
    file = io.BytesIO()
    header = recovery_pb2.BackupHeader(cluster_id="c" * 25, index=42, term=3, created_ms=1)
    size = backup_file.write(file, header, chunks, secret)
    assert size == len(file.getvalue())
    return file.getvalue()


def read(data: bytes, secret: Secret) -> tuple[recovery_pb2.BackupHeader, bytes]:
    header, bodies = backup_file.read(io.BytesIO(data), "x.backup", secret)
    return header, b"".join(bodies)


@pytest.mark.parametrize(
    "secret", [PLAIN, KEY, Secret(passphrase=b"open sesame")], ids=["plain", "key", "phrase"]
)
@pytest.mark.parametrize(
    "sizes", [[], [0], [5], [backup_file.CHUNK_BYTES], [3, backup_file.CHUNK_BYTES + 1, 0, 7]]
)
def test_round_trip(secret: Secret, sizes: list[int]) -> None:
    chunks = [os.urandom(size) for size in sizes]
    header, content = read(made(chunks, secret), secret)
    assert content == b"".join(chunks)
    assert (header.index, header.term, header.cluster_id) == (42, 3, "c" * 25)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_any_content(chunks: list[bytes], sealed: bool) -> None:
    secret = KEY if sealed else PLAIN
    assert read(made(chunks, secret), secret)[1] == b"".join(chunks)


@pytest.mark.parametrize("secret", [PLAIN, KEY], ids=["plain", "key"])
def test_every_flipped_byte_and_every_cut_is_seen(secret: Secret) -> None:
    """Without a key a forger could mend the checksums; damage is seen either way."""
    data = made([b"first " * 9, b"second " * 9], secret)
    body_starts = 12 + int.from_bytes(data[8:12], "big")
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        with pytest.raises(BackupError):
            read(bytes(broken), secret)
    for end in range(len(data)):
        with pytest.raises(BackupError):
            read(data[:end], secret)
    with pytest.raises(BackupDamaged, match="goes on after its end"):
        read(data + b"\0", secret)
    assert body_starts < len(data)


def test_chunks_cannot_be_swapped_repeated_or_left_out() -> None:
    whole = [bytes([n]) * backup_file.CHUNK_BYTES for n in range(3)]
    data = made(whole, KEY)
    start = 12 + int.from_bytes(data[8:12], "big")
    size = 4 + backup_file.CHUNK_BYTES + backup_file.TAG_BYTES
    head, parts = data[:start], [data[start + n * size : start + (n + 1) * size] for n in range(3)]
    assert read(head + b"".join(parts), KEY)[1] == b"".join(whole)
    for order in ([1, 0, 2], [0, 0, 2], [0, 2], [0, 1], [0, 1, 1, 2], [2]):
        with pytest.raises(BackupDamaged):
            read(head + b"".join(parts[n] for n in order), KEY)


def test_parts_of_two_backups_with_one_key_do_not_mix() -> None:
    one, two = made([b"one"], KEY), made([b"two"], KEY)
    start = 12 + int.from_bytes(one[8:12], "big")
    with pytest.raises(BackupError):
        read(one[:start] + two[12 + int.from_bytes(two[8:12], "big") :], KEY)


def test_what_is_missing_or_wrong_is_said() -> None:
    sealed, phrase = made([b"x"], KEY), made([b"x"], Secret(passphrase=b"right"))
    with pytest.raises(KeyNeeded, match="--key-file"):
        read(sealed, PLAIN)
    with pytest.raises(KeyNeeded, match="--passphrase-file"):
        read(phrase, KEY)
    with pytest.raises(WrongKey, match="another backup key"):
        read(sealed, Secret(cluster_key=bytes(32)))
    with pytest.raises(WrongKey, match="another passphrase"):
        read(phrase, Secret(passphrase=b"wrong"))
    with pytest.raises(NotABackup):
        read(b"PK\3\4" * 10, KEY)
    assert read(made([b"x"], PLAIN), KEY)[1] == b"x", "a key too many does no harm"


def test_header_can_be_read_without_a_key_and_holds_no_secret() -> None:
    data = made([b"canary-in-the-state"], Secret(passphrase=b"canary-phrase"))
    header = backup_file.read_header(io.BytesIO(data), "x.backup")
    assert header.index == 42
    assert b"canary" not in data


def test_impossible_effort_is_refused() -> None:
    """A forged header must not make a reader allocate gigabytes."""
    header = recovery_pb2.BackupHeader(format=1, salt=b"s" * 32)
    header.passphrase.CopyFrom(recovery_pb2.BackupPassphrase(salt=b"s", log2_n=30, r=8, p=1))
    head = header.SerializeToString()
    with pytest.raises(BackupDamaged, match="impossible effort"):
        read(backup_file.MAGIC + len(head).to_bytes(4, "big") + head, Secret(passphrase=b"x"))


def test_key_text() -> None:
    key = backup_file.new_key()
    text = backup_file.key_text(key)
    assert text.startswith("SWMBKP-1-")
    assert backup_file.key_of_text(f"  {text}\n") == key
    for wrong in ("", text[:-1], text[9:], "SWMTKN-1-" + text[9:], text + "a"):
        with pytest.raises(WrongKey):
            backup_file.key_of_text(wrong)


def test_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.backup"

    def breaks_off() -> object:
        yield b"some"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        backup_file.save(path, recovery_pb2.BackupHeader(), breaks_off(), KEY, replace=True)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    backup_file.save(path, recovery_pb2.BackupHeader(index=1), [b"one"], KEY, replace=False)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        backup_file.save(path, recovery_pb2.BackupHeader(index=2), [b"two"], KEY, replace=False)
    assert read(path.read_bytes(), KEY)[1] == b"one"
    backup_file.save(path, recovery_pb2.BackupHeader(index=2), [b"two"], KEY, replace=True)
    assert read(path.read_bytes(), KEY)[1] == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.backup"]
