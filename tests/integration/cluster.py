"""A real cluster for tests: `swarmpy demo` with a root of its own, driven by its own commands.

Several of these can exist beside each other and beside a user's demo: all names on the machine
derive from the root. Everything is read through the cluster's own API.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from swarmpy.node.config import Paths
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2

IMAGE = "cluster-test/web:1"
IMAGE_2 = "cluster-test/web:2"
TOOLS = ("nsenter", "ip", "nft", "conmon", "busybox")
SWARMPY = (sys.executable, "-P", "-m", "swarmpy.cli.main")
Done = subprocess.CompletedProcess[str]


def missing() -> str:
    """Why this machine cannot run a cluster, "" when it can."""
    if os.geteuid() != 0:
        return "needs root: network namespaces and containers"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not any(shutil.which(runtime) for runtime in ("crun", "runc")):
        lacking.append("crun")
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of `condition`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, (
            f"not within {timeout_s:g} s: {what() if callable(what) else what}"
        )
        time.sleep(0.1)


class Cluster:
    """One demo cluster below `/var/lib/NAME` and `/run/NAME`."""

    def __init__(self, name: str) -> None:
        self.root = Path("/var/lib") / name
        self.run_root = Path("/run") / name
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SWARMPY_")}
        self.env |= {"SWARMPY_DEMO_ROOT": str(self.root), "NO_COLOR": "1", "COLUMNS": "200"}
        self.archives: dict[str, Path] = {}

    # ---- the nodes

    def up(self, nodes: int = 5, managers: int = 3) -> Cluster:
        self.demo("up", "-n", str(nodes), "--managers", str(managers), timeout_s=90)
        return self

    def down(self) -> None:
        self.demo("down", timeout_s=60)

    def demo(self, *arguments: str, timeout_s: float = 30) -> str:
        return self.run("demo", *arguments, timeout_s=timeout_s).stdout

    def state(self, node: str) -> Path:
        return self.root / node

    def namespace(self, node: str) -> Path:
        return self.run_root / "netns" / node

    def address(self, node: str) -> str:
        return f"10.55.0.{node[1:]}"

    def overview(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.demo("status", "--format", "json"))}

    def pid(self, node: str, role: str) -> int:
        """The pid of a role's process, 0 where it does not run."""
        marker = f"\0{role}\0--state-dir\0{self.state(node)}\0".encode()
        return next((pid for pid, line in command_lines() if marker in line), 0)

    def kill(self, node: str, role: str) -> int:
        pid = self.pid(node, role)
        assert pid, f"{node} has no {role}"
        os.kill(pid, signal.SIGKILL)
        return pid

    def inside(
        self, node: str, *command: str, timeout_s: float = 15, env: dict[str, str] | None = None
    ) -> Done:
        """Run a command in the node's network."""
        argv = ["nsenter", f"--net={self.namespace(node)}", "--", *command]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False, env=env or self.env
        )

    def daemon_log(self, node: str) -> str:
        return (self.state(node) / "daemon.log").read_text(errors="replace")

    # ---- the command line

    def run(self, *arguments: str, check: bool = True, timeout_s: float = 60, **env: str) -> Done:
        """`swarmpy ARGUMENTS`, as a user runs it."""
        done = subprocess.run(
            [*SWARMPY, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False,
            env={**self.env, **env}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, (
                f"swarmpy {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def cli(self, *arguments: str, check: bool = True, timeout_s: float = 60, **env: str) -> Done:
        return self.run("--context", "demo", *arguments, check=check, timeout_s=timeout_s, **env)

    def at(self, node: str, *arguments: str, check: bool = True, timeout_s: float = 60) -> Done:
        """The command line asking one manager only."""
        return self.run("--host", f"unix://{self.socket(node)}", *arguments, check=check, timeout_s=timeout_s)

    def load_image(self, directory: Path, reference: str = IMAGE) -> str:
        """Make a small web image and load it into the cluster."""
        from swarmpy.node.image import build

        archive = build.build_busybox_image(
            directory / f"{reference.rpartition(':')[2]}.tar", reference=reference, web=True
        )
        self.archives[reference] = archive
        self.cli("image", "load", "-i", str(archive))
        return reference

    # ---- what the managers know

    def socket(self, node: str) -> Path:
        return Paths(self.state(node)).control_socket

    @contextlib.contextmanager
    def control(self, node: str) -> Iterator[control_pb2_grpc.ControlStub]:
        with grpc.insecure_channel(f"unix:{self.socket(node)}") as channel:
            yield control_pb2_grpc.ControlStub(channel)

    def managers(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if Paths(path).control_socket.exists())

    def listed(self, kind: store_pb2.Kind, **filters: str) -> list[Any]:
        """Every object of a kind, from whichever manager answers."""
        wanted = [control_pb2.Filter(key=key, value=value) for key, value in filters.items()]
        request = control_pb2.ListRequest(kind=kind, filters=wanted)
        deadline = time.monotonic() + 20
        while True:
            for node in self.managers():
                with contextlib.suppress(grpc.RpcError), self.control(node) as stub:
                    answer = stub.List(request, timeout=3)
                    return [getattr(obj, str(obj.WhichOneof("kind"))) for obj in answer.objects]
            assert time.monotonic() < deadline, "no manager answered for 20 s"
            time.sleep(0.1)

    def status(self) -> control_pb2.StatusResponse:
        """Of the leader; empty where none answers."""
        for node in self.managers():
            with contextlib.suppress(grpc.RpcError), self.control(node) as stub:
                answer = stub.Status(control_pb2.StatusRequest(), timeout=3)
                if answer.leader_id and answer.has_quorum:
                    return answer
        return control_pb2.StatusResponse()

    def leader(self) -> str:
        """The host name of the leader, once there is one."""

        def find() -> str:
            return next((member.hostname for member in self.status().members if member.leader), "")

        return str(wait_for(find, 20, "a leader"))

    def nodes(self) -> dict[str, objects_pb2.Node]:
        """Nodes by host name, without removed ones."""
        found = self.listed(store_pb2.KIND_NODE)
        return {node.description.hostname: node for node in found if not node.removed}

    def service(self, name: str) -> objects_pb2.Service:
        found = [service for service in self.listed(store_pb2.KIND_SERVICE) if service.meta.name == name]
        assert found, f"no service {name}"
        return found[0]

    def tasks(self, service: str) -> list[objects_pb2.Task]:
        """Every task of a service, also dead ones."""
        return [task for task in self.listed(store_pb2.KIND_TASK) if task.service_name == service]

    def running(self, service: str) -> list[objects_pb2.Task]:
        """The tasks that run and shall run."""
        return [
            task for task in self.tasks(service)
            if task.status.state == types_pb2.TASK_RUNNING and task.desired_state == types_pb2.TASK_RUNNING
        ]  # fmt: skip

    def where(self, service: str) -> list[str]:
        """The host names of the nodes that run the service, one per running task."""
        names = {node.meta.id: name for name, node in self.nodes().items()}
        return sorted(names.get(task.node_id, "?") for task in self.running(service))

    def settle(self, nodes: int = 5, timeout_s: float = 30) -> None:
        """Until a leader has a majority, every node has a session with it, and is ready.

        A node that was not heard since a new leader took over still counts as ready for a while.
        """
        wait_for(
            lambda: min((answer := self.status()).nodes_ready, answer.nodes_connected) >= nodes,
            timeout_s,
            f"{nodes} nodes ready and connected",
        )

    # ---- the containers

    def pids(self, task_id: str) -> list[int]:
        """Processes of a task's container, by its control group; found on the machine itself."""
        return sorted(pid for pid, groups in control_groups() if f"/{task_id}" in groups)

    def get(self, node: str, url: str) -> str:
        """What a request from the node is answered, "" where it is not."""
        done = self.inside(node, "timeout", "3", "busybox", "wget", "-q", "-O-", url)
        return done.stdout.strip() if done.returncode == 0 else ""

    def shell(self, task: objects_pb2.Task, *command: str) -> Done:
        """Run a busybox command for 3 s at most in the task's network and files, as if it were its own."""
        pids = self.pids(task.meta.id)
        assert pids, f"{task.meta.name} has no process"
        argv = [
            "nsenter",
            "-t",
            str(pids[0]),
            "-n",
            "-m",
            "--",
            "/bin/busybox",
            "timeout",
            "3",
            "/bin/busybox",
            *command,
        ]
        return subprocess.run(argv, capture_output=True, text=True, timeout=15, check=False)


def command_lines() -> Iterator[tuple[int, bytes]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry), Path(f"/proc/{entry}/cmdline").read_bytes()


def control_groups() -> Iterator[tuple[int, str]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry), Path(f"/proc/{entry}/cgroup").read_text()


class Load:
    """Requests against a URL from one node's network, in a process of its own."""

    def __init__(self, cluster: Cluster, node: str, url: str, rate: int = 50) -> None:
        argv = ["nsenter", f"--net={cluster.namespace(node)}", "--", sys.executable, "-P", "-m"]
        argv += ["swarmpy.node.demo_load", url, "120", str(rate)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def end(self) -> dict[str, Any]:
        self._process.terminate()
        output, _ = self._process.communicate(timeout=15)
        report = json.loads(output)
        assert isinstance(report, dict)
        return report

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=15)


# ---- what may be left on the machine


def tags(root: Path, nodes: int = 20) -> set[str]:
    """The tags of all nodes that may be below a demo root."""
    return {Paths(root / f"n{number}").tag for number in range(1, nodes + 1)}


def leftovers(root: Path) -> list[str]:
    """Everything on this machine that belongs to the demo at `root`."""
    marks = [str(root) + "/", f"/run/{root.name}/", *(f"/run/swarmpy/{tag}" for tag in tags(root))]
    found = []
    for pid, line in command_lines():
        if any(mark.encode() in line for mark in marks) and pid != os.getpid():
            found.append(f"process {pid}: {line.replace(bytes(1), b' ').decode(errors='replace')[:150]}")
    found += [
        f"process {pid} in control group {groups.split()[0]}" for pid, groups in control_groups()
        if any(f"swarmpy-{tag}" in groups for tag in tags(root))
    ]  # fmt: skip
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if any(mark in line + "/" for mark in marks)]
    for tag in tags(root):
        found += [f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"**/swarmpy-{tag}")]
        if (path := Path("/run/swarmpy") / tag).exists():
            found.append(f"directory {path}: {sorted(os.listdir(path))}")
    found += [f"directory {path}" for path in (root, Path("/run") / root.name) if path.exists()]
    return found


def machine_network() -> dict[str, list[str]]:
    """The machine's own links, addresses, routes, rules, tables and named namespaces."""
    commands = {
        "links": ["ip", "-o", "link"], "addresses": ["ip", "-o", "address"],
        "routes": ["ip", "route", "show", "table", "all"],
        "rules": ["ip", "rule"], "namespaces": ["ip", "netns"], "tables": ["nft", "list", "tables"],
    }  # fmt: skip
    found = {}
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        found[name] = sorted(
            line.split(" qdisc ")[0].split(" valid_lft ")[0] for line in done.stdout.splitlines()
        )
    return found
