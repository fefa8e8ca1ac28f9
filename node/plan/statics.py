"""Static addresses: those that a service names for its tasks, and that its slots keep. Pure.

Other addresses come from the block of the node that a task is on, so they cannot follow it. A static one is leased
alone: `Network.statics` has one entry per address, whose holder is one task. Rules:

- the block around it is kept for static addresses (`Block` without a node), so that no node gives it away;
- a slot keeps its address as long as its service names it, whatever becomes of its tasks;
- a task enters service (NEW to PENDING) with the addresses of its slot, and only once their former holder has
  ended or is on a lost node: two tasks never have one. Tasks of such a slot therefore never run beside each other;
- an address that is not named any more goes back when its holder has ended; its block with the last of it.

What cannot be had stands as `error` at the entry, and the service's tasks wait with that message.
The IPv6 form of an address is in the part of the network's /64 that no node has: number 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from swarmpy.node.plan.base import (
    DEFAULT_NETWORK_ID,
    Draft,
    View,
    copy_of,
    desired_running,
    is_lost,
    is_terminal,
)
from swarmpy.node.plan.limits import Problem
from swarmpy.proto import objects_pb2, types_pb2

STATICS_MAX = 256  # per service and network: each is an entry in the network, which every node gets


def network_ids(spec: types_pb2.TaskSpec) -> list[str]:
    """The networks a task is on: those it names, else the default one. In order, each once."""
    if spec.network_mode:  # the node's own network, or none
        return []
    return list(dict.fromkeys(reference.target for reference in spec.networks)) or [DEFAULT_NETWORK_ID]


def networks_of(spec: types_pb2.TaskSpec) -> list[str]:
    """The networks on which tasks of this spec have static addresses."""
    return [reference.target for reference in spec.networks if reference.task_addresses]


def draws(task: objects_pb2.Task, network_id: str) -> bool:
    """Whether a task takes an address of its node's block there."""
    return (
        not is_terminal(task.status.state)
        and network_id in network_ids(task.spec)
        and network_id not in networks_of(task.spec)
    )


def named(spec: types_pb2.TaskSpec, network_id: str) -> dict[str, str]:
    """The addresses that a spec names there, in its order, each with its IPv6 one or ""."""
    for reference in spec.networks:
        if reference.target == network_id:
            sixes = [*reference.task_addresses6, *[""] * len(reference.task_addresses)]
            return dict(zip(reference.task_addresses, sixes, strict=False))
    return {}


