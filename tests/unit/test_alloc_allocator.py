"""The allocator, by what is in the store once it came to rest."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from swarmpy.node.plan import addresses
from swarmpy.node.plan.allocator import Allocator
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Draft

from tests.store_world import World, cluster, network, node, port, service, task

RUNNING = types_pb2.TASK_RUNNING
NETWORK, NODE, SERVICE = store_pb2.KIND_NETWORK, store_pb2.KIND_NODE, store_pb2.KIND_SERVICE


def world_with_nodes(count: int = 2, **spec: object) -> World:
    world = World(Allocator())
    world.put(cluster(**spec), *(node(f"n{number}") for number in range(1, count + 1)))
    world.settle()
    return world


def stored_network(world: World, identity: str) -> objects_pb2.Network:
    found = world.store.network(identity)
    assert found is not None
    return found


def stored_service(world: World, identity: str) -> objects_pb2.Service:
    found = world.store.service(identity)
    assert found is not None
    return found


def published(world: World, identity: str) -> list[int]:
    return [p.published for p in stored_service(world, identity).endpoint.ports]


def blocks_of(world: World, identity: str, node_id: str) -> list[str]:
    return [b.cidr for b in stored_network(world, identity).blocks if b.node_id == node_id]


def test_the_default_network_and_indexes_come_by_themselves() -> None:
    world = world_with_nodes(3)
    default = stored_network(world, "default")
    assert default.meta.name == "swarmpy"
    assert default.is_default
    assert (default.subnet, default.block_bits) == ("10.68.0.0/14", 24)
    assert [(b.node_id, b.cidr) for b in default.blocks] == [
        ("n1", "10.68.0.0/24"),
        ("n2", "10.68.1.0/24"),
        ("n3", "10.68.2.0/24"),
    ]
    assert [n.index for n in world.store.nodes()] == [1, 2, 3]
    assert stored_cluster(world).next_node_index == 4


def stored_cluster(world: World) -> objects_pb2.Cluster:
    found = world.store.cluster()
    assert found is not None
    return found


def test_nothing_is_allocated_before_there_is_a_cluster() -> None:
    world = World(Allocator())
    world.put(network("w1"))
    world.settle()
    assert world.store.network("default") is None


def test_another_cluster_prefix_is_honoured() -> None:
    world = world_with_nodes(1, cluster_cidr="172.16.0.0/12")
    assert stored_network(world, "default").subnet == "172.17.0.0/16"
    world.put(network("w1"), service("s1"))
    world.settle()
    assert stored_network(world, "w1").subnet == "172.18.0.0/18"
    vip = stored_service(world, "s1").endpoint.vips[0].address
    assert IPv4Address(vip) in IPv4Network("172.16.64.0/18")


def test_an_index_is_not_given_again_soon() -> None:
    world = world_with_nodes(3)
    world.delete(NODE, "n3")
    world.put(node("n4"))
    world.settle()
    assert [n.index for n in world.store.nodes()] == [1, 2, 4]
    assert blocks_of(world, "default", "n3") == []
    assert blocks_of(world, "default", "n4")


def test_indexes_start_again_at_the_end_of_the_pool() -> None:
    world = world_with_nodes(2)
    changed = objects_pb2.Cluster()
    changed.CopyFrom(stored_cluster(world))
    changed.next_node_index = 65_534
    world.put(changed)
    world.put(node("n3"))
    world.put(node("n4"))
    world.settle()
    assert [n.index for n in world.store.nodes()] == [1, 2, 65_534, 3]


def test_a_service_gets_a_virtual_ip_per_network_and_its_tasks_go_on() -> None:
    world = world_with_nodes()
    owner = service("s1", networks=["w1", "w2"])
    world.put(network("w1"), network("w2"), owner, service("s2"))
    world.put(task("t1", owner))
    world.settle()
    assert stored_network(world, "w1").subnet == "10.72.0.0/18"
    assert stored_network(world, "w2").subnet == "10.72.64.0/18"
    vips = stored_service(world, "s1").endpoint.vips
    assert [vip.network_id for vip in vips] == ["w1", "w2"]
    everything = [v.address for s in world.store.services() for v in s.endpoint.vips]
    assert len(set(everything)) == 3
    assert all(IPv4Address(address) in IPv4Network("10.65.0.0/16") for address in everything)
    admitted = world.store.task("t1")
    assert admitted is not None
    assert admitted.status.state == types_pb2.TASK_PENDING
    assert not stored_network(world, "w1").blocks, "no node has a task there yet"


def test_a_dnsrr_service_has_no_virtual_ip() -> None:
    world = world_with_nodes()
    world.put(service("s1", mode=objects_pb2.ENDPOINT_DNSRR))
    world.settle()
    assert not stored_service(world, "s1").endpoint.vips
    assert not stored_service(world, "s1").endpoint.error


def test_a_virtual_ip_of_the_users_choice_is_given_or_refused_visibly() -> None:
    world = world_with_nodes(1)
    for name, address in (("s1", "10.65.0.9"), ("s2", "10.65.0.9"), ("s3", "10.72.0.9")):
        asked = service(name, networks=["default"])
        asked.spec.task.networks[0].address = address
        world.put(asked)
        world.settle()
    assert [vip.address for vip in stored_service(world, "s1").endpoint.vips] == ["10.65.0.9"]
    for name in ("s2", "s3"):
        assert not stored_service(world, name).endpoint.vips
        assert "is taken or outside" in stored_service(world, name).endpoint.error


def test_networks_with_ipv6_get_a_64_each_and_virtual_ips_of_both_families() -> None:
    world = world_with_nodes(1)
    for name in ("w1", "w2", "w3"):
        asked = network(name)
        asked.spec.ipv6 = name != "w2"
        world.put(asked)
    world.put(service("s1", networks=["w1", "w2"]))
    world.settle()
    subnets = [stored_network(world, name).subnet6 for name in ("w1", "w2", "w3")]
    assert subnets[1] == ""
    prefix = addresses.prefix6("c0")
    assert [IPv6Network(subnet).subnet_of(prefix) for subnet in (subnets[0], subnets[2])] == [True, True]
    assert len(set(subnets)) == 3
    first, second = stored_service(world, "s1").endpoint.vips
    assert (IPv6Address(first.address6) in prefix, second.address6) == (True, "")
    before = [stored_network(world, name).meta.version for name in ("w1", "w2", "w3")]
    world.restart()
    world.settle()
    assert [stored_network(world, name).meta.version for name in ("w1", "w2", "w3")] == before


def test_virtual_ips_stay_when_a_service_changes_and_go_with_its_networks() -> None:
    world = world_with_nodes()
    world.put(network("w1"), network("w2"), service("s1", networks=["w1"]))
    world.settle()
    held = stored_service(world, "s1").endpoint.vips[0].address
    changed = objects_pb2.Service()
    changed.CopyFrom(stored_service(world, "s1"))
    changed.spec.task.networks.add(target="w2")
    world.put(changed)
    world.settle()
    vips = stored_service(world, "s1").endpoint.vips
    assert vips[0].address == held
    assert vips[1].network_id == "w2"
    changed.CopyFrom(stored_service(world, "s1"))
    del changed.spec.task.networks[0]
    world.put(changed)
    world.settle()
    assert [v.network_id for v in stored_service(world, "s1").endpoint.vips] == ["w2"]


def test_blocks_are_leased_where_tasks_are_and_more_when_needed() -> None:
    world = world_with_nodes()
    owner = service("s1", networks=["w1"])
    world.put(network("w1"), owner)
    world.put(task("t000", owner, node_id="n1"))
    world.settle()
    assert blocks_of(world, "w1", "n1") == ["10.72.0.0/26"]
    assert not blocks_of(world, "w1", "n2")
    for number in range(1, 100):
        world.put(task(f"t{number:03}", owner, slot=number + 1, node_id="n1"))
    world.settle()
    assert blocks_of(world, "w1", "n1") == ["10.72.0.0/26", "10.72.0.64/26"]
    world.put(task("t100", owner, slot=200, node_id="n2"))
    world.settle()
    assert blocks_of(world, "w1", "n2") == ["10.72.0.128/26"]
    world.delete(NODE, "n1")
    world.settle()
    assert not blocks_of(world, "w1", "n1")


def test_a_node_with_many_tasks_gets_more_of_the_default_network_and_few_tasks_ask_for_nothing() -> None:
    world = world_with_nodes(1)
    owner = service("s1", replicas=300)
    world.put(owner)
    world.settle()
    before = world.plans
    world.put(*(task(f"t{n}", owner, slot=n, node_id="n1", state=RUNNING) for n in range(1, 101)))
    world.settle()
    assert world.plans == before, "the block that the node has had since it joined is enough"
    world.put(*(task(f"t{n}", owner, slot=n, node_id="n1", state=RUNNING) for n in range(101, 261)))
    world.settle()
    assert len(blocks_of(world, "default", "n1")) == 2


def test_a_task_moved_to_a_node_later_leases_a_block() -> None:
    world = world_with_nodes()
    owner = service("s1", networks=["w1"])
    world.put(network("w1"), owner)
    world.put(task("t1", owner))
    world.settle()
    assigned = objects_pb2.Task()
    found = world.store.task("t1")
    assert found is not None
    assigned.CopyFrom(found)
    assigned.node_id = "n2"
    assigned.status.state = types_pb2.TASK_ASSIGNED
    world.put(assigned)
    world.settle()
    assert blocks_of(world, "w1", "n2") == ["10.72.0.0/26"]


def test_a_subnet_that_is_asked_for_is_given() -> None:
    world = world_with_nodes()
    world.put(network("w1", "192.168.50.0/24"))
    world.settle()
    found = stored_network(world, "w1")
    assert (found.subnet, found.block_bits, found.error) == ("192.168.50.0/24", 28, "")


@pytest.mark.parametrize(
    ("subnet", "word"),
    [
        ("10.72.0.0/20", "net-w1"),
        ("10.64.5.0/24", "the cluster's own addresses"),
        ("10.65.0.0/16", "the cluster's own addresses"),
        ("10.64.0.0/10", "the cluster's own addresses"),
        ("10.70.0.0/24", "the cluster's own addresses"),
        ("192.0.2.0/24", "192.0.2.7 of node n1"),
        ("nonsense", "is not an IPv4 prefix"),
    ],
)
def test_a_subnet_that_cannot_be_is_refused_with_a_reason(subnet: str, word: str) -> None:
    world = World(Allocator())
    machine = node("n1")
    machine.description.address = "192.0.2.7"
    world.put(cluster(), machine, network("w1"))
    world.settle()
    owner = service("s1", networks=["w2"])
    world.put(network("w2", subnet), owner)
    world.put(task("t1", owner))
    world.settle()
    assert word in stored_network(world, "w2").error
    assert not stored_network(world, "w2").subnet
    waiting = world.store.task("t1")
    assert waiting is not None
    assert waiting.status.state == types_pb2.TASK_NEW
    assert word in waiting.status.message


def test_a_refused_subnet_is_tried_again_when_the_other_network_goes() -> None:
    world = world_with_nodes()
    world.put(network("w1", "10.100.0.0/16"))
    world.settle()
    owner = service("s1", networks=["w2"])
    world.put(network("w2", "10.100.1.0/24"), owner)
    world.put(task("t1", owner))
    world.settle()
    assert stored_network(world, "w2").error
    world.delete(NETWORK, "w1")
    world.settle()
    assert stored_network(world, "w2").error == ""
    assert stored_service(world, "s1").endpoint.vips
    waiting = world.store.task("t1")
    assert waiting is not None
    assert waiting.status.state == types_pb2.TASK_PENDING


def test_a_network_without_free_blocks_says_so_and_takes_back_idle_ones() -> None:
    world = world_with_nodes(6)
    owner = service("s1", networks=["w1"])
    world.put(network("w1", "10.100.0.0/28"), owner)
    for number in range(1, 5):
        world.put(task(f"t{number}", owner, slot=number, node_id=f"n{number}"))
    world.settle()
    assert len(stored_network(world, "w1").blocks) == 4
    world.put(task("t5", owner, slot=5, node_id="n5"))
    world.settle()
    assert "no free /30 block" in stored_network(world, "w1").error
    assert "n5" in stored_network(world, "w1").error
    ended = objects_pb2.Task()
    found = world.store.task("t2")
    assert found is not None
    ended.CopyFrom(found)
    ended.status.state = types_pb2.TASK_FAILED
    world.put(ended)
    world.settle()
    assert stored_network(world, "w1").error == ""
    assert blocks_of(world, "w1", "n5") == ["10.100.0.8/30"]
    assert not blocks_of(world, "w1", "n2")


def test_ports_are_kept_chosen_and_refused() -> None:
    world = world_with_nodes()
    first = service("s1", ports=[port(80, 8080), port(81), port(82)])
    world.put(first)
    world.settle()
    assert published(world, "s1") == [8080, 30000, 30001]
    second = service("s2", ports=[port(80, 8080), port(80)])
    world.put(second)
    world.put(task("t2", second))
    world.settle()
    assert "8080/tcp" in stored_service(world, "s2").endpoint.error
    assert "name-s1" in stored_service(world, "s2").endpoint.error
    assert published(world, "s2") == [30002]
    waiting = world.store.task("t2")
    assert waiting is not None
    assert waiting.status.state == types_pb2.TASK_NEW
    assert "8080/tcp" in waiting.status.message
    world.delete(SERVICE, "s1")
    world.settle()
    assert stored_service(world, "s2").endpoint.error == ""
    assert published(world, "s2") == [8080, 30002]
    waiting = world.store.task("t2")
    assert waiting is not None
    assert waiting.status.state == types_pb2.TASK_PENDING


def test_a_chosen_port_survives_an_update() -> None:
    world = world_with_nodes()
    world.put(service("s1", ports=[port(80), port(81)]))
    world.settle()
    changed = objects_pb2.Service()
    changed.CopyFrom(stored_service(world, "s1"))
    del changed.spec.endpoint.ports[0]
    world.put(changed)
    world.settle()
    assert published(world, "s1") == [30001]


@pytest.mark.parametrize(
    ("one", "two", "clash"),
    [
        (port(80, 53), port(80, 53, protocol=types_pb2.PROTOCOL_UDP), False),
        (port(80, 53, address="192.0.2.1"), port(80, 53, address="192.0.2.2"), False),
        (port(80, 53, address="192.0.2.1"), port(80, 53), True),
        (port(80, 53, mode=types_pb2.PUBLISH_HOST), port(80, 53, mode=types_pb2.PUBLISH_HOST), False),
        (port(80, 53, mode=types_pb2.PUBLISH_HOST), port(80, 53), True),
        (port(80, 53), port(80, 53, mode=types_pb2.PUBLISH_HOST), True),
    ],
)
def test_which_ports_exclude_each_other(one: types_pb2.Port, two: types_pb2.Port, clash: bool) -> None:
    world = world_with_nodes()
    world.put(service("s1", ports=[one]))
    world.put(service("s2", ports=[two]))
    world.settle()
    assert not stored_service(world, "s1").endpoint.error
    assert bool(stored_service(world, "s2").endpoint.error) == clash


def test_a_host_port_is_left_to_the_scheduler() -> None:
    world = world_with_nodes()
    world.put(service("s1", ports=[port(80, mode=types_pb2.PUBLISH_HOST)]))
    world.settle()
    assert published(world, "s1") == [0]


def test_the_dynamic_range_can_run_out() -> None:
    world = world_with_nodes()
    everything = [port(1, number) for number in range(30_000, 32_768)]
    world.put(service("s1", ports=everything))
    world.settle()
    world.put(service("s2", ports=[port(80)]))
    world.settle()
    assert "no free port" in stored_service(world, "s2").endpoint.error


def test_user_networks_can_run_out() -> None:
    world = world_with_nodes(1)
    pools = addresses.pools("10.64.0.0/10")
    count = len(list(pools.user_networks()))
    assert count == 224
    for start in range(0, count, 100):
        world.put(*(network(f"w{number:03}") for number in range(start, min(count, start + 100))))
        world.settle()
    subnets = {stored_network(world, f"w{number:03}").subnet for number in range(count)}
    assert len(subnets) == count
    world.put(network("zz"))
    world.settle()
    assert "no free /18" in stored_network(world, "zz").error
    world.delete(NETWORK, "w007")
    world.settle()
    assert stored_network(world, "zz").subnet == "10.73.192.0/18"


def test_many_tasks_go_on_in_several_transactions_and_then_it_rests() -> None:
    world = world_with_nodes()
    owner = service("s1")
    world.put(owner)
    for start in range(0, 500, 100):
        world.put(*(task(f"t{n:04}", owner, slot=n + 1) for n in range(start, start + 100)))
    world.settle()
    assert len(world.store.tasks_in_state(types_pb2.TASK_PENDING)) == 500
    plans = world.plans
    world.restart()
    index = world.index
    world.settle()
    assert world.plans > plans
    assert world.index == index, "a new leader finds nothing to do"


def test_a_new_leader_with_hundreds_of_untouched_services_reaches_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_with_nodes()
    for number in range(300):
        world.put(service(f"s{number:03}"))
    world.settle()
    late = service("zz")
    world.put(late)
    world.put(task("t1", late))
    world.restart()
    world.settle()
    assert stored_service(world, "zz").endpoint.vips


def test_tasks_that_nobody_wants_and_services_that_go_are_left_alone() -> None:
    world = world_with_nodes()
    owner, leaving = service("s1"), service("s2")
    leaving.pending_delete = True
    world.put(owner, leaving)
    world.put(task("t1", owner, desired=types_pb2.TASK_SHUTDOWN), task("t2", leaving))
    world.settle()
    assert len(world.store.tasks_in_state(types_pb2.TASK_NEW)) == 2
    assert not stored_service(world, "s2").endpoint.vips


def test_a_user_network_with_the_default_name_does_not_stop_the_cluster() -> None:
    world = World(Allocator())
    taken = network("w1")
    taken.meta.name = "swarmpy"
    world.put(taken)
    world.put(cluster(), node("n1"))
    world.settle()
    assert stored_network(world, "default").subnet


def test_a_nonsense_cluster_prefix_does_not_end_the_leader() -> None:
    world = world_with_nodes(1, cluster_cidr="10.0.0.0/30")
    assert stored_network(world, "default").subnet == "10.68.0.0/14"


def test_plans_are_the_same_for_everybody() -> None:
    world = World()
    world.put(cluster(), node("n1"), network("w1"), service("s1", networks=["w1"], ports=[port(80)]))
    keys = list(Allocator().all_keys(world.store))
    plans = [Allocator().plan(Draft(world.store), order, 5, lambda: "x") for order in (keys, keys[::-1])]
    assert plans[0] == plans[1]
    assert plans[0].changes


def test_pools_of_the_default_prefix() -> None:
    pools = addresses.pools("10.64.0.0/10")
    assert [str(p) for p in pools.reserved] == ["10.64.0.0/16", "10.65.0.0/16", "10.68.0.0/14"]
    assert str(next(pools.user_networks())) == "10.72.0.0/18"
    for bad in ("10.64.0.0/20", "x", "10.64.0.1/10", "10.64.0.0", "fd00::/8"):
        with pytest.raises(ValueError, match=r"prefix"):
            addresses.pools(bad)
