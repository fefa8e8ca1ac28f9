"""Unpacking layers: what honest archives give, and what hostile ones do not get."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard
from swarmpy.node.image import manifest
from swarmpy.node.image.errors import (
    ArchiveDamaged,
    ArchiveHostile,
    DigestMismatch,
    ImageError,
    NoSpace,
    Unsupported,
)
from swarmpy.node.image.limits import Limits
from swarmpy.node.image.store import ImageStore

from tests.images import config_for, docker_archive, entry, layer, oci_archive

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and capabilities"),
]
SMALL = Limits(layer_bytes_max=8 << 20, entries_max=500, ratio_free_bytes=1 << 20, ratio_max=50, cpu_s=20)
DIR = tarfile.DIRTYPE
SYM = tarfile.SYMTYPE
KEPT = sum(1 << n for n in (0, 1, 3, 4, 31))  # chown dac_override fowner fsetid setfcap
HARD = tarfile.LNKTYPE


def unpacked(tmp_path: Path, *layers: bytes, limits: Limits = SMALL) -> list[Path]:
    """Load and unpack an image of these layers; afterwards tmp/ must be empty."""
    tmp_path.mkdir(exist_ok=True)

    async def run() -> list[Path]:
        store = ImageStore(tmp_path / "store", limits=limits)
        await store.open()
        try:
            (image,) = await store.load(docker_archive(tmp_path / "a.tar", "test", layers))
            return list(await store.unpack(image.digest))
        finally:
            await store.close()
            assert list((tmp_path / "store" / "tmp").iterdir()) == []

    return asyncio.run(run())


def is_whiteout(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


# -- honest layers ------------------------------------------------------------------


def test_everything_is_kept(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    program, data = entry("bin/ping", b"#!", mode=0o755)
    program.pax_headers = {
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
    }
    (diff,) = unpacked(
        tmp_path,
        layer(
            entry("./", type=DIR, mode=0o755),
            entry("bin", type=DIR, mode=0o755, mtime=1000),
            (program, data),
            entry("bin/su", b"x", mode=0o4755, uid=0, gid=7, mtime=2000),
            entry("home/me/file", b"mine", uid=1000, gid=1001, mode=0o600),
            entry("tmp", type=DIR, mode=0o1777),
            entry("bin/link", type=SYM, linkname="/bin/su"),
            entry("bin/hard", type=HARD, linkname="bin/su"),
            entry("run/fifo", type=tarfile.FIFOTYPE, mode=0o622),
            entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        ),
    )
    su = (diff / "bin/su").stat()
    assert (stat.S_IMODE(su.st_mode), su.st_gid, su.st_mtime, su.st_nlink) == (0o4755, 7, 2000, 2)
    assert (diff / "bin").stat().st_mtime == 1000
    assert (diff / "bin/hard").stat().st_ino == su.st_ino
    assert os.readlink(diff / "bin/link") == "/bin/su"
    mine = (diff / "home/me/file").stat()
    assert (mine.st_uid, mine.st_gid, stat.S_IMODE(mine.st_mode)) == (1000, 1001, 0o600)
    assert stat.S_IMODE((diff / "tmp").stat().st_mode) == 0o1777
    assert stat.S_ISFIFO((diff / "run/fifo").stat().st_mode)
    assert os.getxattr(diff / "bin/ping", "security.capability") == capability
    assert set(os.listxattr(diff / "bin/ping")) == {"security.capability", "user.note"}
    assert not (diff / "dev/null").exists()
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_whiteouts_hide_what_the_parents_have_and_nothing_else(tmp_path: Path) -> None:
    low = layer(
        entry("a", b"1"), entry("d/x", b"1"), entry("d/y", b"1"), entry("gone/z", b"1"), entry("e/f", b"1")
    )
    high = layer(
        entry(".wh.a", b""), entry(".wh.never", b""), entry("d/.wh..wh..opq", b""), entry("d/new", b"2"),
        entry(".wh.gone", b""), entry("gone", type=DIR), entry("e/.wh.f", b""), entry(".wh..wh.plnk", b""),
    )  # fmt: skip
    first, second = unpacked(tmp_path, low, high)
    assert is_whiteout(second / "a")
    assert is_whiteout(second / "e/f")
    assert not os.path.lexists(second / "never")
    assert is_opaque(second / "d")
    assert is_opaque(second / "gone")
    assert (first / "a").read_bytes() == b"1"
    merged, upper, work = (tmp_path / name for name in ("merged", "upper", "work"))
    for path in (merged, upper, work):
        path.mkdir()
    options = f"lowerdir={second}:{first},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    try:
        seen = sorted(str(path.relative_to(merged)) for path in merged.rglob("*"))
    finally:
        subprocess.run(["umount", str(merged)], check=True)
    assert seen == ["d", "d/new", "e", "gone"]


def test_a_parents_symlink_and_looks_are_followed(tmp_path: Path) -> None:
    low = layer(
        entry("usr/lib", type=DIR, mode=0o711),
        entry("lib", type=SYM, linkname="usr/lib"),
        entry("b", b"body"),
    )
    high = layer(entry("lib/new", b"2"), entry("h", type=HARD, linkname="b"))
    _, second = unpacked(tmp_path, low, high)
    assert (second / "usr/lib/new").read_bytes() == b"2"
    assert stat.S_IMODE((second / "usr/lib").stat().st_mode) == 0o711
    assert not os.path.lexists(second / "lib")
    assert (second / "h").read_bytes() == b"body"
    assert (second / "b").stat().st_ino == (second / "h").stat().st_ino


def test_the_last_of_two_entries_wins(tmp_path: Path) -> None:
    (diff,) = unpacked(
        tmp_path,
        layer(
            entry("f", b"one"), entry("f", b"two"), entry("d/in", b"x"), entry("d", b"now a file"),
            entry("g", b"file"), entry("g", type=DIR), entry("g/in", b"y"),
            entry("s", type=SYM, linkname="f"), entry("s", b"own"),
        ),
    )  # fmt: skip
    assert {p.name: p.read_bytes() for p in diff.iterdir() if p.is_file()} == {
        "f": b"two",
        "d": b"now a file",
        "s": b"own",
    }
    assert (diff / "g/in").read_bytes() == b"y"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, lambda data: data])
def test_compressions(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    data = layer(entry("f", b"content" * 9000))
    config = config_for([data])
    packed = pack(data)
    document = manifest.make_manifest(
        config, [manifest.Descriptor(manifest.sha256(packed), len(packed), "x/y")]
    )
    blobs = {manifest.sha256(config): config, manifest.sha256(packed): packed}
    (diff,) = unpack_oci(tmp_path, document, blobs)
    assert (diff / "f").read_bytes() == b"content" * 9000


def one_layer(config: bytes, blob: bytes) -> bytes:
    return manifest.make_manifest(config, [manifest.Descriptor(manifest.sha256(blob), len(blob), "x/y")])


def unpack_oci(tmp_path: Path, document: bytes, blobs: dict[str, bytes]) -> Sequence[Path]:
    async def run() -> Sequence[Path]:
        store = ImageStore(tmp_path / "store", limits=SMALL)
        await store.open()
        try:
            (image,) = await store.load(oci_archive(tmp_path / "o.tar", "test", document, blobs))
            return await store.unpack(image.digest)
        finally:
            await store.close()
            assert list((tmp_path / "store" / "tmp").iterdir()) == []
            assert len(list((tmp_path / "store" / "layers").iterdir())) <= 1

    return asyncio.run(run())


def test_the_root_looks_as_the_lowest_layer_says(tmp_path: Path) -> None:
    """Many layers do not name their root; the agent's umask is not the images' business."""
    before = os.umask(0o077)
    try:
        plain = unpacked(tmp_path / "a", layer(entry("f", b"")), layer(entry("g", b"")))
        said = unpacked(
            tmp_path / "b", layer(entry("./", type=DIR, mode=0o711, uid=7)), layer(entry("g", b"")), layer()
        )
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in plain] == [0o755, 0o755]
    assert [(stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) for path in said] == [(0o711, 7)] * 3


# -- hostile layers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "kind", "says"),
    [
        ([entry("../escape", b"x")], ArchiveHostile, "'..'"),
        ([entry("a/../../escape", b"x")], ArchiveHostile, "'..'"),
        ([entry("h", type=HARD, linkname="../../../etc/passwd")], ArchiveHostile, "'..'"),
        ([entry("h", type=HARD, linkname="/etc/passwd")], ArchiveDamaged, "does not exist"),
        ([entry("d", type=DIR), entry("h", type=HARD, linkname="d")], ArchiveDamaged, "no file"),
        ([entry(".wh...", b"")], ArchiveHostile, "names no file"),
        ([entry("l", type=SYM, linkname="l"), entry("l/x", b"")], ArchiveHostile, "loop of symlinks"),
        ([entry("f", b""), entry("f/x", b"")], ArchiveDamaged, "none"),
        ([entry("n" * 300, b"")], ArchiveDamaged, "too long"),
        ([entry("d/" * 300 + "f", b"")], ArchiveHostile, "deeper"),
        ([entry(str(number), b"") for number in range(501)], ArchiveHostile, "more than 500 entries"),
        ([entry("big", b"x" * (9 << 20))], ArchiveHostile, "larger than"),
        ([entry("f", b"", uid=(1 << 32) - 1)], ArchiveDamaged, "owner out of range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_layers_are_refused(
    tmp_path: Path, entries: list[object], kind: type[ImageError], says: str
) -> None:
    limits = Limits(layer_bytes_max=8 << 20, entries_max=500, cpu_s=20)
    with pytest.raises(kind, match=says):
        unpacked(tmp_path, layer(*entries), limits=limits)  # type: ignore[arg-type]
    assert list((tmp_path / "store" / "layers").iterdir()) == []
    assert not list(tmp_path.rglob("escape"))


def test_names_and_links_stay_inside(tmp_path: Path) -> None:
    """Absolute names and symlinks that point out of the layer lead to places inside it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (diff,) = unpacked(
        tmp_path,
        layer(
            entry("/absolute", b"x"),
            entry("out", type=SYM, linkname=str(outside)),
            entry("out/written", b"x"),
            entry("up", type=SYM, linkname="../../../../../../../.."),
            entry("up/top", b"x"),
            entry("passwd", type=SYM, linkname="/etc/passwd"),
            entry("passwd", b"replaced"),
        ),
    )
    assert list(outside.iterdir()) == []
    assert (diff / "absolute").exists()
    assert (diff / "top").exists()
    assert (diff / str(outside).lstrip("/") / "written").exists()
    assert (diff / "passwd").read_bytes() == b"replaced"
    assert not (diff / "passwd").is_symlink()


