"""What a service says of its networks, against the store: which ones, and the addresses that it wants there.

`ip=` may name a virtual IP and addresses of tasks; which of them it is shows from the prefix that it is in.
"""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address

from swarmpy.node.manager import levels, queries
from swarmpy.node.manager.errors import Invalid, NotFound, Taken
from swarmpy.node.plan import addresses, statics
from swarmpy.node.plan.base import CLUSTER_CIDR
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.levels import STATICS
from swarmpy.raft.store import Store, View

PATH = "spec.task.networks"


def resolve(view: Store, service: objects_pb2.Service) -> None:
    """Ids instead of the names that the user gave, each address where it belongs. Raises ManagerError."""
    cluster = view.cluster()
    vips = addresses.pools((cluster.spec.cluster_cidr if cluster else "") or CLUSTER_CIDR).vips
    for reference in service.spec.task.networks:
        network = queries.find(view, store_pb2.KIND_NETWORK, reference.target)
        assert isinstance(network, objects_pb2.Network)
        if network.pending_delete:
            raise NotFound(f"network {reference.target!r} is being removed")
        reference.target = network.meta.id
        _sort(reference, vips)
        if reference.address:
            _check_vip(view, service, reference.address, vips)
        if reference.task_addresses:
            _check_statics(view, service, network, reference, vips)
    if problems := list(statics.spec_problems(service.spec)):
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))


def _sort(reference: types_pb2.NetworkReference, vips: IPv4Network) -> None:
    """The virtual IP here, the tasks' addresses there."""
    given = [*filter(None, (reference.address,)), *reference.task_addresses]
    virtual = [address for address in given if ip_address(address) in vips]
    if len(virtual) > 1:
        raise Invalid(
            f"{PATH}.address: {' and '.join(virtual)} are virtual IPs: a service has one per network"
        )
    reference.address = virtual[0] if virtual else ""
    reference.task_addresses[:] = [address for address in given if address not in virtual]


def _check_vip(view: View, service: objects_pb2.Service, address: str, vips: IPv4Network) -> None:
    """A virtual IP of the user's own choice must be one, and nobody else's."""
    if service.spec.endpoint.mode != objects_pb2.ENDPOINT_VIP:
        raise Invalid(f"{PATH}.address: a service with endpoint mode dnsrr has no virtual IP")
    if ip_address(address) in (vips[0], vips[-1]):
        raise Invalid(f"{PATH}.address: {address} is the first or last of {vips}: choose another one")
    for other in view.services():
        wanted = {reference.address for reference in other.spec.task.networks}
        held = {vip.address for vip in other.endpoint.vips}
        if other.meta.id != service.meta.id and address in wanted | held:
            raise Taken(f"virtual IP {address} belongs to service {other.meta.name!r}: choose another one")


def _check_statics(
    view: View, service: objects_pb2.Service, network: objects_pb2.Network,
    reference: types_pb2.NetworkReference, vips: IPv4Network,
) -> None:  # fmt: skip
    """Those of tasks must lie in the network, outside the nodes' blocks, and be nobody else's."""
    levels.require_on_nodes(view, STATICS, "a static address of a task")
    for address in reference.task_addresses if network.subnet else ():
        problem = statics.misfit(network, address)
        if "outside" in problem:
            problem += f", or a virtual IP of {vips}"
        if problem := problem or statics.obstacle(view, network, address):
            raise Invalid(f"{PATH}.task_addresses: {problem}")
    for other in view.services():
        if other.meta.id == service.meta.id or other.pending_delete:
            continue
        theirs = statics.named(other.spec.task, network.meta.id)
        if both := sorted(theirs.keys() & set(reference.task_addresses)):
            raise Taken(
                f"static address {both[0]} belongs to service {other.meta.name!r}: choose another one"
            )
