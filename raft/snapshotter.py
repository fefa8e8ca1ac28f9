"""When a member makes a snapshot of its own, and what the log keeps behind it.

Making one draws the state's chunks in a thread; the loop goes on. `reseal` is the part of a
change of data keys that touches files: a new segment, a snapshot of everything before it,
then nothing that needs an older key. Each step may be repeated after a kill.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from swarmpy.proto import raft_pb2
from swarmpy.raft.checkpoint import Checkpoints, Limits
from swarmpy.raft.core import Core
from swarmpy.raft.disk import Disk
from swarmpy.raft.log import LogClosed, StateMachine
from swarmpy.raft.segment import NO_SPACE

log = logging.getLogger(__name__)

RETRY_S = 10.0
RESEAL_TIMEOUT_S = 30.0

At = Callable[[str], None]


class Owner(Protocol):
    """What of the engine is needed here."""

    core: Core
    applied: int

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool: ...


class Snapshotter:
    def __init__(
        self, owner: Owner, disk: Disk, checkpoints: Checkpoints, machine: StateMachine, limits: Limits,
        index: int,
    ) -> None:  # fmt: skip
        self._owner, self._disk, self._checkpoints = owner, disk, checkpoints
        self._machine, self._limits = machine, limits
        self._index = index
        self.bytes_since = 0
        self._begun = False
        self._one = asyncio.Lock()

    @property
    def due(self) -> bool:
        """Asked often; True makes it the caller's duty to `take`."""
        due = (
            self._owner.applied - self._index >= self._limits.snapshot_entries
            or self.bytes_since >= self._limits.snapshot_bytes
        )
        if due and not self._begun:
            self._begun = True
            self.bytes_since = 0
            return True
        return False

    def taken(self, index: int) -> None:
        """There is one up to `index`."""
        self._index = max(self._index, index)
        self.bytes_since = 0

    async def take(self) -> None:
        try:
            await self._take()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            log.error("raft snapshot cannot be written, no space index=%s", self._owner.applied)
            await asyncio.sleep(RETRY_S)
        finally:
            self._begun = False

    async def _take(self) -> int:
        async with self._one:
            core, index = self._owner.core, self._owner.applied
            configuration = core.log.configuration_at(index)
            meta = raft_pb2.SnapshotMeta(
                index=index, term=core.log.term_at(index) or 0, configuration=configuration.to_message(),
                configuration_index=configuration.index,
            )  # fmt: skip
            chunks = self._machine.snapshot()
            path = await asyncio.to_thread(self._checkpoints.write, meta, chunks)
            log.info("raft snapshot written index=%s bytes=%s", index, path.stat().st_size)
            self._index = max(self._index, index)
            keep = core.log.trail(index, self._limits.trailing_entries, self._limits.trailing_bytes)
            core.compact(keep)
            await self._disk.run(partial(self._disk.journal.compact, keep))
            return index

    async def reseal(self, at: At = lambda step: None) -> set[int]:
        """Leave no file sealed with another than the current data key; the keys still needed."""
        core = self._owner.core
        await self._disk.run(self._disk.journal.rotate)
        at("new segment")
        mark = core.log.last_index
        if mark:
            if not await self._owner.until(
                lambda: self._owner.applied >= min(mark, core.log.last_index), RESEAL_TIMEOUT_S
            ):
                raise LogClosed("the data keys are not changed yet: entries of before are not committed")
            index = await self._take()
            at("snapshot")
            await self._disk.run(partial(self._disk.journal.compact, index))
            at("old segments")
        await asyncio.to_thread(self._checkpoints.retire, self._checkpoints.current_key)
        at("old snapshots")
        return self._disk.journal.key_ids | await asyncio.to_thread(self._checkpoints.key_ids)
