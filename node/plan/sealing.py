"""How a new network is encrypted: by what every node's kernel has. Pure."""

from __future__ import annotations

from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import View

OPTION = "encrypted"
METHODS = ("wireguard", "esp")
WORDS = {"wireguard": "WireGuard", "esp": "ESP"}


class CannotEncrypt(Exception):
    """Says which node lacks what, and what to do."""


def is_wanted(spec: objects_pb2.NetworkSpec) -> bool:
    """Docker's `--opt encrypted`, with or without a value."""
    return OPTION in spec.options and spec.options[OPTION].lower() not in {"false", "0", "no"}


def method(view: View) -> str:
    """The best way that every node that is not down has; all networks share one. Raises CannotEncrypt."""
    nodes = [node for node in view.nodes() if not node.removed and node.status.state != types_pb2.NODE_DOWN]
    used = {network.seal for network in view.networks() if network.seal}
    for candidate in METHODS:
        if used and candidate not in used:
            continue
        if nodes and all(candidate in node.description.seal_methods for node in nodes):
            return candidate
    tried = [candidate for candidate in METHODS if not used or candidate in used]
    lacking = [
        node.meta.name or node.meta.id
        for node in nodes
        if not any(candidate in node.description.seal_methods for candidate in tried)
    ]
    what = " nor ".join(WORDS[candidate] for candidate in tried)
    if lacking:
        neither = "has neither" if len(tried) > 1 else "does not have"
        raise CannotEncrypt(
            f"the kernel of node {lacking[0]} {neither} {what}"
            f"{f' (and {len(lacking) - 1} more)' if len(lacking) > 1 else ''}: load the module wireguard (or esp4 "
            "and xfrm_user) there, or create the network without --opt encrypted"
        )
    raise CannotEncrypt(
        "some nodes' kernels have only WireGuard and others only ESP: load the module wireguard on all of them"
    )
