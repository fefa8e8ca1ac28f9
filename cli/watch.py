"""Changes as they happen, across managers that come and go.

A thread reads the stream and hands events over by a bounded queue, so that the caller can also wake
up for a deadline. After a break the stream is opened again at the next manager and begins with a
full list: the caller then gets RESTART and forgets what it knew.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final

import grpc
from swarmpy.cli.client import KINDS, PAUSE_MAX_S, PAUSE_S, RETRY_CODES, Client, meaning
from swarmpy.cli.errors import CliError, NoManager
from swarmpy.proto import control_pb2

RESTART: Final = "restart"
QUEUE_MAX = 1000
# A watcher that was too slow is told so by one of the last three: it lists again.
RESTART_CODES = RETRY_CODES | {
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


class Watcher:
    """Use as a context manager; `get` gives an Event, RESTART, or None when nothing came in time.

    With `resume_index` the stream continues after that index instead of listing anew, as long as
    the managers still know so far back; 0 means from now on.
    """

    def __init__(self, client: Client, kinds: Iterable[str], *, resume_index: int | None = None) -> None:
        self._client = client.fork()
        self._kinds = [KINDS[kind] for kind in kinds]
        self._index = resume_index
        self._queue: queue.Queue[Any] = queue.Queue(QUEUE_MAX)
        self._stop = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._call is not None:
            self._call.cancel()
        self._thread.join(5)
        self._client.close()

    def get(self, timeout_s: float) -> Any:
        """The next event; raises what ended the watching."""
        try:
            item = self._queue.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if isinstance(item, CliError):
            raise item
        return item

    def _run(self) -> None:
        heard = time.monotonic()
        pause = PAUSE_S
        while not self._stop.is_set():
            self._put(RESTART)
            try:
                for event in self._open():
                    heard, pause = time.monotonic(), PAUSE_S
                    if self._index is not None:
                        self._index = max(self._index, event.index)
                    if not self._put(event):
                        return
            except grpc.RpcError as error:
                if self._stop.is_set():
                    return
                if error.code() not in RESTART_CODES:
                    self._put(meaning(error))
                    return
                if self._index is not None and error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    self._index = 0
                if time.monotonic() - heard > self._client.timeout_s:
                    self._put(NoManager(f"Lost the managers while watching: {error.details()}."))
                    return
            self._client.next_host()
            self._stop.wait(pause)
            pause = min(2 * pause, PAUSE_MAX_S)

    def _open(self) -> Any:
        request = control_pb2.WatchRequest(
            kinds=self._kinds, after_index=self._index or 0, initial_list=self._index is None
        )
        self._call = self._client.stub().Watch(request)
        if self._stop.is_set():
            self._call.cancel()
        return self._call

    def _put(self, item: Any) -> bool:
        """Hands an item over; False when nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False
