"""Static addresses over random histories: one holder each, outside what nodes give away, nothing kept for nobody."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from swarmpy.node.plan import statics
from swarmpy.node.plan.allocator import Allocator
from swarmpy.node.plan.base import copy_of, desired_running, is_lost, is_terminal
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.store_world import World, cluster, network, node, service, task

# Eight blocks of six addresses each: nodes and static addresses compete for them.
SUBNET = "10.100.0.0/26"
ADDRESSES = st.lists(
    st.sampled_from([f"10.100.0.{n}" for n in (0, 3, 4, 12, 20, 28, 36, 44, 52, 60, 63)] + ["10.9.9.9"]),
    max_size=3,
    unique=True,
)
NODES = ("n0", "n1", "n2", "n3")


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Allocator())
        self.settled = False

    @initialize(ipv6=st.booleans())
    def begin(self, ipv6: bool) -> None:
        made = network("w", SUBNET)
        made.spec.ipv6 = ipv6
        self.world.put(cluster(cluster_cidr="10.64.0.0/10"), made, *map(node, NODES))
        self.add_service(addresses=["10.100.0.3", "10.100.0.4"])
        self.world.settle()

    def some(self, data: st.DataObject, kind: store_pb2.Kind) -> str | None:
        known = [entity.meta.id for entity in self.world.store.all(kind)]
        return data.draw(st.sampled_from(known)) if known else None

    def a_task(self, data: st.DataObject) -> objects_pb2.Task | None:
        identity = self.some(data, store_pb2.KIND_TASK)
        found = self.world.store.task(identity) if identity is not None else None
        return copy_of(found) if found is not None else None

    @rule(addresses=ADDRESSES)
    def add_service(self, addresses: list[str]) -> None:
        self.settled = False
        made = service(self.world.new_id(), networks=["w"])
        made.spec.task.networks[0].task_addresses[:] = addresses
        self.world.put(made)

    @rule(data=st.data(), addresses=ADDRESSES)
    def rename(self, data: st.DataObject, addresses: list[str]) -> None:
        self.settled = False
        if (identity := self.some(data, store_pb2.KIND_SERVICE)) is not None:
            changed = copy_of(self.world.store.service(identity))  # type: ignore[type-var]
            changed.spec.task.networks[0].task_addresses[:] = addresses
            self.world.put(changed)

    @rule(data=st.data(), whole=st.booleans())
    def drop_service(self, data: st.DataObject, whole: bool) -> None:
        self.settled = False
        if (identity := self.some(data, store_pb2.KIND_SERVICE)) is None:
            return
        if not whole:
            marked = copy_of(self.world.store.service(identity))  # type: ignore[type-var]
            marked.pending_delete = True
            self.world.put(marked)
            return
        for found in self.world.store.tasks_of_service(identity):
            self.world.delete(store_pb2.KIND_TASK, found.meta.id)
        self.world.delete(store_pb2.KIND_SERVICE, identity)

    @rule(data=st.data(), slot=st.integers(1, 3), node_id=st.sampled_from(("", *NODES)))
    def add_task(self, data: st.DataObject, slot: int, node_id: str) -> None:
        owner = self.world.store.service(self.some(data, store_pb2.KIND_SERVICE) or "")
        if owner is None:
            return
        identity = self.world.new_id()
        self.world.put(task(identity, owner, slot=slot))
        self.settle()
        if node_id:
            self.place(identity, node_id)

    @rule(data=st.data(), node_id=st.sampled_from(NODES))
    def place_one(self, data: st.DataObject, node_id: str) -> None:
        if (identity := self.some(data, store_pb2.KIND_TASK)) is not None:
            self.place(identity, node_id)

    def place(self, identity: str, node_id: str) -> None:
        """As the scheduler does: only what the allocator has let through, and only once."""
        found = copy_of(self.world.store.task(identity))  # type: ignore[type-var]
        if not found.node_id and found.status.state == types_pb2.TASK_PENDING and desired_running(found):
            self.settled = False
            found.node_id, found.status.state = node_id, types_pb2.TASK_RUNNING
            self.world.put(found)

    @rule(data=st.data(), stop=st.booleans())
    def stop_or_end(self, data: st.DataObject, stop: bool) -> None:
        self.settled = False
        if (found := self.a_task(data)) is not None:
            if stop:
                found.desired_state = types_pb2.TASK_SHUTDOWN
            else:
                found.status.state = max(found.status.state, types_pb2.TASK_FAILED)
            self.world.put(found)

    @rule(node_id=st.sampled_from(NODES), down=st.booleans())
    def turn(self, node_id: str, down: bool) -> None:
        """A node is lost, or back; its tasks were replaced meanwhile."""
        self.settled = False
        changed = copy_of(self.world.store.node(node_id))  # type: ignore[type-var]
        if down == (changed.status.state == types_pb2.NODE_DOWN):
            return
        changed.status.state = types_pb2.NODE_DOWN if down else types_pb2.NODE_READY
        for found in self.world.store.tasks_of_node(node_id):
            stopped = copy_of(found)
            stopped.desired_state = types_pb2.TASK_SHUTDOWN
            if not down:
                stopped.status.state = max(stopped.status.state, types_pb2.TASK_SHUTDOWN)
            self.world.put(stopped)
        self.world.put(changed)

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.settled = True

    def found(self) -> objects_pb2.Network:
        network = self.world.store.network("w")
        assert network is not None
        return network

    @precondition(lambda self: self.settled)
    @rule()
    def a_new_leader_changes_nothing(self) -> None:
        kinds = (store_pb2.KIND_SERVICE, store_pb2.KIND_TASK, store_pb2.KIND_NETWORK)
        before = {e.meta.id: e.meta.version for kind in kinds for e in self.world.store.all(kind)}
        self.world.restart()
        self.world.settle()
        after = {e.meta.id: e.meta.version for kind in kinds for e in self.world.store.all(kind)}
        assert before == after

    @invariant()
    def an_address_has_one_holder(self) -> None:
        store = self.world.store
        holders: dict[str, str] = {}
        for one in store.tasks():
            over = is_terminal(one.status.state) or (not one.node_id and not desired_running(one))
            if over or is_lost(one, store):
                continue
            for given in one.static_addresses:
                for address in filter(None, (given.address, given.address6)):
                    assert address not in holders, f"{address}: {holders[address]} and {one.meta.name}"
                    holders[address] = one.meta.name
                    assert given.address in one.spec.networks[0].task_addresses

    @invariant()
    def nodes_give_none_of_them_away(self) -> None:
        found = self.world.store.network("w")
        if found is None:
            return
        blocks = [IPv4Network(block.cidr) for block in found.blocks]
        assert len(blocks) == len(set(blocks))
        leased = [IPv4Network(block.cidr) for block in found.blocks if block.node_id]
        for entry in found.statics:
            assert entry.error or not any(IPv4Address(entry.address) in block for block in leased)
        assert len({entry.address for entry in found.statics}) == len(found.statics)

    @invariant()
    def at_rest_nothing_is_kept_for_nobody_and_everything_is_explained(self) -> None:
        if not self.settled:
            return
        store, found = self.world.store, self.found()
        alive = {service.meta.id: service for service in store.services() if not service.pending_delete}
        for entry in found.statics:
            owner = alive.get(entry.service_id)
            wanted = owner is not None and entry.address in statics.named(owner.spec.task, "w")
            holder = store.task(entry.task_id)
            held = holder is not None and not is_terminal(holder.status.state)
            assert wanted or held, f"{entry.address} is kept for nobody"
            if held and holder is not None and holder.node_id:
                assert entry.node_id == holder.node_id, "it leads to where its task is not"
        around = {statics.block_around(found, e.address) for e in found.statics if not e.error}
        assert {block.cidr for block in found.blocks if not block.node_id} == around
        named = {entry.address for entry in found.statics}
        for owner in alive.values():
            assert set(statics.named(owner.spec.task, "w")) <= named
        for one in store.tasks():
            if one.status.state == types_pb2.TASK_NEW and desired_running(one) and one.service_id in alive:
                assert one.status.message, "a task waits without saying for what"
            if one.node_id and not one.static_addresses and not is_terminal(one.status.state):
                assert any(block.node_id == one.node_id for block in found.blocks) or found.error


TestStaticHistories = Histories.TestCase
TestStaticHistories.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


def test_a_task_that_is_stopped_before_it_had_a_node_keeps_no_address() -> None:
    histories = Histories()
    histories.begin(ipv6=False)
    world = histories.world
    owner = world.store.service("id000001")
    assert owner is not None
    world.put(task("t", owner, slot=1))
    histories.settle()
    assert "t" in [entry.task_id for entry in histories.found().statics]
    stopped = copy_of(world.store.task("t"))  # type: ignore[type-var]
    stopped.desired_state = types_pb2.TASK_SHUTDOWN
    world.put(stopped)
    histories.settle()
    assert not [entry for entry in histories.found().statics if entry.task_id]
    histories.a_new_leader_changes_nothing()
