"""Everything the kernel should hold for a `Wanted`, as one comparable value. Pure.

`desired` turns what is wanted into a `State`: nexthops, routes, neighbours, forwarding entries, routing rules
and nftables elements. `plane` reads the same value from the kernel and sends the difference. The static rules
are a text (`skeleton`), loaded once; a chain named after its hash tells whether the kernel has it.
Of IPv6 there is the same once more: sets whose names end in 6, nexthops with numbers of their own.

Theory of the paths (index = node number, mark = 0x53000000 + index)
  pod → pod      veth, route of the other node's block, nexthop on swx0; the sender's side checks the
                 networks, the receiver trusts a source only from the MAC of the node whose block it is in.
  pod → VIP      prerouting changes the destination; the forward rules then see the real backend.
  client → port  any node: destination changed, source kept. The backend's node marks the connection with the
                 node it came through (by MAC) and routes replies back there by that mark. Without a
                 published port there are no such rules: they cost every lookup of an address.
  static address a route of its own leads to the node of its task (by VXLAN, always); the block around it is
                 nobody's, and led to like an own one.
  nobody there   a node's own blocks are routed to `lo`, where the forward chain answers with a reset: a
                 connection to a pod that is gone fails at once instead of hanging. IPv6 routes nothing to `lo`:
                 there the set `own_block6` says so of what would leave by swx0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from swarmpy.overlay import direct, ingress, ipam, netlink, nfcodec, policy, seal
from swarmpy.overlay.direct import Near, halves
from swarmpy.overlay.netlink import Route, Rule
from swarmpy.overlay.nfcodec import Elements, Set
from swarmpy.overlay.skeleton import (
    BALANCE_TABLE,
    DNS_ADDRESS,
    FILTER_TABLE,
    GROUPS,
    MESH,
    PODS_GROUP,
    features,
)
from swarmpy.overlay.wanted import Network, Node, Wanted

__all__ = ["BALANCE_TABLE", "DNS_ADDRESS", "FILTER_TABLE", "GROUPS", "PODS_GROUP", "State", "desired"]

GATEWAY_ADDRESS, GATEWAY_ADDRESS6, GATEWAY_MAC = "169.254.1.1", "fe80::1", "ee:ee:ee:ee:ee:ee"
DEVICE, VETH_PREFIX, VNI = "swx0", "swv", 83
MARK, MARK_MASK = 0x53000000, 0xFF000000
NEXTHOP6 = 0x54000000  # IPv6 nexthops need numbers of their own
RULE_SEAL, RULE_SKIP, RULE_MARK, RULE_END = 8299, 8300, 8301, 8302
LOOPBACK_INDEX = 1

INET, IPV4, IPV6 = nfcodec.NFPROTO_INET, nfcodec.NFPROTO_IPV4, nfcodec.NFPROTO_IPV6
FAMILIES = ((IPV4, ""), (IPV6, "6"))
SETS: dict[str, Set] = {
    "vtep": Set("vtep", INET, FILTER_TABLE),
    "own_block6": Set("own_block6", INET, FILTER_TABLE),
    "seal_nodes": Set("seal_nodes", INET, FILTER_TABLE),
    "direct_source": Set("direct_source", INET, FILTER_TABLE, interval=True),
    "subnets": Set("subnets", INET, FILTER_TABLE, interval=True),
    "outer_subnets": Set("subnets", IPV4, BALANCE_TABLE, interval=True),
}
for _family, _six in FAMILIES:
    SETS |= {
        f"nodes{_six}": Set(f"nodes{_six}", INET, FILTER_TABLE),
        f"vtep_source{_six}": Set(f"vtep_source{_six}", INET, FILTER_TABLE, interval=True),
        f"net_pair{_six}": Set(f"net_pair{_six}", INET, FILTER_TABLE, interval=True),
        f"internal{_six}": Set(f"internal{_six}", INET, FILTER_TABLE, interval=True),
        f"sealed{_six}": Set(f"sealed{_six}", INET, FILTER_TABLE, interval=True),
        f"peers{_six}": Set("peers", _family, BALANCE_TABLE),
        f"hairpin{_six}": Set("hairpin", _family, BALANCE_TABLE),
        f"other_net{_six}": Set("other_net", _family, BALANCE_TABLE, interval=True),
        **{name + _six: Set(name, _family, BALANCE_TABLE) for kind in ingress.KINDS for name in kind[:2]},
        **policy.sets(INET, FILTER_TABLE, _six),
    }
# The kernel itself notes there which backends UDP flows were led to; IPv6's comes second.
VIP_MET = tuple(Set("vip_met", family, BALANCE_TABLE) for family, _ in FAMILIES)  # and counts these there
UDP_LED = tuple(Set("udp_led", family, BALANCE_TABLE) for family, _ in FAMILIES)


def sets_for(wanted: Wanted) -> dict[str, Set]:
    """The sets there are: without IPv6 those of IPv4."""
    return {name: target for name, target in SETS.items() if wanted.prefix6 or not name.endswith("6")}


# (network id, address, subnet) of every address of a pod, by pod
PodAddresses = Mapping[str, tuple[tuple[str, str, str], ...]]


@dataclass(frozen=True)
class State:
    """What we keep in one namespace's kernel, besides links and what belongs to single pods."""

    nexthops: dict[int, str] = field(default_factory=dict)
    direct: dict[int, tuple[int, str]] = field(
        default_factory=dict
    )  # nexthops by another link, which is named
    routes: dict[tuple[int, str], Route] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    forwarding: dict[str, str] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()
    sets: dict[str, Elements] = field(default_factory=dict)
    chains: frozenset[tuple[int, str]] = frozenset()  # family, name


