"""Which images are needed, and where: the rules by which images are kept and go.

Pure functions of the view first, then the leader's round: once a minute it asks the nodes
how full their disks are. A node beyond HIGH_PERCENT drops what it can have again: unpacked
layers of images that it does not run, then images that enough other nodes hold, until it is
below LOW_PERCENT. An image that was brought into the cluster and that only one node holds
is copied to a second one, so that it outlives its node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import grpc
from swarmpy.node.manager.assignments import image_item
from swarmpy.node.manager.errors import ManagerError
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.plan import pods
from swarmpy.node.plan.base import SPEC_HISTORY_MAX
from swarmpy.proto import images_pb2, images_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import View

log = logging.getLogger(__name__)
HIGH_PERCENT, LOW_PERCENT = 85, 70
COPIES = 2
COPY_AFTER_MS = 60_000  # an image that is new: those who need it will have it anyway
ROUND_S = 60.0
NODES_AT_ONCE = 16
CALL_TIMEOUT_S = 30.0
COPY_TIMEOUT_S = 3600.0


def references_of(entity: object) -> list[tuple[str, str]]:
    """Name and digest of every image that a service or schedule refers to."""
    match entity:
        case objects_pb2.Service():
            spec = entity.spec
        case objects_pb2.Schedule():
            spec = entity.spec.service
        case _:
            return []
    return [*_references(spec)]


def _references(spec: objects_pb2.ServiceSpec) -> Iterator[tuple[str, str]]:
    for container in pods.containers(spec.task):
        yield container.image, container.image_digest
    if spec.pre_deploy.image:
        yield spec.pre_deploy.image, spec.pre_deploy.image_digest


def digests_of(task: types_pb2.TaskSpec) -> set[str]:
    return {container.image_digest for container in pods.containers(task)} - {""}


def digests_of_service(spec: objects_pb2.ServiceSpec) -> set[str]:
    return {digest for _, digest in _references(spec)} - {""}


def needed(view: View, keep_revisions: int) -> set[str]:
    """Digests that services, so many of their former revisions, schedules, stacks and living tasks refer to."""
    found: set[str] = set()
    for service in view.services():
        for spec in (service.spec, *service.previous_specs[:keep_revisions]):
            found |= digests_of_service(spec)
    for schedule in view.schedules():
        found |= digests_of_service(schedule.spec.service)
    latest: dict[str, int] = {}
    stacks = [stack for stack in view.all(store_pb2.KIND_STACK) if isinstance(stack, objects_pb2.Stack)]
    for stack in stacks:
        latest[stack.stack] = max(latest.get(stack.stack, 0), stack.revision)
    for stack in stacks:
        is_newer = stack.revision > latest[stack.stack] - keep_revisions
        if is_newer and stack.state != objects_pb2.STACK_UNDONE:
            for one in stack.services:
                found |= digests_of_service(one.spec)
    seen: set[tuple[str, int]] = set()
    for task in view.tasks():
        if not is_living(task):
            continue
        revision = task.service_id, task.spec_version  # all tasks of one have the same images
        if not task.service_id or revision not in seen:
            seen.add(revision)
            found |= digests_of(task.spec)
    return found


def is_living(task: objects_pb2.Task) -> bool:
    return bool(task.status.state <= types_pb2.TASK_RUNNING)


def kept_on(view: View, node_id: str) -> set[str]:
    """What a node with a full disk must keep: what it runs, and what too few others hold."""
    found = {d for task in view.tasks_of_node(node_id) if is_living(task) for d in digests_of(task.spec)}
    for image in view.images():
        if sum(holder != node_id for holder in ready_holders(view, image)) < COPIES:
            found.add(image.digest)
    return found


def ready_holders(view: View, image: objects_pb2.Image) -> list[str]:
    nodes = {holder: view.node(holder) for holder in image.holders}
    return [
        holder for holder, node in nodes.items()
        if node is not None and node.status.state == types_pb2.NODE_READY and not node.removed
    ]  # fmt: skip


def too_few(view: View, now_ms: int) -> list[tuple[objects_pb2.Image, str]]:
    """Images with too few holders, each with the node that should have it, too: the one with the fewest."""
    nodes = [
        node.meta.id for node in view.nodes()
        if node.status.state == types_pb2.NODE_READY and not node.removed and node.description.agent_port
        and node.spec.availability == types_pb2.AVAILABILITY_ACTIVE
    ]  # fmt: skip
    held = dict.fromkeys(nodes, 0)
    images = {image.digest: image for image in view.images() if image.chunks}
    for image in images.values():
        for holder in ready_holders(view, image):
            held[holder] = held.get(holder, 0) + 1
    found = []
    for image in images.values():
        holders = ready_holders(view, image)
        others = [node_id for node_id in nodes if node_id not in holders]
        if 0 < len(holders) < COPIES and others and now_ms - image.meta.created_ms >= COPY_AFTER_MS:
            chosen = min(others, key=lambda node_id: (held[node_id], node_id))
            held[chosen] += 1
            found.append((image, chosen))
    return found


def excess_bytes(usage: images_pb2.NodeUsage) -> int:
    """How much a node has to free, 0 while its disk is not too full."""
    used = usage.disk_bytes - usage.disk_free_bytes
    if used * 100 < HIGH_PERCENT * usage.disk_bytes:
        return 0
    return int(used - usage.disk_bytes * LOW_PERCENT // 100)


class ImageKeep:
    """`run` belongs to the leader's jobs."""

    def __init__(self, leader: Leader, channels: NodeChannels) -> None:
        self._leader, self._channels = leader, channels
        self._store = leader.store

    async def run(self) -> None:
        copying: asyncio.Task[None] | None = None
        try:
            while True:
                await asyncio.sleep(ROUND_S)
                ready = [n.meta.id for n in self._store.nodes() if n.status.state == types_pb2.NODE_READY]
                # A node that answers slowly must not keep the full disks of others waiting.
                for start in range(0, len(ready), NODES_AT_ONCE):
                    await asyncio.gather(*map(self._relieve, ready[start : start + NODES_AT_ONCE]))
                await self._forget()
                if copying is None or copying.done():
                    copying = asyncio.create_task(self._copy_all())
        finally:
            if copying is not None:
                copying.cancel()
                await asyncio.gather(copying, return_exceptions=True)

    async def _copy_all(self) -> None:
        """Beside the rounds: a large image on a slow network must not keep full disks waiting."""
        for image, node_id in too_few(self._store, self._leader.now_ms()):
            await self._copy(image, node_id)

    async def _forget(self) -> None:
        """Drop the notes of images that nothing refers to any more; their blobs go when room is needed."""
        keep = needed(self._store, SPEC_HISTORY_MAX)
        young = self._leader.now_ms() - COPY_AFTER_MS  # a service's note is made just after the service
        for image in list(self._store.images()):
            if image.noted and image.digest not in keep and image.meta.created_ms < young:
                key = store_pb2.ObjectKey(kind=store_pb2.KIND_IMAGE, id=image.meta.id)
                change = store_pb2.Change(delete=key, expected_version=image.meta.version)
                await self._leader.try_commit([change], "images")

    def _agent(self, node_id: str) -> images_pb2_grpc.AgentImagesStub:
        return images_pb2_grpc.AgentImagesStub(self._channels.agent(node_id))

    async def _relieve(self, node_id: str) -> None:
        try:
            agent = self._agent(node_id)
            usage = await agent.Usage(images_pb2.CollectRequest(), timeout=CALL_TIMEOUT_S)
            if (wanted := excess_bytes(usage)) > 0:
                request = images_pb2.CollectRequest(
                    keep_digests=sorted(kept_on(self._store, node_id)), wanted_bytes=wanted
                )
                answer = await agent.Collect(request, timeout=CALL_TIMEOUT_S * 10)
                log.warning(
                    "disk too full node=%s wanted_bytes=%d freed_bytes=%d",
                    node_id,
                    wanted,
                    answer.freed_bytes,
                )
        except (grpc.aio.AioRpcError, ManagerError) as error:
            log.info("images of node not looked at node=%s error=%s", node_id, error)

    async def _copy(self, image: objects_pb2.Image, node_id: str) -> None:
        log.info("image copied, too few nodes hold it image=%s node=%s", image.meta.name, node_id)
        try:
            item = image_item(self._store, image.digest, image.meta.name)
            await self._agent(node_id).Fetch(
                images_pb2.FetchRequest(source=item.image), timeout=COPY_TIMEOUT_S
            )
        except (grpc.aio.AioRpcError, ManagerError) as error:
            log.warning("image not copied image=%s node=%s error=%s", image.meta.name, node_id, error)
