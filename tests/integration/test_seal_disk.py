"""Disks that fill up or fail, with real file systems and a real refusal of fsync.

The full disk is a small tmpfs. The failing one is a library in front of libc, compiled here,
that refuses fsync and fdatasync below one directory while a file exists, or cuts writes short.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swarmpy.raft.core_log import COMMAND, Entry
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import DiskFull, LogError, OutcomeUnknown
from swarmpy.raft.replica import RaftNode

from tests.integration.raft_cluster import Cluster, wait_for

MIB = 1024 * 1024
FAULTS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static __thread char path[4096];
static int watched(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *root = getenv("FAULT_ROOT");
    return root && strncmp(path, root, strlen(root)) == 0;
}
static int on(const char *name) { const char *file = getenv(name); return file && access(file, F_OK) == 0; }
static void count(void) {
    const char *file = getenv("FAULT_COUNT");
    FILE *out = file ? fopen(file, "a") : NULL;
    if (out) { fprintf(out, "%s\n", path); fclose(out); }
}
static int refuse(int fd, const char *name) {
    if (on("FAULT_EIO") && watched(fd)) { count(); errno = EIO; return -1; }
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    return real(fd);
}
int fsync(int fd) { return refuse(fd, "fsync"); }
int fdatasync(int fd) { return refuse(fd, "fdatasync"); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    if (on("FAULT_SHORT") && size > 3 && watched(fd)) size = size / 2;
    return real(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    directory = tmp_path_factory.mktemp("faults")
    (directory / "faults.c").write_text(FAULTS)
    path = directory / "faults.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", path, directory / "faults.c", "-ldl"], check=True, timeout=60
    )
    return path


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(directory: Path) -> Path:
    """Take every byte that is left."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass
    return path


@pytest.mark.root
def test_a_leader_on_a_full_disk_hands_over_and_comes_back_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        try:
            await cluster.of_three()
            filler = fill(tmp_path / "n1")
            acknowledged = []
            full_s = moved_s = 0.0
            big = bytes(100_000)
            for number in range(400):
                command = b"%d " % number + big
                node = cluster.leader()
                low = "n1" in cluster.nodes and cluster.nodes["n1"]._engine._disk.low  # type: ignore[union-attr]
                full_s = full_s or (time.monotonic() if low else 0.0)
                if node is not None and node.node_id != "n1" and full_s:
                    moved_s = time.monotonic()
                    break
                await cluster.propose(command)
                acknowledged.append(command)
            assert full_s, "the disk never filled up"
            assert moved_s - full_s < 2.0
            for number in range(400, 500):
                await cluster.propose(b"%d " % number + big)
                acknowledged.append(b"%d " % number + big)
            for other in ("n2", "n3"):
                await wait_for(lambda other=other: cluster.ledgers[other].commands == acknowledged)
            assert len(cluster.ledgers["n1"].commands) < len(acknowledged)
            assert cluster.fatal == []
            filler.unlink()
            await wait_for(lambda: cluster.ledgers["n1"].commands == acknowledged, 30)
            node = await cluster.wait_leader()
            await node.transfer_leadership("n1")
            await cluster.propose(b"again")
        finally:
            await cluster.stop_all()

    with small_disk(tmp_path / "n1", 64 * MIB):
        asyncio.run(main())


@pytest.mark.root
def test_alone_on_a_full_disk_writes_are_refused_until_there_is_room(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        try:
            node = await cluster.start("n1", bootstrap=True)
            await wait_for(lambda: bool(cluster.led))
            await wait_for(lambda: (tmp_path / "n1" / "spare").exists())
            filler = fill(tmp_path / "n1")
            acknowledged = await until_refused(node)
            assert node.status().is_leader
            assert await node.read_barrier() > 0
            await cluster.stop_all()
            node = await cluster.start("n1")
            await wait_for(lambda: cluster.ledgers["n1"].commands == acknowledged)
            filler.unlink()

            async def accepted() -> None:
                while True:
                    try:
                        await node.propose(b"again")
                        return
                    except LogError:
                        await asyncio.sleep(0.05)

            await asyncio.wait_for(accepted(), 15)
            assert cluster.ledgers["n1"].commands == [*acknowledged, b"again"]
            assert cluster.fatal == []
        finally:
            await cluster.stop_all()

    with small_disk(tmp_path / "n1", 64 * MIB):
        asyncio.run(main())


async def until_refused(node: RaftNode) -> list[bytes]:
    acknowledged = []
    with pytest.raises(DiskFull, match="free some space"):
        for number in range(1000):
            command = b"%d " % number + bytes(100_000)
            with contextlib.suppress(OutcomeUnknown):  # was on its way when the room ended
                await node.propose(command, timeout=1)
                acknowledged.append(command)
    return acknowledged


MEMBER = """
import asyncio, os, sys
from pathlib import Path
from swarmpy.raft.log import LogError
from tests.integration.raft_cluster import Cluster, wait_for

async def main():
    cluster = Cluster(Path(sys.argv[1]))
    node = await cluster.start("n1", bootstrap=True)
    await wait_for(lambda: bool(cluster.led))
    for number in range(10_000):
        if cluster.fatal:
            break
        try:
            await node.propose(b"%d" % number, timeout=1)
        except LogError as error:
            continue
        print(number, flush=True)
    print("fatal", cluster.fatal[0][1], "leads", node._engine._announced, flush=True)
    await cluster.stop_all()

asyncio.run(main())
"""


def test_a_failed_fsync_is_never_tried_again(tmp_path: Path, library: Path) -> None:
    switch, count = tmp_path / "eio", tmp_path / "count"
    environment = {
        **os.environ, "LD_PRELOAD": str(library), "FAULT_ROOT": str(tmp_path / "n1"),
        "FAULT_EIO": str(switch), "FAULT_COUNT": str(count),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", MEMBER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment,
        cwd=Path(__file__).parents[2],
    ) as member:  # fmt: skip
        assert member.stdout is not None
        try:
            for _ in range(20):
                member.stdout.readline()
            switch.touch()
            rest = member.stdout.read().splitlines()
        finally:
            if member.poll() is None:
                member.wait(30)
    assert "Input/output error" in rest[-1]
    assert rest[-1].endswith("leads None")
    refused = count.read_text().split()
    assert refused
    assert len(refused) == len(set(refused)), "no file is synced again (the spare may be the other one)"
    said = 20 + len(rest) - 2
    journal = Journal(tmp_path / "n1", "n1")
    kept = [entry for entry in journal.recovered.entries if entry.kind == COMMAND]
    journal.close()
    assert len(kept) >= said


def test_short_writes_are_written_on(tmp_path: Path, library: Path) -> None:
    switch = tmp_path / "short"
    switch.touch()
    script = (
        "import sys; from pathlib import Path; from swarmpy.raft.core_log import Entry;"
        "from swarmpy.raft.journal import Journal;"
        "j = Journal(Path(sys.argv[1]), 'n1', segment_bytes=16384);"
        "[j.write((1, ''), [Entry(i, 1, 1, b'x' * 500)]) for i in range(1, 101)]; j.close()"
    )
    environment = {
        **os.environ, "LD_PRELOAD": str(library), "FAULT_ROOT": str(tmp_path / "n1"), "FAULT_SHORT": str(switch)
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "n1")], env=environment, check=True, timeout=60
    )
    journal = Journal(tmp_path / "n1", "n1", segment_bytes=16384)
    assert journal.recovered.entries == [Entry(i, 1, COMMAND, b"x" * 500) for i in range(1, 101)]
    journal.close()
