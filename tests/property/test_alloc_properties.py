"""The allocator over random histories: nothing twice, nothing lost, nothing remembered outside the store."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from swarmpy.node.plan.allocator import Allocator
from swarmpy.node.plan.base import is_terminal
from swarmpy.node.plan.statics import network_ids
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.store_world import World, cluster, network, node, port, service, task

SUBNETS = st.sampled_from(["", "", "10.100.0.0/16", "10.100.3.0/24", "10.101.0.0/28", "10.68.0.0/20"])
PORTS = st.lists(
    st.builds(port, st.integers(80, 82), st.sampled_from([0, 0, 8080, 30000, 30001])),
    max_size=3,
    unique_by=lambda p: p.published or object(),  # validation refuses a port named twice
)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Allocator())
        self.world.put(cluster(cluster_cidr="10.64.0.0/10"), node("n0"))
        self.settled = False

    def ids(self, kind: store_pb2.Kind) -> list[str]:
        return [entity.meta.id for entity in self.world.store.all(kind) if entity.meta.id != "default"]

    def pick(self, data: st.DataObject, kind: store_pb2.Kind) -> str | None:
        known = self.ids(kind)
        return data.draw(st.sampled_from(known)) if known else None

    @rule()
    def add_node(self) -> None:
        self.settled = False
        self.world.put(node(self.world.new_id()))

    @rule(data=st.data())
    def drop_node(self, data: st.DataObject) -> None:
        self.settled = False
        if (identity := self.pick(data, store_pb2.KIND_NODE)) is not None:
            self.world.delete(store_pb2.KIND_NODE, identity)

    @rule(subnet=SUBNETS, ipv6=st.booleans())
    def add_network(self, subnet: str, ipv6: bool) -> None:
        self.settled = False
        made = network(self.world.new_id(), subnet)
        made.spec.ipv6 = ipv6
        self.world.put(made)

    @rule(data=st.data())
    def drop_network(self, data: st.DataObject) -> None:
        self.settled = False
        identity = self.pick(data, store_pb2.KIND_NETWORK)
        services = list(self.world.store.services())
        if identity is not None and not any(identity in network_ids(s.spec.task) for s in services):
            self.world.delete(store_pb2.KIND_NETWORK, identity)

    @rule(data=st.data(), ports=PORTS, vip=st.booleans())
    def add_service(self, data: st.DataObject, ports: list[types_pb2.Port], vip: bool) -> None:
        self.settled = False
        known = self.ids(store_pb2.KIND_NETWORK)
        networks = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=2)) if known else []
        mode = objects_pb2.ENDPOINT_VIP if vip else objects_pb2.ENDPOINT_DNSRR
        made = service(self.world.new_id(), networks=networks, ports=ports, mode=mode)
        self.world.put(made)

    @rule(data=st.data(), ports=PORTS)
    def change_ports(self, data: st.DataObject, ports: list[types_pb2.Port]) -> None:
        self.settled = False
        if (identity := self.pick(data, store_pb2.KIND_SERVICE)) is not None:
            changed = objects_pb2.Service()
            changed.CopyFrom(self.world.store.service(identity))  # type: ignore[arg-type]
            del changed.spec.endpoint.ports[:]
            changed.spec.endpoint.ports.extend(ports)
            self.world.put(changed)

    @rule(data=st.data())
    def drop_service(self, data: st.DataObject) -> None:
        self.settled = False
        if (identity := self.pick(data, store_pb2.KIND_SERVICE)) is not None:
            for found in self.world.store.tasks_of_service(identity):
                self.world.delete(store_pb2.KIND_TASK, found.meta.id)
            self.world.delete(store_pb2.KIND_SERVICE, identity)

    @rule(data=st.data(), count=st.integers(1, 40))
    def add_tasks(self, data: st.DataObject, count: int) -> None:
        self.settled = False
        if (identity := self.pick(data, store_pb2.KIND_SERVICE)) is None:
            return
        owner = self.world.store.service(identity)
        node_id = self.pick(data, store_pb2.KIND_NODE) or ""
        self.world.put(*(task(self.world.new_id(), owner, slot=n + 1, node_id=node_id) for n in range(count)))  # type: ignore[arg-type]

    @rule(data=st.data())
    def end_task(self, data: st.DataObject) -> None:
        self.settled = False
        if (identity := self.pick(data, store_pb2.KIND_TASK)) is not None:
            ended = objects_pb2.Task()
            ended.CopyFrom(self.world.store.task(identity))  # type: ignore[arg-type]
            ended.status.state = types_pb2.TASK_FAILED
            self.world.put(ended)

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.settled = True

    @precondition(lambda self: self.settled)
    @rule()
    def a_new_leader_changes_nothing(self) -> None:
        before = {e.meta.id: e.meta.version for kind in (2, 3, 4, 5) for e in self.world.store.all(kind)}  # type: ignore[arg-type]
        self.world.restart()
        self.world.settle()
        after = {e.meta.id: e.meta.version for kind in (2, 3, 4, 5) for e in self.world.store.all(kind)}  # type: ignore[arg-type]
        assert before == after

    @invariant()
    def nothing_is_given_twice(self) -> None:
        store = self.world.store
        indexes = [n.index for n in store.nodes() if n.index]
        assert len(indexes) == len(set(indexes))
        vips = [vip.address for s in store.services() for vip in s.endpoint.vips]
        assert len(vips) == len(set(vips))
        ports = [(p.protocol, p.published) for s in store.services() for p in s.endpoint.ports]
        assert len(ports) == len(set(ports))
        subnets = [IPv4Network(n.subnet) for n in store.networks() if n.subnet]
        assert not any(a.overlaps(b) for i, a in enumerate(subnets) for b in subnets[:i])
        subnets6 = [n.subnet6 for n in store.networks() if n.subnet6]
        assert len(subnets6) == len(set(subnets6))
        vips6 = [vip.address6 for s in store.services() for vip in s.endpoint.vips if vip.address6]
        assert len(vips6) == len(set(vips6))
        for found in store.networks():
            blocks = [IPv4Network(block.cidr) for block in found.blocks]
            assert len(blocks) == len(set(blocks))
            assert all(
                b.subnet_of(IPv4Network(found.subnet)) and b.prefixlen == found.block_bits for b in blocks
            )

    @invariant()
    def at_rest_everything_is_there_or_explained(self) -> None:
        if not self.settled:
            return
        store = self.world.store
        node_ids = {n.meta.id for n in store.nodes()}
        assert all(n.index for n in store.nodes())
        for found in store.networks():
            assert found.subnet or found.error
            assert bool(found.subnet6) == (found.spec.ipv6 and bool(found.subnet))
            assert {block.node_id for block in found.blocks} <= node_ids, "blocks of nodes that are gone"
            if found.subnet and found.error and not found.is_default:
                busy = {
                    one.node_id
                    for one in store.tasks()
                    if found.meta.id in network_ids(one.spec) and not is_terminal(one.status.state)
                }
                idle = [block.cidr for block in found.blocks if block.node_id not in busy]
                assert not idle, f"called exhausted while {idle} serve nobody"
        for owner in store.services():
            if owner.spec.endpoint.mode == objects_pb2.ENDPOINT_VIP:
                usable = [i for i in network_ids(owner.spec.task) if (n := store.network(i)) and n.subnet]
                assert [vip.network_id for vip in owner.endpoint.vips] == usable
            else:
                assert not owner.endpoint.vips
            assert owner.endpoint.error or len(owner.endpoint.ports) == len(owner.spec.endpoint.ports)
        for one in store.tasks():
            if one.status.state == types_pb2.TASK_NEW:
                assert one.status.message, "a task waits without saying for what"
            if one.node_id in node_ids and not is_terminal(one.status.state):
                for network_id in network_ids(one.spec):
                    found_network = store.network(network_id)
                    assert found_network is not None
                    leased = any(block.node_id == one.node_id for block in found_network.blocks)
                    assert leased or found_network.error


TestAllocatorHistories = Histories.TestCase
TestAllocatorHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
