"""The volumes of one node: made, mounted while they are used, removed, and met again after a crash.

    <top>/<id>/record.json   what it is
    <top>/<id>/fs/data       its contents; `fs` is where a loop file or a project quota limits them
    <top>/<id>/fs            its contents, where the options name a file system to mount: nfs, cifs, tmpfs, …
    <top>/<id>/image         the loop file
    <top>/.new-*, .gone-*    half made, half removed: cleared at the next start
    <top>/.moving-<id>       a copy that is on its way here, see receive

A volume appears by one rename and disappears by one. Removal never crosses a mount: what a server or another
disk has is not this node's to delete. Everything that blocks runs in threads, one call per volume at a time.
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
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from swarmpy.node.volume import kernel, options, quota, tree
from swarmpy.node.volume.errors import (
    VolumeBusy,
    VolumeError,
    VolumeFailure,
    VolumeLost,
    VolumeRejected,
    from_os_error,
)

log = logging.getLogger(__name__)
MOUNT_TIMEOUT_S = 60.0
UMOUNT_TRIES, UMOUNT_PAUSE_S = 50, 0.1
RECORD = "record.json"
T = TypeVar("T")
REASONS = {
    errno.ENODEV: "this kernel has no such file system: load its module (modprobe {kind}) or install it",
    errno.ENOTBLK: "it is no block device",
    errno.ENOENT: "there is no such device, directory or export",
    errno.EINVAL: "the kernel refuses the options, or no such file system is there; its log (dmesg) says more",
    errno.EACCES: "the server refuses this node, or the user and password",
    errno.EPERM: "the server refuses this node, or the agent may not mount",
    errno.ECONNREFUSED: "the server does not serve it",
    errno.EHOSTUNREACH: "the server cannot be reached",
    errno.ENETUNREACH: "the server cannot be reached",
    errno.ETIMEDOUT: "the server does not answer",
    errno.EPROTONOSUPPORT: "the server does not speak this version: try o=vers=4 or vers=3",
}


@dataclass(frozen=True)
class Wanted:
    """A volume as the cluster knows it. `exists`: it was on this node before."""

    id: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    exists: bool = False


@dataclass(frozen=True)
class Record:
    """What is on this node."""

    id: str
    name: str
    options: dict[str, str]
    labels: dict[str, str]
    kind: str  # directory, quota, image, mount
    limit_bytes: int = 0
    project: int = 0
    created_ms: int = 0
    move: int = 0  # the move that brought it here

    @property
    def is_own(self) -> bool:
        """Whether the contents are on this node's disk, below the directory of the volume."""
        return self.kind != "mount"


