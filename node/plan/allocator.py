"""The allocator: who gets which number, address, block and port.

It writes Node.index, Cluster.next_node_index, Network.{subnet, block_bits,
blocks, statics, error}, Service.endpoint, Task.static_addresses, and moves tasks from
NEW to PENDING once all that their service needs is there. It keeps no state of its own: what is taken is
what the view says, so a new leader, a crash or a refused transaction can neither
lose nor double anything. Deleting the object that holds a number frees it.

Keys: "cluster" (default network, node indexes), "network/ID", "node/ID" (blocks
for the node's tasks), "static/ID" (a network's static addresses, see `statics`),
"service/ID" (endpoint, tasks). A plan works through them in this order, so that one
transaction may do the whole chain.

What cannot be had is an error that people see: Network.error, Service.endpoint.error, the
message of a waiting task. It is tried again when what it waits for may have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from swarmpy.node.plan import addresses, allocator_keys, ports, statics
from swarmpy.node.plan.allocator_keys import CLUSTER
from swarmpy.node.plan.base import (
    CLUSTER_CIDR,
    DEFAULT_NETWORK_ID,
    DEFAULT_NETWORK_NAME,
    ChangeEvent,
    Draft,
    NewId,
    Plan,
    View,
    copy_of,
    desired_running,
    is_full,
    is_terminal,
    limited,
)
from swarmpy.node.plan.statics import network_ids
from swarmpy.node.plan.tasks import enter
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

_ORDER = (CLUSTER, "network", "node", "static", "service")
NODES_WITH_REST = 200  # where there are more, a network and its blocks are a plan of their own


class Allocator:
    """See the module."""

    keys_per_plan = 25  # a node costs about half a millisecond where there are 1,000
    name = "allocator"

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        match event.kind:
            case store_pb2.KIND_CLUSTER:
                return (CLUSTER,)
            case store_pb2.KIND_NODE:
                return allocator_keys.node_keys(event, view)
            case store_pb2.KIND_NETWORK:
                return allocator_keys.network_keys(event, view)
            case store_pb2.KIND_SERVICE:
                return allocator_keys.service_keys(event, view)
            case store_pb2.KIND_TASK:
                return allocator_keys.task_keys(event, view)
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        yield CLUSTER
        yield from (f"network/{network.meta.id}" for network in view.networks())
        yield from (f"node/{node.meta.id}" for node in view.nodes())
        yield from (f"service/{service.meta.id}" for service in view.services())

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft = Draft(view)
        pools = _pools(view)
        wanted: dict[str, set[str]] = {kind: set() for kind in _ORDER}
        for key in keys:
            kind, _, identity = key.partition("/")
            wanted[kind].add(identity)
        if wanted[CLUSTER]:
            wanted["network"].update(_allocate_cluster(draft, pools))
        for network_id in sorted(wanted["network"]):
            _allocate_network(draft, network_id, pools)
            statics.settle(draft, network_id)
        if wanted["network"] and view.count(store_pb2.KIND_NODE) > NODES_WITH_REST:
            plan = limited(draft, now_ms)
            plan.unseen = [key for key in keys if key.startswith(("node/", "static/", "service/"))]
            return plan
        _allocate_nodes(draft, wanted["node"])
        for network_id in sorted(wanted["static"] - wanted["network"]):
            statics.settle(draft, network_id)
        self._services(draft, wanted["service"], pools, now_ms)
        return limited(draft, now_ms)

    def _services(self, draft: Draft, service_ids: set[str], pools: addresses.Pools, now_ms: int) -> None:
        if not service_ids:
            return
        taken = ports.Taken(draft)
        for service_id in sorted(service_ids):
            if is_full(draft):
                return
            service = draft.service(service_id)
            if service is not None and not service.pending_delete:
                _allocate_endpoint(draft, service, pools, taken)
        for service_id in sorted(service_ids):
            for task in draft.tasks_of_service_in_state(service_id, types_pb2.TASK_NEW):
                if is_full(draft):
                    return
                if desired_running(task):
                    _admit(draft, task, now_ms)


def _pools(view: View) -> addresses.Pools:
    """A prefix that cannot be divided is refused at init; were it stored, the default must do."""
    cluster = view.cluster()
    try:
        return addresses.pools((cluster.spec.cluster_cidr if cluster is not None else "") or CLUSTER_CIDR)
    except ValueError:
        return addresses.pools(CLUSTER_CIDR)


def _allocate_cluster(draft: Draft, pools: addresses.Pools) -> Iterator[str]:
    """The default network and node indexes; yields the network if it is new."""
    if draft.cluster() is None and not draft.count(store_pb2.KIND_NODE):
        return
    if draft.network(DEFAULT_NETWORK_ID) is None:
        taken = draft.by_name(store_pb2.KIND_NETWORK, DEFAULT_NETWORK_NAME) is not None
        network = objects_pb2.Network(is_default=True)
        network.meta.id = DEFAULT_NETWORK_ID
        network.meta.name = DEFAULT_NETWORK_NAME + ("-default" if taken else "")
        draft.put(network)
        yield DEFAULT_NETWORK_ID
    _allocate_indexes(draft, pools)


def _allocate_indexes(draft: Draft, pools: addresses.Pools) -> None:
    waiting = [node for node in draft.nodes() if not node.index and not node.removed]
    if not waiting:
        return
    used = {node.index for node in draft.nodes()}
    cluster = draft.cluster()
    next_index = max(1, cluster.next_node_index if cluster is not None else 0)
    given: list[objects_pb2.Node] = []
    for node in waiting:
        index = _free_index(used, next_index, pools.node_index_max)
        if index is None:
            break
        used.add(index)
        next_index = index + 1
        numbered = copy_of(node)
        numbered.index = index
        given.append(numbered)
    if cluster is not None and given:
        counted = copy_of(cluster)
        counted.next_node_index = next_index
        draft.put(counted)
    for numbered in given:
        draft.put(numbered)


def _free_index(used: set[int], start: int, index_max: int) -> int | None:
    """From `start` upwards, then from 1: a number is used again only when all were used once."""
    for index in chain(range(start, index_max + 1), range(1, min(start, index_max + 1))):
        if index not in used:
            return index
    return None


def _allocate_network(draft: Draft, network_id: str, pools: addresses.Pools) -> None:
    stored = draft.network(network_id)
    if stored is None or stored.pending_delete:
        return
    network = copy_of(stored)
    if not network.subnet:
        subnet, network.error = _choose_subnet(draft, network, pools)
        if subnet is not None:
            network.subnet = str(subnet)
            network.block_bits = addresses.block_bits(subnet, default=network.is_default)
    if network.spec.ipv6 and network.subnet and not network.subnet6:
        network.subnet6 = _choose_subnet6(draft)
    if network.subnet:
        network.error = ""
        kept = [b for b in network.blocks if not b.node_id or draft.node(b.node_id) is not None]
        if len(kept) != len(network.blocks):
            del network.blocks[:]
            network.blocks.extend(kept)
        _lease(draft, network, sorted(_nodes_on(draft, network)))
    draft.put(network)


def _choose_subnet(
    draft: Draft, network: objects_pb2.Network, pools: addresses.Pools
) -> tuple[IPv4Network | None, str]:
    """A subnet, or why there is none."""
    if network.is_default:
        return pools.default, ""
    others = [
        (f"network {other.meta.name}", IPv4Network(other.subnet))
        for other in draft.networks()
        if other.subnet and other.meta.id != network.meta.id
    ]
    if network.spec.subnet:
        try:
            subnet = addresses.parse(network.spec.subnet)
        except ValueError as error:
            return None, str(error)
        reserved = [("the cluster's own addresses", prefix) for prefix in pools.reserved]
        title = addresses.overlap(subnet, [*reserved, *others, *_underlay(draft)])
        return (None, f"subnet {subnet} overlaps {title}: choose another one") if title else (subnet, "")
    free = pools.free_user_network(prefix for _, prefix in others)
    if free is not None:
        return free, ""
    return None, f"no free /{pools.user_prefix} is left in {pools.cluster}: remove a network or name a subnet"


def _choose_subnet6(draft: Draft) -> str:
    cluster = draft.cluster()
    if cluster is None:
        return ""
    taken = (other.subnet6 for other in draft.networks())
    return addresses.free_subnet6(addresses.prefix6(cluster.meta.id), taken) or ""


def _underlay(view: View) -> Iterator[tuple[str, IPv4Network]]:
    """The machines' own addresses: a subnet over one of them would cut it off."""
    for node in view.nodes():
        for address in {node.description.address, node.description.data_path_address}:
            try:
                yield f"the address {address} of node {node.meta.name or node.meta.id}", IPv4Network(address)
            except ValueError:
                continue  # none, a name, or IPv6


