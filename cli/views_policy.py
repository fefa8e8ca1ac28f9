"""Rows of `network policy ls`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarmpy.cli.output import Row, short_id
from swarmpy.proto import objects_pb2, types_pb2

POLICY_COLUMNS = (
    ("ID", "ID"), ("NAME", "Name"), ("DIRECTION", "Direction"), ("FROM", "From"), ("TO", "To"),
    ("PORTS", "Ports"), ("NETWORK", "Network"),
)  # fmt: skip


def policy_rows(
    policies: Iterable[objects_pb2.Policy], networks: Mapping[str, str], *, whole: bool
) -> list[Row]:
    """By name; `networks` are names by id."""
    rows: list[Row] = []
    for policy in sorted(policies, key=lambda policy: policy.meta.name):
        spec = policy.spec
        subjects = " | ".join(map(selector_text, spec.subjects))
        peers = " | ".join([*map(selector_text, spec.peers), *map(block_text, spec.blocks)]) or "nobody"
        ingress = spec.direction == objects_pb2.POLICY_INGRESS
        rows.append(
            {
                "ID": short_id(policy.meta.id, whole=whole),
                "Name": policy.meta.name,
                "Direction": "ingress" if ingress else "egress",
                "From": peers if ingress else subjects,
                "To": subjects if ingress else peers,
                "Ports": ", ".join(map(port_text, spec.ports)) or "all",
                "Network": networks.get(spec.network, spec.network) if spec.network else "all",
                "Labels": dict(policy.meta.labels),
            }
        )
    return rows


def selector_text(selector: objects_pb2.PolicySelector) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.labels.items())) or "*"


def block_text(block: objects_pb2.PolicyBlock) -> str:
    return ",".join([block.cidr, *(f"except={cidr}" for cidr in block.excluded)])


def port_text(port: objects_pb2.PolicyPort) -> str:
    word = types_pb2.Protocol.Name(port.protocol).removeprefix("PROTOCOL_").lower()
    ports = f"{port.first}-{port.last}" if port.last > port.first else str(port.first)
    return f"{ports}/{word}"
