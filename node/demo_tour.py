"""The tour: what swarmpy promises, shown on a demo cluster with its own commands.

Every step runs a real command, prints it, and checks what came of it; a step that does not
show what it should is marked FAILED and makes the tour fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from swarmpy.node import config as node_config
from swarmpy.node import demo as demo_module
from swarmpy.node.demo import Demo, DemoNode, inside, swarmpy
from swarmpy.node.image import build
from swarmpy.proto import control_pb2, control_pb2_grpc, store_pb2

IMAGE = "swarmpy-demo/web:1"
PORT = 8080
REPLICAS = 4
LOAD_RATE = 100
CLIENT = "while true; do wget -q -O- http://web/cgi-bin/hostname || echo unanswered; sleep 0.2; done"
WRITE_PERIOD_S = 0.01
SETTLE_S = 1.0
RECOVER_TIMEOUT_S = 30.0

Say = Callable[[str], None]


@dataclass
class Tour:
    """The running tour; `failed` counts the steps that did not show what they should."""

    demo: Demo
    say: Say
    failed: int = 0

    @property
    def managers(self) -> list[DemoNode]:
        return [node for node in self.demo.nodes if node.role == node_config.MANAGER]

    @property
    def workers(self) -> list[DemoNode]:
        return [node for node in self.demo.nodes if node.role == node_config.WORKER]

    def title(self, text: str) -> None:
        self.say(f"\n── {text}")

    def result(self, good: bool, text: str) -> None:
        self.failed += not good
        self.say(f"   {'ok' if good else 'FAILED'}: {text}")

    def command(self, *arguments: str, show: bool = True) -> str:
        """Run `swarmpy --context demo …`, show it, return what it printed."""
        if show:
            self.say(f"   $ swarmpy --context demo {' '.join(_quoted(a) for a in arguments)}")
        done = subprocess.run(
            swarmpy("--context", "demo", *arguments), capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            self.result(False, f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for line in self.command(*arguments, "--format", "json", show=False).splitlines():
            parsed = json.loads(line)
            rows += parsed if isinstance(parsed, list) else [parsed]
        return rows


def run(count: int, managers: int, *, keep: bool, say: Say) -> bool:
    """The whole tour; True when every step showed what it should."""
    began = time.monotonic()
    demo = demo_module.up(count, managers, say)
    tour = Tour(demo, say)
    try:
        _deploy(tour)
        _reach(tour)
        if len(tour.managers) >= 3:
            _kill_leader(tour)
        if len(demo.nodes) > len(tour.managers):
            _kill_worker(tour)
        tour.title(f"The tour took {time.monotonic() - began:.0f} s, {tour.failed} steps failed")
    finally:
        if not keep:
            demo_module.down(lambda line: say(f"   {line}"))
            say("   Nothing of the demo is left.")
    say("\nNext, try it yourself:" if not keep else "\nThe cluster keeps running. Next, try:")
    if not keep:
        say("    swarmpy demo up                    # the cluster, to play with")
    for line in demo_module.NEXT_COMMANDS:
        say(f"    {line}")
    return not tour.failed


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def _deploy(tour: Tour) -> None:
    tour.title("Nodes")
    tour.say(_indented(tour.command("node", "ls")))
    tour.title("An image, made here from this machine's busybox; no registry is needed")
    with tempfile.TemporaryDirectory(prefix="swarmpy-demo-") as directory:
        archive = build.build_busybox_image(Path(directory) / "web.tar", reference=IMAGE, web=True)
        tour.say(_indented(tour.command("image", "load", "-i", str(archive))))
    tour.title(f"A web service with {REPLICAS} replicas, published on port {PORT} of every node")
    began = time.monotonic()
    tour.command("service", "create", "--name", "web", "--replicas", str(REPLICAS), "-p", f"{PORT}:80", IMAGE)
    tour.say(
        f"   {REPLICAS} of {REPLICAS} running after {time.monotonic() - began:.1f} s "
        "(the other nodes fetched the image from the one that has it)"
    )
    tour.say(_indented(tour.command("service", "ps", "web")))
    tour.title("Another service that asks for http://web, by name, again and again")
    tour.command("service", "create", "-q", "--name", "client", IMAGE, "sh", "-c", CLIENT)


def _reach(tour: Tour) -> None:
    tour.title("By DNS name, from the other service's container")
    time.sleep(2 * SETTLE_S)
    lines = tour.command("service", "logs", "--tail", "8", "client").splitlines()
    for line in lines[-4:]:
        tour.say(f"   {line}")
    tour.result(
        any("unanswered" not in line for line in lines) and bool(lines), "the name leads to the service"
    )
    tour.title("By virtual IP, from a node")
    service = tour.rows("service", "inspect", "web")
    vip = _find(service, "vips")[0]["address"]
    answer = _curl(tour.demo.nodes[-1], f"http://{vip}/cgi-bin/hostname")
    tour.result(bool(answer), f"http://{vip} answered by {answer or 'nobody'}")
    tour.title(f"By the published port {PORT}, on every node")
    for node in tour.demo.nodes:
        answer = _curl(node, f"http://{node.address}:{PORT}/cgi-bin/hostname")
        tour.result(bool(answer), f"{node.name} ({node.address}:{PORT}) answered by {answer or 'nobody'}")


def _find(value: Any, key: str) -> Any:
    """The first value of `key` anywhere in a JSON document."""
    if isinstance(value, dict):
        if key in value:
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            if (found := _find(entry, key)) is not None:
                return found
    return None


def _curl(node: DemoNode, url: str) -> str:
    command = inside(node, ["busybox", "wget", "-q", "-O-", url])
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


class Load:
    """Requests from one node to one address, in a process of its own."""

    def __init__(self, node: DemoNode, url: str, seconds: float) -> None:
        command = [sys.executable, "-P", "-m", "swarmpy.node.demo_load", url, str(seconds), str(LOAD_RATE)]
        self._process = subprocess.Popen(inside(node, command), stdout=subprocess.PIPE, text=True)

    def end(self) -> dict[str, Any]:
        self._process.terminate()
        output, _ = self._process.communicate(timeout=10)
        report = json.loads(output)
        assert isinstance(report, dict)
        return report


@dataclass
class Writes:
    """A writer that changes a label all the time, and the longest time nothing was accepted."""

    hosts: list[str]
    accepted: int = 0
    longest_gap_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(10)

    def _run(self) -> None:
        channels = [grpc.insecure_channel(host) for host in self.hosts]
        last = time.monotonic()
        position = 0
        while not self._stop.is_set():
            try:
                self._write(control_pb2_grpc.ControlStub(channels[position]))
            except grpc.RpcError:
                position = (position + 1) % len(channels)
                time.sleep(WRITE_PERIOD_S)
                continue
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
            self.accepted += 1
            time.sleep(WRITE_PERIOD_S)
        for channel in channels:
            channel.close()

    def _write(self, stub: control_pb2_grpc.ControlStub) -> None:
        found = stub.Get(control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref="client"), timeout=2).object
        found.service.meta.labels["tour"] = str(self.accepted)
        stub.Update(control_pb2.UpdateRequest(object=found), timeout=2)


def _leader(tour: Tour) -> DemoNode | None:
    status = demo_module.cluster_status()
    for member in status.get("members", []):
        if member.get("leader"):
            return next((node for node in tour.managers if node.name == member.get("hostname")), None)
    return None


def _kill_leader(tour: Tour) -> None:
    tour.title("kill -9 of the leader's manager, while requests and writes run")
    leader = _leader(tour)
    if leader is None:
        tour.result(False, "no leader found")
        return
    asked = next(node for node in reversed(tour.demo.nodes) if node is not leader)
    load = Load(asked, f"http://{asked.address}:{PORT}/cgi-bin/hostname", 60)
    writes = Writes([f"unix:{node.paths.control_socket}" for node in tour.managers])
    writes.start()
    time.sleep(2 * SETTLE_S)
    before = writes.accepted
    pids = demo_module.kill(leader.name, "manager")
    tour.say(f"   killed pid {pids[0]}, the leader, on {leader.name}")
    time.sleep(4 * SETTLE_S)
    writes.end()
    report = load.end()
    after = _leader(tour)
    tour.result(after is not None, f"{after.name if after else 'nobody'} leads now")
    tour.result(
        writes.accepted > before,
        f"writes were refused for {writes.longest_gap_s:.2f} s; "
        f"{writes.accepted} were accepted, {writes.accepted - before} of them after the kill",
    )
    tour.result(
        report["failures"] == 0 and report["requests"] > 0,
        f"{report['failures']} of {report['requests']} requests failed {report['first_failure']}",
    )


def _kill_worker(tour: Tour) -> None:
    tour.title("A whole worker dies: every process of it, and its cable")
    tasks = [
        row
        for row in tour.rows("service", "ps", "web")
        if "Running" in str(_any(row, "CurrentState", "current_state"))
    ]
    by_node = {
        node.name: sum(_any(row, "Node", "node") == node.name for row in tasks) for node in tour.workers
    }
    victim = max(tour.workers, key=lambda node: by_node[node.name])
    tour.say(f"   {victim.name} runs {by_node[victim.name]} of the {REPLICAS} replicas")
    began = time.monotonic()
    demo_module.kill(victim.name)
    recovered = _wait_recovered(tour, victim.name)
    seconds = time.monotonic() - began
    tour.result(
        recovered, f"{REPLICAS} of {REPLICAS} replicas run on the other nodes {seconds:.1f} s after the kill"
    )
    tour.say(_indented(tour.command("service", "ps", "web")))
    tour.say(_indented(tour.command("node", "ls")))


def _any(row: dict[str, Any], *keys: str) -> Any:
    return next((row[key] for key in keys if key in row), None)


def _wait_recovered(tour: Tour, victim: str) -> bool:
    deadline = time.monotonic() + RECOVER_TIMEOUT_S
    while time.monotonic() < deadline:
        rows = tour.rows("service", "ps", "web")
        alive = [
            row for row in rows
            if str(_any(row, "CurrentState", "current_state")).startswith("Running")
            and _any(row, "Node", "node") != victim
        ]  # fmt: skip
        if len(alive) >= REPLICAS:
            return True
        time.sleep(0.1)
    return False


def _indented(text: str) -> str:
    return os.linesep.join(f"   {line}" for line in text.splitlines())
