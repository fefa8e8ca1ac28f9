"""A whole cluster on this machine: each node in its own network namespace, with its own state
directory and its own processes. What `swarmpy demo` runs.

The namespaces are joined by a bridge in a namespace of its own ("switch"): nothing in the
machine's own network changes and no packet leaves, unless an uplink is asked for. What an
interrupted demo left behind is removed by `down`, and by the next `up`. SWARMPY_DEMO_ROOT, a
directory with a name of its own, is a second demo beside the first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.node import config as node_config
from swarmpy.node import daemon, daemon_leave, daemon_setup, demo_net
from swarmpy.node.config import Paths
from swarmpy.node.runtime.errors import ContainerError
from swarmpy.overlay.errors import OverlayError

STATE_ROOT = Path(os.environ.get("SWARMPY_DEMO_ROOT") or "/var/lib/swarmpy-demo").absolute()
RUN_ROOT = Path("/run") / STATE_ROOT.name
CONTEXT = RUN_ROOT / "context.json"
NODES_MAX = 20
JOIN_TIMEOUT_S = 60
READY_TIMEOUT_S = 60.0
NEXT_COMMANDS = (
    "swarmpy --context demo node ls",
    "swarmpy --context demo service ls",
    "swarmpy demo status",
    "swarmpy demo kill n2               # like a power cut; `swarmpy demo start n2` brings it back",
    "swarmpy demo partition 'n1,n2|n3,n4,n5'   and then   swarmpy demo heal",
    "swarmpy demo shell n4              # a shell in that node's network",
    "swarmpy demo down                  # removes everything",
)


class DemoError(Exception):
    """The demo cannot do that; the message says why and what to do."""


REFUSALS = (DemoError, OverlayError, daemon_setup.SetupError, subprocess.TimeoutExpired, OSError)


@dataclass(frozen=True)
class DemoNode:
    """One node of the demo."""

    name: str
    address: str
    role: str

    @property
    def state(self) -> Path:
        return STATE_ROOT / self.name

    @property
    def paths(self) -> Paths:
        return Paths(self.state)

    @property
    def namespace(self) -> Path:
        return demo_net.namespace_path(self.name)


@dataclass
class Demo:
    """The demo as written to disk; `cut` are the groups of a partition."""

    nodes: list[DemoNode]
    uplink: bool = False
    cut: list[list[str]] = field(default_factory=list)

    def node(self, name: str) -> DemoNode:
        for node in self.nodes:
            if node.name == name:
                return node
        raise DemoError(
            f"there is no demo node {name!r}: the nodes are {', '.join(n.name for n in self.nodes)}"
        )

    def save(self) -> None:
        RUN_ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
        managers = [node for node in self.nodes if node.role == node_config.MANAGER]
        hosts = [f"unix://{node.paths.control_socket}" for node in managers]
        CONTEXT.write_text(json.dumps({"hosts": hosts}))
        STATE_ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
        (STATE_ROOT / "demo.json").write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load() -> Demo:
        try:
            data = json.loads((STATE_ROOT / "demo.json").read_text())
            return Demo([DemoNode(**node) for node in data["nodes"]], data["uplink"], data["cut"])
        except FileNotFoundError as error:
            raise DemoError("there is no demo cluster: start one with `swarmpy demo up`") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DemoError(
                f"{STATE_ROOT}/demo.json cannot be read ({error}): run `swarmpy demo down`"
            ) from error


def check() -> None:
    """Refuse a machine or user that cannot run a demo."""
    if os.geteuid() != 0:
        raise DemoError("the demo makes network namespaces and runs containers: run it as root (sudo)")
    try:
        daemon_setup.check_machine()
    except daemon_setup.SetupError as error:
        raise DemoError(str(error)) from error
    for tool, package in (("nsenter", "util-linux"), ("ip", "iproute2")):
        if shutil.which(tool) is None:
            raise DemoError(f"missing on this machine: {tool}: install with `apt-get install {package}`")


def up(count: int, managers: int, say: Callable[[str], None], *, uplink: bool = False) -> Demo:
    """Build the cluster; returns once every node is ready. Raises DemoError."""
    check()
    if not 1 <= managers <= count <= NODES_MAX:
        raise DemoError(
            f"1 to {NODES_MAX} nodes, of which at least 1 and at most all are managers; got {count} and {managers}"
        )
    if STATE_ROOT.exists() or RUN_ROOT.exists():
        say("Removing what an earlier demo left …")
        down(lambda _line: None)
    demo = Demo(
        [
            DemoNode(
                f"n{i}", demo_net.address(i), node_config.MANAGER if i <= managers else node_config.WORKER
            )
            for i in range(1, count + 1)
        ],
        uplink,
    )
    demo.save()
    say(f"Making {count} network namespaces …")
    demo_net.build([(node.name, node.address) for node in demo.nodes], uplink=uplink)
    _found(demo, say)
    return demo


def _found(demo: Demo, say: Callable[[str], None]) -> None:
    first, *others = demo.nodes
    upstreams: tuple[str, ...] = () if not demo.uplink else _host_resolvers()
    say(f"Founding the cluster on {first.name} …")
    options = daemon_setup.NodeOptions(
        state_dir=first.state, advertise_addr=first.address, hostname=first.name, upstreams=upstreams
    )
    daemon_setup.init(options, daemon_setup.ClusterOptions())
    start(first)
    tokens = {role: _token(first, role) for role in {node.role for node in others}}
    say(f"Joining {len(others)} nodes …")
    joins = [(node, _join(node, first, tokens[node.role], upstreams)) for node in others]
    try:
        for node, process in joins:
            output, _ = process.communicate(timeout=JOIN_TIMEOUT_S)
            if process.returncode:
                raise DemoError(f"{node.name} could not join: {output.decode(errors='replace').strip()}")
            start(node)
    finally:
        for _, process in joins:
            # None that ended: a join that goes on would write state after `down` has removed it.
            if process.poll() is None:
                process.kill()
                process.wait()
    wait_ready(demo, len(demo.nodes), say)


def _host_resolvers() -> tuple[str, ...]:
    from swarmpy.node.agent import facts

    config = node_config.NodeConfig("", "", "", "", "")
    return facts.upstream_resolvers(config)


def swarmpy(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-P", "-m", "swarmpy.cli.main", *arguments]


def inside(node: DemoNode, command: list[str]) -> list[str]:
    return ["nsenter", f"--net={node.namespace}", "--", *command]


def start(node: DemoNode) -> None:
    """Start the node's daemon in its namespace, in the background."""
    log_path = node.state / daemon.LOG_NAME
    with log_path.open("ab") as output:
        subprocess.Popen(
            inside(node, swarmpy("daemon", "--state-dir", str(node.state))),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def _token(first: DemoNode, role: str) -> str:
    daemon_setup.wait_for_socket(
        first.state, READY_TIMEOUT_S
    )  # a busy machine takes its time to start Python
    command = swarmpy(
        "--host", f"unix://{first.paths.control_socket}", "--timeout", "30", "token", "-q", role
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise DemoError(
            f"the first manager did not come up: {done.stderr.strip()} (see {first.state}/daemon.log)"
        )
    return done.stdout.strip()


def _join(node: DemoNode, first: DemoNode, token: str, upstreams: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = swarmpy(
        "join", "--no-start", "--token", token, "--hostname", node.name, "--advertise-addr", node.address,
        "--state-dir", str(node.state), *(f"--dns={server}" for server in upstreams), f"{first.address}:7376",
    )  # fmt: skip
    return subprocess.Popen(inside(node, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def node_list() -> list[dict[str, str]]:
    """The rows of `swarmpy --context demo node ls --format json`."""
    command = swarmpy("--context", "demo", "--timeout", "10", "node", "ls", "--format", "json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return []
    rows = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            parsed = json.loads(line)
            rows += parsed if isinstance(parsed, list) else [parsed]
    return rows


def wait_ready(demo: Demo, count: int, say: Callable[[str], None]) -> None:
    """Until `count` nodes are ready and every manager is in Raft."""
    managers = sum(node.role == node_config.MANAGER for node in demo.nodes)
    deadline = time.monotonic() + READY_TIMEOUT_S
    shown = -1
    while time.monotonic() < deadline:
        status = cluster_status()
        ready = int(status.get("nodes_ready", 0) or 0)
        members = [member for member in status.get("members", []) if member.get("reachable")]
        if ready != shown:
            say(f"  {ready} of {count} nodes ready")
            shown = ready
        if ready >= count and len(members) >= managers:
            return
        time.sleep(0.2)
    raise DemoError(
        f"the nodes were not all ready within {READY_TIMEOUT_S:g} s: see {STATE_ROOT}/n*/daemon.log"
    )


def cluster_status() -> dict[str, Any]:
    """`swarmpy --context demo status --format json`, {} where nobody answers."""
    command = swarmpy("--context", "demo", "--timeout", "5", "status", "--format", "json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    try:
        parsed = json.loads(done.stdout) if done.returncode == 0 else {}
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def kill(name: str, part: str = "all") -> list[int]:
    """SIGKILL a whole node (every process in its namespaces), or one of its roles."""
    node = Demo.load().node(name)
    pids = processes(node) if part == "all" else role_pids(node, part)
    if not pids:
        raise DemoError(f"{name} has no running {'process' if part == 'all' else part}")
    if part == "all":
        # The supervisor first: it must not restart what dies after it.
        pids.sort(key=lambda pid: pid != daemon_setup.daemon_pid(node.state))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if part == "all":
        demo_net.set_link(name, up=False)
    return pids


def revive(name: str) -> None:
    """Start a killed node again."""
    node = Demo.load().node(name)
    if daemon_setup.daemon_pid(node.state) is not None:
        raise DemoError(f"{name} runs already")
    demo_net.set_link(name, up=True)
    start(node)


def role_pids(node: DemoNode, role: str) -> list[int]:
    """The processes of one role of the node."""
    marker = f"\0{role}\0--state-dir\0{node.state}\0".encode()
    return [pid for pid, command in _command_lines() if marker in command]


def _command_lines() -> Iterable[tuple[int, bytes]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry), Path(f"/proc/{entry}/cmdline").read_bytes()


def processes(node: DemoNode) -> list[int]:
    """Every process in the node's network namespace or in one of its pods'."""
    namespaces = set()
    for path in [node.namespace, *(node.paths.netns.glob("*") if node.paths.netns.is_dir() else ())]:
        with contextlib.suppress(OSError):
            namespaces.add(path.stat().st_ino)
    host = os.stat("/proc/self/ns/net").st_ino
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                inode = os.stat(f"/proc/{entry}/ns/net").st_ino
                if inode in namespaces and inode != host and int(entry) != os.getpid():
                    found.append(int(entry))
    return found


def partition(groups: list[list[str]]) -> None:
    """Cut the links between groups of nodes; nodes not named form one more group."""
    demo = Demo.load()
    named = [name for group in groups for name in group]
    for name in named:
        demo.node(name)
    if len(set(named)) != len(named) or len(groups) < 1:
        raise DemoError("every node may stand in one group only")
    rest = [node.name for node in demo.nodes if node.name not in named]
    demo.cut = [group for group in [*groups, rest] if group]
    if len(demo.cut) < 2:
        raise DemoError("a partition needs two groups: `swarmpy demo partition n1,n2|n3,n4,n5`")
    addresses = {node.name: node.address for node in demo.nodes}
    for group in demo.cut:
        others = [addresses[name] for other in demo.cut if other is not group for name in other]
        for name in group:
            demo_net.cut(name, others)
    demo.save()


def heal() -> None:
    """Mend every cut link."""
    demo = Demo.load()
    for node in demo.nodes:
        demo_net.cut(node.name, [])
    demo.cut = []
    demo.save()


def down(say: Callable[[str], None]) -> None:
    """Remove everything, whatever state it is in."""
    check()
    states = sorted(path for path in STATE_ROOT.iterdir() if path.is_dir()) if STATE_ROOT.is_dir() else []
    nodes = [DemoNode(path.name, "", "") for path in states]
    say("Stopping the nodes …")
    _stop_daemons(nodes)
    say("Removing containers …")
    problems = [problem for node in nodes if (problem := _clear(node))]
    say("Removing namespaces and state …")
    for node in nodes:
        for pid in processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if demo_net.left_forwarding():
        say("IPv4 forwarding, which --uplink turned on, stays on; off again: sysctl -w net.ipv4.ip_forward=0")
    demo_net.remove()
    if problems:
        raise DemoError("; ".join(problems))
    shutil.rmtree(STATE_ROOT, ignore_errors=True)
    shutil.rmtree(RUN_ROOT, ignore_errors=True)


def _stop_daemons(nodes: list[DemoNode]) -> None:
    pids = [pid for node in nodes if (pid := daemon_setup.daemon_pid(node.state)) is not None]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    leftovers = [
        pid for node in nodes for role in ("agent", "manager", "dns") for pid in role_pids(node, role)
    ]
    for pid in leftovers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in [*pids, *leftovers]):
        time.sleep(0.02)


def _clear(node: DemoNode) -> str:
    if not node.state.is_dir():
        return ""
    try:
        asyncio.run(daemon_leave.clear_containers(node.paths, "auto"))
    except (ContainerError, OverlayError) as error:
        return f"{node.name}: {error}"
    return ""


def overview() -> list[dict[str, object]]:
    """A row a node: what runs of it. Pids, 0 = does not run."""
    demo = Demo.load()
    groups = {name: number for number, group in enumerate(demo.cut, 1) for name in group}
    rows: list[dict[str, object]] = []
    for node in demo.nodes:
        roles = {role: next(iter(role_pids(node, role)), 0) for role in ("agent", "manager", "dns")}
        rows.append(
            {
                "name": node.name, "address": node.address, "role": node.role,
                "daemon": daemon_setup.daemon_pid(node.state) or 0, **roles,
                "processes": len(processes(node)), "group": groups.get(node.name, 0),
            }
        )  # fmt: skip
    return rows