class LocalVolumes:
    """One per node; used on one event loop."""

    def __init__(self, top: Path) -> None:
        self.top = top.absolute()
        self.records: dict[str, Record] = {}
        self._users: dict[str, set[str]] = {}
        # Kept by who holds or waits for one, and by nobody else.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._mounting: dict[str, asyncio.Future[None]] = {}

    # --- start -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Finish what a crash interrupted; learn what is here."""
        await blocking(self._open)

    def _open(self) -> None:
        self.top.mkdir(mode=0o711, parents=True, exist_ok=True)
        for entry in sorted(self.top.iterdir()):
            try:
                if entry.name.startswith((".new-", ".gone-")):
                    self._erase(entry)
                elif (record := read_record(entry)) is not None and record.id == entry.name:
                    self.records[entry.name] = record
                    if record.is_own and record.kind != "image":
                        tree.finish_swap(entry / "fs")
            except (OSError, VolumeFailure) as error:
                log.error("volume not cleared, left as it is path=%s error=%s", entry, error)

    def adopt(self, users: Mapping[str, set[str]]) -> None:
        """Volume id -> containers that have it, as they were met at the start."""
        for volume_id, containers in users.items():
            self._users.setdefault(volume_id, set()).update(containers)

    async def release_unused(self) -> None:
        """Unmount what an earlier process mounted and nothing uses."""
        for volume_id in [v for v in self.records if not self._users.get(v)]:
            with contextlib.suppress(VolumeFailure):
                await self._settle(volume_id)

    # --- use -------------------------------------------------------------------------------------

    def content(self, volume_id: str) -> Path:
        """Where a volume's contents are."""
        record = self.records[volume_id]
        return self.top / volume_id / ("fs/data" if record.is_own else "fs")

    def users(self, volume_id: str) -> frozenset[str]:
        return frozenset(self._users.get(volume_id, ()))

    def holds(self, volume_id: str) -> bool:
        return volume_id in self.records

    def has_any(self, volume_id: str) -> bool:
        """Whether anything of a volume is here, a copy half made included."""
        return volume_id in self.records or (self.top / f".moving-{volume_id}").exists()

    async def use(self, wanted: Wanted, user: str) -> Path:
        """The contents, made or mounted if need be, for a container (or a copy) named `user`."""
        async with self._lock(wanted.id):
            if wanted.id not in self.records:
                if wanted.exists:
                    raise VolumeLost(
                        f"volume {wanted.name}: its directory {self.top / wanted.id} is gone from this node; "
                        f"nothing empty takes its place: `swarmpy volume rm` it, then restore a backup"
                    )
                await blocking(lambda: self._create(wanted))
            await self._mounted(self.records[wanted.id])
            self._users.setdefault(wanted.id, set()).add(user)
            return self.content(wanted.id)

    async def release(self, user: str) -> None:
        """A container is gone: unmount what nobody else uses."""
        for volume_id in [v for v, users in self._users.items() if user in users]:
            async with self._lock(volume_id):
                users = self._users[volume_id]
                users.discard(user)
                if not users:
                    self._users.pop(volume_id, None)
                    try:
                        await self._settle(volume_id)
                    except VolumeFailure:
                        self._users[volume_id] = {user}  # asked again, it is tried again
                        raise

    async def drop(self, volume_id: str) -> None:
        """Remove all that is on this node of a volume; VolumeBusy while containers use it."""
        async with self._lock(volume_id):
            if users := self._users.get(volume_id):
                raise VolumeBusy(f"volume {volume_id} is used by {len(users)} containers on this node")
            await blocking(lambda: self._drop(volume_id))

    def _lock(self, volume_id: str) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    # --- making ----------------------------------------------------------------------------------

    def _create(self, wanted: Wanted) -> None:
        record = self.record_of(wanted.id, wanted.name, dict(wanted.options), dict(wanted.labels))
        self.install(self.prepare(record), record)

    @staticmethod
    def record_of(
        volume_id: str, name: str, wanted: dict[str, str], labels: dict[str, str], move: int = 0
    ) -> Record:
        kind = "mount" if wanted.get("type") else "directory"
        limit = options.size_bytes(wanted)
        now_ms = time.time_ns() // 1_000_000
        return Record(volume_id, name, wanted, labels, kind, limit, created_ms=now_ms, move=move)

    def prepare_copy(self, record: Record) -> Path:
        """Where a copy of another node's volume grows; as it was left where one began before. Blocks."""
        place = self.top / f".moving-{record.id}"
        found = read_record(place)
        try:
            if found is None or found.move != record.move:
                self._discard(place)
                return self.prepare(record, ".moving-")
            if found.kind == "image" and not is_mount(place / "fs"):
                kernel.mount_image(place / "image", place / "fs", "ext4")
        except OSError as error:
            raise from_os_error(f"volume {record.name}: no copy can be made in {self.top}", error) from error
        return place

    def prepare(self, record: Record, prefix: str = ".new-") -> Path:
        """A directory beside the volumes that `install` can put among them. Blocks."""
        fresh = self.top / f"{prefix}{record.id}"
        try:
            if fresh.exists():
                self._erase(fresh)
            (fresh / "fs").mkdir(mode=0o711, parents=True)
            fresh.chmod(0o711)
            if record.limit_bytes and record.is_own:
                record = quota.limit(
                    fresh, record, self._projects(), lambda noted: write_record(fresh, noted)
                )
            if record.kind == "image":
                kernel.mount_image(fresh / "image", fresh / "fs", "ext4")
            if record.is_own:
                (fresh / "fs/data").mkdir(mode=0o755)
            write_record(fresh, record)
            kernel.sync(fresh)
        except OSError as error:
            self._erase(fresh)
            raise from_os_error(f"volume {record.name}: it cannot be made in {self.top}", error) from error
        except VolumeRejected:
            self._erase(fresh)
            raise
        return fresh

    def install(self, fresh: Path, record: Record) -> None:
        """Let a prepared directory be the volume. Blocks."""
        place = self.top / record.id
        try:
            for point in kernel.mounts_at_or_below(fresh):
                kernel.umount(point)
            if place.exists():
                self._discard(place)
            fresh.rename(place)
            kernel.sync(self.top)
        except OSError as error:
            raise from_os_error(f"volume {record.name}: it cannot be made in {self.top}", error) from error
        found = read_record(place)
        assert found is not None, "a prepared volume has its record"
        self.records[record.id] = found
        log.info("volume made volume=%s name=%s kind=%s", record.id, record.name, found.kind)

    def _projects(self) -> set[int]:
        return {record.project for record in self.records.values() if record.project}

    # --- mounting --------------------------------------------------------------------------------

    async def _mounted(self, record: Record) -> None:
        fs = self.top / record.id / "fs"
        if record.kind in {"directory", "quota"} or is_mount(fs):
            return
        work = self._mounting.get(record.id)
        if work is None:
            work = self._mounting[record.id] = in_own_thread(lambda: self._mount(record, fs))
            work.add_done_callback(lambda _: self._mounting.pop(record.id, None))
        done, _ = await asyncio.wait({work}, timeout=MOUNT_TIMEOUT_S)
        if not done:
            work.add_done_callback(_swallow)
            raise VolumeFailure(
                f"volume {record.name}: mounting {record.options.get('device', '')} takes more than "
                f"{MOUNT_TIMEOUT_S:g} s; look whether its server answers this node"
            )
        try:
            work.result()
        except VolumeError:
            if not record.is_own and not self._users.get(record.id):
                await blocking(lambda: self._drop(record.id))
            raise

    def _mount(self, record: Record, fs: Path) -> None:
        try:
            if record.kind == "image":
                kernel.mount_image(fs.parent / "image", fs, "ext4")
                tree.finish_swap(fs)
                return
            call = options.mount_call(record.options)
            assert call is not None, "a volume of kind mount names a file system"
            if call.host:
                call = call.with_address(address_of(call.host, record.name))
            kind = "" if call.flags & kernel.MS_BIND else call.kind
            kernel.mount(call.source, fs, kind, call.flags, call.data)
        except OSError as error:
            raise self._mount_error(record, error) from error

    def _mount_error(self, record: Record, error: OSError) -> VolumeFailure | VolumeRejected:
        kind = record.options.get("type", "") or "ext4"
        shown = options.without_secrets(record.options.get("o", ""))
        what = f"type={kind} device={record.options.get('device', '') or 'image'} o={shown}"
        reason = REASONS.get(error.errno or 0, "").format(kind=kind) or error.strerror or str(error)
        text = f"volume {record.name} cannot be mounted ({what}): {reason}"
        if error.errno in {errno.ENODEV, errno.EINVAL, errno.ENOTBLK}:
            return VolumeRejected(text)
        return VolumeFailure(text)

    async def _settle(self, volume_id: str) -> None:
        """Unmount a volume without users; what is no more than its mount goes altogether."""
        record = self.records.get(volume_id)
        if record is None or record.kind in {"directory", "quota"}:
            return
        await blocking(lambda: self._unmount(self.top / volume_id))
        if not record.is_own:
            await blocking(lambda: self._drop(volume_id))

    def _unmount(self, directory: Path) -> None:
        record = read_record(directory)
        # A server that is gone would hold the call: nobody uses the mount, it may end when it can.
        remote = record is not None and record.options.get("type") in options.NETWORK_KINDS
        unmount_below(directory, detach=remote)

    # --- removing --------------------------------------------------------------------------------

    def _drop(self, volume_id: str) -> None:
        record = self.records.get(volume_id)
        try:
            self._discard(self.top / volume_id)
            self._discard(self.top / f".moving-{volume_id}")
        except OSError as error:
            raise from_os_error(f"volume {volume_id}: it cannot be removed", error) from error
        self.records.pop(volume_id, None)
        if record is not None and record.is_own:
            log.info("volume removed volume=%s name=%s", volume_id, record.name)

    def _discard(self, directory: Path) -> None:
        """Let a directory of ours be gone at once, and then delete what was in it."""
        if not directory.exists():
            return
        self._unmount(directory)
        gone = self.top / f".gone-{directory.name}"
        if gone.exists():
            self._erase(gone)
        directory.rename(gone)
        self.records.pop(directory.name, None)
        self._erase(gone)

    def _erase(self, directory: Path) -> None:
        """Delete a directory of ours. Never through a mount."""
        self._unmount(directory)
        if kernel.mounts_at_or_below(directory):
            raise VolumeFailure(f"{directory}: something is still mounted there; it is not deleted")
        record = read_record(directory)
        if record is not None and record.project:
            quota.forget(directory / "fs", record.project)
        if record is not None and not record.is_own:
            (directory / "fs").rmdir()  # not empty: not ours
        shutil.rmtree(directory)

    def own_fs(self, volume_id: str) -> Path:
        """The file system that a restore may exchange the contents of; VolumeRejected where there is none."""
        record = self.records[volume_id]
        if not record.is_own:
            raise VolumeRejected(
                f"volume {record.name} is a mount of type {record.options.get('type')}: copy into it with "
                "`swarmpy cp` or restore it where it is"
            )
        return self.top / volume_id / "fs"

    def free_bytes(self) -> int:
        return _free(self.top)

    # --- facts -----------------------------------------------------------------------------------

    async def usage(self, volume_id: str) -> tree.Usage:
        """What the volume takes; it has to be in use."""
        path = self.content(volume_id)
        found = await blocking(lambda: tree.usage(path))
        return replace(found, free_bytes=_free(path))


