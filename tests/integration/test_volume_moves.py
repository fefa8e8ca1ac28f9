"""One agent gives a volume to another over gRPC: rounds, the last difference, deaths, full disks, meddlers.

The managers are played by hand: each step of a move is an assignment.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from swarmpy.node.agent import volume_copy
from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.serve_volumes import AgentVolumesService
from swarmpy.node.agent.volumes import AgentVolumes
from swarmpy.node.volume import kernel
from swarmpy.node.volume.local import LocalVolumes, Wanted
from swarmpy.proto import dispatcher_pb2, objects_pb2, volumes_pb2, volumes_pb2_grpc

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and mounts"),
]
KEEP, RECEIVE, DROP = (
    dispatcher_pb2.VOLUME_KEEP,
    dispatcher_pb2.VOLUME_RECEIVE,
    dispatcher_pb2.VOLUME_DROP,
)
SYNCED, COPIED = objects_pb2.VOLUME_SYNCED, objects_pb2.VOLUME_COPIED
FAILED, ABSENT = objects_pb2.VOLUME_FAILED, objects_pb2.VOLUME_ABSENT


class Service(AgentVolumesService):
    """Here nobody has a certificate; who may ask is tested on a whole cluster."""

    def _check_target(self, volume_id: str, move: int) -> None:
        pass


class Node:
    def __init__(self, top: Path) -> None:
        self.top = top
        self.changed = asyncio.Event()
        self.address = ""
        self.largest = 0  # round that was reported
        self.start()

    def start(self) -> None:
        self.volumes = AgentVolumes(
            LocalVolumes(self.top), lambda address, _: grpc.aio.insecure_channel(address), self.changed.set
        )

    async def serve(self) -> grpc.aio.Server:
        server = grpc.aio.server()
        volumes_pb2_grpc.add_AgentVolumesServicer_to_server(Service(self.volumes), server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        return server

    def assign(self, part: int, **more: object) -> None:
        volume = dispatcher_pb2.VolumeAssignment(id="v", name="data", part=part, move=1, **more)  # type: ignore[arg-type]
        self.volumes.apply(Picture(volumes={"v": volume}))

    async def said(self, *states: int) -> objects_pb2.VolumeReport:
        """The report, once it is one of these states."""
        async with asyncio.timeout(20):
            while True:
                self.changed.clear()
                report = self.volumes.reports()[0]
                self.largest = max(self.largest, report.total_bytes)
                if report.state in states:
                    return report
                await self.changed.wait()


@asynccontextmanager
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Path]]:
    """A source that keeps a volume with something in it, a target, and the source's contents."""
    source, target = Node(tmp_path / "a"), Node(tmp_path / "b")
    server = await source.serve()
    try:
        for node in (source, target):
            await node.volumes.open()
        source.assign(KEEP, to_id="b")
        content = await source.volumes.local.use(Wanted("v", "data"), "task")
        (content / "note").write_text("one")
        (content / "big").write_bytes(random.Random(1).randbytes(20 << 20))
        yield source, target, content
    finally:
        await target.volumes.close()
        await server.stop(0)
        await source.volumes.close()
        for point in kernel.mounts_at_or_below(tmp_path):
            kernel.umount(point, detach=True)


Story = Callable[[Node, Node, Path], Awaitable[None]]


def run(tmp_path: Path, story: Story) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (source, target, content):
            await story(source, target, content)

    asyncio.run(main())


def receive(source: Node, target: Node, *, final: bool = False) -> None:
    target.assign(RECEIVE, from_id="a", from_address=source.address, final=final)


