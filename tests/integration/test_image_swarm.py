"""One image from several nodes at once: shared load, broken and lying peers, what was left is used."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from swarmpy.node.image import chunks, swarm
from swarmpy.node.image.board import Update
from swarmpy.node.image.errors import ImageNotFound, SourceFailed
from swarmpy.node.image.manifest import Descriptor
from swarmpy.node.image.store import ImageStore, StoredImage
from swarmpy.node.image.swarms import SwarmSource

from tests.images import docker_archive, entry, layer

CHUNKS = 24
ON_THE_WAY_S = 0.03  # of a chunk: long beside what all nodes compute in this one process
SMALL = layer(entry("small", b"x" * 1000))


class Net:
    """Stores that reach each other, without a network between; what each sent is counted."""

    def __init__(self) -> None:
        self.stores: dict[str, ImageStore] = {}
        self.sent: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.liars: set[str] = set()
        self.dies_after: dict[str, int] = {}  # chunks

    def way(self, member: str) -> Callable[[str], swarm.Link | None]:
        return lambda name: LocalLink(self, name, member) if name in self.stores else None


class LocalLink:
    def __init__(self, net: Net, name: str, member: str) -> None:
        self._net, self._name, self._member = net, name, member

    def _check(self) -> None:
        if self._net.dies_after.get(self._name, 1) <= 0:
            raise SourceFailed(f"{self._name} is gone")

    async def updates(self, image: str) -> AsyncIterator[Update]:
        self._check()
        store = self._net.stores[self._name]
        updates = store.swarms.exchange(image, self._member, store.get(image))
        try:
            async for update in updates:
                yield update
        finally:
            await updates.aclose()  # type: ignore[attr-defined]

    async def chunk(self, digest: str, offset: int, length: int) -> bytes:
        self._check()
        await asyncio.sleep(0)
        self._net.stores[self._name].swarms.serving(self._member, digest, offset, length)
        await asyncio.sleep(ON_THE_WAY_S)
        if self._name in self._net.dies_after:
            self._net.dies_after[self._name] -= 1
        path = self._net.stores[self._name].readable(digest, offset, length)
        if path is None:
            raise ImageNotFound(f"{self._name} does not have {digest}")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        self._net.sent[self._name] += length
        self._net.asked[self._name, self._member] += 1
        return bytes(length) if self._name in self._net.liars else data

    async def read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        self._check()
        path = self._net.stores[self._name].blob_path(digest)
        if path is None:
            raise ImageNotFound(f"{self._name} does not have {digest}")
        data = path.read_bytes()[offset:]
        if len(data) > 100_000:
            self._net.asked["whole", self._name] += 1
        yield data


async def fetch(net: Net, name: str, image: StoredImage, listed: str, holders: Sequence[str]) -> StoredImage:
    way = net.way(name)
    links = [link for holder in holders if (link := way(holder)) is not None]
    source = SwarmSource(listed, holders, way)
    return await net.stores[name].fetch(image.digest, links, reference="app:1", swarm=source)  # type: ignore[arg-type]


def run(
    tmp_path: Path, names: Sequence[str], work: Callable[[Net, StoredImage, str], Awaitable[None]]
) -> None:
    """`names`: the nodes; the first has the image of about CHUNKS chunks."""
    layers = [SMALL, layer(entry("big", os.urandom((CHUNKS - 1) << 20)))]
    archive = docker_archive(tmp_path / "a.tar", "app:1", layers)

    async def all_of_it() -> None:
        net = Net()
        async with AsyncExitStack() as stack:
            for name in names:
                store = net.stores[name] = ImageStore(tmp_path / name)
                await store.open()
                stack.push_async_callback(store.close)
            (image,) = await net.stores[names[0]].load(archive)
            listed = await net.stores[names[0]].chunk_list(image.digest)
            await asyncio.wait_for(work(net, image, listed), 60)
            for store in net.stores.values():
                if store.get(image.digest) is not None:
                    await store.gc()  # of a node that gave up nothing is asked here
                    assert list((tmp_path / names[0] / "parts").iterdir()) == []

    asyncio.run(all_of_it())


def test_five_nodes_get_it_from_each_other(tmp_path: Path) -> None:
    nodes = ["source", *(f"n{n}" for n in range(5))]

    async def work(net: Net, image: StoredImage, listed: str) -> None:
        fetched = await asyncio.gather(*(fetch(net, name, image, listed, ["source"]) for name in nodes[1:]))
        assert {one.digest for one in fetched} == {image.digest}
        assert all(one.chunks == listed for one in fetched)
        for name in nodes[1:]:
            for blob in image.blobs:
                path, own = net.stores["source"].blob_path(blob), net.stores[name].blob_path(blob)
                assert path is not None
                assert own is not None
                assert own.read_bytes() == path.read_bytes()
        assert net.sent["source"] < 1.8 * image.size_bytes
        assert sum(net.sent.values()) == 5 * sum(
            os.path.getsize(path)
            for blob in image.blobs[1:]
            if (path := net.stores["source"].blob_path(blob)) is not None
        )

    run(tmp_path, nodes, work)


def test_several_complete_holders_share_the_work(tmp_path: Path) -> None:
    async def work(net: Net, image: StoredImage, listed: str) -> None:
        await fetch(net, "second", image, listed, ["first"])
        net.sent.clear()
        await fetch(net, "third", image, listed, ["first", "second"])
        assert net.sent["first"] > image.size_bytes / 4
        assert net.sent["second"] > image.size_bytes / 4
        assert net.sent.total() < 1.01 * image.size_bytes

    run(tmp_path, ["first", "second", "third"], work)


def test_a_holder_that_dies_is_replaced(tmp_path: Path) -> None:
    async def work(net: Net, image: StoredImage, listed: str) -> None:
        await fetch(net, "second", image, listed, ["first"])
        net.dies_after["first"] = 3
        assert (await fetch(net, "third", image, listed, ["first", "second"])).digest == image.digest

    run(tmp_path, ["first", "second", "third"], work)


def test_a_liar_is_found_at_its_first_chunk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(net: Net, image: StoredImage, listed: str) -> None:
        await fetch(net, "liar", image, listed, ["honest"])
        net.liars.add("liar")
        net.sent.clear()
        fetched = await fetch(net, "third", image, listed, ["honest", "liar"])
        assert fetched.digest == image.digest
        assert net.asked["liar", "third"] <= 3  # what was under way when the first came
        assert "not asked again node=liar" in caplog.text
        assert net.asked["whole", "honest"] == 0

    run(tmp_path, ["honest", "liar", "third"], work)


def test_only_liars_give_nothing(tmp_path: Path) -> None:
    async def work(net: Net, image: StoredImage, listed: str) -> None:
        net.liars.add("liar")
        store = net.stores["third"]
        source = SwarmSource(listed, ["liar"], net.way("third"))
        blobs = [Descriptor(b.digest, b.size) for b in chunks.parse(list_bytes(net, listed), "x").blobs]

        async def document(digest: str) -> bytes:
            return list_bytes(net, digest)

        got = await store.swarms.fetch(image.digest, blobs, source, lambda *_: None, document)
        assert got == b""
        assert store.list() == []

    run(tmp_path, ["liar", "third"], work)


def list_bytes(net: Net, digest: str) -> bytes:
    path = next(iter(net.stores.values())).blob_path(digest)
    assert path is not None
    return path.read_bytes()


def test_an_ended_fetch_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "RETRY_S", 0.01)
    monkeypatch.setattr(swarm, "NOBODY_S_MAX", 0.1)

    async def work(net: Net, image: StoredImage, listed: str) -> None:
        net.dies_after["first"] = 5
        with pytest.raises(SourceFailed):
            await fetch(net, "second", image, listed, ["first"])
        parts = tmp_path / "second" / "parts"
        part = max(parts.iterdir(), key=lambda path: path.stat().st_size)
        with part.open("r+b") as file:  # a chunk that rotted meanwhile is not believed
            file.seek(next(n for n in range(CHUNKS) if any(os.pread(file.fileno(), 1 << 20, n << 20))) << 20)
            file.write(b"rot")
        del net.dies_after["first"]
        net.sent.clear()
        assert (await fetch(net, "second", image, listed, ["first"])).digest == image.digest
        assert net.sent["first"] <= image.size_bytes - (2 << 20)
        assert list(parts.iterdir()) == []

    run(tmp_path, ["first", "second"], work)


def test_the_list_outlives_the_store_and_goes_with_the_image(tmp_path: Path) -> None:
    async def work(net: Net, image: StoredImage, listed: str) -> None:
        store = net.stores["only"]
        assert await store.chunk_list(image.digest) == listed
        await store.gc()
        assert store.blob_path(listed) is not None
        await store.close()
        net.stores["only"] = again = ImageStore(tmp_path / "only")
        await again.open()
        try:
            found = again.get(image.digest)
            assert found is not None
            assert found.chunks == listed
            await again.remove(image.digest)
            await again.gc()
            assert again.blob_path(listed) is None
        finally:
            await again.close()

    run(tmp_path, ["only"], work)


def test_a_list_that_is_not_the_images_is_not_used() -> None:
    blob = Descriptor("sha256:" + "1" * 64, 3)
    other = chunks.ChunkList("sha256:" + "2" * 64, 1 << 20, (chunks.BlobChunks(blob.digest, 3, ("a" * 64,)),))
    data = other.encoded()
    assert chunks.parse(data, "x") == other
    digest = swarm.manifest.sha256(data)
    assert swarm.usable(data, digest, other.image, [blob]) == other
    assert swarm.usable(data, digest, "sha256:" + "3" * 64, [blob]) is None
    assert swarm.usable(data, digest, other.image, []) is None
    assert swarm.usable(data + b" ", digest, other.image, [blob]) is None
    assert other.covering(blob.digest, 0, 3) == range(1)
    assert other.covering(blob.digest, 2, 2) == range(0)
