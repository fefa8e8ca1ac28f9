"""Three managers without their servers: real logs over TLS, real stores, the leader's and the users' side."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.manager.checks import Checks
from swarmpy.node.manager.history import History
from swarmpy.node.manager.images import Images
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.reads import Reads
from swarmpy.node.manager.writes import Writer
from swarmpy.proto import control_pb2
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Store

from tests.integration.raft_cluster import Cluster, Ledger, wait_for

NAMES = ("n1", "n2", "n3")


@dataclass
class Manager:
    """One of them."""

    raft: RaftNode
    store: Store
    leader: Leader
    history: History
    reads: Reads
    writer: Writer
    checks: Checks
    running: list[asyncio.Task[None]]


class Managers:
    """Managers by name; `kill` is without goodbye, `start` reads the disk again."""

    def __init__(self, directory: Path, *, limits: Limits | None = None) -> None:
        self.logs = Cluster(directory, limits=limits)
        self.all: dict[str, Manager] = {}
        self.diverged: list[tuple[str, str]] = []
        self._ids = itertools.count(1)

    def new_id(self) -> str:
        return f"id{next(self._ids):08d}"

    async def start(self, name: str, *, bootstrap: bool = False) -> Manager:
        store = Store()
        history = History(store)
        raft = await self.logs.start(name, bootstrap=bootstrap, machine=cast(Ledger, store))
        leader = Leader(raft, store)
        if raft.status().is_leader and (name, True, raft.status().term) in self.logs.led:
            leader._on_leadership(True, raft.status().term)
        channels = NodeChannels(store, cast(IdentityFile, None))
        images = Images(leader, channels, name, self.new_id)

        async def ask(node_id: str, request: control_pb2.DigestRequest) -> control_pb2.DigestResponse:
            return await self.all[node_id].checks.digest(request)

        checks = Checks(leader, history, ask, lambda reason: self.diverged.append((name, reason)))
        manager = Manager(
            raft, store, leader, history, Reads(raft, store, history), Writer(leader, images, self.new_id),
            checks, [asyncio.create_task(leader.run()), asyncio.create_task(leader.follow())],
        )  # fmt: skip
        self.all[name] = manager
        return manager

    async def kill(self, name: str) -> None:
        manager = self.all.pop(name)
        for task in manager.running:
            task.cancel()
        await asyncio.gather(*manager.running, return_exceptions=True)
        await self.logs.stop(name)

    async def of_three(self) -> Manager:
        first = await self.start(NAMES[0], bootstrap=True)
        await wait_for(lambda: first.leader.leading)
        for name in NAMES[1:]:
            await self.start(name)
            await first.raft.add_member(name, self.logs.address(name))
        return first

    def leading(self) -> Manager | None:
        return next((manager for manager in self.all.values() if manager.leader.leading), None)

    async def wait_leading(self) -> Manager:
        await wait_for(lambda: self.leading() is not None)
        found = self.leading()
        assert found is not None
        return found

    async def stop_all(self) -> None:
        for name in list(self.all):
            await self.kill(name)
