"""Secrets and configs in real containers: who reads them, how they outlive an agent, that no disk has them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from swarmpy.node import payloads
from swarmpy.node.agent.payloads import AgentPayloads
from swarmpy.node.config import Paths
from swarmpy.node.runtime import ContainerRequest, Runtime, system
from swarmpy.node.volume import memory
from swarmpy.node.volume.errors import VolumeFailure
from swarmpy.proto import payloads_pb2, types_pb2

from tests.integration.test_runtime_containers import Box, auto_box, box, lines, output, pytestmark, run
from tests.integration.test_runtime_userns import box as shifted_box

__all__ = ["auto_box", "box", "pytestmark", "shifted_box"]
CANARY = "canary-" + "4be1" * 4
NO_VALUES: dict[str, str] = {}


class Managers:
    """What nodes fetch from."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, use: payloads.Use) -> payloads_pb2.PayloadResponse:
        self.asked += 1
        template = "golang" if use.reference.source == "template" else ""
        text = "slot {{.Task.Slot}}\n" if template else f"{CANARY}-{use.reference.source}\n"
        if use.reference.source == "script":
            text = "#!/bin/sh\necho started by a config\n"
        return payloads_pb2.PayloadResponse(data=text.encode(), template_driver=template)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """Where a node's files are; unmounted whatever its test did."""
    place = tmp_path / "payloads"
    yield place
    memory.close(place)
    assert not place.exists()
    assert place not in system.mounts_below(tmp_path)


def files_of(box: Box) -> list[Path]:
    """Everything on disk: not what is mounted somewhere below."""
    points = set(system.mounts_below(box.base))
    found = []
    for directory, names, files in os.walk(box.base):
        names[:] = [name for name in names if Path(directory, name) not in points]
        paths = (Path(directory, name) for name in files)
        found += [path for path in paths if path.is_file() and not path.is_symlink()]
    return found


Give = Callable[[ContainerRequest], Awaitable[ContainerRequest]]


def giving(held: AgentPayloads, values: dict[str, str] = NO_VALUES) -> Give:
    async def give(request: ContainerRequest) -> ContainerRequest:
        return replace(request, files=await held.give(request.id, "main", request.spec, values, request.ids))

    return give


def references(request: ContainerRequest, kind: str, *wanted: types_pb2.FileReference) -> ContainerRequest:
    getattr(request.spec, kind).extend(wanted)
    return request


def test_files_are_where_they_should_be_with_their_owners(box: Box, top: Path) -> None:
    """Also below a file system in memory of the container's own, and with a read-only root."""
    script = (
        "cat /run/secrets/token /etc/app/conf /template; stat -c '%u:%g %a' /run/secrets/token /etc/app/conf; "
        "echo x > /run/secrets/token || echo refused; /etc/app/conf || echo ran"
    )
    request = box.request("a", "sh", "-c", script, read_only=True, user="1000:1000")
    request.spec.mounts.add(type=types_pb2.MOUNT_TMPFS, target="/run")
    references(request, "secrets", types_pb2.FileReference(source="token", uid=1000, gid=2000, mode=0o400))
    references(
        request, "configs", types_pb2.FileReference(source="conf", target="/etc/app/conf", mode=0o755),
        types_pb2.FileReference(source="template"),
    )  # fmt: skip

    async def story(runtime: Runtime) -> None:
        held = AgentPayloads(top, Managers())
        held.open(())
        text = await output(runtime, await giving(held, {".Task.Slot": "7"})(request))
        assert text[:3] == [f"{CANARY}-token", f"{CANARY}-conf", "slot 7"]
        assert text[3:5] == ["1000:2000 400", "0:0 755"]
        assert "refused" in text
        assert any("not found" in line for line in text), (
            "a config of mode 755 is run, as its first word is not"
        )
        held.release("a")
        assert list(top.iterdir()) == []

    run(box, story)


def test_a_config_may_be_what_is_run(box: Box, top: Path) -> None:
    request = box.request("a", "/start")
    references(request, "configs", types_pb2.FileReference(source="script", target="/start", mode=0o555))

    async def story(runtime: Runtime) -> None:
        held = AgentPayloads(top, Managers())
        held.open(())
        assert await output(runtime, await giving(held)(request)) == ["started by a config"]

    run(box, story)


def test_root_of_a_user_namespace_reads_them(shifted_box: Box) -> None:
    paths = Paths(Path("/var/lib/swarmpy"))
    assert paths.payloads.parent == paths.run, "where the ids of a user namespace come through"
    top = shifted_box.base / "payloads"

    async def story(runtime: Runtime) -> None:
        held = AgentPayloads(top, Managers())
        held.open(())
        ids = await runtime.pin_user("a", {})
        request = shifted_box.request(
            "a", "sh", "-c", "cat /run/secrets/token; stat -c '%u:%g' /run/secrets/token", ids=ids,
            own_network=True, userns="auto",
        )  # fmt: skip
        references(request, "secrets", types_pb2.FileReference(source="token", uid=5, gid=6, mode=0o440))
        try:
            assert await output(runtime, await giving(held)(request)) == [f"{CANARY}-token", "5:6"]
        finally:
            memory.close(top)

    run(shifted_box, story)


def test_nothing_of_it_is_on_a_disk_and_a_new_agent_finds_it(auto_box: Box, top: Path) -> None:
    """Killed, an agent leaves the mount; the next one keeps the files of the tasks it knows."""
    managers = Managers()
    request = auto_box.request(
        "a", "sh", "-c", "while ! test -e /go; do sleep 0.1; done; cat /run/secrets/token"
    )
    references(request, "secrets", types_pb2.FileReference(source="token"))

    async def story(runtime: Runtime) -> None:
        held = AgentPayloads(top, managers)
        held.open(())
        await runtime.create(await giving(held)(request))
        await giving(held)(auto_box.request("b"))
        await runtime.start("a")
        assert not [path for path in files_of(auto_box) if CANARY.encode() in path.read_bytes()]
        assert CANARY in (top / "a" / "main.secret.0").read_text()
        assert (top / "a").stat().st_mode & 0o777 == 0o700
        again = AgentPayloads(top, managers)
        again.open({"a"})
        await giving(again)(request)
        assert managers.asked == 1, "what it has is not fetched again"
        await runtime.exec("a", ["touch", "/go"], timeout_s=20)
        await runtime.wait("a")
        assert await lines(runtime, "a") == [f"{CANARY}-token".encode()]
        await runtime.remove("a")
        AgentPayloads(top, managers).open(())
        assert list(top.iterdir()) == [], "a task that is gone leaves nothing"

    run(auto_box, story)


def test_after_a_reboot_it_is_fetched_again_and_never_written_beside_the_mount(top: Path) -> None:
    managers = Managers()
    container = types_pb2.ContainerSpec()
    container.secrets.add(source="token")

    async def story() -> None:
        held = AgentPayloads(top, managers)
        held.open(())
        await held.give("a", "main", container, NO_VALUES, None)
        system.umount(top, detach=True)
        with pytest.raises(VolumeFailure, match="not mounted"):
            await held.give("a", "main", container, NO_VALUES, None)
        assert list(top.iterdir()) == []
        held.open({"a"})
        [given] = await held.give("a", "main", container, NO_VALUES, None)
        assert given.source.read_text() == f"{CANARY}-token\n"
        assert managers.asked == 3

    asyncio.run(story())
