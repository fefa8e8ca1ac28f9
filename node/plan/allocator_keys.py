"""Which of the allocator's keys a change makes dirty. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from swarmpy.node.plan import addresses, statics
from swarmpy.node.plan.base import DEFAULT_NETWORK_ID, ChangeEvent, View, is_terminal
from swarmpy.node.plan.statics import network_ids
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.tables import Entity

CLUSTER = "cluster"


def node_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = event.old, event.new
    if isinstance(new, objects_pb2.Node):
        if old is None or not new.index:
            yield CLUSTER
            yield f"node/{event.id}"
        elif isinstance(old, objects_pb2.Node) and old.status.state != new.status.state:
            yield from _waiting_for(view, event.id)
        return
    yield from _waiting_for(view, event.id)
    yield from (
        f"network/{network.meta.id}"
        for network in view.networks()
        if network.error or any(block.node_id == event.id for block in network.blocks)
    )
    yield CLUSTER


def _waiting_for(view: View, node_id: str) -> Iterator[str]:
    """Services whose tasks may wait for static addresses that tasks of a lost node have."""
    yield from (f"service/{t.service_id}" for t in view.tasks_of_node(node_id) if t.static_addresses)


def network_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = event.old, event.new
    assert old is None or isinstance(old, objects_pb2.Network)
    if not isinstance(new, objects_pb2.Network):
        yield from (f"network/{other.meta.id}" for other in view.networks() if other.error)
        if event.id == DEFAULT_NETWORK_ID:
            yield CLUSTER
    elif (
        old is None
        or old.spec != new.spec
        or not new.subnet
        or (new.error and len(new.blocks) < len(old.blocks))
    ):
        yield f"network/{event.id}"
    if _network_facts(old) != _network_facts(new):
        for service in view.services():
            if event.id in network_ids(service.spec.task):
                yield f"service/{service.meta.id}"


def _network_facts(network: Entity | None) -> tuple[object, ...] | None:
    """What services on the network depend on."""
    if not isinstance(network, objects_pb2.Network):
        return None
    held = [(entry.address, entry.service_id, entry.error) for entry in network.statics]
    return (network.subnet, network.subnet6, network.error, network.pending_delete, held)


def service_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = event.old, event.new
    assert old is None or isinstance(old, objects_pb2.Service)
    if isinstance(new, objects_pb2.Service) and (
        old is None or old.spec != new.spec or old.endpoint != new.endpoint
    ):
        yield f"service/{event.id}"
    yield from (f"static/{network_id}" for network_id in _newly_named(event))
    freed = old is not None and (
        not isinstance(new, objects_pb2.Service) or old.endpoint != new.endpoint or old.spec != new.spec
    )
    if freed:
        yield from (
            f"service/{other.meta.id}"
            for other in view.services()
            if other.endpoint.error and other.meta.id != event.id
        )


def _newly_named(event: ChangeEvent) -> Iterable[str]:
    """The networks on which a service began or ceased to want static addresses."""
    services = [each for each in (event.old, event.new) if isinstance(each, objects_pb2.Service)]
    if len(services) == 2 and services[0].pending_delete == services[1].pending_delete:
        services = services if services[0].spec != services[1].spec else []
    return sorted({name for each in services for name in statics.networks_of(each.spec.task)})


def _may_lack_block(task: objects_pb2.Task, view: View) -> bool:
    """False for the usual task: on the default network alone, of which its node has enough since it joined."""
    if any(network_id != DEFAULT_NETWORK_ID for network_id in network_ids(task.spec)):
        return True
    network = view.network(DEFAULT_NETWORK_ID)
    if network is None or network.error or not network.subnet:
        return True
    return addresses.blocks_needed(view.count_on_node(task.node_id), network.block_bits) > 1


def task_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = cast(objects_pb2.Task | None, event.old), cast(objects_pb2.Task | None, event.new)
    if new is not None:
        if new.status.state == types_pb2.TASK_NEW and old is None:
            yield f"service/{new.service_id}"
        if new.node_id and (old is None or old.node_id != new.node_id):
            if _may_lack_block(new, view):
                yield f"node/{new.node_id}"
            yield from (f"static/{given.network_id}" for given in new.static_addresses)
        elif old is not None and new.static_addresses and old.desired_state != new.desired_state:
            yield f"service/{new.service_id}"
            yield from (
                f"static/{given.network_id}" for given in new.static_addresses
            )  # free, if it has no node
    ended = (
        old is not None
        and (new is None or is_terminal(new.status.state))
        and not is_terminal(old.status.state)
    )
    if ended and old is not None:
        for network_id in network_ids(old.spec):
            network = view.network(network_id)
            if network is not None and network.error and network.subnet:
                yield f"network/{network_id}"
            if network is not None and network.statics:
                yield f"static/{network_id}"
        if old.static_addresses:
            yield f"service/{old.service_id}"
