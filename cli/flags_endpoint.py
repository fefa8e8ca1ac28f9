"""The flags of a service's virtual IP and published ports: see flags, edit_endpoint."""

from __future__ import annotations

import click

SCALARS = (
    (
        "endpoint-mode",
        click.Choice(["vip", "dnsrr"]),
        "One virtual address, or all tasks' addresses, in DNS (vip)",
    ),
    (
        "session-affinity",
        click.Choice(["none", "client-ip"]),
        "A client's address keeps its task while that lives (none)",
    ),
)
SWITCHES = (
    (
        "--prefer-local/--no-prefer-local",
        "prefer_local",
        "Each node sends to its own ready tasks while it has any",
    ),
)
