"""What the node serves of its images: Swarm to nodes that fetch them, AgentImages to managers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from swarmpy.node.agent.images import AgentImages, access_of
from swarmpy.node.agent.serve import code_of
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.image import reference as references
from swarmpy.node.image.errors import ImageError, ImageNotFound
from swarmpy.node.image.reference import ReferenceInvalid
from swarmpy.node.image.store import ImageStore, StoredImage
from swarmpy.proto import images_pb2, images_pb2_grpc

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class SwarmService(images_pb2_grpc.SwarmServicer):
    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def Exchange(
        self, request: images_pb2.SwarmRequest, context: Context
    ) -> AsyncIterator[images_pb2.SwarmUpdate]:
        held = self._store.get(request.image)
        updates = self._store.swarms.exchange(request.image, current_caller().node_id, held)
        try:
            async for update in updates:
                yield images_pb2.SwarmUpdate(
                    complete=update.complete, have=update.have, got=update.got, claimed=update.claimed,
                    peers=update.peers,
                )  # fmt: skip
        except ImageError as error:
            await context.abort(code_of(error), str(error))


class AgentImagesService(images_pb2_grpc.AgentImagesServicer):
    """`in_use`: digests of the images that this node's tasks run on, which are never dropped."""

    def __init__(
        self, images: AgentImages, in_use: Callable[[], set[str]], on_images: Callable[[], None]
    ) -> None:
        self._images, self._store = images, images.store
        self._in_use = in_use
        self._on_images = on_images

    async def Where(self, request: images_pb2.WhereRequest, context: Context) -> images_pb2.Whereabouts:
        found = await asyncio.to_thread(self._store.whereabouts, request.image)
        return images_pb2.Whereabouts(
            present_bytes=found.present_bytes, total_bytes=found.total_bytes,
            complete=found.complete, unpacked=found.unpacked,
        )  # fmt: skip

    async def Inspect(
        self, request: images_pb2.ImageReadRequest, context: Context
    ) -> images_pb2.ImageDocuments:
        try:
            image = self._held(request.image)
            parsed, data, config = await asyncio.to_thread(self._store.documents, image)
        except ImageError as error:
            await context.abort(code_of(error), str(error))
        layers = [
            images_pb2.ImageLayer(
                digest=layer.digest, diff_id=diff_id, size_bytes=layer.size, media_type=layer.media_type
            )
            for layer, diff_id in zip(parsed.layers, image.layers, strict=True)
        ]
        return images_pb2.ImageDocuments(
            references=image.references, digest=image.digest, manifest=data, config=config,
            size_bytes=image.size_bytes, layers=layers,
        )  # fmt: skip

    def _held(self, digest: str) -> StoredImage:
        image = self._store.get(digest)
        if image is None:
            raise ImageNotFound(f"image {digest} is not on this node")
        return image

    async def Save(
        self, request: images_pb2.ImageSaveRequest, context: Context
    ) -> AsyncIterator[images_pb2.ArchiveChunk]:
        try:
            named: dict[str, StoredImage] = {}
            for text in request.images:
                name, _, digest = text.rpartition("=")
                named[name] = self._held(digest)
            with self._store.saved(named) as pieces:
                while (data := await asyncio.to_thread(next, pieces, None)) is not None:
                    yield images_pb2.ArchiveChunk(data=data)
        except (ImageError, OSError) as error:
            await context.abort(
                code_of(error) if isinstance(error, ImageError) else grpc.StatusCode.DATA_LOSS, str(error)
            )

    async def Usage(self, request: images_pb2.CollectRequest, context: Context) -> images_pb2.NodeUsage:
        keep = {*request.keep_digests, *self._in_use()}
        found = await self._store.collector.usage(keep, unused=True)
        return images_pb2.NodeUsage(
            blob_bytes=found.blob_bytes, layer_bytes=found.layer_bytes, partial_bytes=found.partial_bytes,
            images=found.images, reclaimable_bytes=found.reclaimable_bytes,
            disk_bytes=found.disk_bytes, disk_free_bytes=found.disk_free_bytes,
        )  # fmt: skip

    async def Collect(
        self, request: images_pb2.CollectRequest, context: Context
    ) -> images_pb2.CollectResponse:
        in_use = self._in_use()
        if request.wanted_bytes > 0:
            freed = await self._store.collector.relieve(request.keep_digests, in_use, request.wanted_bytes)
        else:
            freed = await self._store.gc({*request.keep_digests, *in_use}, unused=True)
        self._on_images()
        return images_pb2.CollectResponse(freed_bytes=freed)

    async def CheckRegistry(
        self, request: images_pb2.CheckRegistryRequest, context: Context
    ) -> images_pb2.CheckRegistryResponse:
        try:
            await self._store.check_registry(access_of(request.access))
        except (ImageError, ReferenceInvalid) as error:
            await context.abort(code_of(error), str(error))
        return images_pb2.CheckRegistryResponse()

    async def Fetch(self, request: images_pb2.FetchRequest, context: Context) -> images_pb2.FetchResponse:
        try:
            references.parse(request.source.reference)
            await self._images.copy(request.source)
        except (ImageError, ReferenceInvalid) as error:
            await context.abort(code_of(error), str(error))
        self._on_images()
        return images_pb2.FetchResponse()
