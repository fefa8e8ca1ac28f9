"""Brings Raft's members in line with the store, one change at a time; keeps the overlay's MTU and the state's level.

A node whose desired role is manager becomes a member (learner, then voter) and gets the
role once it is one. A demoted or removed manager leaves Raft first and only then loses the
role, so that a majority never counts a node that is already going.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from swarmpy.node.manager import levels
from swarmpy.node.manager.leader import Leader
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft import log as raft_log
from swarmpy.raft.levels import LEVEL
from swarmpy.raft.store import Commit
from swarmpy.raft.tables import wrap

log = logging.getLogger(__name__)
RETRY_S = 0.5
VXLAN_OVERHEAD_BYTES = 50
DEFAULT_UNDERLAY_MTU = 1500
PACKET_BYTES_MAX = 65535  # the loopback device allows one more


class Members:
    """Belongs to the leader's TaskGroup."""

    def __init__(self, leader: Leader, self_id: str) -> None:
        self._leader = leader
        self._store = leader.store
        self._self_id = self_id
        self._wake = asyncio.Event()
        self._store.listeners.append(self._on_commit)

    def _on_commit(self, commit: Commit) -> None:
        if any(event.kind in (store_pb2.KIND_NODE, store_pb2.KIND_CLUSTER) for event in commit.events):
            self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            again = await self._step()
            try:
                async with asyncio.timeout(RETRY_S if again else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self) -> bool:
        """Make one change; says whether there may be more to do soon."""
        await self._settings()
        members = {member.node_id: member for member in self._leader.raft.status().members}
        nodes = {n.meta.id: n for n in self._store.nodes()}
        try:
            for node_id in members:
                node = nodes.get(node_id)
                if node is not None and node.spec.role == types_pb2.ROLE_MANAGER and not node.removed:
                    continue
                if node_id == self._self_id:
                    await self._leader.raft.transfer_leadership(None)
                    return True
                log.info("removing member node=%s", node_id)
                await self._leader.raft.remove_member(node_id)
                return True
            for node in nodes.values():
                wanted = node.spec.role == types_pb2.ROLE_MANAGER and not node.removed
                member = members.get(node.meta.id)
                understands = levels.understands(self._store, node)
                if wanted and not understands and (member is None or member.learner):
                    continue  # its version is too old, or it has not said which one it is
                if wanted and node.role != types_pb2.ROLE_MANAGER and node.description.manager.raft_address:
                    await self._set_role(node, types_pb2.ROLE_MANAGER)
                    return True
                if wanted and node.manager.raft_address and (member is None or member.learner):
                    log.info("adding member node=%s address=%s", node.meta.id, node.manager.raft_address)
                    await self._add(node)
                    return True
                if not wanted and member is None and node.role == types_pb2.ROLE_MANAGER:
                    await self._set_role(node, types_pb2.ROLE_WORKER)
                    return True
        except raft_log.LogError as error:
            log.info("membership change waits reason=%s", error)
            return True
        except TimeoutError:
            log.info("membership change waits reason=timeout")
            return True
        return False

    async def _add(self, node: objects_pb2.Node) -> None:
        """Wait until it has caught up, but not once it is unwanted: a dead learner would hold up its own removal."""
        adding = asyncio.ensure_future(self._leader.raft.add_member(node.meta.id, node.manager.raft_address))
        try:
            while not adding.done() and self._is_wanted(node.meta.id):
                self._wake.clear()
                changed = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({adding, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            if adding.done():
                adding.result()
        finally:
            adding.cancel()
            await asyncio.gather(adding, return_exceptions=True)

    def _is_wanted(self, node_id: str) -> bool:
        node = self._store.node(node_id)
        return node is not None and node.spec.role == types_pb2.ROLE_MANAGER and not node.removed

    async def _set_role(self, node: objects_pb2.Node, role: types_pb2.Role) -> None:
        changed = objects_pb2.Node()
        changed.CopyFrom(node)
        changed.role = role
        if role == types_pb2.ROLE_WORKER:
            changed.ClearField("manager")
        elif not changed.manager.raft_address:
            changed.manager.CopyFrom(node.description.manager)
        change = store_pb2.Change(put=wrap(changed), expected_version=node.meta.version)
        result = await self._leader.try_commit([change], "members")
        log.info("role set node=%s role=%s refused=%s", node.meta.id, role, result.error_code)

    async def _settings(self) -> None:
        """Of the cluster, as its nodes allow: the overlay's MTU, the level of the state (raft/levels)."""
        cluster = self._store.cluster()
        if cluster is None:
            return
        known = [
            node.description.underlay_mtu for node in self._store.nodes() if node.description.underlay_mtu
        ]
        mtu = overlay_mtu(known)
        level = max(cluster.state_level, min(levels.common(self._store), LEVEL))
        if (cluster.mtu, cluster.state_level) != (mtu, level):
            changed = objects_pb2.Cluster()
            changed.CopyFrom(cluster)
            changed.mtu, changed.state_level = mtu, level
            change = store_pb2.Change(put=wrap(changed), expected_version=cluster.meta.version)
            await self._leader.try_commit([change], "members")


def overlay_mtu(underlay: Iterable[int]) -> int:
    """What fits into a packet between any two nodes, by the MTU of each one's interface."""
    return min(min(underlay, default=DEFAULT_UNDERLAY_MTU), PACKET_BYTES_MAX) - VXLAN_OVERHEAD_BYTES