def unmount_below(directory: Path, *, detach: bool = False) -> None:
    """Unmount a directory and all below it. Blocks; raises VolumeFailure while it is in use."""
    for point in kernel.mounts_at_or_below(directory):
        for tries_left in reversed(range(UMOUNT_TRIES)):
            try:
                kernel.umount(point, detach=detach)
                break
            except OSError as error:
                if error.errno in {errno.EINVAL, errno.ENOENT}:
                    break
                if error.errno != errno.EBUSY or not tries_left:
                    raise from_os_error(f"{point} cannot be unmounted", error) from error
                time.sleep(UMOUNT_PAUSE_S)


def volumes_in(top: Path) -> list[str]:
    """The names of the volumes that have something in them on this disk."""
    found = [record for path in (top.iterdir() if top.is_dir() else ()) if (record := read_record(path))]
    full = [r for r in found if r.is_own and (r.kind == "image" or not tree.is_empty(top / r.id / "fs/data"))]
    return sorted(record.name for record in full)


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def is_mount(path: Path) -> bool:
    return path in kernel.mounts_at_or_below(path)


def address_of(host: str, name: str) -> str:
    """A server's address as the kernel wants it: a number."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise VolumeFailure(
            f"volume {name}: its server {host!r} has no address here ({error.strerror or error})"
        ) from error


def write_record(directory: Path, record: Record) -> None:
    fresh = directory / (RECORD + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        json.dump(asdict(record), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(directory / RECORD)


def read_record(directory: Path) -> Record | None:
    """None for what is no volume of ours."""
    try:
        return Record(**json.loads((directory / RECORD).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


async def blocking(function: Callable[[], T]) -> T:
    """In a thread that has ended when this returns, also when it is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        _swallow(task)
        raise


def in_own_thread(function: Callable[[], None]) -> asyncio.Future[None]:
    """For what may hang for good: it takes no thread of the pool, and does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def end(error: VolumeError | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def work() -> None:
        error: VolumeError | None = None
        try:
            function()
        except VolumeError as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=work, name="mount", daemon=True).start()
    return future


def _swallow(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()
