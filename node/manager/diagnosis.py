"""The Diagnosis service: what a policy would do, and how well the nodes reach each other.

Every manager serves it from its own store, after the leader said how far that has to be (see tasks).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, NoReturn

import grpc
from swarmpy.node.manager import targets
from swarmpy.node.manager.errors import Invalid, ManagerError, NotFound, Refused
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.tasks import Tasks
from swarmpy.node.plan import policy
from swarmpy.node.plan.policy import End
from swarmpy.proto import diagnosis_pb2, diagnosis_pb2_grpc, objects_pb2, types_pb2
from swarmpy.raft.store import Store, View

Context = grpc.aio.ServicerContext[Any, Any]
PAIRS_MAX = 2000
NODES_AT_ONCE = 8
TARGETS_MAX = 64
PROBE_TIMEOUT_S = 300.0


class Diagnosis(diagnosis_pb2_grpc.DiagnosisServicer):
    """One per manager."""

    def __init__(self, store: Store, tasks: Tasks, channels: NodeChannels) -> None:
        self._store = store
        self._tasks = tasks
        self._channels = channels

    async def TestPolicy(
        self, request: diagnosis_pb2.PolicyTestRequest, context: Context
    ) -> diagnosis_pb2.PolicyTestResponse:
        try:
            await self._tasks.fresh()
            return test_policy(self._store, request)
        except ManagerError as error:
            await abort(context, error)

    async def Doctor(
        self, request: diagnosis_pb2.DoctorRequest, context: Context
    ) -> AsyncIterator[diagnosis_pb2.NodeReport]:
        """One report per node, as they are done."""
        try:
            await self._tasks.fresh()
        except ManagerError as error:
            await abort(context, error)
        nodes = [node for node in self._store.nodes() if not node.removed]
        gate = asyncio.Semaphore(NODES_AT_ONCE)

        async def one(node: objects_pb2.Node) -> diagnosis_pb2.NodeReport:
            async with gate:
                return await self._examine(node, nodes, request.packets)

        tasks = [asyncio.create_task(one(node)) for node in nodes]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _examine(
        self, node: objects_pb2.Node, nodes: Sequence[objects_pb2.Node], packets: int
    ) -> diagnosis_pb2.NodeReport:
        report = diagnosis_pb2.NodeReport(node_id=node.meta.id, name=node.meta.name)
        if node.status.state == types_pb2.NODE_DOWN:
            report.problem = f"is down: {node.status.message or 'it does not answer'}"
            return report
        targets = [probe_target(other) for other in chosen(node, nodes)]
        asked = diagnosis_pb2.ProbeRequest(targets=targets, packets=packets)
        try:
            stub = diagnosis_pb2_grpc.AgentDiagnosisStub(self._channels.agent(node.meta.id))
            report.probe.CopyFrom(await stub.Probe(asked, timeout=PROBE_TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            report.problem = f"its agent cannot be asked from here: {error.details()}"
        except ManagerError as error:
            report.problem = str(error)
        return report


def chosen(node: objects_pb2.Node, nodes: Sequence[objects_pb2.Node]) -> list[objects_pb2.Node]:
    """Whom a node asks: everybody that is up, in large clusters the next ones in a ring and all managers."""
    up = [other for other in nodes if other.status.state != types_pb2.NODE_DOWN]
    order = sorted(up, key=lambda other: (other.meta.id <= node.meta.id, other.meta.id))
    others = [other for other in order if other.meta.id != node.meta.id]
    others.sort(key=lambda other: other.role != types_pb2.ROLE_MANAGER)
    return others[:TARGETS_MAX]


def probe_target(node: objects_pb2.Node) -> diagnosis_pb2.ProbeTarget:
    manager = node.manager
    managing = node.role == types_pb2.ROLE_MANAGER
    ports = (manager.join_address, manager.control_address, manager.raft_address) if managing else ()
    return diagnosis_pb2.ProbeTarget(
        node_id=node.meta.id, name=node.meta.name, tcp=[address for address in ports if address]
    )


async def abort(context: Context, error: ManagerError) -> NoReturn:
    await context.abort(error.code, str(error))
    raise AssertionError from error


def test_policy(store: Store, request: diagnosis_pb2.PolicyTestRequest) -> diagnosis_pb2.PolicyTestResponse:
    """The decision for every network both ends are in; equal ones once. Raises ManagerError."""
    if not 0 < request.port < 65536:
        raise Invalid(f"port: {request.port} is not a port: write B:PORT, 1 to 65535")
    sources, targeted = ends_of(store, request.source), ends_of(store, request.target)
    if all(end.service is None for end in (*sources, *targeted)):
        raise Invalid("both ends are addresses outside the cluster: name a service or a task")
    verdicts: dict[tuple[str, bool, tuple[str, ...]], None] = {}
    for source, target in itertools.islice(itertools.product(sources, targeted), PAIRS_MAX):
        for network in common_networks(store, source, target):
            name = network.meta.name if network is not None else ""
            for one, other in addressed(store, source, target, network):
                verdict = policy.decide(store, one, other, network, request.protocol, request.port)
                verdicts.setdefault((name, verdict.allowed, verdict.reasons))
    if not verdicts:
        nothing = f"{request.source} and {request.target} share no network: networks are isolated"
        verdicts[("", False, (nothing,))] = None
    return diagnosis_pb2.PolicyTestResponse(
        allowed=all(allowed for _, allowed, _ in verdicts),
        verdicts=[
            diagnosis_pb2.PolicyVerdict(network=name, allowed=allowed, reasons=reasons)
            for name, allowed, reasons in sorted(verdicts)
        ],
    )


def ends_of(store: Store, text: str) -> list[End]:
    """A service's tasks (or the service, while it has none with an address), one task, or an address."""
    if not text:
        raise Invalid("source, target: name a service, a task or an address")
    try:
        return [_end_of_address(store, str(ip_address(text)))]
    except ValueError:
        pass
    try:
        tasks = targets.running(store, text)
    except Refused:
        tasks = []
    found = [End(store.service(task.service_id), task_id=task.meta.id) for task in tasks]
    if found:
        return found
    for service in store.services():
        if text in (service.meta.name, service.meta.id):
            return [End(service)]
    raise NotFound(f"no task of {text!r} runs: name a service, a running task or an address")


