"""What the agent must find again after it was killed: its assignments and its tasks' records.

Assignments are one file (a COMPLETE message), each task's record one file; all are written
by tmp + rename. Losing one write costs at most a repeated step, never a doubled container,
because the runtime's steps are idempotent per task id.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from google.protobuf.message import DecodeError
from swarmpy.node.items import Items, apply, deltas
from swarmpy.proto import dispatcher_pb2, objects_pb2

log = logging.getLogger(__name__)


class Keep:
    """Files under the agent's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tasks = directory / "tasks"
        self._tasks.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def save_items(self, items: Items) -> None:
        data = b"".join(
            len(message).to_bytes(4, "big") + message
            for message in (m.SerializeToString() for m in deltas({}, items, complete=True))
        )
        _replace(self._directory / "assignments.pb", data)

    def load_items(self) -> Items:
        """The kept set; empty where there is none or it is damaged."""
        path = self._directory / "assignments.pb"
        items: Items = {}
        more = False
        try:
            data = path.read_bytes()
            while data:
                length = int.from_bytes(data[:4], "big")
                message = dispatcher_pb2.Assignments.FromString(data[4 : 4 + length])
                data = data[4 + length :]
                applied = apply(items, message)
                if applied is None:
                    raise DecodeError("the digest does not fit")
                items, more = applied, message.more
            if more:
                raise DecodeError("the end is missing")
        except FileNotFoundError:
            return {}
        except (OSError, DecodeError) as error:
            log.warning("kept assignments unreadable, waiting for a manager path=%s error=%s", path, error)
            return {}
        return items

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


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.rename(path)