def test_only_the_links_are_removed_not_what_they_point_to(tmp_path: Path) -> None:
    """A directory that was a symlink to a full directory is replaced alone."""
    (diff,) = unpacked(
        tmp_path,
        layer(
            entry("real/keep", b"x"),
            entry("l", type=SYM, linkname="real"),
            entry("l", type=DIR),
            entry("l/in", b"y"),
        ),
    )
    assert (diff / "real/keep").exists()
    assert not (diff / "real/in").exists()
    assert (diff / "l/in").exists()


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    data = layer(entry("zeros", b"\0" * (6 << 20)))
    config = config_for([data])
    packed = gzip.compress(data)
    document = one_layer(config, packed)
    with pytest.raises(ArchiveHostile, match="bomb"):
        unpack_oci(tmp_path, document, {manifest.sha256(config): config, manifest.sha256(packed): packed})


def test_a_zstd_bomb_is_stopped(tmp_path: Path) -> None:
    data = layer(entry("zeros", b"\0" * (6 << 20)))
    config, packed = config_for([data]), zstandard.ZstdCompressor(level=19).compress(data)
    assert len(packed) < 2000
    blobs = {manifest.sha256(config): config, manifest.sha256(packed): packed}
    with pytest.raises(ArchiveHostile, match="bomb"):
        unpack_oci(tmp_path, one_layer(config, packed), blobs)


