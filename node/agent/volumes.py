"""The node's part in volumes: what the managers assign, and what tasks get.

Every assignment says what to do with one volume: keep it (made at its first use), receive it from its present
home, or drop it. A directory that no assignment names is left alone: only a manager's word deletes data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path

import grpc
from swarmpy.node.agent.machine import Local
from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.volume_copy import Receiver
from swarmpy.node.volume.errors import VolumeBusy, VolumeError, VolumeFailure
from swarmpy.node.volume.local import LocalVolumes, Wanted
from swarmpy.proto import dispatcher_pb2, objects_pb2

log = logging.getLogger(__name__)
DROP_RETRY_S = 2.0
KEEP, RECEIVE, DROP = (
    dispatcher_pb2.VOLUME_KEEP, dispatcher_pb2.VOLUME_RECEIVE, dispatcher_pb2.VOLUME_DROP,
)  # fmt: skip


class AgentVolumes:
    """`on_change` is called when there is something new to tell the managers."""

    def __init__(
        self,
        local: LocalVolumes,
        dial: Callable[[str, str], grpc.aio.Channel],
        on_change: Callable[[], None],
    ) -> None:
        self.local = local
        self._dial = dial
        self._receivers: dict[str, Receiver] = {}
        self._on_change = on_change
        self._assigned: Mapping[str, dispatcher_pb2.VolumeAssignment] = {}
        self._given: dict[str, dict[str, Path]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._told: list[objects_pb2.VolumeReport] = []
        self._unassigned: set[str] = set()

    async def open(self) -> None:
        await self.local.open()

    async def adopt(self, tasks: Iterable[Local]) -> None:
        """Tasks met at the start that may still have containers hold their volumes.

        What a container uses whose task the managers no longer know is not known either: until the last of
        these is gone nothing is unmounted, or a loop file could be mounted a second time under a writer.
        """
        users: dict[str, set[str]] = {}
        for local in tasks:
            if local.container and local.wanted is None:
                self._unassigned.add(local.task_id)
            for use in local.wanted.volumes if local.wanted is not None and local.container else ():
                users.setdefault(use.volume_id, set()).add(local.task_id)
        self.local.adopt(users)
        if not self._unassigned:
            await self.local.release_unused()

    async def close(self) -> None:
        self._closing = True
        await asyncio.gather(*(receiver.close() for receiver in self._receivers.values()))
        working = list(self._working.values())
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    # --- what the managers want --------------------------------------------------------------------

    def apply(self, picture: Picture) -> None:
        """Take the assignments of this node."""
        self._assigned = picture.volumes
        self.apply_again()

    def apply_again(self) -> None:
        """Begin what the assignments ask for and nobody does yet."""
        for volume_id, receiver in list(self._receivers.items()):
            wanted = self._assigned.get(volume_id)
            if wanted is None or wanted.part != RECEIVE or wanted.move != receiver.move:
                self._start(volume_id, self._end(self._receivers.pop(volume_id), volume_id))
        for volume in self._assigned.values():
            if volume.part == RECEIVE:
                self._receive(volume)
            elif volume.part == DROP and volume.id not in self._working and self.local.has_any(volume.id):
                self._start(volume.id, self._drop(volume.id))
        if (news := self.reports()) != self._told:
            self._told = news
            self._on_change()

    def _receive(self, volume: dispatcher_pb2.VolumeAssignment) -> None:
        if (receiver := self._receivers.get(volume.id)) is not None:
            receiver.update(volume)
        elif volume.id not in self._working:
            self._receivers[volume.id] = Receiver(self.local, volume, self._dial, self._on_change)

    def _start(self, volume_id: str, work: Coroutine[None, None, None]) -> None:
        task = self._working[volume_id] = asyncio.create_task(work, name=f"volume {volume_id}")
        task.add_done_callback(partial(self._worked, volume_id))

    def _worked(self, volume_id: str, _: asyncio.Task[None]) -> None:
        """What the assignment asks for now may have waited for this to end."""
        self._working.pop(volume_id, None)
        if not self._closing:
            self.apply_again()

    async def _end(self, receiver: Receiver, volume_id: str) -> None:
        await receiver.close()
        wanted = self._assigned.get(volume_id)
        if wanted is not None and wanted.part == DROP:
            await self._drop(volume_id)

    async def _drop(self, volume_id: str) -> None:
        """Until it is gone, or wanted again."""
        while (wanted := self._assigned.get(volume_id)) is not None and wanted.part == DROP:
            try:
                await self.local.drop(volume_id)
            except VolumeBusy as error:
                log.info("volume not dropped yet volume=%s reason=%s", volume_id, error)
            except VolumeError as error:
                log.error("volume not dropped volume=%s error=%s", volume_id, error)
            else:
                self._on_change()
                return
            await asyncio.sleep(DROP_RETRY_S)

    def reports(self) -> list[objects_pb2.VolumeReport]:
        """How every assigned volume is here."""
        return [self._report(volume) for volume in self._assigned.values()]

    def _report(self, volume: dispatcher_pb2.VolumeAssignment) -> objects_pb2.VolumeReport:
        receiver = self._receivers.get(volume.id)
        if volume.part == RECEIVE and receiver is not None:
            return receiver.report()
        has = self.local.has_any if volume.part == DROP else self.local.holds
        state = objects_pb2.VOLUME_HELD if has(volume.id) else objects_pb2.VOLUME_ABSENT
        return objects_pb2.VolumeReport(volume_id=volume.id, state=state, move=volume.move)

    def assigned(self, volume_id: str) -> dispatcher_pb2.VolumeAssignment | None:
        return self._assigned.get(volume_id)

    def changed(self) -> None:
        """Something may have been made here."""
        self._on_change()

    # --- what tasks get ------------------------------------------------------------------------------

    async def give(self, task: objects_pb2.Task) -> None:
        """Make or mount a task's volumes; raises VolumeError."""
        given: dict[str, Path] = {}
        for use in task.volumes:
            wanted = self._assigned.get(use.volume_id)
            if wanted is None or wanted.part != KEEP:
                raise VolumeFailure(f"the volume of mount {use.source} is not on this node (any more)")
            held = self.local.holds(wanted.id)
            path = await self.local.use(wanted_of(wanted), task.meta.id)
            given[wanted.name] = given[use.source] = path
            if not held:
                self._on_change()
        self._given[task.meta.id] = given

    def given(self, task_id: str) -> Mapping[str, Path]:
        """Contents by name and by source as in the specification, of a task that `give` was called for."""
        return self._given.get(task_id, {})

    async def release(self, task_id: str) -> None:
        """The task's containers are gone."""
        self._given.pop(task_id, None)
        await self.local.release(task_id)
        if task_id in self._unassigned:
            self._unassigned.discard(task_id)
            if not self._unassigned:
                await self.local.release_unused()


def wanted_of(volume: dispatcher_pb2.VolumeAssignment) -> Wanted:
    return Wanted(volume.id, volume.name, dict(volume.options), dict(volume.labels), volume.exists)
