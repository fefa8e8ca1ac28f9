"""One inotify descriptor for many watched directories, on the event loop.

The kernel gives one watch per directory however often it is asked for; subscribers share it by count.
A callback gets the name of the changed entry, or None when the directory went away or events were lost:
look again in that case.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path

from swarmpy.node.runtime import system

IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x2, 0x8, 0x80, 0x100
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x0100_0000
CHANGES = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_ONLYDIR
HEADER = struct.Struct("iIII")

Callback = Callable[[str | None], None]


class Inotify:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = system.inotify_init()
        self._subscribers: dict[int, dict[int, Callback]] = {}  # watch -> token -> callback
        self._tokens = 0
        self._loop.add_reader(self._fd, self._read)

    def subscribe(self, directory: Path, callback: Callback) -> tuple[int, int]:
        """OSError where the directory does not exist or the user's limit of watches is reached."""
        watch = system.inotify_add_watch(self._fd, directory, CHANGES)
        self._tokens += 1
        self._subscribers.setdefault(watch, {})[self._tokens] = callback
        return watch, self._tokens

    def unsubscribe(self, subscription: tuple[int, int]) -> None:
        watch, token = subscription
        callbacks = self._subscribers.get(watch, {})
        if callbacks.pop(token, None) is not None and not callbacks:
            del self._subscribers[watch]
            if self._fd >= 0:
                system.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        for callbacks in list(self._subscribers.values()):
            for callback in list(callbacks.values()):
                callback(None)
        self._subscribers.clear()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            watch, mask, _, length = HEADER.unpack_from(data, position)
            name = data[position + HEADER.size : position + HEADER.size + length].rstrip(b"\0")
            position += HEADER.size + length
            if mask & IN_Q_OVERFLOW:
                for callbacks in list(self._subscribers.values()):
                    self._tell(callbacks, None)
            elif mask & IN_IGNORED:
                self._tell(self._subscribers.pop(watch, {}), None)
            else:
                self._tell(self._subscribers.get(watch, {}), os.fsdecode(name))

    @staticmethod
    def _tell(callbacks: dict[int, Callback], name: str | None) -> None:
        for callback in list(callbacks.values()):
            callback(name)
