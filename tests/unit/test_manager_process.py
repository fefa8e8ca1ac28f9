"""One real manager in this process: its Raft, store, loops, TLS and socket; users and nodes call it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from swarmpy.node import config as node_config
from swarmpy.node import daemon_setup, items
from swarmpy.node.ca import authority, identity, tls
from swarmpy.node.config import NodeConfig, Paths, Ports
from swarmpy.node.manager.process import ManagerProcess
from swarmpy.proto import (
    control_pb2,
    control_pb2_grpc,
    dispatcher_pb2,
    dispatcher_pb2_grpc,
    objects_pb2,
    store_pb2,
    types_pb2,
)

DIGEST = "sha256:" + "a" * 64
HEARTBEAT_MS = 200
WORKER, MANAGER = types_pb2.ROLE_WORKER, types_pb2.ROLE_MANAGER
Denied = grpc.aio.AioRpcError


@pytest.fixture
def paths() -> Iterator[Paths]:
    """A short path: the socket's may have 107 bytes only."""
    directory = tempfile.mkdtemp(prefix="swm-")
    yield Paths(Path(directory) / "n1")
    shutil.rmtree(directory)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in servers]


def found(paths: Paths) -> None:
    """What `init` writes, for a manager on the loopback address; without its checks of the machine."""
    now_ms = time.time_ns() // 1_000_000
    cluster_id, node_id = identity.new_cluster_id(), identity.new_node_id()
    root = authority.new_root(cluster_id, now_ms)
    join_port, manager, agent, raft = free_ports(4)
    ports = Ports(join=join_port, manager=manager, agent=agent, raft=raft)
    config = NodeConfig(
        node_id=node_id, cluster_id=cluster_id, hostname="n1", role=node_config.MANAGER, advertise_addr="127.0.0.1",
        listen_addr="127.0.0.1", ports=ports, bootstrap=True,
    )  # fmt: skip
    options = daemon_setup.NodeOptions(paths.state, hostname="n1", ports=ports)
    cluster = daemon_setup.ClusterOptions(heartbeat_ms=HEARTBEAT_MS)
    first = store_pb2.Transaction()
    first.changes.add(put=store_pb2.Object(cluster=daemon_setup._cluster_object(config, cluster, root)))
    first.changes.add(put=store_pb2.Object(node=daemon_setup.first_node(config, options)))
    daemon_setup.make_state_dir(paths.state)
    certified(root, cluster_id, node_id, MANAGER).save(paths.certs)
    node_config.write_private(paths.bootstrap, first.SerializeToString())
    node_config.save(paths, config)


def certified(root: authority.Root, cluster_id: str, node_id: str, role: types_pb2.Role) -> identity.Identity:
    key, csr = identity.new_key_and_csr()
    pem = authority.issue(
        root, csr, node_id=node_id, cluster_id=cluster_id, role=role, now_ms=time.time_ns() // 1_000_000,
        lifetime_ms=3_600_000,
    )  # fmt: skip
    return identity.Identity.build(pem, key, root.certificate_pem)


class Running:
    """The manager and ways to call it."""

    def __init__(self, process: ManagerProcess) -> None:
        self.process = process
        self.store = process.store
        self.users = grpc.aio.insecure_channel(f"unix:{process.paths.control_socket}")
        self.control = control_pb2_grpc.ControlStub(self.users)
        self._channels = [self.users]

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(20):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within 20 s: {what}") from None

    def identity_of(self, node_id: str, role: types_pb2.Role) -> identity.Identity:
        cluster = self.store.cluster()
        assert cluster is not None
        root = authority.Root(cluster.root_certificate, cluster.root_key)
        return certified(root, cluster.meta.id, node_id, role)

    def channel(self, who: identity.Identity) -> grpc.aio.Channel:
        config = self.process.config
        channel = tls.channel(f"127.0.0.1:{config.ports.manager}", config.node_id, who)
        self._channels.append(channel)
        return channel

    async def new_node(self, hostname: str) -> str:
        """A node as the Join service makes it."""
        node = objects_pb2.Node(role=WORKER)
        node.meta.id, node.meta.name = identity.new_node_id(), hostname
        node.spec.role = WORKER
        node.description.hostname = hostname
        stored, _ = await self.process.control.leader_create(node, f"join-{hostname}")
        return stored.meta.id

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)


