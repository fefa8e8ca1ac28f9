"""The agent process of a node: runtime, overlay, images, tasks, and the session with the leader.

Every change — new assignments, a task's new status — leads to one reconcile: the network
first (so that a task that stops is out of service before it gets its signal), then the DNS
table, then the tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from swarmpy.node import config as node_config
from swarmpy.node.agent import facts, picture, pod, renewal
from swarmpy.node.agent.builds import AgentBuilds
from swarmpy.node.agent.contact import Contact
from swarmpy.node.agent.diagnosis import AgentDiagnosisService
from swarmpy.node.agent.dns_table import DnsTable
from swarmpy.node.agent.images import AgentImages, numbers
from swarmpy.node.agent.keep import Keep
from swarmpy.node.agent.load import Meter
from swarmpy.node.agent.log_keep import LogKeep
from swarmpy.node.agent.near import NearNodes
from swarmpy.node.agent.networks import AgentNetworksService, View
from swarmpy.node.agent.numbers import Numbers
from swarmpy.node.agent.payloads import AgentPayloads, Fetcher
from swarmpy.node.agent.runner import Runner
from swarmpy.node.agent.seals import Seals
from swarmpy.node.agent.serve import AgentService
from swarmpy.node.agent.serve_images import AgentImagesService, SwarmService
from swarmpy.node.agent.serve_tasks import AgentTasksService
from swarmpy.node.agent.serve_volumes import AgentVolumesService
from swarmpy.node.agent.session import Removed, Session
from swarmpy.node.agent.volumes import AgentVolumes
from swarmpy.node.agent.worker import Worker
from swarmpy.node.ca import join, tls
from swarmpy.node.ca.errors import CaError
from swarmpy.node.ca.guard import GuardedServer
from swarmpy.node.ca.identity import IdentityFile, renewal_due_ms
from swarmpy.node.image.store import ImageStore
from swarmpy.node.items import Items
from swarmpy.node.runtime.mounts import gpu_paths
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.node.volume import memory
from swarmpy.node.volume.local import LocalVolumes, unmount_below
from swarmpy.overlay import nametable
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.plane import Overlay
from swarmpy.overlay.wanted import Wanted
from swarmpy.proto import (
    agent_pb2_grpc,
    diagnosis_pb2_grpc,
    images_pb2_grpc,
    networks_pb2_grpc,
    objects_pb2,
    tasks_pb2_grpc,
    types_pb2,
    volumes_pb2_grpc,
)

log = logging.getLogger(__name__)
RECONCILE_GATHER_S = 0.01
RECONCILE_RETRY_S = 2.0
RENEW_RETRY_S, BEHIND_RETRY_S = 10.0, 1.0
EQUIPMENT_LOOK_S = 60.0  # for OCI runtimes and GPUs that come, or go, while the node runs
ROLE_NAMES = {types_pb2.ROLE_WORKER: node_config.WORKER, types_pb2.ROLE_MANAGER: node_config.MANAGER}


class AgentProcess:
    """Wires one agent. `run` ends by cancellation, Removed, or an error."""

    def __init__(self, paths: node_config.Paths) -> None:
        self.paths = paths
        self.config = node_config.load(paths)
        self.identity = IdentityFile(paths.certs)
        self_id = self.config.node_id
        self.runtime = Runtime(
            state_dir=paths.state,
            run_dir=paths.run,
            log_dir=paths.logs,
            owner=paths.tag,
            runtime=self.config.runtime,
            runtimes=self.config.runtimes,
        )
        self.overlay = Overlay(netns_dir=paths.netns, tag=paths.tag)
        self.seals = Seals(paths.run / "seal.json", self.overlay, self._sealed_anew)
        self.near = NearNodes(self.overlay, lambda: self._network is not None)
        self.store = ImageStore(paths.images)
        self.images = images = AgentImages(
            self.store, self.identity, self_id, lambda: self.session.report_images(), self._connected_to
        )
        self.volumes = AgentVolumes(
            LocalVolumes(paths.volumes),
            lambda address, node_id: tls.channel(address, node_id, self.identity.current()),
            lambda: self.session.report_volumes(),
        )
        fetch = Fetcher(
            self._connected_to,
            lambda manager: tls.channel(manager.address, manager.id, self.identity.current()),
        )
        self.payloads = AgentPayloads(paths.payloads, fetch)
        self.runner = Runner(self.runtime, self.overlay, images, self.volumes, self.payloads, self_id)
        self.keep = Keep(paths.agent)
        self.worker = Worker(self.runner, self.keep, self._on_status)
        self.contact = Contact(paths.run / "contact", self.worker.tasks, self.worker.give_up)
        self.session = Session(
            self_id=self_id, identity=self.identity, managers=lambda: self.config.managers,
            describe=self._describe, status_of=self._status_of, images=self.store.digests, held=images.held,
            on_items=self._on_items,
            is_leaving=self.paths.leaving.exists, on_out=self.runner.out_of_service,
            volumes=self.volumes.reports, usage=Meter().usage,
            on_contact=self.contact.heard,
        )  # fmt: skip
        self.server = GuardedServer(self.config.cluster_id, self._is_active)
        self.builds = AgentBuilds(paths, images, self._is_ready, self.session.describe_again)
        self.numbers = Numbers(
            self.runtime, self.worker.tasks, lambda: bool(self.session.connected_to),
            lambda: self.identity.current().expires_ms, self._manager_metrics, paths.dns_metrics,
            self._vip_requests,
        )  # fmt: skip
        self.numbers.registry.collect(lambda: numbers(self.store))
        self._changed = asyncio.Event()
        self._picture = picture.Picture()
        self._network: Wanted | None = None
        self._table = DnsTable(paths.dns_table)
        self._defaults: tuple[str, ...] = ()
        self._config_unsaved = False
        self._complete = False  # the last reconcile did all it should
        self._equipment: tuple[list[str], bool] = ([], False)
        self._renew = asyncio.Event()

    async def run(self) -> None:
        await self.overlay.start()
        self.seals.start()
        await self.store.open()
        found = await self.runtime.open()
        self._equipment = self._find_equipment()
        self.session.begin_with(self.keep.load_items())
        self._picture = picture.Picture.of(self.session.items)
        self.worker.adopt(found, self._picture)
        await self.volumes.open()
        await self.volumes.adopt(self.worker.tasks.values())
        self.payloads.open(self.worker.tasks.keys())
        await self._sweep_pods()
        service = AgentService(self.runtime, self.store, self.session.report_images, self._may_write)
        agent_pb2_grpc.add_AgentServicer_to_server(service, self.server)
        agent_pb2_grpc.add_BlobsServicer_to_server(service, self.server)
        images_pb2_grpc.add_SwarmServicer_to_server(SwarmService(self.store), self.server)
        kept = AgentImagesService(self.images, self._images_in_use, self.session.report_images)
        images_pb2_grpc.add_AgentImagesServicer_to_server(kept, self.server)
        inside = AgentTasksService(self.runtime, self._addresses_of, self.runner.probe_times_ms)
        tasks_pb2_grpc.add_AgentTasksServicer_to_server(inside, self.server)
        networks = AgentNetworksService(self.overlay, self._network_view())
        networks_pb2_grpc.add_AgentNetworksServicer_to_server(networks, self.server)
        volumes_pb2_grpc.add_AgentVolumesServicer_to_server(AgentVolumesService(self.volumes), self.server)
        diagnosis = AgentDiagnosisService(
            self.config.node_id, self.paths.state, lambda: self._picture,
            lambda address, node_id: tls.channel(address, node_id, self.identity.current()),
            lambda: self.near.nodes,
        )  # fmt: skip
        diagnosis_pb2_grpc.add_AgentDiagnosisServicer_to_server(diagnosis, self.server)
        self.server.listen(f"{self.config.listen_addr}:{self.config.ports.agent}", self.identity)
        try:
            await self.server.start()
            await self.numbers.start(self.config.metrics_addr)
            log.info("agent started node=%s adopted=%d", self.config.node_id, len(found))
            try:
                async with asyncio.TaskGroup() as group:
                    if self.session.items:
                        self._changed.set()
                    group.create_task(self._reconcile_loop())
                    group.create_task(self.session.run())
                    group.create_task(self._renew_loop())
                    group.create_task(self.seals.run())
                    group.create_task(self.near.run())
                    group.create_task(self.contact.run())
                    group.create_task(self.worker.failed())
                    group.create_task(self.builds.run())
                    group.create_task(self._look_for_equipment())
                    group.create_task(LogKeep(self.paths.logs, self._has_task).run())
            except* Removed:
                await self._clear()
                raise
        finally:
            await self.numbers.stop()
            await self.worker.close()
            await self.runner.close()
            await self.server.stop()
            await inside.close()
            await self.volumes.close()
            await self.runtime.close()
            await self.overlay.stop()
            await self.images.close()
            await self.store.close()

    async def _clear(self) -> None:
        """The cluster cut this node off: nothing of it may keep running here."""
        node_config.save(self.paths, self.config.with_changes(removed=True))
        await self.worker.close()
        await self.runner.close()
        await self.runtime.destroy()
        await asyncio.to_thread(unmount_below, self.paths.volumes)
        await asyncio.to_thread(memory.close, self.paths.payloads)
        await self.overlay.stop(teardown=True)

    def _on_items(self, items: Items) -> None:
        self._changed.set()

    def _on_status(self, task_id: str) -> None:
        self.session.report(task_id)
        self._changed.set()

    def _status_of(self, task_id: str) -> objects_pb2.TaskStatus | None:
        local = self.worker.tasks.get(task_id)
        return None if local is None else local.status

    def _manager_metrics(self) -> Path | None:
        return self.paths.manager_metrics if self.config.role == node_config.MANAGER else None

    def _has_task(self, container_id: str) -> bool:
        return container_id.partition(".")[0] in self.worker.tasks

    def _may_write(self, container_id: str, ended: bool) -> bool:
        """Whether a container that is not there, or has ended, may be started here (again)."""
        local = self.worker.tasks.get(container_id.partition(".")[0])
        if local is None or local.finished or local.wanted is None:
            return False
        part = next((p for p in pod.parts(local.wanted.spec) if p.name == pod.name_of(container_id)), None)
        return part is not None and (not ended or part.role == pod.SIDECAR_ROLE)

    def _addresses_of(self, task_id: str) -> tuple[str, ...]:
        status = self._status_of(task_id)
        return () if status is None else tuple(ip for _, ip in picture.pairs(status.addresses))

    def _connected_to(self) -> node_config.ManagerAddress | None:
        return next((m for m in self.config.managers if m.id == self.session.connected_to), None)

    def _images_in_use(self) -> set[str]:
        """What this node runs, is about to, or did a little while ago."""
        known = (*self._picture.tasks.values(), *(local.wanted for local in self.worker.tasks.values()))
        return self.images.recent() | {
            container.image_digest or container.image
            for task in known
            if task is not None
            for container in (
                task.spec.container,
                *(part.container for part in (*task.spec.init_containers, *task.spec.sidecars)),
            )
        }  # fmt: skip

    def _describe(self) -> objects_pb2.NodeDescription:
        found = facts.describe(self.config, node_config.release(), self.runtime.description, *self._equipment)
        found.build.CopyFrom(self.builds.status())
        mine = self.identity.current()
        found.issuer, found.trusts = mine.issuer, mine.trusts
        return self.seals.describe(found)

    async def _is_ready(self) -> bool:
        return self._complete and not await self.numbers.problems()

    def _find_equipment(self) -> tuple[list[str], bool]:
        """What services may ask of a node: OCI runtimes by name, graphics processors. Blocks."""
        return self.runtime.choice.names(), bool(gpu_paths())

    async def _look_for_equipment(self) -> None:
        while True:
            await asyncio.sleep(EQUIPMENT_LOOK_S)
            found = await asyncio.to_thread(self._find_equipment)
            if found != self._equipment:
                log.info("equipment is another now found=%s before=%s", found, self._equipment)
                self._equipment = found
                self.session.describe_again()

    def _sealed_anew(self) -> None:
        self.session.describe_again()
        self._changed.set()

    def _is_active(self, node_id: str, serial: int) -> bool:
        """Nodes of the kept picture; before there is one, the certificate alone counts."""
        return not self._picture.peers or node_id in self._picture.peers

    async def _sweep_pods(self) -> None:
        """Remove the network of pods that no kept task has."""
        for pod_id in await self.overlay.pods():
            if pod_id not in self.worker.tasks:
                await self.overlay.detach(pod_id)
        for pod_id in self.runtime.pods.ids() - self.worker.tasks.keys():
            await asyncio.to_thread(self.runtime.pods.remove, pod_id)

    async def _reconcile_loop(self) -> None:
        # Tasks are first driven once an assignment set is known, kept or new: without one
        # every container would look like nobody's.
        known = saved = b""
        drawn: Items | None = None
        while True:
            await self._changed.wait()
            await asyncio.sleep(RECONCILE_GATHER_S)
            self._changed.clear()
            items, holds = self.session.items, self.session.holds
            if holds != known:
                self._picture = (
                    picture.Picture.of(items) if drawn is None else self._picture.follow(drawn, items)
                )
                known, drawn = holds, items
            self._complete = True
            try:
                await self._apply_network()
            except OverlayError as error:
                log.error("network not applied error=%s", error)
                self._complete = False
                self._reconcile_later()
            with self._else_later("assignments"):
                if holds != saved:
                    self.keep.save_items(items, holds)
                    saved = holds
            with self._else_later("DNS table"):
                self._write_dns_table()
            if self._complete:
                self.session.applied(holds)
            self.builds.want(self._picture.build)
            self.volumes.apply(self._picture)
            await self.runner.picture_changed(self._picture)
            self.worker.want(self._picture)
            self.contact.look()
            if not self.worker.keep_again():
                self._reconcile_later()
            with self._else_later("node.json"):
                self._follow_cluster()

    def _reconcile_later(self) -> None:
        asyncio.get_running_loop().call_later(RECONCILE_RETRY_S, self._changed.set)

    @contextlib.contextmanager
    def _else_later(self, what: str) -> Iterator[None]:
        """A full disk must not cost the node its agent: what it does not take is written once it does."""
        try:
            yield
        except OSError as error:
            log.error("not written, tried again soon file=%s error=%s", what, error)
            self._complete = False
            self._reconcile_later()

    async def _apply_network(self) -> None:
        wanted = self._wanted_network()
        if wanted is None or wanted == self._network:
            return
        began = time.monotonic()
        report = await self.overlay.apply(wanted)
        self.numbers.network_changed(time.monotonic() - began, report.forgotten)
        self._network = wanted
        self.seals.applied(wanted)

    async def _vip_requests(self) -> dict[str, int]:
        """By service; nothing where the kernel cannot be asked now."""
        try:
            counts = await self.overlay.vip_counts()
        except OverlayError:
            return {}
        return {
            entry.service_name: sum(counts.get(ip, 0) for ip in ips)
            for entry in self._picture.endpoints.values()
            if (ips := [ip for _, ip in picture.pairs(entry.vips)])
        }

    def _network_view(self) -> View:
        return View(
            self_id=self.config.node_id, netns_dir=self.paths.netns, picture=lambda: self._picture,
            holds=lambda: self.session.holds, table=self._dns_table, wanted=self._wanted_network,
            addresses_of=self._addresses_of, renew=self._renew_network, resync=self.session.resync,
            names=self._table,
        )  # fmt: skip

    def _renew_network(self) -> None:
        """Everything again, whatever was done before."""
        self._network = None
        self._table.forget()
        self._changed.set()

    def _wanted_network(self) -> Wanted | None:
        tasks = self.worker.tasks.values()
        return picture.wanted_network(self._picture, self.config.node_id, tasks, self.seals.pairs)

    def _dns_table(self) -> nametable.Table:
        upstreams = facts.upstream_resolvers(self.config)
        return picture.dns_table(self._picture, self.config.node_id, self.worker.tasks.values(), upstreams)

    def _write_dns_table(self) -> None:
        seen, upstreams = self._picture, facts.upstream_resolvers(self.config)
        head = picture.dns_head(seen, self.config.node_id, self.worker.tasks.values(), upstreams)
        if (defaults := picture.default_networks(seen)) != self._defaults:
            self._table.forget()
        self._table.write(head, seen.raw_endpoints, lambda key: picture.dns_service(seen, key))
        self._defaults = defaults

    def _follow_cluster(self) -> None:
        """Keep node.json in line with what the managers say about this node."""
        node = self._picture.node
        if node is None:
            return
        if node.removed:
            raise Removed("this node was removed from the cluster")
        managers = tuple(
            node_config.ManagerAddress(manager_id, address)
            for manager_id, address in zip(node.manager_ids, node.managers, strict=True)
        )
        if managers and managers != self.config.managers:
            self.config = self.config.with_changes(managers=managers)
            self._config_unsaved = True
        if self._config_unsaved:
            node_config.save(self.paths, self.config)
            self._config_unsaved = False
        mine = self.identity.current()
        changed = ROLE_NAMES[node.role] != self.config.role or node.role != mine.role
        if changed or renewal.is_behind(mine, node):
            self._renew.set()

    async def _renew_loop(self) -> None:
        """Renew the certificate in time, and at once when the role or the cluster's root changed."""
        while True:
            mine = self.identity.current()
            if lost := renewal.expired(mine.expires_ms, renewal.wall_ms()):
                log.error("%s", lost)
            await renewal.until_due(renewal_due_ms(mine), self._renew)
            self._renew.clear()
            try:
                if renewal.is_behind(mine, self._picture.node):
                    await asyncio.sleep(random.uniform(0, renewal.spread_s(len(self._picture.peers))))  # noqa: S311
                await self._renew_now()
                if renewal.is_behind(self.identity.current(), self._picture.node):
                    await asyncio.sleep(BEHIND_RETRY_S)
                    self._renew.set()
            except (grpc.aio.AioRpcError, CaError, OSError) as error:
                log.warning("certificate not renewed error=%s", error)
                await asyncio.sleep(RENEW_RETRY_S)
                self._renew.set()

    async def _renew_now(self) -> None:
        manager = self._connected_to()
        if manager is None:
            raise OSError("no session with a manager")
        channel = tls.channel(manager.address, manager.id, self.identity.current())
        try:
            fresh = await join.renew(channel, self.identity.current())
        finally:
            await channel.close(None)
        if renewal.is_worse(fresh, self.identity.current(), self._picture.node):
            raise OSError(f"manager {manager.id} signs with a root of before: its state lags behind")
        fresh.save(self.paths.certs)
        self.session.describe_again()
        log.info("certificate renewed role=%s expires_ms=%d", ROLE_NAMES[fresh.role], fresh.expires_ms)
        if ROLE_NAMES[fresh.role] != self.config.role:
            self.config = self.config.with_changes(role=ROLE_NAMES[fresh.role], bootstrap=False)
            node_config.save(self.paths, self.config)
            if parent := int(os.environ.get("SWARMPY_SUPERVISOR", "0")):
                os.kill(parent, signal.SIGHUP)
