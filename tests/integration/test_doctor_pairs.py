"""What one node says of another for `doctor`: healthy, with UDP blocked, with a port closed, with nobody there.

Two real overlays in network namespaces; the agents' service on a plain port instead of mTLS. Run with an
argument this file is one node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from swarmpy.node.agent.diagnosis import AgentDiagnosisService
from swarmpy.node.agent.picture import Picture, wanted_network
from swarmpy.overlay.plane import Overlay
from swarmpy.proto import diagnosis_pb2, diagnosis_pb2_grpc, dispatcher_pb2

ROOT = Path(__file__).resolve().parent.parent.parent
MISSING = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,  # it waits for what does not answer
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
UNDERLAY = {"a": "10.9.0.1", "b": "10.9.0.2", "gone": "10.9.0.3"}
AGENT_PORT = 7378


def picture() -> Picture:
    made = Picture(
        node=dispatcher_pb2.NodeConfig(index=1, cluster_cidr="10.64.0.0/10", vxlan_port=4790, mtu=1450)
    )
    for index, (name, address) in enumerate(UNDERLAY.items(), 1):
        made.peers[name] = dispatcher_pb2.PeerNode(
            id=name,
            hostname=name,
            index=index,
            address=address,
            data_path_address=address,
            agent_port=AGENT_PORT,
        )
    return made


async def node(directory: str, name: str) -> None:
    overlay = Overlay(netns_dir=Path(directory), tag=name)
    await overlay.start()
    wanted = wanted_network(picture(), name, ())
    assert wanted is not None
    await overlay.apply(wanted)
    server = grpc.aio.server()
    service = AgentDiagnosisService(
        name, Path(directory), picture, lambda address, _: grpc.aio.insecure_channel(address), lambda: {"b"}
    )
    diagnosis_pb2_grpc.add_AgentDiagnosisServicer_to_server(service, server)
    assert server.add_insecure_port(f"0.0.0.0:{AGENT_PORT}")
    await server.start()
    print("ready", flush=True)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{AGENT_PORT}")
    while line := await asyncio.to_thread(sys.stdin.readline):
        targets = [diagnosis_pb2.ProbeTarget(**target) for target in json.loads(line)]
        asked = diagnosis_pb2.ProbeRequest(targets=targets, packets=3)
        answer = await diagnosis_pb2_grpc.AgentDiagnosisStub(channel).Probe(asked)
        shown = MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        print(json.dumps(shown), flush=True)
    await channel.close()
    await server.stop(0)
    await overlay.stop(teardown=True)


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    prefix = f"doc{os.getpid()}"
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in "ab":
            sh("ip", "netns", "add", prefix + name)
        sh("ip", "-n", prefix + "a", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
           "netns", prefix + "b")  # fmt: skip
        for name in "ab":
            sh("ip", "-n", prefix + name, "addr", "add", f"{UNDERLAY[name]}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                sh("ip", "-n", prefix + name, "link", "set", link, "up")
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / '.src'}:{ROOT}"}
        for name in "ab":
            command = ["nsenter", f"--net=/run/netns/{prefix}{name}", sys.executable, __file__]
            started[name] = subprocess.Popen(
                [*command, str(tmp_path / name), name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )  # fmt: skip
        for process in started.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started.values():
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{tmp_path}/")]):
            subprocess.run(["umount", "-l", mount], check=False)
        for name in "ab":
            subprocess.run(["ip", "netns", "del", prefix + name], check=False, capture_output=True)


def probe(process: subprocess.Popen[str], *targets: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(targets) + "\n")
    process.stdin.flush()
    found = json.loads(process.stdout.readline())
    assert {check["name"] for check in found["checks"]} >= {"kernel", "disk"}
    return {pair["node_id"]: pair for pair in found["pairs"]}


def test_pairs(nodes: dict[str, subprocess.Popen[str]]) -> None:
    prefix = f"doc{os.getpid()}"
    b = {"node_id": "b", "name": "b", "tcp": ["10.9.0.2:7378", "10.9.0.2:7379"]}
    pair = probe(nodes["a"], b)["b"]
    assert pair["reachable"]
    assert not pair["udp_blocked"]
    assert pair["loss"] == 0
    assert 0 < pair["rtt_ms"] <= pair["rtt_max_ms"]
    assert pair["path_mtu"] == 1500
    assert pair["direct"]
    assert abs(pair["clock_offset_ms"]) < 100, "it is the same clock"
    assert [port["open"] for port in pair["ports"]] == [True, False]
    for name in "ab":
        sh("ip", "-n", prefix + name, "link", "set", "eth0", "mtu", "1400")
    assert probe(nodes["b"], {"node_id": "a", "name": "a"})["a"]["path_mtu"] == 1400
    for command in (
        "add table ip block",
        "add chain ip block in { type filter hook prerouting priority -400; }",
        "add rule ip block in udp dport 4790 drop",
    ):
        sh("ip", "netns", "exec", prefix + "b", "nft", command)
    found = probe(
        nodes["a"], b, {"node_id": "gone", "name": "gone"}, {"node_id": "unknown", "name": "unknown"}
    )
    assert found["b"]["reachable"]
    assert found["b"]["udp_blocked"]
    assert found["b"]["loss"] == 1
    assert not found["gone"]["reachable"]
    assert "its agent at 10.9.0.3:7378/tcp" in found["gone"]["problem"]
    assert not found["gone"]["udp_blocked"], "a node that does not answer at all has more than UDP blocked"
    assert "not told about it" in found["unknown"]["problem"]


if __name__ == "__main__":
    asyncio.run(node(sys.argv[1], sys.argv[2]))
