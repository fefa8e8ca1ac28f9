"""What a node says of its network: how it differs from what it should be, and the way of a connection.

`verify` compares three times: the assignment set with the digest that a manager names, the kernel with what
follows from that set, and the resolver's real answers with the names that follow from it. `repair` then does
what a reconcile does, from a fresh look at the kernel.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import grpc
from swarmpy.node.agent.dns_table import DnsTable
from swarmpy.node.agent.picture import Picture
from swarmpy.overlay import dnswire, explain, ipam, names, probe
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.explain import Step
from swarmpy.overlay.names import Zone
from swarmpy.overlay.nametable import NetworkEntry, Table
from swarmpy.overlay.plane import Overlay
from swarmpy.overlay.rules import State
from swarmpy.overlay.wanted import Wanted, without_ipv6
from swarmpy.proto import networks_pb2, networks_pb2_grpc

log = logging.getLogger(__name__)
SETTLE_S = 3.0
POLL_S = 0.1
QUESTIONS_AT_ONCE = 32
ADDRESSES_MAX = 8
BACKENDS_MAX = 64
PROBLEMS_MAX = 200
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class View:
    """The agent's own state, as far as it is about the network."""

    self_id: str
    netns_dir: Path
    holds: Callable[[], bytes]
    picture: Callable[[], Picture]
    table: Callable[[], Table]
    names: DnsTable
    wanted: Callable[[], Wanted | None]
    addresses_of: Callable[[str], tuple[str, ...]]
    renew: Callable[[], None]  # reconcile again, from nothing
    resync: Callable[[], None]  # ask the managers for a complete set


