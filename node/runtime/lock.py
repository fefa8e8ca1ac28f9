"""One agent per run directory: a lock that is waited for a little, and held while the runtime is open.

The lock is waited for: a killed agent's children hold it until they become the program they were made for.
Whoever has it knows that everything in flight can be told by its command line.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

from swarmpy.node.runtime.errors import RuntimeFailure

LOCK_TIMEOUT_S = 3.0


class RunLock:
    """The lock file of a run directory."""

    def __init__(self) -> None:
        self._fd = -1

    async def take(self, path: Path) -> None:
        """Raises RuntimeFailure where another agent keeps it."""
        fd = self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    self.release()
                    text = f"{path}: another agent uses this run directory; stop it first"
                    raise RuntimeFailure(text) from error
                await asyncio.sleep(0.01)
            else:
                return

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
