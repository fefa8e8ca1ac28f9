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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench import harness

TOOLS = ("dockerd", "containerd", "docker", "runc", "tini", "iptables", "setpriv", "unshare")
START_TIMEOUT_S = 60.0


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

    def __init__(self, box: harness.Sandbox, name: str, insecure: str = "") -> None:
        """`insecure`: a registry without TLS."""
        self.box = box
        self.name = name
        self.address = ""
        directory = box.directory
        self.socket = directory / "sock"
        self.cgroup = f"swarmpy-bench-{os.getpid()}-{name}"
        (directory / "daemon.json").write_text("{}")
        self._flags = [
            "--config-file", f"{directory}/daemon.json", "--data-root", f"{directory}/data",
            "--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid", "-H", f"unix://{self.socket}",
            "--cgroup-parent", f"/{self.cgroup}", *(["--insecure-registry", insecure] if insecure else []),
        ]  # fmt: skip

    def start(self) -> None:
        self.box.start(["dockerd", *self._flags])
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

    def post(self, path: str, body: Any) -> bytes:
        """The answer's bytes, read to their end: also the output of an exec."""
        connection = _Connection(self.socket)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 400:
                raise harness.BenchError(f"docker: POST {path}: {answer.decode(errors='replace').strip()}")
            return answer
        finally:
            connection.close()

    def cli(self, *arguments: str) -> str:
        environment = {**os.environ, "DOCKER_CONFIG": str(self.box.directory)}
        return harness.command(["docker", "-H", f"unix://{self.socket}", *arguments], env=environment)

    def tasks(self, service: str, state: str = "running") -> list[dict[str, Any]]:
        filters = quote(json.dumps({"service": [service], "desired-state": ["running"]}))
        return [task for task in self.get(f"/tasks?filters={filters}") if task["Status"]["State"] == state]

    def all_run(self, service: str, replicas: int) -> bool:
        return len(self.tasks(service)) == replicas

    def network_of(self, service: str) -> str:
        """The network namespace of a service's only container here, as a path of this machine's /proc."""
        container = self.cli("ps", "-q", "--filter", f"name={service}").strip()
        inner = self.cli("inspect", "-f", "{{.State.Pid}}", container).strip()
        wanted = self.box.run("readlink", f"/proc/{inner}/ns/net").strip()
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process}/ns/net") == wanted:
                    return f"/proc/{process}/ns/net"
        raise harness.BenchError(f"docker: no process is in the network of {service}")

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
def engine(name: str, box: harness.Sandbox, insecure: str = "") -> Iterator[Engine]:
    made = Engine(box, name, insecure)
    try:
        made.start()
        yield made
    finally:
        with harness.uninterrupted():
            # The sandbox ends first, so that no process is left in the control groups.
            box.close()
            made.close()


@dataclass
class Swarm:
    """Joined engines; the first is the manager, engine i is plugged in as number i + 1."""

    switch: harness.Switch
    engines: list[Engine]


@contextlib.contextmanager
def swarm(count: int) -> Iterator[Swarm]:
    """`count` dockerds joined by a bridge, each with the image."""
    harness.say(f"docker: starting {count} dockerd{'s' if count > 1 else ''}")
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(harness.switch())
        engines = []
        for number in range(1, count + 1):
            box = stack.enter_context(harness.sandbox(f"docker{number}"))
            address = switch.plug(box, number)
            engines.append(stack.enter_context(engine(f"docker{number}", box)))
            engines[-1].address = address
        archive = harness.image_archive(harness.PEER_ROOT)
        for made in engines:
            made.cli("load", "-i", str(archive))
        archive.unlink()
        _join(engines)
        yield Swarm(switch, engines)
        harness.say("docker: removing everything")


def _join(engines: list[Engine]) -> None:
    first, *others = engines
    first.cli("swarm", "init", "--advertise-addr", first.address)
    token = first.cli("swarm", "join-token", "-q", "worker").strip()
    for made in others:
        made.cli("swarm", "join", "--token", token, "--advertise-addr", made.address, f"{first.address}:2377")

    def ready() -> bool:
        return [node["Status"]["State"] for node in first.get("/nodes")] == ["ready"] * len(engines)

    harness.wait_until(ready, START_TIMEOUT_S, "every docker node ready", 0.1)
