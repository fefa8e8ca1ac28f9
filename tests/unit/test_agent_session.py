"""The node's session with a leader, against a real gRPC server: what it holds when a delta does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from swarmpy.node import items
from swarmpy.node.agent import session as sessions
from swarmpy.node.agent.session import Session, welcome_timeout_s
from swarmpy.node.config import ManagerAddress
from swarmpy.proto import dispatcher_pb2, dispatcher_pb2_grpc, objects_pb2, types_pb2

SET = {"peer/a": items.encode(dispatcher_pb2.Item(peer=dispatcher_pb2.PeerNode(id="a", index=1)))}
MORE = {**SET, "peer/b": items.encode(dispatcher_pb2.Item(peer=dispatcher_pb2.PeerNode(id="b", index=2)))}

ENDED = objects_pb2.TaskStatus(state=types_pb2.TASK_FAILED)
STATUSES = {"t": ENDED}  # what the node knows of its tasks


class Leader(dispatcher_pb2_grpc.DispatcherServicer):
    """Sends what it is told to each session; remembers what sessions said."""

    def __init__(self) -> None:
        self.scripts: list[list[dispatcher_pb2.Assignments]] = []
        self.holds: list[bytes] = []
        self.applied: list[bytes] = []
        self.out: list[str] = []
        self.reported: dict[str, int] = {}
        self.heard: list[tuple[int, str]] = []  # session and task of every report
        self.stores = True
        self.answers: list[int] = []

    async def Attach(
        self, request_iterator: AsyncIterator[dispatcher_pb2.AgentMessage], context: Any
    ) -> AsyncIterator[dispatcher_pb2.ManagerMessage]:
        stored = 0
        self.holds.append((await anext(request_iterator)).hello.holds)
        yield dispatcher_pb2.ManagerMessage(welcome=dispatcher_pb2.Welcome(session_id="s", heartbeat_ms=100))
        for message in self.scripts.pop(0) if self.scripts else ():
            yield dispatcher_pb2.ManagerMessage(assignments=message)
        if self.out:
            out = dispatcher_pb2.OutOfService(task_ids=self.out)
            yield dispatcher_pb2.ManagerMessage(out_of_service=out)
        async for message in request_iterator:
            if message.HasField("applied"):
                self.applied.append(message.applied.holds)
            self.reported.update({report.task_id: report.status.state for report in message.reports.tasks})
            self.heard += [(len(self.holds), report.task_id) for report in message.reports.tasks]
            if self.stores:
                stored = max(stored, message.reports.sequence)
            if message.HasField("heartbeat"):
                self.answers.append(stored)
                message.heartbeat.stored = stored
            yield dispatcher_pb2.ManagerMessage(heartbeat=message.heartbeat)


class Identity:
    def current(self) -> None:
        return None


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def leader() -> Leader:
    return Leader()


async def meet(leader: Leader, monkeypatch: pytest.MonkeyPatch, story: Any) -> None:
    """Run `story(session, seen)` beside a session with `leader`."""
    server = grpc.aio.server()
    dispatcher_pb2_grpc.add_DispatcherServicer_to_server(leader, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setattr(sessions.tls, "channel", lambda address, *_, **__: grpc.aio.insecure_channel(address))
    seen: list[dict[str, bytes]] = []
    told: list[str] = []
    session = Session(
        self_id="n", identity=Identity(), managers=lambda: (ManagerAddress("m", f"127.0.0.1:{port}"),),  # type: ignore[arg-type]
        describe=objects_pb2.NodeDescription, status_of=STATUSES.get, images=list,
        on_items=lambda new: seen.append(dict(new)), on_out=told.extend,
    )  # fmt: skip
    running = asyncio.create_task(session.run())
    try:
        await story(session, seen, told)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(None)


def test_a_delta_that_does_not_fit_leaves_the_node_what_it_has(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dispatcher_pb2.Assignments(
        type=dispatcher_pb2.ASSIGNMENT_INCREMENTAL, applies_to=b"another set", results_in=b"a third"
    )
    leader.scripts = [
        [*items.deltas({}, SET, complete=True), wrong],
        list(items.deltas({}, MORE, complete=True)),
    ]
    held: list[dict[str, bytes]] = []

    async def story(session: Session, seen: list[dict[str, bytes]], _told: list[str]) -> None:
        await until(lambda: seen)
        while len(leader.holds) < 2:
            held.append(dict(session.items))
            await asyncio.sleep(0.005)
        await until(lambda: len(seen) == 2)
        assert session.items == MORE

    asyncio.run(meet(leader, monkeypatch, story))
    assert all(found == SET for found in held), "tasks would have been stopped by an empty set"
    assert leader.holds == [b"", b""], "it asks for a complete set"


def test_resync_asks_again_and_keeps_what_it_has(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    leader.scripts = [list(items.deltas({}, SET, complete=True)), list(items.deltas({}, MORE, complete=True))]

    async def story(session: Session, seen: list[dict[str, bytes]], _told: list[str]) -> None:
        await until(lambda: seen)
        session.resync()
        assert session.items == SET
        await until(lambda: len(seen) == 2)
        assert session.items == MORE

    asyncio.run(meet(leader, monkeypatch, story))
    assert leader.holds == [b"", b""]


def test_what_is_applied_is_told_to_every_leader_and_what_is_out_of_service_is_heard(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader.scripts = [list(items.deltas({}, SET, complete=True))]
    leader.out = ["t1", "t2"]

    async def story(session: Session, seen: list[dict[str, bytes]], told: list[str]) -> None:
        await until(lambda: seen)
        assert not leader.applied, "received is not applied"
        session.applied(items.digest(SET))
        await until(lambda: leader.applied == [items.digest(SET)])
        await until(lambda: told == ["t1", "t2"])
        session.resync()
        await until(lambda: leader.applied == [items.digest(SET)] * 2)

    asyncio.run(meet(leader, monkeypatch, story))


def test_statuses_beyond_what_a_message_takes_come_in_several() -> None:
    async def main() -> None:
        large = objects_pb2.TaskStatus(error="x" * 300_000)
        session = Session(
            self_id="n", identity=Identity(), managers=tuple, describe=objects_pb2.NodeDescription,  # type: ignore[arg-type]
            status_of=lambda _task: large, images=list, on_items=lambda _new: None,
        )  # fmt: skip
        told: list[str] = []
        for number in range(20):
            session.report(f"t{number}")
        while session._dirty:
            message = session._reports(1, {})
            assert message.ByteSize() < 2 << 20
            told += [report.task_id for report in message.reports.tasks]
        assert sorted(told) == sorted(f"t{number}" for number in range(20))

    asyncio.run(main())


def test_news_of_a_task_whose_assignment_was_lost_is_told(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut took the kept assignments; the record says that the task ended, and nothing else happens to it."""
    task = objects_pb2.Task()
    task.meta.id = "t"
    task.status.state = types_pb2.TASK_RUNNING
    with_task = {**SET, "task/t": items.encode(dispatcher_pb2.Item(task=task))}
    leader.scripts = [list(items.deltas({}, with_task, complete=True))]

    async def story(_session: Session, seen: list[dict[str, bytes]], _told: list[str]) -> None:
        await until(lambda: seen)
        await until(lambda: leader.reported.get("t") == types_pb2.TASK_FAILED)

    asyncio.run(meet(leader, monkeypatch, story))


def test_a_leader_that_is_asked_by_all_at_once_gets_more_time_each_time() -> None:
    """Who gives up after the same time again and again leaves it work for nothing, and none for anybody."""
    assert [welcome_timeout_s(unheard) for unheard in (0, 1, 2, 3, 5, 100)] == [
        3.0,
        3.0,
        6.0,
        9.0,
        15.0,
        15.0,
    ]


@pytest.mark.parametrize("stores", [True, False])
def test_what_a_heartbeat_says_is_stored_does_not_go_to_the_next_leader(
    leader: Leader, monkeypatch: pytest.MonkeyPatch, stores: bool
) -> None:
    leader.stores = stores

    async def story(session: Session, _seen: list[dict[str, bytes]], _told: list[str]) -> None:
        await until(lambda: session.connected_to)
        session.report("t")
        await until(lambda: (1, "t") in leader.heard)
        asked = len(leader.answers)
        await until(lambda: len(leader.answers) > asked + 4)  # the first of them has arrived
        session.resync()
        await until(lambda: len(leader.holds) == 2)
        asked = len(leader.answers)
        await until(lambda: len(leader.answers) > asked + 1)
        assert ((2, "t") in leader.heard) is not stores

    asyncio.run(meet(leader, monkeypatch, story))
