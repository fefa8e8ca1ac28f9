"""Delays what one node sends and receives, where the kernel has no netem.

Runs in the switch's namespace: takes frames from one interface and puts them on the other
after a while, both ways. The virtio header travels along, so that large segments and
unfinished checksums stay as they are. `python relay.py <near> <far> <delay_ms> <jitter_ms>`.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3
FRAME_BYTES_MAX = 1 << 17
WAITING_MAX = 20_000


def opened(interface: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    link.bind((interface, ETH_P_ALL))
    link.setblocking(False)
    return link


def relay(near: str, far: str, delay_s: float, jitter_s: float) -> None:
    links = [opened(near), opened(far)]
    waiting: list[tuple[float, int, int, bytes]] = []
    last = [0.0, 0.0]
    number = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(links, [], [], timeout)
        for link in readable:
            to = 1 - links.index(link)
            try:
                frame = link.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                continue
            number += 1
            # Frames of one direction keep their order, as on a wire.
            last[to] = max(last[to], time.monotonic() + delay_s + random.random() * jitter_s)
            if len(waiting) < WAITING_MAX:
                heapq.heappush(waiting, (last[to], number, to, frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(waiting)
            try:
                links[to].send(frame)
            except OSError:  # a full or vanished interface loses frames, as wires do
                continue


if __name__ == "__main__":
    relay(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4]) / 1000)