@contextlib.asynccontextmanager
async def manager(paths: Paths) -> AsyncIterator[Running]:
    if not paths.node_json.exists():
        found(paths)
    process = ManagerProcess(paths)
    task = asyncio.create_task(process.run())
    running = Running(process)
    try:
        await running.until(lambda: task.done() or process.leader.leading, "it leads")
        if task.done():
            task.result()
        await running.until(process.store.cluster, "the cluster is in the store")
        yield running
    finally:
        await running.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(paths: Paths, story: Callable[[Running], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with manager(paths) as running:
            await story(running)

    asyncio.run(main())


def service(name: str, replicas: int = 1) -> control_pb2.CreateRequest:
    made = objects_pb2.Service()
    made.meta.name = name
    made.spec.replicated.replicas = replicas
    made.spec.task.container.image = "web:1"
    made.spec.task.container.image_digest = DIGEST
    return control_pb2.CreateRequest(object=store_pb2.Object(service=made))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Denied) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def change(
    m: Running, request: control_pb2.GetRequest, edit: Callable[[store_pb2.Object], None]
) -> store_pb2.Object:
    """Read, edit, write; again where a planner wrote in between, as every client does."""
    while True:
        current = (await m.control.Get(request)).object
        edit(current)
        try:
            return (await m.control.Update(control_pb2.UpdateRequest(object=current))).object
        except Denied as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise


def get(name: str) -> control_pb2.GetRequest:
    return control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=name)


# ---- users


def test_create_read_update_delete(paths: Paths) -> None:
    async def story(m: Running) -> None:
        made = (await m.control.Create(service("web"))).object.service
        assert made.meta.version > 0
        assert (await m.control.Get(get("web"))).object.service.meta.id == made.meta.id
        assert (await m.control.Get(get(made.meta.id[:8]))).object.service.meta.id == made.meta.id

        def three(current: store_pb2.Object) -> None:
            current.service.spec.replicated.replicas = 3

        assert (await change(m, get("web"), three)).service.spec.replicated.replicas == 3
        await m.until(lambda: len(m.store.tasks_of_service(made.meta.id)) == 3, "three tasks planned")
        await m.control.Delete(control_pb2.DeleteRequest(kind=store_pb2.KIND_SERVICE, ref="web"))
        await m.until(lambda: m.store.service(made.meta.id) is None, "it is gone")
        assert (await refused(m.control.Get(get("web"))))[0] is grpc.StatusCode.NOT_FOUND

    run(paths, story)


