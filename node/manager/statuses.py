"""The dispatcher's writes: what nodes report, gathered into a transaction every 50 ms at most.

What comes after a quiet time is written nearly at once.

It owns Task.status from ACCEPTED on, Node.status, Node.description, Node.usage, Image.holders and Volume.reports.
Observed task states only grow. A conflict with another writer of the same object is not an
error: the update is built again from the stored object.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from itertools import islice

from swarmpy.node.manager.errors import Unknown
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.loop import parts_of
from swarmpy.node.plan.load import WRITE_EVERY_MS, to_store
from swarmpy.node.plan.tasks import with_history
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import CONFLICT, Draft, View
from swarmpy.raft.tables import unwrap

log = logging.getLogger(__name__)
ACTOR = "dispatcher"
GATHER_S = 0.05
GATHER_FIRST_S = 0.01
CHANGES_PER_TRANSACTION = 150
STATES = frozenset(types_pb2.TaskState.values())


class StatusWriter:
    """Queues reports of nodes and writes them in batches while this manager leads."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._tasks: dict[str, objects_pb2.TaskStatus] = {}
        self._nodes: dict[str, objects_pb2.NodeStatus] = {}
        self._descriptions: dict[str, objects_pb2.NodeDescription] = {}
        self._usages: dict[str, objects_pb2.MachineUse] = {}
        self._usage_ms: dict[str, int] = {}  # when one was written last
        self._silent_ms: dict[str, int] = {}
        self._images: dict[str, frozenset[str]] = {}
        self._held: dict[str, dispatcher_pb2.ImageHeld] = {}
        self._volumes: dict[tuple[str, str], objects_pb2.VolumeReport] = {}
        self._wake = asyncio.Event()
        self._flushed: asyncio.Future[None] | None = None
        self._refused: set[str] | None = None

    def task(self, node_id: str, report: dispatcher_pb2.TaskReport) -> None:
        """Take a report; a node speaks only for tasks that are assigned to it."""
        task = self._leader.store.task(report.task_id)
        if task is None or task.node_id != node_id:
            return
        known = self._tasks.get(report.task_id, task.status)
        if report.status.state not in STATES or report.status.state < known.state:
            return
        if task.status.state > types_pb2.TASK_RUNNING:
            return
        self._tasks[report.task_id] = report.status
        self._wake.set()

    def node(self, node_id: str, state: int, message: str, address: str = "") -> None:
        status = objects_pb2.NodeStatus(
            state=state,  # type: ignore[arg-type]
            message=message, since_ms=self._leader.now_ms(), address=address,
        )  # fmt: skip
        self._nodes[node_id] = status
        self._wake.set()

    def silent(self, node_id: str, silent_ms: int) -> None:
        """A node that is down has surely not heard a manager for so long."""
        self._silent_ms[node_id] = silent_ms
        self._wake.set()

    def description(self, node_id: str, description: objects_pb2.NodeDescription) -> None:
        self._descriptions[node_id] = description
        self._wake.set()

    def usage(self, node_id: str, measured: objects_pb2.MachineUse) -> None:
        """What a node measured of itself; few of these are worth a write."""
        node = self._leader.store.node(node_id)
        now_ms = self._leader.now_ms()
        if node is None or now_ms - self._usage_ms.get(node_id, 0) < WRITE_EVERY_MS:
            return
        wanted = to_store(node.usage, measured)
        if wanted is not None:
            self._usage_ms[node_id] = now_ms
            self._usages[node_id] = wanted
            self._wake.set()

    def volume(self, node_id: str, report: objects_pb2.VolumeReport) -> None:
        self._volumes[(report.volume_id, node_id)] = report
        self._wake.set()

    def images(
        self, node_id: str, digests: Iterable[str], held: Iterable[dispatcher_pb2.ImageHeld] = ()
    ) -> None:
        self._images[node_id] = frozenset(digests)
        self._held.update((image.digest, image) for image in held)
        self._wake.set()

    async def flushed(self) -> None:
        """Wait until everything queued before this call is stored."""
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        self._wake.set()
        await asyncio.shield(self._flushed)

    async def run(self) -> None:
        queues = (
            self._tasks, self._nodes, self._descriptions, self._images, self._held, self._volumes, self._usages,
            self._usage_ms, self._silent_ms,
        )  # fmt: skip
        for queue in queues:  # what an earlier leadership left
            queue.clear()
        written = 0.0
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(max(GATHER_FIRST_S, written + GATHER_S - time.monotonic()))
                written = time.monotonic()
                self._wake.clear()
                waiting, self._flushed = self._flushed, None
                await self._flush()
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
        finally:
            if self._flushed is not None and not self._flushed.done():
                self._flushed.cancel()
            self._flushed = None

    async def _flush(self) -> None:
        tasks, self._tasks = self._tasks, {}
        nodes, self._nodes = self._nodes, {}
        descriptions, self._descriptions = self._descriptions, {}
        usages, self._usages = self._usages, {}
        silences, self._silent_ms = self._silent_ms, {}
        images, self._images = self._images, {}
        held, self._held = self._held, {}
        volumes, self._volumes = self._volumes, {}
        while tasks:
            piece = dict(islice(tasks.items(), CHANGES_PER_TRANSACTION))
            if await self._write(task_changes(self._leader.store, piece, self._leader.now_ms())):
                for task_id in piece:
                    del tasks[task_id]
        while True:
            draft = Draft(self._leader.store)
            for node_id in {*nodes, *descriptions, *usages}:
                told = nodes.get(node_id), descriptions.get(node_id), usages.get(node_id)
                _put_node(draft, node_id, *told)
            for node_id, silent_ms in silences.items():
                _put_silence(draft, node_id, silent_ms)
            _put_holders(draft, images, held)
            for (volume_id, node_id), report in volumes.items():
                _put_volume(draft, volume_id, node_id, report)
            changes = draft.changes()
            if not changes:
                return
            part = next(parts_of(changes[:CHANGES_PER_TRANSACTION]))
            if not await self._write(part) or self._refused is None:
                continue
            if len(part) == len(changes):
                return
            refused = self._refused  # the others do not pay for it
            nodes = {node_id: status for node_id, status in nodes.items() if node_id not in refused}
            usages = {node_id: usage for node_id, usage in usages.items() if node_id not in refused}
            silences = {node_id: known for node_id, known in silences.items() if node_id not in refused}
            descriptions = {
                node_id: known for node_id, known in descriptions.items() if node_id not in refused
            }
            volumes = {key: report for key, report in volumes.items() if key[0] not in refused}
            if any(change.put.WhichOneof("kind") == "image" for change in part):
                images, held = {}, {}

    async def _write(self, changes: list[store_pb2.Change]) -> bool:
        """One transaction; False if it has to be built again. What the store refuses is in `_refused`."""
        self._refused = None
        for part in parts_of(changes):
            try:
                result = await self._leader.try_commit(part, ACTOR)
            except Unknown:
                log.warning("statuses outcome unknown, building them again")
                return False
            if result.error_code == CONFLICT:
                return False
            if result.error_code:
                log.error("statuses refused code=%s error=%s", result.error_code, result.error)
                self._refused = {unwrap(change.put).meta.id for change in part}
        return True


