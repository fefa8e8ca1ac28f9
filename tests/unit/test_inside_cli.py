"""exec, cp and port-forward without a cluster: keys, arguments, archives on this machine."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.cli.archive import ArchiveError, pack, unpack
from swarmpy.cli.cp import ChunkReader, target_of
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.forward import pair
from swarmpy.cli.session import Keys, detach_keys


def test_detach_keys() -> None:
    assert detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert detach_keys("a,ctrl-[") == b"a\x1b"
    assert detach_keys("") == b""
    with pytest.raises(UsageRefused):
        detach_keys("ctrl-")


@given(st.lists(st.binary(max_size=6), max_size=8))
def test_keys_pass_everything_else(pieces: list[bytes]) -> None:
    keys, passed, left = Keys(b"\x10\x11"), b"", False
    for piece in pieces:
        data, left = keys.feed(piece)
        passed += data
        if left:
            break
    typed = b"".join(pieces)
    if left:
        assert b"\x10\x11" in typed
        assert typed.startswith(passed + b"\x10\x11")
    else:
        assert b"\x10\x11" not in typed
        assert typed in {passed, passed + b"\x10"}


def test_no_keys_never_leave() -> None:
    assert Keys(b"").feed(b"\x10\x11x") == (b"\x10\x11x", False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web:/a", ("web", "/a")), ("web.1:a", ("web.1", "/a")), ("./web:/a", None), ("/a:b", None),
        ("a", None), ("-", None), ("d/web:/a", None), ("web:", ("web", "/")),
    ],
)  # fmt: skip
def test_targets(text: str, expected: tuple[str, str] | None) -> None:
    assert target_of(text) == expected


def test_ports() -> None:
    assert [pair(text) for text in ("8080:80", "80", ":80", "0:80")] == [
        (8080, 80),
        (80, 80),
        (0, 80),
        (0, 80),
    ]
    for text in ("x", "80:", "70000", "80/udp", "1:2:3"):
        with pytest.raises(CliError):
            pair(text)


def copied(source: str, destination: Path) -> int:
    return unpack(ChunkReader(pack(source, False)), str(destination), keep_owner=False)


def test_a_tree_lands_as_cp_would_put_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_bytes(os.urandom(700_000))
    (tree / "sub/link").symlink_to("../file")
    os.link(tree / "file", tree / "sub/hard")
    assert copied(str(tree), tmp_path / "new") == 700_000
    assert (tmp_path / "new/file").read_bytes() == (tree / "file").read_bytes()
    assert os.readlink(tmp_path / "new/sub/link") == "../file"
    assert (tmp_path / "new/sub/hard").stat().st_nlink == 2
    (tmp_path / "there").mkdir()
    copied(str(tree), tmp_path / "there")
    assert (tmp_path / "there/tree/file").exists()
    copied(f"{tree}/.", tmp_path / "there")
    assert (tmp_path / "there/file").exists()
    copied(str(tree / "file"), tmp_path / "other")
    assert (tmp_path / "other").is_file()
    with pytest.raises(ArchiveError, match="no directory"):
        copied(str(tree), tmp_path / "other")
    with pytest.raises(ArchiveError, match="make it first"):
        unpack(ChunkReader(pack(str(tree / "file"), False)), f"{tmp_path}/gone/", keep_owner=False)


def hostile(*members: tuple[tarfile.TarInfo, bytes]) -> ChunkReader:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return ChunkReader([buffer.getvalue()])


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def test_a_hostile_archive_stays_inside(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    reader = hostile((member("../out/x"), b"x"))
    with pytest.raises(ArchiveError, match="outside"):
        unpack(reader, str(inside), keep_owner=False)
    reader = hostile((member("d", tarfile.SYMTYPE, str(outside)), b""), (member("d/x"), b"x"))
    with pytest.raises(OSError):
        unpack(reader, str(inside), keep_owner=False)
    reader = hostile((member("a"), b""), (member("h", tarfile.LNKTYPE, "../out/secret"), b""))
    with pytest.raises(ArchiveError, match="outside"):
        unpack(reader, str(inside), keep_owner=False)
    unpack(hostile((member("suid", mode=0o4755), b"x")), str(inside), keep_owner=False)
    assert (inside / "suid").stat().st_mode & 0o7777 == 0o755
    unpack(hostile((member("null", tarfile.CHRTYPE), b"")), str(inside), keep_owner=False)
    assert not (inside / "null").exists()
    assert list(outside.iterdir()) == []


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "in/file").symlink_to(tmp_path / "precious")
    unpack(hostile((member("file"), b"new")), str(tmp_path / "in"), keep_owner=False)
    assert (tmp_path / "precious").read_text() == "keep"
    assert (tmp_path / "in/file").read_text() == "new"


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    whole = b"".join(pack(str(tmp_path / "file"), False))
    with pytest.raises(ArchiveError, match="incomplete"):
        unpack(ChunkReader([whole[:50_000]]), str(tmp_path / "new"), keep_owner=False)
