"""The values this package takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swarmpy.proto import types_pb2


@dataclass(frozen=True)
class IdRange:
    """Ids of the node, `first` and those after it, that are 0 and those after it inside."""

    first: int
    count: int


@dataclass(frozen=True)
class Shared:
    """What a container of a pod shares with the others of it (see pods)."""

    pod: str  # its parent control group
    ipc: Path | None  # pinned namespace; None = the node's, as the specification says
    shm: Path | None  # mounted tmpfs
    pid: Path | None = None  # pinned namespace; None = processes of its own
    net: Path | None = None  # pinned namespace with nothing but loopback; None = the request's


@dataclass(frozen=True)
class GivenFile:
    """A file of the node that a container sees, read-only, at `target`."""

    source: Path
    target: str
    executable: bool = False


@dataclass(frozen=True)
class ContainerRequest:
    """One container, complete: nothing is looked up elsewhere when it is created."""

    id: str
    spec: types_pb2.ContainerSpec
    resources: types_pb2.ResourceRequirements
    image_config: Mapping[str, Any]  # the OCI image's "config" object
    layers: tuple[Path, ...]  # unpacked, lowest first
    netns: Path | None  # pinned network namespace; None = the network of the agent
    hostname: str
    hosts: tuple[tuple[str, str], ...] = ()  # (address, name)
    resolv_conf: str = ""  # "" = the agent's own
    labels: Mapping[str, str] = field(default_factory=dict)
    own_network: bool = False  # where netns is None: a network with nothing but loopback
    ids: IdRange | None = None  # of a user namespace made by Runtime.pin_user
    volumes: Mapping[str, Path] = field(default_factory=dict)  # contents of named volumes, see node/volume
    shared: Shared | None = None
    files: tuple[GivenFile, ...] = ()  # with the owners and modes they have on the node

    @property
    def group(self) -> str:
        """Its control group below the node's; a pod's containers are side by side below the pod's."""
        if self.shared is None:
            return self.id
        return f"{self.shared.pod}/{self.id.removeprefix(self.shared.pod).removeprefix('.') or 'main'}"

    @property
    def user(self) -> str:
        """Whose user namespace it is in where it has `ids`: its own, or that of its pod."""
        return self.id if self.shared is None else self.shared.pod


@dataclass(frozen=True)
class Exit:
    code: int | None  # None: not known, the monitor died
    oom: bool
    finished_ms: int


@dataclass(frozen=True)
class Found:
    """A container of an earlier process, met by `Runtime.open`."""

    id: str
    state: Literal["running", "exited"]
    exit: Exit | None
    labels: Mapping[str, str]


@dataclass(frozen=True)
class ExecResult:
    code: int | None  # None: killed at the deadline
    output: bytes  # stdout and stderr as they came, the first 64 KiB


@dataclass(frozen=True)
class LogLine:
    time_ns: int
    stderr: bool
    line: bytes  # without the line end


@dataclass(frozen=True)
class Stats:
    cpu_ns: int
    memory_bytes: int  # without the page cache the kernel would give back at once
    pids: int
