"""etcd as the peer: three members in one sandbox, on loopback, with etcd's default timings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc

from bench import harness

TOOLS = ("etcd", "etcdctl", "tini", "setpriv", "unshare")
MEMBERS = 3
CLIENT_PORT, PEER_PORT = 23790, 23890


class Etcd:
    """Three members; numbers are 0, 1, 2."""

    def __init__(self, box: harness.Sandbox) -> None:
        self.box = box
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int, *, new: bool) -> None:
        directory = self.box.directory / f"m{number}"
        directory.mkdir(exist_ok=True, mode=0o700)
        peers = ",".join(f"m{i}=http://127.0.0.1:{PEER_PORT + i}" for i in range(MEMBERS))
        client, peer = f"http://127.0.0.1:{CLIENT_PORT + number}", f"http://127.0.0.1:{PEER_PORT + number}"
        self._children[number] = self.box.start(
            ["etcd", "--name", f"m{number}", "--data-dir", str(directory), "--listen-client-urls", client,
             "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", peers, "--initial-cluster-state", "new" if new else "existing",
             "--logger", "zap", "--log-level", "warn"]
        )  # fmt: skip

    def leader(self) -> int | None:
        """The member that leads, when all three answer and agree."""
        endpoints = ",".join(f"http://127.0.0.1:{CLIENT_PORT + i}" for i in range(MEMBERS))
        argv = [
            "env",
            "ETCDCTL_API=3",
            "etcdctl",
            "--endpoints",
            endpoints,
            "endpoint",
            "status",
            "-w",
            "json",
        ]
        try:
            rows = json.loads(self.box.run(*argv))
        except (harness.BenchError, ValueError):
            return None
        leaders = {row["Status"]["leader"] for row in rows}
        if len(rows) != MEMBERS or len(leaders) != 1:
            return None
        for number, row in enumerate(rows):
            if row["Status"]["header"]["member_id"] in leaders:
                return number
        return None

    def kill(self, number: int) -> None:
        """SIGKILL the member itself: nsenter became it, below one fork for the pid namespace."""
        child = self._children.pop(number)
        for pid in _children_of(child.pid) or [child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextlib.contextmanager
def members() -> Iterator[Etcd]:
    harness.say("etcd: starting 3 members")
    with harness.sandbox("etcd") as box:
        made = Etcd(box)
        for number in range(MEMBERS):
            made.start(number, new=True)
        try:
            harness.wait_until(lambda: made.leader() is not None, 30, "etcd has a leader", 0.1)
        except harness.BenchError as error:
            raise harness.BenchError(f"{error}: {box.tail()}") from error
        yield made
        harness.say("etcd: removing everything")


def put(channel: grpc.aio.Channel, key: bytes, value: bytes) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
    """etcd's KV.Put: a PutRequest is field 1 key, field 2 value, lengths below 128 here."""
    method = channel.unary_unary(
        "/etcdserverpb.KV/Put", request_serializer=bytes, response_deserializer=bytes
    )
    assert len(key) < 128 and len(value) < 128
    call: grpc.aio.UnaryUnaryCall[bytes, bytes] = method(
        b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    )
    return call
