"""The extractor without its chroot: whatever the archive, nothing outside the layer changes."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.image.errors import ImageError
from swarmpy.node.image.extract import Extractor
from swarmpy.node.image.tar import TarReader

from tests.images import Entry, entry, layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and capabilities"),
]
KINDS = {
    tarfile.SYMTYPE: 8,
    tarfile.REGTYPE: 8,
    tarfile.DIRTYPE: 4,
    tarfile.LNKTYPE: 2,
    tarfile.FIFOTYPE: 1,
    tarfile.CHRTYPE: 1,
}
TYPES = [kind for kind, weight in KINDS.items() for _ in range(weight)]
NAMES = ["a", "a", "b", "b", "secret", ".", ".wh.a", ".wh..wh..opq"]
name = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
path = st.lists(st.sampled_from([*NAMES, "..", ".wh..."]), min_size=1, max_size=4).map("/".join)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(TYPES))
    outside = st.sampled_from(["/OUTSIDE", "/OUTSIDE/secret", "../outside", "../outside/secret"])
    target = draw(st.one_of(outside, name, path))
    mode = draw(st.sampled_from([0, 0o644, 0o4755, 0o1777]))
    data = b"data" if kind == tarfile.REGTYPE else None
    return entry(
        draw(st.one_of(*[name] * 20, path)),
        data,
        type=kind,
        linkname=target,
        mode=mode,
        uid=draw(st.integers(0, 3)),
    )


def picture(directory: Path) -> list[object]:
    found: list[object] = []
    for item in sorted(directory.rglob("*")):
        info = item.lstat()
        content = item.read_bytes() if item.is_file() else b""
        found.append(
            (item, info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, info.st_size, content)
        )
    return found


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(entries(), min_size=1, max_size=8), min_size=1, max_size=3))
def test_nothing_outside_changes(tmp_path_factory: pytest.TempPathFactory, layers: list[list[Entry]]) -> None:
    base = tmp_path_factory.mktemp("extract")
    outside = base / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not to be read or written")
    before = picture(outside)
    parents: list[int] = []
    try:
        for number, members in enumerate(layers):
            for member, _ in members:
                member.linkname = member.linkname.replace("/OUTSIDE", str(outside))
            root = base / f"layer{number}"
            root.mkdir()
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            reader = TarReader(io.BytesIO(layer(*members)), "test", entries_max=100)
            try:
                Extractor(fd, lambda: parents, "test", bytes_max=1 << 20).run(reader)
            except ImageError:
                pass
            parents.append(fd)
            files = [item for item in root.rglob("*") if item.is_file() and not item.is_symlink()]
            assert not any(b"not" in item.read_bytes() for item in files)
        assert picture(outside) == before
        assert {p.name for p in base.iterdir()} == {"outside", *(f"layer{n}" for n in range(len(layers)))}
    finally:
        for fd in parents:
            os.close(fd)
        shutil.rmtree(base)
