"""Volumes in the simulated cluster: played agents that make, receive and drop them, and tasks that write.

What is on the disks is a number per node and volume; every write of a running task adds one. The truth is the
number of writes: a task that finds less on its node has met an empty or an old volume.
"""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.node.plan import volumes
from swarmpy.node.plan.base import copy_of, is_terminal
from swarmpy.proto import dispatcher_pb2, objects_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.sim.plan_world import RUNNING, World

SPEED_MS = (5, 50, 400, 3000)


class VolumeWorld(World):
    def __init__(self, seed: int, nodes: int = 4) -> None:
        self.disks: dict[tuple[str, str], int] = {}  # (node, volume) -> writes in it
        self.copies: dict[tuple[str, str, int], int] = {}  # half made, by move
        self.truth: dict[str, int] = {}
        self.busy: set[tuple[str, str]] = set()
        self.copy_failures = 0.0
        self.moved = self.failed = 0
        super().__init__(seed, nodes)

    # the agents' part

    def _on_commit(self, commit: Commit) -> None:
        super()._on_commit(commit)
        for event in commit.events:
            if isinstance(event.new, objects_pb2.Volume):
                self._check_volume(event.old, event.new)
                for node_id in event.new.holders:
                    self._wake_volume(node_id, event.new.meta.id)
            if isinstance(event.new, objects_pb2.Task) and event.new.volumes:
                self._follow_task(event.old, event.new)

    def revive(self, node_id: str) -> None:
        super().revive(node_id)
        for volume in self.store.volumes():
            self._wake_volume(node_id, volume.meta.id)

    def _wake_volume(self, node_id: str, volume_id: str) -> None:
        if (node_id, volume_id) in self.busy:
            return
        self.busy.add((node_id, volume_id))
        self.after(self.random.choice(SPEED_MS), lambda: self._volume_step(node_id, volume_id))

    def _volume_step(self, node_id: str, volume_id: str) -> None:
        self.busy.discard((node_id, volume_id))
        volume = self.store.volume(volume_id)
        if volume is None or node_id not in volume.holders or not self.agents[node_id].alive:
            return
        match volumes.part_of(volume, node_id):
            case dispatcher_pb2.VOLUME_DROP:
                if self._used_on(node_id, volume_id):
                    self._wake_volume(node_id, volume_id)
                    return
                self.disks.pop((node_id, volume_id), None)
                self._tell(volume, node_id, objects_pb2.VOLUME_ABSENT)
            case dispatcher_pb2.VOLUME_RECEIVE:
                self._receive(volume, node_id)
            case _:
                held = (node_id, volume_id) in self.disks
                state = objects_pb2.VOLUME_HELD if held else objects_pb2.VOLUME_ABSENT
                self._tell(volume, node_id, state)

    def _receive(self, volume: objects_pb2.Volume, node_id: str) -> None:
        move, volume_id = volume.move, volume.meta.id
        report = volumes.report_of(volume, node_id)
        said = report.state if report is not None and report.move == move.number else 0
        if said in (objects_pb2.VOLUME_COPIED, objects_pb2.VOLUME_FAILED):
            return
        if self.random.random() < self.copy_failures:
            self._tell(volume, node_id, objects_pb2.VOLUME_FAILED)
        elif not self.agents[move.from_id].alive:
            self._wake_volume(node_id, volume_id)
        elif move.state == objects_pb2.VOLUME_MOVE_FINAL:
            assert not self._used_on(move.from_id, volume_id), "the last copy is of a volume in use"
            self.disks[(node_id, volume_id)] = self.disks.get((move.from_id, volume_id), 0)
            self._tell(volume, node_id, objects_pb2.VOLUME_COPIED)
        elif said != objects_pb2.VOLUME_SYNCED:
            self._tell(volume, node_id, objects_pb2.VOLUME_SYNCED)

    def _tell(self, volume: objects_pb2.Volume, node_id: str, state: objects_pb2.VolumeReportState) -> None:
        """As StatusWriter keeps it."""
        new = copy_of(volume)
        report = volumes.report_of(new, node_id) or new.reports.add(node_id=node_id)
        report.state, report.move = state, volume.move.number
        report.held |= state in (objects_pb2.VOLUME_HELD, objects_pb2.VOLUME_COPIED)
        if new != volume:
            self.put(new)

    # the tasks

    def _used_on(self, node_id: str, volume_id: str) -> bool:
        return any(
            t.status.state >= types_pb2.TASK_PREPARING and volumes.uses(t, volume_id)
            for t in self.store.tasks_of_node(node_id)
        )

    def _follow_task(self, old: object, new: objects_pb2.Task) -> None:
        if isinstance(old, objects_pb2.Task) and old.status.state == new.status.state:
            return
        for use in new.volumes:
            volume = self.store.volume(use.volume_id)
            if new.status.state == types_pb2.TASK_ASSIGNED:
                assert volume is not None, f"{new.meta.name} has a volume that is gone"
                assert not volume.pending_delete, f"{new.meta.name} has a volume that is being removed"
                assert volume.node_id in ("", new.node_id), f"{new.meta.name} is not where its volume is"
                assert volume.move.state not in volumes.MOVES_THAT_STOP, f"{new.meta.name} started in a move"
            elif new.status.state == types_pb2.TASK_PREPARING:
                place = (new.node_id, use.volume_id)
                if place not in self.disks:
                    assert volume is not None
                    assert not volumes.exists_on(volume, new.node_id), "what was there is gone"
                    self.disks[place] = 0
                    self._wake_volume(*place)
            elif new.status.state == RUNNING:
                self._write(new.meta.id, use.volume_id)

    def _write(self, task_id: str, volume_id: str) -> None:
        """A running task reads and writes, as long as its node lives."""
        task = self.store.task(task_id)
        if task is None or is_terminal(task.status.state) or task.status.state != RUNNING:
            return
        if self.agents[task.node_id].alive:
            volume = self.store.volume(volume_id)
            assert volume is not None, f"{task.meta.name} runs on a volume that was removed"
            place = (task.node_id, volume_id)
            key = f"{volume_id}@{task.node_id}" if volume.spec.per_node else volume_id
            assert self.disks.get(place, 0) == self.truth.get(key, 0), (
                f"{task.meta.name} finds {self.disks.get(place, 0)} writes of {self.truth.get(key, 0)}"
            )
            self.disks[place] = self.truth[key] = self.disks.get(place, 0) + 1
        self.after(self.random.randint(200, 4000), lambda: self._write(task_id, volume_id))

    def _check_volume(self, old: object, new: objects_pb2.Volume) -> None:
        if not isinstance(old, objects_pb2.Volume) or not old.node_id or old.node_id == new.node_id:
            return
        self.moved += 1
        assert new.move.state == objects_pb2.VOLUME_MOVE_DONE, "a home changes by a move only"
        has = self.disks.get((new.node_id, new.meta.id), 0)
        assert has == self.truth.get(new.meta.id, 0), (
            f"the new home has {has} of {self.truth[new.meta.id]} writes"
        )
        assert not volumes.users_of(self.store, new.meta.id), "a volume moved under its tasks"

    # users

    def change_volume(self, volume_id: str, change: Callable[[objects_pb2.Volume], None]) -> None:
        stored = self.store.volume(volume_id)
        assert stored is not None
        volume = copy_of(stored)
        change(volume)
        self.put(volume)

    def move(self, volume_id: str, node_id: str) -> None:
        def wish(volume: objects_pb2.Volume) -> None:
            volume.spec.node_id, volume.spec.moves = node_id, volume.spec.moves + 1

        self.change_volume(volume_id, wish)

    def named(self, name: str) -> objects_pb2.Volume:
        found = [volume for volume in self.store.volumes() if volume.meta.name == name]
        assert found, f"no volume {name}"
        return found[0]

    def settle(self, limit_ms: int = 3_000_000) -> None:
        self.copy_failures = 0.0
        super().settle(limit_ms)
        for volume in self.store.volumes():
            assert volume.move.state not in volumes.MOVES_UNDER_WAY, f"{volume.meta.name} is still moving"
            assert not volume.pending_delete, f"{volume.meta.name} is still being removed"
            homes = [volume.node_id] if volume.node_id else list(volume.holders)
            assert sorted(volume.holders) == sorted(homes), f"{volume.meta.name}: {volume.holders} hold it"
        known = {(node, v.meta.id) for v in self.store.volumes() for node in v.holders}
        assert self.disks.keys() <= known, f"left on disks: {self.disks.keys() - known}"
