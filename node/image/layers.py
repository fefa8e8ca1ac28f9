"""Unpacked layers: `layers/CHAIN/{diff,meta.json}`, made by a confined child, shared by chain id.

A layer is unpacked under tmp/ and appears under layers/ by one rename, so it is
whole or absent. Its files are not synced one by one; the mark `synced` says that
they have reached the disk, and an unmarked layer of an earlier boot is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swarmpy.node.image import kernel
from swarmpy.node.image.blobs import write_atomically
from swarmpy.node.image.errors import (
    BY_NAME,
    ArchiveDamaged,
    ArchiveHostile,
    ImageError,
    full_disk_as_no_space,
)  # fmt: skip
from swarmpy.node.image.limits import Limits
from swarmpy.node.image.reference import is_digest
from swarmpy.node.image.tree import INSIDE, OPEN_DIRECTORY
from swarmpy.node.image.unpack import FDS_AT_ONCE, Order

log = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CHILDREN_MAX = 2  # each takes a whole core
ANSWER_BYTES_MAX = 64 * 1024 * 1024
CHILD_END_S = 30.0
OPAQUE_XATTR = "trusted.overlay.opaque"


class Turn:
    """Of one layer among those of an image that are unpacked side by side."""

    def __init__(self, before: Turn | None) -> None:
        self.started, self.done = asyncio.Event(), asyncio.Event()
        self._before = before

    async def may_start(self) -> None:
        """Once the layer below has a child: so no child waits for a layer that waits for a child."""
        if self._before is not None:
            await self._before.started.wait()

    async def parents_made(self) -> None:
        below = self._before
        while below is not None:
            await below.done.wait()
            below = below._before

    def finished(self) -> None:
        self.started.set()
        self.done.set()


class LayerDirectory:
    def __init__(self, directory: Path, limits: Limits) -> None:
        self.layers = directory / "layers"
        self.tmp = directory / "tmp"
        self._limits = limits
        self._boot_id = BOOT_ID.read_text().strip()
        self._children = asyncio.Semaphore(CHILDREN_MAX)

    def path(self, chain: str) -> Path:
        assert is_digest(chain), chain
        return self.layers / chain.removeprefix("sha256:")

    def diff(self, chain: str) -> Path:
        return self.path(chain) / "diff"

    def has(self, chain: str) -> bool:
        return self.path(chain).is_dir()

    def chains(self) -> list[str]:
        return [f"sha256:{path.name}" for path in self.layers.iterdir()]

    def empty_tmp(self) -> None:
        """Drop what an earlier process left. Its unpacking child ends soon after it, and writes until then."""
        deadline = time.monotonic() + CHILD_END_S
        shutil.rmtree(self.tmp, ignore_errors=True)
        while self.tmp.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
            shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(mode=0o700, exist_ok=True)

    def drop_unsynced(self) -> None:
        """After a reboot: what may not have reached the disk is made again from its blob."""
        for chain in self.chains():
            path = self.path(chain)
            try:
                meta = json.loads((path / "meta.json").read_bytes())
                good = (path / "synced").exists() or meta["boot_id"] == self._boot_id
            except (OSError, ValueError, KeyError, TypeError):
                good = False
            if not good:
                log.warning("layer dropped, it may be incomplete chain=%s", chain)
                self.remove(chain)

    def remove(self, chain: str) -> int:
        """Bytes freed; the rename first, so that half a layer never has its name."""
        try:
            freed = int(json.loads((self.path(chain) / "meta.json").read_bytes())["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            freed = 0
        doomed = Path(tempfile.mkdtemp(dir=self.tmp))
        self.path(chain).rename(doomed / "layer")
        shutil.rmtree(doomed)
        return freed

    async def unpack(
        self, blob: Path, parents: Sequence[str], diff_id: str, chain: str, what: str, turn: Turn
    ) -> None:
        """Make one layer; the caller holds the chain's lock. `turn` knows when the parents are made."""
        work = Path(tempfile.mkdtemp(dir=self.tmp))
        try:
            with full_disk_as_no_space(what, self.layers):
                (work / "diff").mkdir()
                (work / "diff").chmod(
                    0o755
                )  # whatever this process's umask: many layers do not name their root
                order = Order(
                    blob=str(blob),
                    target=str(work / "diff"),
                    parents=len(parents),
                    diff_id=diff_id,
                    what=what,
                    limits=self._limits,
                )
                async with self._children:
                    turn.started.set()
                    done = await self._run_child(order, [self.diff(parent) for parent in parents], turn)
                await _to_its_end(asyncio.to_thread(self._finish, work, done, chain))
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))
        log.info("layer unpacked chain=%s entries=%d bytes=%d", chain, done["entries"], done["size_bytes"])

    def sync(self, chain: str) -> int:
        """Wait until the file system has written everything; which directory that was."""
        fd = os.open(self.path(chain), os.O_RDONLY | os.O_DIRECTORY)
        try:
            kernel.sync_filesystem(fd)
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def mark_synced(self, chain: str, inode: int) -> None:
        """Say so beside the layer, if it is still that one; the caller holds the chain's lock."""
        if self.has(chain) and self.path(chain).stat().st_ino == inode:
            (self.path(chain) / "synced").touch()

    async def _run_child(self, order: Order, parents: Sequence[Path], turn: Turn) -> dict[str, Any]:
        line, theirs = socket.socketpair()
        with line:
            with theirs:
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-S", "-m", "swarmpy.node.image.unpack", json.dumps(asdict(order)),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    limit=ANSWER_BYTES_MAX,
                    cwd="/",
                    env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUTF8": "1"},
                )  # fmt: skip
            giving = asyncio.ensure_future(_give(line, parents, turn))
            try:
                return await self._answer_of(child, order)
            finally:
                giving.cancel()
                await asyncio.gather(giving, return_exceptions=True)

    async def _answer_of(self, child: asyncio.subprocess.Process, order: Order) -> dict[str, Any]:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            async with asyncio.timeout(self._limits.unpack_deadline_s):
                answer, complaint, _ = await asyncio.gather(
                    child.stdout.read(ANSWER_BYTES_MAX), child.stderr.read(65536), child.wait()
                )
        except TimeoutError:
            raise ArchiveHostile(
                f"{order.what}: not unpacked after {self._limits.unpack_deadline_s} s, given up"
            ) from None
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await asyncio.shield(child.wait())
        return _answer(order.what, answer, complaint, child.returncode)

    def _finish(self, work: Path, done: dict[str, Any], chain: str) -> None:
        """What the child may not do: mark opaque directories. The names are its, so opened beneath."""
        root = os.open(work / "diff", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in done["opaque"]:
                try:
                    fd = kernel.openat2(root, name or ".", OPEN_DIRECTORY, INSIDE)
                except FileNotFoundError:
                    continue
                try:
                    os.setxattr(fd, OPAQUE_XATTR, b"y")
                finally:
                    os.close(fd)
        finally:
            os.close(root)
        meta = {key: done[key] for key in ("entries", "size_bytes", "skipped_devices")}
        write_atomically(work / "meta.json", json.dumps({**meta, "boot_id": self._boot_id}).encode())
        work.rename(self.path(chain))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also when cancelled: a thread goes on, and what it makes must not appear later."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


async def _give(line: socket.socket, parents: Sequence[Path], turn: Turn) -> None:
    """Send the child the layers below, once they are made."""
    await turn.parents_made()
    for start in range(0, len(parents), FDS_AT_ONCE):
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in parents[start : start + FDS_AT_ONCE]]
        try:
            socket.send_fds(line, [b"p"], fds)
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:  # it has ended, without a look below
                raise
        finally:
            for fd in fds:
                os.close(fd)


def _answer(what: str, answer: bytes, complaint: bytes, status: int | None) -> dict[str, Any]:
    try:
        value = json.loads(answer)
    except ValueError:
        if status in {-24, -9}:  # SIGXCPU, SIGKILL
            raise ArchiveHostile(
                f"{what}: unpacking was stopped by its limits (CPU time or memory)"
            ) from None
        tail = complaint.decode(errors="replace").strip()[-500:]
        raise ImageError(f"{what}: unpacking failed (status {status}): {tail or 'no message'}") from None
    if "ok" in value:
        result: dict[str, Any] = value["ok"]
        return result
    raise BY_NAME.get(value.get("error", ""), ArchiveDamaged)(value.get("message", what))
