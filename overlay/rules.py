"""Everything the kernel should hold for a `Wanted`, as one comparable value. Pure.

`desired` turns what is wanted into a `State`: nexthops, routes, neighbours, forwarding entries, routing rules
and nftables elements. `plane` reads the same value from the kernel and sends the difference. The static rules
are a text (`skeleton`), loaded once; a chain named after its hash tells whether the kernel has it.

Theory of the paths (index = node number, mark = 0x53000000 + index)
  pod → pod      veth, route of the other node's block, nexthop on swx0; the sender's side checks the
                 networks, the receiver trusts a source only from the MAC of the node whose block it is in.
  pod → VIP      prerouting changes the destination; the forward rules then see the real backend.
  client → port  any node: destination changed, source kept. The backend's node marks the connection with the
                 node it came through (by MAC) and routes replies back there by that mark.
  nobody there   a node's own blocks are routed to `lo`, where the forward chain answers with a reset: a
                 connection to a pod that is gone fails at once instead of hanging.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from swarmpy.overlay import ingress, ipam, netlink, nfcodec, policy
from swarmpy.overlay.netlink import Route, Rule
from swarmpy.overlay.nfcodec import Elements, Set
from swarmpy.overlay.wanted import Node, Wanted

DNS_ADDRESS = "169.254.1.53"
GATEWAY_ADDRESS, GATEWAY_MAC = "169.254.1.1", "ee:ee:ee:ee:ee:ee"
DEVICE, VETH_PREFIX, LINK_GROUP, VNI = "swx0", "swv", 21335, 83
FILTER_TABLE, BALANCE_TABLE = "swarmpy", "swarmpy-lb"
MARK, MARK_MASK = 0x53000000, 0xFF000000
RULE_SKIP, RULE_MARK, RULE_END = 8300, 8301, 8302
LOOPBACK_INDEX = 1

INET, IPV4 = nfcodec.NFPROTO_INET, nfcodec.NFPROTO_IPV4
SETS: dict[str, Set] = {
    "nodes": Set("nodes", INET, FILTER_TABLE),
    "vtep": Set("vtep", INET, FILTER_TABLE),
    "vtep_source": Set("vtep_source", INET, FILTER_TABLE, interval=True),
    "net_pair": Set("net_pair", INET, FILTER_TABLE, interval=True),
    "internal": Set("internal", INET, FILTER_TABLE, interval=True),
    "peers": Set("peers", IPV4, BALANCE_TABLE),
    "hairpin": Set("hairpin", IPV4, BALANCE_TABLE),
    "other_net": Set("other_net", IPV4, BALANCE_TABLE, interval=True),
    **{name: Set(name, IPV4, BALANCE_TABLE) for maps in ingress.MAPS for name in maps[:2]},
    **policy.sets(INET, FILTER_TABLE),
}

# (network id, address, subnet) of every address of a pod, by pod
PodAddresses = Mapping[str, tuple[tuple[str, str, str], ...]]


@dataclass(frozen=True)
class State:
    """What we keep in one namespace's kernel, besides links and what belongs to single pods."""

    nexthops: dict[int, str] = field(default_factory=dict)
    routes: dict[tuple[int, str], Route] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    forwarding: dict[str, str] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()
    sets: dict[str, Elements] = field(default_factory=dict)
    chains: frozenset[str] = frozenset()


