"""Network policies: what users write of them, and as assignment items, selectors resolved. Pure.

`policy/ID` holds which services a policy selects, `members/SERVICE` the addresses of a peer's tasks, from
the moment its node gave them, ready or not: a task must reach its database before it becomes healthy.
Members are made only for services that some policy names as peers. A commit costs the policies whose
selection it changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network

from swarmpy.node.items import encode
from swarmpy.node.manager.errors import Invalid, NotFound, Refused, Taken
from swarmpy.node.plan import policy as rules
from swarmpy.node.plan.validate import validate_network
from swarmpy.node.plan.validate_policy import validate_policy
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import ChangeEvent, View
from swarmpy.raft.tables import Ambiguous
from swarmpy.raft.tables import NotFound as Missing

MEMBERS_FROM, MEMBERS_TO = types_pb2.TASK_ASSIGNED, types_pb2.TASK_RUNNING


class PolicyItems:
    """Keeps the `policy/` and `members/` items current; `put` stores one (None: drops it), True if that is new."""

    def __init__(self, view: View, put: Callable[[str, bytes | None], bool]) -> None:
        self._view, self._store = view, put
        self._peers: dict[str, tuple[str, ...]] = {}
        self._named: Counter[str] = Counter()
        for policy in view.policies():
            self._resolve(policy.meta.id)

    def feed(self, events: Sequence[ChangeEvent]) -> bool:
        """Take a commit's events; says whether any item changed."""
        policies: set[str] = set()
        services: set[str] = set()
        for event in events:
            match event.kind:
                case store_pb2.KIND_POLICY:
                    policies.add(event.id)
                case store_pb2.KIND_SERVICE:
                    policies.update(self._touched(event))
                case store_pb2.KIND_NETWORK if event.old is None or event.new is None:
                    policies.update(policy.meta.id for policy in self._view.policies())
                case store_pb2.KIND_TASK:
                    services.update(
                        t.service_id for t in (event.old, event.new) if isinstance(t, objects_pb2.Task)
                    )
        changed = False
        for identity in policies:
            changed |= self._resolve(identity)
        for service_id in services:
            if self._named[service_id]:
                changed |= self._put("members/" + service_id, members_item(self._view, service_id))
        return changed

    def _touched(self, event: ChangeEvent) -> Iterable[str]:
        """Policies whose selection of services may have changed."""
        if not self._view.count(store_pb2.KIND_POLICY):
            return
        ends = [entry for entry in (event.old, event.new) if isinstance(entry, objects_pb2.Service)]
        if len(ends) == 2 and _selectable(ends[0]) == _selectable(ends[1]):
            return
        labels = [rules.labels_of(service) for service in ends]
        for policy in self._view.policies():
            selectors = (*policy.spec.subjects, *policy.spec.peers)
            if any(rules.selected(selectors, known) for known in labels):
                yield policy.meta.id

    def _resolve(self, identity: str) -> bool:
        policy = self._view.get(store_pb2.KIND_POLICY, identity)
        key = "policy/" + identity
        before = self._peers.pop(identity, ())
        changed = False
        if isinstance(policy, objects_pb2.Policy):
            item = policy_item(self._view, policy)
            self._peers[identity] = tuple(item.policy.peers)
            changed = self._put(key, item)
        else:
            changed = self._store(key, None)
        now = self._peers.get(identity, ())
        self._named.update(now)
        self._named.subtract(before)
        for service_id in set(before) ^ set(now):
            members = "members/" + service_id
            if self._named[service_id]:
                changed |= self._put(members, members_item(self._view, service_id))
            else:
                del self._named[service_id]
                changed |= self._store(members, None)
        return changed

    def _put(self, key: str, item: dispatcher_pb2.Item) -> bool:
        return self._store(key, encode(item))


def _selectable(service: objects_pb2.Service) -> tuple[object, ...]:
    """What decides which policies select a service."""
    networks = tuple(reference.target for reference in service.spec.task.networks)
    return rules.labels_of(service), networks


