"""Making a node: `init` founds a cluster, `join` enters one, `leave` takes the node's files away.

All of these write files only; starting the daemon is `start`. A failed join leaves no state.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

from swarmpy.node import config as node_config
from swarmpy.node import daemon
from swarmpy.node.agent import facts
from swarmpy.node.ca import authority, identity, join, token
from swarmpy.node.ca.errors import CaError
from swarmpy.node.config import ManagerAddress, NodeConfig, Paths, Ports
from swarmpy.node.plan import addresses, validate
from swarmpy.node.plan.base import CLUSTER_CIDR
from swarmpy.overlay import namespaces
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.kernel import Kernel
from swarmpy.proto import ca_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.tables import wrap

UNIT_PATH = Path("/etc/systemd/system/swarmpy.service")
CERTIFICATE_LIFETIME_MS = 720 * 3600 * 1000
START_TIMEOUT_S = 20.0
UNIT_START_S = 100.0  # systemd itself gives up after 90 s, and says why
REQUIRED_KERNEL = ("/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/pid")


class SetupError(Exception):
    """The node cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class NodeOptions:
    """What init and join share; "" = choose."""

    state_dir: Path
    advertise_addr: str = ""
    listen_addr: str = "0.0.0.0"
    data_path_addr: str = ""
    hostname: str = ""
    ports: Ports = field(default_factory=Ports)
    runtime: str = "auto"
    upstreams: tuple[str, ...] | None = None
    availability: int = types_pb2.AVAILABILITY_ACTIVE
    metrics_addr: str = node_config.DEFAULT_METRICS_ADDR


@dataclass(frozen=True)
class ClusterOptions:
    """What only init takes; 0 or "" = default."""

    cluster_cidr: str = ""
    heartbeat_ms: int = 0
    task_history_limit: int = 0
    cert_expiry_ms: int = 0
    raft_profile: str = "lan"
    autolock: bool = False


def ports(**numbers: int) -> Ports:
    """Ports by name; see node.config.Ports."""
    return Ports(**numbers)


