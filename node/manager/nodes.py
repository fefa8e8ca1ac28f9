"""Channels to other nodes: to agents and to other managers, dialled by node id."""

from __future__ import annotations

import grpc
from swarmpy.node.ca import tls
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.manager.errors import Refused
from swarmpy.raft.store import Store


class NodeChannels:
    """One kept channel per node and purpose; a changed address or certificate opens a new one."""

    def __init__(self, store: Store, identity: IdentityFile) -> None:
        self._store = store
        self._identity = identity
        self._channels: dict[tuple[str, str], tuple[str, bytes, grpc.aio.Channel]] = {}
        self._closing: list[grpc.aio.Channel] = []

    def agent(self, node_id: str) -> grpc.aio.Channel:
        node = self._store.node(node_id)
        if node is None or not node.description.agent_port:
            raise Refused(f"node {node_id} has not reported where its agent listens yet: try again shortly")
        address = node.description.address or node.status.address
        return self._get("agent", node_id, f"{address}:{node.description.agent_port}")

    def manager(self, node_id: str) -> grpc.aio.Channel:
        node = self._store.node(node_id)
        if node is None or not node.manager.control_address:
            raise Refused(f"manager {node_id} has no known address")
        return self._get("manager", node_id, node.manager.control_address)

    def _get(self, purpose: str, node_id: str, address: str) -> grpc.aio.Channel:
        identity = self._identity.current()
        known = self._channels.get((purpose, node_id))
        if known is not None:
            if known[:2] == (address, identity.certificate_pem):
                return known[2]
            self._closing.append(known[2])
        channel = tls.channel(
            address, node_id, identity, lists=purpose == "manager", seldom_used=purpose == "agent"
        )
        self._channels[(purpose, node_id)] = (address, identity.certificate_pem, channel)
        return channel

    async def close(self) -> None:
        for channel in [*self._closing, *(entry[2] for entry in self._channels.values())]:
            await channel.close(None)
