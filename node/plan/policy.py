"""Network policies: whom they select, and what they decide about one connection. Pure.

Rules
  - A policy is about the connections of its subjects in one direction. Subjects and peers are services,
    chosen by their labels and by `service.name`; a peer may also be a block of addresses.
  - Where no policy of a direction selects a service, that direction is free. Where one does, a connection
    needs one of them to allow it. A network that denies by default counts as selecting everything in it, for
    what comes in.
  - Both ends have their say: the source's egress and the target's ingress.
  - Always free: a task to itself, answers, what the nodes themselves send (probes, port-forward, a published
    port asked on a node), and the node's DNS.
  - A policy for ingress with a network is about addresses in that network; one for egress is about all
    traffic of the services attached to it, because a task may send from any of its addresses.

`decide` is what `network policy test` answers with. The kernel's elements are made elsewhere (overlay/policy)
from the same objects; a test compares both with real packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import View

NAME_LABEL = "service.name"
INGRESS, EGRESS = objects_pb2.POLICY_INGRESS, objects_pb2.POLICY_EGRESS
WORDS = {INGRESS: "ingress", EGRESS: "egress"}


@dataclass(frozen=True)
class End:
    """One end of a connection: a task of a service, or (service None) an address outside."""

    service: objects_pb2.Service | None
    address: str = ""
    task_id: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer, and how it came about: sentences in the order in which they were found."""

    allowed: bool
    reasons: tuple[str, ...]


def labels_of(service: objects_pb2.Service) -> dict[str, str]:
    """What selectors see of a service."""
    return {**service.meta.labels, NAME_LABEL: service.meta.name}


def selected(selectors: Iterable[objects_pb2.PolicySelector], labels: Mapping[str, str]) -> bool:
    """Whether any of the selectors fits; one without labels fits every service."""
    return any(
        all(labels.get(key) == value for key, value in selector.labels.items()) for selector in selectors
    )


def attached(service: objects_pb2.Service, default_id: str) -> list[str]:
    """The ids of the networks a service's tasks join."""
    return [reference.target for reference in service.spec.task.networks] or [default_id]


def default_network(view: View) -> str:
    return next((network.meta.id for network in view.networks() if network.is_default), "")


def applicable(
    view: View,
    direction: objects_pb2.PolicyDirection,
    service: objects_pb2.Service,
    network: objects_pb2.Network | None,
) -> list[objects_pb2.Policy]:
    """The policies with a say about this direction of a service's traffic; `network` is the target's."""
    labels, networks = labels_of(service), attached(service, default_network(view))
    found = []
    for policy in view.policies():
        spec = policy.spec
        if spec.direction != direction or not selected(spec.subjects, labels):
            continue
        if spec.network and direction == INGRESS and (network is None or network.meta.id != spec.network):
            continue
        if spec.network and direction == EGRESS and spec.network not in networks:
            continue
        found.append(policy)
    return found


def admits(spec: objects_pb2.PolicySpec, other: End, protocol: types_pb2.Protocol, port: int) -> bool:
    """Whether one policy allows a connection with this other end."""
    return _fits_ports(spec, protocol, port) and _fits_peer(spec, other)


def _fits_ports(spec: objects_pb2.PolicySpec, protocol: types_pb2.Protocol, port: int) -> bool:
    return not spec.ports or any(
        entry.protocol == protocol and entry.first <= port <= (entry.last or entry.first)
        for entry in spec.ports
    )


def _fits_peer(spec: objects_pb2.PolicySpec, other: End) -> bool:
    if other.service is not None and selected(spec.peers, labels_of(other.service)):
        return True
    return bool(other.address) and any(in_block(block, other.address) for block in spec.blocks)


def in_block(block: objects_pb2.PolicyBlock, address: str) -> bool:
    parsed = ip_address(address)
    outside = any(parsed in ip_network(cidr) for cidr in block.excluded)
    return parsed in ip_network(block.cidr) and not outside


def decide(
    view: View,
    source: End,
    target: End,
    network: objects_pb2.Network | None,
    protocol: types_pb2.Protocol,
    port: int,
) -> Verdict:
    """Whether a connection may be opened; `network` is the one the target's address is in."""
    if source.task_id and source.task_id == target.task_id:
        return Verdict(True, ("a task may always reach itself",))
    out = _one_way(view, EGRESS, source.service, target, network, (protocol, port))
    if not out.allowed:
        return out
    into = _one_way(view, INGRESS, target.service, source, network, (protocol, port))
    return Verdict(into.allowed, (*out.reasons, *into.reasons))


def _one_way(
    view: View,
    direction: objects_pb2.PolicyDirection,
    service: objects_pb2.Service | None,
    other: End,
    network: objects_pb2.Network | None,
    connection: tuple[types_pb2.Protocol, int],
) -> Verdict:
    """What the policies of one end say."""
    word = WORDS[direction]
    if service is None:
        return Verdict(True, ())
    policies = applicable(view, direction, service, network)
    for policy in policies:
        if admits(policy.spec, other, *connection):
            return Verdict(True, (f"{word} policy {policy.meta.name} of {service.meta.name} allows it",))
    if policies:
        names = ", ".join(policy.meta.name for policy in policies)
        return Verdict(False, (f"no {word} policy of {service.meta.name} allows it (selected by {names})",))
    if direction == INGRESS and network is not None and network.spec.default_deny:
        return Verdict(
            False,
            (f"network {network.meta.name} denies by default and no policy selects {service.meta.name}",),
        )
    return Verdict(True, (f"no {word} policy selects {service.meta.name}",))
