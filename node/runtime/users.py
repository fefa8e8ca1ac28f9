"""Who a container runs as, and whether its program exists: read from its own root file system.

The files belong to a stranger. They are opened with the container's root as root (openat2), so a link
in an image can not make us read a file of the host, and only so much of them is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from swarmpy.node.runtime import system
from swarmpy.node.runtime.errors import StartRejected
from swarmpy.node.runtime.spec import User

FILE_BYTES_MAX = 1024 * 1024
ID_MAX, ID_DIGITS_MAX = 2**32 - 2, 20


def resolve(rootfs: Path, wanted: str, extra_groups: Sequence[str]) -> User:
    """`user[:group]` in names or numbers, "" = root, to ids by the image's passwd and group files."""
    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        passwd, group = (table(root_fd, name) for name in ("etc/passwd", "etc/group"))
    finally:
        os.close(root_fd)
    name, _, group_name = wanted.partition(":")
    name = name or "0"
    row = next((r for r in passwd if len(r) >= 6 and r[0] == name), None)
    row = row or next((r for r in passwd if len(r) >= 6 and r[2] == name), None)
    if row is None and not name.isdecimal():
        raise StartRejected(f"container.user: the image has no user {name!r} in /etc/passwd")
    uid = _number(row[2] if row else name, "user")
    gid = _number(row[3], "user") if row else 0
    groups: list[int] = []
    if group_name:
        gid = _group(group, group_name, "user")
    elif row:
        groups = [_number(g[2], "user") for g in group if len(g) >= 4 and row[0] in g[3].split(",")]
    groups += [_group(group, extra, "groups") for extra in extra_groups]
    return User(uid, gid, tuple(dict.fromkeys(groups)), (row[5] if row else "") or "/")


def _group(rows: list[list[str]], wanted: str, where: str) -> int:
    for row in rows:
        if len(row) >= 3 and row[0] == wanted:
            return _number(row[2], where)
    if wanted.isdecimal():
        return _number(wanted, where)
    raise StartRejected(f"container.{where}: the image has no group {wanted!r} in /etc/group")


def _number(text: str, where: str) -> int:
    if not text.isdecimal() or len(text) > ID_DIGITS_MAX or int(text) > ID_MAX:
        raise StartRejected(f"container.{where}: {text[:40]!r} is not a valid id")
    return int(text)


def table(root_fd: int, path: str) -> list[list[str]]:
    """The rows of a file like /etc/passwd below that root; [] where there is none."""
    try:
        fd = system.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        text = os.pread(fd, FILE_BYTES_MAX, 0).decode(errors="replace")
    finally:
        os.close(fd)
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def require_program(rootfs: Path, program: str, search_path: str, cwd: str) -> None:
    """StartRejected where the program is not there; an init would hide that until the container runs."""
    if "/" in program:
        candidates = [program if program.startswith("/") else f"{cwd}/{program}"]
    else:
        candidates = [f"{directory}/{program}" for directory in search_path.split(":")]
    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = [mode for path in candidates if (mode := _mode(root_fd, path)) is not None]
    finally:
        os.close(root_fd)
    files = [mode for mode in found if stat.S_ISREG(mode)]
    if not files:
        where = "" if "/" in program else f" in PATH {search_path}"
        raise StartRejected(f"container.command: {program!r} not found{where} in the image")
    if not any(mode & 0o111 for mode in files):
        raise StartRejected(f"container.command: {program!r} in the image is not executable")


def _mode(root_fd: int, path: str) -> int | None:
    try:
        fd = system.open_in_root(root_fd, path, os.O_PATH)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)
