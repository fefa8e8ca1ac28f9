"""Static addresses in the kernel: reached wherever their pod is, refused while nobody has them, never from two."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from swarmpy.overlay import ipam
from swarmpy.overlay.wanted import Service, Wanted

from tests.integration import test_overlay_ipv6 as dual
from tests.integration import test_overlay_plane as plane
from tests.integration.test_overlay_plane import ask, end, refused, within

pytestmark = dual.pytestmark
BLOCK, STATIC = "10.72.1.0/26", "10.72.1.9"
STATIC6 = ipam.address6(STATIC, dual.SUBNETS["one"], 0)  # number 0: no node's
BOTH = (("one", STATIC, plane.ONE[1]), ("one", STATIC6, dual.SUBNETS["one"]))
OTHER = dual.ADDRESS6["pod-a1"]


PODS = {"pod-a1": dual.PODS["pod-a1"], "still-b": ("b", BOTH), "still-c": ("c", BOTH)}


class StaticSite(dual.DualSite):
    letters = "ovs"
    pods = PODS
    owner = "b"

    def build(self) -> None:
        self.pods = {name: pod for name, pod in PODS.items() if name != "still-c"}
        super().build()
        self.pods = PODS

    def services(self) -> tuple[Service, ...]:
        return ()

    def wanted(self, name: str, wanted_services: tuple[Service, ...], **changes: Any) -> Wanted:
        built = super().wanted(name, wanted_services)
        one = next(network for network in built.networks if network.id == "one")
        mine = ((self.owner, f"{STATIC}/32"), (self.owner, f"{STATIC6}/128")) if self.owner else ()
        one = dataclasses.replace(one, blocks=(*one.blocks, ("", BLOCK), *mine))
        others = [network for network in built.networks if network.id != "one"]
        return dataclasses.replace(built, networks=(one, *others), **changes)

    def move(self, owner: str, told: str = "abc", **changes: Any) -> None:
        self.owner = owner
        for name in told:
            self.nodes[name].call("apply", wanted=dataclasses.asdict(self.wanted(name, (), **changes)))

    def detach(self, pod: str) -> None:
        self.nodes[self.pods[pod][0]].call("detach", pod=pod)
        end(self.servers.pop(pod))

    def problems(self) -> dict[str, list[str]]:
        return {name: found for name, node in self.nodes.items() if (found := node.call("verify"))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticSite]:
    with plane.standing(StaticSite(tmp_path_factory.mktemp("static"))) as built:
        yield built


def answers(site: StaticSite, pod: str) -> None:
    """From a pod on another node, from that pod, and from every node."""
    assert ask(site.pins["pod-a1"], STATIC, 80) == (pod, "10.72.0.5")
    assert ask(site.pins["pod-a1"], STATIC6, 80) == (pod, OTHER)
    assert ask(site.pins[pod], "10.72.0.5", 80) == ("pod-a1", STATIC)
    assert ask(site.pins[pod], OTHER, 80) == ("pod-a1", STATIC6)
    for name in "abc":
        assert ask(site.host(name), STATIC, 80)[0] == pod, name
    assert site.problems() == {}


def back(site: StaticSite) -> None:
    """As an update does: the old one is gone before the new one comes."""
    site.detach("still-c")
    site.move("b")
    site.attach("still-b")
    answers(site, "still-b")


def test_it_moves_with_its_pod_and_the_former_owner_is_not_believed(site: StaticSite) -> None:
    answers(site, "still-b")
    nodes = site.wanted("a", ()).nodes
    down = tuple(dataclasses.replace(node, down=node.id == "b") for node in nodes)
    site.move("c", told="ac", nodes=down)  # b is lost, and knows nothing of it
    site.attach("still-c")
    assert ask(site.pins["pod-a1"], STATIC, 80) == ("still-c", "10.72.0.5")
    assert ask(site.pins["pod-a1"], STATIC6, 80) == ("still-c", OTHER)
    for target in ("10.72.0.5", OTHER):
        with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
            within(site.pins["still-b"], lambda t=target: socket.create_connection((t, 80), 1).close())
    site.detach("still-b")  # b is back, and told to stop its task
    site.move("c")
    answers(site, "still-c")
    back(site)


def test_a_former_pod_that_is_not_cleaned_yet_does_not_keep_its_node_from_the_new_one(
    site: StaticSite,
) -> None:
    site.move("c")
    site.attach("still-c")
    for namespace in (site.host("b"), site.pins["pod-a1"]):
        assert ask(namespace, STATIC, 80)[0] == ask(namespace, STATIC6, 80)[0] == "still-c"
    site.detach("still-b")
    answers(site, "still-c")
    back(site)


def test_nobody_there_is_a_refusal_at_once(site: StaticSite) -> None:
    site.detach("still-b")
    assert refused(site.pins["pod-a1"], STATIC, 80), "its owner has no pod with it"
    site.move("")
    assert refused(site.pins["pod-a1"], STATIC, 80), "it has no owner"
    assert refused(site.host("c"), STATIC, 80)
    assert site.problems() == {}
    site.move("b")
    site.attach("still-b")


def test_a_new_object_over_the_same_kernel_changes_nothing(site: StaticSite) -> None:
    for name, node in site.nodes.items():
        node.call("new")
        report = node.call("apply", wanted=dataclasses.asdict(site.wanted(name, ())))
        assert report == {"changed": 0, "compared": True, "found": [], "forgotten": 0}
    answers(site, "still-b")


def test_it_is_reached_where_nodes_leave_out_vxlan_too(site: StaticSite) -> None:
    """What goes to it takes VXLAN, what it answers does not."""
    for _ in range(2):  # neighbours are asked for their MACs, then probed
        proven = {name: node.call("near") for name, node in site.nodes.items()}
    assert proven == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]}
    answers(site, "still-b")
    site.detach("still-b")
    site.move("c")
    site.attach("still-c")
    answers(site, "still-c")
    back(site)