@pytest.mark.slow
def test_a_million_entries(tmp_path: Path) -> None:
    """Within the real limits: stopped at the 500,001st, long before the disk's inodes are gone."""
    member, _ = entry("same", type=DIR)
    many = member.tobuf(tarfile.USTAR_FORMAT) * 1_000_000 + bytes(1024)
    config, packed = config_for([many]), zstandard.ZstdCompressor().compress(many)
    blobs = {manifest.sha256(config): config, manifest.sha256(packed): packed}

    async def run() -> None:
        store = ImageStore(tmp_path / "store")
        await store.open()
        try:
            archive = oci_archive(tmp_path / "o.tar", "test", one_layer(config, packed), blobs)
            (image,) = await store.load(archive)
            with pytest.raises(ArchiveHostile, match="more than 500000 entries"):
                await store.unpack(image.digest)
        finally:
            await store.close()

    asyncio.run(run())
    assert list((tmp_path / "store" / "layers").iterdir()) == []


def test_the_old_form_of_sparse_is_refused_too(tmp_path: Path) -> None:
    member, _ = entry("s", b"")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[483:495] = b"\x80" + bytes(5) + (1 << 40).to_bytes(6, "big")  # its real size: a tebibyte
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    with pytest.raises(Unsupported, match="sparse"):
        unpacked(tmp_path, bytes(header) + bytes(4096))