def desired(
    wanted: Wanted,
    pods: PodAddresses,
    device: int,
    previous: Mapping[str, Elements],
    sealed: Collection[str] = (),
    *,
    near: Mapping[str, Near] | None = None,
    mesh: bool | None = None,
) -> State:
    """The state for `wanted`; `device` is swx0's link index, `previous` the elements there are now.

    `sealed` are the addresses of the nodes that there is an encrypted tunnel to, `near` the nodes on this
    node's own segment by id. `mesh`: whether replies find their way by marks; None = if a port is published.
    """
    mesh = MESH in features(wanted) if mesh is None else mesh
    near = near or {}
    others = [node for node in wanted.nodes if node.id != wanted.self_id]
    macs = {node.id: ipam.node_mac(node.index) for node in wanted.nodes}
    families = [six for six in ingress.SUFFIXES if wanted.prefix6 or not six]
    ways = [ways_of(wanted, others, device, six, near, mesh) for six in families]
    sets = desired_sets(wanted, pods, macs, dict(previous)) | near_sets(wanted, near)
    sets["seal_nodes"] = {nfcodec.address(a): None for a in sealed if not ingress.suffix_of(a)}
    overlay = [overlay_addresses(wanted, six) for six in ingress.SUFFIXES if wanted.prefix6 or not six]
    return State(
        nexthops={number: address for way in ways for number, address in way.nexthops.items()},
        direct={number: hop for way in ways for number, hop in way.direct.items()},
        routes={key: route for way in ways for key, route in way.routes.items()},
        neighbours={known[node.id]: macs[node.id] for known in overlay for node in others},
        forwarding={macs[node.id]: node.underlay for node in others},
        rules=frozenset(rule for way in ways for rule in way.rules),
        sets=sets,
        chains=chains_of(sets),
    )


def overlay_addresses(wanted: Wanted, six: str) -> dict[str, str]:
    """Every node's own address in the overlay."""
    if six:
        return {node.id: ipam.node_address6(node.index, wanted.prefix6) for node in wanted.nodes}
    return {node.id: ipam.node_address(node.index, wanted.cluster_cidr) for node in wanted.nodes}


def blocks_of(wanted: Wanted, network: Network, six: str) -> Iterator[tuple[str, str]]:
    """(node, prefix) of the parts of a network that live on nodes; node "" = kept for static addresses."""
    if not six:
        yield from ((owner, block) for owner, block in network.blocks if ":" not in block)
    elif network.subnet6:
        indexes = {node.id: node.index for node in wanted.nodes}
        for node_id in dict.fromkeys(owner for owner, _ in network.blocks if owner in indexes):
            yield node_id, ipam.node_block6(network.subnet6, indexes[node_id])
        yield from ((owner, block) for owner, block in network.blocks if ":" in block)


