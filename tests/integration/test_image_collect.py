"""Freeing space: what goes, in which order, what never goes, and what a killed sweep leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from swarmpy.node.image.store import ImageStore, StoredImage
from swarmpy.node.manager import image_keep
from swarmpy.proto import images_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Entity, wrap

from tests.images import docker_archive, entry, layer

MEBIBYTE = 1 << 20
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and capabilities")


def with_images(tmp_path: Path, work: Callable[[ImageStore, list[StoredImage]], Awaitable[None]]) -> None:
    """Three images of 2 MiB that share a small layer; the first was used last."""

    async def run() -> None:
        store = ImageStore(tmp_path / "store")
        await store.open()
        try:
            images = []
            for number in range(3):
                layers = [layer(entry("shared", b"x")), layer(entry(f"{number}", os.urandom(2 * MEBIBYTE)))]
                archive = docker_archive(tmp_path / f"{number}.tar", f"app:{number}", layers)
                images += await store.load(archive)
            for age, image in enumerate(images):
                path = store.blob_path(image.digest)
                assert path is not None
                os.utime(path, (time.time() - age * 1000, time.time() - age * 1000))
            await work(store, images)
        finally:
            await store.close()

    asyncio.run(run())


@pytest.mark.root
@root
def test_the_cheapest_goes_first_and_only_as_much_as_is_wanted(tmp_path: Path) -> None:
    async def work(store: ImageStore, images: list[StoredImage]) -> None:
        first, second, third = (image.digest for image in images)
        for image in images:
            await store.unpack(image.digest)
        usage = await store.collector.usage([first], unused=True)
        assert (usage.images, usage.partial_bytes) == (3, 0)
        assert 6 * MEBIBYTE < usage.blob_bytes < 7 * MEBIBYTE
        assert 8 * MEBIBYTE < usage.reclaimable_bytes < 9 * MEBIBYTE
        # An unpacked layer of the one that was not used for longest.
        assert await store.collector.relieve([], [first], MEBIBYTE) >= 2 * MEBIBYTE
        assert len(store.list()) == 3
        assert [store.whereabouts(digest).unpacked for digest in (first, second, third)] == [
            True,
            True,
            False,
        ]
        # More: the other layer too, then images, the oldest first; never what runs or is to be kept.
        freed = await store.collector.relieve([second], [first], 100 * MEBIBYTE)
        assert freed >= 4 * MEBIBYTE
        assert {image.digest for image in store.list()} == {first, second}
        assert store.whereabouts(first).unpacked
        await store.unpack(second)  # its blobs are whole
        assert all(Path(path).exists() for path in await store.unpack(first))

    with_images(tmp_path, work)


def test_what_is_on_its_way_or_pinned_stays(tmp_path: Path) -> None:
    async def work(store: ImageStore, images: list[StoredImage]) -> None:
        with store.saved({"": images[2]}) as pieces:
            next(pieces)
            assert await store.gc([images[0].digest], unused=True) > 0
            assert {image.digest for image in store.list()} == {images[0].digest, images[2].digest}
            assert sum(map(len, pieces)) > 2 * MEBIBYTE
        await store.gc([images[0].digest], unused=True)
        assert [image.digest for image in store.list()] == [images[0].digest]

    with_images(tmp_path, work)


SWEEPER = """
import asyncio, sys
from pathlib import Path
from swarmpy.node.image.store import ImageStore
async def main():
    store = ImageStore(Path(sys.argv[1]))
    await store.open()
    print("open", flush=True)
    await store.gc([sys.argv[2]], unused=True)
    print("done", flush=True)
    await store.close()
asyncio.run(main())
"""


@pytest.mark.root
@root
@pytest.mark.parametrize("steps", [range(2, 15, 4), pytest.param(range(1, 60), marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_anywhere(tmp_path: Path, steps: range) -> None:
    """SIGKILL at every call that removes something: what is listed is whole, the next sweep ends the work."""
    kept: list[str] = []

    async def prepare(store: ImageStore, images: list[StoredImage]) -> None:
        for image in images:
            await store.unpack(image.digest)
        kept.append(images[0].digest)

    with_images(tmp_path, prepare)
    subprocess.run(["cp", "-a", str(tmp_path / "store"), str(tmp_path / "whole")], check=True)

    async def check(store: ImageStore) -> tuple[int, bool]:
        await store.open()
        try:
            for image in store.list():
                for blob in image.blobs:
                    assert store.blob_path(blob) is not None
                assert all((path.parent / "meta.json").exists() for path in await store.unpack(image.digest))
            left = len(store.list())
            await store.gc(kept, unused=True)
            assert [image.digest for image in store.list()] == kept
            assert await store.gc(kept, unused=True) == 0
            assert len(list((store.temporary.parent / "blobs/sha256").iterdir())) == len(
                store.list()[0].blobs
            )
            assert len(list((store.temporary.parent / "layers").iterdir())) == 2
            return left, True
        finally:
            await store.close()

    seen = set()
    for number in steps:
        directory = tmp_path / f"k{number}"
        subprocess.run(["cp", "-a", str(tmp_path / "whole"), str(directory)], check=True)
        killer = KILLER.format(number=number) + SWEEPER
        argv = [sys.executable, "-P", "-c", killer, str(directory), kept[0]]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        seen.add(asyncio.run(check(ImageStore(directory)))[0])
        subprocess.run(["rm", "-rf", str(directory)], check=True)
        if done.returncode == 0:
            break
    assert len(seen) >= 2, "the sweep was not killed in its course"
    assert number < 59, "the sweep did not end"


KILLER = """
import os, signal, shutil, pathlib
calls = 0
def dying(real):
    def call(*arguments, **more):
        global calls
        calls += 1
        if calls == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
