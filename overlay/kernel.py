"""The kernel's side of `rules.State`: read it, and send the difference between two.

Order of a change: first what makes new things reachable (forwarding entries to routes), then one nftables
transaction, then what is no longer used. Between these steps every packet has either its old or its new way.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

from swarmpy.overlay import ingress, ipam, netlink, nfcodec, rules, skeleton
from swarmpy.overlay.errors import KernelRefused, OverlayError
from swarmpy.overlay.links import Socket, links, route_socket
from swarmpy.overlay.netlink import Message
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.nft import Nft
from swarmpy.overlay.rules import State
from swarmpy.overlay.wanted import Wanted

__all__ = ["Kernel", "OverlayError", "differences"]

NO_IPV6 = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
SYSCTL = Path("/proc/sys/net/ipv4")
FINGERPRINT = "rules_"
BALANCING_CHAIN = re.compile(r"[vpb]h?[0-9]+")
SYSCTL6 = Path("/proc/sys/net/ipv6")
PROBE6 = """add table ip6 swarmpy-probe
add chain ip6 swarmpy-probe c { type nat hook prerouting priority dstnat; }
delete table ip6 swarmpy-probe
"""


class Kernel:
    """Sockets and operations of one namespace, for one thread."""

    def __init__(self) -> None:
        self.route: Socket = route_socket()
        self.nft = Nft()
        self.ipv6 = False  # known after `check`

    def close(self) -> None:
        self.route.close()
        self.nft.close()

    def check(self, tag: str) -> None:
        """OverlayError when the kernel or a program lacks what the overlay needs."""
        name = f"swp{tag[:8]}"
        probes = {
            "vxlan": netlink.vxlan(name, 1, "127.0.0.1", 1, "0a:53:57:ff:ff:ff", 1400, 0),
            "veth": netlink.veth(name, "0a:53:57:ff:ff:fe", 1400, 0, (name + "p", "0a:53:57:ff:ff:fd", None)),
        }
        for module, probe in probes.items():
            try:
                self.route.send([netlink.link_delete(name)], ignore=GONE)
                self.route.send([probe])
            except KernelRefused as error:
                if error.errno == errno.EPERM:
                    raise OverlayError(
                        "the overlay network needs root (CAP_NET_ADMIN): run as root"
                    ) from None
                raise OverlayError(
                    f"this kernel has no {module} ({error}): load the module with `modprobe {module}` "
                    "or use a kernel that has it"
                ) from None
            finally:
                self.route.send([netlink.link_delete(name)], ignore=(*GONE, errno.EPERM))
        self.nft.load("add table ip swarmpy-probe\ndelete table ip swarmpy-probe\n")
        self.ipv6 = SYSCTL6.is_dir() and self._has_nat6()

    def _has_nat6(self) -> bool:
        """A kernel may have IPv6 without rules for it: then pods have none."""
        try:
            self.nft.load(PROBE6)
        except OverlayError:
            return False
        return True

    def forward_ipv6(self) -> None:
        """Let the node route IPv6. A default route that it learnt from a router must survive that."""
        for path in sorted((SYSCTL6 / "conf").iterdir()):
            if (path / "accept_ra").is_file() and (path / "accept_ra").read_text().strip() == "1":
                set_sysctl(f"conf/{path.name}/accept_ra", 2, SYSCTL6)
        set_sysctl("conf/all/forwarding", 1, SYSCTL6)

    def prepare_host(self) -> None:
        """The node's resolver address, forwarding, and published ports on loopback addresses."""
        self.route.send(
            [
                netlink.link_up(rules.LOOPBACK_INDEX, "lo"),
                netlink.address_add(rules.LOOPBACK_INDEX, rules.DNS_ADDRESS, netlink.SCOPE_HOST),
            ]
        )
        set_sysctl("ip_forward", 1)
        set_sysctl("conf/all/route_localnet", 1)
        strict = int((SYSCTL / "conf/all/rp_filter").read_text())
        if strict:  # the maximum of `all` and the device counts: move it to the devices, swx0 needs 0
            for path in sorted((SYSCTL / "conf").iterdir()):
                if path.name not in {"all", rules.DEVICE}:
                    set_sysctl(
                        f"conf/{path.name}/rp_filter", max(strict, int((path / "rp_filter").read_text()))
                    )
            set_sysctl("conf/all/rp_filter", 0)

    def ensure_device(self, wanted: Wanted) -> tuple[int, bool]:
        """swx0 as wanted: (its index, whether it was made new)."""
        node = wanted.this_node
        mac = ipam.node_mac(node.index)
        found = links(self.route).get(rules.DEVICE)
        made = False
        if found is not None and (
            found.vxlan != (rules.VNI, node.underlay, wanted.vxlan_port) or found.mac != mac
        ):
            if found.group not in rules.GROUPS:
                raise OverlayError(f"a link {rules.DEVICE} exists and is not ours: remove or rename it")
            self.route.send([netlink.link_delete(rules.DEVICE)])
            found = None
        if found is None:
            self.route.send(
                [
                    netlink.vxlan(
                        rules.DEVICE, rules.VNI, node.underlay, wanted.vxlan_port, mac, wanted.mtu,
                        skeleton.VXLAN_GROUP,
                    )
                ]
            )  # fmt: skip
            found = links(self.route)[rules.DEVICE]
            made = True
        self.route.send([netlink.no_link_local(found.index, rules.DEVICE)], ignore=NO_IPV6)
        set_sysctl(f"conf/{rules.DEVICE}/rp_filter", 0)
        set_sysctl(f"conf/{rules.DEVICE}/send_redirects", 0)
        overlay = ipam.node_address(node.index, wanted.cluster_cidr)
        messages = [
            netlink.address_add(found.index, overlay),
            netlink.link_up(found.index, rules.DEVICE, wanted.mtu, group=skeleton.VXLAN_GROUP),
        ]
        if wanted.prefix6:
            messages.append(netlink.address_add(found.index, ipam.node_address6(node.index, wanted.prefix6)))
        self.route.send(messages)
        return found.index, made

    def ensure_skeleton(self, wanted: Wanted) -> set[str]:
        """Load the static rules unless exactly these are there, and the optional ones; which of these there are.

        Optional rules stay when they are not needed any more: what began with them may go on.
        """
        there = self.features()
        chosen = there | skeleton.features(wanted)
        if self.skeleton_problems(wanted):
            found = links(self.route).get(rules.DEVICE)
            if found is not None and found.group != skeleton.VXLAN_GROUP and found.group in rules.GROUPS:
                group = netlink.link_group(found.index, rules.DEVICE, skeleton.VXLAN_GROUP)
                self.route.send([group])  # made before rules went by groups
            self.nft.load(skeleton.skeleton(wanted) + skeleton.optional(wanted, chosen))
            self._note_udp(wanted)
        elif chosen > there:
            self.nft.load(skeleton.optional(wanted, chosen - there))
        else:
            return chosen
        for family, table, chain in self.nft.all_chains():
            if chain.startswith(FINGERPRINT):
                self.nft.drop_chain(family, table, chain)
        self.nft.mark(rules.INET, rules.FILTER_TABLE, self._fingerprint(wanted))
        return chosen

    def features(self) -> set[str]:
        """The optional rules that are loaded."""
        chains = {chain for table, chain in self.nft.chains() if table == rules.FILTER_TABLE}
        return {feature for feature in skeleton.OPTIONAL if skeleton.feature_mark(feature) in chains}

    def _note_udp(self, wanted: Wanted) -> None:
        """The new tables know nothing of the UDP flows that the old ones led."""
        led = {entry.reply[0] for entry in self.nft.connections() if entry.is_led_udp}
        for target, six in zip(rules.UDP_LED, ingress.SUFFIXES, strict=True):
            keys = {nfcodec.address(ip) for ip in led if ingress.suffix_of(ip) == six}
            if keys and (wanted.prefix6 or not six):
                self.nft.change_set(nfcodec.NEWSETELEM, target, keys)

    def skeleton_problems(self, wanted: Wanted) -> list[str]:
        """How the static rules differ from those that were loaded; a chain's name says what these were."""
        mark, chains = skeleton.mark(wanted), self.nft.chains()
        missing = {(rules.FILTER_TABLE, mark), (rules.BALANCE_TABLE, mark)} - chains
        if missing:
            return [f"the rules of table {table} are missing" for table, _ in sorted(missing)]
        if (rules.FILTER_TABLE, self._fingerprint(wanted)) not in chains:
            return ["the static rules were changed"]
        return []

    def _fingerprint(self, wanted: Wanted) -> str:
        """The name of a chain that says what the static chains do, in the kernel's own words."""
        tables = [(rules.INET, rules.FILTER_TABLE), (rules.IPV4, rules.BALANCE_TABLE)]
        tables += [(rules.IPV6, rules.BALANCE_TABLE)] if wanted.prefix6 else []
        static = skeleton.static_chains(wanted, skeleton.OPTIONAL)
        found = {key: does for key, does in self.nft.rules(tables).items() if key[1] in static}
        return FINGERPRINT + hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]

    def read(self, device: int, wanted: Wanted) -> State:
        """The state of the kernel; `device` is swx0's index, `wanted` says which families there are."""
        families = self.families
        nexthops = [netlink.parse_nexthop(body) for body in self.route.dump(netlink.nexthop_dump())]
        routes = [netlink.parse_route(b) for f in families for b in self.route.dump(netlink.route_dump(f))]
        found_rules = [netlink.parse_rule(b) for f in families for b in self.route.dump(netlink.rule_dump(f))]
        return State(
            nexthops={entry[0]: entry[2] for entry in nexthops if entry and entry[1] == device},
            direct={entry[0]: entry[1:] for entry in nexthops if entry and entry[1] != device},
            routes={
                entry.key: entry
                for entry in routes
                if entry and (entry.nexthop or entry.device in {device, rules.LOOPBACK_INDEX})
            },
            neighbours={a: mac for f in families for a, mac in self._neighbours(f, device)},
            forwarding={mac: address for address, mac in self._neighbours(netlink.AF_BRIDGE, device)},
            rules=frozenset(entry for entry in found_rules if entry),
            sets={name: self.nft.elements(target) for name, target in rules.sets_for(wanted).items()},
            chains=frozenset(
                (family, chain)
                for family, table, chain in self.nft.all_chains()
                if table == rules.BALANCE_TABLE and BALANCING_CHAIN.fullmatch(chain)
            ),
        )

    def has_direct(self, expected: Mapping[int, tuple[int, str]]) -> bool:
        """Whether nexthops by other links than swx0 are all there."""
        found = (netlink.parse_nexthop(body) for body in self.route.dump(netlink.nexthop_dump()))
        return expected.keys() <= {entry[0] for entry in found if entry}

    def vip_counts(self, wanted: Wanted) -> dict[str, int]:
        """How often each virtual address was met. What is none any more is forgotten: it may be given again."""
        found: dict[str, int] = {}
        known = {ip for service in wanted.services for _, ip in service.vips}
        for target, six in zip(rules.VIP_MET, ingress.SUFFIXES, strict=True):
            counts = self.nft.counts(target) if wanted.prefix6 or not six else {}
            named = {str(ip_address(key)): key for key in counts}
            found.update({ip: counts[key] for ip, key in named.items() if ip in known})
            if stale := [key for ip, key in named.items() if ip not in known]:
                self.nft.change_set(nfcodec.DELSETELEM, target, stale)
        return found

    def let_in(self) -> Elements:
        """What neighbours may send directly by the rules that are loaded, whichever these are."""
        try:
            return self.nft.elements(rules.SETS["direct_source"])
        except KernelRefused as error:
            if error.errno != errno.ENOENT:
                raise
            return {}

    @property
    def families(self) -> tuple[int, ...]:
        """The address families of the kernel's tables."""
        return (netlink.AF_INET, netlink.AF_INET6) if self.ipv6 else (netlink.AF_INET,)

    def _neighbours(self, family: int, device: int) -> Iterator[tuple[str, str]]:
        for body in self.route.dump(netlink.neighbour_dump(family)):
            index, permanent, address, mac = netlink.parse_neighbour(body)
            if index == device and permanent and address:
                yield address, mac

    def change(self, old: State, new: State, device: int) -> tuple[int, dict[str, Elements]]:
        """Turn `old` into `new`: the number of requests sent, and the elements to delete a little later."""
        additions = list(additions_of(old, new, device))
        self.route.send(additions)
        chains = [(family, rules.BALANCE_TABLE, name) for family, name in sorted(new.chains - old.chains)]
        left = ingress.surplus(old.sets, new.sets)
        sets = new.sets | {name: new.sets.get(name, {}) | elements for name, elements in left.items()}
        changed = self.nft.change(chains, rules.SETS, old.sets, sets)
        removals = list(removals_of(old, new, device))
        self.route.send(removals, ignore=GONE)
        return len(additions) + changed + len(removals), left

    def drop_chains(self, unused: frozenset[tuple[int, str]]) -> frozenset[tuple[int, str]]:
        """Delete balancing chains that nothing leads to; those that could not be."""
        left = set()
        for family, name in sorted(unused):
            try:
                self.nft.drop_chain(family, rules.BALANCE_TABLE, name)
            except KernelRefused as error:
                if error.errno not in GONE:
                    left.add((family, name))
        return frozenset(left)

    def remove_all(self) -> None:
        """Everything but the pods: tables, rules, routes, nexthops, swx0, the resolver's address."""
        self.nft.load(skeleton.teardown_text(ipv6=self.ipv6))
        found = links(self.route).get(rules.DEVICE)
        for body in [b for f in self.families for b in self.route.dump(netlink.rule_dump(f))]:
            if (rule := netlink.parse_rule(body)) is not None:
                self.route.send([netlink.rule_message(netlink.DELRULE, rule)], ignore=GONE)
        routes = [
            netlink.parse_route(b) for f in self.families for b in self.route.dump(netlink.route_dump(f))
        ]
        self.route.send((netlink.route_delete(route) for route in routes if route), ignore=GONE)
        nexthops = (netlink.parse_nexthop(body) for body in self.route.dump(netlink.nexthop_dump()))
        self.route.send((netlink.nexthop_delete(entry[0]) for entry in nexthops if entry), ignore=GONE)
        if found is not None and found.group in rules.GROUPS:
            self.route.send([netlink.link_delete(rules.DEVICE)], ignore=GONE)
        self.route.send([netlink.address_delete(rules.LOOPBACK_INDEX, rules.DNS_ADDRESS)], ignore=GONE)