def ways_of(
    wanted: Wanted, others: list[Node], device: int, six: str, near: Mapping[str, Near], mesh: bool
) -> State:
    """Nexthops, routes and rules of one family."""
    overlay = overlay_addresses(wanted, six)
    own = overlay[wanted.self_id]
    tables = {node.id: MARK + node.index for node in others}
    nexthops = {node.id: (NEXTHOP6 if six else MARK) + node.index for node in others}
    chosen = () if six or not wanted.direct else others
    proven = {node.id: node for node in chosen if node.id in near and near[node.id].proven}
    hops = {node_id: direct.NEXTHOPS + node.index for node_id, node in proven.items()}
    everything, whole = ("::/0", wanted.prefix6) if six else ("0.0.0.0/0", str(wanted.cluster_cidr))
    main = netlink.TABLE_MAIN
    routes = [Route(main, whole, device=device, source=own)]
    if six:
        routes.append(loopback_answers(device))
    if mesh:
        routes += [
            Route(tables[node.id], everything, device=device, gateway=overlay[node.id]) for node in others
        ]
    for network in wanted.networks:
        for node_id, block in blocks_of(wanted, network, six):
            single = block.endswith(("/32", "/128"))  # its pod has a route of its own here
            if node_id in ("", wanted.self_id) and not six and not single:
                routes.append(Route(main, block, device=LOOPBACK_INDEX))
            elif node_id in nexthops:
                routes.append(Route(main, block, nexthop=nexthops[node_id], source=own))
                if node_id in hops and not network.seal and not single:
                    routes += [Route(main, half, nexthop=hops[node_id], source=own) for half in halves(block)]
    return State(
        nexthops={nexthops[node.id]: overlay[node.id] for node in others},
        direct={hops[node_id]: (near[node_id].device, node.underlay) for node_id, node in proven.items()},
        routes={route.key: route for route in routes},
        rules=rules_of(wanted, tables.values(), six, mesh),
    )


def loopback_answers(device: int) -> Route:
    """Lets answers to what was opened to a published port of ::1 in by a link: the kernel wants to be told."""
    return Route(netlink.TABLE_LOCAL, "::1/128", device=device)


def rules_of(wanted: Wanted, tables: Collection[int], six: str, mesh: bool) -> frozenset[Rule]:
    """Routing by marks. A namespace without any such rule looks addresses up in one table instead of two."""
    family = netlink.AF_INET6 if six else netlink.AF_INET
    found = set()
    if mesh:
        found |= {
            Rule(RULE_MARK, netlink.RULE_TO_TABLE, table, table, 0xFFFFFFFF, family=family)
            for table in tables
        }
        found.add(Rule(RULE_SKIP, netlink.RULE_GOTO, RULE_END, MARK, MARK_MASK, invert=True, family=family))
        found.add(Rule(RULE_END, netlink.RULE_NOP, family=family))
    if seal.method_of(wanted) == seal.WIREGUARD and not six:
        found.add(Rule(RULE_SEAL, netlink.RULE_TO_TABLE, seal.TABLE, seal.MARK, seal.MASK))
    return frozenset(found)


def desired_sets(
    wanted: Wanted, pods: PodAddresses, macs: dict[str, str], previous: dict[str, Elements]
) -> dict[str, Elements]:
    sets: dict[str, Elements] = {name: {} for name in SETS}
    sets.update(ingress.build(wanted, previous))
    own = owned_blocks(wanted)
    for node in wanted.nodes:
        for address in filter(is_address, (node.underlay, node.address)):
            six = ingress.suffix_of(address)
            sets["nodes" + six][nfcodec.address(address)] = sets["peers" + six][nfcodec.address(address)] = (
                None
            )
        if node.id != wanted.self_id:
            add_endpoint(sets, macs[node.id], own[node.id])
    for block in own[wanted.self_id]:
        if block.endswith("/96"):
            sets["own_block6"][nfcodec.ends(block)[0]] = None
    for network in wanted.networks:
        for subnet, six in ((network.subnet, ""), (network.subnet6, "6")):
            if subnet:
                low, high = nfcodec.ends(subnet)
                sets["net_pair" + six][low + low + high + high] = None
                if not six and not inside(subnet, wanted.cluster_cidr):
                    sets["subnets"][low * 2 + high * 2] = sets["outer_subnets"][low * 2 + high * 2] = None
                if network.seal:
                    sets["sealed" + six][low * 2 + high * 2] = None  # twice: only joined keys may be ranges
                if network.internal:
                    everything = nfcodec.ends("::/0" if six else "0.0.0.0/0")
                    sets["internal" + six][low + everything[0] + high + everything[1]] = None
    met = [
        ip for service in wanted.services for backend in service.backends if backend.node_id == wanted.self_id
        for _, ip in backend.addresses
    ]  # fmt: skip
    for ip in (*met, *(address for _, _, address, _, _ in wanted.host_ports)):
        sets["hairpin" + ingress.suffix_of(ip)][nfcodec.address(ip) * 2] = None
    for addresses in pods.values():
        add_other_networks(sets, addresses)
    sets.update(policy.build(wanted, pods))
    return sets