os.replace = dying(os.replace)
os.rename = dying(os.rename)
os.unlink = dying(os.unlink)
shutil.rmtree = dying(shutil.rmtree)
"""


# -- the leader's part ------------------------------------------------------------------


def store_of(*objects: Entity) -> Store:
    store = Store()
    changes = [store_pb2.Change(put=wrap(obj)) for obj in objects]
    store.apply(
        1, store_pb2.Transaction(epoch=1, new_epoch=True, now_ms=1, changes=changes).SerializeToString()
    )
    return store


def node(name: str, state: types_pb2.NodeState = types_pb2.NODE_READY) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = name
    made.status.state = state
    made.description.agent_port = 7378
    return made


def image(digest: str, *holders: str, chunks: str = "c") -> objects_pb2.Image:
    made = objects_pb2.Image(digest=digest, holders=holders, chunks=chunks)
    made.meta.id = f"i-{digest}"
    made.meta.name = f"docker.io/library/{digest}:latest"
    return made


def service(*digests: str) -> objects_pb2.Service:
    """The last one is the present revision's."""
    made = objects_pb2.Service()
    made.meta.id = made.meta.name = "s"
    made.spec.replicated.replicas = 1
    made.spec.task.container.image_digest = digests[-1]
    for digest in reversed(digests[:-1]):
        made.previous_specs.add().task.container.image_digest = digest
    return made


def task(digest: str, node_id: str, state: types_pb2.TaskState = types_pb2.TASK_RUNNING) -> objects_pb2.Task:
    made = objects_pb2.Task(node_id=node_id)
    made.meta.id = f"t-{digest}-{node_id}"
    made.spec.container.image_digest = digest
    made.status.state = state
    return made


def test_what_services_revisions_and_tasks_need() -> None:
    ended = task("ended", "n1", types_pb2.TASK_FAILED)
    pending = task("pending", "", types_pb2.TASK_PENDING)
    pending.spec.sidecars.add().container.image_digest = "sidecar"
    store = store_of(service("oldest", "former", "now"), ended, pending)
    assert image_keep.needed(store, 1) == {"now", "former", "pending", "sidecar"}
    assert image_keep.needed(store, 0) == {"now", "pending", "sidecar"}
    assert image_keep.needed(store, 10) >= {"oldest"}


def test_a_full_node_keeps_what_it_runs_and_what_others_do_not_hold() -> None:
    down = node("n3", types_pb2.NODE_DOWN)
    store = store_of(
        node("n1"), node("n2"), down, node("n4"), task("run", "n1"),
        image("run", "n1", "n2", "n4"), image("rare", "n1", "n2", "n3"), image("plenty", "n1", "n2", "n4"),
    )  # fmt: skip
    assert image_keep.kept_on(store, "n1") == {"run", "rare"}


def test_an_image_that_one_node_holds_gets_a_second() -> None:
    now = image_keep.COPY_AFTER_MS + 1
    store = store_of(
        node("n1"), node("n2"), node("n3"), image("a", "n1"), image("b", "n1", "n2"), image("d"),
        image("e", "n1", chunks=""),
    )  # fmt: skip
    assert [(found.digest, to) for found, to in image_keep.too_few(store, now)] == [("a", "n3")]
    assert image_keep.too_few(store, now - 10) == []


def test_watermarks() -> None:
    assert image_keep.excess_bytes(images_pb2.NodeUsage(disk_bytes=1000, disk_free_bytes=151)) == 0
    assert image_keep.excess_bytes(images_pb2.NodeUsage(disk_bytes=1000, disk_free_bytes=150)) == 150
    assert image_keep.excess_bytes(images_pb2.NodeUsage()) == 0
