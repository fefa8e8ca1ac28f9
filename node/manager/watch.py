"""Watches: a bounded queue per subscriber, fed by commits; overflow ends the watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from swarmpy.node.manager.errors import Refused
from swarmpy.node.manager.queries import listing, matches, public
from swarmpy.proto import control_pb2
from swarmpy.raft.store import Commit, Store
from swarmpy.raft.tables import wrap

QUEUE = 4096


class Watch:
    """One subscriber. Iterate `events`; a slow one gets Refused and lists again."""

    def __init__(self, store: Store, request: control_pb2.WatchRequest) -> None:
        self._store = store
        self._request = request
        self._kinds = set(request.kinds)
        self._queue: asyncio.Queue[control_pb2.Event | None] = asyncio.Queue(QUEUE)

    async def events(self) -> AsyncIterator[control_pb2.Event]:
        index = self._store.index
        self._store.listeners.append(self._on_commit)
        try:
            if self._request.initial_list:
                for kind in sorted(self._kinds):
                    for obj in list(listing(self._store, kind, self._request.filters)):
                        yield control_pb2.Event(
                            action=control_pb2.EVENT_CREATE, object=wrap(public(obj)), index=index
                        )
            yield control_pb2.Event(action=control_pb2.EVENT_SYNC, index=index)
            while True:
                event = await self._queue.get()
                if event is None:
                    raise Refused("the watch fell behind: list again and start a new one")
                yield event
        finally:
            self._store.listeners.remove(self._on_commit)

    def _on_commit(self, commit: Commit) -> None:
        for event in commit.events:
            if self._kinds and event.kind not in self._kinds:
                continue
            obj = event.new if event.new is not None else event.old
            assert obj is not None
            if self._request.filters and not matches(self._store, obj, self._request.filters):
                continue
            if event.new is None:
                action = control_pb2.EVENT_DELETE
            else:
                action = control_pb2.EVENT_CREATE if event.old is None else control_pb2.EVENT_UPDATE
            message = control_pb2.Event(
                action=action, object=wrap(public(obj)), index=commit.index, time_ms=commit.now_ms
            )
            self._push(message)

    def _push(self, message: control_pb2.Event) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self._queue.put_nowait(None)
        elif self._queue.qsize() < QUEUE - 1:
            self._queue.put_nowait(message)
        else:
            self._queue.put_nowait(None)