def _nodes_on(view: View, network: objects_pb2.Network) -> set[str]:
    """Nodes that need a block: on the default network all, on others those with a task."""
    if network.is_default:
        return {node.meta.id for node in view.nodes()}
    return {task.node_id for task in view.tasks() if task.node_id and statics.draws(task, network.meta.id)}


def _allocate_nodes(draft: Draft, node_ids: Iterable[str]) -> None:
    """Blocks for the tasks of some nodes, on every network they are on: each network is looked through once."""
    used: dict[str, list[str]] = {}
    for node_id in sorted(node_ids):
        if draft.node(node_id) is None:
            continue
        on = {DEFAULT_NETWORK_ID}
        for task in draft.tasks_of_node(node_id):
            if not is_terminal(task.status.state):
                on.update(network_ids(task.spec))
        for network_id in on:
            used.setdefault(network_id, []).append(node_id)
    for network_id, here in sorted(used.items()):
        stored = draft.network(network_id)
        if stored is None or not stored.subnet or stored.pending_delete:
            continue
        held = Counter([block.node_id for block in stored.blocks])
        short = [node_id for node_id in here if held[node_id] < _blocks_needed(draft, stored, node_id)]
        if short:
            network = copy_of(stored)
            _lease(draft, network, short)
            draft.put(network)


