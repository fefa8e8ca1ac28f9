"""Making a manager out of a backup, reading backups, and showing a node where its managers are now.

`restore` writes files only, as `init` does; the daemon does the rest at its first start. The
new cluster is the old one: its id, root, tokens, services, networks and addresses, so every
certificate in it stays valid. What differs is Raft: one member, one generation on. The other
managers become workers; nodes keep their state until they miss their heartbeats.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swarmpy.node import config as node_config
from swarmpy.node import daemon_leave, daemon_setup
from swarmpy.node.ca import authority, identity, rotation, tls
from swarmpy.node.ca.errors import BadCertificate, CaError, Unreachable
from swarmpy.node.config import ConfigError, ManagerAddress, NodeConfig, Paths, Ports
from swarmpy.node.daemon_setup import NodeOptions, SetupError
from swarmpy.node.manager import backup_file
from swarmpy.node.manager.backup_file import BackupError, Secret
from swarmpy.node.manager.recovery import demotions
from swarmpy.proto import objects_pb2, recovery_pb2, store_pb2, types_pb2
from swarmpy.raft import store as raft_store
from swarmpy.raft import tables
from swarmpy.raft.levels import StateTooNew
from swarmpy.raft.snapshot import SnapshotDamaged
from swarmpy.raft.store import Store
from swarmpy.raft.tables import wrap

IDENTIFY_TIMEOUT_S = 5.0
REFUSALS = (SetupError, BackupError, SnapshotDamaged, StateTooNew, CaError, ConfigError, OSError)


@dataclass(frozen=True)
class Backup:
    """A backup read and verified to its end."""

    header: recovery_pb2.BackupHeader
    store: Store

    @property
    def cluster(self) -> objects_pb2.Cluster:
        cluster = self.store.cluster()
        assert cluster is not None
        return cluster


def secret_of(passphrase_file: Path | None, key_file: Path | None) -> Secret:
    """What the two files hold; "-" is standard input. Raises SetupError, WrongKey."""
    if passphrase_file is not None:
        phrase = _first_line(passphrase_file)
        if not phrase:
            raise SetupError(f"{passphrase_file} holds no passphrase: its first line is empty")
        return Secret(passphrase=phrase.encode())
    if key_file is not None:
        return Secret(cluster_key=backup_file.key_of_text(_first_line(key_file)))
    return Secret()


def secret_of_key(key: bytes) -> Secret:
    """The cluster's backup key as a secret."""
    return Secret(cluster_key=key)


def key_text(key: bytes) -> str:
    """The form in which people keep it."""
    return backup_file.key_text(key)


def _first_line(path: Path) -> str:
    try:
        with open(0 if str(path) == "-" else path, encoding="utf-8", closefd=str(path) != "-") as file:
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{path} is not UTF-8 text") from error


def new_backup(
    path: Path, header: recovery_pb2.BackupHeader, chunks: Iterable[bytes], secret: Secret, *, replace: bool
) -> int:
    """Write a backup file; it is there only when whole. Returns its size."""
    return backup_file.save(path, header, chunks, secret, replace=replace)


def header_of(path: Path) -> recovery_pb2.BackupHeader:
    """What the file says about itself without a key. Raises BackupError, OSError."""
    with path.open("rb") as file:
        return backup_file.read_header(file, str(path))


def load(path: Path, secret: Secret) -> Backup:
    """Read and verify a whole backup. Raises BackupError, SnapshotDamaged, OSError."""
    store = Store()
    with path.open("rb") as file:
        header, chunks = backup_file.read(file, str(path), secret)
        store.restore(list(chunks))
    cluster = store.cluster()
    if cluster is None or cluster.meta.id != header.cluster_id or store.index != header.index:
        raise backup_file.BackupDamaged(f"{path}: its content is not what its header says")
    return Backup(header, store)


def contents(backup: Backup) -> dict[str, Any]:
    """What is in it, for people: counts by kind, names of services, networks and nodes."""
    store = backup.store
    counts = {
        store_pb2.Kind.Name(kind).removeprefix("KIND_").lower(): store.count(kind) for kind in tables.KINDS
    }
    return {
        "objects": counts,
        "services": sorted(service.meta.name for service in store.services()),
        "networks": sorted(network.meta.name for network in store.networks()),
        "nodes": sorted(node.meta.name for node in store.nodes()),
    }


def restore(path: Path, secret: Secret, options: NodeOptions, *, force: bool) -> NodeConfig:
    """Make this machine the only manager of the backup's cluster. Raises one of REFUSALS.

    Nothing is touched before the backup has been verified to its end.
    """
    if os.geteuid() != 0:
        raise SetupError("a node needs root (namespaces, cgroups, nftables): run this with sudo")
    backup = load(path, secret)
    node_id = _make_room(options.state_dir, backup, force=force)
    paths = daemon_setup.fresh(options.state_dir, occupied=node_id != "")
    if node_id:
        options = _as_before(options, node_config.load(paths))
    config = _config(backup, options, node_id or identity.new_node_id())
    issuing = rotation.issuing(backup.cluster)
    now_ms = time.time_ns() // 1_000_000
    key_pem, csr = identity.new_key_and_csr()
    certificate = authority.issue(
        issuing.root, csr, node_id=config.node_id, cluster_id=config.cluster_id, role=types_pb2.ROLE_MANAGER,
        now_ms=now_ms, lifetime_ms=backup.cluster.spec.cert_expiry_ms or daemon_setup.CERTIFICATE_LIFETIME_MS,
    )  # fmt: skip
    header = _adopt(backup, config, options, now_ms)
    daemon_setup.make_state_dir(paths.state)
    certificate += issuing.chain_pem
    identity.Identity.build(certificate, key_pem, backup.cluster.root_certificate).save(paths.certs)
    backup_file.save(paths.restore, header, backup.store.snapshot(), Secret(), replace=True)
    node_config.save(paths, config)
    return config


