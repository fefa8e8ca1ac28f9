"""Random churn on one node's kernel: after every step it is as wanted, and at the end as before the first.

STEPS=1000 runs the long form.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.overlay import ipam
from swarmpy.overlay.wanted import Backend, Network, Node, Policy, PortMap, Service, Wanted

from tests.integration.test_overlay_plane import Child, sh

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("ip", "nft", "nsenter")),
        reason="needs ip, nft and nsenter",
    ),
]
STEPS = int(os.environ.get("STEPS", "60"))
SEED = int(os.environ.get("SEED", "1"))
PREFIX = "fd12:3456:789a::/48"
SIX = Path("/proc/sys/net/ipv6").exists()


class World:
    """What is wanted, changed at random by one thing at a time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes = {1}
        self.networks: dict[int, bool] = {0: True}
        self.services: dict[int, Service] = {}
        self.pods: dict[str, tuple[tuple[str, str, str], ...]] = {}
        self.denied: set[int] = set()
        self.made = 0

    def network(self, number: int) -> Network:
        blocks = tuple((f"n{index}", f"10.72.{number * 64 + index}.0/26") for index in sorted(self.nodes))
        six = f"fd12:3456:789a:{number + 2}::/64" if self.networks[number] and SIX else ""
        return Network(
            f"w{number}",
            f"w{number}",
            f"10.72.{number * 64}.0/18",
            number == 2,
            blocks,
            number in self.denied,
            six,
        )

    def wanted(self) -> Wanted:
        nodes = tuple(
            Node(f"n{i}", i, f"10.9.0.{i}", f"10.9.0.{i}", down=i % 7 == 0) for i in sorted(self.nodes)
        )
        policies = (
            (Policy("p", "ingress", "", tuple(sorted(self.pods))[:2], ("10.72.0.9",)),) if self.denied else ()
        )
        return Wanted(
            "n1", "10.64.0.0/10", 4790, 1450, nodes, tuple(self.network(n) for n in sorted(self.networks)),
            tuple(self.services[n] for n in sorted(self.services)), policies=policies,
            prefix6=PREFIX if SIX else "",
        )  # fmt: skip

    def service(self, number: int) -> Service:
        r = self.random
        backends = tuple(
            Backend(
                f"t{number}.{t}", f"n{r.choice(sorted(self.nodes))}", (("w0", f"10.72.{1 + t}.{number + 1}"),)
            )
            for t in range(r.randint(0, 6))
        )
        ports = (PortMap("tcp", 8000 + number, 80, "ingress"),) if r.random() < 0.6 else ()
        vips = (("w0", f"10.65.0.{number + 1}"), ("w0", ipam.vip6(f"10.65.0.{number + 1}", PREFIX)))
        return Service(
            f"s{number}", vips[: 2 if SIX else 1], ports, backends, r.random() < 0.3, r.random() < 0.3
        )

    def change(self, node: Child) -> None:
        r = self.random
        what = r.choice(
            ["node", "network", "service", "service", "service", "attach", "attach", "detach", "deny"]
        )
        number = r.randint(0, 7)
        if what == "node" and number:
            self.nodes ^= {number + 1}
        elif what == "network" and 0 < number < 4:
            if number in self.networks and not any(
                f"w{number}" == n for p in self.pods.values() for n, _, _ in p
            ):
                del self.networks[number]
            else:
                self.networks.setdefault(number, r.random() < 0.5)
        elif what == "service":
            if number in self.services and r.random() < 0.3:
                del self.services[number]
            else:
                self.services[number] = self.service(number)
        elif what == "deny":
            self.denied ^= {0}
        elif what == "detach" and self.pods:
            pod = r.choice(sorted(self.pods))
            del self.pods[pod]
            node.call("detach", pod=pod)
        elif what == "attach":
            self.made += 1
            pod, addresses = f"pod{self.made}", []
            for each in r.sample(sorted(self.networks), k=min(len(self.networks), r.randint(1, 2))):
                network = self.network(each)
                ip = f"10.72.{each * 64 + 1}.{1 + self.made % 62}"
                if any(ip == known for p in self.pods.values() for _, known, _ in p):
                    return
                addresses.append((network.id, ip, network.subnet))
                if network.subnet6:
                    addresses.append((network.id, ipam.address6(ip, network.subnet6, 1), network.subnet6))
            node.call("attach", pod=pod, addresses=addresses)
            self.pods[pod] = tuple(addresses)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Child, str]]:
    name = f"ovc{os.getpid()}"
    sh("ip", "netns", "add", name)
    child = None
    try:
        sh("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "far0")
        sh("ip", "-n", name, "addr", "add", "10.9.0.1/24", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        child = Child(Path("/run/netns") / name, tmp_path / "pins", "churn")
        child.call("start")
        yield child, name
    finally:
        if child is not None:
            child.call("stop", teardown=True)
            child.close()
        subprocess.run(["ip", "netns", "del", name], check=False)


def objects(name: str) -> dict[str, list[str]]:
    """Everything of ours in the namespace, as its own tools list it."""
    inside = ("nsenter", f"--net=/run/netns/{name}")
    commands = {
        "links": ("ip", "-o", "link"), "routes": ("ip", "route", "show", "table", "all"),
        "routes6": ("ip", "-6", "route", "show", "table", "all"), "nexthops": ("ip", "nexthop"),
        "rules": ("ip", "rule"), "rules6": ("ip", "-6", "rule"), "neighbours": ("ip", "neigh"),
        "neighbours6": ("ip", "-6", "neigh"), "forwarding": ("bridge", "fdb", "show", "dev", "swx0"),
        "nft": ("nft", "list", "ruleset"),
    }  # fmt: skip
    return {
        what: sorted(line.strip() for line in sh(*inside, *command).splitlines())
        for what, command in commands.items()
    }


def settled(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without interface numbers, which grow."""
    links = [line.split(": ", 1)[1].split(" qlen")[0] for line in found["links"]]
    return {**found, "links": links}


@pytest.mark.timeout(120 + 2 * STEPS)
def test_random_churn_leaves_the_kernel_as_wanted_and_nothing_behind(node: tuple[Child, str]) -> None:
    child, name = node
    world = World(SEED)
    base = dataclasses.asdict(world.wanted())
    # The rules for published ports come with the first one and stay: connections through them may go on.
    port = Service("first", (), (PortMap("tcp", 7999, 80, "ingress"),), ())
    child.call("apply", wanted={**base, "services": [dataclasses.asdict(port)]})
    child.call("apply", wanted=base)
    before = settled(objects(name))
    for step in range(STEPS):
        world.change(child)
        child.call("apply", wanted=dataclasses.asdict(world.wanted()))
        if step % 10 == 9:
            assert child.call("verify") == [], f"seed {SEED}, step {step}"
            assert set(child.call("pods")) == set(world.pods)
    for pod in world.pods:
        child.call("detach", pod=pod)
    # A change of the node's MTU looks at everything: balancing chains of single changes go then, too.
    child.call("apply", wanted={**base, "mtu": 1440})
    child.call("apply", wanted=base)
    assert child.call("verify") == []
    assert settled(objects(name)) == before