def _end_of_address(store: Store, address: str) -> End:
    """The task that has this address, else somebody outside."""
    for task in store.tasks():
        if any(address in (given.address, given.address6) for given in task.status.addresses) and is_live(
            task
        ):
            return End(store.service(task.service_id), address, task.meta.id)
    return End(None, address)


def is_live(task: objects_pb2.Task) -> bool:
    return types_pb2.TASK_ASSIGNED <= task.status.state <= types_pb2.TASK_RUNNING


def networks_of(store: View, end: End) -> list[str]:
    task = store.task(end.task_id) if end.task_id else None
    given = [entry.network_id for entry in task.status.addresses] if task is not None else []
    if given:
        return list(dict.fromkeys(given))
    assert end.service is not None
    return policy.attached(end.service, policy.default_network(store))


def common_networks(store: View, source: End, target: End) -> Iterable[objects_pb2.Network | None]:
    """Where the two can meet; None stands for the way in from outside and out to it."""
    if target.service is None:
        return [None]
    ids = networks_of(store, target)
    found = [network for network in map(store.network, ids) if network is not None]
    if source.service is None:
        # From outside a task is reached by its first network that has a way out.
        outer = [network for network in found if not network.spec.internal] or found
        return outer[:1]
    own = set(networks_of(store, source))
    return [network for network in found if network.meta.id in own]


def addressed(
    store: View, source: End, target: End, network: objects_pb2.Network | None
) -> Iterator[tuple[End, End]]:
    """Both ends with their addresses in that network: of either family, or of the one that was asked for."""
    asked = {":" in end.address for end in (source, target) if end.address}
    found = 0
    for six in (False, True):
        if asked and six not in asked:
            continue
        ends = [_with_address(store, end, network, six=six) for end in (source, target)]
        if all(end.address or not end.task_id for end in ends):
            found += 1
            yield ends[0], ends[1]
    if not found and not asked:
        yield source, target


def _with_address(store: View, end: End, network: objects_pb2.Network | None, *, six: bool) -> End:
    task = store.task(end.task_id) if end.task_id else None
    if task is None:
        return end
    given = {
        entry.network_id: entry.address6 if six else entry.address
        for entry in reversed(task.status.addresses)
    }
    if end.address and end.address in given.values():
        return end
    chosen = given.get(network.meta.id) if network is not None else next(iter(given.values()), "")
    return End(end.service, chosen or "", end.task_id)