def is_address(text: str) -> bool:
    try:
        nfcodec.address(text)
    except ValueError:
        return False
    return True


def owned_blocks(wanted: Wanted) -> dict[str, list[str]]:
    """By node: its own addresses and its blocks, of both families."""
    owned: dict[str, list[str]] = {node.id: [] for node in wanted.nodes}
    for six in ingress.SUFFIXES if wanted.prefix6 else ingress.SUFFIXES[:1]:
        for node_id, address in overlay_addresses(wanted, six).items():
            owned[node_id].append(f"{address}/{128 if six else 32}")
        for network in wanted.networks:
            for node_id, block in blocks_of(wanted, network, six):
                if node_id in owned:
                    owned[node_id].append(block)
    return owned


def add_endpoint(sets: dict[str, Elements], mac: str, sources: list[str]) -> None:
    """Which sources another node's VXLAN endpoint may send."""
    ether = nfcodec.ether(mac)
    for prefix in sources:
        low, high = nfcodec.ends(prefix)
        sets["vtep_source" + ingress.suffix_of(prefix)][ether + low + ether + high] = None


def inside(subnet: str, whole: str) -> bool:
    low, high = nfcodec.ends(subnet)
    first, last = nfcodec.ends(whole)
    return first <= low and high <= last


def near_sets(wanted: Wanted, near: Mapping[str, Near]) -> dict[str, Elements]:
    """What nodes on the same segment may send without VXLAN, and the marks of all by their MACs.

    Nothing of an encrypted network is among it.
    """
    vtep: Elements = {}
    sources: Elements = {}
    owned: dict[str, list[str]] = {}
    for network in wanted.networks:
        for owner, block in () if network.seal else blocks_of(wanted, network, ""):
            owned.setdefault(owner, []).append(block)
    for node in wanted.nodes:
        if node.id == wanted.self_id:
            continue
        macs = [ipam.node_mac(node.index)]
        if node.id in near:
            macs.append(near[node.id].mac)
            ether = nfcodec.ether(near[node.id].mac)
            overlay = ipam.node_address(node.index, wanted.cluster_cidr)
            for prefix in (f"{overlay}/32", *owned.get(node.id, ())):
                low, high = nfcodec.ends(prefix)
                sources[ether + low + ether + high] = None
        vtep |= {netlink.mac_bytes(mac): nfcodec.number(MARK + node.index) for mac in macs}
    return {"vtep": vtep, "direct_source": sources}


def with_near(state: State, wanted: Wanted, device: int, near: Mapping[str, Near], *, mesh: bool) -> State:
    """`state` with other nodes on the same segment; the rest is as it was for the same `wanted`."""
    others = [node for node in wanted.nodes if node.id != wanted.self_id]
    ways = [
        ways_of(wanted, others, device, six, near, mesh)
        for six in ingress.SUFFIXES
        if wanted.prefix6 or not six
    ]
    return replace(
        state, sets=state.sets | near_sets(wanted, near),
        direct={number: hop for way in ways for number, hop in way.direct.items()},
        routes={key: route for way in ways for key, route in way.routes.items()},
    )  # fmt: skip


def add_other_networks(sets: dict[str, Elements], addresses: tuple[tuple[str, str, str], ...]) -> None:
    """A pod of several networks may reach each of them from any of its addresses; the source is put right."""
    for network_id, address, _ in addresses:
        source, six = nfcodec.address(address), ingress.suffix_of(address)
        for other_id, other, subnet in addresses:
            if other_id != network_id and ingress.suffix_of(other) == six:
                low, high = nfcodec.ends(subnet)
                sets["net_pair" + six][source + low + source + high] = None
                sets["other_net" + six][source + low + source + high] = nfcodec.address(other)


def chains_of(sets: Mapping[str, Elements]) -> frozenset[tuple[int, str]]:
    """The balancing chains that the verdicts go to."""
    return frozenset(
        (IPV6 if name.endswith("6") else IPV4, data)
        for name, _, _ in ingress.MAPS
        for data in sets[name].values()
        if isinstance(data, str) and data != ingress.REFUSE
    )