class AgentNetworksService(networks_pb2_grpc.AgentNetworksServicer):
    """One per agent."""

    def __init__(self, overlay: Overlay, view: View) -> None:
        self._overlay = overlay
        self._view = view
        self._busy = asyncio.Lock()

    async def Verify(
        self, request: networks_pb2.NodeVerifyRequest, context: Context
    ) -> networks_pb2.VerifyResponse:
        async with self._busy:
            answer = networks_pb2.VerifyResponse(node_id=self._view.self_id)
            answer.problems.extend(await self._problems(request.holds, answer))
            if request.repair and answer.problems:
                log.warning("network repaired problems=%d first=%s", len(answer.problems), answer.problems[0])
                answer.remaining.extend(await self._repair(request.holds, answer))
                answer.repaired = not answer.remaining
            return answer

    async def _problems(self, holds: bytes, answer: networks_pb2.VerifyResponse) -> list[str]:
        problems = await self._assignment_problems(holds)
        answer.stale = bool(problems)
        problems += await self._kernel_problems(answer)
        problems += await self._dns_problems(answer)
        if len(problems) > PROBLEMS_MAX:
            problems[PROBLEMS_MAX:] = [f"and {len(problems) - PROBLEMS_MAX} more"]
        return problems

    async def _repair(self, holds: bytes, answer: networks_pb2.VerifyResponse) -> list[str]:
        if await self._assignment_problems(holds):
            self._view.resync()
        try:
            await self._overlay.repair()
        except OverlayError as error:
            return [f"not repaired: {error}"]
        self._view.renew()
        deadline = time.monotonic() + SETTLE_S
        while True:
            await asyncio.sleep(POLL_S)
            remaining = await self._problems(holds, answer)
            if not remaining or time.monotonic() > deadline:
                return remaining

    async def _assignment_problems(self, holds: bytes) -> list[str]:
        """A delta may be on its way: some time for it."""
        deadline = time.monotonic() + SETTLE_S
        while holds and self._view.holds() != holds:
            if time.monotonic() > deadline:
                return ["the assignments of this node are not what the managers have for it"]
            await asyncio.sleep(POLL_S / 5)
        return []

    async def _kernel_problems(self, answer: networks_pb2.VerifyResponse) -> list[str]:
        wanted = self._view.wanted()
        if wanted is None:
            return ["the node has no overlay number yet"]
        try:
            problems = await self._overlay.verify()
            state, applied = await self._overlay.look()
        except OverlayError as error:
            return [str(error)]
        answer.kernel_objects = count_of(state)
        if applied != self._as_applied(applied):
            await asyncio.sleep(POLL_S)  # a change is being applied
            _, applied = await self._overlay.look()
            if applied != self._as_applied(applied):
                problems.append("the kernel was not given the newest assignments")
        return problems

    def _as_applied(self, applied: Wanted) -> Wanted | None:
        """What is wanted now, without IPv6 where this kernel has none."""
        wanted = self._view.wanted()
        return without_ipv6(wanted) if wanted is not None and not applied.prefix6 else wanted

    async def _dns_problems(self, answer: networks_pb2.VerifyResponse) -> list[str]:
        first = await self._ask_all(answer)
        if first:
            await asyncio.sleep(POLL_S * 3)  # the resolver may be reading its table
            first = await self._ask_all(answer)
        return first + await self._table_problems()

    async def _table_problems(self) -> list[str]:
        """The resolver's whole table, by its checksum, and the file that it begins with when it is started again."""
        problems = self._view.names.problems()
        deadline = time.monotonic() + SETTLE_S
        while True:
            problem, found = await probe.ask(None, names.SUM_NAME, dnswire.TXT)
            if tuple(found) == (self._view.names.sum,):
                return problems
            if time.monotonic() > deadline:
                said = ", ".join(found) or problem
                return [*problems, f"the resolver has the table {said}, not {self._view.names.sum}"]
            await asyncio.sleep(POLL_S / 2)

    async def _ask_all(self, answer: networks_pb2.VerifyResponse) -> list[str]:
        table = self._view.table()
        questions = list(dns_questions(table))
        answer.dns_names = len(questions)
        room = asyncio.Semaphore(QUESTIONS_AT_ONCE)

        async def one(name: str, kind: int, want: tuple[str, ...]) -> str:
            async with room:
                problem, found = await probe.ask(None, name, kind)
            if sorted(found) == sorted(want):
                return ""
            said = ", ".join(sorted(found)) or problem
            return f"DNS says {said} for {name}, not {', '.join(sorted(want)) or 'nothing'}"

        problems = await asyncio.gather(*(one(*question) for question in questions))
        return [problem for problem in problems if problem]

    async def Trace(
        self, request: networks_pb2.NodeTraceRequest, context: Context
    ) -> networks_pb2.NodeTraceResponse:
        answer = networks_pb2.NodeTraceResponse()
        try:
            await self._trace(request, answer)
        except (OverlayError, OSError) as error:
            answer.steps.append(message(Step("node", str(error), failed=True)))
        return answer

    async def _trace(
        self, request: networks_pb2.NodeTraceRequest, answer: networks_pb2.NodeTraceResponse
    ) -> None:
        pin = self._view.netns_dir / request.task_id if request.task_id else None
        state, wanted = await self._overlay.look()
        sources = self._view.addresses_of(request.task_id) if request.task_id else ()
        addresses = [request.target]
        if not is_address(request.target):
            addresses = await self._resolve(pin, request.target, answer)
        for address in addresses[:ADDRESSES_MAX]:
            self._explain(state, wanted, address, sources, request, answer)
            reached, said = await probe.connect(pin, address, request.port, request.protocol)
            answer.reached |= reached
            answer.end.append(
                message(Step("probe", f"{explain.at(address, request.port)}: {said}", failed=not reached))
            )
            used = await self._counted(address, request.port)
            if used:
                answer.end.append(message(Step("counters", used)))

    async def _resolve(
        self, pin: Path | None, name: str, answer: networks_pb2.NodeTraceResponse
    ) -> list[str]:
        found: list[str] = []
        for word, kind in (("A", dnswire.A), ("AAAA", dnswire.AAAA)):
            problem, some = await probe.ask(pin, name, kind)
            found += some
            if some:
                answer.steps.append(message(Step("dns", f"{name} {word} is {', '.join(sorted(some))}")))
            elif kind == dnswire.A or not found:
                answer.steps.append(
                    message(Step("dns", f"{name} {word}: {problem}", failed=kind == dnswire.A))
                )
        if found:
            for step in answer.steps:
                step.failed = False
        return found

    def _explain(
        self, state: State, wanted: Wanted, address: str, sources: tuple[str, ...],
        request: networks_pb2.NodeTraceRequest, answer: networks_pb2.NodeTraceResponse,
    ) -> None:  # fmt: skip
        way = explain.way(state, wanted, address, request.port, request.protocol)
        answer.steps.extend(map(message, way.steps))
        published = way.translated and address in explain.node_addresses(wanted)
        for target, port in way.backends[:BACKENDS_MAX]:
            source = source_for(target, sources, wanted)
            backend = answer.backends.add(address=target, port=port, source=source)
            if sources and explain.is_inside(wanted, target):
                backend.steps.append(message(explain.allowed(state, source, target, published)))
            if source and (rule := explain.policies(state, "out", source, target, port, request.protocol)):
                backend.steps.append(message(rule))
            if explain.is_inside(wanted, target):
                backend.steps.extend(map(message, explain.hop(state, wanted, target)))
            elif source and (step := explain.allowed(state, source, target, translated=True)).failed:
                backend.steps.append(message(step))

    async def _counted(self, address: str, port: int) -> str:
        """How many tracked connections to `address` lead where."""
        leads = Counter(
            entry.reply[0] for entry in await self._overlay.connections() if entry.original[1] == address
        )
        if not leads:
            return ""
        shown = ", ".join(f"{count} to {where}" for where, count in leads.most_common(ADDRESSES_MAX))
        return f"connections to {address} that this node tracks: {shown}"

    async def Arrival(
        self, request: networks_pb2.NodeArrivalRequest, context: Context
    ) -> networks_pb2.NodeArrivalResponse:
        answer = networks_pb2.NodeArrivalResponse()
        try:
            await self._arrival(request, answer)
        except (OverlayError, OSError) as error:
            answer.steps.append(message(Step("arrival", str(error), failed=True)))
        return answer

    async def _arrival(
        self, request: networks_pb2.NodeArrivalRequest, answer: networks_pb2.NodeArrivalResponse
    ) -> None:
        state, wanted = await self._overlay.look()
        sender = next((node for node in wanted.nodes if node.id == request.source_node_id), None)
        if request.source and sender is not None and sender.id != self._view.self_id:
            if explain.trusted(state, request.source, ipam.node_mac(sender.index)):
                step = Step("anti-spoofing", f"{request.source} may come from that node")
            else:
                text = f"{request.source} may not come from node {sender.id}: no block of it there"
                step = Step("anti-spoofing", text, failed=True)
            answer.steps.append(message(step))
        pods = await self._overlay.pods()
        pod = next((found for found in pods.values() if request.address in found.addresses), None)
        if pod is None:
            text = f"no pod on this node has a route for {request.address}"
            answer.steps.append(message(Step("arrival", text, failed=True)))
            return
        answer.steps.append(message(Step("arrival", f"{request.address} is behind {pod.interface}")))
        if request.source and (
            rule := explain.policies(
                state, "in", request.address, request.source, request.port, request.protocol
            )
        ):
            answer.steps.append(message(rule))
        reached, said = await probe.connect(None, request.address, request.port, request.protocol)
        answer.reached = reached
        text = f"from its own node: {said}" + ("" if reached else f"; does it listen on port {request.port}?")
        answer.steps.append(message(Step("listening", text, failed=not reached)))


