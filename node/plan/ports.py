"""Published ports of services: what is taken, and what a service gets.

An ingress port is published on every node, so it is taken for the whole
cluster; a host port only where its tasks run, so two services may name the same
one and the scheduler keeps them apart. An ingress port and a host port of
different services exclude each other. Bind addresses count: a port on one
address leaves it free on another, but a port on all addresses takes them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from swarmpy.node.plan.base import DYNAMIC_PORT_MAX, DYNAMIC_PORT_MIN, View
from swarmpy.proto import objects_pb2, types_pb2

PROTOCOLS = {
    types_pb2.PROTOCOL_TCP: "tcp",
    types_pb2.PROTOCOL_UDP: "udp",
    types_pb2.PROTOCOL_SCTP: "sctp",
}
_Number = tuple[types_pb2.Protocol, int]


class Taken:
    """Ports and virtual IPs held by the services of a view; kept current while a plan is made."""

    def __init__(self, view: View) -> None:
        self.vips: set[str] = set()
        self._ports: dict[_Number, list[tuple[str, str, types_pb2.Port]]] = {}
        self._numbers: dict[str, list[_Number]] = {}
        for service in view.services():
            self.vips.update(vip.address for vip in service.endpoint.vips)
            self._add(service, service.endpoint.ports)

    def replace_ports(self, service: objects_pb2.Service, ports: Iterable[types_pb2.Port]) -> None:
        for number in self._numbers.pop(service.meta.id, ()):
            self._ports[number] = [held for held in self._ports[number] if held[0] != service.meta.id]
        self._add(service, ports)

    def holder(self, service_id: str, port: types_pb2.Port, number: int) -> str:
        """The name of another service that excludes this port, or ""."""
        holders = self._ports.get((port.protocol, number))
        if not holders:
            return ""
        for holder_id, name, other in holders:
            both_host = port.mode == other.mode == types_pb2.PUBLISH_HOST
            apart = port.address and other.address and port.address != other.address
            if holder_id != service_id and not both_host and not apart:
                return name
        return ""

    def _add(self, service: objects_pb2.Service, ports: Iterable[types_pb2.Port]) -> None:
        for port in ports:
            if port.published:
                entry = (service.meta.id, service.meta.name, port)
                number = (port.protocol, port.published)
                self._ports.setdefault(number, []).append(entry)
                self._numbers.setdefault(service.meta.id, []).append(number)


def choose(service: objects_pb2.Service, taken: Taken) -> tuple[list[types_pb2.Port], list[str]]:
    """The ports the service gets, and a sentence for each one it does not."""
    chosen: list[types_pb2.Port] = []
    problems: list[str] = []
    own: set[_Number] = {(p.protocol, p.published) for p in service.spec.endpoint.ports if p.published}
    kept = [port for port in service.endpoint.ports if port.mode == types_pb2.PUBLISH_INGRESS]
    for wanted in service.spec.endpoint.ports:
        port = types_pb2.Port()
        port.CopyFrom(wanted)
        if wanted.published:
            holder = taken.holder(service.meta.id, wanted, wanted.published)
            if holder:
                problems.append(
                    f"port {wanted.published}/{PROTOCOLS[wanted.protocol]} is published by service {holder}: "
                    "choose another one"
                )
                continue
        elif wanted.mode == types_pb2.PUBLISH_INGRESS:
            number = _dynamic(service, wanted, kept, own, taken)
            if number is None:
                problems.append(f"no free port is left in {DYNAMIC_PORT_MIN}–{DYNAMIC_PORT_MAX}")
                continue
            own.add((wanted.protocol, number))
            port.published = number
        chosen.append(port)
    return chosen, problems


def _dynamic(
    service: objects_pb2.Service,
    wanted: types_pb2.Port,
    kept: list[types_pb2.Port],
    own: set[_Number],
    taken: Taken,
) -> int | None:
    """The number the port has already, else the lowest free one."""
    before: list[int] = [
        port.published
        for port in kept
        if (port.protocol, port.target, port.name, port.address)
        == (wanted.protocol, wanted.target, wanted.name, wanted.address)
        and DYNAMIC_PORT_MIN <= port.published <= DYNAMIC_PORT_MAX
    ]
    for number in chain(before, range(DYNAMIC_PORT_MIN, DYNAMIC_PORT_MAX + 1)):
        if (wanted.protocol, number) not in own and not taken.holder(service.meta.id, wanted, number):
            return number
    return None
