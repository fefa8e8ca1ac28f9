"""etcd as the peer: three members, each in a sandbox of its own, with etcd's default timings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from bench import harness

TOOLS = ("etcd", "etcdctl", "tini", "setpriv", "unshare")
MEMBERS = 3
CLIENT_PORT, PEER_PORT = 2379, 2380


class Etcd:
    """The members by number, from 1."""

    def __init__(self, switch: harness.Switch) -> None:
        self.switch = switch
        self.addresses: dict[int, str] = {}
        self._boxes: dict[int, harness.Sandbox] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def add(self, number: int, box: harness.Sandbox) -> None:
        self._boxes[number] = box
        self.addresses[number] = self.switch.plug(box, number)

    def start(self, number: int, *, new: bool) -> None:
        """Start a member; one that was killed has ended by then."""
        if (former := self._children.pop(number, None)) is not None:
            former.wait(10)
        directory = self._boxes[number].directory / "data"
        directory.mkdir(exist_ok=True, mode=0o700)
        peers = ",".join(f"m{i}=http://{address}:{PEER_PORT}" for i, address in self.addresses.items())
        host = self.addresses[number]
        client, peer = f"http://{host}:{CLIENT_PORT}", f"http://{host}:{PEER_PORT}"
        self._children[number] = self._boxes[number].start(
            ["etcd", "--name", f"m{number}", "--data-dir", str(directory), "--listen-client-urls", client,
             "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", peers, "--initial-cluster-state", "new" if new else "existing",
             "--logger", "zap", "--log-level", "warn"]
        )  # fmt: skip

    def endpoints(self) -> list[str]:
        return [f"{address}:{CLIENT_PORT}" for address in self.addresses.values()]

    def leader(self) -> int | None:
        """The member that leads, when all answer and agree."""
        try:
            rows = self._status()
        except (harness.BenchError, ValueError):
            return None
        leaders = {row["Status"].get("leader", 0) for row in rows}
        if len(rows) != MEMBERS or len(leaders) != 1 or 0 in leaders:
            return None
        leading = [row["Endpoint"] for row in rows if row["Status"]["header"]["member_id"] in leaders]
        return 1 + self.endpoints().index(leading[0]) if leading else None

    def _etcdctl(self, endpoints: str, *arguments: str) -> str:
        argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoints, *arguments]
        return self.switch.box.run(*argv)

    def _status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self._etcdctl(",".join(self.endpoints()), "endpoint", "status", "-w", "json")
        )
        return found

    def hand_over(self, number: int) -> None:
        """From the leader to another member."""
        ids = {row["Endpoint"]: row["Status"]["header"]["member_id"] for row in self._status()}
        own = self.endpoints()[number - 1]
        other = next(member_id for endpoint, member_id in sorted(ids.items()) if endpoint != own)
        self._etcdctl(own, "move-leader", f"{other:x}")

    def kill(self, number: int) -> None:
        """SIGKILL the member: the child of nsenter, which forked for the pid namespace."""
        child = self._children[number]
        for pid in _children_of(child.pid) or [child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def tail(self) -> str:
        return self._boxes[1].tail()


def _children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextlib.contextmanager
def members() -> Iterator[Etcd]:
    harness.say("etcd: starting 3 members")
    with contextlib.ExitStack() as stack:
        made = Etcd(stack.enter_context(harness.switch()))
        for number in range(1, MEMBERS + 1):
            made.add(number, stack.enter_context(harness.sandbox(f"etcd{number}")))
        for number in made.addresses:
            made.start(number, new=True)
        try:
            harness.wait_until(lambda: made.leader() is not None, 30, "etcd has a leader", 0.1)
        except harness.BenchError as error:
            raise harness.BenchError(f"{error}: {made.tail()}") from error
        yield made
        harness.say("etcd: removing everything")


def put(channel: grpc.aio.Channel, key: bytes, value: bytes) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
    """etcd's KV.Put: a PutRequest is field 1 key, field 2 value, lengths below 128 here."""
    method = channel.unary_unary(
        "/etcdserverpb.KV/Put", request_serializer=bytes, response_deserializer=bytes
    )
    assert max(len(key), len(value)) < 128
    call: grpc.aio.UnaryUnaryCall[bytes, bytes] = method(
        b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    )
    return call
