"""Whether what a user wrote can be carried out: every problem, with its field path.

Checks what the object says of itself. Whether names are taken, networks exist
or images are known needs the store and is Control's. `field_path` is the
proto's, e.g. `spec.task.container.mounts[1].target`; `message` is a sentence
that says what is wrong and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from swarmpy.node.plan import (
    addresses,
    limits,
    limits_runtime,
    placement_checks,
    validate_pods,
    volume_checks,
    workload_checks,
)
from swarmpy.node.plan.limits import Problem
from swarmpy.node.plan.ports import PROTOCOLS
from swarmpy.node.plan.slots import may_overlap
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.tables import Entity, kind_of, name_problem

__all__ = ["Problem", "validate_cluster", "validate_network", "validate_node", "validate_service"]

REPLICAS_MAX = 100_000
PORT_MAX = 65_535
OWN_PORTS = {(types_pb2.PROTOCOL_TCP, port) for port in (7376, 7377, 7378, 7379)}
OWN_PORTS.add((types_pb2.PROTOCOL_UDP, 4790))
TEXT_BYTES_MAX = 200_000
REMEMBERED_BYTES_MAX = 8192
_ALIAS = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?")
_FORBIDDEN_SUBNETS = tuple(
    IPv4Network(cidr) for cidr in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
)


def validate_service(service: objects_pb2.Service) -> list[Problem]:
    return [*_meta(service), *_service_spec(service.spec), *_size(service)]


def _service_spec(spec: objects_pb2.ServiceSpec) -> Sequence[Problem]:
    """Most updates bring a spec that was looked at before."""
    data = spec.SerializeToString()
    return _spec_problems(data) if len(data) <= REMEMBERED_BYTES_MAX else _spec_problems.__wrapped__(data)


@lru_cache(maxsize=512)
def _spec_problems(data: bytes) -> Sequence[Problem]:
    spec = objects_pb2.ServiceSpec.FromString(data)
    return (
        *_mode(spec),
        *limits.container(spec.task.container, "spec.task.container"),
        *_volumes(spec.task, "spec.task.container.mounts"),
        *limits.resources(spec.task.resources, "spec.task.resources"),
        *limits_runtime.service(spec, "spec"),
        *validate_pods.problems(spec.task, "spec.task"),
        *limits.restart(spec.task.restart, "spec.task.restart"),
        *limits.update(spec.update, "spec.update"),
        *limits.update(spec.rollback, "spec.rollback"),
        *placement_checks.placement(spec.task.placement),
        *placement_checks.service(spec),
        *workload_checks.service(spec),
        *_strategy(spec),
        *_networks(spec.task),
        *_endpoint(spec.endpoint),
    )


def _volumes(task: types_pb2.TaskSpec, path: str) -> Iterator[Problem]:
    for position, mount in enumerate(task.container.mounts):
        yield from volume_checks.mount(mount, f"{path}[{position}]")


def validate_node(node: objects_pb2.Node) -> list[Problem]:
    return [*_meta(node), *placement_checks.node(node.spec), *_size(node)]


def validate_cluster(cluster: objects_pb2.Cluster) -> list[Problem]:
    problems = [*_meta(cluster)]
    spec = cluster.spec
    if spec.cluster_cidr:
        try:
            addresses.pools(spec.cluster_cidr)
        except ValueError as error:
            problems.append(Problem("spec.cluster_cidr", str(error)))
    problems += placement_checks.strategy(spec.strategy)
    if spec.direct_routes not in {"", "auto", "off"}:
        problems.append(Problem("spec.direct_routes", f"must be auto or off, not {spec.direct_routes!r}"))
    if spec.task_history_limit < 0:
        problems.append(Problem("spec.task_history_limit", "must be 1 or more, or 0 for the default of 5"))
    if spec.heartbeat_ms and not 100 <= spec.heartbeat_ms <= 60_000:
        problems.append(Problem("spec.heartbeat_ms", "must be between 100 ms and 60 s, or 0 for 1 s"))
    if spec.cert_expiry_ms and spec.cert_expiry_ms < 3_600_000:
        problems.append(Problem("spec.cert_expiry_ms", "must be at least one hour, or 0 for 720 h"))
    if (
        spec.backup_interval_ms not in {-1, 0}
        and not 1000 <= spec.backup_interval_ms <= limits.DURATION_MS_MAX
    ):
        problems.append(
            Problem(
                "spec.backup_interval_ms", "must be from 1 s to 365 days, 0 for 6 h, or -1 for no backups"
            )
        )
    if not 0 <= spec.backup_keep <= 1000:
        problems.append(Problem("spec.backup_keep", "must be from 1 to 1000, or 0 for 8"))
    if spec.raft_profile not in {"", "lan", "wan"}:
        problems.append(Problem("spec.raft_profile", f"is {spec.raft_profile!r}: write lan or wan"))
    return problems


def validate_network(network: objects_pb2.Network) -> list[Problem]:
    problems = [*_meta(network), *_size(network)]
    problems += [
        Problem("spec.options", f"{name!r} is not a known option: there is encrypted")
        for name in network.spec.options
        if name != "encrypted"
    ]
    if network.meta.name in {"host", "none"}:
        problems.append(
            Problem("meta.name", f"{network.meta.name!r} means something else: choose another name")
        )
    if not network.spec.subnet:
        return problems
    try:
        subnet = addresses.parse(network.spec.subnet)
    except ValueError as error:
        return [*problems, Problem("spec.subnet", str(error))]
    if not 8 <= subnet.prefixlen <= addresses.SUBNET_PREFIX_MAX:
        problems.append(
            Problem("spec.subnet", f"{subnet} must have a length from /8 to /{addresses.SUBNET_PREFIX_MAX}")
        )
    if any(subnet.overlaps(forbidden) for forbidden in _FORBIDDEN_SUBNETS):
        problems.append(Problem("spec.subnet", f"{subnet} is loopback, link-local or multicast"))
    return problems


def _meta(entity: Entity) -> Iterator[Problem]:
    problem = name_problem(kind_of(entity), entity.meta.name)
    if problem:
        yield Problem("meta.name", problem)
    yield from limits.labels(entity.meta.labels, "meta.labels")


def _size(entity: Entity) -> Iterator[Problem]:
    size = entity.ByteSize()
    if isinstance(entity, objects_pb2.Service):  # what is kept of earlier revisions is not the user's
        size = entity.meta.ByteSize() + entity.spec.ByteSize()
    if size > TEXT_BYTES_MAX:
        word = store_pb2.Kind.Name(kind_of(entity)).removeprefix("KIND_").lower()
        yield Problem("spec", f"the {word} has {size} bytes, at most {TEXT_BYTES_MAX}")


def _mode(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    if spec.WhichOneof("mode") is None:
        yield Problem(
            "spec.mode", "is not set: choose replicated, global, ordered, replicated-job or global-job"
        )
    if spec.replicated.replicas > REPLICAS_MAX:
        yield Problem("spec.replicated.replicas", f"is {spec.replicated.replicas}, at most {REPLICAS_MAX}")


def _strategy(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    if spec.rollback.canary or spec.rollback.strategy != types_pb2.STRATEGY_ROLLING:
        yield Problem("spec.rollback", "a rollback goes back at once: it takes no canary and no strategy")
    if spec.update.strategy == types_pb2.STRATEGY_BLUE_GREEN and not may_overlap(
        objects_pb2.Service(spec=spec)
    ):
        yield Problem(
            "spec.update.strategy",
            "blue-green runs old and new tasks beside each other: not with host ports, writable volumes, "
            "replicas per node, static addresses, or update order stop-first",
        )


def _networks(task: types_pb2.TaskSpec) -> Iterator[Problem]:
    seen: set[str] = set()
    for position, reference in enumerate(task.networks):
        path = f"spec.task.networks[{position}]"
        if not reference.target:
            yield Problem(path + ".target", "names no network")
        if reference.target in seen:
            yield Problem(path + ".target", f"network {reference.target} is named twice")
        seen.add(reference.target)
        if reference.address and not _is_ipv4(reference.address):
            yield Problem(path + ".address", f"{reference.address!r} is not an IPv4 address")
        for field, is_one, family in _TASK_ADDRESSES:
            for address in getattr(reference, field):
                if not is_one(address):
                    yield Problem(f"{path}.{field}", f"{address!r} is not an {family} address")
        for alias in reference.aliases:
            if len(alias) > 63 or not _ALIAS.fullmatch(alias):
                yield Problem(path + ".aliases", f"{alias!r} is no host name (letters, digits, -, _, .)")


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    """As it is written everywhere: two ways to write one address must not be two addresses."""
    try:
        return str(IPv6Address(text)) == text
    except ValueError:
        return False


_TASK_ADDRESSES = (("task_addresses", _is_ipv4, "IPv4"), ("task_addresses6", _is_ipv6, "IPv6"))


def _endpoint(endpoint: objects_pb2.EndpointSpec) -> Iterator[Problem]:
    if endpoint.affinity not in {"", "client-ip"}:
        yield Problem("spec.endpoint.affinity", f"is {endpoint.affinity!r}: write client-ip, or nothing")
    if endpoint.mode == objects_pb2.ENDPOINT_DNSRR and (endpoint.affinity or endpoint.prefer_local):
        yield Problem("spec.endpoint.mode", "dnsrr balances nothing: affinity and prefer-local need mode vip")
    seen: dict[tuple[int, int, str], int] = {}
    for position, port in enumerate(endpoint.ports):
        path = f"spec.endpoint.ports[{position}]"
        yield from _port(port, path)
        if endpoint.mode == objects_pb2.ENDPOINT_DNSRR and port.mode == types_pb2.PUBLISH_INGRESS:
            yield Problem(
                path + ".mode",
                "a service with endpoint mode dnsrr has no virtual IP to publish: use mode=host, or mode vip",
            )
        if port.published:
            first = seen.setdefault((port.protocol, port.published, port.address), position)
            if first != position:
                yield Problem(path + ".published", f"is {port.published}, the same as ports[{first}]")


def _port(port: types_pb2.Port, path: str) -> Iterator[Problem]:
    if port.protocol not in PROTOCOLS:
        yield Problem(path + ".protocol", "must be tcp, udp or sctp")
    if not 1 <= port.target <= PORT_MAX:
        yield Problem(path + ".target", f"is {port.target}: the container's port is from 1 to {PORT_MAX}")
    if port.published > PORT_MAX:
        yield Problem(path + ".published", f"is {port.published}: a port is from 1 to {PORT_MAX}, 0 = choose")
    if (port.protocol, port.published) in OWN_PORTS:
        yield Problem(path + ".published", f"{port.published} is used by swarmpy itself: choose another port")
    if port.address:
        try:
            ip_address(port.address)
        except ValueError:
            yield Problem(path + ".address", f"{port.address!r} is not an IP address")
