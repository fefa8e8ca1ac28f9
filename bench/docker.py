"""Docker Engine as the peer: one dockerd a sandbox, its HTTP API on a unix socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench import harness

TOOLS = ("dockerd", "containerd", "docker", "runc", "tini", "iptables", "setpriv", "unshare")
START_TIMEOUT_S = 60.0
PREFIX = "10.57.0."


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


class Engine:
    """A running dockerd with the containerd that it manages."""

    def __init__(self, box: harness.Sandbox, name: str) -> None:
        self.box = box
        self.name = name
        self.address = ""
        directory = box.directory
        self.socket = directory / "sock"
        self.cgroup = f"swarmpy-bench-{os.getpid()}-{name}"
        # /etc/docker would get a key file: in here it is a directory of the sandbox's own.
        (directory / "etc").mkdir()
        (directory / "daemon.json").write_text("{}")
        self._flags = [
            "--config-file", f"{directory}/daemon.json", "--data-root", f"{directory}/data",
            "--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid", "-H", f"unix://{self.socket}",
            "--cgroup-parent", f"/{self.cgroup}",
        ]  # fmt: skip

    def start(self) -> None:
        script = (
            f"mkdir -p /mnt/etc /mnt/work; mount -t overlay overlay -olowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work /etc;"
            f"exec dockerd {' '.join(self._flags)}"
        )
        self.box.start(["sh", "-c", script])
        try:
            harness.wait_until(self._answers, START_TIMEOUT_S, f"dockerd {self.name} answers", 0.1)
        except harness.BenchError as error:
            raise harness.BenchError(f"{error}: {self.box.tail()}") from error

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return bool(self.get("/info"))
        return False

    def get(self, path: str) -> Any:
        connection = _Connection(self.socket)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status >= 400:
                raise harness.BenchError(f"docker: GET {path}: {body.decode(errors='replace').strip()}")
            return json.loads(body)
        finally:
            connection.close()

    def cli(self, *arguments: str) -> str:
        environment = {**os.environ, "DOCKER_CONFIG": str(self.box.directory)}
        return harness.command(["docker", "-H", f"unix://{self.socket}", *arguments], env=environment)

    def tasks(self, service: str, state: str = "running") -> list[dict[str, Any]]:
        filters = quote(json.dumps({"service": [service], "desired-state": ["running"]}))
        return [task for task in self.get(f"/tasks?filters={filters}") if task["Status"]["State"] == state]

    def containers(self) -> int:
        return len(self.get("/containers/json?all=true"))

    def close(self) -> None:
        """Remove what is not in the sandbox: the control groups."""
        subprocess.run(["umount", "-l", str(self.box.directory / "data")], check=False, capture_output=True)
        roots = [
            Path("/sys/fs/cgroup"),
            *(path for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()),
        ]
        deadline = time.monotonic() + 10
        for root in roots:
            while (root / self.cgroup).is_dir() and time.monotonic() < deadline:
                for directory, _, _ in os.walk(root / self.cgroup, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)


@contextlib.contextmanager
def engine(name: str, box: harness.Sandbox) -> Iterator[Engine]:
    made = Engine(box, name)
    try:
        made.start()
        yield made
    finally:
        with harness.uninterrupted():
            # The sandbox ends first, so that no process is left in the control groups.
            box.close()
            made.close()


@contextlib.contextmanager
def swarm(count: int) -> Iterator[list[Engine]]:
    """`count` dockerds joined by a bridge: the first is the manager, the others are workers."""
    harness.say(f"docker: starting {count} dockerd{'s' if count > 1 else ''}")
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(harness.sandbox("switch"))
        switch.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
        switch.run("ip", "link", "set", "br0", "up")
        engines = []
        for number in range(1, count + 1):
            box = stack.enter_context(harness.sandbox(f"docker{number}"))
            plug(switch, box, number)
            made = stack.enter_context(engine(f"docker{number}", box))
            made.address = f"{PREFIX}{number}"
            engines.append(made)
        archive = harness.image_archive(harness.PEER_ROOT)
        for made in engines:
            made.cli("load", "-i", str(archive))
        archive.unlink()
        first, *others = engines
        first.cli("swarm", "init", "--advertise-addr", first.address)
        if others:
            token = first.cli("swarm", "join-token", "-q", "worker").strip()
            for made in others:
                made.cli(
                    "swarm",
                    "join",
                    "--token",
                    token,
                    "--advertise-addr",
                    made.address,
                    f"{first.address}:2377",
                )
        harness.wait_until(
            lambda: [node["Status"]["State"] for node in first.get("/nodes")] == ["ready"] * count,
            START_TIMEOUT_S, "every docker node ready", 0.1,
        )  # fmt: skip
        yield engines
        harness.say("docker: removing everything")


def plug(switch: harness.Sandbox, box: harness.Sandbox, number: int) -> None:
    switch.run("ip", "link", "add", f"p{number}", "type", "veth", "peer", "name", f"q{number}")
    switch.run("ip", "link", "set", f"p{number}", "master", "br0", "up")
    # `ip` takes pids of its own pid namespace: this one runs outside of the sandbox's.
    harness.command(
        [
            "nsenter",
            "-t",
            str(switch.pid),
            "--net",
            "--",
            "ip",
            "link",
            "set",
            f"q{number}",
            "netns",
            str(box.pid),
        ]
    )
    box.run("ip", "link", "set", f"q{number}", "name", "eth0")
    box.run("ip", "address", "add", f"{PREFIX}{number}/24", "dev", "eth0")
    box.run("ip", "link", "set", "eth0", "up")


def set_link(switch_pid: int, number: int, *, up: bool) -> None:
    harness.command(
        [
            "nsenter",
            "-t",
            str(switch_pid),
            "--net",
            "--",
            "ip",
            "link",
            "set",
            f"p{number}",
            "up" if up else "down",
        ]
    )
