"""One suite for both ways to write: the unary calls of Control and its stream of writes mean the same.

Three real replicas, each with its guarded server; writes go to the leader or through a manager that passes
them on, by unary call or on a stream, and every way has to give the same answers, errors and marks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from swarmpy.node.ca import authority, identity, tls
from swarmpy.node.ca.guard import GuardedServer
from swarmpy.node.manager import pipeline
from swarmpy.node.manager.control import Control, LocalControl
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.pipeline import Writes
from swarmpy.node.manager.proxy import ACTOR_KEY, Proxy, was_refused
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.integration.manager_replicas import NAMES, Manager, Managers
from tests.integration.raft_cluster import wait_for

CLUSTER = "c" * 25
ROOT = authority.new_root(CLUSTER, int(time.time() * 1000))
KIND = store_pb2.KIND_SERVICE
TIMEOUT_S = 20.0


def certificate(name: str, role: types_pb2.Role = types_pb2.ROLE_MANAGER) -> identity.Identity:
    key, csr = identity.new_key_and_csr()
    now_ms = int(time.time() * 1000)
    pem = authority.issue(
        ROOT, csr, node_id=name[-1] * 25, cluster_id=CLUSTER, role=role, now_ms=now_ms, lifetime_ms=3_600_000
    )
    return identity.Identity.build(pem, key, ROOT.certificate_pem)


class Site:
    """Three managers with their servers; `removed` and `demoted` hold node ids."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.managers = Managers(directory)
        self.servers: dict[str, GuardedServer] = {}
        self.controls: dict[str, Control] = {}
        self.proxies: dict[str, Proxy] = {}
        self.ports: dict[str, int] = {}
        self.certificates = {name: certificate(name) for name in NAMES}
        self.removed: set[str] = set()
        self.demoted: set[str] = set()
        self.commits: list[Commit] = []
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    async def open(self) -> None:
        await self.managers.of_three()
        for name, manager in self.managers.all.items():
            await self._serve(name, manager)
        self.leader.store.listeners.append(self.commits.append)

    async def _serve(self, name: str, manager: Manager) -> None:
        local = LocalControl(
            manager.leader,
            manager.reads,
            manager.history,
            manager.writer,
            cast(Any, None),
            cast(Any, None),
            str,
        )
        channels = cast(NodeChannels, _Dialler(self, name))
        self.proxies[name] = Proxy(manager.leader, channels)
        self.controls[name] = Control(local, self.proxies[name], manager.checks)
        server = self.servers[name] = GuardedServer(
            CLUSTER, lambda node_id, serial: node_id not in self.removed,
            is_manager=lambda node_id: node_id not in self.demoted,
        )  # fmt: skip
        control_pb2_grpc.add_ControlServicer_to_server(self.controls[name], server)
        self.ports[name] = server.listen("127.0.0.1:0", self.certificates[name])
        server.listen_unix(self.directory / name / "run" / "control.sock")
        await server.start()

    @property
    def leader(self) -> Manager:
        found = self.managers.leading()
        assert found is not None
        return found

    def actor_of_last(self) -> str:
        """Who made the last write; the manager notes images by itself."""
        return [commit.actor for commit in self.commits if commit.actor != "images"][-1]

    def follower(self) -> str:
        return next(name for name, manager in self.managers.all.items() if not manager.leader.leading)

    def tls_channel(self, me: str, name: str, who: identity.Identity | None = None) -> grpc.aio.Channel:
        """Kept: a manager has one to each other."""
        who = who or self.certificates[me]
        if (me, name) not in self._channels:
            self._channels[me, name] = tls.channel(f"127.0.0.1:{self.ports[name]}", name[-1] * 25, who)
        return self._channels[me, name]

    def user_channel(self, name: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix://{self.directory / name / 'run' / 'control.sock'}")

    async def close(self) -> None:
        for name, server in self.servers.items():
            self.controls[name].end_writes()
            await server.stop(0)
            await self.proxies[name].close()
        for channel in self._channels.values():
            await channel.close(None)
        await self.managers.stop_all()


class _Dialler:
    def __init__(self, site: Site, me: str) -> None:
        self._site, self._me = site, me

    def manager(self, node_id: str) -> grpc.aio.Channel:
        return self._site.tls_channel(self._me, node_id)


Write = Callable[..., Awaitable[Any]]


@contextlib.asynccontextmanager
async def writing(channel: grpc.aio.Channel, way: str) -> AsyncIterator[Write]:
    """`write(method, request)`, by a unary call or on a stream."""
    if way == "unary":
        stub: Any = control_pb2_grpc.ControlStub(channel)

        async def unary(method: str, request: Any, timeout_s: float = TIMEOUT_S, actor: str = "") -> Any:
            metadata = ((ACTOR_KEY, actor),) if actor else ()
            return await getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)

        yield unary
        return
    writes = Writes(channel)

    async def stream(method: str, request: Any, timeout_s: float = TIMEOUT_S, actor: str = "") -> Any:
        return await writes.call(method, request, timeout_s, actor)

    try:
        yield stream
    finally:
        await writes.close()


