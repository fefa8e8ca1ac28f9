"""Backups: one on demand, streamed, and scheduled ones on the leader's disk.

A backup is the store's snapshot after a read barrier: consistent at one index, taken while
everything goes on. The schedule is data: the time of the last one stands in the Cluster, so a
new leader knows when the next one is due and a leader change neither skips nor doubles one.
Scheduled ones are sealed with the cluster's backup key, which is made with the first of them
and shown to people once: whoever wants to restore must keep it outside the cluster.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from swarmpy.node import config as node_config
from swarmpy.node.manager import backup_file
from swarmpy.node.manager.contention import change_cluster, cluster_of
from swarmpy.node.manager.errors import Conflict, NotLeading, Refused
from swarmpy.node.manager.leader import Leader
from swarmpy.proto import objects_pb2, recovery_pb2, store_pb2
from swarmpy.raft import log as raft_log
from swarmpy.raft.store import Commit

log = logging.getLogger(__name__)
INTERVAL_MS = 6 * 3600 * 1000
KEEP = 8
RETRY_MS = 10 * 60 * 1000
LOOK_AGAIN_S = 3600.0
SUFFIX = ".backup"
LEFTOVERS = f".*{SUFFIX}.*.tmp"


class Backups:
    """`run` belongs to the leader's TaskGroup; the rest is called by the servicer."""

    def __init__(self, leader: Leader, node_id: str, directory: Path) -> None:
        self._leader = leader
        self._store = leader.store
        self._node_id = node_id
        self._directory = directory
        self._wake = asyncio.Event()
        self._store.listeners.append(self._on_commit)

    def _on_commit(self, commit: Commit) -> None:
        if any(event.kind == store_pb2.KIND_CLUSTER for event in commit.events):
            self._wake.set()

    # -- on demand

    async def stream(self, request: recovery_pb2.BackupRequest) -> AsyncIterator[recovery_pb2.BackupChunk]:
        """The header and the state. With `with_key` also the cluster's backup key, to seal it with."""
        key = (await self._key("backup")) if request.with_key else b""
        header = await self._begin()
        chunks = self._store.snapshot()
        log.info("backup streaming index=%d", header.index)
        yield recovery_pb2.BackupChunk(header=header, cluster_key=key)
        while data := await asyncio.to_thread(next, chunks, b""):
            yield recovery_pb2.BackupChunk(data=data)

    async def _begin(self) -> recovery_pb2.BackupHeader:
        """What is true of the store now; no await may follow before its snapshot is begun."""
        try:
            await self._leader.raft.read_barrier()
            position = self._leader.raft.position()
        except raft_log.LogError as error:
            raise NotLeading(f"no backup: {error}") from error
        return recovery_pb2.BackupHeader(
            cluster_id=cluster_of(self._store).meta.id, index=self._store.index, term=position.term,
            generation=position.generation, version=node_config.release(), created_ms=self._leader.now_ms(),
            node_id=self._node_id,
        )  # fmt: skip

    # -- the cluster's backup key

    async def show_key(self, *, rotate: bool, actor: str) -> bytes:
        """The key, once: afterwards only a new one."""
        cluster = cluster_of(self._store)
        if cluster.backup_key_shown_ms and not rotate:
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(cluster.backup_key_shown_ms / 1000))
            raise Refused(
                f"the backup key was shown on {when} and is shown once only: use --rotate for a new one "
                "(backups made until then still need the old one)"
            )
        fresh = backup_file.new_key()

        def edit(changed: objects_pb2.Cluster) -> None:
            changed.backup_key = fresh if rotate or not changed.backup_key else changed.backup_key
            changed.backup_key_shown_ms = self._leader.now_ms()

        return (await change_cluster(self._leader, edit, actor)).backup_key

    async def _key(self, actor: str) -> bytes:
        if key := cluster_of(self._store).backup_key:
            return key
        fresh = backup_file.new_key()

        def edit(changed: objects_pb2.Cluster) -> None:
            changed.backup_key = changed.backup_key or fresh

        return (await change_cluster(self._leader, edit, actor)).backup_key

    # -- scheduled

    async def run(self) -> None:
        await asyncio.to_thread(self._sweep)
        while True:
            self._wake.clear()
            wait_ms = self._wait_ms()
            if wait_ms is None or wait_ms > 0:
                seconds = LOOK_AGAIN_S if wait_ms is None else min(wait_ms / 1000, LOOK_AGAIN_S)
                await self._sleep(seconds)
            elif not await self._make():
                await self._sleep(RETRY_MS / 1000)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _wait_ms(self) -> int | None:
        """Until the next backup; None where none are scheduled."""
        cluster = self._store.cluster()
        if cluster is None or cluster.spec.backup_interval_ms < 0:
            return None
        interval_ms = cluster.spec.backup_interval_ms or INTERVAL_MS
        last_ms = cluster.last_backup_ms or cluster.meta.created_ms
        return min(last_ms + interval_ms - self._leader.now_ms(), interval_ms)

    async def _make(self) -> bool:
        problem = ""
        try:
            secret = backup_file.Secret(cluster_key=await self._key("backup"))
            header = await self._begin()
            chunks = self._store.snapshot()
            path = self._directory / _name(header)
            size = await asyncio.to_thread(self._save, path, header, chunks, secret)
            log.info("backup written path=%s index=%d bytes=%d", path, header.index, size)
        except Conflict as error:
            log.warning("backup put off reason=%s", error)
            return False
        except OSError as error:
            problem = f"{self._directory} on {self._node_id}: {error.strerror or error}"
            log.error("backup failed error=%s", problem)

        def edit(changed: objects_pb2.Cluster) -> None:
            changed.backup_problem = problem
            if not problem:
                changed.last_backup_ms = header.created_ms

        if problem != cluster_of(self._store).backup_problem or not problem:
            try:
                await change_cluster(self._leader, edit, "backup")
            except Conflict as error:
                log.warning("backup not noted reason=%s", error)
                return False
            self._wake.clear()
        return not problem

    def _save(
        self,
        path: Path,
        header: recovery_pb2.BackupHeader,
        chunks: Iterator[bytes],
        secret: backup_file.Secret,
    ) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = backup_file.save(path, header, chunks, secret, replace=True)
        cluster = self._store.cluster()
        keep = (cluster.spec.backup_keep if cluster is not None else 0) or KEEP
        for old in sorted(self._directory.glob(f"*{SUFFIX}"))[:-keep]:
            old.unlink(missing_ok=True)
        return size

    def _sweep(self) -> None:
        """What a killed manager left half written."""
        for leftover in self._directory.glob(LEFTOVERS):
            leftover.unlink(missing_ok=True)

    # -- what there is

    def files(self) -> list[recovery_pb2.BackupFile]:
        """The scheduled backups on this manager, oldest first. Blocks."""
        found = []
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            entry = recovery_pb2.BackupFile(node_id=self._node_id, path=str(path))
            try:
                with path.open("rb") as file:
                    entry.header.CopyFrom(backup_file.read_header(file, str(path)))
                entry.size_bytes = path.stat().st_size
            except (OSError, backup_file.BackupError) as error:
                entry.problem = str(error)
            found.append(entry)
        return found

    def summary(self) -> recovery_pb2.ListBackupsResponse:
        """When, how often, how many."""
        cluster = self._store.cluster() or objects_pb2.Cluster()
        return recovery_pb2.ListBackupsResponse(
            last_ms=cluster.last_backup_ms, interval_ms=cluster.spec.backup_interval_ms or INTERVAL_MS,
            keep=cluster.spec.backup_keep or KEEP, key_shown=cluster.backup_key_shown_ms > 0,
            last_problem=cluster.backup_problem,
        )  # fmt: skip


def _name(header: recovery_pb2.BackupHeader) -> str:
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(header.created_ms / 1000))
    return f"{when}-{header.index:012d}{SUFFIX}"
