"""From the policies' assignment items to what the overlay needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from swarmpy.overlay import wanted
from swarmpy.proto import dispatcher_pb2, objects_pb2, types_pb2

PROTOCOLS = {types_pb2.PROTOCOL_TCP: "tcp", types_pb2.PROTOCOL_UDP: "udp", types_pb2.PROTOCOL_SCTP: "sctp"}
DIRECTIONS = {objects_pb2.POLICY_INGRESS: "ingress", objects_pb2.POLICY_EGRESS: "egress"}


def wanted_policies(
    policies: Mapping[str, dispatcher_pb2.PolicyAssignment],
    members: Mapping[str, dispatcher_pb2.ServiceMembers],
    tasks: Mapping[str, objects_pb2.Task],
) -> tuple[wanted.Policy, ...]:
    """The policies that select tasks of this node; from their assignment on, before they have an address."""
    by_service: dict[str, list[str]] = {}
    for task_id, task in tasks.items():
        by_service.setdefault(task.service_id, []).append(task_id)
    found = []
    for identity, policy in sorted(policies.items()):
        pods = sorted(task_id for service in policy.subjects for task_id in by_service.get(service, ()))
        if pods:
            found.append(_policy(identity, policy, tuple(pods), members))
    return tuple(found)


def _policy(
    identity: str,
    policy: dispatcher_pb2.PolicyAssignment,
    pods: tuple[str, ...],
    members: Mapping[str, dispatcher_pb2.ServiceMembers],
) -> wanted.Policy:
    peers = {
        ip
        for service_id in policy.peers
        if service_id in members
        for member in members[service_id].members
        for address in member.addresses
        for ip in (address.address, address.address6)
        if ip
    }
    return wanted.Policy(
        id=identity,
        direction=DIRECTIONS[policy.direction],
        network_id=policy.network_id,
        pods=pods,
        peers=tuple(sorted(peers)),
        blocks=tuple((block.cidr, tuple(block.excluded)) for block in policy.blocks),
        ports=tuple((PROTOCOLS[port.protocol], port.first, port.last or port.first) for port in policy.ports),
    )
