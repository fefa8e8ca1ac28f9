"""The kernel's side of `seal`: finds out what it can do, reads it and sends the difference.

Order of a change: what receives first, then what sends, then what is no longer used is removed.
"""

from __future__ import annotations

import errno
from pathlib import Path

from swarmpy.overlay import netlink, rules, seal, skeleton, wgcodec, xfrmcodec
from swarmpy.overlay.errors import KernelRefused, OverlayError
from swarmpy.overlay.links import NETLINK_GENERIC, NETLINK_XFRM, Socket, links
from swarmpy.overlay.netlink import Message, Route
from swarmpy.overlay.seal import SealState
from swarmpy.overlay.wgcodec import Device

GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
PROBE = "swwgprobe"
RP_FILTER = Path("/proc/sys/net/ipv4/conf")


def methods(route: Socket) -> tuple[str, ...]:
    """What this kernel can protect packets with, best first; tried, not guessed."""
    found = []
    if _has_wireguard(route):
        found.append(seal.WIREGUARD)
    if _has_esp():
        found.append(seal.ESP)
    return tuple(found)


def _has_wireguard(route: Socket) -> bool:
    try:
        route.send([netlink.link_delete(PROBE)], ignore=GONE)
        route.send([wgcodec.link(PROBE, 1420, 0)])
    except KernelRefused:
        return False
    route.send([netlink.link_delete(PROBE)], ignore=GONE)
    return True


def _has_esp() -> bool:
    """Whether an association between two addresses that nobody has is taken."""
    probe = xfrmcodec.Association("192.0.2.1", "192.0.2.2", 0x100, bytes(xfrmcodec.KEY_BYTES))
    try:
        with Socket(NETLINK_XFRM) as xfrm:
            gone = xfrmcodec.association_delete(probe.destination, probe.spi)
            xfrm.send([gone], ignore=GONE)
            xfrm.send([xfrmcodec.association_add(probe)])
            xfrm.send([gone], ignore=GONE)
    except (OSError, KernelRefused):
        return False
    return True