def init(options: NodeOptions, cluster: ClusterOptions) -> NodeConfig:
    """Found a cluster: root, first node, first transaction. Raises SetupError."""
    paths = fresh(options.state_dir)
    address = address_of(options.advertise_addr)
    _check_cidr(cluster.cluster_cidr)
    _check_outside(address, cluster.cluster_cidr)
    _check_outside(options.data_path_addr, cluster.cluster_cidr)
    now_ms = time.time_ns() // 1_000_000
    cluster_id, node_id = identity.new_cluster_id(), identity.new_node_id()
    root = authority.new_root(cluster_id, now_ms)
    key_pem, csr = identity.new_key_and_csr()
    certificate = authority.issue(
        root, csr, node_id=node_id, cluster_id=cluster_id, role=types_pb2.ROLE_MANAGER, now_ms=now_ms,
        lifetime_ms=cluster.cert_expiry_ms or CERTIFICATE_LIFETIME_MS,
    )  # fmt: skip
    config = NodeConfig(
        node_id=node_id, cluster_id=cluster_id, hostname=hostname_of(options), role=node_config.MANAGER,
        advertise_addr=address, data_path_addr=options.data_path_addr, listen_addr=options.listen_addr,
        ports=options.ports, managers=(ManagerAddress(node_id, f"{address}:{options.ports.manager}"),),
        bootstrap=True, raft_profile=cluster.raft_profile, runtime=options.runtime, upstreams=options.upstreams,
        metrics_addr=options.metrics_addr,
    )  # fmt: skip
    cluster_object = _cluster_object(config, cluster, root)
    if problems := validate.validate_cluster(cluster_object):
        raise SetupError("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems))
    first = store_pb2.Transaction()
    first.changes.add(put=wrap(cluster_object))
    first.changes.add(put=wrap(first_node(config, options)))
    make_state_dir(paths.state)
    identity.Identity.build(certificate, key_pem, root.certificate_pem).save(paths.certs)
    node_config.write_private(paths.bootstrap, first.SerializeToString())
    node_config.save(paths, config)
    return config


def first_worker_token(state_dir: Path) -> str:
    """The token of a cluster that was founded here and has not been started yet."""
    first = store_pb2.Transaction.FromString(Paths(state_dir).bootstrap.read_bytes())
    cluster = first.changes[0].put.cluster
    return str(token.JoinToken(authority.fingerprint(cluster.root_certificate), cluster.worker_secret))


def join_cluster(options: NodeOptions, join_token: str, addresses: list[str]) -> NodeConfig:
    """Get an identity from one of the managers. Raises SetupError or a JoinError of node.ca."""
    paths = fresh(options.state_dir)
    key_pem, csr = identity.new_key_and_csr()
    request = ca_pb2.IssueRequest(
        csr=csr, hostname=hostname_of(options), address=options.advertise_addr or "",
        availability=options.availability,  # type: ignore[arg-type]
        request_id=uuid.uuid4().hex,
    )  # fmt: skip
    ports = options.ports
    request.manager.raft_address = f":{ports.raft}"
    request.manager.control_address = f":{ports.manager}"
    request.manager.join_address = f":{ports.join}"
    try:
        response = asyncio.run(join.join(addresses, request, join_token))
    except CaError as error:
        raise SetupError(str(error)) from error
    role = node_config.MANAGER if response.role == types_pb2.ROLE_MANAGER else node_config.WORKER
    config = NodeConfig(
        node_id=response.node_id, cluster_id=response.cluster_id, hostname=hostname_of(options), role=role,
        advertise_addr=response.address, data_path_addr=options.data_path_addr, listen_addr=options.listen_addr,
        ports=ports, raft_profile=response.raft_profile or "lan", runtime=options.runtime,
        upstreams=options.upstreams, metrics_addr=options.metrics_addr,
        managers=tuple(
            ManagerAddress(manager_id, address)
            for manager_id, address in zip(response.manager_ids, response.managers, strict=True)
        ),
    )  # fmt: skip
    make_state_dir(paths.state)
    identity.Identity.build(response.certificate, key_pem, response.root).save(paths.certs)
    node_config.save(paths, config)
    return config


def fresh(state_dir: Path, *, occupied: bool = False) -> Paths:
    """The paths of a directory that holds no node yet (or may), on a machine that can be one."""
    paths = Paths(state_dir)
    if os.geteuid() != 0:
        raise SetupError("a node needs root (namespaces, cgroups, nftables): run this with sudo")
    if paths.node_json.exists() and not occupied:
        raise SetupError(
            f"{state_dir} already holds a node of cluster {node_config.load(paths).cluster_id}: "
            "run `swarmpy leave` first"
        )
    check_machine()
    return paths


def make_state_dir(state_dir: Path) -> None:
    """Only once nothing can be refused any more: a refused init or join leaves no directory."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_dir.chmod(0o700)


def check_machine() -> None:
    """Refuse a machine that cannot run a node, naming what is missing."""
    missing = [tool for tool in ("conmon", "nft") if shutil.which(tool) is None]
    if not any(shutil.which(runtime) for runtime in ("crun", "runc")):
        missing.append("crun (or runc)")
    if missing:
        packages = " ".join({"nft": "nftables"}.get(tool, tool.split()[0]) for tool in missing)
        raise SetupError(
            f"missing on this machine: {', '.join(missing)}: install with `apt-get install {packages}`"
        )
    for path in REQUIRED_KERNEL:
        if not os.path.exists(path):
            raise SetupError(
                f"this kernel has no {path}: it lacks namespaces; swarmpy needs Linux 5.10 or later"
            )
    _check_kernel()


def _check_kernel() -> None:
    """Try what the overlay needs (VXLAN, veth, nftables) in a network namespace that is gone afterwards."""
    try:
        with namespaces.own_namespace_restored():
            result = namespaces.libc.unshare(namespaces.CLONE_NEWNET)
            namespaces.call("make a network namespace", result)
            kernel = Kernel()
            try:
                kernel.check("check")
            finally:
                kernel.close()
    except OverlayError as error:
        raise SetupError(f"this machine cannot carry the overlay network: {error}") from error


def address_of(wanted: str) -> str:
    if wanted:
        try:
            return str(ip_address(wanted))
        except ValueError as error:
            raise SetupError(f"--advertise-addr {wanted!r} is not an IP address") from error
    found = facts.address_of_default_route()
    if found is None:
        raise SetupError(
            "this machine has no default route: say which address others reach it at: --advertise-addr ADDRESS"
        )
    return found


def _check_cidr(cluster_cidr: str) -> None:
    if cluster_cidr:
        try:
            addresses.pools(cluster_cidr)
        except ValueError as error:
            raise SetupError(f"--cluster-cidr: {error}") from error


def _check_outside(address: str, cluster_cidr: str) -> None:
    """A node whose own address is one of the overlay's would refuse its own packets."""
    overlay = ip_network(cluster_cidr or CLUSTER_CIDR)
    try:
        inside = bool(address) and ip_address(address) in overlay
    except ValueError as error:
        raise SetupError(f"{address!r} is not an IP address") from error
    if inside:
        raise SetupError(
            f"{address} lies within {overlay}, the addresses of the overlay: choose others with --cluster-cidr"
        )


def hostname_of(options: NodeOptions) -> str:
    return (options.hostname or socket.gethostname()).split(".")[0][:63]


def _cluster_object(config: NodeConfig, options: ClusterOptions, root: authority.Root) -> objects_pb2.Cluster:
    cluster = objects_pb2.Cluster(
        root_certificate=root.certificate_pem, root_key=root.key_pem,
        worker_secret=token.new_secret(os.urandom(16)), manager_secret=token.new_secret(os.urandom(16)),
        vxlan_port=config.ports.vxlan,
    )  # fmt: skip
    cluster.meta.id = config.cluster_id
    cluster.meta.name = "cluster"
    cluster.spec.cluster_cidr = options.cluster_cidr
    cluster.spec.heartbeat_ms = options.heartbeat_ms
    cluster.spec.task_history_limit = options.task_history_limit
    cluster.spec.cert_expiry_ms = options.cert_expiry_ms
    cluster.spec.raft_profile = options.raft_profile
    if options.autolock:
        cluster.spec.autolock = True
        cluster.unlock_key = os.urandom(32)
    return cluster


def first_node(config: NodeConfig, options: NodeOptions) -> objects_pb2.Node:
    node = objects_pb2.Node(role=types_pb2.ROLE_MANAGER)
    node.meta.id = config.node_id
    node.meta.name = config.hostname
    node.spec.role = types_pb2.ROLE_MANAGER
    node.spec.availability = options.availability  # type: ignore[assignment]
    node.description.hostname = config.hostname
    node.description.address = config.advertise_addr
    node.status.address = config.advertise_addr
    address, ports = config.advertise_addr, config.ports
    node.manager.raft_address = f"{address}:{ports.raft}"
    node.manager.control_address = f"{address}:{ports.manager}"
    node.manager.join_address = f"{address}:{ports.join}"
    return node


def under_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def program() -> str:
    """What starts swarmpy on this machine: the single file where that is what runs, else Python with the module."""
    return os.environ.get("SWARMPY_BINARY") or f"{sys.executable} -P -m swarmpy.cli.main"


def unit_text(state_dir: Path) -> str:
    """The systemd unit of this node's daemon: containers survive its stop (KillMode=process)."""
    return f"""[Unit]
Description=swarmpy node
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
WatchdogSec=30
ExecStart={program()} daemon --state-dir {state_dir}
Restart=always
RestartPreventExitStatus=70
KillMode=process
Delegate=yes
DelegateSubgroup=daemon
TasksMax=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"""


def start(state_dir: Path) -> str:
    """Start the daemon through systemd where it runs, else in the background; says how. Raises SetupError."""
    if under_systemd():
        _start_unit(state_dir)
        return "systemd unit swarmpy.service"
    log_path = state_dir / daemon.LOG_NAME
    with log_path.open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-P", "-m", "swarmpy.cli.main", "daemon", "--state-dir", str(state_dir)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    return f"background process, log in {log_path}"


def _start_unit(state_dir: Path) -> None:
    try:
        UNIT_PATH.write_text(unit_text(state_dir))
        for arguments in (["daemon-reload"], ["enable", "--now", "swarmpy.service"]):
            subprocess.run(
                ["systemctl", *arguments], check=True, capture_output=True, text=True, timeout=UNIT_START_S
            )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
        if isinstance(error, subprocess.TimeoutExpired):
            said = f"it takes more than {UNIT_START_S:g} s"
        elif isinstance(error, subprocess.CalledProcessError) and error.stderr:
            said = error.stderr
        raise SetupError(
            f"the node is made, but systemd did not start it ({said.strip()}): see `systemctl status swarmpy`, "
            f"or run `swarmpy daemon --state-dir {state_dir}`"
        ) from error


def stop_unit() -> None:
    """Stop and remove the systemd unit."""
    for arguments in (["disable", "--now", "swarmpy.service"], ["daemon-reload"]):
        subprocess.run(["systemctl", *arguments], check=False, capture_output=True, timeout=60)
    UNIT_PATH.unlink(missing_ok=True)


def daemon_pid(state_dir: Path) -> int | None:
    """The pid of the running supervisor, None where none runs.

    The file outlives a killed one, and its number may be anybody's by now: another node's, too.
    """
    try:
        pid = int((state_dir / "run" / "daemon.pid").read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    own = b"swarmpy.node.daemon" in arguments and os.fsencode(state_dir.absolute()) in arguments
    return pid if own else None


def wait_for_socket(state_dir: Path, timeout_s: float = START_TIMEOUT_S) -> bool:
    """Whether the manager's socket appeared in time."""
    path = Paths(state_dir).control_socket
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if path.exists():
            return True
        time.sleep(0.05)
    return False