def desired(wanted: Wanted, pods: PodAddresses, device: int, previous: Mapping[str, Elements]) -> State:
    """The state for `wanted`; `device` is swx0's link index, `previous` the elements there are now."""
    own = ipam.node_address(wanted.this_node.index, wanted.cluster_cidr)
    others = [node for node in wanted.nodes if node.id != wanted.self_id]
    overlay = {node.id: ipam.node_address(node.index, wanted.cluster_cidr) for node in wanted.nodes}
    numbers = {node.id: MARK + node.index for node in others}
    macs = {node.id: ipam.node_mac(node.index) for node in wanted.nodes}
    routes = [Route(netlink.TABLE_MAIN, str(wanted.cluster_cidr), device=device, source=own)]
    routes += [
        Route(numbers[node.id], "0.0.0.0/0", device=device, gateway=overlay[node.id]) for node in others
    ]
    for network in wanted.networks:
        for node_id, block in network.blocks:
            if node_id == wanted.self_id:
                routes.append(Route(netlink.TABLE_MAIN, block, device=LOOPBACK_INDEX))
            elif node_id in numbers:
                routes.append(Route(netlink.TABLE_MAIN, block, nexthop=numbers[node_id], source=own))
    rules = {
        Rule(RULE_MARK, netlink.RULE_TO_TABLE, number, number, 0xFFFFFFFF) for number in numbers.values()
    }
    rules.add(Rule(RULE_SKIP, netlink.RULE_GOTO, RULE_END, MARK, MARK_MASK, invert=True))
    rules.add(Rule(RULE_END, netlink.RULE_NOP))
    sets = desired_sets(wanted, pods, overlay, macs, dict(previous))
    return State(
        nexthops={numbers[node.id]: overlay[node.id] for node in others},
        routes={route.key: route for route in routes},
        neighbours={overlay[node.id]: macs[node.id] for node in others},
        forwarding={macs[node.id]: node.underlay for node in others},
        rules=frozenset(rules),
        sets=sets,
        chains=chains_of(sets),
    )


def desired_sets(
    wanted: Wanted,
    pods: PodAddresses,
    overlay: dict[str, str],
    macs: dict[str, str],
    previous: dict[str, Elements],
) -> dict[str, Elements]:
    sets: dict[str, Elements] = {name: {} for name in SETS}
    sets.update(ingress.build(wanted, previous))
    for node in wanted.nodes:
        for address in filter(ingress.is_ipv4, (node.underlay, node.address)):
            sets["nodes"][nfcodec.address(address)] = sets["peers"][nfcodec.address(address)] = None
        if node.id != wanted.self_id:
            add_endpoint(sets, wanted, node, overlay[node.id], macs[node.id])
    for network in wanted.networks:
        low, high = nfcodec.ends(network.subnet)
        sets["net_pair"][low + low + high + high] = None
        if network.internal:
            everything = nfcodec.ends("0.0.0.0/0")
            sets["internal"][low + everything[0] + high + everything[1]] = None
    for service in wanted.services:
        for backend in service.backends:
            if backend.node_id == wanted.self_id:
                sets["hairpin"].update({nfcodec.address(ip) * 2: None for _, ip in backend.addresses})
    for _, _, address, _, _ in wanted.host_ports:
        sets["hairpin"][nfcodec.address(address) * 2] = None
    for addresses in pods.values():
        add_other_networks(sets, addresses)
    sets.update(policy.build(wanted, pods))
    return sets


def add_endpoint(sets: dict[str, Elements], wanted: Wanted, node: Node, overlay: str, mac: str) -> None:
    """Which sources another node's VXLAN endpoint may send, and its mark."""
    ether = nfcodec.ether(mac)
    sets["vtep"][netlink.mac_bytes(mac)] = nfcodec.number(MARK + node.index)
    blocks = [block for network in wanted.networks for owner, block in network.blocks if owner == node.id]
    for prefix in (f"{overlay}/32", *blocks):
        low, high = nfcodec.ends(prefix)
        sets["vtep_source"][ether + low + ether + high] = None


def add_other_networks(sets: dict[str, Elements], addresses: tuple[tuple[str, str, str], ...]) -> None:
    """A pod of several networks may reach each of them from any of its addresses; the source is put right."""
    for network_id, address, _ in addresses:
        source = nfcodec.address(address)
        for other_id, other, subnet in addresses:
            if other_id != network_id:
                low, high = nfcodec.ends(subnet)
                sets["net_pair"][source + low + source + high] = None
                sets["other_net"][source + low + source + high] = nfcodec.address(other)


def chains_of(sets: Mapping[str, Elements]) -> frozenset[str]:
    """The balancing chains that the verdicts go to."""
    verdicts = (data for name, _, _ in ingress.MAPS for data in sets[name].values())
    return frozenset(data for data in verdicts if isinstance(data, str) and data != ingress.REFUSE)