def task_changes(
    view: View, reported: Mapping[str, objects_pb2.TaskStatus], now_ms: int
) -> list[store_pb2.Change]:
    """What reports change; a task's observed state only grows."""
    changes: list[store_pb2.Change] = []
    for task_id, status in reported.items():
        task = view.task(task_id)
        if (
            task is None
            or not task.status.state <= status.state
            or task.status.state > types_pb2.TASK_RUNNING
        ):
            continue
        merged = with_history(task, status, now_ms)
        if merged == task.status:
            continue
        change = store_pb2.Change(expected_version=task.meta.version)
        change.put.task.CopyFrom(task)
        change.put.task.status.CopyFrom(merged)
        changes.append(change)
    return changes


def _put_node(
    draft: Draft,
    node_id: str,
    status: objects_pb2.NodeStatus | None,
    description: objects_pb2.NodeDescription | None,
    usage: objects_pb2.MachineUse | None,
) -> None:
    node = draft.node(node_id)
    if node is None:
        return
    changed = objects_pb2.Node()
    changed.CopyFrom(node)
    if status is not None and (status.state, status.message) != (node.status.state, node.status.message):
        address = status.address or node.status.address
        changed.status.CopyFrom(status)
        changed.status.address = address
        if status.state == types_pb2.NODE_DOWN == node.status.state:
            changed.status.silent_ms = node.status.silent_ms
    if description is not None:
        changed.description.CopyFrom(description)
    if usage is not None:
        changed.usage.CopyFrom(usage)
    if changed != node:
        draft.put(changed)


def _put_silence(draft: Draft, node_id: str, silent_ms: int) -> None:
    """Of a node that is down, also after what else is being written; it only grows until the node is back."""
    node = draft.node(node_id)
    if node is None or node.status.state != types_pb2.NODE_DOWN or node.status.silent_ms >= silent_ms:
        return
    changed = objects_pb2.Node()
    changed.CopyFrom(node)
    changed.status.silent_ms = silent_ms
    draft.put(changed)


def _put_volume(draft: Draft, volume_id: str, node_id: str, report: objects_pb2.VolumeReport) -> None:
    """A node speaks only for volumes of which it may have something."""
    volume = draft.volume(volume_id)
    if volume is None or node_id not in volume.holders:
        return
    changed = objects_pb2.Volume()
    changed.CopyFrom(volume)
    known = next((known for known in changed.reports if known.node_id == node_id), None)
    kept = known if known is not None else changed.reports.add()
    held = kept.held or report.state in (objects_pb2.VOLUME_HELD, objects_pb2.VOLUME_COPIED)
    kept.CopyFrom(report)
    kept.held = held
    kept.node_id, kept.volume_id = node_id, ""
    draft.put(changed)


def _put_holders(
    draft: Draft, images: dict[str, frozenset[str]], held: dict[str, dispatcher_pb2.ImageHeld]
) -> None:
    if not images:
        return
    for image in list(draft.images()):
        # A node that was removed says no more: drop it here.
        holders = {node_id for node_id in image.holders if draft.node(node_id) is not None}
        for node_id, digests in images.items():
            (holders.add if image.digest in digests else holders.discard)(node_id)
        told = held.get(image.digest)
        fresh = told is not None and told.chunks and not image.chunks
        if holders != set(image.holders) or fresh:
            changed = objects_pb2.Image()
            changed.CopyFrom(image)
            del changed.holders[:]
            changed.holders.extend(sorted(holders))
            if told is not None and fresh:
                # Who lies here only slows others down: what they fetch is checked against its digest.
                changed.chunks = told.chunks
                changed.size_bytes = changed.size_bytes or told.size_bytes
                if not changed.platform.os:
                    changed.platform.CopyFrom(told.platform)
            draft.put(changed)
