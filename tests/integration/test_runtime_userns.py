"""Containers with ids of their own (--userns auto): root inside is nobody on the node, files stay as they are."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.runtime import Runtime, StartRejected, copying, system, userns
from swarmpy.node.runtime.request import ContainerRequest
from swarmpy.proto import types_pb2

from tests.integration.test_runtime_containers import RUNTIMES, Box, lines, opened, run
from tests.integration.test_runtime_containers import pytestmark as pytestmark


@pytest.fixture(params=RUNTIMES or ["crun"])
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """Where others may go through, as below /run: pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="swarmpy-test-") as name:
        base = Path(name)
        base.chmod(0o711)
        yield from opened(base, request.param)
        assert not (base / "ids").exists()


async def made(runtime: Runtime, box: Box, name: str, *command: str, **more: Any) -> ContainerRequest:
    netns = box.base / f"net-{name}"
    ids = await runtime.pin_user(name, {"net": netns})
    request = replace(box.request(name, *command, userns="auto", **more), ids=ids, netns=netns)
    await runtime.create(request)
    await runtime.start(name)
    return request


async def gone(runtime: Runtime, box: Box, name: str) -> None:
    await runtime.remove(name)
    userns.release_pin(box.base / f"net-{name}")


async def output(runtime: Runtime, box: Box, name: str, *command: str, **more: Any) -> list[str]:
    await made(runtime, box, name, *command, **more)
    await runtime.wait(name)
    text = [line.decode() for line in await lines(runtime, name)]
    await gone(runtime, box, name)
    return text


def test_root_inside_is_nobody_outside(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        request = await made(runtime, box, "a", "sleep", "1000")
        assert request.ids is not None
        pid = runtime.inside("a").pid
        assert Path(f"/proc/{pid}").stat().st_uid == request.ids.first
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(request.ids.first), "65536"]
        other = await made(runtime, box, "b", "sleep", "1000")
        assert other.ids is not None
        assert abs(other.ids.first - request.ids.first) >= 65_536
        said = (await runtime.exec("a", ["sh", "-c", "id -u; cat /proc/self/uid_map"], timeout_s=20)).output
        assert said.split()[0] == b"0"
        for name in ("a", "b"):
            await gone(runtime, box, name)

    run(box, story)


def test_files_keep_their_owners(box: Box, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "own").write_text("x")
    os.chown(shared / "own", 1000, 1000)

    async def story(runtime: Runtime) -> None:
        script = (
            "stat -c '%u:%g %n' / /bin/busybox /etc/passwd /etc/hosts /m/own; "
            "echo new > /m/made; echo hi >> /etc/hosts && echo hosts; touch /etc/passwd && echo copied; "
            "stat -c %u /etc/passwd; echo out > /dev/stdout; ls -n /dev/shm /tmp > /dev/null && echo end"
        )
        mount = types_pb2.Mount(source=str(shared), target="/m")
        said = await output(runtime, box, "a", "sh", "-c", script, mounts=[mount])
        assert said == [
            "0:0 /", "0:0 /bin/busybox", "0:0 /etc/passwd", "0:0 /etc/hosts", "1000:1000 /m/own",
            "hosts", "copied", "0", "out", "end",
        ]  # fmt: skip
        assert (shared / "made").stat().st_uid == 0
        assert stat.S_IMODE((box.layer / "etc").stat().st_mode) & 0o700 == 0o700

    run(box, story)


def test_a_user_of_the_image_and_a_new_anonymous_volume(box: Box) -> None:
    web = box.layer / "var/web"
    web.mkdir(parents=True)
    (web / "index").write_text("hello")
    for path in (web, web / "index"):
        os.chown(path, 1000, 1000)

    async def story(runtime: Runtime) -> None:
        mount = types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, target="/var/web")
        script = "id; cat /var/web/index; stat -c %u:%g /var/web /var/web/index; touch /var/web/mine && echo written"
        said = await output(runtime, box, "a", "sh", "-c", script, user="web", mounts=[mount])
        assert said[0].startswith("uid=1000(web) gid=1000(web)")
        assert said[1:] == ["hello1000:1000", "1000:1000", "written"]

    run(box, story)


