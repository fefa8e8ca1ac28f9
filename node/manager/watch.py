"""Watches: a list, then every change in order, each once; see WatchRequest in control.proto.

A watch reads the manager's History by a cursor and keeps nothing itself: however many there
are and however slow they read, the memory is the history's. A filter is a window: an object
that begins to fit is created, one that stops fitting is deleted, as far as the watch goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from swarmpy.node.manager.errors import ManagerError
from swarmpy.node.manager.history import History
from swarmpy.node.manager.queries import check_filters, listing, matches, public
from swarmpy.proto import control_pb2
from swarmpy.raft.store import ChangeEvent, Commit, Store
from swarmpy.raft.tables import KINDS, Entity, wrap

BATCH_EVENTS = 500
PROGRESS_MS_MIN = 100


class Watch:
    """One subscriber. Iterate `events`; `end` stops it with an error from outside."""

    def __init__(
        self,
        store: Store,
        history: History,
        request: control_pb2.WatchRequest,
        now_ms: Callable[[], int],
        staleness: Callable[[], control_pb2.Staleness] | None = None,
    ) -> None:
        self._store, self._history, self._request = store, history, request
        self._now_ms, self._staleness = now_ms, staleness
        self._kinds = set(request.kinds)
        self._filters = request.filters
        self._error: ManagerError | None = None
        self._ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        check_filters(self._kinds, self._filters)

    def end(self, error: ManagerError) -> None:
        """Make `events` raise it; what was read before is still delivered."""
        if not self._ended.done():
            self._error = error
            self._ended.set_result(None)

    async def events(self) -> AsyncIterator[control_pb2.Event]:
        request = self._request
        resume = request.after_index and not request.initial_list
        index = request.after_index if resume else self._store.index
        cursor = self._history.cursor(index)
        try:
            for event in self._initial() if request.initial_list else ():
                yield event
            if resume:
                # What happened up to now, so that SYNC means: from here on it is live.
                index = self._store.index
                while commits := cursor.take(BATCH_EVENTS):
                    for event in self._of(commits):
                        yield event
                    if commits[-1].index >= index:
                        index = commits[-1].index
                        break
            yield self._mark(control_pb2.EVENT_SYNC, index)
            while True:
                # A mark promises everything up to its index: the index of when nothing was left to send.
                changed, index = self._history.changed, self._store.index
                commits = cursor.take(BATCH_EVENTS)
                for event in self._of(commits):
                    yield event
                if self._error is not None:
                    raise self._error
                if not commits and not await self._wait(changed):
                    yield self._mark(control_pb2.EVENT_PROGRESS, index)
        finally:
            self._ended.cancel()

    async def _wait(self, changed: asyncio.Event) -> bool:
        """False when nothing happened for as long as the client wants to hear of."""
        progress_ms = self._request.progress_ms
        timeout_s = max(progress_ms, PROGRESS_MS_MIN) / 1000 if progress_ms else None
        waiting: asyncio.Future[Any] = asyncio.ensure_future(changed.wait())
        try:
            done, _ = await asyncio.wait(
                {waiting, self._ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()
        return bool(done)

    def _initial(self) -> Iterator[control_pb2.Event]:
        """The objects of this moment, however long the sending takes."""
        index = self._store.index
        kinds = sorted(self._kinds or KINDS)
        found = [obj for kind in kinds for obj in listing(self._store, kind, self._filters)]
        return (
            control_pb2.Event(action=control_pb2.EVENT_CREATE, object=wrap(public(obj)), index=index)
            for obj in found
        )

    def _of(self, commits: Iterable[Commit]) -> Iterator[control_pb2.Event]:
        for commit in commits:
            last: control_pb2.Event | None = None
            for event in commit.events:
                if self._kinds and event.kind not in self._kinds:
                    continue
                if (message := self._message(commit, event)) is not None:
                    if last is not None:
                        yield last
                    last = message
            if last is not None:
                last.last_of_index = True
                yield last

    def _message(self, commit: Commit, event: ChangeEvent) -> control_pb2.Event | None:
        old, new = event.old, event.new
        was = old is not None and self._fits(old)
        if new is not None and self._fits(new):
            action = control_pb2.EVENT_UPDATE if was else control_pb2.EVENT_CREATE
        elif was:
            action = control_pb2.EVENT_DELETE
        else:
            return None
        shown = new if new is not None else old
        assert shown is not None
        return control_pb2.Event(
            action=action, object=wrap(public(shown)), index=commit.index, time_ms=commit.now_ms
        )

    def _fits(self, obj: Entity) -> bool:
        return not self._filters or matches(self._store, obj, self._filters)

    def _mark(self, action: control_pb2.EventAction, index: int) -> control_pb2.Event:
        mark = control_pb2.Event(action=action, index=index, time_ms=self._now_ms(), last_of_index=True)
        if self._staleness is not None:
            mark.staleness.CopyFrom(self._staleness())
        return mark
