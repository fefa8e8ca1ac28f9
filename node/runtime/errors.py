"""What can go wrong with a container.

ContainerError
├── RuntimeFailure     the world failed this time: trying again is sensible
│   └── NoSpace        the disk is full
├── StartRejected      what was asked can never run here: trying again is not sensible
├── MissingTool        a program this node needs is not installed
└── UnknownContainer   no container of that id on this node
"""

from __future__ import annotations

import errno
import re


class ContainerError(Exception):
    """Base of every error this package raises on purpose."""


class RuntimeFailure(ContainerError):
    """A step failed for a reason that may pass; the message ends with what the tool said."""


class NoSpace(RuntimeFailure):
    """The file system holding containers or volumes is full."""


class StartRejected(ContainerError):
    """The container can not run as specified."""


class MissingTool(ContainerError):
    """A needed program is absent; the message names the package."""


class UnknownContainer(ContainerError):
    """The id is not known to this node."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id}: not on this node; create it first")


_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
# Words of crun and runc for specifications that stay wrong however often they are tried.
_PERMANENT = re.compile(
    r"executable file|exec format error|is a directory|not a directory|invalid argument for|unknown sysctl"
    r"|exec: \"|not allowed in|no such device|sysctl|no such file or directory: ?OCI|requested rlimit",
    re.IGNORECASE,
)


def from_runtime(what: str, said: str) -> ContainerError:
    """The error for a failed step, judged by the words of the OCI runtime."""
    text = f"{what} failed: {said.strip()[-1000:] or 'the runtime gave no reason'}"
    if _FULL.search(said):
        return NoSpace(f"{text}; free some disk space")
    if _PERMANENT.search(said):
        return StartRejected(text)
    return RuntimeFailure(text)


def from_os_error(what: str, error: OSError) -> ContainerError:
    """The error for a failed system call of ours."""
    text = f"{what}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{text}; free some disk space")
    return RuntimeFailure(text)
