"""How well this node reaches others, asked by a manager for `swarmpy doctor`.

For each other node: its agent by mTLS (which also tells its clock), round trips, loss through the overlay,
the path MTU below it, and its managers' ports. The overlay is asked from address to address of the nodes, so
that what is measured went through UDP and VXLAN: where the agent answers and the overlay does not, UDP is
blocked. Other nodes may only ask for the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import grpc
from swarmpy.node.agent import machine_checks
from swarmpy.node.agent.picture import Picture
from swarmpy.overlay import ipam
from swarmpy.overlay.ping import Pinger
from swarmpy.proto import diagnosis_pb2, diagnosis_pb2_grpc, dispatcher_pb2

PACKETS, PACKETS_MAX = 20, 1000
TARGETS_MAX, AT_ONCE = 64, 8
PAUSE_S = 0.05
ECHOES = 5
ECHO_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
RESULTS = {
    machine_checks.OK: diagnosis_pb2.CHECK_OK,
    machine_checks.WARNING: diagnosis_pb2.CHECK_WARNING,
    machine_checks.FAILED: diagnosis_pb2.CHECK_FAILED,
}
Context = grpc.aio.ServicerContext[Any, Any]


class AgentDiagnosisService(diagnosis_pb2_grpc.AgentDiagnosisServicer):
    """One per agent; `dial` opens a channel to a node's agent by address and node id.

    `direct` are the nodes that are reached without VXLAN.
    """

    def __init__(
        self,
        self_id: str,
        state_dir: Path,
        picture: Callable[[], Picture],
        dial: Callable[[str, str], grpc.aio.Channel],
        direct: Callable[[], Collection[str]],
    ) -> None:
        self._self_id, self._state_dir, self._picture, self._dial = self_id, state_dir, picture, dial
        self._direct = direct
        self._running = asyncio.Semaphore(1)

    async def Echo(self, request: diagnosis_pb2.EchoRequest, context: Context) -> diagnosis_pb2.EchoResponse:
        now_ns = time.time_ns()
        return diagnosis_pb2.EchoResponse(received_ns=now_ns, answered_ns=time.time_ns())

    async def Probe(
        self, request: diagnosis_pb2.ProbeRequest, context: Context
    ) -> diagnosis_pb2.ProbeResponse:
        if self._running.locked():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "another doctor is at work on this node")
        async with self._running:
            checks = asyncio.create_task(
                asyncio.to_thread(machine_checks.findings, self._state_dir, running=True)
            )
            packets = min(request.packets or PACKETS, PACKETS_MAX)
            gate = asyncio.Semaphore(AT_ONCE)

            async def one(target: diagnosis_pb2.ProbeTarget) -> diagnosis_pb2.PairReport:
                async with gate:
                    return await self._pair(target, packets)

            pairs = await asyncio.gather(*map(one, request.targets[:TARGETS_MAX]))
            return diagnosis_pb2.ProbeResponse(pairs=pairs, checks=map(check_of, await checks))

    async def _pair(self, target: diagnosis_pb2.ProbeTarget, packets: int) -> diagnosis_pb2.PairReport:
        report = diagnosis_pb2.PairReport(node_id=target.node_id, name=target.name)
        peer = self._picture().peers.get(target.node_id)
        own = self._picture().peers.get(self._self_id)
        config = self._picture().node
        if peer is None or own is None or config is None:
            report.problem = "this node was not told about it yet"
            return report
        await self._agent(peer, report)
        report.ports.extend(await asyncio.gather(*map(connected, target.tcp)))
        if peer.index and own.index:
            source, other = (ipam.node_address(entry.index, config.cluster_cidr) for entry in (own, peer))
            await overlay_trips(source, other, packets, report)
        most = config.mtu + 50  # the overlay's MTU is the smallest of the cluster below it, less VXLAN
        report.path_mtu = await below(own.data_path_address, peer.data_path_address, most)
        report.udp_blocked = report.reachable and report.loss == 1
        report.direct = peer.id in self._direct()
        return report

    async def _agent(self, peer: dispatcher_pb2.PeerNode, report: diagnosis_pb2.PairReport) -> None:
        """Whether its agent answers, and what its clock shows, by the fastest of a few exchanges."""
        channel = self._dial(f"{peer.address}:{peer.agent_port}", peer.id)
        best_ns = 0
        try:
            stub = diagnosis_pb2_grpc.AgentDiagnosisStub(channel)
            for number in range(ECHOES + 1):
                began_ns, began = time.time_ns(), time.perf_counter_ns()
                answer = await stub.Echo(diagnosis_pb2.EchoRequest(), timeout=ECHO_TIMEOUT_S)
                took_ns = time.perf_counter_ns() - began
                if number and (not best_ns or took_ns < best_ns):  # the first one opened the connection
                    best_ns = took_ns
                    middle_ns = (answer.received_ns + answer.answered_ns) / 2
                    report.clock_offset_ms = (middle_ns - began_ns - took_ns / 2) / 1e6
            report.reachable = True
        except grpc.aio.AioRpcError as error:
            report.problem = f"its agent at {peer.address}:{peer.agent_port}/tcp: {error.details()}"
        finally:
            await channel.close(None)


async def overlay_trips(source: str, target: str, packets: int, report: diagnosis_pb2.PairReport) -> None:
    try:
        pinger = Pinger(source, target)
    except OSError as error:
        report.problem = report.problem or f"no packet can be sent from {source}: {error.strerror}"
        report.loss = 1
        return
    try:
        trips = await pinger.trips(packets, PAUSE_S)
    finally:
        pinger.close()
    report.loss = trips.loss
    if trips.times_ms:
        times_ms = sorted(trips.times_ms)
        report.rtt_ms, report.rtt_max_ms = times_ms[len(times_ms) // 2], times_ms[-1]


async def below(source: str, target: str, most: int) -> int:
    """The path MTU of the network below; 0 where ICMP does not come through."""
    try:
        pinger = Pinger(source, target)
    except OSError:
        return 0
    try:
        return await pinger.path_mtu(most)
    finally:
        pinger.close()


async def connected(address: str) -> diagnosis_pb2.PortFinding:
    """Whether a TCP port accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        why = "no answer: a firewall?" if isinstance(error, TimeoutError) else str(error)
        return diagnosis_pb2.PortFinding(address=address, problem=why)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return diagnosis_pb2.PortFinding(address=address, open=True)


def check_of(finding: machine_checks.Finding) -> diagnosis_pb2.Check:
    return diagnosis_pb2.Check(
        name=finding.name, result=RESULTS[finding.result], found=finding.found, advice=finding.advice
    )
