"""Getting a task's image onto this node: own store, else a holder's by digest, else its registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from swarmpy.node.agent.picture import Picture
from swarmpy.node.ca import tls
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.image import reference as references
from swarmpy.node.image.errors import ImageNotFound, SourceFailed
from swarmpy.node.image.store import ImageStore, StoredImage
from swarmpy.proto import agent_pb2, agent_pb2_grpc, types_pb2

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

    def __init__(self, store: ImageStore, identity: IdentityFile, self_id: str) -> None:
        self.store = store
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
            return image, await self.store.unpack(image.digest)

    async def _bring(self, container: types_pb2.ContainerSpec, picture: Picture) -> StoredImage:
        digest = container.image_digest
        source = picture.images.get(digest or container.image)
        holders = [h for h in source.holders if h.node_id != self._self_id] if source else []
        last: SourceFailed | None = None
        for holder in holders:
            channel = tls.channel(holder.address, holder.node_id, self._identity.current())
            try:
                log.info("image from peer digest=%s peer=%s", digest, holder.node_id)
                blobs = PeerBlobs(channel, holder.node_id)
                return await self.store.fetch(digest, blobs, reference=container.image)
            except SourceFailed as error:
                last = error
                log.warning("peer failed peer=%s error=%s", holder.node_id, error)
            finally:
                await channel.close(None)
        if last is not None:
            raise last
        if container.pull_policy == "never":
            raise ImageNotFound(f"image {container.image} is not on this node and its pull policy is never")
        parsed = references.parse(container.image)
        wanted = parsed.with_digest(digest) if digest else parsed
        log.info("image from registry reference=%s", wanted)
        return await self.store.pull(wanted)
