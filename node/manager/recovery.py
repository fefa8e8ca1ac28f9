"""The Recovery service, and how a manager begins after `swarmpy recover` or `swarmpy restore`.

Two files in the state directory say that this start is a beginning: `recover.json` (force a
new cluster of this manager alone) and `restore.backup` (a state to begin with). Both are kept
until what they ask for is durable; doing it twice changes nothing, so a crash at any point is
repaired by the next start.

After a forced start the leader's first transaction makes workers of the other managers: their
nodes, tasks and addresses stay, and one that comes back is told its role, gets a worker's
certificate and can be promoted again. Raft itself keeps their old logs away (raft/recover.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from swarmpy.node import config as node_config
from swarmpy.node.ca import guard, tls
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.node.manager import backup_file
from swarmpy.node.manager.backup import Backups
from swarmpy.node.manager.errors import ManagerError, NotLeading, Refused
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.proto import objects_pb2, recovery_pb2, recovery_pb2_grpc, store_pb2, types_pb2
from swarmpy.raft import log as raft_log
from swarmpy.raft.recover import Seed
from swarmpy.raft.store import Store
from swarmpy.raft.tables import wrap

log = logging.getLogger(__name__)
ASK_TIMEOUT_S = 1.5
CALL_TIMEOUT_S = 30.0
STREAM_TIMEOUT_S = 3600.0
ANSWER_FIRST_S = 0.1

Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer", bound=Message)


class Beginning:
    """What this start has to do besides starting."""

    def __init__(self, paths: node_config.Paths) -> None:
        self._paths = paths
        self.forced = paths.recover.exists()

    def seed(self) -> Seed | None:
        """The state to begin with, where there is one. Raises BackupError."""
        path = self._paths.restore
        if not path.exists():
            return None
        with path.open("rb") as file:
            header, chunks = backup_file.read(file, str(path), backup_file.Secret())
            state = list(chunks)
        return Seed(header.index, header.term, header.generation, lambda: iter(state))

    def planted(self) -> None:
        """Raft has the seed on disk."""
        self._paths.restore.unlink(missing_ok=True)

    def changes(self, store: Store, self_id: str) -> list[store_pb2.Change]:
        """For the first transaction after a forced start: the other managers become workers."""
        return demotions(store, self_id) if self.forced else []

    async def done(self) -> None:
        """A job of the leader: the first transaction is committed."""
        if self.forced:
            log.warning("recovery finished")
            self.forced = False
            self._paths.recover.unlink(missing_ok=True)


def demotions(store: Store, self_id: str) -> list[store_pb2.Change]:
    """Every manager but one becomes a worker, at once: nobody waits for the ones that are gone."""
    changes = []
    for node in store.nodes():
        managing = types_pb2.ROLE_MANAGER in (node.role, node.spec.role)
        if node.meta.id != self_id and managing:
            worker = objects_pb2.Node()
            worker.CopyFrom(node)
            worker.role = worker.spec.role = types_pb2.ROLE_WORKER
            worker.ClearField("manager")
            changes.append(store_pb2.Change(put=wrap(worker), expected_version=node.meta.version))
    return changes


class Recovery(recovery_pb2_grpc.RecoveryServicer):
    """Position, Survey, Recover and ListBackups are answered here, Backup and BackupKey by the leader."""

    def __init__(
        self, leader: Leader, backups: Backups, channels: NodeChannels, identity: IdentityFile,
        paths: node_config.Paths, restart: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._leader = leader
        self._store = leader.store
        self._backups = backups
        self._channels = channels
        self._identity = identity
        self._paths = paths
        self._config = node_config.load(paths)
        self._restart = restart

    # -- where everybody stands

    async def Position(
        self, request: recovery_pb2.PositionRequest, context: Context
    ) -> recovery_pb2.PositionResponse:
        return await answered(context, self._position)

    async def _position(self) -> recovery_pb2.PositionResponse:
        try:
            here = self._leader.raft.position()
        except raft_log.LogError as error:
            raise NotLeading(str(error)) from error
        return recovery_pb2.PositionResponse(
            node_id=self._config.node_id, term=here.term, last_index=here.last_index, last_term=here.last_term,
            commit_index=here.commit_index, applied_index=here.applied_index, generation=here.generation,
            leader_id=here.leader_id, voters=here.voters,
        )  # fmt: skip

    async def Survey(
        self, request: recovery_pb2.SurveyRequest, context: Context
    ) -> recovery_pb2.SurveyResponse:
        return await answered(context, self._survey)

    async def _survey(self) -> recovery_pb2.SurveyResponse:
        own = await self._position()
        known = {entry.id: entry.address for entry in self._config.managers}
        known |= {
            node.meta.id: node.manager.control_address
            for node in self._store.nodes()
            if node.manager.control_address
        }
        others = sorted((set(own.voters) | set(known)) - {own.node_id})
        rows = await asyncio.gather(*(self._ask(node_id, known.get(node_id, "")) for node_id in others))
        here = recovery_pb2.SurveyRow(
            node_id=own.node_id, hostname=self._config.hostname, address=self._config.advertise_addr,
            here=True, position=own,
        )  # fmt: skip
        return recovery_pb2.SurveyResponse(rows=[here, *rows])

    async def _ask(self, node_id: str, address: str) -> recovery_pb2.SurveyRow:
        node = self._store.node(node_id)
        row = recovery_pb2.SurveyRow(
            node_id=node_id, hostname=node.meta.name if node is not None else "", address=address
        )
        if not address:
            row.problem = "no address known"
            return row
        channel = tls.channel(address, node_id, self._identity.current())
        try:
            stub = recovery_pb2_grpc.RecoveryStub(channel)
            answer = await stub.Position(recovery_pb2.PositionRequest(), timeout=ASK_TIMEOUT_S)
            row.position.CopyFrom(answer)
        except grpc.aio.AioRpcError as error:
            silent = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            row.problem = "does not answer" if silent else error.details() or error.code().name
        finally:
            await channel.close(None)
        return row

    # -- going on alone

    async def Recover(
        self, request: recovery_pb2.RecoverRequest, context: Context
    ) -> recovery_pb2.RecoverResponse:
        return await answered(context, lambda: self._recover(force=request.force))

    async def _recover(self, *, force: bool) -> recovery_pb2.RecoverResponse:
        rows = (await self._survey()).rows
        own = rows[0].position
        check_recoverable(list(rows), force=force)
        removed = sorted(set(own.voters) - {own.node_id})
        note = json.dumps({"removed": removed, "last_index": own.last_index})
        node_config.write_private(self._paths.recover, note.encode())
        log.warning("recovery asked for last=%d removed=%s", own.last_index, ",".join(removed))
        loop = asyncio.get_running_loop()
        loop.call_later(ANSWER_FIRST_S, self._restart, "starting again to recover the cluster")
        return recovery_pb2.RecoverResponse(last_index=own.last_index, removed=removed)

    # -- backups

    async def Backup(
        self, request: recovery_pb2.BackupRequest, context: Context
    ) -> AsyncIterator[recovery_pb2.BackupChunk]:
        try:
            if self._leader.leading:
                async for chunk in self._backups.stream(request):
                    yield chunk
                return
            stub, metadata = self._leader_stub()
            async for chunk in stub.Backup(request, timeout=STREAM_TIMEOUT_S, metadata=metadata):
                yield chunk
        except ManagerError as error:
            await context.abort(error.code, str(error))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "the leader did not answer")

    async def BackupKey(
        self, request: recovery_pb2.BackupKeyRequest, context: Context
    ) -> recovery_pb2.BackupKeyResponse:
        async def ask() -> recovery_pb2.BackupKeyResponse:
            if self._leader.leading:
                actor = guard.current_caller().actor
                key = await self._backups.show_key(rotate=request.rotate, actor=actor)
                return recovery_pb2.BackupKeyResponse(key=key)
            stub, metadata = self._leader_stub()
            answer = await stub.BackupKey(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
            assert isinstance(answer, recovery_pb2.BackupKeyResponse)
            return answer

        return await answered(context, ask)

    async def ListBackups(
        self, request: recovery_pb2.ListBackupsRequest, context: Context
    ) -> recovery_pb2.ListBackupsResponse:
        response = self._backups.summary()
        response.files.extend(await asyncio.to_thread(self._backups.files))
        if request.local:
            return response
        others = [
            node for node in self._store.nodes()
            if node.role == types_pb2.ROLE_MANAGER and node.meta.id != self._config.node_id
        ]  # fmt: skip
        for files in await asyncio.gather(*(self._files_of(node) for node in others)):
            response.files.extend(files)
        for entry in response.files:
            owner = self._store.node(entry.node_id)
            entry.hostname = owner.meta.name if owner is not None else ""
        return response

    async def _files_of(self, node: objects_pb2.Node) -> list[recovery_pb2.BackupFile]:
        try:
            stub = recovery_pb2_grpc.RecoveryStub(self._channels.manager(node.meta.id))
            request = recovery_pb2.ListBackupsRequest(local=True)
            answer = await stub.ListBackups(request, timeout=ASK_TIMEOUT_S)
        except (ManagerError, grpc.aio.AioRpcError):
            return [recovery_pb2.BackupFile(node_id=node.meta.id, problem="does not answer")]
        return list(answer.files)

    def _leader_stub(self) -> tuple[Any, tuple[tuple[str, str], ...]]:
        caller = guard.current_caller()
        try:
            leader_id = self._leader.raft.status().leader_id
        except raft_log.LogError as error:
            raise NotLeading(str(error)) from error
        if leader_id is None or caller.kind == "manager" or leader_id == self._config.node_id:
            raise NotLeading("no manager leads the cluster at the moment: a new leader is being elected")
        stub = recovery_pb2_grpc.RecoveryStub(self._channels.manager(leader_id))
        return stub, guard.actor_metadata(caller)


def check_recoverable(rows: list[recovery_pb2.SurveyRow], *, force: bool) -> None:
    """Whether the first row's manager may go on alone. Raises Refused, saying what to do instead."""
    own = rows[0].position
    there = [row for row in rows if row.HasField("position")]
    leader = next((row.position.leader_id for row in there if row.position.leader_id), "")
    if leader:
        raise Refused(f"manager {_title(rows, leader)} leads the cluster: there is nothing to recover")
    if own.node_id not in own.voters:
        raise Refused(
            "this manager has no vote in its own log: recover on another manager, or restore a backup"
        )
    newest = max(there, key=lambda row: _age(row.position))
    if newest.position.generation > own.generation:
        raise Refused(f"the cluster was recovered already, on {_title(rows, newest.node_id)}")
    if force:
        return
    if _age(newest.position) > _age(own):
        raise Refused(
            f"{_title(rows, newest.node_id)} has a newer log (entry {newest.position.last_index} of term "
            f"{newest.position.last_term}, here {own.last_index} of {own.last_term}): run `swarmpy recover` "
            "there, or lose what only it has with --force"
        )
    alive = {row.node_id for row in there if row.node_id in own.voters}
    if len(alive) * 2 > len(own.voters):
        raise Refused(
            f"{len(alive)} of {len(own.voters)} managers answer, that is a majority: they elect a leader by "
            "themselves within seconds; use --force only if they do not"
        )


def _age(position: recovery_pb2.PositionResponse) -> tuple[int, int, int]:
    return (position.generation, position.last_term, position.last_index)


def _title(rows: list[recovery_pb2.SurveyRow], node_id: str) -> str:
    name = next((row.hostname for row in rows if row.node_id == node_id), "")
    return f"{name} ({node_id})" if name else node_id


async def answered(context: Context, ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer, or the error as a gRPC status."""
    try:
        return await ask()
    except ManagerError as error:
        await context.abort(error.code, str(error))
    except grpc.aio.AioRpcError as error:
        await context.abort(error.code(), error.details() or "the leader did not answer")
    raise AssertionError