def set_sysctl(name: str, value: int, root: Path = SYSCTL) -> None:
    """Write below net.ipv4 (or ipv6) of the thread's namespace, if it differs."""
    path = root / name
    try:
        if int(path.read_text()) != value:
            path.write_text(f"{value}\n")
    except OSError as error:
        raise OverlayError(
            f"cannot set net.{root.name}.{name.replace('/', '.')} to {value}: {error.strerror}; "
            "/proc/sys must be writable"
        ) from None


def additions_of(old: State, new: State, device: int) -> Iterator[Message]:
    for mac, remote in new.forwarding.items() - old.forwarding.items():
        yield netlink.fdb_add(device, mac, remote)
    for address, mac in new.neighbours.items() - old.neighbours.items():
        yield netlink.neighbour_add(device, address, mac)
    for number, gateway in new.nexthops.items() - old.nexthops.items():
        yield netlink.nexthop_add(number, device, gateway)
    for number, (link, gateway) in new.direct.items() - old.direct.items():
        yield netlink.nexthop_add(number, link, gateway)
    for key, route in new.routes.items():
        if old.routes.get(key) != route:
            yield netlink.route_add(route)
    for rule in sorted(new.rules - old.rules, key=lambda rule: -rule.priority):
        yield netlink.rule_message(netlink.NEWRULE, rule)


