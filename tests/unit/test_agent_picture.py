"""From assignment items to the overlay's and the resolver's input."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node import items
from swarmpy.node.agent import picture
from swarmpy.node.agent.machine import Local
from swarmpy.node.agent.picture import Picture
from swarmpy.overlay import nametable
from swarmpy.proto import dispatcher_pb2, objects_pb2, types_pb2

ADDRESS = objects_pb2.TaskAddress(network_id="net", address="10.1.0.5")


def config(**fields: object) -> dispatcher_pb2.Item:
    made = dispatcher_pb2.NodeConfig(index=1, cluster_cidr="10.64.0.0/10", vxlan_port=4790, mtu=1450)
    made.MergeFrom(dispatcher_pb2.NodeConfig(**fields))  # type: ignore[arg-type]
    return dispatcher_pb2.Item(node=made)


def peer(name: str, index: int, *, down: bool = False) -> dispatcher_pb2.Item:
    address = f"10.0.0.{index}"
    return dispatcher_pb2.Item(
        peer=dispatcher_pb2.PeerNode(
            id=name,
            hostname=f"host-{name}",
            index=index,
            address=address,
            data_path_address=address,
            down=down,
        )
    )


def network(name: str, *, default: bool = False) -> dispatcher_pb2.Item:
    made = dispatcher_pb2.NetworkAssignment(
        id=name, name=f"{name}-name", subnet="10.1.0.0/16", is_default=default
    )
    made.blocks.add(node_id="a", cidr="10.1.0.0/28")
    made.blocks.add(node_id="b", cidr="10.1.0.16/28")
    return dispatcher_pb2.Item(network=made)


def endpoints() -> dispatcher_pb2.Item:
    made = dispatcher_pb2.ServiceEndpoints(service_id="s", service_name="web")
    made.vips.add(network_id="net", address="10.2.0.1")
    made.ports.add(published=8080, target=80, mode=types_pb2.PUBLISH_INGRESS)
    made.ports.add(published=9090, target=90, mode=types_pb2.PUBLISH_HOST)
    made.backends.add(task_id="t", slot=1, node_id="b", task_name="web.1.x", addresses=[ADDRESS])
    made.networks.add(target="net", aliases=["www"])
    return dispatcher_pb2.Item(endpoints=made)


def whole(**extra: dispatcher_pb2.Item) -> Picture:
    parts = {
        "node/self": config(), "peer/a": peer("a", 1), "peer/b": peer("b", 2, down=True),
        "network/net": network("net", default=True), "endpoints/s": endpoints(), **extra,
    }  # fmt: skip
    return Picture.of({key: items.encode(item) for key, item in parts.items()})


def pod(
    desired: types_pb2.TaskState = types_pb2.TASK_RUNNING, *, port: int = 0, finished: bool = False
) -> Local:
    task = objects_pb2.Task(desired_state=desired)
    if port:
        task.host_ports.add(published=port, target=80)
    state = types_pb2.TASK_FAILED if finished else types_pb2.TASK_RUNNING
    return Local("t", task, objects_pb2.TaskStatus(state=state, addresses=[ADDRESS]), container=not finished)


def test_the_overlay_gets_everything_it_needs() -> None:
    wanted = picture.wanted_network(whole(), "a", [pod(port=7000)])
    assert wanted is not None
    assert [(node.id, node.index, node.underlay, node.down) for node in wanted.nodes] == [
        ("a", 1, "10.0.0.1", False),
        ("b", 2, "10.0.0.2", True),
    ]
    assert wanted.networks[0].blocks == (("a", "10.1.0.0/28"), ("b", "10.1.0.16/28"))
    service = wanted.services[0]
    assert service.vips == (("net", "10.2.0.1"),)
    assert [(port.published, port.target) for port in service.ports] == [(8080, 80)], (
        "host ports are the node's own"
    )
    assert service.backends[0].addresses == (("net", "10.1.0.5"),)
    assert wanted.host_ports == (("tcp", 7000, "10.1.0.5", 80, ""),)


def test_direct_routes_are_the_clusters_choice() -> None:
    wanted = [
        picture.wanted_network(whole(**{"node/self": config(direct_off=off)}), "a", [])
        for off in (False, True)
    ]
    assert [each.direct for each in wanted if each is not None] == [True, False]


def test_no_network_before_the_node_has_a_number() -> None:
    assert picture.wanted_network(Picture(), "a", []) is None
    without = {"node/self": dispatcher_pb2.Item(node=dispatcher_pb2.NodeConfig()), "peer/a": peer("a", 1)}
    assert (
        picture.wanted_network(Picture.of({k: items.encode(v) for k, v in without.items()}), "a", []) is None
    )
    assert picture.wanted_network(whole(), "unknown", []) is None


def test_a_finished_task_keeps_no_port_and_no_address() -> None:
    wanted = picture.wanted_network(whole(), "a", [pod(port=7000, finished=True)])
    assert wanted is not None
    assert wanted.host_ports == ()
    assert picture.in_use({"t": pod(finished=True)}, "net") == set()
    assert picture.in_use({"t": pod()}, "net") == {"10.1.0.5"}
    assert picture.in_use({"t": pod()}, "other") == set()


def test_the_resolver_reads_back_what_it_is_given() -> None:
    table = picture.dns_table(whole(), "a", [pod()], ["9.9.9.9"])
    data = json.loads(table.to_json())
    assert data["pods"] == {"10.1.0.5": ["net"]}
    assert data["upstreams"] == ["9.9.9.9"]
    assert [(entry["name"], entry["mode"]) for entry in data["services"]] == [("web", "vip")]
    assert {node["hostname"] for node in data["nodes"]} == {"host-a", "host-b"}
    assert nametable.Table.from_json(table.to_json()) == table


def test_a_task_without_networks_joins_the_default_one() -> None:
    seen = whole(**{"network/other": network("other")})
    task = objects_pb2.Task()
    joined = seen.networks_of(task)
    assert joined is not None
    assert [one.id for one in joined] == ["net"]
    task.spec.networks.add(target="other")
    joined = seen.networks_of(task)
    assert joined is not None
    assert [one.id for one in joined] == ["other"]
    task.spec.networks.add(target="not yet known")
    assert seen.networks_of(task) is None
    assert Picture().networks_of(objects_pb2.Task()) is None


def test_a_services_own_servers_are_asked_for_its_pods() -> None:
    asking = pod()
    assert asking.wanted is not None
    asking.wanted.spec.container.dns_servers.extend(["1.1.1.1", "8.8.8.8", "9.9.9.9", "4.4.4.4"])
    table = picture.dns_table(whole(), "a", iter([asking]), ["192.0.2.1"])
    assert table.pod_upstreams == {"10.1.0.5": ("1.1.1.1", "8.8.8.8", "9.9.9.9")}
    assert "10.1.0.5" in table.pods


def test_resolver_file_of_a_container() -> None:
    plain = picture.resolv_conf(types_pb2.ContainerSpec())
    assert plain.splitlines()[0] == f"nameserver {picture.DNS_ADDRESS}"
    own = types_pb2.ContainerSpec(
        dns_servers=["1.1.1.1", "8.8.8.8", "9.9.9.9"], dns_search=["a.b"], dns_options=["debug"]
    )
    lines = picture.resolv_conf(own).splitlines()
    assert [line for line in lines if line.startswith("nameserver")] == [
        f"nameserver {picture.DNS_ADDRESS}"
    ], "the node's resolver asks the service's own servers, or its names would depend on who answers first"
    assert "search a.b" in lines
    assert lines[-1].endswith("debug")


PARTS = {
    "node/self": [config()],
    "peer/a": [peer("a", 1), peer("a", 1, down=True)],
    "network/net": [network("net", default=True)],
    "endpoints/s": [
        endpoints(),
        dispatcher_pb2.Item(endpoints=dispatcher_pb2.ServiceEndpoints(service_id="s")),
    ],
    "endpoints/r": [dispatcher_pb2.Item(endpoints=dispatcher_pb2.ServiceEndpoints(service_id="r"))],
}


@st.composite
def sets(draw: st.DrawFn) -> items.Items:
    chosen = draw(st.sets(st.sampled_from(sorted(PARTS))))
    return {key: items.encode(draw(st.sampled_from(PARTS[key]))) for key in sorted(chosen)}


@given(st.lists(sets(), min_size=2, max_size=6))
def test_a_picture_that_follows_is_the_same_as_a_new_one(steps: list[items.Items]) -> None:
    seen = Picture.of(steps[0])
    for old, new in itertools.pairwise(steps):
        seen = seen.follow(old, new)
        anew = Picture.of(new)
        assert seen == anew
        assert seen.made_services() <= set(seen.endpoints), "nothing is kept of what is gone"
        assert seen.around == anew.around
        for local in ([], [pod(port=7000)]):
            assert picture.wanted_network(seen, "a", local) == picture.wanted_network(anew, "a", local)
            assert picture.dns_table(seen, "a", local, []) == picture.dns_table(anew, "a", local, [])
