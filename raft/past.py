"""Earlier states: a snapshot that is still kept, and the log behind it, applied again to a store of its own.

How far back that goes is what `Limits` keeps: the log in memory (10,000 entries behind the newest snapshot, at most
32 MiB) and the newest snapshots on disk. `Material` is taken on the loop, the rest is for a thread.

    LookupError
    └── Forgotten    the state asked for is not kept any more, or not here yet; the sentence says what is
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmpy.proto import store_pb2
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.core_log import COMMAND, Entry, Log
from swarmpy.raft.store import Store


class Forgotten(LookupError):
    """Too long ago, or in the future."""


@dataclass(frozen=True)
class Material:
    """Entries base_index + 1 to applied, and the snapshot files."""

    base_index: int
    entries: Sequence[Entry]
    checkpoints: Checkpoints

    @property
    def applied(self) -> int:
        return self.base_index + len(self.entries)


def material(log: Log, applied: int, checkpoints: Checkpoints) -> Material:
    """A copy of what is known; cheap, entries are values."""
    entries = [log.entry(index) for index in range(log.base_index + 1, applied + 1)]
    return Material(log.base_index, entries, checkpoints)


def state_at(known: Material, *, index: int = 0, time_ms: int = 0) -> Store:
    """The store as it was after entry `index`, or after the last transaction before or at `time_ms`."""
    if index > known.applied:
        raise Forgotten(f"index {index} is in the future of this cluster, which is at {known.applied}")
    starts = _starts(known)
    if index:
        fitting = [start for start in starts if start[0] <= index]
        if not fitting:
            raise _too_old(f"index {index}", starts)
        return _replayed(known, fitting[0], index, 0)
    for start in starts:
        store = _replayed(known, start, known.applied, time_ms)
        if start[0] == 0 or _newest_ms(store) <= time_ms:
            return store
    raise _too_old(f"time {time_ms}", starts)


def _starts(known: Material) -> list[tuple[int, Path | None]]:
    """From where a replay can begin, newest first: (index, snapshot)."""
    found: list[tuple[int, Path | None]] = []
    for path in known.checkpoints.all():
        at = int(path.name.partition(".")[0], 16)
        if known.base_index <= at <= known.applied:
            found.append((at, path))
    if known.base_index == 0:
        found.append((0, None))
    return found


def _replayed(known: Material, start: tuple[int, Path | None], last: int, until_ms: int) -> Store:
    store = Store()
    at, path = start
    if path is not None:
        store.restore(known.checkpoints.chunks(path))
    for entry in known.entries[at - known.base_index : last - known.base_index]:
        if entry.kind != COMMAND:
            continue
        if until_ms and store_pb2.Transaction.FromString(entry.data).now_ms > until_ms:
            break
        store.apply(entry.index, entry.data)
    return store


def _newest_ms(store: Store) -> int:
    """When the newest of its objects was written: a snapshot says no time of its own."""
    return max(
        (entity.meta.updated_ms for rows in store.copy_rows() for entity in rows[1].values()), default=0
    )


def _too_old(what: str, starts: list[tuple[int, Path | None]]) -> Forgotten:
    oldest = starts[-1][0] if starts else 0
    return Forgotten(
        f"{what} is no longer known here: the oldest state that is kept is that of index {oldest}"
    )
