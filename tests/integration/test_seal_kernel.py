"""Encrypted networks between two hosts: what is on the wire, what is refused, and keys that change under traffic.

Without WireGuard or ESP in the kernel the refusal is tested, and that nothing leaves or comes in clear. Run with
an argument this file is one node, or a pod's program.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.overlay import ipam, sealing
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.links import route_socket
from swarmpy.overlay.plane import Overlay
from swarmpy.overlay.wanted import Network, Node, Wanted

ROOT = Path(__file__).resolve().parent.parent.parent
MISSING = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
UNDERLAY = {"a": "10.9.0.1", "b": "10.9.0.2"}
SECRET, PLAIN = "10.72.0.0/18", "10.72.64.0/18"
PODS = {
    "sa": ("a", "secret", "10.72.0.5", SECRET),
    "sb": ("b", "secret", "10.72.0.69", SECRET),
    "pa": ("a", "plain", "10.72.64.5", PLAIN),
    "pb": ("b", "plain", "10.72.64.69", PLAIN),
}
VXLAN_PORT, ECHO_PORT, ESP = 4790, 7777, 50


def wanted_of(request: dict[str, Any]) -> Wanted:
    nodes = tuple(
        Node(
            name, index, UNDERLAY[name], UNDERLAY[name],
            seal_keys=tuple((g, bytes.fromhex(k)) for g, k in request["public"].get(name, [])),
            seal_ready=request["ready"].get(name, 0),
        )
        for index, name in enumerate("ab", 1)
    )  # fmt: skip
    networks = tuple(
        Network(
            name, name, subnet, False,
            (("a", subnet.replace("0/18", "0/26")), ("b", subnet.replace("0/18", "64/26"))),
            seal=request["seal"] if name == "secret" else "",
        )
        for name, subnet in (("secret", SECRET), ("plain", PLAIN))
    )  # fmt: skip
    return Wanted(
        request["self"], "10.64.0.0/10", VXLAN_PORT, 1450, nodes, networks,
        seal_keys=tuple((g, bytes.fromhex(k)) for g, k in request.get("private", [])),
    )  # fmt: skip


async def node(directory: str, tag: str) -> None:
    overlay = Overlay(netns_dir=Path(directory), tag=tag)
    await overlay.start()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            match request["do"]:
                case "apply":
                    await overlay.apply(wanted_of(request))
                    answer: Any = await overlay.verify()
                case "attach":
                    _, network, address, subnet = PODS[request["pod"]]
                    answer = str(
                        (await overlay.attach(request["pod"], ((network, address, subnet),))).netns_path
                    )
                case _:
                    await overlay.stop(teardown=True)
                    answer = None
        except OverlayError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def pod() -> None:
    """Echo, and on request ask others: [address, count, pause in seconds] -> answers that came."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("0.0.0.0", ECHO_PORT))
    got: list[bytes] = []

    def serve() -> None:
        while True:
            data, peer = echo.recvfrom(2000)
            got.append(data)
            echo.sendto(data, peer)

    threading.Thread(target=serve, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request == "got":
            print(json.dumps([data.decode() for data in got]), flush=True)
            continue
        address, count, pause_s, size = request
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((address, ECHO_PORT))
            answers = set()
            client.settimeout(pause_s)
            for number in range(count):
                until = time.monotonic() + pause_s
                with contextlib.suppress(OSError):
                    client.send(b"%06d" % number + bytes(size))
                while (left := until - time.monotonic()) > 0:
                    client.settimeout(left)
                    with contextlib.suppress(OSError):
                        answers.add(client.recv(2000)[:6])
            client.settimeout(3)
            with contextlib.suppress(OSError):
                while len(answers) < count:
                    answers.add(client.recv(2000)[:6])
        print(json.dumps(len(answers)), flush=True)


class Program:
    def __init__(self, namespace: str, *arguments: str) -> None:
        command = ["nsenter", f"--net={namespace}", sys.executable, __file__, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / ".src"), *sys.path])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def send(self, request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def call(self, request: Any) -> Any:
        self.send(request)
        return json.loads(self.read())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


def sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Site:
    def __init__(self, root: Path) -> None:
        self.root, self.prefix = root, f"seal{os.getpid()}"
        self.nodes: dict[str, Program] = {}
        self.pods: dict[str, Program] = {}
        self.keys: dict[str, dict[int, bytes]] = {"a": {}, "b": {}}
        self.ready: dict[str, int] = {}

    def space(self, name: str) -> str:
        return f"/run/netns/{self.prefix}{name}"

    def build(self) -> None:
        for name in "ab":
            sh("ip", "netns", "add", self.prefix + name)
        sh("ip", "-n", self.prefix + "a", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
           "netns", self.prefix + "b")  # fmt: skip
        for name, address in UNDERLAY.items():
            sh("ip", "-n", self.prefix + name, "addr", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                sh("ip", "-n", self.prefix + name, "link", "set", link, "up")
            self.nodes[name] = Program(self.space(name), str(self.root / name), name)

    def apply(self, name: str, seal: str) -> Any:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from swarmpy.overlay.seal import public_of

        public = {
            owner: [(g, public_of(X25519PrivateKey.from_private_bytes(k)).hex()) for g, k in keys.items()]
            for owner, keys in self.keys.items()
        }
        private = [(generation, key.hex()) for generation, key in self.keys[name].items()]
        return self.nodes[name].call(
            {
                "do": "apply",
                "self": name,
                "seal": seal,
                "public": public,
                "ready": self.ready,
                "private": private,
            }
        )

    def attach(self, pod_id: str) -> Any:
        pin = self.nodes[PODS[pod_id][0]].call({"do": "attach", "pod": pod_id})
        if isinstance(pin, dict):
            return pin["error"]
        self.pods[pod_id] = Program(pin, "pod")
        assert self.pods[pod_id].read() == "ready\n"
        return ""

    def ask(self, source: str, target: str, count: int = 3, pause_s: float = 0.2, size: int = 100) -> int:
        return int(self.pods[source].call([PODS[target][2], count, pause_s, size]))

    def destroy(self) -> None:
        for program in self.pods.values():
            program.end()
        for program in self.nodes.values():
            with contextlib.suppress(ValueError, OSError):
                program.call({"do": "stop"})
            program.end()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.root}/")]):
            subprocess.run(["umount", "-l", mount], check=False)
        for name in "ab":
            subprocess.run(["ip", "netns", "del", self.prefix + name], check=False, capture_output=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    built = Site(tmp_path)
    try:
        built.build()
        yield built
    finally:
        built.destroy()


def in_space(path: str, function: Any) -> Any:
    """Call `function` in a thread that has entered a network namespace."""
    import ctypes

    results: list[Any] = []

    def run() -> None:
        with open(path) as handle:
            assert ctypes.CDLL(None).setns(handle.fileno(), 0x40000000) == 0
        results.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


class Wire:
    """Counts what leaves and enters host a's underlay: clear VXLAN by inner network, ESP, tunnels' UDP."""

    def __init__(self, site: Site) -> None:
        def opened() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            raw.bind(("eth0", 0))
            raw.setblocking(False)
            return raw

        self._raw: socket.socket = in_space(site.space("a"), opened)

    def counts(self) -> dict[str, int]:
        found = {"secret": 0, "plain": 0, "tunnel": 0}
        with contextlib.suppress(BlockingIOError):
            while frame := self._raw.recv(65535):
                packet = frame[14:]
                if frame[12:14] != b"\x08\x00":
                    continue
                if packet[9] == ESP:
                    found["tunnel"] += 1
                elif packet[9] == socket.IPPROTO_UDP:
                    (port,) = struct.unpack("!H", packet[22:24])
                    if port in (VXLAN_PORT + 1, VXLAN_PORT + 2):
                        found["tunnel"] += 1
                    elif port == VXLAN_PORT:
                        inner = packet[28 + 8 + 14 :]
                        found["plain" if inner[12:15] == bytes((10, 72, 64)) else "secret"] += 1
        return found

    def close(self) -> None:
        self._raw.close()


def forge(site: Site, source: str, target: str, text: bytes) -> None:
    """A clear VXLAN packet from host b's own address, as an attacker on b or on the wire would make it."""
    inner_udp = struct.pack("!HHHH", 9999, ECHO_PORT, 8 + len(text), 0) + text
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(inner_udp), 1, 0, 64, socket.IPPROTO_UDP, 0,
        socket.inet_aton(PODS[source][2]), socket.inet_aton(PODS[target][2]),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    ethernet = bytes.fromhex((ipam.node_mac(1) + ipam.node_mac(2)).replace(":", "")) + b"\x08\x00"
    packet = struct.pack("!II", 0x08000000, 83 << 8) + ethernet + head + inner_udp

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(packet, (UNDERLAY["a"], VXLAN_PORT))

    in_space(site.space("b"), send)


def received(site: Site, pod_id: str, text: str) -> bool:
    for _ in range(20):
        if any(text in data for data in site.pods[pod_id].call("got")):
            return True
        time.sleep(0.05)
    return False


def kernel_methods() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    with route_socket() as route:
        return sealing.methods(route)


METHODS = kernel_methods()


def test_nothing_of_an_encrypted_network_goes_in_clear(site: Site) -> None:
    for name in "ab":
        assert site.apply(name, "") == []
    for pod_id in PODS:
        assert site.attach(pod_id) == ""
    assert site.ask("sa", "sb") == 3
    assert site.apply("b", "wireguard") == []  # b knows that the network is encrypted, a does not yet
    assert site.ask("sa", "sb", 2) == 0, "a clear packet of an encrypted network was taken"
    forge(site, "pb", "pa", b"forged-plain")
    assert received(site, "pa", "forged-plain"), (
        "a node may send for its own pods: the forgery is well-formed"
    )
    assert site.apply("a", "wireguard") == []
    wire = Wire(site)
    try:
        assert site.ask("sa", "sb", 2) == 0
        assert site.ask("pa", "pb") == 3, "other networks go on"
        assert wire.counts()["secret"] == 0, "a packet left in clear"
    finally:
        wire.close()
    forge(site, "sb", "sa", b"forged-secret")
    assert not received(site, "sa", "forged-secret")


@pytest.mark.skipif("wireguard" in METHODS, reason="this kernel has WireGuard: nothing to refuse")
def test_a_kernel_without_it_refuses_the_pod(site: Site) -> None:
    assert site.apply("a", "wireguard") == []
    message = site.attach("sa")
    assert "network secret is encrypted by wireguard, which this node's kernel has not" in message
    assert "load its module (wireguard)" in message
    assert site.attach("pa") == ""
    assert "swv" not in sh("ip", "-n", site.prefix + "a", "-br", "link").replace("swv", "", 1)


@pytest.mark.parametrize("method", ["wireguard", "esp"])
def test_encrypted_on_the_wire_and_keys_change_without_loss(site: Site, method: str) -> None:
    if method not in METHODS:
        pytest.skip("kernel without WireGuard/ESP")
    site.keys = {name: {100: os.urandom(32)} for name in "ab"}
    site.ready = {"a": 100, "b": 100}
    for name in "ab":
        assert site.apply(name, method) == []
    for pod_id in PODS:
        assert site.attach(pod_id) == ""
    wire = Wire(site)
    try:
        assert site.ask("sa", "sb", 5, 0.5) == 5
        assert site.ask("sb", "sa", 5, 0.5, 1300) == 5
        found = wire.counts()
        assert found["secret"] == 0
        assert found["tunnel"] >= 20
        assert site.ask("pa", "pb") == 3
        assert wire.counts()["plain"] >= 6
    finally:
        wire.close()
    forge(site, "sb", "sa", b"forged-secret")
    assert not received(site, "sa", "forged-secret")
    site.pods["sa"].send([PODS["sb"][2], 150, 0.1, 100])
    changes = (
        ("a", {"a": 101}, {}, ()), ("b", {"b": 101}, {}, ()), ("a", {}, {}, ()),
        ("b", {}, {"a": 101}, ()), ("a", {}, {"b": 101}, ()), ("b", {}, {}, ()),
        ("a", {}, {}, ("a",)), ("b", {}, {}, ("b",)), ("a", {}, {}, ()),
    )  # fmt: skip
    for name, new, ready, dropped in changes:
        time.sleep(1)
        for owner, generation in new.items():
            site.keys[owner][generation] = os.urandom(32)
        site.ready.update(ready)
        for owner in dropped:
            del site.keys[owner][100]
        assert site.apply(name, method) == []
    assert json.loads(site.pods["sa"].read()) == 150, "packets were lost while the keys changed"
    for name in "ab":
        assert site.apply(name, "") == [], "nothing of the tunnels stays"
        assert "swwg" not in sh("ip", "-n", site.prefix + name, "-br", "link")
        assert site.space(name)
    assert site.ask("sa", "sb") == 3


if __name__ == "__main__":
    if sys.argv[1] == "pod":
        pod()
    else:
        asyncio.run(node(sys.argv[1], sys.argv[2]))