class Sealer:
    """Tunnels of one namespace, for one thread. Sockets are opened when they are first needed."""

    def __init__(self, route: Socket) -> None:
        self._route = route
        self._generic: Socket | None = None
        self._xfrm: Socket | None = None
        self._family = 0

    def close(self) -> None:
        for opened in (self._generic, self._xfrm):
            if opened is not None:
                opened.close()
        self._generic = self._xfrm = None

    def apply(self, wanted: SealState, mtu: int) -> int:
        """Make the kernel agree; how many requests that took. `mtu` is the WireGuard devices'."""
        found = self.read()
        if found == wanted:
            return 0
        sent = self._esp(found, wanted) if found.associations or wanted.associations else 0
        if found.devices or wanted.devices:
            sent += self._wireguard(found, wanted, mtu)
        return sent

    def read(self) -> SealState:
        present = links(self._route)
        names = [name for name in seal.DEVICES if name in present and present[name].kind == "wireguard"]
        associations, policies = self._read_esp()
        by_index = {present[name].index: name for name in names}
        routes = {}
        for body in self._route.dump(netlink.route_dump()):
            route = netlink.parse_route(body)
            if route is not None and route.table == seal.TABLE:
                routes[route.destination.partition("/")[0]] = by_index.get(route.device, "")
        return SealState(
            devices={name: self._read_device(name) for name in names},
            routes=routes,
            associations={entry.id: entry for entry in associations},
            policies={entry.destination: entry for entry in policies},
        )

    def _read_device(self, name: str) -> Device:
        socket, family = self._wireguard_socket()
        return wgcodec.parse_device(socket.dump(wgcodec.device_dump(family, name)), name)

    def _read_esp(self) -> tuple[list[xfrmcodec.Association], list[xfrmcodec.Policy]]:
        try:
            xfrm = self._xfrm_socket()
        except OSError:
            return [], []
        associations = map(xfrmcodec.parse_association, xfrm.dump(xfrmcodec.association_dump()))
        policies = map(xfrmcodec.parse_policy, xfrm.dump(xfrmcodec.policy_dump()))
        return [entry for entry in associations if entry], [entry for entry in policies if entry]

    def _xfrm_socket(self) -> Socket:
        if self._xfrm is None:
            self._xfrm = Socket(NETLINK_XFRM)
        return self._xfrm

    def _wireguard_socket(self) -> tuple[Socket, int]:
        if self._generic is None:
            self._generic = Socket(NETLINK_GENERIC)
            self._family = wgcodec.parse_family(self._generic.dump(wgcodec.family_request())[0])
        return self._generic, self._family

    def _esp(self, found: SealState, wanted: SealState) -> int:
        try:
            xfrm = self._xfrm_socket()
        except OSError as error:
            raise OverlayError(
                f"this kernel has no IPsec ({error.strerror}): load the module xfrm_user"
            ) from error
        changed = [
            entry for key, entry in wanted.associations.items() if found.associations.get(key) != entry
        ]
        stale = [key for key in found.associations if key not in wanted.associations]
        replaced = [entry.id for entry in changed if entry.id in found.associations]
        before: list[Message] = [xfrmcodec.association_delete(*key) for key in replaced]
        before += [xfrmcodec.association_add(entry) for entry in changed]
        before += [
            xfrmcodec.policy_set(entry)
            for key, entry in wanted.policies.items()
            if found.policies.get(key) != entry
        ]
        after = [
            xfrmcodec.policy_delete(entry)
            for key, entry in found.policies.items()
            if key not in wanted.policies or not same_selector(entry, wanted.policies[key])
        ]
        after += [xfrmcodec.association_delete(*key) for key in stale]
        xfrm.send(before)
        xfrm.send(after, ignore=GONE)
        return len(before) + len(after)

    def _wireguard(self, found: SealState, wanted: SealState, mtu: int) -> int:
        sent = 0
        for name, device in wanted.devices.items():
            sent += self._device(found.devices.get(name), device, mtu)
        present = links(self._route)
        routes = [
            netlink.route_add(Route(seal.TABLE, seal.prefix_of(address), device=present[name].index))
            for address, name in wanted.routes.items()
            if found.routes.get(address) != name
        ]
        gone = [
            netlink.route_delete(Route(seal.TABLE, seal.prefix_of(address), device=present[name].index))
            for address, name in found.routes.items()
            if address not in wanted.routes and name in present
        ]
        surplus = [netlink.link_delete(name) for name in found.devices if name not in wanted.devices]
        self._route.send(routes)
        self._route.send([*gone, *surplus], ignore=GONE)
        return sent + len(routes) + len(gone) + len(surplus)

    def _device(self, found: Device | None, wanted: Device, mtu: int) -> int:
        if found is not None and found.private_key != wanted.private_key:
            # The name came round again with the next generation but one: nothing of the old one may stay.
            self._route.send([netlink.link_delete(wanted.name)], ignore=GONE)
            found = None
        if found is None:
            existing = links(self._route).get(wanted.name)
            if existing is not None and existing.group not in rules.GROUPS:
                raise OverlayError(f"a link {wanted.name} exists and is not ours: remove or rename it")
            self._route.send([wgcodec.link(wanted.name, mtu, skeleton.TUNNEL_GROUP)])
            found = Device(wanted.name, b"")
        generic, family = self._wireguard_socket()
        messages: list[Message] = []
        if (found.private_key, found.port) != (wanted.private_key, wanted.port):
            messages.append(wgcodec.device_set(family, wanted))
        keys = {peer.public_key for peer in wanted.peers}
        gone = [peer.public_key for peer in found.peers if peer.public_key not in keys]
        messages += wgcodec.peers_remove(family, wanted.name, gone)
        messages += wgcodec.peers_set(family, wanted.name, wanted.peers - found.peers)
        generic.send(messages)
        link = links(self._route)[wanted.name]
        if not link.up or link.mtu != mtu or link.group != skeleton.TUNNEL_GROUP:
            self._route.send([netlink.link_up(link.index, wanted.name, mtu, group=skeleton.TUNNEL_GROUP)])
            (RP_FILTER / wanted.name / "rp_filter").write_text("0\n")
        return len(messages)


def same_selector(one: xfrmcodec.Policy, other: xfrmcodec.Policy) -> bool:
    return (one.source, one.destination, one.port, one.mark, one.mask) == (
        other.source, other.destination, other.port, other.mark, other.mask,
    )  # fmt: skip