def skeleton_parts(wanted: Wanted) -> dict[str, str]:
    index = wanted.this_node.index
    parts = {
        "CLUSTER": wanted.cluster_cidr,
        "PORT": str(wanted.vxlan_port),
        "NODE": ipam.node_address(index, wanted.cluster_cidr),
        "DNS": DNS_ADDRESS,
    }
    text = FILTER_SKELETON + BALANCE_SKELETON
    parts["HASH"] = hashlib.sha256(f"{sorted(parts.items())}{text}".encode()).hexdigest()[:12]
    return parts


def skeleton_mark(wanted: Wanted) -> str:
    """The name of the empty chain that says which skeleton is loaded."""
    return "made_" + skeleton_parts(wanted)["HASH"]


def static_chains(wanted: Wanted) -> set[str]:
    """The names of the chains of both tables that are loaded once."""
    return set(re.findall(r"^ *chain (\w+) ", skeleton(wanted), re.MULTILINE))


def skeleton(wanted: Wanted) -> str:
    """Both tables, replacing what was there, as one `nft -f` transaction."""
    text = FILTER_SKELETON + BALANCE_SKELETON
    for name, value in skeleton_parts(wanted).items():
        text = text.replace(f"@{name}@", value)
    return teardown_text() + text


def teardown_text() -> str:
    """Removes both tables, whether they are there or not."""
    names = (f"inet {FILTER_TABLE}", f"ip {BALANCE_TABLE}")
    return "".join(f"add table {name}\ndelete table {name}\n" for name in names)


FILTER_SKELETON = """
table inet swarmpy {
  set nodes { type ipv4_addr; }
  map vtep { type ether_addr : mark; }
  set vtep_source { type ether_addr . ipv4_addr; flags interval; }
  set net_pair { type ipv4_addr . ipv4_addr; flags interval; }
  set internal { type ipv4_addr . ipv4_addr; flags interval; }
  map policy_in { type ipv4_addr : mark; }
  map policy_out { type ipv4_addr : mark; }
  set policy_any { type mark . ipv4_addr; flags interval; }
  set policy_port { type mark . ipv4_addr . inet_proto . inet_service; flags interval; }
  set policy_self { type ipv4_addr . ipv4_addr; }
  set overlay_nodes { type ipv4_addr; }
  set dns_rate { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 10s; }
  chain made_@HASH@ { }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iifname "lo" accept
    iifname "swv*" jump raw_pod
    iifname "swx0" jump raw_vxlan
    ip saddr 127.0.0.0/8 drop
    ip daddr 127.0.0.0/8 drop
    ip saddr @CLUSTER@ drop
    udp dport @PORT@ ip saddr @nodes notrack accept
    udp dport @PORT@ fib daddr type local drop
  }
  chain raw_pod {
    meta nfproto ipv6 drop
    fib saddr . iif oif eq 0 drop
    ip daddr 127.0.0.0/8 drop
    udp dport @PORT@ fib daddr type local drop
    accept
  }
  chain raw_vxlan {
    meta nfproto ipv6 drop
    ip daddr 127.0.0.0/8 drop
    ip saddr 127.0.0.0/8 drop
    ip saddr @CLUSTER@ ether saddr . ip saddr != @vtep_source drop
    udp dport @PORT@ fib daddr type local drop
    accept
  }
  chain raw_output {
    type filter hook output priority raw; policy accept;
    udp dport @PORT@ ip daddr @nodes notrack
  }
  chain mark_in {
    type filter hook prerouting priority mangle; policy accept;
    iifname "swx0" ct state new ip saddr != @CLUSTER@ ct mark set ether saddr map @vtep
    iifname "swv*" ct direction reply ct mark & 0xff000000 == 0x53000000 meta mark set ct mark
  }
  chain mark_own {
    type route hook output priority mangle; policy accept;
    ip saddr @CLUSTER@ ct direction reply ct mark & 0xff000000 == 0x53000000 meta mark set ct mark
  }
  chain mark_out {
    type filter hook postrouting priority mangle; policy accept;
    oifname "swx0" meta mark set 0
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "swv*" jump input_pod
    iifname "swx0" jump input_vxlan
  }
  chain input_pod {
    ip daddr @DNS@ udp dport 53 update @dns_rate { ip saddr limit rate over 20000/second burst 20000 packets } drop
    ct state established,related accept
    ip daddr @DNS@ udp dport 53 accept
    ip daddr @DNS@ tcp dport 53 accept
    icmp type echo-request accept
    jump refuse
  }
  chain input_vxlan {
    ct state established,related accept
    icmp type echo-request accept
    jump refuse
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    oifname "lo" jump refuse
    ct state established,related accept
    jump policies
    iifname "swv*" jump forward_pod
    iifname "swx0" jump forward_vxlan
    oifname "swv*" ct status dnat accept
    oifname "swv*" drop
    oifname "swx0" ct status dnat accept
    oifname "swx0" drop
  }
  chain policies {
    ip saddr . ip daddr @policy_self return
    iifname "swv*" ip saddr @policy_out jump policy_out
    oifname "swv*" ip daddr @policy_in jump policy_in
  }
  chain policy_out {
    meta mark set ip saddr map @policy_out
    meta mark . ip daddr @policy_any goto policy_ok
    meta mark . ip daddr . meta l4proto . th dport @policy_port goto policy_ok
    jump refuse
  }
  chain policy_in {
    ip saddr @overlay_nodes return
    meta mark set ip daddr map @policy_in
    meta mark . ip saddr @policy_any goto policy_ok
    meta mark . ip saddr . meta l4proto . th dport @policy_port goto policy_ok
    jump refuse
  }
  chain policy_ok {
    meta mark set 0
  }
  chain forward_pod {
    ct state invalid drop
    ip saddr . ip daddr @net_pair accept
    ip saddr . ip daddr @internal jump refuse
    ct status dnat ct original ip daddr @nodes accept
    ip daddr @CLUSTER@ jump refuse
    ip daddr @nodes jump refuse
    accept
  }
  chain forward_vxlan {
    ct state invalid drop
    oifname "swv*" accept
    drop
  }
  chain output {
    type filter hook output priority filter; policy accept;
    ct status dnat accept
    oifname "lo" ip daddr @CLUSTER@ ip daddr != @NODE@ jump refuse
  }
}
"""

