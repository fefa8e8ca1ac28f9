"""Logging for every process of a node: one line an event, constant message + key=value."""

from __future__ import annotations

import logging
import sys


def setup(process: str, node: str, level: str = "INFO") -> None:
    """Send this process's log to stderr, prefixed with the process and the node's name."""
    handler = logging.StreamHandler(sys.stderr)
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