def _make_room(state_dir: Path, backup: Backup, *, force: bool) -> str:
    """Empty the state directory where that is asked for; the id of a node that may keep its identity."""
    paths = Paths(state_dir)
    if not paths.node_json.exists():
        return ""
    old = node_config.load(paths)
    if not force:
        raise SetupError(
            f"{state_dir} already holds a node of cluster {old.cluster_id}: use --force to replace its state "
            "by the backup's"
        )
    pid = daemon_setup.daemon_pid(state_dir)
    if pid is not None:
        raise SetupError(
            f"the daemon of {state_dir} runs (pid {pid}): stop it first, containers keep running"
        )
    node = backup.store.node(old.node_id)
    if old.cluster_id == backup.header.cluster_id and node is not None and not node.removed:
        if paths.raft.exists():
            paths.raft.rename(state_dir / f"raft.before-restore-{time.time_ns() // 1_000_000}")
        for leftover in (paths.bootstrap, paths.recover, paths.restore):
            leftover.unlink(missing_ok=True)
        return old.node_id
    daemon_leave.clear_stopped(paths, old.runtime)
    for entry in state_dir.iterdir():
        if entry == paths.volumes:
            continue  # users' data: nobody said that it may go
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return ""


def _as_before(options: NodeOptions, old: NodeConfig) -> NodeOptions:
    """What was not asked for stays as it was."""
    return replace(
        options,
        advertise_addr=options.advertise_addr or old.advertise_addr,
        data_path_addr=options.data_path_addr or old.data_path_addr,
        hostname=options.hostname or old.hostname,
        ports=old.ports if options.ports == Ports() else options.ports,
        upstreams=old.upstreams if options.upstreams is None else options.upstreams,
    )


def _config(backup: Backup, options: NodeOptions, node_id: str) -> NodeConfig:
    address = daemon_setup.address_of(options.advertise_addr)
    ports = options.ports
    return NodeConfig(
        node_id=node_id, cluster_id=backup.header.cluster_id, hostname=daemon_setup.hostname_of(options),
        role=node_config.MANAGER, advertise_addr=address, data_path_addr=options.data_path_addr,
        listen_addr=options.listen_addr, ports=ports, runtime=options.runtime, upstreams=options.upstreams,
        managers=(ManagerAddress(node_id, f"{address}:{ports.manager}"),),
        raft_profile=backup.cluster.spec.raft_profile or "lan",
    )  # fmt: skip


def _adopt(
    backup: Backup, config: NodeConfig, options: NodeOptions, now_ms: int
) -> recovery_pb2.BackupHeader:
    """Let the backup's store know its new manager, by a transaction of its own; the seed's header."""
    store = backup.store
    fresh = daemon_setup.first_node(config, options)
    old = store.node(config.node_id)
    if old is not None:
        node = objects_pb2.Node()
        node.CopyFrom(old)
        node.role = node.spec.role = types_pb2.ROLE_MANAGER
        node.description.address = node.status.address = config.advertise_addr
        node.manager.CopyFrom(fresh.manager)
    else:
        node = fresh
    changes = demotions(store, config.node_id)
    changes.append(
        store_pb2.Change(put=wrap(node), expected_version=old.meta.version if old is not None else 0)
    )
    index = backup.header.index + 1
    command = raft_store.transaction(
        changes, epoch=store.epoch + 1, now_ms=now_ms, actor="restore", new_epoch=True
    )
    result = raft_store.result_of(store.apply(index, command))
    if result.error_code:
        raise SetupError(f"the backup does not take this machine as its manager: {result.error}")
    header = recovery_pb2.BackupHeader()
    header.CopyFrom(backup.header)
    header.ClearField("key")
    header.index, header.generation = index, backup.header.generation + 1
    return header


def reattach(state_dir: Path, address: str) -> str:
    """Show this node a manager at HOST[:PORT]; returns its id. Containers are not touched."""
    paths = Paths(state_dir)
    config = node_config.load(paths)
    host, port = _host_and_port(address, config.ports.manager)
    current = identity.Identity.load(paths.certs)
    try:
        peer = tls.identify(host, port, current, IDENTIFY_TIMEOUT_S)
    except (Unreachable, BadCertificate) as error:
        raise SetupError(f"no manager of this node's cluster: {error}") from error
    shown = ManagerAddress(peer.node_id, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    others = tuple(entry for entry in config.managers if entry != shown)
    node_config.save(paths, config.with_changes(managers=(shown, *others)))
    for pid in _agent_pids(state_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return peer.node_id


def _host_and_port(address: str, default_port: int) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or (address.count(":") > 1 and not address.startswith("[")):
        host, port = address, str(default_port)
    if not host or not port.isdigit():
        raise SetupError(f"{address!r} is not HOST or HOST:PORT of a manager")
    return host.strip("[]"), int(port)


def _agent_pids(state_dir: Path) -> list[int]:
    """The agent of this state directory; its supervisor starts it again."""
    marker = f"\0--state-dir\0{state_dir}\0".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                if marker in line and b"\0agent\0" in line:
                    found.append(int(entry))
    return found
