"""Nodes on the same segment: reached by the network below, without VXLAN.

`Near` is what a node knows of another one on its segment.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Near:
    """A node on one of this node's segments: the link that leads there and its MAC, which its packets come with.

    `proven`: a packet with addresses of the overlay went there without VXLAN and was answered.
    """

    device: int
    mac: str
    proven: bool = False