def test_a_symlink_of_a_lower_layer_leads_nowhere_else(tmp_path: Path) -> None:
    """Layer one has links out; what layer two writes through them lands in layer two, under the root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"mine")
    links = layer(
        entry("out", type=SYM, linkname=str(outside)),
        entry("up", type=SYM, linkname="../../../../.."),
        entry("self", type=SYM, linkname="/proc/self/root"),
    )
    second = layer(
        entry("out/file", b"theirs"), entry("up/etc/passwd", b"theirs"), entry("self/etc/shadow", b"theirs")
    )
    _, upper = unpacked(tmp_path, links, second)
    assert (outside / "file").read_bytes() == b"mine"
    found = {path.relative_to(upper) for path in upper.rglob("*") if path.is_file()}
    inside = str(outside).lstrip("/")
    assert found == {Path(inside, "file"), Path("etc/passwd"), Path("proc/self/root/etc/shadow")}


def test_a_hard_link_through_a_symlink_takes_nothing_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"host")
    for target in ("out/secret", f"abs{secret}"):
        with pytest.raises(ArchiveDamaged, match="does not exist"):
            unpacked(
                tmp_path / target.replace("/", "_"),
                layer(
                    entry("out", type=SYM, linkname=str(tmp_path)),
                    entry("abs", type=SYM, linkname="/"),
                    entry("h", type=HARD, linkname=target),
                ),
            )
    assert secret.stat().st_nlink == 1


def test_one_name_as_everything_in_turn(tmp_path: Path) -> None:
    """The last entry of a name counts, and none of those before it reaches out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (diff,) = unpacked(
        tmp_path,
        layer(
            entry("x", b"file"),
            entry("x", type=SYM, linkname=str(outside)),
            entry("x", type=DIR),
            entry("x/in", b"1"),
            entry("x", type=SYM, linkname=str(outside)),
            entry("x", b"last"),
        ),
    )
    assert (diff / "x").read_bytes() == b"last"
    assert list(outside.iterdir()) == []


def test_devices_are_left_out_also_those_that_look_like_whiteouts(tmp_path: Path) -> None:
    low, high = unpacked(
        tmp_path,
        layer(entry("keep", b"x")),
        layer(
            entry("keep", type=tarfile.CHRTYPE, devmajor=0, devminor=0),
            entry("disk", type=tarfile.BLKTYPE, devmajor=254, devminor=0),
            entry("mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1),
        ),
    )
    assert (low / "keep").exists()
    assert list(high.iterdir()) == []


def test_attributes_that_only_the_host_may_set(tmp_path: Path) -> None:
    """Capabilities and set-id bits are the image's (no new privileges cancels them); nothing of the host's."""
    member, data = entry("f", b"x", mode=0o6755)
    names = (
        "trusted.overlay.redirect",
        "trusted.other",
        "security.ima",
        "security.selinux",
        "system.posix_acl_access",
    )
    member.pax_headers = {f"SCHILY.xattr.{name}": "/etc" for name in names}
    (diff,) = unpacked(tmp_path, layer((member, data)))
    assert os.listxattr(diff / "f") == []
    assert stat.S_IMODE((diff / "f").stat().st_mode) == 0o6755


@pytest.mark.parametrize("name", ["../../escape", "/escape", "blobs/../../../escape"])
def test_an_archive_of_images_names_no_paths(tmp_path: Path, name: str) -> None:
    """The outer tar's names are keys, never paths: an extra member goes nowhere."""
    docker_archive(tmp_path / "a.tar", "test", [layer(entry("f", b"x"))])
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))

    async def run() -> None:
        store = ImageStore(tmp_path / "store")
        await store.open()
        try:
            await store.load(tmp_path / "a.tar")
        finally:
            await store.close()

    asyncio.run(run())
    assert not Path("/escape").exists()
    assert not list(tmp_path.rglob("escape"))


def test_a_header_that_promises_a_tebibyte(tmp_path: Path) -> None:
    member, _ = entry("huge", b"")
    member.size = 1 << 40
    with pytest.raises(ImageError):
        unpacked(tmp_path, member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)


def test_sparse_is_refused(tmp_path: Path) -> None:
    member, data = entry("s", b"x")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 40)}
    with pytest.raises(Unsupported, match="sparse"):
        unpacked(tmp_path, layer((member, data)))


