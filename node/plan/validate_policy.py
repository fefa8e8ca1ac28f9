"""Whether a network policy can be carried out: every problem, with its field path (see validate)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from swarmpy.node.plan import limits
from swarmpy.node.plan.limits import Problem
from swarmpy.node.plan.ports import PROTOCOLS
from swarmpy.proto import objects_pb2
from swarmpy.raft.tables import kind_of, name_problem

SELECTORS_MAX, BLOCKS_MAX, PORTS_MAX, PORT_MAX = 64, 256, 64, 65_535


def validate_policy(policy: objects_pb2.Policy) -> list[Problem]:
    spec = policy.spec
    problems = [*limits.labels(policy.meta.labels, "meta.labels")]
    if problem := name_problem(kind_of(policy), policy.meta.name):
        problems.append(Problem("meta.name", problem))
    if spec.direction not in (objects_pb2.POLICY_INGRESS, objects_pb2.POLICY_EGRESS):
        problems.append(Problem("spec.direction", "must be ingress or egress"))
    if not spec.subjects:
        problems.append(
            Problem("spec.subjects", "selects nobody: say whose traffic it is about, '*' for every service")
        )
    for name, values, most in (
        ("subjects", spec.subjects, SELECTORS_MAX),
        ("peers", spec.peers, SELECTORS_MAX),
        ("blocks", spec.blocks, BLOCKS_MAX),
        ("ports", spec.ports, PORTS_MAX),
    ):
        if len(values) > most:
            problems.append(Problem(f"spec.{name}", f"has {len(values)} entries, at most {most}"))
    for name, selectors in (("subjects", spec.subjects), ("peers", spec.peers)):
        for position, selector in enumerate(selectors):
            problems += limits.labels(selector.labels, f"spec.{name}[{position}].labels")
    for position, block in enumerate(spec.blocks):
        problems += _block(block, f"spec.blocks[{position}]")
    for position, port in enumerate(spec.ports):
        problems += _port(port, f"spec.ports[{position}]")
    return problems


def _block(block: objects_pb2.PolicyBlock, path: str) -> Iterator[Problem]:
    try:
        whole = ip_network(block.cidr)
    except ValueError as error:
        yield Problem(path + ".cidr", f"{block.cidr!r} is not a prefix such as 10.9.0.0/16: {error}")
        return
    if len(block.excluded) > BLOCKS_MAX:
        yield Problem(path + ".excluded", f"has {len(block.excluded)} entries, at most {BLOCKS_MAX}")
    for cidr in block.excluded:
        try:
            hole = ip_network(cidr)
        except ValueError as error:
            yield Problem(path + ".excluded", f"{cidr!r} is not a prefix such as 10.9.8.0/24: {error}")
            continue
        if hole.version != whole.version or not hole.subnet_of(whole):  # type: ignore[arg-type]
            yield Problem(path + ".excluded", f"{cidr} is not part of {whole}")


def _port(port: objects_pb2.PolicyPort, path: str) -> Iterator[Problem]:
    if port.protocol not in PROTOCOLS:
        yield Problem(path + ".protocol", "must be tcp, udp or sctp")
    last = port.last or port.first
    if not 1 <= port.first <= last <= PORT_MAX:
        yield Problem(path, f"{port.first}-{last}: ports are from 1 to {PORT_MAX}, the lower one first")
