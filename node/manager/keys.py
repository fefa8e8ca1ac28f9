"""The manager's data keys: opened before anything else, locked and changed as the cluster says.

With autolock the cluster holds an unlock key (Cluster.unlock_key, replicated, never shown by
Get). Every manager wraps its own data keys with it and takes a new data key at that moment,
because the old one has lain on this disk in the clear or under another unlock key. A manager
that starts with wrapped keys has read nothing yet: it serves `Unlock` and `Status` on its
unix socket, nothing else anywhere, until it is given the key. The key stays in this
process's memory only.

The text form is SWMKEY-1- and 43 characters of base64 for 32 bytes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from swarmpy.node import config as node_config
from swarmpy.node.ca.guard import GuardedServer
from swarmpy.node.manager.errors import Invalid
from swarmpy.proto import control_pb2, control_pb2_grpc
from swarmpy.raft.keyring import FILE_NAME, KeyRing, Locked, WrongKey, read_key_file
from swarmpy.raft.log import LogDamaged, LogError
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Commit, Store

log = logging.getLogger(__name__)

PREFIX = "SWMKEY-1-"
KEY_BYTES = 32
RETRY_S = 5.0
LOCKED = "this manager is locked: run `swarmpy unlock` on its machine"

Context = grpc.aio.ServicerContext[Any, Any]


def new_unlock_key() -> bytes:
    return os.urandom(KEY_BYTES)


def unlock_key_text(key: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(key).decode().rstrip("=") if key else ""


def parse_unlock_key(text: str) -> bytes:
    """Raises Invalid."""
    body = text.strip().removeprefix(PREFIX)
    try:
        key = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES or unlock_key_text(key) != text.strip():
        raise Invalid(f"an unlock key looks like {PREFIX} and 43 characters; this is not one")
    return key


class Vault:
    """Opens the key ring of one manager and keeps it as the cluster wants it."""

    def __init__(self, paths: node_config.Paths, config: node_config.NodeConfig, store: Store) -> None:
        self._paths, self._config, self._store = paths, config, store
        self._ring: KeyRing | None = None
        self._changed = asyncio.Event()
        store.listeners.append(self._on_commit)
        store.restore_listeners.append(self._changed.set)

    def _on_commit(self, commit: Commit) -> None:
        cluster = self._store.cluster()
        if self._ring is not None and cluster is not None and cluster.unlock_key != self._ring.unlock_key:
            self._changed.set()

    async def open(self) -> KeyRing:
        """The ring, as soon as it can be had. LogDamaged, OSError."""
        try:
            self._ring = await asyncio.to_thread(self._read, b"")
        except Locked as error:
            log.warning("manager locked node=%s key=%s", self._config.node_id, error.lock_id.hex())
            self._ring = await self._wait_for_key()
            log.info("manager unlocked node=%s", self._config.node_id)
        return self._ring

    def _read(self, unlock_key: bytes) -> KeyRing:
        config, directory = self._config, self._paths.raft
        others = any(manager.id != config.node_id for manager in config.managers)
        founding = self._paths.bootstrap.exists()
        if not (directory / FILE_NAME).exists() and config.bootstrap and not founding and not others:
            raise LogDamaged(
                f"{directory} is empty, and this node knows no other manager that has the cluster's state: "
                "restore a backup (swarmpy restore)"
            )
        return KeyRing(directory, config.cluster_id, config.node_id, unlock_key=unlock_key)

    async def _wait_for_key(self) -> KeyRing:
        """Serve the unix socket until someone brings the key."""
        opened: asyncio.Future[KeyRing] = asyncio.get_running_loop().create_future()

        async def unlock(text: str) -> None:
            ring = await asyncio.to_thread(self._read, parse_unlock_key(text))
            if not opened.done():
                opened.set_result(ring)

        server = GuardedServer(self._config.cluster_id, lambda node_id, serial: False)
        control_pb2_grpc.add_ControlServicer_to_server(LockedControl(self._config, unlock), server)
        server.listen_unix(self._paths.control_socket)
        await server.start()
        try:
            return await opened
        finally:
            await server.stop(0.2)

    async def follow(self, raft: RaftNode) -> None:
        """Wrap and change the data keys whenever the cluster's unlock key changes; until cancelled."""
        ring = self._ring
        assert ring is not None
        while True:
            self._changed.clear()
            try:
                await self._adapt(ring, raft)
            except (LogError, OSError) as error:
                log.warning("data keys are not changed yet, trying again reason=%s", error)
                await asyncio.sleep(RETRY_S)
                continue
            await self._changed.wait()

    async def _adapt(self, ring: KeyRing, raft: RaftNode) -> None:
        cluster = self._store.cluster()
        if cluster is not None and cluster.unlock_key != ring.unlock_key:
            change = ring.begin_rotation if cluster.unlock_key else ring.lock
            await asyncio.to_thread(change, cluster.unlock_key)
            log.info("data keys wrapped key=%s", ring.lock_id.hex() or "none")
        if ring.rotating:
            in_use = await raft.reseal()
            await asyncio.to_thread(ring.retire, in_use)
            log.info("data key changed current=%s", ring.current)


class LockedControl(control_pb2_grpc.ControlServicer):
    """Control while the manager is locked: Unlock, and Status saying so."""

    def __init__(self, config: node_config.NodeConfig, unlock: Callable[[str], Awaitable[None]]) -> None:
        self._config, self._unlock = config, unlock

    async def Status(
        self, request: control_pb2.StatusRequest, context: Context
    ) -> control_pb2.StatusResponse:
        return control_pb2.StatusResponse(
            cluster_id=self._config.cluster_id, node_id=self._config.node_id, locked=True
        )

    async def Unlock(
        self, request: control_pb2.UnlockRequest, context: Context
    ) -> control_pb2.UnlockResponse:
        try:
            await self._unlock(request.key)
        except Invalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except WrongKey as error:
            log.warning("unlock refused reason=%s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except LogDamaged as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        return control_pb2.UnlockResponse()


def _refuse_the_rest() -> None:
    async def unary(self: LockedControl, request: Message, context: Context) -> Any:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, LOCKED)

    async def stream(self: LockedControl, request: Any, context: Context) -> AsyncIterator[Any]:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, LOCKED)
        yield

    for method in control_pb2.DESCRIPTOR.services_by_name["Control"].methods:
        if method.name not in vars(LockedControl):
            setattr(LockedControl, method.name, stream if method.server_streaming else unary)


_refuse_the_rest()


def is_locked(paths: node_config.Paths) -> bool:
    """Whether the keys on disk need the unlock key. False where there are none."""
    try:
        return read_key_file(paths.raft / FILE_NAME).locked
    except (OSError, LogDamaged):
        return False