def run(directory: Path, body: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        site = Site(directory)
        try:
            await site.open()
            await body(site)
        finally:
            await site.close()

    asyncio.run(main())


def service(name: str, label: str = "") -> objects_pb2.Service:
    made = objects_pb2.Service()
    made.meta.name = name
    made.meta.labels["x"] = label
    made.spec.replicated.replicas = 0
    made.spec.task.container.image = "none:1"
    made.spec.task.container.image_digest = "sha256:" + "0" * 64
    return made


def creation(name: str, request_id: str = "") -> control_pb2.CreateRequest:
    return control_pb2.CreateRequest(object=store_pb2.Object(service=service(name)), request_id=request_id)


def change(found: objects_pb2.Service, label: str, request_id: str = "") -> control_pb2.UpdateRequest:
    changed = objects_pb2.Service()
    changed.CopyFrom(found)
    changed.meta.labels["x"] = label
    return control_pb2.UpdateRequest(object=store_pb2.Object(service=changed), request_id=request_id)


async def refusal(work: Awaitable[Any]) -> tuple[grpc.StatusCode, str, bool]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    error = caught.value
    return error.code(), error.details() or "", was_refused(error)


WAYS = pytest.mark.parametrize("way", ["unary", "stream"])
PLACES = pytest.mark.parametrize("place", ["leader", "follower"])


@WAYS
@PLACES
def test_every_write_has_its_own_answer_error_and_request_id(tmp_path: Path, way: str, place: str) -> None:
    async def body(site: Site) -> None:
        name = site.leader.raft.node_id if place == "leader" else site.follower()
        async with site.user_channel(name) as channel, writing(channel, way) as write:
            made = (await write("Create", creation("a", "first"))).object.service
            again = await write("Create", creation("a", "first"))
            assert again.object.service.meta.id == made.meta.id, "a repeated write is the first one"
            found = await asyncio.gather(
                refusal(write("Create", creation("a"))),
                refusal(write("Create", control_pb2.CreateRequest())),
                refusal(write("Delete", control_pb2.DeleteRequest(kind=KIND, ref="nobody"))),
                _stale(write, made),
                refusal(write("Rollout", control_pb2.RolloutRequest(service="nobody"))),
            )
            assert [(code.name, marked) for code, _, marked in found] == [
                ("ALREADY_EXISTS", True), ("INVALID_ARGUMENT", True), ("NOT_FOUND", True), ("ABORTED", True),
                ("NOT_FOUND", True),
            ]  # fmt: skip
            assert "'a' exists already" in found[0][1]
            gone = await write("Delete", control_pb2.DeleteRequest(kind=KIND, ref="a"))
            assert gone.index == site.leader.store.index
        assert {commit.actor for commit in site.commits if commit.events} == {"root@local", "images"}

    run(tmp_path, body)


async def _stale(write: Write, made: objects_pb2.Service) -> tuple[grpc.StatusCode, str, bool]:
    await write("Update", change(made, "new"))
    return await refusal(write("Update", change(made, "from what is gone")))


@WAYS
def test_many_at_once_are_all_there_and_their_indexes_are_their_order(tmp_path: Path, way: str) -> None:
    async def body(site: Site) -> None:
        async with site.user_channel(site.follower()) as channel, writing(channel, way) as write:
            answers = await asyncio.gather(*(write("Create", creation(f"s{n}")) for n in range(700)))
        assert len({answer.index for answer in answers}) == 700
        by_index = {commit.index: commit.events[0].id for commit in site.commits if commit.events}
        assert all(by_index[answer.index] == answer.object.service.meta.id for answer in answers)

    run(tmp_path, body)


@WAYS
def test_large_writes_do_not_make_messages_that_nobody_takes(tmp_path: Path, way: str) -> None:
    async def body(site: Site) -> None:
        async with site.user_channel(site.follower()) as channel, writing(channel, way) as write:
            made = await asyncio.gather(*(write("Create", creation(f"s{n}")) for n in range(40)))
            requests = [change(answer.object.service, "x" * 4000) for answer in made]
            for request in requests:
                for number in range(44):
                    request.object.service.meta.labels[f"label{number}"] = "x" * 4000
            assert sum(request.ByteSize() for request in requests) > 6_000_000, "more than gRPC takes at once"
            done = await asyncio.gather(*(write("Update", request) for request in requests))
        assert all(len(answer.object.service.meta.labels) == 45 for answer in done)

    run(tmp_path, body)


@WAYS
def test_a_manager_writes_in_the_name_of_its_user_and_only_the_leader_takes_it(
    tmp_path: Path, way: str
) -> None:
    async def body(site: Site) -> None:
        leader, other = site.leader.raft.node_id, site.follower()
        async with writing(site.tls_channel(other, leader), way) as write:
            await write("Create", creation("a"), actor="root@far")
            assert site.actor_of_last() == "root@far"
        async with writing(site.tls_channel(leader, other), way) as write:
            code, text, marked = await refusal(write("Create", creation("b"), actor="root@far"))
            assert (code, marked) == (grpc.StatusCode.UNAVAILABLE, True), text
        async with site.user_channel(leader) as channel, writing(channel, way) as write:
            await write("Create", creation("c"), actor="somebody else")
            assert site.actor_of_last() == "root@local", "a user is who the socket says"

    run(tmp_path, body)


@WAYS
def test_rights_are_those_of_now_not_those_of_when_the_stream_began(tmp_path: Path, way: str) -> None:
    async def body(site: Site) -> None:
        leader, other = site.leader.raft.node_id, site.follower()
        async with writing(site.tls_channel(other, leader), way) as write:
            await write("Create", creation("a"))
            site.demoted.add(other[-1] * 25)
            code, text, marked = await refusal(write("Create", creation("b")))
            assert (code, marked) == (grpc.StatusCode.PERMISSION_DENIED, False)
            assert "a worker may not call /swarmpy.v1.Control/Create" in text
            site.demoted.clear()
            await write("Create", creation("c"))
            site.removed.add(other[-1] * 25)
            site.servers[leader].end_streams(other[-1] * 25)
            code, text, marked = await refusal(write("Create", creation("d")))
            assert (code, marked) == (grpc.StatusCode.UNAUTHENTICATED, False)
        worker = certificate("w", types_pb2.ROLE_WORKER)
        async with writing(site.tls_channel("w", leader, worker), way) as write:
            code, _, marked = await refusal(write("Create", creation("e")))
            assert (code, marked) == (grpc.StatusCode.PERMISSION_DENIED, False)
        names = {found.meta.name for found in site.leader.store.services()}
        assert names == {"a", "c"}

    run(tmp_path, body)


@WAYS
def test_without_a_majority_the_outcome_is_unknown_and_repeating_makes_it_once(
    tmp_path: Path, way: str
) -> None:
    async def body(site: Site) -> None:
        leader = site.leader.raft.node_id
        others = [name for name in NAMES if name != leader]
        async with site.user_channel(leader) as channel, writing(channel, way) as write:
            for name in others:
                await site.managers.kill(name)
            code, text, marked = await refusal(write("Create", creation("a", "once")))
            assert (code, marked) == (grpc.StatusCode.UNKNOWN, True)
            assert "send it again with the same request id" in text
            for name in others:
                await site.managers.start(name)
            await wait_for(lambda: site.managers.leading() is not None)
            if site.leader.raft.node_id != leader:
                await wait_for(lambda: site.managers.all[leader].store.index >= site.leader.store.index)
                await site.leader.raft.transfer_leadership(leader)
                await wait_for(lambda: site.managers.all[leader].leader.leading)
            again = await write("Create", creation("a", "once"))
        found = [entry.meta.id for entry in site.leader.store.services()]
        assert found == [again.object.service.meta.id]

    run(tmp_path, body)


@WAYS
@PLACES
def test_nobody_notices_a_hand_over(tmp_path: Path, way: str, place: str) -> None:
    """Neither an error nor an unknown outcome, at the old leader, the new one and one that passes writes on."""

    async def body(site: Site) -> None:
        first = site.leader.raft.node_id
        name = first if place == "leader" else site.follower()
        count = 0

        async def writer(write: Write) -> None:
            nonlocal count
            while len(handed_over) < 3 or not site.managers.leading():
                count += 1
                await write("Create", creation(f"s{count}", f"request-{count}"))

        handed_over: list[str] = []
        for control in site.controls.values():
            control.hold_s = 20.0  # the machine may be slow
        async with site.user_channel(name) as channel, writing(channel, way) as write:
            writers = [asyncio.ensure_future(writer(write)) for _ in range(8)]
            for _ in range(3):
                await asyncio.sleep(0.05)
                leader = await site.managers.wait_leading()
                handed_over.append(await leader.raft.transfer_leadership(None))
            await asyncio.gather(*writers)
        await wait_for(lambda: site.managers.leading() is not None)
        names = [found.meta.name for found in site.leader.store.services()]
        assert sorted(names) == sorted(f"s{number}" for number in range(1, count + 1))

    run(tmp_path, body)


@WAYS
def test_a_call_ends_at_its_deadline_and_the_others_go_on(tmp_path: Path, way: str) -> None:
    """A write that waits for what does not come, beside one that does not."""

    async def body(site: Site) -> None:
        begun = asyncio.Event()
        stopped: list[str] = []
        writer = site.controls[site.leader.raft.node_id]._local._writer
        plain = writer.create

        async def slow(obj: Any, *arguments: Any, **options: Any) -> Any:
            if obj.meta.name.startswith("slow"):
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    stopped.append(obj.meta.name)
                    raise
            return await plain(obj, *arguments, **options)

        writer.create = slow  # type: ignore[method-assign]
        async with site.user_channel(site.leader.raft.node_id) as channel, writing(channel, way) as write:
            late = asyncio.ensure_future(refusal(write("Create", creation("slow"), 0.5)))
            await begun.wait()
            await write("Create", creation("quick"))
            code, _, marked = await late
            assert (code, marked) == (grpc.StatusCode.DEADLINE_EXCEEDED, False)
            await wait_for(lambda: stopped == ["slow"])
            begun.clear()
            given_up = asyncio.ensure_future(write("Create", creation("slow2")))
            await begun.wait()
            given_up.cancel()
            await wait_for(lambda: stopped == ["slow", "slow2"])

    run(tmp_path, body)


# -- the stream alone


def test_a_stream_that_breaks_off_leaves_its_writes_unknown_and_the_next_write_opens_another(
    tmp_path: Path,
) -> None:
    async def body(site: Site) -> None:
        leader = site.leader.raft.node_id
        async with site.user_channel(leader) as channel, writing(channel, "stream") as write:
            await write("Create", creation("a"))
            plain = site.controls[leader]._local._writer.create
            begun = asyncio.Event()

            async def never(*_: Any, **__: Any) -> Any:
                begun.set()
                await asyncio.Event().wait()

            site.controls[leader]._local._writer.create = never  # type: ignore[assignment,method-assign]
            open_call = asyncio.ensure_future(refusal(write("Create", creation("b"))))
            await begun.wait()
            assert site.servers[leader].end_streams("") == 1  # the user's
            code, _, marked = await open_call
            assert not marked
            assert code is grpc.StatusCode.UNAUTHENTICATED
            site.controls[leader]._local._writer.create = plain  # type: ignore[method-assign]
            await write("Create", creation("c"))

    run(tmp_path, body)


def test_no_more_than_the_bound_are_open_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(site: Site) -> None:
        monkeypatch.setattr(pipeline, "IN_FLIGHT_MAX", 4)
        leader = site.leader.raft.node_id
        writer = site.controls[leader]._local._writer
        plain, now, most = writer.create, 0, 0

        async def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            try:
                return await plain(*arguments, **options)
            finally:
                now -= 1

        writer.create = counted  # type: ignore[method-assign]
        async with site.user_channel(leader) as channel:
            stub: Any = control_pb2_grpc.ControlStub(channel)
            calls = [
                control_pb2.WriteCall(number=n, create=creation(f"s{n}")) for n in range(50)
            ]  # past the bound in one message, as no client of ours would
            call = stub.Write(timeout=TIMEOUT_S)
            await call.write(control_pb2.WriteCalls(calls=[*calls, control_pb2.WriteCall(number=99)]))
            await call.done_writing()
            answers = [answer async for message in call for answer in message.answers]
        assert most == 4
        assert sorted(answer.number for answer in answers) == [*range(50), 99]
        assert {answer.code for answer in answers if answer.number != 99} == {0}
        assert next(a.code for a in answers if a.number == 99) == grpc.StatusCode.INVALID_ARGUMENT.value[0]

    run(tmp_path, body)


def test_an_old_stream_is_replaced_while_calls_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(site: Site) -> None:
        monkeypatch.setattr(pipeline, "STREAM_AGE_S", 0.0)
        leader = site.leader.raft.node_id
        async with site.user_channel(leader) as channel, writing(channel, "stream") as write:
            for round_number in range(5):
                names = [f"s{round_number}-{n}" for n in range(10)]
                await asyncio.gather(*(write("Create", creation(name)) for name in names))
            await wait_for(lambda: len(site.controls[leader]._write_streams) <= 1)
        assert sum(1 for _ in site.leader.store.services()) == 50

    run(tmp_path, body)


def test_a_manager_that_stops_answers_what_it_has_and_ends_the_stream(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        leader = site.leader.raft.node_id
        async with site.user_channel(leader) as channel:
            stub: Any = control_pb2_grpc.ControlStub(channel)
            call = stub.Write(timeout=TIMEOUT_S)
            calls = [control_pb2.WriteCall(number=n, create=creation(f"s{n}")) for n in range(30)]
            await call.write(control_pb2.WriteCalls(calls=calls))
            await wait_for(lambda: sum(1 for _ in site.leader.store.services()) > 0)
            site.controls[leader].end_writes()
            answers = [answer async for message in call for answer in message.answers]
            assert await call.code() is grpc.StatusCode.OK
        assert sorted(answer.number for answer in answers) == list(range(30))

    run(tmp_path, body)


def test_what_was_never_sent_is_certain_not_to_have_happened() -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel, writing(channel, "stream") as write:
            for _ in range(2):
                code, text, marked = await refusal(write("Create", creation("a")))
                assert (code, marked) == (grpc.StatusCode.UNAVAILABLE, False)
                assert text.startswith(pipeline.NOT_SENT)

    asyncio.run(main())
