"""Beginning again: a cluster forced on without its majority, one planted from a backup.

A majority that is gone for good cannot vote its successor in. Forcing a new cluster is an act
outside the protocol, done to one member's log while nothing runs: behind its last entry comes
a configuration of that member alone, in a higher term and with a higher *generation*. What
makes it safe is the generation: members tell it in their hello, and logs of different
generations never meet. A member with a log of an older generation that hears of a newer one
is superseded: it stops at once, and at its next start its log is set aside (kept, in a
directory of its own) and it begins empty, remembering the generation, so that it can neither
vote for nor lead what is left of the old members, and tells them too.

A cluster planted from a backup is a snapshot and a configuration of one member; it also
counts one generation up from the backup's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmpy.proto import raft_pb2
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.core import Core
from swarmpy.raft.core_log import CONFIGURATION, REMOVED_KEPT, Configuration, Entry, Log, Member
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import LogDamaged
from swarmpy.raft.segment import sync_directory

log = logging.getLogger(__name__)

FLOOR_FILE = "generation"
MARK_FILE = "superseded"
SET_ASIDE = ("*.wal", "*.snapshot")


@dataclass(frozen=True)
class Seed:
    """A state to begin with: that after entry `index` of `term`, in a new `generation`."""

    index: int
    term: int
    generation: int
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Position:
    """Where a member's durable log stands. Greater (generation, last_term, last_index) is newer."""

    term: int
    last_index: int
    last_term: int
    commit_index: int
    applied_index: int
    generation: int
    leader_id: str
    voters: tuple[str, ...]


def position(core: Core, applied: int) -> Position:
    configuration = core.configuration
    return Position(
        term=core.term, last_index=core.stable, last_term=core.log.term_at(core.stable) or 0,
        commit_index=core.commit, applied_index=applied, generation=configuration.generation,
        leader_id=core.leader_id or "", voters=tuple(sorted(configuration.voters)),
    )  # fmt: skip


def force_new_cluster(journal: Journal, replicated: Log, term: int, me: Member) -> None:
    """Make `me` the only member, behind everything this log holds.

    `term` is the highest it knows. Blocks. Doing it again changes nothing.
    """
    old = replicated.configuration
    if old.voters == {me.node_id}:
        return
    if me.node_id not in old.ids:
        raise LogDamaged(
            f"{me.node_id} is not in the newest configuration of its own log: recover on another manager, "
            "or restore a backup"
        )
    removed = (*old.removed, *sorted(old.ids - {me.node_id}))[-REMOVED_KEPT:]
    alone = Configuration(replicated.last_index + 1, (me,), removed, old.generation + 1)
    entry = Entry(alone.index, term + 1, CONFIGURATION, alone.to_message().SerializeToString())
    journal.write((term + 1, me.node_id), [entry])
    replicated.append(entry)
    log.warning(
        "raft forced a new cluster node=%s index=%s term=%s generation=%s removed=%s",
        me.node_id, entry.index, entry.term, alone.generation, ",".join(sorted(old.ids - {me.node_id})),
    )  # fmt: skip


def plant(checkpoints: Checkpoints, seed: Seed, me: Member) -> Path:
    """Write the seed as this member's first snapshot. Blocks."""
    alone = Configuration(seed.index, (me,), (), seed.generation)
    meta = raft_pb2.SnapshotMeta(
        index=seed.index, term=seed.term, configuration=alone.to_message(), configuration_index=seed.index
    )
    path = checkpoints.write(meta, seed.chunks())
    log.warning("raft planted index=%s term=%s generation=%s", seed.index, seed.term, seed.generation)
    return path


def supersede(directory: Path, generation: int) -> None:
    """Note that the log in `directory` counts no more. Blocks shortly."""
    _write(directory / MARK_FILE, str(generation))


def begin(directory: Path) -> int:
    """Set a superseded log aside; the generation this member knows of without any log. Blocks."""
    mark = directory / MARK_FILE
    if mark.exists():
        generation = _read(mark)
        # The generation first: with the log gone it must not be forgotten.
        _write(directory / FLOOR_FILE, str(generation))
        aside = directory / f"superseded-{generation}"
        aside.mkdir(mode=0o700, exist_ok=True)
        for pattern in SET_ASIDE:
            for path in sorted(directory.glob(pattern)):
                path.rename(aside / path.name)
        sync_directory(aside)
        sync_directory(directory)
        mark.unlink()
        sync_directory(directory)
        log.warning("raft set a superseded log aside directory=%s", aside)
    floor = directory / FLOOR_FILE
    return _read(floor) if floor.exists() else 0


def _read(path: Path) -> int:
    try:
        return int(path.read_text())
    except ValueError as error:
        raise LogDamaged(f"{path} holds no number: empty the raft directory and join again") from error


def _write(path: Path, text: str) -> None:
    directory = path.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(directory)