def test_wrong_content_is_a_digest_mismatch(tmp_path: Path) -> None:
    data = layer(entry("f", b"right"))
    config = config_for([layer(entry("f", b"wrong"))])
    packed = gzip.compress(data)
    document = one_layer(config, packed)
    with pytest.raises(DigestMismatch):
        unpack_oci(tmp_path, document, {manifest.sha256(config): config, manifest.sha256(packed): packed})


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_stream(tmp_path: Path, damage: str) -> None:
    data = layer(entry("f", os.urandom(200_000)))
    config = config_for([data])
    packed = bytearray(gzip.compress(data))
    if damage == "cut":
        del packed[len(packed) // 2 :]
    else:
        packed[len(packed) // 2] ^= 0xFF
    blob = bytes(packed)
    document = one_layer(config, blob)
    with pytest.raises((ArchiveDamaged, DigestMismatch)):
        unpack_oci(tmp_path, document, {manifest.sha256(config): config, manifest.sha256(blob): blob})


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=True)
    try:
        with pytest.raises(NoSpace, match="no space"):
            unpacked(tmp_path, layer(entry("f", os.urandom(1_450_000))), layer(entry("g", b"")))
        assert list((tmp_path / "store" / "layers").iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- confinement and crashes ---------------------------------------------------------


def test_the_child_has_given_everything_up(tmp_path: Path) -> None:
    """Look at a running child: its root, network, capabilities and privileges."""
    big = layer(*(entry(f"{n}", os.urandom(1 << 20)) for n in range(60)))
    script = f"""
import asyncio
from pathlib import Path
from swarmpy.node.image.store import ImageStore
async def main():
    store = ImageStore(Path({str(tmp_path / "store")!r}))
    await store.open()
    (image,) = await store.load(Path({str(docker_archive(tmp_path / "a.tar", "test", [big]))!r}))
    print("loaded", flush=True)
    await store.unpack(image.digest)
    await store.close()
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        child = confined_child(parent.pid)
        os.kill(child, signal.SIGSTOP)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{child}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == KEPT
        assert int(status["CapBnd"], 16) & ~int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"
        assert os.readlink(f"/proc/{child}/ns/net") != os.readlink("/proc/self/ns/net")
        assert os.readlink(f"/proc/{child}/root").startswith(str(tmp_path / "store" / "tmp"))
        # Kill the parent in the middle: the child goes too, and the next open finds a clean store.
        parent.kill()
        parent.wait()
        os.kill(child, signal.SIGCONT)
        wait_until(lambda: not alive(child))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()

    async def again() -> None:
        store = ImageStore(tmp_path / "store")
        await store.open()
        try:
            assert list((tmp_path / "store" / "tmp").iterdir()) == []
            assert list((tmp_path / "store" / "layers").iterdir()) == []
            image = store.get("test")
            assert image is not None
            (diff,) = await store.unpack(image.digest)
            assert len(list(diff.iterdir())) == 60
        finally:
            await store.close()

    asyncio.run(again())


def confined_child(parent: int) -> int:
    found = 0

    def look() -> bool:
        nonlocal found
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in (task / "children").read_text().split():
                if (
                    os.readlink(f"/proc/{child}/root") != "/"
                    and "NoNewPrivs:\t1" in Path(f"/proc/{child}/status").read_text()
                ):
                    found = int(child)
        return found != 0

    wait_until(look)
    return found


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.001)


def test_layers_side_by_side_end_together(tmp_path: Path) -> None:
    """One bad layer among good ones: nothing above it stays, what lies below does; nothing waits for ever."""
    good = [layer(entry(f"f{n}", os.urandom(300_000))) for n in range(5)]
    looking = layer(entry(".wh.f0", b""), entry("deep/er/f", b"x"))  # these look at the layers below
    bad = layer(entry("../escape", b"x"))

    async def run() -> None:
        store = ImageStore(tmp_path / "store", limits=SMALL)
        await store.open()
        try:
            archive = docker_archive(
                tmp_path / "a.tar", "test", [good[0], good[1], bad, good[2], looking, good[3]]
            )
            (image,) = await store.load(archive)
            for _ in range(2):
                with pytest.raises(ArchiveHostile):
                    await asyncio.wait_for(store.unpack(image.digest), 60)
                chains = manifest.chain_ids(image.layers)
                made = {f"sha256:{path.name}" for path in (tmp_path / "store" / "layers").iterdir()}
                assert made <= {chains[0], chains[1]}
            fine = docker_archive(tmp_path / "b.tar", "fine", [*good, looking, good[0]])
            (image,) = await store.load(fine)
            # Twice at once, and one of them given up half-way: the other gets everything.
            given_up = asyncio.ensure_future(store.unpack(image.digest))
            waits = asyncio.ensure_future(store.unpack(image.digest))
            await asyncio.sleep(0.2)
            given_up.cancel()
            paths = await asyncio.wait_for(waits, 60)
            assert all((path.parent / "meta.json").exists() for path in paths)
            assert is_whiteout(paths[5] / "f0")
        finally:
            await store.close()
            assert list((tmp_path / "store" / "tmp").iterdir()) == []

    asyncio.run(run())