def test_its_network_is_its_own_and_sysctls_can_be_set(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        script = (
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/core/somaxconn; ls /sys/class/net; "
            "ip link add d0 type dummy 2>&1 && echo made"
        )
        said = await output(
            runtime, box, "a", "sh", "-c", script, sysctls={"net.core.somaxconn": "77"}, cap_add=["NET_ADMIN"]
        )
        assert said[:3] == ["0", "77", "lo"]

    run(box, story)


def test_the_node_is_out_of_reach_even_with_all_capabilities(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        script = (
            "mount -t tmpfs none /tmp 2>/dev/null && echo mounted; "
            "echo core > /proc/sys/kernel/core_pattern 2>/dev/null && echo pattern; "
            "dd if=/dev/zero of=/proc/sys/vm/drop_caches bs=1 count=1 2>/dev/null && echo caches; echo end"
        )
        said = await output(
            runtime,
            box,
            "a",
            "sh",
            "-c",
            script,
            cap_add=["ALL"],
            seccomp="unconfined",
            allow_new_privileges=True,
        )
        assert "pattern" not in said
        assert "caches" not in said
        assert "end" in said

    run(box, story)


def test_a_range_is_given_back_also_of_a_container_that_never_was(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        ids = await runtime.pin_user("a", {})
        assert await runtime.pin_user("a", {}) == ids
        assert len(list((box.base / "ids").iterdir())) == 1
        await runtime.remove("a")
        assert list((box.base / "ids").iterdir()) == []
        await runtime.pin_user("b", {})
        await runtime.close()
        again = box.make()
        await again.open()  # met by nobody's record: swept
        assert list((box.base / "ids").iterdir()) == []
        assert system.mounts_below(box.base / "run") == []
        await again.close()

    run(box, story)


def test_neighbours_on_one_machine_never_share_a_range(tmp_path: Path) -> None:
    places = [userns.Places(tmp_path / "ids", tmp_path / owner, owner) for owner in ("one", "two")]
    for place in places:
        place.make()
    taken = [userns.take(place, f"c{number}").first for place in places for number in range(200)]
    assert len(set(taken)) == 400
    (tmp_path / "one/c0").mkdir()
    userns.sweep(places[0], {"c1"})
    left = {os.readlink(link) for link in (tmp_path / "ids").iterdir()}
    assert left == {"one/c1", *(f"two/c{number}" for number in range(200))}


def test_what_cannot_be_shifted_is_refused(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        mount = types_pb2.Mount(source="/proc/sys", target="/m")
        with pytest.raises(StartRejected, match=r"mount /m: cannot shift the ids of /proc/sys"):
            await made(runtime, box, "a", "true", mounts=[mount])
        await gone(runtime, box, "a")

    run(box, story)


def test_adopted_with_its_ids(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        await made(runtime, box, "a", "sleep", "1000")
        await runtime.close()
        again = box.make()
        assert [found.id for found in await again.open()] == ["a"]
        assert len(list((box.base / "ids").iterdir())) == 1
        assert (await again.exec("a", ["echo", "hi"], timeout_s=20)).output == b"hi\n"
        await gone(again, box, "a")
        await again.close()
        await asyncio.sleep(0)

    run(box, story)


def test_files_are_copied_with_the_ids_of_inside(box: Box) -> None:
    async def story(runtime: Runtime) -> None:
        volume = types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, target="/volume")
        await made(runtime, box, "a", "sleep", "1000", mounts=[volume])
        inside, pack = runtime.inside("a"), io.BytesIO()
        with tarfile.open(fileobj=pack, mode="w") as tar:
            member = tarfile.TarInfo("file")
            member.size, member.uid, member.gid = 2, 1000, 1000
            tar.addfile(member, io.BytesIO(b"hi"))
        for name, keep in (("/tmp/root", False), ("/tmp/web", True)):
            copying.receive(inside, name, io.BytesIO(pack.getvalue()), keep_owner=keep)
        said = (
            await runtime.exec("a", ["stat", "-c", "%u:%g", "/tmp/root", "/tmp/web"], timeout_s=20)
        ).output
        assert said.split() == [b"0:0", b"1000:1000"]
        with pytest.raises(StartRejected, match="exec -i TASK tar"):
            copying.receive(inside, "/volume/a", io.BytesIO(pack.getvalue()))
        back = io.BytesIO()
        copying.send(inside, "/tmp/web", back)
        back.seek(0)
        with tarfile.open(fileobj=back) as tar:
            assert [(entry.name, entry.uid) for entry in tar] == [("web", 1000)]
        await gone(runtime, box, "a")

    run(box, story)
