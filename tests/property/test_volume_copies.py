"""Any tree, changed in any way between rounds, arrives as it was; and so through an archive."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.agent.volume_copy import Writer
from swarmpy.node.volume import archive, transfer, tree
from swarmpy.node.volume.errors import VolumeError
from swarmpy.proto import volumes_pb2

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and devices"),
]
NAMES = st.sampled_from(["a", "b", "ü", "with space", "x" * 200, "new\nline"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("file"), PATHS, st.binary(max_size=40)),
        st.tuples(st.just("sparse"), PATHS, st.integers(1, 1 << 20)),
        st.tuples(st.just("directory"), PATHS, st.integers(0, 0o7777)),
        st.tuples(st.just("link"), PATHS, st.sampled_from(["a", "/etc/passwd", "../..", "nowhere"])),
        st.tuples(st.just("hard"), PATHS, PATHS),
        st.tuples(st.just("pipe"), PATHS, st.just(0)),
        st.tuples(st.just("remove"), PATHS, st.just(0)),
        st.tuples(st.just("owner"), PATHS, st.integers(0, 70_000)),
        st.tuples(st.just("mode"), PATHS, st.integers(0, 0o7777)),
        st.tuples(st.just("xattr"), PATHS, st.binary(max_size=20)),
        st.tuples(st.just("time"), PATHS, st.integers(0, 4 * 10**18)),
        st.tuples(st.just("rename"), PATHS, PATHS),
    ),
    max_size=12,
)


def change(top: Path, what: str, path: str, value: Any) -> None:
    """One thing a task might do; what cannot be done is not."""
    place = top / path
    if what in {"file", "sparse"} and os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
        return  # a pipe would wait for a reader
    with contextlib.suppress(OSError):
        if what in {"file", "sparse", "directory", "link", "hard", "pipe", "rename"}:
            place.parent.mkdir(parents=True, exist_ok=True)
        match what:
            case "file":
                place.write_bytes(value)
            case "sparse":
                with place.open("wb") as file:
                    file.truncate(value)
                    file.seek(value // 2)
                    file.write(b"x")
            case "directory":
                place.mkdir(exist_ok=True)
                place.chmod(value)
            case "link":
                place.symlink_to(value)
            case "hard":
                os.link(top / value, place, follow_symlinks=False)
            case "pipe":
                os.mkfifo(place)
            case "remove":
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
            case "owner":
                os.chown(place, value, value + 1, follow_symlinks=False)
            case "mode" if not place.is_symlink():
                place.chmod(value)
            case "xattr" if stat.S_ISREG(place.lstat().st_mode):
                os.setxattr(place, "user.test", value)
            case "time":
                os.utime(place, ns=(value, value), follow_symlinks=False)
            case "rename":
                (top / value).rename(place)


def picture(top: Path) -> dict[bytes, object]:
    """All that a copy must keep."""
    names: dict[int, bytes] = {}
    seen: dict[bytes, object] = {}
    for found in sorted(tree.walk(top), key=lambda found: found.path):
        status = found.status
        kind = stat.S_IFMT(status.st_mode)
        same = names.setdefault(status.st_ino, found.path) if kind == stat.S_IFREG else b""
        path = Path(os.fsdecode(os.fsencode(top) + b"/" + found.path))
        data = path.read_bytes() if kind == stat.S_IFREG else b""
        attributes = {n: os.getxattr(path, n) for n in os.listxattr(path)} if kind == stat.S_IFREG else {}
        seen[found.path] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, found.link, same, data, attributes,
        )  # fmt: skip
    return seen


@contextlib.contextmanager
def places() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-volume-") as directory:
        source, target = Path(directory, "source"), Path(directory, "target")
        source.mkdir()
        (target / "fs/data").mkdir(parents=True)
        yield source, target


def one_round(
    copy: transfer.Copy, source: Path, sent: list[volumes_pb2.FileData] | None = None
) -> transfer.Round:
    """As the receiving agent does it, without the network."""
    entries = [entry for part in transfer.listing(source) for entry in part.entries]
    found = copy.compare(entries)
    vanished: set[bytes] = set()
    for batch in found.batches():
        basis = copy.basis(found, batch)
        writer = Writer(copy, found, batch, {entry.position for entry in basis})
        for piece in transfer.contents(source, batch, basis):
            writer.take([piece])
            if sent is not None:
                sent.append(piece)
        vanished |= writer.vanished
    copy.finish(found, vanished)
    copy.keep(found.entries.values())
    return found


@settings(max_examples=12, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=3), st.booleans())
def test_rounds_end_with_the_same_tree(rounds: list[list[tuple[str, str, Any]]], killed: bool) -> None:
    with places() as (source, target):
        copy = transfer.Copy(target)
        for changes in rounds:
            for what, path, value in changes:
                change(source, what, path, value)
            one_round(copy, source)
            if killed:
                copy = transfer.Copy(target)  # goes on from what the last whole round noted
        time.sleep(2 * transfer.TICKS_NS / 1e9)
        one_round(copy, source)
        assert one_round(copy, source).changed == 0, "a round before which nothing happened finds nothing"
        copy.complete()
        assert picture(target / "fs/data") == picture(source)
        assert [path.name for path in (target / "fs").iterdir()] == ["data"]


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 12 << 20), st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("zero"), st.integers(0, 12 << 20), st.integers(1, 3 << 20)),
        st.tuples(st.just("truncate"), st.integers(8 << 20, 13 << 20), st.just(0)),
    ),
    max_size=4,
)


@settings(max_examples=4, deadline=None)
@given(EDITS)
def test_of_large_files_only_other_blocks_travel(edits: list[tuple[str, int, Any]]) -> None:
    with places() as (source, target):
        large = source / "large"
        large.write_bytes(random.Random(1).randbytes(10 << 20))
        os.link(large, source / "same") if len(edits) == 4 else None
        copy = transfer.Copy(target)
        one_round(copy, source)
        size = large.stat().st_size
        for what, offset, value in edits:
            with large.open("r+b") as file:
                if what == "truncate":
                    file.truncate(offset)
                else:
                    file.seek(offset)
                    file.write(value if what == "write" else bytes(value))
        time.sleep(2 * transfer.TICKS_NS / 1e9)
        sent: list[volumes_pb2.FileData] = []
        one_round(copy, source, sent)
        copy.complete()
        assert picture(target / "fs/data") == picture(source)
        grown = max(0, large.stat().st_size - size)
        touched = sum(4 << 20 if what == "zero" else 2 << 20 for what, _, _ in edits) + grown + (2 << 20)
        if len(edits) < 4:
            assert sum(len(piece.data) for piece in sent) <= touched


@settings(max_examples=10, deadline=None)
@given(CHANGES)
def test_archives_bring_back_what_they_took(changes: list[tuple[str, str, Any]]) -> None:
    with places() as (source, target):
        for what, path, value in changes:
            change(source, what, path, value)
        (target / "fs/data/before").write_text("old")
        unpacker = archive.Unpacker(target / "fs")
        for data in archive.pack(source):
            unpacker.feed(data)
        unpacker.finish()
        unpacker.close()
        assert picture(target / "fs/data") == picture(source)
        assert [path.name for path in (target / "fs").iterdir()] == ["data"]


def entry(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../outside")],
        [entry("/etc/outside")],
        [entry("way", type=tarfile.SYMTYPE, linkname="/tmp"), entry("way/outside")],
        [entry("way", type=tarfile.LNKTYPE, linkname="../../fs/data/before")],
        [entry("./a/../../b")],
    ],
)
def test_archives_that_lead_outside_change_nothing(entries: list[tarfile.TarInfo]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info in entries:
            tar.addfile(info)
    refused(stream.getvalue())


def test_half_an_archive_changes_nothing() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(entry("big", size=100_000), io.BytesIO(bytes(100_000)))
    refused(stream.getvalue()[:50_000])


def refused(data: bytes) -> None:
    with places() as (_, target):
        fs = target / "fs"
        (fs / "data/before").write_text("old")
        unpacker = archive.Unpacker(fs)
        with pytest.raises(VolumeError):
            unpacker.feed(data)
            unpacker.finish()
        unpacker.close()
        assert [path.name for path in fs.iterdir()] == ["data"]
        assert [path.name for path in (fs / "data").iterdir()] == ["before"]
