"""Static addresses as an operator sees them: who has one when, and what is refused. Virtual time, all planners."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.node.manager import attachments
from swarmpy.node.manager.errors import Invalid, ManagerError, Refused, Taken
from swarmpy.node.plan import autoscale_checks, statics
from swarmpy.node.plan.base import copy_of, is_live, is_lost, is_terminal
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.levels import LEVEL, STATICS

from tests.sim.plan_world import World

RUNNING = types_pb2.TASK_RUNNING
SUBNET = "172.20.0.0/16"
FIRST, SECOND, THIRD = "172.20.0.10", "172.20.0.11", "172.20.9.9"
Change = Callable[[objects_pb2.ServiceSpec], None]


def calm() -> World:
    world = World(7, nodes=3)
    world.failure_rate = 0.0
    network = objects_pb2.Network(spec=objects_pb2.NetworkSpec(subnet=SUBNET, ipv6=True))
    network.meta.id = network.meta.name = "net"
    world.put(network)
    world.run(1_000)
    return world


def web(*addresses: str, replicas: int = 0, name: str = "web") -> objects_pb2.Service:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = name
    service.spec.task.container.image = "good:1"
    service.spec.replicated.replicas = replicas or len(addresses)
    service.spec.task.networks.add(target="net", task_addresses=addresses)
    return service


def living(world: World, name: str = "web") -> dict[str, objects_pb2.Task]:
    """The running tasks by their static address."""
    return {
        given.address: task
        for task in world.store.tasks_of_service(name)
        if task.status.state == RUNNING and is_live(task, world.store)
        for given in task.static_addresses
    }


def watched(world: World, duration_ms: int) -> int:
    """Let time pass; no address may ever have two tasks that may run. The smallest number of running ones."""
    least = len(living(world))
    for _ in range(duration_ms // 20):
        world.run(20)
        there = [
            given.address
            for task in world.store.tasks()
            if task.node_id and not is_terminal(task.status.state) and not is_lost(task, world.store)
            for given in task.static_addresses
        ]
        assert len(there) == len(set(there)), there
        least = min(least, len(living(world)))
    return least


def owner_of(world: World, address: str) -> str:
    network = world.store.network("net")
    assert network is not None
    return next((entry.node_id for entry in network.statics if entry.address == address), "nobody")


def test_a_replacement_has_the_address_of_the_one_before_and_never_beside_it() -> None:
    world = calm()
    world.put(web(FIRST, SECOND))
    watched(world, 20_000)
    before = living(world)
    assert {address: task.slot for address, task in before.items()} == {FIRST: 1, SECOND: 2}
    assert all(owner_of(world, address) == task.node_id for address, task in before.items())
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "good:2"))
    assert watched(world, 90_000) == 1, "one at a time, the old one first"
    after = living(world)
    assert {address: task.slot for address, task in after.items()} == {FIRST: 1, SECOND: 2}
    assert all(task.spec.container.image == "good:2" for task in after.values())
    assert not {task.meta.id for task in after.values()} & {task.meta.id for task in before.values()}


def test_the_address_moves_when_its_node_dies_or_is_drained() -> None:
    world = calm()
    world.put(web(FIRST))
    watched(world, 20_000)
    first = living(world)[FIRST].node_id
    world.kill(first)
    watched(world, 40_000)
    second = living(world)[FIRST].node_id
    assert second != first
    assert owner_of(world, FIRST) == second
    world.set_node(second, lambda node: setattr(node.spec, "availability", types_pb2.AVAILABILITY_DRAIN))
    watched(world, 60_000)
    third = living(world)[FIRST].node_id
    assert third not in (first, second)
    world.revive(first)  # it stops the task that it still has, and has no say meanwhile
    world.run(20_000)
    assert owner_of(world, FIRST) == third == living(world)[FIRST].node_id


def test_an_address_goes_back_with_its_block_and_the_next_one_gets_it() -> None:
    world = calm()
    world.put(web(FIRST, SECOND))
    world.run(10)
    world.put(web(FIRST, name="late"))  # as two managers might write at once
    watched(world, 20_000)
    late = world.store.service("late")
    assert late is not None
    assert late.endpoint.error == f"static address {FIRST} belongs to service web: choose another one"
    assert [task.status.message for task in world.store.tasks_of_service("late")] == [late.endpoint.error]
    world.set_service("web", lambda spec: spec.task.networks[0].ClearField("task_addresses"))
    watched(world, 60_000)
    assert living(world, "late").keys() == {FIRST}
    gone = copy_of(world.store.service("late"))  # type: ignore[type-var]
    gone.pending_delete = True
    world.put(gone)
    watched(world, 30_000)
    network = world.store.network("net")
    assert network is not None
    assert not network.statics
    assert all(block.node_id for block in network.blocks)


def test_more_tasks_than_addresses_wait_and_say_so() -> None:
    world = calm()
    world.put(web(FIRST, SECOND, replicas=3))
    watched(world, 20_000)
    assert living(world).keys() == {FIRST, SECOND}
    (waiting,) = [t for t in world.store.tasks_of_service("web") if t.status.state == types_pb2.TASK_NEW]
    assert "all 2 static addresses on network net are in use" in waiting.status.message
    world.set_service("web", lambda spec: spec.task.networks[0].task_addresses.append(THIRD))
    watched(world, 90_000)
    assert {a: t.slot for a, t in living(world).items()} == {FIRST: 1, SECOND: 2, THIRD: 3}


def test_tasks_with_static_addresses_take_nothing_of_a_node_s_block_and_have_ipv6() -> None:
    world = calm()
    world.put(web(FIRST))
    watched(world, 20_000)
    network = world.store.network("net")
    assert network is not None
    assert [(block.node_id, block.cidr) for block in network.blocks] == [("", "172.20.0.0/26")]
    (given,) = living(world)[FIRST].static_addresses
    assert given.address6 == network.subnet6.replace("::/64", "::ac14:a")


def checked(world: World, change: Change, level: int = LEVEL) -> objects_pb2.Service:
    """What Control makes of a service with one static address that was changed like this."""
    for node in list(world.store.nodes()):
        understood = copy_of(node)
        understood.description.state_level = level
        world.put(understood)
    cluster = copy_of(world.store.cluster())  # type: ignore[type-var]
    cluster.state_level = LEVEL
    world.put(cluster)
    service = web(FIRST, name="asked")
    change(service.spec)
    attachments.resolve(world.store, service)
    return service


def named(*addresses: str, six: tuple[str, ...] = ()) -> Change:
    def change(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.networks[0].task_addresses[:] = addresses
        spec.task.networks[0].task_addresses6[:] = six

    return change


def order(spec: objects_pb2.ServiceSpec) -> None:
    spec.update.order = types_pb2.ORDER_START_FIRST


@pytest.mark.parametrize(
    ("change", "says", "error"),
    [
        (lambda spec: setattr(spec.replicated, "replicas", 2), "names 1 for 2 replicas", Invalid),
        (lambda spec: getattr(spec, "global").SetInParent(), "for replicated and ordered services", Invalid),
        (order, "is start-first: two tasks cannot have one static address", Invalid),
        (named("172.21.0.1"), "is outside network net .*or a virtual IP of 10.65.0.0/16", Invalid),
        (named("172.20.0.0"), "is the first or last of network net", Invalid),
        (named("172.20.255.255"), "is the first or last of network net", Invalid),
        (named("10.65.0.0"), "is the first or last of 10.65.0.0/16", Invalid),
        (named(FIRST, FIRST), "names an address twice", Invalid),
        (named("10.65.0.9", "10.65.0.8"), "10.65.0.9 and 10.65.0.8 are virtual IPs", Invalid),
        (named(six=("fd00::1",)), "stand beside IPv4 addresses: add ip=ADDRESS", Invalid),
        (named(THIRD), f"static address {THIRD} belongs to service 'web'", Taken),
    ],
)
def test_what_cannot_be_is_refused_at_once(change: Change, says: str, error: type[ManagerError]) -> None:
    world = calm()
    world.put(web(THIRD))
    world.run(1_000)
    with pytest.raises(error, match=says):
        checked(world, change)


def test_nodes_of_an_older_version_are_named() -> None:
    with pytest.raises(Refused, match="needs a newer swarmpy on every node, not yet on node0, node1, node2"):
        checked(calm(), named(FIRST), level=STATICS - 1)


def test_ip_names_virtual_and_task_addresses_by_where_they_lie() -> None:
    def change(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.networks[0].address = FIRST
        spec.task.networks[0].task_addresses[:] = ["10.65.0.9", SECOND]
        spec.replicated.replicas = 2

    reference = checked(calm(), change).spec.task.networks[0]
    assert (reference.address, list(reference.task_addresses)) == ("10.65.0.9", [FIRST, SECOND])


def test_no_autoscaler_goes_beyond_them() -> None:
    spec = objects_pb2.AutoscalerSpec(min=1, max=3)
    spec.metrics.add(kind=objects_pb2.METRIC_CONNECTIONS, target=5)
    assert [found.message for found in autoscale_checks.problems(spec, web(FIRST, SECOND))] == [
        "is 3, but service web names 2 static addresses"
    ]
    spec.max = 2
    assert not list(autoscale_checks.problems(spec, web(FIRST, SECOND)))


def test_an_address_in_a_block_in_use_is_refused_and_another_one_named() -> None:
    world = calm()
    plain = web(name="plain", replicas=3)
    world.put(plain)
    world.run(20_000)
    network = world.store.network("net")
    assert network is not None
    block = network.blocks[0].cidr
    with pytest.raises(
        Invalid, match=rf"is in {block}, from which node node\d gives .* for example 172.20.0.1$"
    ):
        checked(world, named(block.replace("/26", "").replace(".192", ".200").replace(".128", ".130")))
    world.set_service("plain", lambda spec: setattr(spec.replicated, "replicas", 0))
    world.run(60_000)
    inside = statics.named(checked(world, named("172.20.255.200")).spec.task, "net")
    assert list(inside) == ["172.20.255.200"], "an idle node's block is taken back"
