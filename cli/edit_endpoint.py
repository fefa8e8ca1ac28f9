"""Flags of a service's virtual IP and published ports: how they are balanced. See edit.apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmpy.proto import objects_pb2

MODES = {"vip": objects_pb2.ENDPOINT_VIP, "dnsrr": objects_pb2.ENDPOINT_DNSRR}


def edit_balancing(endpoint: objects_pb2.EndpointSpec, flags: Mapping[str, Any]) -> None:
    """--endpoint-mode, --session-affinity, --prefer-local."""
    if flags.get("endpoint_mode") is not None:
        endpoint.mode = MODES[flags["endpoint_mode"]]
    session = flags.get("session_affinity")
    if session is not None:
        endpoint.affinity = "" if session == "none" else session
    if flags.get("prefer_local") is not None:
        endpoint.prefer_local = flags["prefer_local"]
