"""The store: loading each kind of archive, names, collecting, peers, crashes, full disks."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import zstandard
from swarmpy.node.image import manifest
from swarmpy.node.image.build import build_busybox_image
from swarmpy.node.image.errors import (
    ArchiveDamaged,
    ArchiveHostile,
    DigestMismatch,
    ImageError,
    ImageNotFound,
    NoSpace,
    SourceFailed,
    StoreBusy,
    Unsupported,
)  # fmt: skip
from swarmpy.node.image.limits import Limits
from swarmpy.node.image.store import ImageStore, StoredImage

from tests.images import (
    compressed_image,
    config_for,
    docker_archive,
    entry,
    index_of,
    layer,
    oci_archive,
    tar_of,
)  # fmt: skip

T = TypeVar("T")
LAYERS = [layer(entry("a", os.urandom(100_000))), layer(entry("b", b"two"))]
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and capabilities")


def with_store(
    directory: Path, work: Callable[[ImageStore], Awaitable[T]], limits: Limits | None = None
) -> T:
    async def run() -> T:
        store = ImageStore(directory, limits=limits)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def load(tmp_path: Path, archive: Path, **options: str) -> list[StoredImage]:
    return with_store(tmp_path / "store", lambda store: store.load(archive, **options))


def leftovers(tmp_path: Path) -> list[Path]:
    store = tmp_path / "store"
    return [p for name in ("tmp", "ingest", "blobs/sha256", "layers") for p in (store / name).iterdir()]


# -- formats ---------------------------------------------------------------------


@pytest.mark.parametrize("pack", ["", "gz", "zst"])
def test_docker_save(tmp_path: Path, pack: str) -> None:
    archive = docker_archive(tmp_path / "a.tar", "team/app:1", LAYERS)
    if pack == "gz":
        archive.write_bytes(gzip.compress(archive.read_bytes()))
    elif pack == "zst":
        archive.write_bytes(zstandard.ZstdCompressor().compress(archive.read_bytes()))
    (image,) = load(tmp_path, archive)
    assert image.references == ("docker.io/team/app:1",)
    assert image.layers == tuple(manifest.sha256(data) for data in LAYERS)
    assert image.config["config"]["Cmd"] == ["/bin/sh"]
    assert image.platform == ("linux", manifest.host_platform().architecture)
    assert load(tmp_path, archive) == [image]


def test_docker_save_of_two_images_that_share_a_layer_by_a_symlink(tmp_path: Path) -> None:
    one, two = config_for(LAYERS[:1]), config_for(LAYERS)
    listing = [
        {"Config": "one.json", "RepoTags": ["one:1"], "Layers": ["x/layer.tar"]},
        {"Config": "two.json", "RepoTags": ["two:1", "two:2"], "Layers": ["y/layer.tar", "z/layer.tar"]},
    ]
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        layer(
            entry("x/layer.tar", LAYERS[0]),
            entry("y/layer.tar", type=tarfile.SYMTYPE, linkname="../x/layer.tar"),
            entry("z/layer.tar", LAYERS[1]), entry("one.json", one), entry("two.json", two),
            entry("manifest.json", json.dumps(listing).encode()),
        )
    )  # fmt: skip
    first, second = load(tmp_path, archive)
    assert first.layers == second.layers[:1]
    assert second.references == ("docker.io/library/two:1", "docker.io/library/two:2")
    with pytest.raises(Unsupported, match="has 2 images"):
        load(tmp_path, archive, reference="renamed")


def test_oci_archive_keeps_its_digest(tmp_path: Path) -> None:
    document, blobs = compressed_image(LAYERS)
    (image,) = load(tmp_path, oci_archive(tmp_path / "o.tar", "ghcr.io/team/app:1", document, blobs))
    assert (image.digest, image.references) == (manifest.sha256(document), ("ghcr.io/team/app:1",))


def test_oci_archive_with_an_index_of_platforms(tmp_path: Path) -> None:
    document, blobs = compressed_image(LAYERS)
    index = index_of([(b"not in the archive", "s390x"), (document, manifest.host_platform().architecture)])
    blobs = {**blobs, manifest.sha256(document): document}
    (image,) = load(tmp_path, oci_archive(tmp_path / "o.tar", "app:1", index, blobs))
    assert (image.digest, image.indexes) == (manifest.sha256(document), (manifest.sha256(index),))


def test_a_root_file_system_needs_a_name(tmp_path: Path) -> None:
    archive = tmp_path / "rootfs.tar.gz"
    archive.write_bytes(
        gzip.compress(layer(entry("bin/sh", b"#!", mode=0o755), entry("etc/passwd", b"root")))
    )
    with pytest.raises(ArchiveDamaged, match="say under which name"):
        load(tmp_path, archive)
    (image,) = load(tmp_path, archive, reference="mine")
    assert image.references == ("docker.io/library/mine:latest",)
    assert image.size_bytes > archive.stat().st_size


def test_a_load_tells_of_its_own_names_only(tmp_path: Path) -> None:
    """What the content was called before may be the name of something else in the cluster by now."""
    (first,) = load(tmp_path, docker_archive(tmp_path / "a.tar", "app:1", LAYERS))
    (again,) = load(tmp_path, docker_archive(tmp_path / "b.tar", "app:2", LAYERS))
    assert first.digest == again.digest
    assert again.references == ("docker.io/library/app:2",)


def test_a_name_given_replaces_the_archives(tmp_path: Path) -> None:
    (image,) = load(tmp_path, docker_archive(tmp_path / "a.tar", "old:1", LAYERS), reference="new:2")
    assert image.references == ("docker.io/library/new:2",)


# -- damage -------------------------------------------------------------------------


def docker_parts(tmp_path: Path, **changes: bytes) -> Path:
    files = {
        "0/layer.tar": LAYERS[0],
        "config.json": config_for(LAYERS[:1]),
        "manifest.json": json.dumps(
            [{"Config": "config.json", "RepoTags": ["x"], "Layers": ["0/layer.tar"]}]
        ).encode(),
    }
    files.update({name.replace("_", "."): data for name, data in changes.items()})
    archive = tmp_path / "bad.tar"
    archive.write_bytes(tar_of(files.items()))
    return archive


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"manifest_json": b"not json"}, ArchiveDamaged, "no valid JSON"),
        ({"manifest_json": b"{}"}, ArchiveDamaged, "must be a list"),
        ({"manifest_json": b"[]"}, ArchiveDamaged, "contains no image"),
        (
            {"manifest_json": b'[{"Config":"../../etc/shadow","Layers":["0/layer.tar"]}]'},
            ArchiveDamaged,
            "missing in it",
        ),
        (
            {"manifest_json": b'[{"Config":"config.json","Layers":["gone.tar"]}]'},
            ArchiveDamaged,
            "missing in it",
        ),
        ({"config_json": b"{}"}, ArchiveDamaged, "diff_ids"),
        ({"config_json": config_for(LAYERS)}, ArchiveDamaged, "lists 2 layers"),
        ({"config_json": config_for(LAYERS[1:])}, DigestMismatch, "has the content of"),
    ],
)
def test_damaged_docker_archives(
    tmp_path: Path, changes: dict[str, bytes], kind: type[ImageError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        load(tmp_path, docker_parts(tmp_path, **changes))
    assert leftovers(tmp_path) == []


def test_damaged_files(tmp_path: Path) -> None:
    whole = docker_archive(tmp_path / "a.tar", "x", LAYERS).read_bytes()
    for data in (
        b"",
        b"hello",
        whole[: len(whole) // 2],
        gzip.compress(whole)[:-2000],
        b"\x1f\x8b" + b"x" * 99,
    ):
        bad = tmp_path / "bad.tar"
        bad.write_bytes(data)
        with pytest.raises(ArchiveDamaged, match=str(bad)):
            load(tmp_path, bad)
        assert leftovers(tmp_path) == []
    with pytest.raises(ArchiveDamaged, match="does not exist"):
        load(tmp_path, tmp_path / "nothing.tar")
    with pytest.raises(ArchiveDamaged, match="is a directory"):
        load(tmp_path, tmp_path)


def test_an_oci_archive_with_a_changed_blob(tmp_path: Path) -> None:
    document, blobs = compressed_image(LAYERS)
    blobs = {digest: data if len(data) < 1000 else data[:-1] + b"x" for digest, data in blobs.items()}
    with pytest.raises(DigestMismatch, match="the archive is damaged"):
        load(tmp_path, oci_archive(tmp_path / "o.tar", "app", document, blobs))
    assert leftovers(tmp_path) == []


def test_an_outer_bomb_is_stopped(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    bomb.write_bytes(gzip.compress(tar_of([("zeros", b"\0" * (4 << 20)), ("manifest.json", b"[]")])))
    with pytest.raises(ArchiveHostile, match="bomb"):
        with_store(tmp_path / "store", lambda s: s.load(bomb), Limits(ratio_free_bytes=1 << 20, ratio_max=10))
    assert leftovers(tmp_path) == []


@root
@pytest.mark.root
def test_a_full_disk_at_load_and_at_fetch(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "a.tar", "x", [layer(entry("a", os.urandom(3 << 20)))])
    with_store(tmp_path / "peer", lambda store: store.load(archive))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(NoSpace, match="no space left"):
            load(small, archive)
        assert leftovers(small) == []

        async def fetch(store: ImageStore) -> None:
            peer = ImageStore(tmp_path / "peer")
            await peer.open()
            try:
                with pytest.raises(NoSpace, match="MiB free"):
                    await store.fetch(peer.digests()[0], Peer(peer))
            finally:
                await peer.close()

        with_store(small / "store", fetch)
        assert leftovers(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


# -- names and collecting --------------------------------------------------------------


def test_names(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "a.tar", "app:1", LAYERS)

    async def work(store: ImageStore) -> None:
        (image,) = await store.load(archive)
        tagged = await store.tag("app:1", "localhost:5000/app:2")
        assert tagged.references == ("docker.io/library/app:1", "localhost:5000/app:2")
        for spelling in (
            "app:1",
            "docker.io/app:1",
            "localhost:5000/app:2",
            image.digest,
            f"app@{image.digest}",
        ):
            assert store.get(spelling) == tagged
        for spelling in ("app", "app:2", "", "Not/A/Name", "sha256:" + "0" * 64):
            assert store.get(spelling) is None
        await store.remove("app:1")
        assert store.get("app:1") is None
        assert [found.references for found in store.list()] == [("localhost:5000/app:2",)]
        await store.remove(image.digest)
        assert store.list() == []
        with pytest.raises(ImageNotFound, match="not on this node"):
            await store.remove("app:1")
        with pytest.raises(ImageNotFound):
            await store.tag("app:1", "b")

    with_store(tmp_path / "store", work)


@root
@pytest.mark.root
def test_collecting_keeps_what_is_used(tmp_path: Path) -> None:
    one = docker_archive(tmp_path / "1.tar", "one", LAYERS[:1])
    two = docker_archive(tmp_path / "2.tar", "two", LAYERS)

    async def work(store: ImageStore) -> None:
        (first,), (second,) = await store.load(one), await store.load(two)
        paths = await store.unpack(second.digest)
        assert await store.unpack(first.digest) == paths[:1]
        assert await store.gc() == 0
        await store.remove("two")
        assert await store.gc([second.digest]) == 0
        assert all(path.exists() for path in paths)
        assert await store.gc() > 0
        assert [path.exists() for path in paths] == [True, False]
        assert await store.gc([first.digest], unused=True) == 0
        assert await store.gc(unused=True) > 100_000
        assert store.list() == []

    with_store(tmp_path / "store", work)
    assert leftovers(tmp_path) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom swarmpy.node.image.store import ImageStore\n"
        "store = ImageStore(Path(sys.argv[1]))\nasyncio.run(store.open())\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreBusy, match="in use by another process"):
            with_store(tmp_path / "store", lambda store: asyncio.sleep(0))
        other.kill()
    with_store(tmp_path / "store", lambda store: asyncio.sleep(0))


# -- peers -----------------------------------------------------------------------------


class Peer:
    """Another store as a blob source, with faults on order."""

    def __init__(self, store: ImageStore, *, cut_at: int = 1 << 40, spoil: bool = False) -> None:
        self.store = store
        self.cut_at = cut_at
        self.spoil = spoil
        self.offsets: list[int] = []

    async def read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        self.offsets.append(offset)
        path = self.store.blob_path(digest)
        if path is None:
            raise ImageNotFound(f"no {digest}")
        data = path.read_bytes()
        for start in range(offset, len(data), 10_000):
            if start >= self.cut_at:
                raise SourceFailed("connection lost")
            chunk = data[start : start + 10_000]
            yield bytes(len(chunk)) if self.spoil else chunk


def two_stores(
    tmp_path: Path, work: Callable[[ImageStore, ImageStore, StoredImage], Awaitable[None]]
) -> None:
    archive = docker_archive(tmp_path / "a.tar", "app:1", LAYERS)

    async def run(peer: ImageStore) -> None:
        (image,) = await peer.load(archive)
        store = ImageStore(tmp_path / "own")
        await store.open()
        try:
            await work(store, peer, image)
        finally:
            await store.close()

    with_store(tmp_path / "peer", run)


def test_an_image_from_a_peer_is_the_same(tmp_path: Path) -> None:
    async def work(store: ImageStore, peer: ImageStore, image: StoredImage) -> None:
        source = Peer(peer)
        fetched = await store.fetch(image.digest, source, reference="app:1")
        assert fetched == image
        asked = len(source.offsets)
        named = await store.fetch(image.digest, source, reference="other")
        assert named.references == ("docker.io/library/app:1", "docker.io/library/other:latest")
        assert len(source.offsets) == asked

    two_stores(tmp_path, work)


def test_the_next_peer_continues(tmp_path: Path) -> None:
    async def work(store: ImageStore, peer: ImageStore, image: StoredImage) -> None:
        empty, broken, good = Peer(store), Peer(peer, cut_at=50_000), Peer(peer)
        assert await store.fetch(image.digest, [empty, broken, good], reference="app:1") == image
        assert good.offsets == [50_000]

    two_stores(tmp_path, work)


def test_a_lying_peer_is_not_believed(tmp_path: Path) -> None:
    async def work(store: ImageStore, peer: ImageStore, image: StoredImage) -> None:
        with pytest.raises(SourceFailed, match="arrived with other content"):
            await store.fetch(image.digest, Peer(peer, spoil=True))
        assert store.list() == []
        liar, half_liar = Peer(peer, spoil=True), Peer(peer, spoil=True, cut_at=50_000)
        for sources in ([liar, Peer(peer)], [half_liar, Peer(peer)]):
            assert await store.fetch(image.digest, sources, reference="app:1") == image
            await store.remove(image.digest)
            await store.gc()
        with pytest.raises(SourceFailed, match="no node of the cluster could give"):
            await store.fetch("sha256:" + "0" * 64, Peer(peer))

    two_stores(tmp_path, work)


def test_what_is_saved_loads_as_the_same(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "a.tar", "app:1", LAYERS)

    async def save(store: ImageStore) -> StoredImage:
        (image,) = await store.load(archive)
        with (
            (tmp_path / "saved.tar").open("wb") as file,
            store.saved({"docker.io/library/app:1": image}) as it,
        ):
            file.writelines(it)
        return image

    image = with_store(tmp_path / "one", save)
    (loaded,) = with_store(tmp_path / "two", lambda store: store.load(tmp_path / "saved.tar"))
    assert loaded == image


# -- concurrency and crashes -------------------------------------------------------------


@root
@pytest.mark.root
def test_everything_at_once(tmp_path: Path) -> None:
    archives = [
        docker_archive(tmp_path / f"{n}.tar", f"app:{n}", [LAYERS[0], layer(entry(str(n), b"x"))])
        for n in range(4)
    ]

    async def work(store: ImageStore) -> None:
        async def one(archive: Path) -> None:
            (image,) = await store.load(archive)
            layers = await store.unpack(image.digest)
            assert all((path.parent / "meta.json").exists() for path in layers)

        collecting = [store.gc() for _ in range(4)]
        await asyncio.gather(*(one(archive) for archive in archives * 2), *collecting)
        assert len(store.list()) == 4
        assert len(list((tmp_path / "store/layers").iterdir())) == 5
        for image in store.list():
            assert all(store.blob_path(blob) for blob in image.blobs)

    with_store(tmp_path / "store", work)
    assert list((tmp_path / "store/tmp").iterdir()) == []


def test_what_a_dying_child_still_writes_is_dropped(tmp_path: Path) -> None:
    """The unpacking child of a killed process ends a moment after it."""
    work = tmp_path / "store/tmp/work"
    work.mkdir(parents=True)
    script = (
        "import os, time\nend = time.monotonic() + 1\nnumber = 0\nprint('go', flush=True)\n"
        "try:\n while time.monotonic() < end:\n  os.mkdir(str(number))\n  number += 1\n"
        "except FileNotFoundError:\n pass"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=work, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()

        async def empty(_store: ImageStore) -> None:
            assert list((tmp_path / "store/tmp").iterdir()) == []

        with_store(tmp_path / "store", empty)


@root
@pytest.mark.root
@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment(tmp_path: Path, moment: int) -> None:
    """SIGKILL while loading and unpacking; afterwards the store opens clean and the work succeeds."""
    many = [layer(*(entry(f"{n}/{m}", os.urandom(2000)) for m in range(400))) for n in range(4)]
    archive = docker_archive(tmp_path / "a.tar", "app:1", many)
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom swarmpy.node.image.store import ImageStore\n"
        "async def main():\n store = ImageStore(Path(sys.argv[1]))\n await store.open()\n"
        " print('go', flush=True)\n"
        " (image,) = await store.load(Path(sys.argv[2]))\n await store.unpack(image.digest)\n"
        " await store.close()\nasyncio.run(main())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store"), str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + moment * 0.07)
        process.send_signal(signal.SIGKILL)

    async def again(store: ImageStore) -> None:
        assert list((tmp_path / "store/tmp").iterdir()) == []
        for image in store.list():
            assert all(store.blob_path(blob) for blob in image.blobs)
        (image,) = await store.load(archive)
        layers = await store.unpack(image.digest)
        assert [len(list(path.rglob("*"))) for path in layers] == [401] * 4

    with_store(tmp_path / "store", again)


def test_an_unreadable_list_is_set_aside(tmp_path: Path) -> None:
    load(tmp_path, docker_archive(tmp_path / "a.tar", "app:1", LAYERS))
    (tmp_path / "store/refs.json").write_text("{")
    assert with_store(tmp_path / "store", lambda store: asyncio.sleep(0, store.list())) == []
    assert (tmp_path / "store/refs.damaged").exists()


def test_an_image_that_lost_a_blob_is_dropped(tmp_path: Path) -> None:
    (image,) = load(tmp_path, docker_archive(tmp_path / "a.tar", "app:1", LAYERS))
    (tmp_path / "store/blobs/sha256" / image.layers[0].removeprefix("sha256:")).unlink()
    assert with_store(tmp_path / "store", lambda store: asyncio.sleep(0, store.list())) == []


@root
@pytest.mark.root
def test_layers_of_an_earlier_boot_that_may_not_be_on_disk_are_made_again(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "a.tar", "app:1", LAYERS)

    async def unpack(store: ImageStore) -> tuple[Path, ...]:
        (image,) = await store.load(archive)
        return await store.unpack(image.digest)

    first, second = with_store(tmp_path / "store", unpack)
    assert (first.parent / "synced").exists()
    for path in (first, second):
        meta = json.loads((path.parent / "meta.json").read_text())
        (path.parent / "meta.json").write_text(json.dumps({**meta, "boot_id": "another"}))
    (second.parent / "synced").unlink()
    with_store(tmp_path / "store", lambda store: asyncio.sleep(0))
    assert [first.exists(), second.exists()] == [True, False]
    with_store(tmp_path / "store", unpack)
    assert second.exists()


# -- the image that swarmpy makes itself ----------------------------------------------------


@root
@pytest.mark.root
def test_the_busybox_image_serves(tmp_path: Path) -> None:
    archive = build_busybox_image(tmp_path / "bb.tar", reference="demo/web:1", web=True)
    again = build_busybox_image(tmp_path / "bb2.tar", reference="demo/web:1", web=True)
    assert archive.read_bytes() == again.read_bytes()

    async def work(store: ImageStore) -> tuple[StoredImage, Path]:
        (image,) = await store.load(archive)
        return image, (await store.unpack(image.digest))[0]

    image, rootfs = with_store(tmp_path / "store", work)
    assert image.references == ("docker.io/demo/web:1",)
    assert image.config["config"]["ExposedPorts"] == {"80/tcp": {}}
    command = [*image.config["config"]["Cmd"]]
    command[command.index("80")] = "127.0.0.1:18199"
    with subprocess.Popen(["chroot", str(rootfs), *command]) as server:
        try:
            assert b"It works" in fetched("http://127.0.0.1:18199/")
            assert fetched("http://127.0.0.1:18199/cgi-bin/hostname").strip().decode() == os.uname().nodename
        finally:
            server.terminate()


def fetched(url: str) -> bytes:
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return bytes(response.read())
        except ConnectionError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
