"""The Images service: where images are, what is in them, what they take, and what may go.

Every manager serves it from its own store, after the leader said how far that has to be, and asks the nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.manager import credentials
from swarmpy.node.manager.answers import abort
from swarmpy.node.manager.control import Control
from swarmpy.node.manager.errors import Conflict, Invalid, ManagerError, NotFound, Refused
from swarmpy.node.manager.image_keep import needed, ready_holders
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.tasks import Tasks
from swarmpy.node.plan.base import SPEC_HISTORY_MAX
from swarmpy.node.plan.held import normalise
from swarmpy.proto import control_pb2, images_pb2, images_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store

log = logging.getLogger(__name__)
CALL_TIMEOUT_S = 15.0
COLLECT_TIMEOUT_S = 300.0
SAVE_TIMEOUT_S = 3600.0
CHECK_TIMEOUT_S = 60.0
NODES_AT_ONCE = 32
PREFIX_LENGTH_MIN = 6
Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class ImageCalls(images_pb2_grpc.ImagesServicer):
    """One per manager. `tasks` brings the store up to date before a call."""

    def __init__(self, store: Store, tasks: Tasks, control: Control, channels: NodeChannels) -> None:
        self._store, self._tasks, self._control, self._channels = store, tasks, control, channels

    # -- which image, which node ----------------------------------------------------------

    def find(self, text: str) -> objects_pb2.Image:
        """By name, id, digest, or the beginning of either of these two."""
        bare = text.removeprefix("sha256:")
        every = list(self._store.images())
        name = normalise(text)
        for found in (
            [image for image in every if image.meta.name == name or text in {image.meta.id, image.digest}],
            [
                image for image in every
                if len(bare) >= PREFIX_LENGTH_MIN
                and (image.digest.removeprefix("sha256:").startswith(bare) or image.meta.id.startswith(text))
            ],
        ):  # fmt: skip
            if len({image.digest for image in found}) == 1:
                return found[0]
            if found:
                raise Invalid(f"{text!r} fits {len(found)} images: write more of its name or digest")
        raise NotFound(f"there is no image {text!r} in the cluster: see `swarmpy image ls`")

    def _agent(self, node_id: str) -> Any:
        return images_pb2_grpc.AgentImagesStub(self._channels.agent(node_id))

    def _holders(self, image: objects_pb2.Image) -> list[str]:
        holders = ready_holders(self._store, image)
        if not holders:
            raise NotFound(f"no node that is up holds image {image.meta.name}")
        return holders

    async def _everywhere(self, ask: Callable[[objects_pb2.Node], Awaitable[T]]) -> list[T]:
        room = asyncio.Semaphore(NODES_AT_ONCE)
        nodes = sorted(
            (node for node in self._store.nodes() if not node.removed), key=lambda node: node.meta.name
        )

        async def one(node: objects_pb2.Node) -> T:
            async with room:
                return await ask(node)

        return await asyncio.gather(*(one(node) for node in nodes))

    async def _ask(self, node: objects_pb2.Node, method: str, request: Any, timeout_s: float) -> Any:
        """The node's answer, or a sentence why there is none."""
        if node.status.state != types_pb2.NODE_READY:
            return f"it is {types_pb2.NodeState.Name(node.status.state).removeprefix('NODE_').lower()}"
        try:
            return await getattr(self._agent(node.meta.id), method)(request, timeout=timeout_s)
        except ManagerError as error:
            return str(error)
        except grpc.aio.AioRpcError as error:
            return error.details() or "it gave no reason"

    # -- calls ------------------------------------------------------------------------------

    async def Where(self, request: images_pb2.WhereRequest, context: Context) -> images_pb2.WhereResponse:
        try:
            await self._tasks.fresh()
            image = self.find(request.image)
        except ManagerError as error:
            await abort(context, error)

        async def one(node: objects_pb2.Node) -> images_pb2.Whereabouts:
            answer = await self._ask(
                node, "Where", images_pb2.WhereRequest(image=image.digest), CALL_TIMEOUT_S
            )
            found = images_pb2.Whereabouts(warning=answer) if isinstance(answer, str) else answer
            found.node_id, found.node_name = node.meta.id, node.meta.name
            return found

        nodes = await self._everywhere(one)
        return images_pb2.WhereResponse(reference=image.meta.name, digest=image.digest, nodes=nodes)

    async def Inspect(
        self, request: images_pb2.ImageReadRequest, context: Context
    ) -> images_pb2.ImageDocuments:
        try:
            await self._tasks.fresh()
            image = self.find(request.image)
            answer = await self._from_a_holder(image, "Inspect")
        except ManagerError as error:
            await abort(context, error)
        names = sorted(other.meta.name for other in self._store.images() if other.digest == image.digest)
        del answer.references[:]
        answer.references.extend(names)
        return answer  # type: ignore[no-any-return]

    async def _from_a_holder(self, image: objects_pb2.Image, method: str) -> Any:
        problem = ""
        for node_id in self._holders(image):
            node = self._store.node(node_id)
            assert node is not None
            answer = await self._ask(
                node, method, images_pb2.ImageReadRequest(image=image.digest), CALL_TIMEOUT_S
            )
            if not isinstance(answer, str):
                answer.node_id = node_id
                return answer
            problem = f"node {node.meta.name}: {answer}"
        raise NotFound(f"image {image.meta.name} cannot be read: {problem}")

    async def Save(
        self, request: images_pb2.ImageSaveRequest, context: Context
    ) -> AsyncIterator[images_pb2.ArchiveChunk]:
        try:
            await self._tasks.fresh()
            images = [self.find(text) for text in request.images]
            if not images:
                raise Invalid("images: say which")
            holders = set.intersection(*(set(self._holders(image)) for image in images))
            if not holders:
                raise Invalid("no single node holds all of these images: save them one by one")
        except ManagerError as error:
            await abort(context, error)
        node_id = self._control.self_id if self._control.self_id in holders else min(holders)
        named = images_pb2.ImageSaveRequest(images=[f"{i.meta.name}={i.digest}" for i in images])
        call = self._agent(node_id).Save(named, timeout=SAVE_TIMEOUT_S)
        try:
            async for chunk in call:
                yield chunk
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "the node gave no reason")
        finally:
            call.cancel()

    async def Usage(self, request: images_pb2.UsageRequest, context: Context) -> images_pb2.UsageResponse:
        await self._tasks.fresh()
        keep = needed(self._store, SPEC_HISTORY_MAX) | {image.digest for image in self._store.images()}
        return images_pb2.UsageResponse(nodes=await self._usage(keep))

    async def _usage(self, keep: set[str]) -> list[images_pb2.NodeUsage]:
        wanted = images_pb2.CollectRequest(keep_digests=sorted(keep))

        async def one(node: objects_pb2.Node) -> images_pb2.NodeUsage:
            answer = await self._ask(node, "Usage", wanted, CALL_TIMEOUT_S)
            found = images_pb2.NodeUsage(warning=answer) if isinstance(answer, str) else answer
            found.node_id, found.node_name = node.meta.id, node.meta.name
            return found

        return await self._everywhere(one)

    async def Prune(
        self, request: images_pb2.PruneImagesRequest, context: Context
    ) -> images_pb2.PruneImagesResponse:
        actor = current_caller().actor
        try:
            await self._tasks.fresh()
            keep = needed(self._store, request.keep_revisions)
            doomed = [image for image in self._store.images() if request.all and image.digest not in keep]
            gone = {image.meta.id for image in doomed}
            keep |= {image.digest for image in self._store.images() if image.meta.id not in gone}
            answer = images_pb2.PruneImagesResponse()
            if request.plan:
                answer.images.extend(map(_pruned, doomed))
                answer.nodes.extend(await self._usage(keep))
                answer.freed_bytes = sum(node.reclaimable_bytes for node in answer.nodes)
                return answer
            for image in doomed:
                try:
                    await self._delete(image, actor)
                except (Refused, Conflict) as error:  # a service has come to use it meanwhile
                    log.info("image kept image=%s reason=%s", image.meta.name, error)
                else:
                    answer.images.append(_pruned(image))
        except ManagerError as error:
            await abort(context, error)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "the leader did not answer")
            raise AssertionError from error
        log.info("images pruned count=%d actor=%s", len(answer.images), actor)
        answer.nodes.extend(await self._collect())
        answer.freed_bytes = sum(node.reclaimable_bytes for node in answer.nodes)
        return answer

    async def CheckRegistry(
        self, request: images_pb2.CheckRegistryRequest, context: Context
    ) -> images_pb2.CheckRegistryResponse:
        try:
            agent = self._agent(self._control.self_id)
            return await agent.CheckRegistry(request, timeout=CHECK_TIMEOUT_S)  # type: ignore[no-any-return]
        except ManagerError as error:
            await abort(context, error)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "the node gave no reason")
            raise AssertionError from error

    async def _delete(self, image: objects_pb2.Image, actor: str) -> None:
        """The leader looks again whether a service uses it by now."""
        try:
            wanted = control_pb2.DeleteRequest(kind=store_pb2.KIND_IMAGE, ref=image.meta.id)
            await self._control.on_behalf("Delete", wanted, actor)
        except NotFound:
            return

    async def _collect(self) -> list[images_pb2.NodeUsage]:
        """Let every node drop what nothing refers to; `reclaimable_bytes` says what that was."""
        await self._tasks.fresh()
        keep = needed(self._store, SPEC_HISTORY_MAX) | {image.digest for image in self._store.images()}
        wanted = images_pb2.CollectRequest(keep_digests=sorted(keep))

        async def one(node: objects_pb2.Node) -> images_pb2.NodeUsage:
            answer = await self._ask(node, "Collect", wanted, COLLECT_TIMEOUT_S)
            usage = images_pb2.NodeUsage(node_id=node.meta.id, node_name=node.meta.name)
            if isinstance(answer, str):
                usage.warning = answer
            else:
                usage.reclaimable_bytes = answer.freed_bytes
            return usage

        return await self._everywhere(one)


class Pulls(images_pb2_grpc.PullsServicer):
    """What nodes ask before they pull; every manager answers."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store, self._tasks = store, tasks

    async def Credential(
        self, request: images_pb2.CredentialRequest, context: Context
    ) -> images_pb2.CredentialResponse:
        try:
            await self._tasks.fresh()
            credentials.check_needs(self._store, current_caller().node_id, request.reference)
            access = await credentials.access_for(self._store, request.reference)
        except ManagerError as error:
            await abort(context, error)
        return images_pb2.CredentialResponse(access=access)


def _pruned(image: objects_pb2.Image) -> images_pb2.PrunedImage:
    return images_pb2.PrunedImage(name=image.meta.name, digest=image.digest, size_bytes=image.size_bytes)
