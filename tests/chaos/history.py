"""One recorded operation and the record of a run.

`OK` and `FAIL` are certain: it happened, it did not and never will. `UNKNOWN` says that the
client never heard: it may have happened at any time since, or may yet.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
READ, CAS, APPEND, CREATE, DELETE = "read", "cas", "append", "create", "delete"
RESUME, SYNC, PROGRESS = "RESUME", "SYNC", "PROGRESS"  # marks in a watch, beside CREATE, UPDATE and DELETE


@dataclass(slots=True)
class Op:
    """`value` is what was written or read; `expected` what a compare-and-set was made from."""

    process: int
    key: str
    kind: str
    invoke_ns: int
    return_ns: int
    outcome: str = OK
    value: Any = None
    expected: Any = None
    index: int = 0  # of the log, as answered
    note: str = ""

    @property
    def certain_write(self) -> bool:
        return self.outcome == OK and self.kind != READ


@dataclass(slots=True)
class Seen:
    """One event of a watch; `stream` numbers the connections of one watcher."""

    stream: int
    action: str
    identity: str
    version: int
    index: int
    value: str = ""


@dataclass
class History:
    """Everything clients saw in one run."""

    ops: list[Op] = field(default_factory=list)
    watches: dict[int, list[Seen]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        with path.open("w") as file:
            for op in self.ops:
                file.write(json.dumps({"op": asdict(op)}) + "\n")
            for watcher, events in self.watches.items():
                for event in events:
                    file.write(json.dumps({"watch": watcher, **asdict(event)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        """What `save` wrote."""
        history = cls()
        with path.open() as file:
            for line in file:
                entry = json.loads(line)
                if "op" in entry:
                    history.ops.append(Op(**entry["op"]))
                else:
                    history.watches.setdefault(entry.pop("watch"), []).append(Seen(**entry))
        return history
