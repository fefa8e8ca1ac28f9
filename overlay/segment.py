"""What this machine sees of the nodes on its own segments, and whether packets of the overlay reach them directly.

MACs come from the kernel's neighbour table. Probes are frames of our own making, since no route leads that way
yet; answers come by whichever way the other side has. All waiting has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import Collection, Mapping

from swarmpy.overlay import direct, ipam, netlink, skeleton
from swarmpy.overlay.direct import Near, Target
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.links import Socket, link_at
from swarmpy.overlay.ping import echo_reply
from swarmpy.overlay.wanted import Wanted

TRIES, TRY_S = 3, 0.4
AT_ONCE = 64
PACKET_BYTES = 65535
RECEIVE_BUFFER_BYTES = 1 << 22
NO_NEIGHBOUR = (errno.ENODEV, errno.ENOENT, errno.ENETDOWN, errno.EINVAL)
_RANDOM = random.SystemRandom()


def look(route: Socket, wanted: Wanted, known: Mapping[str, Near]) -> dict[str, Near]:
    """The nodes on this node's segments. One that the kernel has forgotten keeps the MAC it had."""
    addresses = [netlink.parse_prefix(body) for body in route.dump(netlink.address_dump())]
    found = direct.candidates(wanted, addresses)
    if not found:
        return {}
    neighbours = {
        (device, address): mac
        for device, _, address, mac in map(
            netlink.parse_neighbour, route.dump(netlink.neighbour_dump(netlink.AF_INET))
        )
        if len(mac) == len("00:00:00:00:00:00")
    }
    underlay = {node.id: node.underlay for node in wanted.nodes}
    macs = {
        node_id: neighbours.get((device, underlay[node_id]))
        or (known[node_id].mac if node_id in known else "")
        for node_id, device in found.items()
    }
    near = {}
    for node_id, mac in direct.own_macs(macs, routers(route, neighbours)).items():
        if mac:
            before = known.get(node_id, Near(0, ""))
            same = before.mac == mac and before.device in (0, found[node_id])
            near[node_id] = Near(found[node_id], mac, same and before.proven)
    asked = [
        netlink.neighbour_use(device, underlay[node_id])
        for node_id, device in found.items()
        if (device, underlay[node_id]) not in neighbours
    ]
    route.send(asked, ignore=NO_NEIGHBOUR)
    return near


def routers(route: Socket, neighbours: Mapping[tuple[int, str], str]) -> set[str]:
    """The MACs of what this machine's own routes lead through."""
    ways = (netlink.parse_foreign_route(body) for body in route.dump(netlink.route_dump(netlink.AF_INET)))
    return {neighbours[way] for way in ways if way is not None and way in neighbours}


def targets(route: Socket, wanted: Wanted, near: Mapping[str, Near]) -> list[Target]:
    """Whom to probe, and how."""
    by_index = {device: link_at(route, device) for device in {entry.device for entry in near.values()}}
    indexes = {node.id: node.index for node in wanted.nodes}
    source = ipam.node_address(wanted.this_node.index, wanted.cluster_cidr)
    found = []
    for node_id, entry in near.items():
        link = by_index.get(entry.device)
        if link is not None and link.up and link.group not in skeleton.GROUPS:
            address = ipam.node_address(indexes[node_id], wanted.cluster_cidr)
            found.append(Target(node_id, link.name, link.mac, entry.mac, source, address))
    return found


async def probe(asked: Collection[Target], size: int) -> set[str]:
    """The nodes that answered a packet of `size` bytes; some are asked up to three times within 1.2 s."""
    if not asked:
        return set()
    identifier = _RANDOM.randrange(1, 1 << 16)
    waiting = {target.address: target for target in asked}
    answered: set[str] = set()
    with contextlib.ExitStack() as stack:
        try:
            sender = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            receiver = stack.enter_context(
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            )
        except OSError as error:
            raise OverlayError(f"neighbours cannot be probed: {error.strerror}") from None
        sender.setblocking(False)
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        for attempt in range(TRIES):
            for number, target in enumerate(list(waiting.values()), start=1):
                with contextlib.suppress(OSError):  # no room, or the link is gone: not answered then
                    sender.sendto(direct.frame(target, identifier, attempt, size), (target.link, 0))
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
                    _collect(receiver, identifier, waiting, answered)
            deadline = asyncio.get_running_loop().time() + TRY_S
            while waiting and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
                _collect(receiver, identifier, waiting, answered)
            _collect(receiver, identifier, waiting, answered)
            if not waiting:
                break
    return answered


def _collect(
    receiver: socket.socket, identifier: int, waiting: dict[str, Target], answered: set[str]
) -> None:
    """Take what has arrived; the socket sees every echo reply of the machine."""
    with contextlib.suppress(BlockingIOError):
        while True:
            packet, (address, _) = receiver.recvfrom(PACKET_BYTES)
            reply = echo_reply(packet)
            if reply is not None and reply[0] == identifier and address in waiting:
                answered.add(waiting.pop(address).node_id)