def spec_problems(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    """What a service with static addresses must be like."""
    path = "spec.task.networks.task_addresses"
    mode = spec.WhichOneof("mode")
    for reference in spec.task.networks:
        if reference.task_addresses6 and not reference.task_addresses:
            yield Problem(path + "6", "stand beside IPv4 addresses: add ip=ADDRESS")
    if not networks_of(spec.task):
        return
    if mode not in ("replicated", "ordered"):
        yield Problem(
            path, f"are for replicated and ordered services, not for a {str(mode).replace('_', ' ')}"
        )
        return
    if types_pb2.ORDER_START_FIRST in (spec.update.order, spec.rollback.order):
        yield Problem(
            "spec.update.order",
            "is start-first: two tasks cannot have one static address; leave it out, or write stop-first",
        )
    replicas = spec.replicated.replicas if mode == "replicated" else spec.ordered.replicas
    for reference in spec.task.networks:
        given, sixes = list(reference.task_addresses), list(reference.task_addresses6)
        if not given:
            continue
        if len(given) < replicas:
            yield Problem(
                path,
                f"names {len(given)} for {replicas} replicas: give one for each (ip=ADDRESS several times)",
            )
        if len(given) > STATICS_MAX:
            yield Problem(path, f"has {len(given)} entries, at most {STATICS_MAX}")
        if len(set(given)) < len(given) or len(set(sixes)) < len(sixes):
            yield Problem(path, "names an address twice")
        if len(sixes) not in (0, len(given)):
            yield Problem(path + "6", f"has {len(sixes)} for {len(given)} IPv4 ones: as many, or none")


def settle(draft: Draft, network_id: str) -> None:
    """Bring a network's entries and the blocks kept for them in line with the services and tasks there are."""
    stored = draft.network(network_id)
    if stored is None or not stored.subnet or stored.pending_delete:
        return
    claims = _claims(draft, network_id)
    if not claims and not stored.statics:
        return
    network = copy_of(stored)
    kept = []
    for entry in network.statics:
        _renew(draft, entry)
        asking = claims.get(entry.address, {})
        if entry.task_id or entry.service_id in asking:
            if not entry.task_id:
                entry.address6 = asking[entry.service_id] or _six(entry.address, network)
            kept.append(entry)
            claims.pop(entry.address, None)
    for address, asking in claims.items():
        service_id, six = next(iter(asking.items()))
        address6 = six or _six(address, network)
        kept.append(objects_pb2.StaticAddress(address=address, address6=address6, service_id=service_id))
    del network.statics[:]
    network.statics.extend(sorted(kept, key=lambda entry: int(IPv4Address(entry.address))))
    _keep_blocks(draft, network)
    if network != stored:
        draft.put(network)


def _claims(view: View, network_id: str) -> dict[str, dict[str, str]]:
    """By address: the services that ask for it, the oldest first, each with the IPv6 one that it wants or ""."""
    found: dict[str, dict[str, str]] = {}
    asking = [
        service
        for service in view.services()
        if not service.pending_delete and network_id in networks_of(service.spec.task)
    ]
    for service in sorted(asking, key=lambda service: (service.meta.created_ms, service.meta.id)):
        for address, six in named(service.spec.task, network_id).items():
            found.setdefault(address, {})[service.meta.id] = six
    return found


def _renew(view: View, entry: objects_pb2.StaticAddress) -> None:
    """Where the holder is now; an ended one has it no more. That of a lost node stays until it has a successor."""
    holder = view.task(entry.task_id) if entry.task_id else None
    if holder is None or _has_ended(holder):
        entry.task_id = entry.node_id = ""
    elif holder.node_id:
        entry.node_id = holder.node_id


def _has_ended(task: objects_pb2.Task) -> bool:
    """Nothing of it runs, or ever will."""
    return is_terminal(task.status.state) or (not task.node_id and not desired_running(task))


def _six(address: str, network: objects_pb2.Network) -> str:
    if not network.subnet6:
        return ""
    return str(IPv6Address(int(IPv6Network(network.subnet6).network_address) + int(IPv4Address(address))))


def _keep_blocks(draft: Draft, network: objects_pb2.Network) -> None:
    """Keep the block around each address, and no other one; says at an entry why it cannot be had."""
    needed: set[str] = set()
    sixes: set[str] = set()
    for entry in network.statics:
        twice = f"static address {entry.address6} is named twice on network {network.meta.name}"
        entry.error = (
            misfit(network, entry.address, entry.address6)
            or (twice if entry.address6 in sixes else "")
            or obstacle(draft, network, entry.address)
        )
        if not entry.error:
            needed.add(block_around(network, entry.address))
            sixes.update(filter(None, (entry.address6,)))
    kept = [block for block in network.blocks if block.node_id and block.cidr not in needed]
    kept += [objects_pb2.Block(cidr=cidr) for cidr in sorted(needed)]
    if {(b.node_id, b.cidr) for b in kept} != {(b.node_id, b.cidr) for b in network.blocks}:
        del network.blocks[:]
        network.blocks.extend(kept)


def block_around(network: objects_pb2.Network, address: str) -> str:
    return str(IPv4Network((address, network.block_bits), strict=False))


def misfit(network: objects_pb2.Network, address: str, address6: str = "") -> str:
    """Why an address can never be one of this network's tasks, or ""."""
    subnet = IPv4Network(network.subnet)
    where = f"network {network.meta.name} ({subnet})"
    if IPv4Address(address) not in subnet:
        return f"static address {address} is outside {where}: choose one inside"
    if IPv4Address(address) in (subnet.network_address, subnet.broadcast_address):
        return f"static address {address} is the first or last of {where}: choose another one"
    if not address6:
        return ""
    if not network.subnet6:
        return f"static address {address6} needs IPv6, which network {network.meta.name} does not have"
    part = IPv6Network((IPv6Network(network.subnet6).network_address, 96))
    if IPv6Address(address6) not in part:
        return (
            f"static address {address6} is outside {part}, the part of network {network.meta.name} for static ones: "
            "choose one inside, or leave ip6 out"
        )
    return ""


def obstacle(view: View, network: objects_pb2.Network, address: str) -> str:
    """Which node has the block around an address, and uses it; "" if none does."""
    around = block_around(network, address)
    holder = next((block.node_id for block in network.blocks if block.cidr == around), "")
    if not holder or not _uses(view, network, holder):
        return ""
    node = view.node(holder)
    free = _example(network)
    return (
        f"static address {address} is in {around}, from which node {node.meta.name if node else holder} gives "
        f"addresses on network {network.meta.name}: choose another one{f', for example {free}' if free else ''}"
    )


def _uses(view: View, network: objects_pb2.Network, node_id: str) -> bool:
    return network.is_default or any(draws(task, network.meta.id) for task in view.tasks_of_node(node_id))


def _example(network: objects_pb2.Network) -> str:
    """A free address outside all nodes' blocks."""
    taken = {block.cidr for block in network.blocks if block.node_id}
    used = {entry.address for entry in network.statics}
    subnet = IPv4Network(network.subnet)
    for block in subnet.subnets(new_prefix=network.block_bits):
        if str(block) not in taken:
            found = next((str(ip) for ip in block.hosts() if str(ip) not in used), "")
            if found:
                return found
    return ""


def problems(view: View, service: objects_pb2.Service) -> Iterator[str]:
    """Why addresses that a service names cannot be had."""
    for network_id in networks_of(service.spec.task):
        network = view.network(network_id)
        if network is None or not network.subnet:
            continue
        entries = {entry.address: entry for entry in network.statics}
        for address in named(service.spec.task, network_id):
            entry = entries.get(address)
            if entry is not None and entry.service_id != service.meta.id:
                other = view.service(entry.service_id)
                name = other.meta.name if other is not None else entry.service_id
                yield f"static address {address} belongs to service {name}: choose another one"
            elif entry is not None and entry.error:
                yield entry.error


def admit(draft: Draft, task: objects_pb2.Task) -> str:
    """Give a task the addresses of its slot (it is changed, and the networks are); else what it waits for."""
    given = []
    for network_id in networks_of(task.spec):
        stored = draft.network(network_id)
        assert stored is not None, "the task waits for its networks first"
        network = copy_of(stored)
        entry = _entry_for(draft, network, task)
        if entry is None:
            count = len(named(task.spec, network_id))
            return (
                f"all {count} static addresses on network {network.meta.name} are in use: "
                "name as many as the service has replicas"
            )
        holder = draft.task(entry.task_id) if entry.task_id else None
        if holder is not None and holder.meta.id != task.meta.id and _has(draft, holder):
            return f"waits for static address {entry.address}, which task {holder.meta.name} still has"
        entry.slot, entry.task_id, entry.node_id = task.slot, task.meta.id, ""
        given.append((network, entry))
    del task.static_addresses[:]
    for network, entry in given:
        draft.put(network)
        task.static_addresses.add(network_id=network.meta.id, address=entry.address, address6=entry.address6)
    return ""


def _has(view: View, holder: objects_pb2.Task) -> bool:
    return not _has_ended(holder) and not is_lost(holder, view)


def _entry_for(
    view: View, network: objects_pb2.Network, task: objects_pb2.Task
) -> objects_pb2.StaticAddress | None:
    """The entry of the task's slot; for a new slot the one of its place in the list, else any that is free."""
    order = list(named(task.spec, network.meta.id))
    mine = {
        entry.address: entry
        for entry in network.statics
        if entry.service_id == task.service_id and not entry.error
    }
    entries = [mine[address] for address in order if address in mine]
    kept = next((entry for entry in entries if entry.slot == task.slot), None)
    if kept is not None:
        return kept
    wanted = {
        other.slot for other in view.tasks_of_service(task.service_id) if other.desired_state < types_pb2.TASK_REMOVE
    }  # fmt: skip
    free = [entry for entry in entries if not entry.slot or entry.slot not in wanted]
    place = order[task.slot - 1] if 0 < task.slot <= len(order) else ""
    return min(free, key=lambda entry: (entry.address != place, bool(entry.slot)), default=None)
