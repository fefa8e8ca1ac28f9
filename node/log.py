"""Logging for every process of a node: one line an event, constant message + key=value.

As text, or as one JSON object a line with the pairs as fields, where SWARMPY_LOG_FORMAT is "json"
(`swarmpy daemon --log-format json`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time

FORMAT_VARIABLE = "SWARMPY_LOG_FORMAT"
# A key and where its value begins; a value goes on to the next key, because errors hold spaces.
_PAIR = re.compile(r"(?:^| )([a-z_]+)=")


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, node, process, logger, message, and the message's pairs."""

    def __init__(self, process: str, node: str) -> None:
        super().__init__()
        self._own = {"node": node, "process": process}

    def format(self, record: logging.LogRecord) -> str:
        message, pairs = split(record.getMessage())
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), **self._own,
            "logger": record.name, "message": message,
        }  # fmt: skip
        fields.update((key, value) for key, value in pairs.items() if key not in fields)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def split(line: str) -> tuple[str, dict[str, str]]:
    """The constant part of a line and its pairs: "task state=RUNNING task=x" is ("task", {…})."""
    found = list(_PAIR.finditer(line))
    if not found:
        return line, {}
    ends = [match.start() for match in found[1:]] + [len(line)]
    pairs = {match[1]: line[match.end() : end] for match, end in zip(found, ends, strict=True)}
    return line[: found[0].start()], pairs


def setup(process: str, node: str, level: str = "INFO") -> None:
    """Send this process's log to stderr, prefixed with the process and the node's name."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get(FORMAT_VARIABLE) == "json":
        handler.setFormatter(JsonFormatter(process, node))
    else:
        handler.setFormatter(
            logging.Formatter(
                f"%(asctime)s.%(msecs)03d %(levelname)s {node}/{process} %(name)s %(message)s", "%H:%M:%S"
            )
        )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("grpc._cython").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
