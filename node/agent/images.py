"""Getting a task's image onto this node: own store, else from the nodes that hold or fetch it, else its registry."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import grpc
from swarmpy.node import metrics
from swarmpy.node.agent.picture import Picture
from swarmpy.node.ca import tls
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.config import ManagerAddress
from swarmpy.node.image import reference as references
from swarmpy.node.image.board import Update
from swarmpy.node.image.errors import ImageError, ImageNotFound, SourceFailed
from swarmpy.node.image.store import Access, Credentials, ImageStore, StoredImage
from swarmpy.node.image.swarms import SwarmSource
from swarmpy.proto import agent_pb2, agent_pb2_grpc, dispatcher_pb2, images_pb2, images_pb2_grpc, types_pb2

log = logging.getLogger(__name__)
BLOB_TIMEOUT_S = 600.0
CHUNK_TIMEOUT_S = 30.0
EXCHANGE_S_MAX = 24 * 3600.0
RECENT_S = 600.0
ACCESS_TIMEOUT_S = 25.0  # a credential helper may have to ask its cloud


class PeerBlobs:
    """Another node's store over mTLS: a BlobSource and a Link."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = agent_pb2_grpc.BlobsStub(channel)
        self._swarm = images_pb2_grpc.SwarmStub(channel)
        self.name = name

    async def read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        try:
            request = agent_pb2.BlobReadRequest(digest=digest, offset=offset)
            async for chunk in self._stub.Read(request, timeout=BLOB_TIMEOUT_S):
                yield chunk.data
        except grpc.aio.AioRpcError as error:
            raise self._failed(f"blob {digest[:19]}", error) from error

    async def chunk(self, digest: str, offset: int, length: int) -> bytes:
        data = bytearray()
        try:
            request = agent_pb2.BlobReadRequest(digest=digest, offset=offset, length=length)
            async for chunk in self._stub.Read(request, timeout=CHUNK_TIMEOUT_S):
                data += chunk.data
                if len(data) > length:
                    raise SourceFailed(f"node {self.name} sent more of blob {digest[:19]} than was asked for")
        except grpc.aio.AioRpcError as error:
            raise self._failed(f"a part of blob {digest[:19]}", error) from error
        return bytes(data)

    async def updates(self, image: str) -> AsyncIterator[Update]:
        call = self._swarm.Exchange(images_pb2.SwarmRequest(image=image), timeout=EXCHANGE_S_MAX)
        try:
            async for update in call:
                yield Update(
                    update.complete,
                    update.have,
                    tuple(update.got),
                    tuple(update.claimed),
                    tuple(update.peers),
                )
        except grpc.aio.AioRpcError as error:
            raise self._failed(f"image {image[:19]}", error) from error
        finally:
            call.cancel()

    def _failed(self, what: str, error: grpc.aio.AioRpcError) -> SourceFailed | ImageNotFound:
        kind = ImageNotFound if error.code() == grpc.StatusCode.NOT_FOUND else SourceFailed
        return kind(f"node {self.name} did not give {what}: {error.details()}")


class Peers:
    """Channels to other nodes for one fetch; closed with it."""

    def __init__(self, identity: IdentityFile, self_id: str, addresses: dict[str, str]) -> None:
        self._identity = identity
        self._self_id = self_id
        self._addresses = addresses
        self._channels: dict[str, tuple[grpc.aio.Channel, PeerBlobs]] = {}

    def link(self, node_id: str) -> PeerBlobs | None:
        if node_id == self._self_id or node_id not in self._addresses:
            return None
        if node_id not in self._channels:
            channel = tls.channel(self._addresses[node_id], node_id, self._identity.current())
            self._channels[node_id] = (channel, PeerBlobs(channel, node_id))
        return self._channels[node_id][1]

    async def close(self) -> None:
        for channel, _ in self._channels.values():
            await channel.close(None)


def access_of(given: types_pb2.RegistryAccess) -> Access:
    """What a manager says of a registry."""
    return Access(
        registry=given.registry,
        credentials=Credentials(given.username, given.password) if given.username else None,
        insecure=given.insecure,
        ca=given.ca,
        mirrors=tuple(access_of(mirror) for mirror in given.mirrors),
    )


def numbers(store: ImageStore) -> Iterator[metrics.Family]:
    """For Prometheus."""
    received, sent = store.swarms.received.total(), store.swarms.sent_bytes
    yield metrics.gauge("swarmpy_node_images", "Images that this node holds whole.", len(store.list()))
    yield metrics.counter(
        "swarmpy_image_p2p_received_bytes_total", "Chunks of images from other nodes.", received
    )
    yield metrics.counter(
        "swarmpy_image_p2p_bytes_total", "Blobs and chunks of images given to other nodes.", sent
    )


