"""What the node serves of its images: Swarm to nodes that fetch them, AgentImages to managers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
from swarmpy.node.agent.serve import code_of
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.image.errors import ImageError
from swarmpy.node.image.store import ImageStore
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