def test_the_last_difference_follows_and_the_source_drops_its_copy(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        receive(source, target)
        await target.said(SYNCED)
        assert not target.volumes.local.holds("v"), "half a copy is no volume"
        (content / "note").write_text("two")
        (content / "new").write_text("new")
        (content / "big").unlink()
        await source.volumes.release("task")
        receive(source, target, final=True)
        await target.said(COPIED)
        copy = target.volumes.local.content("v")
        assert {path.name: path.read_text() for path in copy.iterdir()} == {"note": "two", "new": "new"}
        source.assign(DROP)
        target.assign(KEEP, exists=True)
        await source.said(ABSENT)
        assert list(source.top.iterdir()) == []
        assert await target.volumes.local.use(Wanted("v", "data", exists=True), "task") == copy
        assert [path.name for path in target.top.iterdir()] == ["v"]

    run(tmp_path, story)


def test_an_agent_that_died_goes_on_from_its_last_round(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        await asyncio.sleep(0.1)  # so that the files are not young any more
        receive(source, target)
        await target.said(SYNCED)
        assert target.largest >= 20 << 20
        await target.volumes.close()
        target.largest = 0
        target.start()
        await target.volumes.open()
        (content / "note").write_text("two")
        receive(source, target)
        await target.said(SYNCED)
        assert target.largest < 1 << 20, "what it has is not fetched again"
        await source.volumes.release("task")
        receive(source, target, final=True)
        await target.said(COPIED)
        await target.volumes.close()
        target.start()
        await target.volumes.open()
        receive(source, target, final=True)
        await target.said(COPIED)  # it had told nobody yet
        copy = target.volumes.local.content("v")
        assert (copy / "note").read_text() == "two"
        assert (copy / "big").read_bytes() == (content / "big").read_bytes()

    run(tmp_path, story)


def test_a_full_disk_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    kernel.mount("tmpfs", tmp_path / "b", "tmpfs", 0, "size=8m")

    async def story(source: Node, target: Node, content: Path) -> None:
        receive(source, target)
        report = await target.said(FAILED)
        assert "no space is left for volume data" in report.message
        target.assign(DROP)
        await target.said(ABSENT)
        assert list(target.top.iterdir()) == []
        assert (content / "note").read_text() == "one"

    run(tmp_path, story)


def test_the_last_copy_waits_until_nothing_uses_the_source(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        receive(source, target, final=True)
        await asyncio.sleep(1.5)
        assert target.volumes.reports()[0].state == SYNCED, "a container still has it"
        await source.volumes.release("task")
        await target.said(COPIED)

    run(tmp_path, story)


def test_a_restore_and_the_last_copy_do_not_meet(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        async with grpc.aio.insecure_channel(source.address) as channel:
            stub = volumes_pb2_grpc.AgentVolumesStub(channel)
            broken_off = asyncio.Event()

            async def requests() -> AsyncIterator[volumes_pb2.VolumeRestoreRequest]:
                start = volumes_pb2.VolumeRequest(volume="v")
                yield volumes_pb2.VolumeRestoreRequest(start=start)
                await broken_off.wait()

            with pytest.raises(grpc.aio.AioRpcError, match="being moved"):
                await stub.Restore(requests())
            source.assign(KEEP)
            restore = asyncio.ensure_future(stub.Restore(requests()))
            await asyncio.sleep(0.5)
            source.assign(KEEP, to_id="b")
            await source.volumes.release("task")
            receive(source, target, final=True)
            await asyncio.sleep(1.5)
            assert target.volumes.reports()[0].state == SYNCED, "what is restored would not be in it"
            broken_off.set()
            with pytest.raises(grpc.aio.AioRpcError):
                await restore
            await target.said(COPIED)

    run(tmp_path, story)


def test_somebody_who_goes_on_writing_ends_it(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        async def meddle() -> None:
            while True:
                (content / "note").write_text(str(random.random()))
                await asyncio.sleep(0.01)

        meddler = asyncio.create_task(meddle())
        await source.volumes.release("task")
        receive(source, target, final=True)
        report = await target.said(FAILED, COPIED)
        meddler.cancel()
        assert report.state == FAILED
        assert "outside the cluster" in report.message

    run(tmp_path, story)


def test_a_source_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_copy, "PATIENCE_S", 1.0)
    monkeypatch.setattr(volume_copy, "PAUSE_S", 0.1)

    async def story(source: Node, target: Node, content: Path) -> None:
        source.address = "127.0.0.1:1"
        receive(source, target)
        report = await target.said(FAILED)
        assert "has not given it for 1 s" in report.message

    run(tmp_path, story)


def test_another_wish_ends_a_copy_under_way(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        receive(source, target)
        await asyncio.sleep(0.05)
        target.assign(DROP)
        await target.said(ABSENT)
        assert list(target.top.iterdir()) == []

    run(tmp_path, story)


def test_restores_that_break_off_or_meet_change_nothing(tmp_path: Path) -> None:
    async def story(source: Node, target: Node, content: Path) -> None:
        async with grpc.aio.insecure_channel(source.address) as channel:
            stub = volumes_pb2_grpc.AgentVolumesStub(channel)
            archive = [
                message.data
                async for message in stub.Backup(volumes_pb2.VolumeRequest(volume="v"))
                if message.WhichOneof("message") == "data"
            ]
            (content / "note").write_text("two")
            source.assign(KEEP)
            released = asyncio.Event()

            async def requests(*, whole: bool) -> AsyncIterator[volumes_pb2.VolumeRestoreRequest]:
                start = volumes_pb2.VolumeRequest(volume="v")
                yield volumes_pb2.VolumeRestoreRequest(start=start)
                for data in archive:
                    yield volumes_pb2.VolumeRestoreRequest(data=data)
                await released.wait()
                if whole:
                    yield volumes_pb2.VolumeRestoreRequest(end=True)

            first = asyncio.ensure_future(stub.Restore(requests(whole=False)))
            await asyncio.sleep(0.5)
            with pytest.raises(grpc.aio.AioRpcError) as met:
                await stub.Restore(requests(whole=True))
            assert "being restored already" in str(met.value.details())
            released.set()
            with pytest.raises(grpc.aio.AioRpcError) as broken:
                await first
            assert "nothing was changed" in str(broken.value.details())
            assert (content / "note").read_text() == "two"
            assert (await stub.Restore(requests(whole=True))).files == 2
            assert (content / "note").read_text() == "one"
            usage = await stub.Usage(volumes_pb2.VolumeRequest(volume="v"))
            assert (usage.files, usage.users, usage.present) == (2, 1, True)
        assert [path.name for path in content.parent.iterdir()] == ["data"]

    run(tmp_path, story)