def policy_item(view: View, policy: objects_pb2.Policy) -> dispatcher_pb2.Item:
    spec, default_id = policy.spec, rules.default_network(view)
    subjects, peers = [], []
    for service in view.services():
        labels = rules.labels_of(service)
        inside = not spec.network or spec.network in rules.attached(service, default_id)
        if inside and rules.selected(spec.subjects, labels):
            subjects.append(service.meta.id)
        if rules.selected(spec.peers, labels):
            peers.append(service.meta.id)
    return dispatcher_pb2.Item(
        policy=dispatcher_pb2.PolicyAssignment(
            id=policy.meta.id, direction=spec.direction, network_id=spec.network,
            subjects=subjects, peers=peers, blocks=spec.blocks, ports=spec.ports,
        )
    )  # fmt: skip


def members_item(view: View, service_id: str) -> dispatcher_pb2.Item:
    members = [
        dispatcher_pb2.ServiceMember(task_id=task.meta.id, addresses=task.status.addresses)
        for task in view.tasks_of_service(service_id)
        if MEMBERS_FROM <= task.status.state <= MEMBERS_TO and task.status.addresses
    ]
    return dispatcher_pb2.Item(members=dispatcher_pb2.ServiceMembers(service_id=service_id, members=members))


def new_policy(view: View, asked: objects_pb2.Policy, identity: str) -> objects_pb2.Policy:
    """What is stored for a policy that a user makes. Raises Invalid, Taken, NotFound."""
    policy = objects_pb2.Policy(spec=asked.spec)
    policy.meta.id = identity
    policy.meta.name = asked.meta.name or f"policy-{identity[:8]}"
    policy.meta.namespace = asked.meta.namespace
    policy.meta.labels.update(asked.meta.labels)
    if problems := validate_policy(policy):
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
    if view.by_name(store_pb2.KIND_POLICY, policy.meta.name, policy.meta.namespace) is not None:
        raise Taken(f"a policy named {policy.meta.name!r} exists already: choose another name or remove it")
    if policy.spec.network:
        policy.spec.network = network_of(view, policy.spec.network).meta.id
    return policy


def network_of(view: View, ref: str) -> objects_pb2.Network:
    try:
        network = view.find(store_pb2.KIND_NETWORK, ref)
    except Missing as error:
        raise NotFound(f"there is no network {ref!r}") from error
    except Ambiguous as error:
        raise Invalid(str(error)) from error
    assert isinstance(network, objects_pb2.Network)
    return network


def changed_network(view: View, asked: objects_pb2.Network) -> objects_pb2.Network:
    """A network's labels and whether it denies by default may change, nothing else of its spec."""
    stored = view.network(asked.meta.id)
    if stored is None or stored.pending_delete:
        raise NotFound(f"there is no network {asked.meta.name or asked.meta.id!r}")
    if problems := validate_network(asked):
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
    network = objects_pb2.Network()
    network.CopyFrom(stored)
    network.spec.default_deny = asked.spec.default_deny
    if network.spec != asked.spec or stored.meta.name != asked.meta.name:
        raise Invalid("spec: only the default policy and the labels of a network can be changed")
    network.meta.labels.clear()
    network.meta.labels.update(asked.meta.labels)
    return network


def check_subnet(view: View, subnet: str) -> None:
    """A subnet of the user's own choice must be nobody else's."""
    if not subnet:
        return
    wanted = ip_network(subnet)
    for other in view.networks():
        if other.subnet and wanted.overlaps(ip_network(other.subnet)):
            raise Taken(
                f"subnet {subnet} overlaps with network {other.meta.name!r} ({other.subnet}): choose another"
            )


def check_network_unused(view: View, network: objects_pb2.Network) -> None:
    for policy in view.policies():
        if policy.spec.network == network.meta.id:
            raise Refused(
                f"network {network.meta.name!r} is used by policy {policy.meta.name!r}: remove that first"
            )