def removals_of(old: State, new: State, device: int) -> Iterator[Message]:
    for rule in sorted(old.rules - new.rules, key=lambda rule: rule.priority):
        yield netlink.rule_message(netlink.DELRULE, rule)
    for key, route in old.routes.items():
        if key not in new.routes:
            yield netlink.route_delete(route)
    numbers = old.nexthops.keys() | old.direct.keys()
    for number in numbers - new.nexthops.keys() - new.direct.keys():
        yield netlink.nexthop_delete(number)
    for address in old.neighbours.keys() - new.neighbours.keys():
        yield netlink.neighbour_delete(device, address)
    for mac in old.forwarding.keys() - new.forwarding.keys():
        yield netlink.fdb_delete(device, mac)


def differences(found: State, wanted: State) -> Iterator[str]:
    """What is missing, surplus or different, in words."""
    pairs = {
        "nexthop": (found.nexthops, wanted.nexthops),
        "direct nexthop": (found.direct, wanted.direct),
        "route": (found.routes, wanted.routes),
        "neighbour": (found.neighbours, wanted.neighbours),
        "forwarding entry": (found.forwarding, wanted.forwarding),
        "rule": (dict.fromkeys(found.rules), dict.fromkeys(wanted.rules)),
        "chain": (dict.fromkeys(found.chains & wanted.chains), dict.fromkeys(wanted.chains)),
        **{
            f"element of {name}": (found.sets.get(name, {}), wanted.sets.get(name, {})) for name in rules.SETS
        },
    }
    for what, (have, want) in pairs.items():
        for key in have.keys() | want.keys():  # type: ignore[attr-defined]
            shown = key.hex() if isinstance(key, bytes) else key
            if key not in have:  # type: ignore[operator]
                yield f"{what} {shown} is missing"
            elif key not in want:  # type: ignore[operator]
                yield f"{what} {shown} is not wanted"
            elif have[key] != want[key]:  # type: ignore[index]
                yield f"{what} {shown} is {have[key]}, wanted {want[key]}"  # type: ignore[index]
