"""The cluster's root certificate for people: what it is, its rotation, and who is waited for (node/ca/rotation)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cryptography import x509
from swarmpy.node.ca import authority, rotation
from swarmpy.node.manager import levels
from swarmpy.node.manager.contention import change_cluster, cluster_of
from swarmpy.node.manager.errors import Refused
from swarmpy.node.manager.leader import Leader
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.roots import waited_for
from swarmpy.proto import control_pb2, objects_pb2, types_pb2
from swarmpy.raft.levels import ROOTS
from swarmpy.raft.store import View

log = logging.getLogger(__name__)
WAITS_MAX = 100  # named in an answer


def report(view: View) -> control_pb2.RootReport:
    """The root, its rotation, and whose certificates are from which root. Raises NotLeading."""
    cluster = cluster_of(view)
    nodes = [node for node in view.nodes() if not node.removed]
    found = control_pb2.RootReport(
        nodes=len(nodes), rotated_ms=cluster.root_rotated_ms, started_ms=cluster.root_rotation.started_ms
    )
    found.root.CopyFrom(_described(cluster.root_certificate, nodes))
    if cluster.HasField("root_rotation"):
        under_way = cluster.root_rotation
        if under_way.phase == rotation.TRUSTING:
            found.former.CopyFrom(_described(under_way.former_certificate, nodes))
        else:
            found.next.CopyFrom(_described(under_way.root_certificate, nodes))
        _wait_for(found, list(waited_for(view, cluster)), cluster)
    found.unknown = found.nodes - found.root.nodes - found.next.nodes - found.former.nodes
    return found


async def rotate(
    leader: Leader, request: control_pb2.RotateRootRequest, actor: str, new_secret: Callable[[], str]
) -> control_pb2.RootReport:
    """Begin a rotation, or begin it anew; with `plan` only say who would be waited for. Raises ManagerError."""
    anew = cluster_of(leader.store).HasField("root_rotation")

    def begin(changed: objects_pb2.Cluster) -> None:
        _check(leader.store, changed)
        changed.root_rotation.CopyFrom(
            rotation.begin(changed, leader.now_ms(), new_secret(), new_secret())
        )  # fmt: skip

    if request.plan:
        changed = copy_of(cluster_of(leader.store))
        begin(changed)
        planned = report(leader.store)
        _wait_for(planned, [node for node in waited_for(leader.store, changed) if not _obeys(node)], changed)
        return planned
    await change_cluster(leader, begin, actor, request.request_id)
    log.info("root rotation begins actor=%s anew=%s", actor, anew)
    return report(leader.store)


def _check(view: View, cluster: objects_pb2.Cluster) -> None:
    levels.require(view, ROOTS, "the rotation of the root certificate")
    if cluster.root_rotation.phase == rotation.TRUSTING:
        names = ", ".join(sorted(node.meta.name for node in waited_for(view, cluster))) or "the next step"
        raise Refused(
            f"the last rotation is not over: nodes take the new root, waiting for {names}; bring them back, or "
            "remove them (`swarmpy node rm --force`), then rotate again"
        )


def _described(pem: bytes, nodes: list[objects_pb2.Node]) -> control_pb2.RootCertificate:
    certificate = x509.load_pem_x509_certificate(pem)
    issuer = authority.key_id(pem)
    return control_pb2.RootCertificate(
        subject=certificate.subject.rfc4514_string(), sha256=authority.fingerprint(pem).hex(), certificate=pem,
        not_before_ms=int(certificate.not_valid_before_utc.timestamp() * 1000),
        not_after_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
        nodes=sum(node.description.issuer == issuer for node in nodes),
    )  # fmt: skip


def _wait_for(
    found: control_pb2.RootReport, nodes: list[objects_pb2.Node], cluster: objects_pb2.Cluster
) -> None:
    found.waiting = len(nodes)
    del found.waits[:]
    for node in sorted(nodes, key=lambda node: (node.meta.name, node.meta.id))[:WAITS_MAX]:
        reason = _reason(node, cluster.root_rotation.phase)
        found.waits.add(node_id=node.meta.id, hostname=node.meta.name, reason=reason)


def _obeys(node: objects_pb2.Node) -> bool:
    return node.status.state == types_pb2.NODE_READY and node.description.state_level >= ROOTS


def _reason(node: objects_pb2.Node, phase: int) -> str:
    if node.status.state == types_pb2.NODE_DOWN:
        return "is down: bring it back, or remove it with `swarmpy node rm --force`"
    if node.status.state != types_pb2.NODE_READY:
        return "has not been heard of: bring it back, or remove it with `swarmpy node rm --force`"
    if node.description.state_level < ROOTS:
        return f"runs {node.description.version or 'an unknown version'}, which cannot do this: upgrade it"
    return "takes the new root" if phase == rotation.TRUSTING else "renews its certificate"
