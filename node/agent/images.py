"""Getting a task's image onto this node: own store, else a holder's by digest, else its registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
from swarmpy.node.agent.picture import Picture
from swarmpy.node.ca import tls
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.image import reference as references
from swarmpy.node.image.errors import ImageNotFound, SourceFailed
from swarmpy.node.image.store import ImageStore, StoredImage
from swarmpy.proto import agent_pb2, agent_pb2_grpc, dispatcher_pb2, types_pb2

log = logging.getLogger(__name__)
BLOB_TIMEOUT_S = 600.0


class PeerBlobs:
    """A BlobSource: another node's store over mTLS."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = agent_pb2_grpc.BlobsStub(channel)
        self.name = name

    async def read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        try:
            request = agent_pb2.BlobReadRequest(digest=digest, offset=offset)
            async for chunk in self._stub.Read(request, timeout=BLOB_TIMEOUT_S):
                yield chunk.data
        except grpc.aio.AioRpcError as error:
            raise SourceFailed(
                f"node {self.name} did not give blob {digest[:19]}: {error.details()}"
            ) from error


class AgentImages:
    """The node's images for its tasks."""

    def __init__(
        self, store: ImageStore, identity: IdentityFile, self_id: str, on_new: Callable[[], None]
    ) -> None:
        """`on_new` is called when an image came here, so that other nodes hear of one more holder."""
        self.store = store
        self._on_new = on_new
        self._identity = identity
        self._self_id = self_id
        self._busy: dict[str, asyncio.Lock] = {}

    def known(self, container: types_pb2.ContainerSpec) -> StoredImage | None:
        return self.store.get(container.image_digest or container.image)

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
            return image, await self.store.unpack(image.digest)

    async def _bring(self, container: types_pb2.ContainerSpec, picture: Picture) -> StoredImage:
        digest = container.image_digest
        source = picture.images.get(digest or container.image)
        holders = [h for h in source.holders if h.node_id != self._self_id] if source else []
        if holders:
            return await self._fetch(digest, container.image, holders)
        if container.pull_policy == "never":
            raise ImageNotFound(f"image {container.image} is not on this node and its pull policy is never")
        parsed = references.parse(container.image)
        wanted = parsed.with_digest(digest) if digest else parsed
        log.info("image from registry reference=%s", wanted)
        return await self.store.pull(wanted)

    async def _fetch(
        self, digest: str, reference: str, holders: list[dispatcher_pb2.ImageHolder]
    ) -> StoredImage:
        """From the holders, in turn: where one breaks off, the next goes on."""
        log.info("image from peers digest=%s peers=%d", digest, len(holders))
        channels = [
            tls.channel(holder.address, holder.node_id, self._identity.current()) for holder in holders
        ]
        try:
            sources = [
                PeerBlobs(channel, holder.node_id) for channel, holder in zip(channels, holders, strict=True)
            ]
            return await self.store.fetch(digest, sources, reference=reference)
        finally:
            for channel in channels:
                await channel.close(None)