def _lease(view: View, network: objects_pb2.Network, node_ids: Sequence[str]) -> None:
    """Add blocks to `network` until each of these nodes has enough for its tasks."""
    held = Counter(block.node_id for block in network.blocks)
    subnet, bits = IPv4Network(network.subnet), network.block_bits
    # Of a subnet that people chose they choose addresses, too: mostly low ones.
    top = bool(network.spec.subnet)
    free = addresses.free_blocks(subnet, bits, [block.cidr for block in network.blocks], from_top=top)
    for node_id in node_ids:
        for _ in range(_blocks_needed(view, network, node_id) - held[node_id]):
            cidr = next(free, None) or _reclaim(view, network)
            if cidr is None:
                network.error = (
                    f"no free /{bits} block is left in {subnet} for node {node_id} "
                    f"({len(network.blocks)} are in use): use a larger subnet or fewer nodes"
                )
                return
            network.blocks.add(node_id=node_id, cidr=cidr)


def _blocks_needed(view: View, network: objects_pb2.Network, node_id: str) -> int:
    if view.node(node_id) is None:
        return 0
    if network.is_default and addresses.blocks_needed(view.count_on_node(node_id), network.block_bits) <= 1:
        return 1  # whichever of them are on it
    tasks = sum(statics.draws(task, network.meta.id) for task in view.tasks_of_node(node_id))
    return max(addresses.blocks_needed(tasks, network.block_bits), 1 if network.is_default else 0)


def _reclaim(view: View, network: objects_pb2.Network) -> str | None:
    """Take back a block of a node that has no task on the network any more."""
    if network.is_default:
        return None
    busy = _nodes_on(view, network)
    for position, block in enumerate(network.blocks):
        if block.node_id and block.node_id not in busy:
            cidr = block.cidr
            del network.blocks[position]
            return cidr
    return None