def test_conflicts_and_wrong_input_are_told_apart(paths: Paths) -> None:
    async def story(m: Running) -> None:
        old = (await m.control.Create(service("web"))).object
        code, text = await refused(m.control.Create(service("web")))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert "'web'" in text
        await change(m, get("web"), lambda current: current.service.meta.labels.update({"a": "1"}))
        old.service.meta.labels["b"] = "1"
        assert (await refused(m.control.Update(control_pb2.UpdateRequest(object=old))))[
            0
        ] is grpc.StatusCode.ABORTED
        assert dict((await m.control.Get(get("web"))).object.service.meta.labels) == {"a": "1"}
        code, text = await refused(m.control.Create(service("Not A Name")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "name" in text
        node = store_pb2.Object(node=objects_pb2.Node())
        code, _ = await refused(m.control.Create(control_pb2.CreateRequest(object=node)))
        assert code is grpc.StatusCode.PERMISSION_DENIED

    run(paths, story)


def test_a_repeated_request_happens_once(paths: Paths) -> None:
    async def story(m: Running) -> None:
        network = objects_pb2.Network()
        network.meta.name = "one"
        request = control_pb2.CreateRequest(object=store_pb2.Object(network=network), request_id="r1")
        first = await m.control.Create(request)
        second = await m.control.Create(request)
        assert second.object.network.meta.id == first.object.network.meta.id
        assert [n.meta.name for n in m.store.networks()].count("one") == 1

    run(paths, story)


def test_secrets_of_the_cluster_do_not_leave(paths: Paths) -> None:
    async def story(m: Running) -> None:
        answer = await m.control.List(control_pb2.ListRequest(kind=store_pb2.KIND_CLUSTER))
        cluster = m.store.cluster()
        assert cluster is not None
        assert answer.objects
        data = answer.SerializeToString()
        assert cluster.root_key not in data
        assert cluster.manager_secret.encode() not in data
        assert cluster.worker_secret.encode() not in data

    run(paths, story)


def test_watch_lists_then_follows(paths: Paths) -> None:
    async def story(m: Running) -> None:
        await m.control.Create(service("before"))
        watch = m.control.Watch(control_pb2.WatchRequest(kinds=[store_pb2.KIND_SERVICE], initial_list=True))
        seen: list[tuple[int, str]] = []

        async def follow() -> None:
            async for event in watch:
                seen.append((event.action, event.object.service.meta.name))

        following = asyncio.create_task(follow())
        await m.until(lambda: (control_pb2.EVENT_SYNC, "") in seen, "the list is complete")
        assert (control_pb2.EVENT_CREATE, "before") in seen
        await m.control.Create(service("after"))
        await m.until(lambda: (control_pb2.EVENT_CREATE, "after") in seen, "a new one is told")
        await m.control.Delete(control_pb2.DeleteRequest(kind=store_pb2.KIND_SERVICE, ref="before"))
        await m.until(lambda: (control_pb2.EVENT_DELETE, "before") in seen, "a removal is told")
        watch.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(paths, story)


def test_everything_is_there_after_a_restart(paths: Paths) -> None:
    async def first(m: Running) -> None:
        await m.control.Create(service("kept"))

    async def second(m: Running) -> None:
        assert (await m.control.Get(get("kept"))).object.service.meta.name == "kept"
        assert m.store.epoch >= 2, "each leadership has an epoch of its own"

    run(paths, first)
    run(paths, second)


# ---- access


def test_who_may_call_what(paths: Paths) -> None:
    async def story(m: Running) -> None:
        worker = await m.new_node("w1")
        list_nodes = control_pb2.ListRequest(kind=store_pb2.KIND_NODE)

        async def code(who: identity.Identity) -> grpc.StatusCode:
            return (await refused(control_pb2_grpc.ControlStub(m.channel(who)).List(list_nodes, timeout=5)))[
                0
            ]

        assert await code(m.identity_of(worker, WORKER)) is grpc.StatusCode.PERMISSION_DENIED
        assert await code(m.identity_of("x" * 25, MANAGER)) is grpc.StatusCode.UNAUTHENTICATED, (
            "not in the store"
        )
        assert await code(m.identity_of(worker, MANAGER)) is grpc.StatusCode.PERMISSION_DENIED, (
            "no manager any more"
        )
        own = control_pb2_grpc.ControlStub(m.channel(m.identity_of(m.process.config.node_id, MANAGER)))
        assert len((await own.List(list_nodes, timeout=5)).objects) == 2

    run(paths, story)


def test_a_stranger_with_a_root_of_its_own_gets_no_connection(paths: Paths) -> None:
    async def story(m: Running) -> None:
        strange = authority.new_root(m.process.config.cluster_id, time.time_ns() // 1_000_000)
        who = certified(strange, m.process.config.cluster_id, m.process.config.node_id, MANAGER)
        config = m.process.config
        mixed = identity.Identity.build(who.certificate_pem, who.key_pem, strange.certificate_pem)
        channel = tls.channel(f"127.0.0.1:{config.ports.manager}", config.node_id, mixed)
        try:
            call = control_pb2_grpc.ControlStub(channel).Status(control_pb2.StatusRequest(), timeout=5)
            assert (await refused(call))[0] in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
        finally:
            await channel.close(None)

    run(paths, story)


# ---- nodes


class Node:
    """A node's side of the session, by hand."""

    def __init__(self, m: Running, node_id: str, *, hears_stored: bool = False) -> None:
        self.id = node_id
        self.stored_up_to = 0
        self.held: items.Items = {}
        self.stored = 0
        self.welcome: dispatcher_pb2.Welcome | None = None
        self.error: Denied | None = None
        self._up: asyncio.Queue[dispatcher_pb2.AgentMessage] = asyncio.Queue()
        self._call = dispatcher_pb2_grpc.DispatcherStub(m.channel(m.identity_of(node_id, WORKER))).Attach(
            self._drain()
        )
        hello = dispatcher_pb2.Hello(hears_stored=hears_stored)
        hello.description.hostname, hello.description.address = "w", "127.0.0.2"
        hello.description.data_path_address = "127.0.0.2"
        hello.description.resources.nano_cpus, hello.description.resources.memory_bytes = 4 * 10**9, 1 << 32
        hello.description.platform.os, hello.description.platform.architecture = "linux", "amd64"
        self.send(hello=hello)
        self.reading = asyncio.create_task(self._read())
        self.beating = asyncio.create_task(self._beat())

    def send(self, **message: Any) -> None:
        self._up.put_nowait(dispatcher_pb2.AgentMessage(**message))

    def report(self, task_id: str, state: types_pb2.TaskState, *, ready: bool = False) -> None:
        reports = dispatcher_pb2.Reports(sequence=7)
        reports.tasks.add(task_id=task_id, status=objects_pb2.TaskStatus(state=state, ready=ready))
        self.send(reports=reports)

    @property
    def tasks(self) -> list[str]:
        return [key.removeprefix("task/") for key in self.held if key.startswith("task/")]

    async def _drain(self) -> AsyncIterator[dispatcher_pb2.AgentMessage]:
        while True:
            yield await self._up.get()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                match message.WhichOneof("message"):
                    case "welcome":
                        self.welcome = message.welcome
                    case "assignments":
                        applied = items.apply(self.held, message.assignments)
                        assert applied is not None, "every delta fits"
                        self.held = applied
                    case "stored":
                        self.stored += 1
                    case "heartbeat":
                        self.stored_up_to = message.heartbeat.stored
        except Denied as error:
            self.error = error

    async def _beat(self) -> None:
        while True:
            self.send(heartbeat=dispatcher_pb2.Heartbeat())
            await asyncio.sleep(HEARTBEAT_MS / 1000)

    async def close(self) -> None:
        self.beating.cancel()
        self._call.cancel()
        self.reading.cancel()
        await asyncio.gather(self.beating, self.reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def attached(m: Running, hostname: str = "w1", *, hears_stored: bool = False) -> AsyncIterator[Node]:
    node = Node(m, await m.new_node(hostname), hears_stored=hears_stored)
    try:
        await m.until(lambda: state_of(m, node.id) == types_pb2.NODE_READY, "the node is ready")
        yield node
    finally:
        await node.close()


def state_of(m: Running, node_id: str) -> int:
    node = m.store.node(node_id)
    assert node is not None
    return node.status.state


def test_a_node_attaches_gets_its_set_and_goes_down_in_silence(paths: Paths) -> None:
    async def story(m: Running) -> None:
        async with attached(m) as node:
            await m.until(lambda: "node/self" in node.held and f"peer/{node.id}" in node.held, "its set came")
            assert node.welcome is not None
            assert node.welcome.heartbeat_ms == HEARTBEAT_MS
            await asyncio.sleep(HEARTBEAT_MS * 6 / 1000)
            assert state_of(m, node.id) == types_pb2.NODE_READY, "heartbeats keep it up"
            node.beating.cancel()
            await m.until(lambda: state_of(m, node.id) == types_pb2.NODE_DOWN, "silence makes it down")
            node.send(heartbeat=dispatcher_pb2.Heartbeat())
            await m.until(
                lambda: state_of(m, node.id) == types_pb2.NODE_READY, "a sign of life makes it ready again"
            )
            node.send(goodbye=dispatcher_pb2.Goodbye(reason="bye"))
            await m.until(
                lambda: state_of(m, node.id) == types_pb2.NODE_DOWN, "a goodbye makes it down at once"
            )

    run(paths, story)


def test_tasks_come_and_reported_states_only_grow(paths: Paths) -> None:
    async def story(m: Running) -> None:
        async with attached(m) as node, attached(m, "w2") as stranger:
            by_id = control_pb2.GetRequest(kind=store_pb2.KIND_NODE, ref=stranger.id)
            await change(m, by_id, drain)
            await m.control.Create(service("web"))
            await m.until(lambda: node.tasks, "the task came to the node")
            task_id = node.tasks[0]
            item = dispatcher_pb2.Item.FromString(node.held[f"task/{task_id}"])
            assert not item.task.HasField("status"), "a report must not come back as a change"

            def state() -> int:
                task = m.store.task(task_id)
                assert task is not None
                return task.status.state

            before = node.held[f"task/{task_id}"]
            node.report(task_id, types_pb2.TASK_RUNNING, ready=True)
            await m.until(lambda: node.stored == 1, "the report was stored")
            assert state() == types_pb2.TASK_RUNNING
            assert node.held[f"task/{task_id}"] == before
            service_id = next(iter(m.store.services())).meta.id
            await m.until(
                lambda: backends(node, service_id) == [task_id], "it takes traffic, every node knows"
            )
            await m.until(lambda: backends(stranger, service_id) == [task_id], "the other one too")
            node.report(task_id, types_pb2.TASK_STARTING)
            stranger.report(task_id, types_pb2.TASK_FAILED)
            await m.until(lambda: node.stored == 2 and stranger.stored == 1, "both were answered")
            assert state() == types_pb2.TASK_RUNNING, (
                "no step back, and nobody speaks for another node's task"
            )

    run(paths, story)


def test_a_node_that_hears_it_there_is_told_with_a_heartbeat_what_is_stored(paths: Paths) -> None:
    async def story(m: Running) -> None:
        async with attached(m, hears_stored=True) as node:
            node.report("nobody's", types_pb2.TASK_RUNNING)
            await m.until(lambda: node.stored_up_to == 7, "a heartbeat's answer said so")
            assert node.stored == 0, "no message of its own"

    run(paths, story)


def drain(current: store_pb2.Object) -> None:
    current.node.spec.availability = types_pb2.AVAILABILITY_DRAIN


def backends(node: Node, service_id: str) -> list[str]:
    data = node.held.get(f"endpoints/{service_id}")
    item = dispatcher_pb2.Item.FromString(data) if data else dispatcher_pb2.Item()
    return [backend.task_id for backend in item.endpoints.backends]


def test_a_removed_node_loses_its_stream_and_cannot_come_back(paths: Paths) -> None:
    async def story(m: Running) -> None:
        async with attached(m) as node:
            request = control_pb2.DeleteRequest(kind=store_pb2.KIND_NODE, ref=node.id)
            code, text = await refused(m.control.Delete(request))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "--force" in text
            request.force = True
            await m.control.Delete(request)
            await m.until(lambda: node.error, "its stream ends")
            assert node.error is not None
            assert node.error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "was removed from the cluster" in (node.error.details() or "")
            code = grpc.StatusCode.INTERNAL
            while code is grpc.StatusCode.INTERNAL:  # grpc's client was still sending when it was refused
                again = Node(m, node.id)
                await m.until(lambda: again.error, "a new stream is refused")  # noqa: B023
                assert again.error is not None
                code = again.error.code()
                await again.close()
            assert code is grpc.StatusCode.UNAUTHENTICATED

    run(paths, story)
