"""Volumes on a real disk: made, limited, mounted, removed; after crashes; never through a mount."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from swarmpy.node.volume import kernel, tree
from swarmpy.node.volume.errors import VolumeBusy, VolumeError, VolumeFailure, VolumeLost, VolumeRejected
from swarmpy.node.volume.local import LocalVolumes, Wanted, volumes_in

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, mounts and loop devices"),
]
MIB = 1 << 20


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "volumes"
    for point in kernel.mounts_at_or_below(tmp_path):
        kernel.umount(point, detach=True)


def all_let_go(top: Path) -> bool:
    """A container that is being made anywhere on the machine may hold a mount for a moment."""
    for _ in range(100):
        if not loops(top):
            return True
        time.sleep(0.1)
    return False


def run(top: Path, story: Callable[[LocalVolumes], Awaitable[None]]) -> None:
    async def main() -> None:
        volumes = LocalVolumes(top)
        await volumes.open()
        await story(volumes)

    asyncio.run(main())


def named(name: str, exists: bool = False, **options: str) -> Wanted:
    return Wanted(f"id-{name}", name, options, exists=exists)


def loops(top: Path) -> list[str]:
    backing = Path("/sys/block").glob("loop*/loop/backing_file")
    return [path.read_text().strip() for path in backing if str(top) in path.read_text()]


def test_made_used_and_removed(top: Path) -> None:
    async def story(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("data"), "c1")
        (content / "file").write_text("kept")
        assert await volumes.use(named("data", exists=True), "c2") == content
        with pytest.raises(VolumeBusy, match="2 containers"):
            await volumes.drop("id-data")
        await volumes.release("c1")
        await volumes.release("c2")
        assert (content / "file").read_text() == "kept", "a volume outlives its containers"
        again = LocalVolumes(top)
        await again.open()
        assert volumes_in(top) == ["data"]
        await again.use(named("data", exists=True), "looker")
        assert (await again.usage("id-data")).files == 1
        await again.release("looker")
        await again.drop("id-data")
        assert list(top.iterdir()) == []
        with pytest.raises(VolumeLost, match="gone from this node"):
            await again.use(named("data", exists=True), "c3")
        assert list(top.iterdir()) == [], "nothing takes the place of what was lost"

    run(top, story)


@pytest.mark.parametrize("left", [".new-id-x", ".gone-id-x"])
def test_what_a_crash_left_half_is_cleared(top: Path, left: str) -> None:
    async def first(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("x", size="4m"), "c")
        (content / "file").write_text("text")
        await volumes.release("c")

    run(top, first)
    (top / "id-x").rename(top / left)
    kernel.mount_image(top / left / "image", top / left / "fs", "ext4")

    async def second(volumes: LocalVolumes) -> None:
        assert not volumes.holds("id-x")
        assert list(top.iterdir()) == []

    run(top, second)
    assert all_let_go(top), "no loop device is left"


def test_loop_file_limits_and_is_mounted_while_it_is_used(top: Path) -> None:
    async def story(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("small", size="8m"), "c1")
        assert volumes.records["id-small"].kind == "image"
        with pytest.raises(OSError) as full, (content / "big").open("wb") as file:
            for _ in range(64):
                file.write(os.urandom(MIB))
                file.flush()
        assert full.value.errno == errno.ENOSPC
        assert shutil.disk_usage(top).free > 64 * MIB, "the node's own disk is not full"
        (content / "big").unlink()
        (content / "file").write_text("kept")
        await volumes.release("c1")
        assert all_let_go(top), "unmounted with its last user"
        content = await volumes.use(named("small", exists=True, size="8m"), "c2")
        assert (content / "file").read_text() == "kept"
        again = LocalVolumes(top)  # the agent was killed: its containers and mounts are still there
        await again.open()
        again.adopt({"id-small": {"c2"}})
        await again.release_unused()
        assert (again.content("id-small") / "file").read_text() == "kept"
        await again.release("c2")
        await again.drop("id-small")
        assert list(top.iterdir()) == []

    run(top, story)
    assert all_let_go(top)


def test_loop_file_that_lives_on_in_another_mount_namespace(top: Path) -> None:
    """As in that of a container which was being made when the volume was unmounted."""

    async def story(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("small", size="8m"), "c1")
        (content / "file").write_text("before")
        with subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; exec sleep 60"], stdout=-1) as other:
            assert other.stdout is not None
            other.stdout.readline()
            try:
                (content / "file").write_text("kept")
                await volumes.release("c1")
                assert len(loops(top)) == 1
                content = await volumes.use(named("small", exists=True, size="8m"), "c2")
                assert (content / "file").read_text() == "kept"
                (content / "more").write_text("more")
                assert len(loops(top)) == 1, "one file system on one device"
            finally:
                other.kill()
        await volumes.release("c2")
        content = await volumes.use(named("small", exists=True, size="8m"), "c3")
        assert sorted(path.name for path in content.iterdir()) == ["file", "more"]
        await volumes.release("c3")
        await volumes.drop("id-small")

    run(top, story)
    assert all_let_go(top)


def test_no_space_for_a_loop_file(top: Path) -> None:
    top.mkdir()
    kernel.mount("tmpfs", top, "tmpfs", 0, "size=4m")

    async def story(volumes: LocalVolumes) -> None:
        with pytest.raises(VolumeFailure, match="No space left"):
            await volumes.use(named("large", size="64m"), "c")
        assert list(top.iterdir()) == []
        assert shutil.disk_usage(top).used == 0

    run(top, story)


def test_project_quota_where_the_file_system_has_it(top: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "quota,project", "-E", "quotatype=prjquota", str(image)],
        check=True,
    )
    top.mkdir()
    try:
        subprocess.run(
            ["mount", "-o", "loop,prjquota", str(image), str(top)], check=True, capture_output=True
        )
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel has no project quotas: {error.stderr.decode().strip()}")

    async def story(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("limited", size="4m"), "c")
        record = volumes.records["id-limited"]
        assert record.kind == "quota"
        with pytest.raises(OSError) as full:
            (content / "big").write_bytes(os.urandom(8 * MIB))
        assert full.value.errno in {errno.EDQUOT, errno.ENOSPC}
        (top / "elsewhere").write_bytes(os.urandom(8 * MIB))
        assert kernel.project_usage(top, record.project)[1] == 4 * MIB
        await volumes.release("c")
        await volumes.drop("id-limited")
        assert kernel.project_usage(top, record.project) == (0, 0)

    run(top, story)


def test_tmpfs_comes_and_goes_with_its_users(top: Path) -> None:
    async def story(volumes: LocalVolumes) -> None:
        wanted = named("fast", type="tmpfs", device="tmpfs", o="size=1m,mode=1770,uid=7")
        content = await volumes.use(wanted, "c1")
        assert content.stat().st_uid == 7
        assert shutil.disk_usage(content).total == MIB
        await volumes.use(wanted, "c2")
        await volumes.release("c1")
        assert kernel.mounts_at_or_below(content) == [content]
        await volumes.release("c2")
        assert list(top.iterdir()) == []

    run(top, story)


def test_removal_stops_at_mounts(top: Path, tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file").write_text("kept")

    async def story(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("bound", type="none", device=str(other), o="bind"), "c")
        assert (content / "file").read_text() == "kept"
        again = LocalVolumes(top)  # killed while it was used; now it is to be dropped
        await again.open()
        await again.drop("id-bound")
        assert list(top.iterdir()) == []
        assert (other / "file").read_text() == "kept"
        content = await again.use(named("plain"), "c2")
        (content / "inner").mkdir()
        kernel.mount(str(other), content / "inner", "", kernel.MS_BIND, "")
        await again.release("c2")
        await again.drop("id-plain")
        assert (other / "file").read_text() == "kept"

    run(top, story)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "nosuchfs", "device": "x"}, "no such file system: load its module"),
        ({"type": "ext4", "device": "/dev/nothing"}, "no such device"),
        ({"type": "none", "device": "/no/such/place", "o": "bind"}, "no such device, directory"),
        ({"type": "nfs", "device": "nobody.invalid:/x", "o": "vers=4"}, "has no address"),
    ],
)
def test_mounts_that_cannot_be_say_why(top: Path, options: dict[str, str], words: str) -> None:
    async def story(volumes: LocalVolumes) -> None:
        with pytest.raises(VolumeError, match=words) as refused:
            await volumes.use(named("odd", **options), "c")
        assert "odd" in str(refused.value)
        assert not volumes.users("id-odd")
        assert list(top.iterdir()) == []

    run(top, story)


def test_passwords_are_not_told(top: Path) -> None:
    async def story(volumes: LocalVolumes) -> None:
        options = {"type": "cifs", "device": "//127.0.0.1/x", "o": "username=u,password=geheim"}
        with pytest.raises(VolumeError) as refused:
            await volumes.use(named("share", **options), "c")
        assert "geheim" not in str(refused.value)

    run(top, story)


@pytest.mark.parametrize("step", ["", "out", "in"])
def test_exchange_is_finished_or_undone_at_the_next_start(top: Path, step: str) -> None:
    async def first(volumes: LocalVolumes) -> None:
        content = await volumes.use(named("data"), "c")
        (content / "old").write_text("old")
        (content / "both").write_text("old")

    run(top, first)
    fs = top / "id-data/fs"
    (fs / "stage").mkdir()
    (fs / "stage/new").write_text("new")
    (fs / "stage/both").write_text("new")
    if step == "in":
        (fs / "old").mkdir()
        for name in ("old", "both"):
            (fs / "data" / name).rename(fs / "old" / name)
        (fs / "stage/new").rename(fs / "data/new")
    if step:
        (fs / "exchange").write_text(step)

    async def second(volumes: LocalVolumes) -> None:
        content = volumes.content("id-data")
        found = {path.name: path.read_text() for path in content.iterdir()}
        assert found == ({"new": "new", "both": "new"} if step else {"old": "old", "both": "old"})
        assert [path.name for path in fs.iterdir()] == ["data"]

    run(top, second)


def test_links_lead_nowhere(top: Path, tmp_path: Path) -> None:
    top.mkdir()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("not yours")
    (top / "way").symlink_to(secret)
    assert [found.path for found in tree.walk(top)] == [b"", b"way"]
    with kernel.opened(top) as fd:
        for path in (b"way/file", b"../secret/file", b"way"):
            with pytest.raises(OSError) as refused:
                tree.open_beneath(fd, path, os.O_RDONLY)
            assert refused.value.errno in {errno.ELOOP, errno.EXDEV}


def test_sizes_must_be_sizes(top: Path) -> None:
    async def story(volumes: LocalVolumes) -> None:
        with pytest.raises(VolumeRejected, match="is not a size"):
            await volumes.use(named("odd", size="much"), "c")

    run(top, story)