def message(step: Step) -> networks_pb2.TraceStep:
    return networks_pb2.TraceStep(what=step.what, text=step.text, failed=step.failed)


def dns_questions(table: Table) -> Iterable[tuple[str, int, tuple[str, ...]]]:
    """(full name, type, addresses) of every service on every network, and of its tasks."""
    zone = Zone(table)
    networks = {network.id: network for network in table.networks}
    for service in table.services:
        for network_id in service.network_ids:
            network = networks.get(network_id)
            if network is None:
                continue
            for plain in (service.name, f"tasks.{service.name}"):
                target = zone.find(plain.lower(), (network_id,))
                if target is None:
                    continue
                for kind, six in ((dnswire.A, False), (dnswire.AAAA, True)):
                    want = tuple(ip for ip in target.addresses if (":" in ip) == six)
                    if want or not six or network.subnet6:
                        yield full_name(plain, network), kind, want


def full_name(plain: str, network: NetworkEntry) -> str:
    return f"{plain}.{network.name}.{names.ROOT_DOMAIN}"


def count_of(state: State) -> int:
    """How many objects were compared."""
    whole = len(state.nexthops) + len(state.routes) + len(state.neighbours) + len(state.forwarding)
    return whole + len(state.rules) + len(state.chains) + sum(map(len, state.sets.values()))


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def source_for(target: str, sources: tuple[str, ...], wanted: Wanted) -> str:
    """The source address a pod uses towards `target`: that on the same network, else its first of that family."""
    family = ip_address(target).version
    own = [source for source in sources if ip_address(source).version == family]
    subnets = [
        subnet for network in wanted.networks for subnet in (network.subnet, network.subnet6) if subnet
    ]
    for subnet in map(ip_network, subnets):
        if ip_address(target) in subnet:
            return next((s for s in own if ip_address(s) in subnet), next(iter(own), ""))
    return next(iter(own), "")
