"""What a node knows about itself: `node.json`, and where its files are.

The file is written by `init` and `join`, and by the agent when the cluster changes the
node's role or its list of managers; always tmp + rename, mode 0600.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

DEFAULT_STATE_DIR = Path("/var/lib/swarmpy")
RUN_ROOT = Path("/run/swarmpy")
RELEASE_VARIABLE = "SWARMPY_RELEASE"
WORKER, MANAGER = "worker", "manager"
DEFAULT_METRICS_ADDR = "127.0.0.1:7380"  # HOST:PORT, "" = none


def release() -> str:
    """The installed version of swarmpy. The daemon passes it on: looking it up loads 3 MB of modules."""
    if known := os.environ.get(RELEASE_VARIABLE):
        return known
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("swarmpy")
    except PackageNotFoundError:
        return "unknown"


class ConfigError(Exception):
    """node.json is missing or cannot be read; the message says which file and what to do."""


@dataclass(frozen=True)
class Ports:
    """TCP ports but for `vxlan` (UDP)."""

    join: int = 7376
    manager: int = 7377
    agent: int = 7378
    raft: int = 7379
    vxlan: int = 4790


@dataclass(frozen=True)
class ManagerAddress:
    """A manager's node id and the host:port of its manager port."""

    id: str
    address: str


@dataclass(frozen=True)
class NodeConfig:
    """The contents of node.json."""

    node_id: str
    cluster_id: str
    hostname: str
    role: str
    advertise_addr: str
    data_path_addr: str = ""
    listen_addr: str = "0.0.0.0"
    ports: Ports = Ports()
    managers: tuple[ManagerAddress, ...] = ()
    bootstrap: bool = False
    raft_profile: str = "lan"
    runtime: str = "auto"
    runtimes: dict[str, str] = field(default_factory=dict)  # OCI runtimes services may name: name -> program
    upstreams: tuple[str, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    removed: bool = False
    metrics_addr: str = DEFAULT_METRICS_ADDR

    def with_changes(self, **changes: Any) -> NodeConfig:
        return replace(self, **changes)


@dataclass(frozen=True)
class Paths:
    """Where a node's files are. `run` is on tmpfs: gone after a reboot."""

    state: Path

    @property
    def node_json(self) -> Path:
        return self.state / "node.json"

    @property
    def bootstrap(self) -> Path:
        """The first transaction, written by `init`, gone once the store has it."""
        return self.state / "bootstrap.pb"

    @property
    def recover(self) -> Path:
        """There while this manager has to go on alone, see manager/recovery.py."""
        return self.state / "recover.json"

    @property
    def restore(self) -> Path:
        """The state a restored manager begins with, gone once Raft has it."""
        return self.state / "restore.backup"

    @property
    def backups(self) -> Path:
        return self.state / "backups"

    @property
    def certs(self) -> Path:
        return self.state / "certs"

    @property
    def control_socket(self) -> Path:
        return self.state / "run" / "control.sock"

    @property
    def manager_metrics(self) -> Path:
        """Where the manager process shows its numbers to the agent."""
        return self.state / "run" / "metrics.sock"

    @property
    def dns_metrics(self) -> Path:
        """Where the DNS process shows its numbers to the agent."""
        return self.state / "run" / "dns-metrics.sock"

    @property
    def raft(self) -> Path:
        return self.state / "raft"

    @property
    def agent(self) -> Path:
        return self.state / "agent"

    @property
    def containers(self) -> Path:
        return self.state / "containers"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def dns_table(self) -> Path:
        return self.state / "dns" / "table.json"

    @property
    def daemon_pid(self) -> Path:
        return self.state / "run" / "daemon.pid"

    @property
    def leaving(self) -> Path:
        """Exists while the node leaves for good: its agent then says goodbye."""
        return self.state / "leaving"

    @property
    def tag(self) -> str:
        """Eight hex digits that tell this node's names from other nodes' on one machine."""
        import hashlib  # brings OpenSSL with it, which the DNS process does without

        return hashlib.sha256(os.fsencode(self.state.absolute())).hexdigest()[:8]

    @property
    def run(self) -> Path:
        return RUN_ROOT / self.tag

    @property
    def payloads(self) -> Path:
        """A file system in memory: secrets and configs of this node's tasks. Not below the state directory: user
        namespaces of containers have to come through."""
        return self.run / "payloads"

    @property
    def netns(self) -> Path:
        return self.run / "netns"


def load(paths: Paths) -> NodeConfig:
    """Read node.json; raises ConfigError."""
    try:
        data = json.loads(paths.node_json.read_text())
        data["ports"] = Ports(**data.get("ports", {}))
        data["managers"] = tuple(ManagerAddress(**entry) for entry in data.get("managers", ()))
        if data.get("upstreams") is not None:
            data["upstreams"] = tuple(data["upstreams"])
        known = {entry.name for entry in fields(NodeConfig)}
        return NodeConfig(**{key: value for key, value in data.items() if key in known})
    except FileNotFoundError as error:
        raise ConfigError(
            f"{paths.state} holds no node: run `swarmpy init` or `swarmpy join` first"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{paths.node_json} cannot be read: {error}") from error


def save(paths: Paths, config: NodeConfig) -> None:
    """Write node.json so that a crash leaves the old or the new one."""
    paths.state.mkdir(parents=True, exist_ok=True)
    paths.state.chmod(0o700)
    write_private(paths.node_json, json.dumps(asdict(config), indent=1).encode())


def write_private(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a 0600 file by tmp + fsync + rename; without `sync` where a start writes it again anyway."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def append_private(path: Path, data: bytes) -> None:
    """Add to a file in one write, so that whoever reads it never sees a part of it for long."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path} was written to in part: is the disk full?")
    finally:
        os.close(descriptor)
