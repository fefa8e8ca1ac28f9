"""The static nftables rules of a node, as text: loaded once, marked by their hash. Pure.

The filter table serves both families. The balancing rules of IPv6 are those of IPv4 with other words. Without
IPv6 in the kernel or the cluster there is no `ip6` table, and pods' IPv6 packets are dropped.

Every packet of a pod meets these chains four times between two nodes, so they are written to cost little: links
are told apart by the number of their group, what has been decided before is let through first, and what only
published ports or encrypted networks need (`OPTIONAL`) is added when the first one comes. What is opened to
virtual addresses is counted (`vip_met`) where the first packet of a connection goes, and only that one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

from swarmpy.overlay import ipam, seal
from swarmpy.overlay.wanted import Service, Wanted

DNS_ADDRESS = "169.254.1.53"
FILTER_TABLE, BALANCE_TABLE = "swarmpy", "swarmpy-lb"
PODS_GROUP, VXLAN_GROUP, TUNNEL_GROUP = 21335, 21336, 21337  # links are told apart by a number, not by a name
GROUPS = (PODS_GROUP, VXLAN_GROUP, TUNNEL_GROUP)
MESH, SEAL = "mesh", "seal"


def parts(wanted: Wanted) -> dict[str, str]:
    index = wanted.this_node.index
    found = {
        "CLUSTER": wanted.cluster_cidr,
        "PORT": str(wanted.vxlan_port),
        "NODE": ipam.node_address(index, wanted.cluster_cidr),
        "VIPS": ipam.vips(wanted.cluster_cidr),
        "DNS": DNS_ADDRESS,
        "PODS": str(PODS_GROUP),
        "VXLAN": str(VXLAN_GROUP),
        "SEAL": f"{seal.MARK:#x}",
        "MASK": f"{seal.MASK:#x}",
    }
    if wanted.prefix6:
        found |= {"CLUSTER6": wanted.prefix6, "NODE6": ipam.node_address6(index, wanted.prefix6)}
        found["VIPS6"] = ipam.vips6(wanted.cluster_cidr, wanted.prefix6)
    text = template(wanted) + "".join(OPTIONAL.values())
    found["HASH"] = hashlib.sha256(f"{sorted(found.items())}{text}".encode()).hexdigest()[:12]
    return found


def for_families(text: str, wanted: Wanted) -> str:
    """Without the lines of families that there are not, and without what marks the others."""
    kept, other = ("6|", "4|") if wanted.prefix6 else ("4|", "6|")
    lines = (line for line in text.splitlines() if not line.lstrip().startswith(other))
    return "\n".join(line.replace(kept, "", 1) for line in lines) + "\n"


def template(wanted: Wanted) -> str:
    """The text with its placeholders, for the families there are."""
    return for_families(FILTER_SKELETON, wanted) + BALANCE_SKELETON + (balance6() if wanted.prefix6 else "")


def balance6() -> str:
    """The balancing rules in IPv6's words. Networks' IPv6 prefixes are always the cluster's."""
    text = BALANCE_SKELETON
    for four, six in WORDS.items():
        text = text.replace(four, six)
    without = ("@DNS@", "daddr @subnets jump", "@subnets masquerade", "set subnets")
    lines = (line for line in text.splitlines() if not any(word in line for word in without))
    return "\n".join(lines).replace(" ip6 daddr . ip6 daddr != @subnets", "") + "\n"


def mark(wanted: Wanted) -> str:
    """The name of the empty chain that says which skeleton is loaded."""
    return "made_" + parts(wanted)["HASH"]


def feature_mark(feature: str) -> str:
    """The name of the empty chain that says that optional rules are loaded."""
    return f"with_{feature}"


def features(wanted: Wanted) -> set[str]:
    """Which optional rules are needed: for published ports that every node has, and for encrypted networks."""
    found = {SEAL} if any(network.seal for network in wanted.networks) else set()
    return found | ({MESH} if any(map(publishes, wanted.services)) else set())


def publishes(service: Service) -> bool:
    """Whether every node has a port of it."""
    return any(port.mode == "ingress" for port in service.ports)


def static_chains(wanted: Wanted, chosen: Collection[str] = ()) -> set[str]:
    """The names of the chains of all tables that are loaded once, or with the optional rules."""
    text = skeleton(wanted) + "".join(OPTIONAL[feature] for feature in sorted(chosen))
    return set(re.findall(r"^ *chain (\w+) ", text, re.MULTILINE))


def skeleton(wanted: Wanted) -> str:
    """The tables, replacing what was there, as one `nft -f` transaction."""
    return teardown_text(ipv6=bool(wanted.prefix6)) + filled(template(wanted), wanted)


