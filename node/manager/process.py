"""The manager process of a node: consensus, store, the leader's loops, and its servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from functools import partial

from swarmpy.node import config as node_config
from swarmpy.node import metrics
from swarmpy.node.ca import tls, token
from swarmpy.node.ca.guard import GuardedServer
from swarmpy.node.ca.identity import IdentityFile, new_node_id
from swarmpy.node.manager import credentials, garbage
from swarmpy.node.manager.attempt import Troubles
from swarmpy.node.manager.backup import Backups
from swarmpy.node.manager.backup_file import BackupError
from swarmpy.node.manager.checks import Checks, asking, set_snapshots_aside
from swarmpy.node.manager.control import Control, LocalControl
from swarmpy.node.manager.diagnosis import Diagnosis
from swarmpy.node.manager.dispatcher import Dispatcher
from swarmpy.node.manager.history import History
from swarmpy.node.manager.image_calls import ImageCalls, Pulls
from swarmpy.node.manager.image_keep import ImageKeep
from swarmpy.node.manager.images import Images
from swarmpy.node.manager.issuer import Issuer
from swarmpy.node.manager.keys import Vault
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.liveness import Liveness
from swarmpy.node.manager.logs import Logs
from swarmpy.node.manager.loop import loops_of
from swarmpy.node.manager.members import Members
from swarmpy.node.manager.networks import Networks
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.numbers import Numbers
from swarmpy.node.manager.payloads import Payloads
from swarmpy.node.manager.proxy import Proxy
from swarmpy.node.manager.reads import Reads
from swarmpy.node.manager.recovery import Beginning, Recovery
from swarmpy.node.manager.sampler import Sampler
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.node.manager.tasks import Tasks
from swarmpy.node.manager.trouble_notes import TroubleNotes
from swarmpy.node.manager.volumes import Volumes
from swarmpy.node.manager.writes import Writer
from swarmpy.node.plan import planners
from swarmpy.proto import (
    ca_pb2_grpc,
    control_pb2_grpc,
    diagnosis_pb2_grpc,
    images_pb2_grpc,
    networks_pb2_grpc,
    payloads_pb2_grpc,
    recovery_pb2_grpc,
    store_pb2,
    tasks_pb2_grpc,
    types_pb2,
    volumes_pb2_grpc,
)
from swarmpy.raft.aside import set_aside
from swarmpy.raft.log import LogDamaged
from swarmpy.raft.replica import LAN, WAN, RaftNode
from swarmpy.raft.store import Commit, Store

log = logging.getLogger(__name__)
SECRET_BYTES = 16
FATAL_EXIT_S = 10.0


class Fatal(Exception):
    """The manager cannot go on; the supervisor starts it again."""


class ManagerProcess:
    """Wires one manager. `run` ends by cancellation, or with Fatal or another error."""

    def __init__(self, paths: node_config.Paths) -> None:
        self.paths = paths
        self.config = node_config.load(paths)
        self.identity = IdentityFile(paths.certs)
        self.store = Store()
        self._diverged = False
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ports = self.config.ports
        self.beginning = Beginning(paths)
        try:
            seed = self.beginning.seed()
        except BackupError as error:
            raise Fatal(f"{error}: restore again") from error
        self.raft = RaftNode(
            node_id=self.config.node_id,
            address=f"{self.config.advertise_addr}:{ports.raft}",
            listen=(self.config.listen_addr, ports.raft),
            directory=paths.raft,
            state_machine=self.store,
            # Not by node.json alone: a founder that lost its log must not found a second cluster.
            bootstrap=self.config.bootstrap and paths.bootstrap.exists(),
            seed=seed,
            force_new_cluster=self.beginning.forced,
            server_ssl=lambda: tls.raft_server_context(self.identity.current()),
            client_ssl=lambda: tls.raft_client_context(self.identity.current()),
            peer_id=self._peer_id,
            profile=WAN if self.config.raft_profile == "wan" else LAN,
            on_fatal=self._on_fatal,
            on_removed=self._on_removed,
        )
        self.vault = Vault(paths, self.config, self.store)
        self.leader = Leader(self.raft, self.store)
        self.leader.first_transaction = self._first_transaction
        self.channels = NodeChannels(self.store, self.identity)
        statuses = StatusWriter(self.leader)
        self.liveness = Liveness(self.leader, statuses)
        self.dispatcher = Dispatcher(self.leader, statuses, self.liveness)
        images = Images(self.leader, self.channels, self.config.node_id, new_node_id)
        images.access = partial(credentials.access_for, self.store)
        writer = Writer(self.leader, images, new_node_id)
        history = History(self.store)
        self.checks = Checks(self.leader, history, asking(self.channels), self._on_diverged)
        reads, self.proxy = Reads(self.raft, self.store, history), Proxy(self.leader, self.channels)
        self.tasks = Tasks(self.leader, reads, history, self.proxy, self.channels)
        self.volumes = Volumes(self.store, self.channels, self.tasks.fresh)
        local = LocalControl(
            self.leader, reads, history, writer, images,
            Logs(self.store, history, self.channels), new_secret,
        )  # fmt: skip
        local.connected = self.dispatcher.connected
        self.troubles = local.troubles = Troubles()
        self.numbers = Numbers(self.leader, self.store, self.dispatcher.connected, self.troubles)
        self._metrics = metrics.Server({"/metrics": self.numbers.page})
        self.control = Control(local, self.proxy, self.checks)
        backups = Backups(self.leader, self.config.node_id, paths.backups)
        self.recovery = Recovery(self.leader, backups, self.channels, self.identity, paths, self._on_fatal)
        self.issuer = Issuer(self.store, self.control, new_node_id)
        members = Members(self.leader, self.config.node_id)
        sampler = Sampler(self.store, history, self.channels, self.leader.now_ms)
        loops = loops_of(
            planners.all_planners(sampler.samples), self.store, self.leader.try_commit, self.leader.now_ms,
            new_node_id, self.troubles,
        )  # fmt: skip
        self.leader.jobs = [statuses.run, self.liveness.run, self.dispatcher.run, members.run]
        self.leader.jobs += [self.checks.run, self.beginning.done, backups.run]
        self.leader.jobs += [ImageKeep(self.leader, self.channels).run]
        self.leader.jobs += [TroubleNotes(self.store, self.leader.try_commit, self.troubles).run]
        self.leader.jobs += [sampler.run, *(loop.run for loop in loops)]
        self.server = GuardedServer(self.config.cluster_id, self._is_active, is_manager=self._is_manager)
        self.store.listeners.append(self._on_commit)

    async def run(self) -> None:
        try:
            self.raft.keys = await self.vault.open()
            await self._serve()
        except LogDamaged as error:
            await self._begin_empty(error)

    async def _begin_empty(self, error: LogDamaged) -> None:
        """The others have what is damaged here; where there are none it is better not to touch it."""
        others = [manager.id for manager in self.config.managers if manager.id != self.config.node_id]
        if not others:
            raise error
        aside = await asyncio.to_thread(set_aside, self.paths.raft)
        raise Fatal(
            f"{error} — set aside as {aside}; this manager begins empty and asks the others"
        ) from error

    async def _serve(self) -> None:
        control_pb2_grpc.add_ControlServicer_to_server(self.control, self.server)
        tasks_pb2_grpc.add_TasksServicer_to_server(self.tasks, self.server)
        volumes_pb2_grpc.add_VolumesServicer_to_server(self.volumes, self.server)
        networks = Networks(self.store, self.tasks, self.channels)
        networks_pb2_grpc.add_NetworksServicer_to_server(networks, self.server)
        images = ImageCalls(self.store, self.tasks, self.control, self.channels)
        images_pb2_grpc.add_ImagesServicer_to_server(images, self.server)
        images_pb2_grpc.add_PullsServicer_to_server(Pulls(self.store, self.tasks), self.server)
        payloads_pb2_grpc.add_PayloadsServicer_to_server(Payloads(self.store, self.tasks), self.server)
        diagnosis = Diagnosis(self.store, self.tasks, self.channels)
        diagnosis_pb2_grpc.add_DiagnosisServicer_to_server(diagnosis, self.server)
        self.dispatcher.add_to(self.server)
        ca_pb2_grpc.add_ClusterCAServicer_to_server(self.issuer, self.server)
        ca_pb2_grpc.add_JoinServicer_to_server(self.issuer, self.server)
        recovery_pb2_grpc.add_RecoveryServicer_to_server(self.recovery, self.server)
        host = self.config.listen_addr
        self.server.listen(f"{host}:{self.config.ports.manager}", self.identity)
        self.server.listen_join(f"{host}:{self.config.ports.join}", self.identity)
        self.server.listen_unix(self.paths.control_socket)
        leading = asyncio.create_task(self.leader.run())
        background = [leading]
        try:
            await self.raft.start()
            self.beginning.planted()
            background += [
                asyncio.create_task(garbage.run()),
                asyncio.create_task(self.leader.follow()),
                asyncio.create_task(self.checks.scrub()),
                asyncio.create_task(self.vault.follow(self.raft)),
            ]
            await self.server.start()
            with contextlib.suppress(OSError):
                await self._metrics.start_unix(self.paths.manager_metrics)
            log.info("manager started node=%s address=%s", self.config.node_id, self.config.advertise_addr)
            await asyncio.wait({leading, self._fatal}, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
            leading.result()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._metrics.stop()
            self.leader.stop()
            await self.raft.stop(transfer=True)
            if self._diverged:
                set_snapshots_aside(self.paths.raft, self.checks.verified_index)
            self.control.end_writes()
            await self.server.stop()
            await self.proxy.close()
            await self.channels.close()

    def _first_transaction(self) -> list[store_pb2.Change]:
        """The cluster and its first node, when this manager founded the cluster."""
        if changes := self.beginning.changes(self.store, self.config.node_id):
            return changes
        if self.store.cluster() is not None or not self.paths.bootstrap.exists():
            return []
        return list(store_pb2.Transaction.FromString(self.paths.bootstrap.read_bytes()).changes)

    def _on_commit(self, commit: Commit) -> None:
        for event in commit.events:
            if event.kind == store_pb2.KIND_CLUSTER and self.paths.bootstrap.exists():
                os.unlink(self.paths.bootstrap)
            if event.kind == store_pb2.KIND_NODE and (
                event.new is None or getattr(event.new, "removed", False)
            ):
                self.server.end_streams(event.id)

    def _is_active(self, node_id: str, serial: int) -> bool:
        """A node that the store knows and that was not removed. An empty store knows nobody yet."""
        node = self.store.node(node_id)
        if node is None:
            return self.store.cluster() is None
        return not node.removed

    def _is_manager(self, node_id: str) -> bool:
        node = self.store.node(node_id)
        return self.store.cluster() is None or (node is not None and node.role == types_pb2.ROLE_MANAGER)

    def _peer_id(self, ssl_object: ssl.SSLObject) -> str:
        """The peer's node id; only managers of this cluster speak Raft."""
        peer = tls.peer_identity(ssl_object)
        if peer.role != types_pb2.ROLE_MANAGER or peer.cluster_id != self.config.cluster_id:
            raise ValueError(f"{peer.node_id} is not a manager of this cluster")
        return peer.node_id

    def _on_removed(self) -> None:
        """Not a member any more: end. As a worker the supervisor lets it rest; as a manager again it begins anew."""
        log.info("removed from the managers node=%s", self.config.node_id)
        self._on_fatal(
            "this node was removed from the managers: as long as its role says manager it starts again"
        )

    def _on_diverged(self, reason: str) -> None:
        # Only with other managers to fill the gap: the last copy there is stays as it is.
        self._diverged = len(self.raft.status().members) > 1
        self._on_fatal(reason)

    def _on_fatal(self, reason: str) -> None:
        if not self._fatal.done():
            self._fatal.set_exception(Fatal(reason))
            # A disk that hangs, or anything else that keeps the end from coming, must not keep a shell alive.
            asyncio.get_running_loop().call_later(FATAL_EXIT_S, os._exit, 1)


def new_secret() -> str:
    return token.new_secret(os.urandom(SECRET_BYTES))