BALANCE_SKELETON = """
table ip swarmpy-lb {
  set peers { type ipv4_addr; }
  set hairpin { type ipv4_addr . ipv4_addr; }
  map other_net { type ipv4_addr . ipv4_addr : ipv4_addr; flags interval; }
  map vip { type ipv4_addr : verdict; }
  map vep { typeof ip daddr . numgen random mod 2 : ip daddr; }
  map port { type inet_proto . inet_service : verdict; }
  map pep { typeof meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport; }
  map bound { type ipv4_addr . inet_proto . inet_service : verdict; }
  map bep { typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport; }
  chain made_@HASH@ { }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject
  }
  chain published {
    ip daddr . meta l4proto . th dport vmap @bound
    meta l4proto . th dport vmap @port
  }
  chain before {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "swx0" return
    iifname "swv*" ip daddr vmap @vip
    ip daddr @DNS@ return
    fib daddr type local jump published
    iifname "swv*" ip daddr @peers meta l4proto . th dport vmap @port
  }
  chain own {
    type nat hook output priority -100; policy accept;
    ip daddr vmap @vip
    ip daddr @DNS@ return
    fib daddr type local jump published
  }
  chain after {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpin snat to @NODE@
    oifname "swv*" ip saddr 127.0.0.0/8 snat to @NODE@
    oifname "swx0" ip saddr 127.0.0.0/8 snat to @NODE@
    oifname "swx0" ip saddr @peers snat to @NODE@
    snat ip to ip saddr . ip daddr map @other_net
    oifname != "swx0" oifname != "swv*" ip saddr @CLUSTER@ ip daddr != @CLUSTER@ masquerade
  }
}
"""