def optional(wanted: Wanted, chosen: Collection[str]) -> str:
    """Optional rules, to be added to the tables once."""
    return "".join(filled(for_families(OPTIONAL[feature], wanted), wanted) for feature in sorted(chosen))


def filled(text: str, wanted: Wanted) -> str:
    for name, value in parts(wanted).items():
        text = text.replace(f"@{name}@", value)
    return text


def teardown_text(*, ipv6: bool) -> str:
    """Removes the tables, whether they are there or not."""
    names = [f"inet {FILTER_TABLE}", f"ip {BALANCE_TABLE}", *([f"ip6 {BALANCE_TABLE}"] if ipv6 else [])]
    return "".join(f"add table {name}\ndelete table {name}\n" for name in names)


WORDS = {
    "table ip ": "table ip6 ",
    "ipv4_addr": "ipv6_addr",
    "ip daddr": "ip6 daddr",
    "ip saddr": "ip6 saddr",
    "snat ip to": "snat ip6 to",
    "@CLUSTER@": "@CLUSTER6@",
    "@NODE@": "@NODE6@",
    "@VIPS@": "@VIPS6@",
    "127.0.0.0/8": "::1",
}


FILTER_SKELETON = """
table inet swarmpy {
  set nodes { type ipv4_addr; }
  map vtep { type ether_addr : mark; }
  set vtep_source { type ether_addr . ipv4_addr; flags interval; }
  set net_pair { type ipv4_addr . ipv4_addr; flags interval; }
  set internal { type ipv4_addr . ipv4_addr; flags interval; }
  map policy_in { type ipv4_addr : mark; }
  map policy_out { type ipv4_addr : mark; }
  set selected_in { type ipv4_addr; }
  set selected_out { type ipv4_addr; }
  set policy_any { type mark . ipv4_addr; flags interval; }
  set policy_port { type mark . ipv4_addr . inet_proto . inet_service; flags interval; }
  set policy_self { type ipv4_addr . ipv4_addr; }
  set overlay_nodes { type ipv4_addr; }
  set sealed { type ipv4_addr . ipv4_addr; flags interval; }
  set seal_nodes { type ipv4_addr; }
  set direct_source { type ether_addr . ipv4_addr; flags interval; }
  set subnets { type ipv4_addr . ipv4_addr; flags interval; }
  set dns_rate { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 10s; }
  6|set nodes6 { type ipv6_addr; }
  6|set own_block6 { type ipv6_addr; }
  6|set vtep_source6 { type ether_addr . ipv6_addr; flags interval; }
  6|set net_pair6 { type ipv6_addr . ipv6_addr; flags interval; }
  6|set internal6 { type ipv6_addr . ipv6_addr; flags interval; }
  6|map policy_in6 { type ipv6_addr : mark; }
  6|map policy_out6 { type ipv6_addr : mark; }
  6|set selected_in6 { type ipv6_addr; }
  6|set selected_out6 { type ipv6_addr; }
  6|set policy_any6 { type mark . ipv6_addr; flags interval; }
  6|set policy_port6 { type mark . ipv6_addr . inet_proto . inet_service; flags interval; }
  6|set policy_self6 { type ipv6_addr . ipv6_addr; }
  6|set overlay_nodes6 { type ipv6_addr; }
  6|set sealed6 { type ipv6_addr . ipv6_addr; flags interval; }
  chain made_@HASH@ { }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }
  chain raw_seal { }
  chain raw_clear { }
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iif "lo" accept
    iifgroup @PODS@ goto raw_pod
    iifgroup @VXLAN@ goto raw_vxlan
    jump raw_seal
    udp dport @PORT@ ip saddr @nodes notrack accept
    ip saddr 127.0.0.0/8 drop
    ip daddr 127.0.0.0/8 drop
    ip saddr @CLUSTER@ goto raw_direct
    ip saddr . ip saddr @subnets goto raw_direct
    6|ip6 saddr @CLUSTER6@ drop
    udp dport @PORT@ fib daddr type local drop
  }
  chain raw_pod {
    4|meta nfproto ipv6 drop
    6|icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } drop
    6|ip6 saddr { ::, ::1, fe80::/10, ff00::/8 } drop
    fib saddr . iif oif eq 0 drop
    ip daddr 127.0.0.0/8 drop
    udp dport @PORT@ fib daddr type local drop
  }
  chain raw_direct {
    ether saddr . ip saddr != @direct_source drop
    udp dport @PORT@ fib daddr type local drop
    jump raw_clear
  }
  chain raw_vxlan {
    4|meta nfproto ipv6 drop
    meta mark & @MASK@ != @SEAL@ jump raw_clear
    meta mark set 0
    6|icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } drop
    6|ip6 saddr { ::, ::1, fe80::/10, ff00::/8 } drop
    6|ip6 saddr @CLUSTER6@ ether saddr . ip6 saddr != @vtep_source6 drop
    udp dport @PORT@ fib daddr type local drop
    ip daddr 127.0.0.0/8 drop
    ip saddr @CLUSTER@ goto raw_source
    ip saddr . ip saddr @subnets goto raw_source
    ip saddr 127.0.0.0/8 drop
  }
  chain raw_source {
    ether saddr . ip saddr != @vtep_source drop
  }
  chain raw_output {
    type filter hook output priority raw; policy accept;
    udp dport @PORT@ ip daddr @nodes notrack
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iif "lo" accept
    iifgroup @PODS@ goto input_pod
    iifgroup @VXLAN@ goto input_vxlan
    ip saddr @CLUSTER@ goto input_vxlan
    ip saddr . ip saddr @subnets goto input_vxlan
  }
  chain input_pod {
    ip daddr @DNS@ udp dport 53 update @dns_rate { ip saddr limit rate over 20000/second burst 20000 packets } drop
    ct state established,related accept
    ip daddr @DNS@ udp dport 53 accept
    ip daddr @DNS@ tcp dport 53 accept
    icmp type echo-request accept
    6|icmpv6 type echo-request accept
    jump refuse
  }
  chain input_vxlan {
    ct state established,related accept
    icmp type { echo-request, echo-reply } accept
    6|icmpv6 type echo-request accept
    jump refuse
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    oif "lo" jump refuse
    6|oifgroup @VXLAN@ ip6 daddr & ffff:ffff:ffff:ffff:ffff:ffff:: @own_block6 jump refuse
    ct state established,related accept
    jump policies
    iifgroup @PODS@ goto forward_pod
    iifgroup @VXLAN@ goto forward_vxlan
    oifgroup @PODS@ goto forward_in
    oifgroup @VXLAN@ goto forward_out
    ip daddr @CLUSTER@ goto forward_out
    ip daddr . ip daddr @subnets goto forward_out
  }
  chain policies {
    ip saddr . ip daddr @policy_self return
    iifgroup @PODS@ ip saddr @selected_out jump policy_out
    oifgroup @PODS@ ip daddr @selected_in jump policy_in
    6|ip6 saddr . ip6 daddr @policy_self6 return
    6|iifgroup @PODS@ ip6 saddr @selected_out6 jump policy_out6
    6|oifgroup @PODS@ ip6 daddr @selected_in6 jump policy_in6
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
  6|chain policy_out6 {
    6|meta mark set ip6 saddr map @policy_out6
    6|meta mark . ip6 daddr @policy_any6 goto policy_ok
    6|meta mark . ip6 daddr . meta l4proto . th dport @policy_port6 goto policy_ok
    6|jump refuse
  6|}
  6|chain policy_in6 {
    6|ip6 saddr @overlay_nodes6 return
    6|meta mark set ip6 daddr map @policy_in6
    6|meta mark . ip6 saddr @policy_any6 goto policy_ok
    6|meta mark . ip6 saddr . meta l4proto . th dport @policy_port6 goto policy_ok
    6|jump refuse
  6|}
  chain policy_ok {
    meta mark set 0
  }
  chain forward_pod {
    ct state invalid drop
    ip saddr . ip daddr @net_pair accept
    6|ip6 saddr . ip6 daddr @net_pair6 accept
    ip saddr . ip daddr @internal jump refuse
    6|ip6 saddr . ip6 daddr @internal6 jump refuse
    ct status dnat ct original ip daddr @nodes accept
    6|ct status dnat ct original ip6 daddr @nodes6 accept
    ip daddr @CLUSTER@ jump refuse
    ip daddr . ip daddr @subnets jump refuse
    6|ip6 daddr @CLUSTER6@ jump refuse
    ip daddr @nodes jump refuse
    6|ip6 daddr @nodes6 jump refuse
    accept
  }
  chain forward_vxlan {
    ct state invalid drop
    oifgroup @PODS@ accept
    drop
  }
  chain forward_in {
    ct state invalid drop
    ct status dnat accept
    ct mark & 0xff000000 == 0x53000000 accept
    ip saddr @CLUSTER@ accept
    ip saddr . ip saddr @subnets accept
    drop
  }
  chain forward_out {
    ct status dnat accept
    drop
  }
  chain output {
    type filter hook output priority filter; policy accept;
    icmp type redirect drop
    oif "lo" ip daddr @CLUSTER@ ip daddr != @NODE@ goto output_gone
    oif "lo" ip daddr . ip daddr @subnets goto output_gone
    6|oifgroup @VXLAN@ ip6 daddr & ffff:ffff:ffff:ffff:ffff:ffff:: @own_block6 goto output_gone
  }
  chain output_gone {
    ct status dnat accept
    jump refuse
  }
}
"""