class AgentImages:
    """The node's images for its tasks."""

    def __init__(
        self, store: ImageStore, identity: IdentityFile, self_id: str, on_new: Callable[[], None],
        manager: Callable[[], ManagerAddress | None],
    ) -> None:  # fmt: skip
        """`on_new` is called when an image came here, so that other nodes hear of one more holder.

        `manager` is the one that this node is connected to, which knows what registries want.
        """
        self._manager = manager
        self.store = store
        self._on_new = on_new
        self._identity = identity
        self._self_id = self_id
        # Kept by who holds or waits for one, and by nobody else.
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._used_s: dict[str, float] = {}
        self._listing: set[asyncio.Task[None]] = set()

    def known(self, container: types_pb2.ContainerSpec) -> StoredImage | None:
        return self.store.get(container.image_digest or container.image)

    def recent(self) -> set[str]:
        """What a task wanted lately: one that is ending may still run on it."""
        oldest_s = time.monotonic() - RECENT_S
        self._used_s = {key: at_s for key, at_s in self._used_s.items() if at_s > oldest_s}
        return set(self._used_s)

    async def ready(
        self, container: types_pb2.ContainerSpec, picture: Picture
    ) -> tuple[StoredImage, tuple[Path, ...]]:
        """The image and its unpacked layers, lowest first. Raises ImageError."""
        key = container.image_digest or container.image
        async with self._busy.setdefault(key, asyncio.Lock()):
            image = self.store.get(key)
            if image is None:
                image = await self._bring(container, picture)
                self._on_new()
                self._list_chunks(image)
            self.store.collector.used(image.digest)
            self._used_s[key] = time.monotonic()
            return image, await self.store.unpack(image.digest)

    async def _bring(self, container: types_pb2.ContainerSpec, picture: Picture) -> StoredImage:
        digest = container.image_digest
        source = picture.images.get(digest or container.image)
        if source is not None and any(holder.node_id != self._self_id for holder in source.holders):
            try:
                return await self._fetch(digest, container.image, source, picture)
            except SourceFailed as error:
                if container.pull_policy == "never":
                    raise
                log.warning("image not from peers, asking its registry digest=%s error=%s", digest, error)
                return await self._pull(container, error)
        return await self._pull(container, None)

    def _list_chunks(self, image: StoredImage) -> None:
        """Beside everything else, so that others can have it in chunks from here."""
        if image.chunks:
            return

        async def work() -> None:
            try:
                await self.store.chunk_list(image.digest)
                self._on_new()
            except (ImageError, OSError) as error:
                log.warning("chunks not listed image=%s error=%s", image.digest, error)

        task = asyncio.create_task(work())
        self._listing.add(task)
        task.add_done_callback(self._listing.discard)

    def held(self) -> list[dispatcher_pb2.ImageHeld]:
        """What a manager may want to know of each image here, by each of its digests."""
        found = []
        for image in self.store.list():
            system, architecture = image.platform
            platform = types_pb2.Platform(os=system, architecture=architecture)
            found += [
                dispatcher_pb2.ImageHeld(
                    digest=digest, chunks=image.chunks, size_bytes=image.size_bytes, platform=platform
                )
                for digest in (image.digest, *image.indexes)
                if image.chunks
            ]
        return found

    async def close(self) -> None:
        for task in self._listing:
            task.cancel()
        await asyncio.gather(*self._listing, return_exceptions=True)

    async def _access(self, reference: str) -> Access | None:
        """From a manager; without one the registry is asked without credentials."""
        manager = self._manager()
        if manager is None:
            return None
        channel = tls.channel(manager.address, manager.id, self._identity.current())
        try:
            request = images_pb2.CredentialRequest(reference=reference)
            answer = await images_pb2_grpc.PullsStub(channel).Credential(request, timeout=ACCESS_TIMEOUT_S)
            return access_of(answer.access)
        except grpc.aio.AioRpcError as error:
            log.warning("registry's credentials not known reference=%s error=%s", reference, error.details())
            return None
        finally:
            await channel.close(None)

    async def copy(self, source: dispatcher_pb2.ImageSource) -> None:
        """Have it here, too. Raises ImageError."""
        if self.store.get(source.digest) is None:
            await self._fetch(source.digest, source.reference, source, Picture())

    async def _pull(self, container: types_pb2.ContainerSpec, before: SourceFailed | None) -> StoredImage:
        if container.pull_policy == "never":
            raise ImageNotFound(f"image {container.image} is not on this node and its pull policy is never")
        digest = container.image_digest
        parsed = references.parse(container.image)
        wanted = parsed.with_digest(digest) if digest else parsed
        log.info("image from registry reference=%s", wanted)
        try:
            return await self.store.pull(wanted, access=await self._access(str(parsed)))
        except ImageError as error:
            if before is None:
                raise
            raise type(error)(f"{before}; and from its registry: {error}") from error

    async def _fetch(
        self, digest: str, reference: str, source: dispatcher_pb2.ImageSource, picture: Picture
    ) -> StoredImage:
        """In chunks from every node that has some; else from the holders in turn."""
        holders = [holder for holder in source.holders if holder.node_id != self._self_id]
        addresses = {
            peer.id: f"{peer.address}:{peer.agent_port}"
            for peer in picture.peers.values()
            if peer.address and peer.agent_port
        }
        addresses.update((holder.node_id, holder.address) for holder in holders)
        log.info("image from peers digest=%s peers=%d", digest, len(holders))
        peers = Peers(self._identity, self._self_id, addresses)
        random.shuffle(holders)
        links = [link for holder in holders if (link := peers.link(holder.node_id)) is not None]
        swarm = SwarmSource(source.chunks, [holder.node_id for holder in holders], peers.link)
        try:
            return await self.store.fetch(
                digest, links, reference=reference, swarm=swarm if source.chunks else None
            )
        finally:
            await peers.close()