def _allocate_endpoint(
    draft: Draft, stored: objects_pb2.Service, pools: addresses.Pools, taken: ports.Taken
) -> None:
    service = copy_of(stored)
    endpoint = service.endpoint
    wanted_ports, problems = ports.choose(stored, taken)
    del endpoint.ports[:]
    endpoint.ports.extend(wanted_ports)
    held = {vip.network_id: vip.address for vip in stored.endpoint.vips}
    del endpoint.vips[:]
    if service.spec.endpoint.mode == objects_pb2.ENDPOINT_VIP:
        for network_id in network_ids(service.spec.task):
            network = draft.network(network_id)
            if network is None or not network.subnet:
                continue
            address, problem = _vip(stored, network_id, held.get(network_id, ""), pools, taken)
            if address is None:
                problems.append(problem)
                continue
            taken.vips.add(address)
            vip = endpoint.vips.add(network_id=network_id, address=address)
            cluster = draft.cluster()
            if network.subnet6 and cluster is not None:
                vip.address6 = addresses.vip6(address, addresses.prefix6(cluster.meta.id))
    taken.vips.difference_update(set(held.values()) - {vip.address for vip in endpoint.vips})
    taken.replace_ports(stored, endpoint.ports)
    problems += statics.problems(draft, service)
    endpoint.error = "; ".join(problems)
    draft.put(service)


def _vip(
    service: objects_pb2.Service, network_id: str, held: str, pools: addresses.Pools, taken: ports.Taken
) -> tuple[str | None, str]:
    """The virtual IP on one network: the one asked for, the one it has, or a free one; else why there is none."""
    references = service.spec.task.networks
    asked = next((r.address for r in references if r.target == network_id and r.address), "")
    if asked and asked != held and (asked in taken.vips or IPv4Address(asked) not in pools.vips):
        return None, f"virtual IP {asked} is taken or outside {pools.vips}: choose another one"
    address = (
        asked or held or addresses.free_address(pools.vips, taken.vips, f"{service.meta.id}/{network_id}")
    )
    return address, "" if address else f"no free virtual IP is left in {pools.vips}: remove services"


def _admit(draft: Draft, task: objects_pb2.Task, now_ms: int) -> None:
    """NEW to PENDING if nothing is missing, else say what the task waits for."""
    service = draft.service(task.service_id)
    if service is None or service.pending_delete:
        return
    changed = copy_of(task)
    missing = obstacle(draft, service, task.spec) or statics.admit(draft, changed)
    if missing:
        changed.status.message = missing
    else:
        enter(changed, types_pb2.TASK_PENDING, now_ms, "waiting for the scheduler")
    draft.put(changed)


def obstacle(view: View, service: objects_pb2.Service, spec: types_pb2.TaskSpec) -> str:
    """What a task of a service lacks before it may be placed, or ""."""
    return service.endpoint.error or _network_obstacle(view, spec)


def awaits_endpoint(view: View, service: objects_pb2.Service) -> bool:
    """Whether the allocator's next plan gives the service addresses or ports, or says why not."""
    endpoint = service.endpoint
    if endpoint.error or service.pending_delete:
        return False
    if service.spec.endpoint.mode == objects_pb2.ENDPOINT_VIP:
        held = {vip.network_id for vip in endpoint.vips}
        for network_id in network_ids(service.spec.task):
            network = view.network(network_id)
            if network is not None and network.subnet and network_id not in held:
                return True
    return len(endpoint.ports) != len(service.spec.endpoint.ports)


def _network_obstacle(view: View, spec: types_pb2.TaskSpec) -> str:
    for network_id in network_ids(spec):
        network = view.network(network_id)
        if network is None:
            return f"network {network_id} does not exist"
        if network.pending_delete:
            return f"network {network.meta.name} is being removed"
        if not network.subnet:
            return (
                f"network {network.meta.name} has no addresses: {network.error or 'it is not allocated yet'}"
            )
    return ""