BALANCE_SKELETON = """
table ip swarmpy-lb {
  set peers { type ipv4_addr; }
  set subnets { type ipv4_addr . ipv4_addr; flags interval; }
  set hairpin { type ipv4_addr . ipv4_addr; }
  set udp_led { type ipv4_addr; size 1048576; flags dynamic; }
  set vip_met { type ipv4_addr; size 65536; flags dynamic; }
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
    iifgroup @VXLAN@ return
    iifgroup @PODS@ ip daddr @VIPS@ add @vip_met { ip daddr counter }
    iifgroup @PODS@ ip daddr vmap @vip
    ip daddr @DNS@ return
    fib daddr type local jump published
    iifgroup @PODS@ ip daddr @peers meta l4proto . th dport vmap @port
  }
  chain own {
    type nat hook output priority -100; policy accept;
    ip daddr @VIPS@ add @vip_met { ip daddr counter }
    ip daddr vmap @vip
    ip daddr @DNS@ return
    fib daddr type local jump published
  }
  chain after {
    type nat hook postrouting priority srcnat; policy accept;
    meta l4proto udp ct status dnat add @udp_led { ip daddr }
    ct status dnat ip saddr . ip daddr @hairpin snat to @NODE@
    oifgroup @PODS@ ip saddr 127.0.0.0/8 snat to @NODE@
    oifgroup != @PODS@ ip daddr @CLUSTER@ jump to_node
    oifgroup != @PODS@ ip daddr . ip daddr @subnets jump to_node
    snat ip to ip saddr . ip daddr map @other_net
    oifgroup != @VXLAN@ oifgroup != @PODS@ ip daddr != @CLUSTER@ ip daddr . ip daddr != @subnets jump to_outside
  }
  chain to_node {
    ip saddr 127.0.0.0/8 snat to @NODE@
    ip saddr @peers snat to @NODE@
  }
  chain to_outside {
    ip saddr @CLUSTER@ masquerade
    ip saddr . ip saddr @subnets masquerade
  }
}
"""

