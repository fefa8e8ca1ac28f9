"""The cluster's images: records of digests and holders. The blobs are on the nodes.

`load` and `pull` work on the leader's own node through its agent; every other node then
fetches the blobs from a holder by digest. A reference that the cluster does not know is
resolved at its registry once, when a service is created.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from swarmpy.node.manager.errors import Invalid, ManagerError, NotFound, Refused
from swarmpy.node.manager.image_keep import needed, references_of
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.plan.base import SPEC_HISTORY_MAX
from swarmpy.node.plan.held import normalise
from swarmpy.proto import (
    agent_pb2,
    agent_pb2_grpc,
    control_pb2,
    images_pb2,
    images_pb2_grpc,
    objects_pb2,
    store_pb2,
    types_pb2,
)
from swarmpy.raft.tables import Entity, name_problem, wrap

log = logging.getLogger(__name__)
RESOLVE_TIMEOUT_S = 20.0
PRUNE_TIMEOUT_S = 30.0
TRANSFER_TIMEOUT_S = 3600.0
REGISTRY_AWAY = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DEADLINE_EXCEEDED)


class Images:
    """Image records and the way to the nodes' stores."""

    def __init__(
        self, leader: Leader, channels: NodeChannels, self_id: str, new_id: Callable[[], str]
    ) -> None:
        self._leader = leader
        self._store = leader.store
        self._channels = channels
        self._self_id = self_id
        self._new_id = new_id
        self.access: Callable[[str], Awaitable[types_pb2.RegistryAccess]] | None = None

    async def _access(self, reference: str) -> types_pb2.RegistryAccess | None:
        return await self.access(reference) if self.access is not None else None

    def by_reference(self, reference: str) -> objects_pb2.Image | None:
        image = self._store.by_name(store_pb2.KIND_IMAGE, normalise(reference))
        return image if isinstance(image, objects_pb2.Image) else None

    def tagged(self, wanted: objects_pb2.Image) -> objects_pb2.Image:
        """One more name for the content `wanted.digest`; a name that exists moves there."""
        if problem := name_problem(store_pb2.KIND_IMAGE, normalise(wanted.meta.name)):
            raise Invalid(f"meta.name: {problem}")
        of_it = next((image for image in self._store.images() if image.digest == wanted.digest), None)
        if of_it is None:
            raise NotFound(f"there is no image {wanted.digest or wanted.meta.name!r} in the cluster")
        if "@" in wanted.meta.name:
            raise Invalid("meta.name: a new name has a tag, not a digest")
        stored = self.by_reference(wanted.meta.name)
        image = objects_pb2.Image()
        image.CopyFrom(of_it)
        image.meta.Clear()
        image.meta.name = normalise(wanted.meta.name)
        image.meta.id = stored.meta.id if stored else self._new_id()
        image.meta.version = stored.meta.version if stored else 0
        return image

    async def resolve(self, reference: str) -> str:
        """The manifest digest for a reference; NotFound with a sentence where there is none."""
        _, _, digest = reference.partition("@")
        if digest:
            return digest
        if (image := self.by_reference(reference)) is not None:
            return image.digest
        stub = agent_pb2_grpc.AgentStub(self._channels.agent(self._self_id))
        try:
            answer = await stub.Resolve(
                agent_pb2.ResolveRequest(reference=reference, access=await self._access(reference)),
                timeout=RESOLVE_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in REGISTRY_AWAY and (known := self._noted(reference)) is not None:
                log.warning(
                    "registry away, last digest taken reference=%s error=%s", reference, error.details()
                )
                return known.digest
            raise NotFound(
                f"image {reference!r} is not in the cluster and cannot be found at its registry "
                f"({error.details()}): check the name, or bring it in with `swarmpy image load`"
            ) from error
        return str(answer.digest)

    def _noted(self, reference: str) -> objects_pb2.Image | None:
        """What the reference was when a service last asked its registry."""
        prefix = f"{normalise(reference)}@"
        found = [
            image for image in self._store.images() if image.noted and image.meta.name.startswith(prefix)
        ]
        return max(found, key=lambda image: image.meta.created_ms, default=None)

    async def remember(self, entity: Entity) -> None:
        """Note images that a service or schedule took from registries: nodes then get them from each other."""
        known = {image.digest for image in self._store.images()}
        changes = []
        for reference, digest in references_of(entity):
            if digest and digest not in known:
                known.add(digest)
                name = normalise(reference) if "@" in reference else f"{normalise(reference)}@{digest}"
                image = objects_pb2.Image(digest=digest, noted=True)
                image.meta.id, image.meta.name = self._new_id(), name
                changes.append(store_pb2.Change(put=wrap(image)))
        for change in changes:
            result = await self._leader.try_commit([change], "images")
            if result.error_code:
                log.info("image not noted name=%s error=%s", change.put.image.meta.name, result.error)

    async def load(
        self, chunks: AsyncIterator[control_pb2.ImageChunk], actor: str
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        stub = agent_pb2_grpc.AgentStub(self._channels.agent(self._self_id))
        async for progress in self._relay(stub.Load(chunks, timeout=TRANSFER_TIMEOUT_S), actor):
            yield progress

    async def pull(
        self, request: control_pb2.PullRequest, actor: str
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        stub = agent_pb2_grpc.AgentStub(self._channels.agent(self._self_id))
        wanted = control_pb2.PullRequest(
            reference=request.reference, access=await self._access(request.reference)
        )
        async for progress in self._relay(stub.Pull(wanted, timeout=TRANSFER_TIMEOUT_S), actor):
            yield progress

    async def _relay(
        self, answers: AsyncIterator[control_pb2.ImageProgress], actor: str
    ) -> AsyncIterator[control_pb2.ImageProgress]:
        try:
            async for progress in answers:
                if progress.images:
                    recorded = [await self._record(image, actor) for image in progress.images]
                    yield control_pb2.ImageProgress(status=progress.status, images=recorded)
                else:
                    yield progress
        except grpc.aio.AioRpcError as error:
            refused = type("AgentRefused", (ManagerError,), {"code": error.code()})
            details = error.details() or "it said nothing"
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                details = f"the agent on the leader's node does not answer: try again shortly ({details})"
            raise refused(details) from error

    async def _record(self, image: objects_pb2.Image, actor: str) -> objects_pb2.Image:
        """Write the image's record with this node as holder; a reference moves to its new digest."""
        name = normalise(image.meta.name)
        for _ in range(10):
            stored = self.by_reference(name)
            new = objects_pb2.Image()
            new.CopyFrom(image)
            new.meta.Clear()
            new.meta.name = name
            new.meta.id = stored.meta.id if stored else self._new_id()
            del new.holders[:]
            holders = set(stored.holders) if stored and stored.digest == image.digest else set()
            new.holders.extend(sorted({*holders, self._self_id}))
            version = stored.meta.version if stored else 0
            result = await self._leader.try_commit(
                [store_pb2.Change(put=wrap(new), expected_version=version)], actor
            )
            if not result.error_code:
                written = self._store.image(new.meta.id)
                return written if written is not None else new
            if result.error_code not in ("CONFLICT", "NAME_TAKEN", "EXISTS"):
                raise Refused(result.error)
        raise Refused(f"image {name} changes too often: try again")

    async def prune(self) -> None:
        """Ask every node that answers to drop what no record and no task refers to."""
        keep = {image.digest for image in self._store.images()} | needed(self._store, SPEC_HISTORY_MAX)
        request = images_pb2.CollectRequest(keep_digests=sorted(keep - {""}))
        nodes = [node.meta.id for node in self._store.nodes() if node.status.state == types_pb2.NODE_READY]
        await asyncio.gather(*(self._prune_node(node_id, request) for node_id in nodes))

    async def _prune_node(self, node_id: str, request: images_pb2.CollectRequest) -> None:
        try:
            stub = images_pb2_grpc.AgentImagesStub(self._channels.agent(node_id))
            await stub.Collect(request, timeout=PRUNE_TIMEOUT_S)
        except (grpc.aio.AioRpcError, ManagerError) as error:
            log.warning("prune failed node=%s error=%s", node_id, error)
