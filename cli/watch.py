"""Changes as they happen, across managers that come and go.

A thread reads the stream and hands events over by a bounded queue, so that the caller can also wake
up for a deadline. After a break the stream goes on at the next manager from where it was: every
change comes once and in order, and the changes of one transaction come together. Only where no
manager knows so far back does it begin anew; the caller then gets RESTART and forgets what it knew.
A watch on which nothing happens still says so from time to time; one that does not is broken.
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
WAKE_S = 1.0
PROGRESS_MS = 2000
SILENT_S = 10.0
# A watcher that was too slow is told so by one of the last three: it lists again.
RESTART_CODES = RETRY_CODES | {
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


class Watcher:
    """Use as a context manager; `get` gives an Event, RESTART, or None when nothing came in time.

    It begins with a list of what there is, or with `resume_index` with what happened after that
    index; 0 means from now on. `filters` are the server's.
    """

    def __init__(
        self,
        client: Client,
        kinds: Iterable[str],
        *,
        resume_index: int | None = None,
        filters: dict[str, str] | None = None,
    ) -> None:
        self._client = client.fork()
        self._kinds = [KINDS[kind] for kind in kinds]
        self._filters = [control_pb2.Filter(key=key, value=value) for key, value in (filters or {}).items()]
        self._list = resume_index is None
        self._index = resume_index or 0  # everything up to here was handed over
        self._parts: list[Any] = []  # of a transaction that is not complete
        self._heard = time.monotonic()
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
        deadline = time.monotonic() + max(0.0, timeout_s)
        while True:
            left = deadline - time.monotonic()
            try:
                item = self._queue.get(timeout=max(0.0, min(left, WAKE_S)))
            except queue.Empty:
                if self._call is not None and time.monotonic() - self._heard > SILENT_S:
                    self._call.cancel()
                if left <= WAKE_S:
                    return None
                continue
            if isinstance(item, CliError):
                raise item
            return item

    def _run(self) -> None:
        answered = time.monotonic()
        pause = PAUSE_S
        self._put(RESTART)
        while not self._stop.is_set():
            try:
                for event in self._open():
                    answered = self._heard = time.monotonic()
                    pause = PAUSE_S
                    if not self._take(event):
                        return
            except grpc.RpcError as error:
                if self._stop.is_set():
                    return
                if error.code() not in RESTART_CODES:
                    self._put(meaning(error))
                    return
                if error.code() not in RETRY_CODES:
                    self._index = 0
                if not self._index:
                    self._put(RESTART)
                if time.monotonic() - answered > self._client.timeout_s:
                    self._put(NoManager(f"Lost the managers while watching: {error.details()}."))
                    return
            self._client.next_host()
            self._stop.wait(pause)
            pause = min(2 * pause, PAUSE_MAX_S)

    def _open(self) -> Any:
        self._parts = []
        self._heard = time.monotonic()
        request = control_pb2.WatchRequest(
            kinds=self._kinds, filters=self._filters, after_index=self._index,
            initial_list=self._list and not self._index, progress_ms=PROGRESS_MS,
            stale=self._client.stale, min_index=self._client.index,
        )  # fmt: skip
        self._call = self._client.stub().Watch(request)
        if self._stop.is_set():
            self._call.cancel()
        return self._call

    def _take(self, event: Any) -> bool:
        """Hand over what is complete; False when nobody wants it any more."""
        marks = event.action in {control_pb2.EVENT_SYNC, control_pb2.EVENT_PROGRESS}
        if not marks and self._index and not event.last_of_index:
            self._parts.append(event)
            return True
        parts, self._parts = [*self._parts, event], []
        if event.action == control_pb2.EVENT_PROGRESS:
            parts = []
        for part in parts:
            if not self._put(part):
                return False
        if marks or self._index:
            self._index = max(self._index, event.index)
        return True

    def _put(self, item: Any) -> bool:
        """Hands an item over; False when nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False
