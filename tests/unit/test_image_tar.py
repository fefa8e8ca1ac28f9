"""The tar reader against the standard library's writer, and against damage."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.image import compression
from swarmpy.node.image.errors import ArchiveDamaged, ArchiveHostile, ImageError, Unsupported
from swarmpy.node.image.tar import Entry, TarReader

from tests.images import entry, layer


def read(data: bytes, entries_max: int = 1000) -> list[tuple[Entry, bytes]]:
    reader = TarReader(io.BytesIO(data), "test", entries_max=entries_max)
    return [(item, b"".join(iter(reader.read, b""))) for item in reader.entries()]


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_reads_what_the_standard_library_writes(style: int) -> None:
    long = "d" * 90 + "/" + "n" * 60
    if style != tarfile.USTAR_FORMAT:
        long += "/" + "é" * 100
    data = layer(
        entry("dir", type=tarfile.DIRTYPE, mode=0o1755, uid=3, gid=4, mtime=1_700_000_000),
        entry("dir/file", b"hello" * 300, mode=0o4755),
        entry(long, b"x"),
        entry("link", type=tarfile.SYMTYPE, linkname="dir/file"),
        entry("hard", type=tarfile.LNKTYPE, linkname="dir/file"),
        entry("fifo", type=tarfile.FIFOTYPE),
        entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        format=style,
    )
    found = read(data)
    assert [(item.name.rstrip("/"), item.kind) for item, _ in found] == [
        ("dir", "directory"), ("dir/file", "file"), (long, "file"), ("link", "symlink"), ("hard", "hardlink"),
        ("fifo", "fifo"), ("null", "char"),
    ]  # fmt: skip
    assert (found[0][0].uid, found[0][0].gid, found[0][0].mtime) == (3, 4, 1_700_000_000)
    assert found[1][1] == b"hello" * 300
    assert found[1][0].mode == 0o4755
    assert found[3][0].link == "dir/file"


def test_pax_carries_large_numbers_times_and_attributes() -> None:
    member, data = entry("f", b"abc", uid=4_000_000, mtime=1.5)
    member.pax_headers = {"SCHILY.xattr.user.k": "v", "mtime": "1.5"}
    (found, _), *rest = read(layer((member, data)))
    assert (found.uid, found.mtime, found.xattrs, rest) == (4_000_000, 1.5, {"user.k": b"v"}, [])


def test_an_unread_entry_is_skipped() -> None:
    reader = TarReader(io.BytesIO(layer(entry("a", b"x" * 5000), entry("b", b"y"))), "test", entries_max=9)
    assert [item.name for item in reader.entries()] == ["a", "b"]


@pytest.mark.parametrize("cut", [100, 600, 1024 + 100])
def test_a_truncated_archive_is_damaged(cut: int) -> None:
    with pytest.raises(ArchiveDamaged, match="truncated"):
        read(layer(entry("a", b"x" * 3000))[:cut])


def test_no_tar_at_all_is_damaged() -> None:
    with pytest.raises(ArchiveDamaged, match="no tar archive"):
        read(b"hello world " * 100)


@pytest.mark.parametrize("field", [148, 124, 136])
def test_noise_is_named_for_what_it_is(field: int) -> None:
    noise = bytearray(b"\x55" * 1024)
    noise[field] = 0xE5  # a negative number in base 256
    with pytest.raises(ArchiveDamaged, match="no tar archive"):
        read(bytes(noise))


def test_limits() -> None:
    with pytest.raises(ArchiveHostile, match="more than 2 entries"):
        read(layer(*(entry(str(n), b"") for n in range(3))), entries_max=2)
    header = bytearray(layer(entry("x", b"")))[:512]
    header[156:157], header[124:136] = b"x", b"77777777777\0"
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    with pytest.raises(ArchiveHostile, match="extended header of"):
        read(bytes(header))


def test_sparse_entries_are_refused() -> None:
    member, data = entry("s", b"abc")
    member.pax_headers = {"GNU.sparse.major": "1"}
    with pytest.raises(Unsupported, match="sparse"):
        read(layer((member, data)))


@pytest.mark.parametrize(("magic", "name"), [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0", "xz")])
def test_other_compressions_are_named(magic: bytes, name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        compression.detect(magic + b"...", "test")


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_never_surprises(data: bytes) -> None:
    try:
        read(data)
    except ImageError:
        pass


BASE = layer(
    entry("dir", type=tarfile.DIRTYPE), entry("dir/" + "n" * 120, b"y" * 700, uid=1 << 22), entry("z", b"1")
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_surprise(flips: list[tuple[int, int]]) -> None:
    data = bytearray(BASE)
    for position, value in flips:
        data[position] = value
    try:
        for item, content in read(bytes(data)):
            assert len(content) == item.size
    except ImageError:
        pass


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=400), kind=st.sampled_from([b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"]))
def test_damaged_compression_is_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: bytes
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "compressed"
    path.write_bytes(kind + data)
    with path.open("rb") as file, pytest.raises(ImageError), compression.opened(file, "test") as stream:
        while stream.read(65536):
            pass
        raise ArchiveDamaged("nothing was wrong by chance")
