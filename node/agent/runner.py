"""Does one step of one task on the real machine: image, network, container.

Errors of the rooms below become outcomes: what can never work is permanent (REJECTED),
everything else is a failure that the restart policy answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import platform
import socket
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from swarmpy.node import templates
from swarmpy.node.agent import facts, picture, pod, probes, provided, reasons, sharing
from swarmpy.node.agent.health import Prober
from swarmpy.node.agent.images import AgentImages
from swarmpy.node.agent.machine import Action, Local, Outcome
from swarmpy.node.agent.payloads import AgentPayloads, PayloadError, PayloadGone
from swarmpy.node.agent.supervisor import Ended, Supervisor
from swarmpy.node.agent.supervisor import Task as SupervisedTask
from swarmpy.node.agent.volumes import AgentVolumes
from swarmpy.node.image.errors import ImageError, ImageNotFound, Unsupported
from swarmpy.node.image.reference import ReferenceInvalid
from swarmpy.node.image.store import StoredImage
from swarmpy.node.runtime.errors import ContainerError, MissingTool, StartRejected
from swarmpy.node.runtime.request import ContainerRequest, Exit, GivenFile, IdRange
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.node.volume.errors import VolumeError, VolumeLost, VolumeRejected
from swarmpy.overlay import ipam
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.plane import Overlay
from swarmpy.proto import objects_pb2, types_pb2

log = logging.getLogger(__name__)
NETWORK_WAIT_S = 30.0
DRAIN_DELAY_MS = 2000
OUT_OF_SERVICE_WAIT_S = 5.0  # a node that hangs delays a stop by this, it does not prevent it
DNSRR = objects_pb2.ENDPOINT_DNSRR
STOP_GRACE_MS = 10_000
PREPARE_PARALLEL = 8
PERMANENT = (
    StartRejected, ImageNotFound, Unsupported, ReferenceInvalid, MissingTool, VolumeRejected, VolumeLost,
    PayloadGone,
)  # fmt: skip


class NetworkUnready(Exception):
    """The node has no address to give: says which network and why."""


class PortConflict(Exception):
    """A process outside the cluster has a port of the node that a task wants."""


class Runner:
    """The effects behind machine.Action."""

    def __init__(
        self, runtime: Runtime, overlay: Overlay, images: AgentImages, volumes: AgentVolumes,
        payloads: AgentPayloads, self_id: str,
    ) -> None:  # fmt: skip
        self.picture = picture.Picture()
        self.runtime = runtime
        self.tasks: Mapping[str, Local] = {}
        self._runtime = runtime
        self._overlay = overlay
        self._images = images
        self._volumes = volumes
        self._payloads = payloads
        self._self_id = self_id
        self._prober = Prober(runtime)
        self.probe_times_ms: Mapping[str, int] = self._prober.times_ms
        self._supervised: dict[str, Supervisor] = {}
        self._reserved: dict[str, tuple[objects_pb2.TaskAddress, ...]] = {}
        self._picture_changed = asyncio.Condition()
        self._out: dict[str, asyncio.Event] = {}
        self._create_slots = asyncio.Semaphore(PREPARE_PARALLEL)
        self._start_slots = asyncio.Semaphore(PREPARE_PARALLEL)

    async def picture_changed(self, new: picture.Picture) -> None:
        self.picture = new
        async with self._picture_changed:
            self._picture_changed.notify_all()

    def out_of_service(self, task_ids: list[str]) -> None:
        """No node sends to these tasks any more."""
        for task_id in task_ids:
            if task_id in self.tasks and not self.tasks[task_id].finished:
                self._out.setdefault(task_id, asyncio.Event()).set()

    def adopted(self, local: Local) -> None:
        if local.status.addresses:
            self._reserved[local.task_id] = tuple(local.status.addresses)

    async def do(self, local: Local, action: Action) -> Outcome | None:
        try:
            match action:
                case Action.ACCEPT:
                    return Outcome(action, _now_ms())
                case Action.PREPARE:
                    return await self._prepare(local)
                case Action.START:
                    if local.wanted is not None and not pod.is_pod(local.wanted.spec):
                        async with self._start_slots:
                            await self._runtime.start(local.task_id)
                    return Outcome(action, _now_ms())  # a pod is started in its order by its supervisor
                case Action.CHECK:
                    return await self._check(local)
                case Action.WATCH:
                    return await self._watch(local)
                case Action.STOP:
                    return await self._stop(local)
                case Action.CLEAN:
                    await self._clean(local.task_id)
                    return Outcome(action, _now_ms())
        except (
            ContainerError,
            ImageError,
            OverlayError,
            PayloadError,
            NetworkUnready,
            PortConflict,
            ReferenceInvalid,
            VolumeError,
            OSError,
        ) as error:
            log.warning("step failed task=%s step=%s error=%s", local.task_id, action.value, error)
            if action is Action.CLEAN:
                return None
            permanent = isinstance(error, PERMANENT)
            reason = reasons.code(error)
            return Outcome(action, _now_ms(), failure=str(error), reason=reason, permanent=permanent)
        raise AssertionError(action)

    async def _prepare(self, local: Local) -> Outcome:
        task = local.wanted
        assert task is not None
        refuse_taken_ports(task)
        parts = pod.parts(task.spec)
        if task.spec.pull_only:
            for part in parts:
                await self._images.ready(part.container, self.picture)
            return Outcome(Action.PREPARE, _now_ms())
        # Images that are long in coming, and addresses that are not there yet, hold nobody else up.
        for part in parts:
            await self._images.ready(part.container, self.picture)
            if not task.spec.container.userns:  # else once its ids are known
                await self._files(task, part, None)
        addresses = await self._addresses(local)
        async with self._create_slots:
            if pod.is_pod(task.spec):
                await self._user_namespace(task)
                await self._network(task, addresses)
            # The main container first: sidecars may share its processes.
            for part in sorted(parts, key=lambda part: part.role != pod.MAIN_ROLE):
                if part.role != pod.INIT_ROLE:
                    await self._create(task, part, addresses)
        return Outcome(Action.PREPARE, _now_ms(), addresses=addresses)

    async def _user_namespace(self, task: objects_pb2.Task) -> IdRange | None:
        """Ids of the task's own where it asks for them; its network is made to belong to them."""
        if task.spec.container.userns != "auto":
            return None
        others = sharing.namespaces(self._runtime, task.meta.id, task.spec)
        if not task.spec.network_mode:
            others["net"] = self._overlay.pin_of(task.meta.id)
        if not self._runtime.has_user(task.meta.id):  # a network that is there belongs to other ids
            await self._overlay.detach(task.meta.id)
        return await self._runtime.pin_user(task.meta.id, others)

    async def _network(
        self, task: objects_pb2.Task, addresses: tuple[objects_pb2.TaskAddress, ...]
    ) -> Path | None:
        """The task's network, made where it is not there yet; None for one on the node's, or without any."""
        if task.spec.network_mode:
            return None
        subnets = picture.subnets(self.picture, addresses)
        return (await self._overlay.attach(task.meta.id, subnets)).netns_path

    async def _create(
        self, task: objects_pb2.Task, part: pod.Part, addresses: tuple[objects_pb2.TaskAddress, ...]
    ) -> None:
        """Create one container of a task where it is not there yet, and before it what it shares."""
        container_id = pod.container_id(task.meta.id, part.name)
        if self._runtime.pids().get(container_id):
            return
        image, layers = await self._images.ready(part.container, self.picture)
        ids = await self._user_namespace(task)
        netns = await self._network(task, addresses)
        await self._volumes.give(task)
        request = self._request(task, part, image, layers, netns, addresses)
        request = dataclasses.replace(request, files=await self._files(task, part, ids), ids=ids)
        if not pod.is_pod(task.spec):
            await self._runtime.create(request)
            return
        try:
            await sharing.create(self._runtime, task.meta.id, task.spec, part.role, request)
        except StartRejected as error:
            raise StartRejected(f"container {part.name}: {error}") from error

    async def _files(
        self, task: objects_pb2.Task, part: pod.Part, ids: IdRange | None
    ) -> tuple[GivenFile, ...]:
        """Secrets and configs of one container, fetched where they are not there yet."""
        values = self._template_values(task)
        return await self._payloads.give(task.meta.id, part.name, part.container, values, ids)

    def _request(
        self, task: objects_pb2.Task, part: pod.Part, image: StoredImage, layers: tuple[Path, ...],
        netns: Path | None, addresses: tuple[objects_pb2.TaskAddress, ...],
    ) -> ContainerRequest:  # fmt: skip
        main = part.role == pod.MAIN_ROLE
        container = provided.container(task) if main else part.container
        container = templates.expanded(container, self._template_values(task))
        on_host = task.spec.network_mode == "host"
        own = container if main else templates.expanded(provided.container(task), self._template_values(task))
        hostname = own.hostname or (socket.gethostname() if on_host else task.meta.id[:12])
        hosts = [(host.address, host.name) for host in container.hosts]
        hosts += (
            [(ip, hostname) for ip in (addresses[0].address, addresses[0].address6) if ip]
            if addresses
            else []
        )
        return ContainerRequest(
            id=pod.container_id(task.meta.id, part.name), spec=container, resources=part.resources,
            image_config=image.config.get("config") or {}, layers=layers, netns=netns, hostname=hostname,
            hosts=tuple(hosts), resolv_conf="" if on_host else picture.resolv_conf(container),
            own_network=task.spec.network_mode == "none",
            labels={**container.labels, "swarmpy.task": task.meta.name, "swarmpy.service": task.service_name},
            volumes=self._volumes.given(task.meta.id),
        )  # fmt: skip

    def _template_values(self, task: objects_pb2.Task) -> dict[str, str]:
        peer = self.picture.peers.get(self._self_id)
        machine = platform.machine()
        return templates.values_of(
            task, node_id=self._self_id, hostname=peer.hostname if peer else socket.gethostname(),
            platform=("linux", facts.ARCHITECTURES.get(machine, machine)),
        )  # fmt: skip

    async def _addresses(self, local: Local) -> tuple[objects_pb2.TaskAddress, ...]:
        """One address per network, its own or from this node's blocks; kept until the task is cleaned."""
        if local.task_id in self._reserved:
            return self._reserved[local.task_id]
        task = local.wanted
        assert task is not None
        deadline = time.monotonic() + NETWORK_WAIT_S
        while True:
            given = self._try_addresses(task)
            if given is not None:
                self._reserved[local.task_id] = given
                return given
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + deadline - time.monotonic()
                ):
                    async with self._picture_changed:
                        await self._picture_changed.wait()
            except TimeoutError as error:
                raise NetworkUnready(
                    f"no free address on this node for {task.meta.name} within {NETWORK_WAIT_S:g} s: "
                    "see `swarmpy network inspect`"
                ) from error

    def _try_addresses(self, task: objects_pb2.Task) -> tuple[objects_pb2.TaskAddress, ...] | None:
        networks = self.picture.networks_of(task)
        if networks is None:
            return None
        given = []
        for network in networks:
            reserved = {
                a.address for held in self._reserved.values() for a in held if a.network_id == network.id
            }
            static = next((a for a in task.static_addresses if a.network_id == network.id), None)
            if static is not None:  # once the former holder here, if there was one, is cleaned away
                mine = self.picture.has_static(static, task.meta.id, self._self_id)
                if not mine or static.address in reserved:
                    return None
                given.append(static)
                continue
            used = reserved | picture.in_use(dict(self.tasks), network.id)
            address = ipam.allocate(self.picture.blocks(network.id, self._self_id), used)
            if address is None:
                return None
            found = objects_pb2.TaskAddress(network_id=network.id, address=address)
            if network.subnet6 and self.picture.node is not None:
                found.address6 = ipam.address6(address, network.subnet6, self.picture.node.index)
            given.append(found)
        return tuple(given)

    async def _check(self, local: Local) -> Outcome:
        """Until the task answers its health check, or is simply running without one."""
        supervisor = self._supervisor(local)
        ended = await supervisor.next()
        if ended is None:
            pending = not supervisor.started
            return Outcome(Action.CHECK, _now_ms(), progress=supervisor.progress, pending=pending)
        return await self._ended(local, ended)

    async def _watch(self, local: Local) -> Outcome:
        supervisor = self._supervisor(local)
        ended = await supervisor.next()
        if ended is None:
            return Outcome(Action.WATCH, _now_ms(), progress=supervisor.progress, pending=True)
        return await self._ended(local, ended)

    async def _ended(self, local: Local, ended: Ended) -> Outcome:
        supervisor = self._supervised.pop(local.task_id)
        return Outcome(
            Action.WATCH, ended.finished_ms or _now_ms(), failure=ended.failure, reason=ended.reason,
            exit_code=ended.exit_code, exited=ended.exit_code is not None, progress=supervisor.progress,
        )  # fmt: skip

    def _supervisor(self, local: Local) -> Supervisor:
        """The one of a task; made with its first step after the start, or after the agent's."""
        if local.task_id not in self._supervised:
            task = local.wanted
            assert task is not None
            parts = pod.parts(task.spec)
            checks = {
                part.name: probes.checks_of(
                    part.container, self._image_config(part.container).get("Healthcheck")
                )
                if part.role != pod.INIT_ROLE
                else probes.Checks()
                for part in parts
            }
            address = local.status.addresses[0].address if local.status.addresses else ""
            self._supervised[local.task_id] = Supervisor(
                self._runtime, self._prober, SupervisedTask(local.task_id, parts, checks, address), local.status,
                create=lambda part: self._create(
                    *self._as_wanted_now(task, part), tuple(local.status.addresses)
                ),
                stop=lambda container_id: self._stop_container(local, container_id),
            )  # fmt: skip
        return self._supervised[local.task_id]

    def _as_wanted_now(self, task: objects_pb2.Task, part: pod.Part) -> tuple[objects_pb2.Task, pod.Part]:
        """A container that is made again has the limits of today: they change under a running task."""
        known = self.tasks.get(task.meta.id)
        now = task if known is None or known.wanted is None else known.wanted
        return now, next((one for one in pod.parts(now.spec) if one.name == part.name), part)

    async def close(self) -> None:
        """Stop watching; the containers keep running."""
        supervisors = list(self._supervised.values())
        self._supervised.clear()
        for supervisor in supervisors:
            await supervisor.close()
        self._prober.close()

    def _image_config(self, container: types_pb2.ContainerSpec) -> Mapping[str, Any]:
        image = self._images.known(container)
        return (image.config.get("config") if image else None) or {}

    async def _stop_container(self, local: Local, container_id: str) -> Exit:
        """With the signal and the patience of its own specification."""
        name = pod.name_of(container_id)
        known = pod.parts(local.wanted.spec) if local.wanted else ()
        container = next((p.container for p in known if p.name == name), types_pb2.ContainerSpec())
        signal = container.stop_signal or self._image_config(container).get("StopSignal") or "SIGTERM"
        grace_ms = container.stop_grace_ms if container.HasField("stop_grace_ms") else STOP_GRACE_MS
        return await self._runtime.stop(container_id, signal, grace_ms)

    async def _stop(self, local: Local) -> Outcome:
        """Out of service on every node first (the managers say when), then the drain delay, then the signal."""
        exit_code: int | None = None
        progress: pod.Progress | None = None
        supervisor = self._supervised.pop(local.task_id, None)
        if local.state == types_pb2.TASK_RUNNING and self._is_served(local):
            container = local.wanted.spec.container if local.wanted else types_pb2.ContainerSpec()
            delay = container.drain_delay_ms if container.HasField("drain_delay_ms") else DRAIN_DELAY_MS
            await self._wait_exit(local.task_id, OUT_OF_SERVICE_WAIT_S, self._is_out(local.task_id))
            await self._wait_exit(local.task_id, delay / 1000)
        if supervisor is not None:
            await supervisor.close()
        if local.state >= types_pb2.TASK_STARTING:
            order = pod.parts(local.wanted.spec) if local.wanted else ()
            for container_id in pod.stop_order(local.task_id, order, self._runtime.pids()):
                ended = await self._stop_container(local, container_id)
                if container_id == local.task_id:
                    exit_code = ended.code
                if supervisor is not None:
                    supervisor.stopped(container_id, ended)
            progress = supervisor.progress if supervisor is not None else None
        return Outcome(
            Action.STOP, _now_ms(), exit_code=exit_code, exited=exit_code is not None, progress=progress
        )

    def _is_served(self, local: Local) -> bool:
        """Whether anyone may be sending to it: its service has a virtual IP, a port, or its address in DNS."""
        if local.wanted is None:
            return False
        endpoints = self.picture.endpoints.get(local.wanted.service_id)
        return endpoints is not None and bool(endpoints.ports or endpoints.vips or endpoints.mode == DNSRR)

    async def _is_out(self, task_id: str) -> None:
        await self._out.setdefault(task_id, asyncio.Event()).wait()

    async def _wait_exit(
        self, task_id: str, seconds: float, other: Coroutine[Any, Any, None] | None = None
    ) -> None:
        """Until the container has ended, so much time has passed, or the other thing has come."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._runtime.wait(task_id))]
        if other is not None:
            waits.append(asyncio.create_task(other))
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not done and other is not None:
                log.warning(
                    "not every node said that it stopped sending task=%s after_s=%g", task_id, seconds
                )
            for ended in done:
                ended.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _clean(self, task_id: str) -> None:
        if (supervisor := self._supervised.pop(task_id, None)) is not None:
            await supervisor.close()
        others = [known for known in pod.ids_of(task_id, self._runtime.pids()) if known != task_id]
        # The main one last, and also where it was never made: its user namespace may be there already.
        for container_id in (*reversed(others), task_id):
            await self._runtime.remove(container_id)
        if task_id in self._runtime.pods.ids():
            await asyncio.to_thread(self._runtime.pods.remove, task_id)
        await self._overlay.detach(task_id)
        await self._volumes.release(task_id)
        self._payloads.release(task_id)
        self._out.pop(task_id, None)
        if self._reserved.pop(task_id, None):
            async with self._picture_changed:
                self._picture_changed.notify_all()


def refuse_taken_ports(task: objects_pb2.Task) -> None:
    """Our own ports are rules, not sockets: whoever has a socket there is a stranger. Raises PortConflict."""
    for port in task.host_ports:
        if port.protocol == types_pb2.PROTOCOL_SCTP:
            continue
        tcp = port.protocol == types_pb2.PROTOCOL_TCP
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as probe:
            if tcp:
                # Connections that have ended but wait do not count, listening sockets do.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.address or "0.0.0.0", port.published))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    continue
                raise PortConflict(
                    f"port {port.published}/{'tcp' if tcp else 'udp'} is in use on this node by a process outside "
                    "the cluster: stop it or publish another port"
                ) from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
