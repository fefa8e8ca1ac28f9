"""What the agent must find again after it was killed: its assignments and its tasks' records.

Assignments are one file, a COMPLETE message and the deltas since, each task's record one file; but for the deltas,
which are appended, all are written by tmp + rename. Losing one write costs at most a repeated step, never a doubled
container, because the runtime's steps are idempotent per task id.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import DecodeError
from swarmpy.node.config import append_private
from swarmpy.node.items import Items, apply, messages, moves
from swarmpy.proto import dispatcher_pb2, objects_pb2

log = logging.getLogger(__name__)
ASSIGNMENTS = "assignments.pb"
APPENDED_MIN_BYTES = 1 << 20
LENGTH_BYTES = 4


class Keep:
    """Files under the agent's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tasks = directory / "tasks"
        self._items: Items | None = None  # what the file holds; None: write it whole
        self._holds = b""
        self._whole = self._appended = 0  # octets
        self._tasks.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def save_items(self, items: Items, holds: bytes) -> None:
        """Add what changed to the file; write it anew when it has grown to twice of what it began with.

        `holds` is the digest of `items`.
        """
        path, before = self._directory / ASSIGNMENTS, self._items
        self._items = None  # unknown until it is written
        if before is None or self._appended > max(self._whole, APPENDED_MIN_BYTES):
            data = framed(messages(list(moves({}, items)), 0, complete=True))
            _replace(path, data)
            self._whole, self._appended = len(data), 0
        else:
            total = int.from_bytes(self._holds, "big")
            data = framed(messages(list(moves(before, items)), total, complete=False))
            if data:
                append_private(path, data)
            self._appended += len(data)
        self._items, self._holds = items, holds

    def load_items(self) -> Items:
        """The kept set; empty where there is none or it is damaged. An end that was not written is not missed."""
        path = self._directory / ASSIGNMENTS
        items: Items = {}
        whole: Items = {}
        holds = b""
        try:
            data = path.read_bytes()
            while len(data) >= LENGTH_BYTES:
                length = int.from_bytes(data[:LENGTH_BYTES], "big")
                if len(data) < LENGTH_BYTES + length:
                    log.warning("kept assignments end in the middle path=%s", path)
                    break
                message = dispatcher_pb2.Assignments.FromString(data[LENGTH_BYTES : LENGTH_BYTES + length])
                data = data[LENGTH_BYTES + length :]
                applied = apply(items, message, holds)
                if applied is None:
                    raise DecodeError("the digest does not fit")
                items, holds = applied, message.results_in
                if not message.more:
                    whole = items
        except FileNotFoundError:
            return {}
        except (OSError, DecodeError) as error:
            log.warning("kept assignments unreadable, waiting for a manager path=%s error=%s", path, error)
            return {}
        return whole

    def save_task(self, task_id: str, status: objects_pb2.TaskStatus) -> None:
        report = dispatcher_pb2.TaskReport(task_id=task_id, status=status)
        _replace(self._tasks / task_id, report.SerializeToString())

    def drop_task(self, task_id: str) -> None:
        (self._tasks / task_id).unlink(missing_ok=True)

    def load_tasks(self) -> dict[str, objects_pb2.TaskStatus]:
        found: dict[str, objects_pb2.TaskStatus] = {}
        for path in self._tasks.iterdir():
            if path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
                continue
            try:
                report = dispatcher_pb2.TaskReport.FromString(path.read_bytes())
            except (OSError, DecodeError) as error:
                log.warning("kept task unreadable task=%s error=%s", path.name, error)
                continue
            if report.task_id == path.name:
                found[path.name] = report.status
        return found


def framed(parts: Iterable[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(LENGTH_BYTES, "big") + part for part in parts)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.rename(path)