# What only some nodes need, for every packet costs something: it is added when it is needed first, and stays.
OPTIONAL = {
    MESH: """
table inet swarmpy {
  chain with_mesh { }
  chain mark_in {
    type filter hook prerouting priority mangle; policy accept;
    ct state new jump mark_new
    iifgroup @PODS@ ct direction reply ct mark & 0xff000000 == 0x53000000 meta mark set ct mark
  }
  chain mark_new {
    iifgroup @PODS@ return
    iifgroup @VXLAN@ goto mark_from
    ip daddr @CLUSTER@ goto mark_from
    ip daddr . ip daddr @subnets goto mark_from
  }
  chain mark_from {
    ip saddr @CLUSTER@ return
    ip saddr . ip saddr @subnets return
    6|ip6 saddr @CLUSTER6@ return
    ct mark set ether saddr map @vtep
  }
  chain mark_own {
    type route hook output priority mangle; policy accept;
    ct direction reply ct mark & 0xff000000 == 0x53000000 jump mark_reply
  }
  chain mark_reply {
    ip saddr @CLUSTER@ meta mark set ct mark
    ip saddr . ip saddr @subnets meta mark set ct mark
    6|ip6 saddr @CLUSTER6@ meta mark set ct mark
  }
  chain mark_out {
    type filter hook postrouting priority mangle; policy accept;
    oifgroup @VXLAN@ meta mark set 0
  }
}
""",
    SEAL: """
table inet swarmpy {
  chain with_seal { }
  chain raw_tunnel {
    udp dport @PORT@ ip saddr @nodes meta mark set @SEAL@ notrack accept
    drop
  }
  chain raw_seal {
    iifname "swwg*" goto raw_tunnel
  }
  chain raw_clear {
    ip saddr . ip saddr @sealed drop
    ip daddr . ip daddr @sealed drop
    6|ip6 saddr . ip6 saddr @sealed6 drop
    6|ip6 daddr . ip6 daddr @sealed6 drop
  }
  chain seal_own {
    type filter hook output priority -301; policy accept;
    meta mark & @MASK@ == @SEAL@ udp dport @PORT@ ip daddr != @seal_nodes drop
  }
  chain seal_out {
    type filter hook postrouting priority -149; policy accept;
    oifgroup @VXLAN@ jump seal_vxlan
  }
  chain seal_vxlan {
    meta mark set 0
    ip saddr . ip saddr @sealed meta mark set @SEAL@
    ip daddr . ip daddr @sealed meta mark set @SEAL@
    6|ip6 saddr . ip6 saddr @sealed6 meta mark set @SEAL@
    6|ip6 daddr . ip6 daddr @sealed6 meta mark set @SEAL@
  }
}
""",
}
