"""The rotation of the cluster's root: which root signs, what goes with a certificate, what a node shall have. Pure.

    phase      certificates come from   with them goes      nodes trust            over when every node
    (none)     the root                 nothing             the root
    ISSUING    the new root             the cross-signed    the old root           has a certificate from the new root
    TRUSTING   the new root             the cross-signed    old, then new root     trusts the new root

The cross-signed certificate is the new root's key, signed by the old root, so in every phase everybody accepts
everybody: in ISSUING all certificates, old and new, lead to the old root; in TRUSTING all certificates are from
the new root and lead to the old one as well. When a node takes the new trust therefore does not matter, and no
connection needs to be made twice. In ISSUING a rotation can begin anew from another root, because everybody still
trusts the old one; in TRUSTING it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.node.ca.authority import Root, cross_sign, key_id, new_root
from swarmpy.proto import objects_pb2

TRUSTING = objects_pb2.ROTATION_TRUSTING


@dataclass(frozen=True)
class Issuing:
    """The root that signs now, and the PEM that follows each certificate."""

    root: Root
    chain_pem: bytes = b""


@dataclass(frozen=True)
class Wanted:
    """Key identifiers of the roots that a node's certificate shall be from, and that it shall trust."""

    issuer: bytes = b""
    trusts: bytes = b""


def issuing(cluster: objects_pb2.Cluster) -> Issuing:
    """What a manager signs with."""
    present = Root(cluster.root_certificate, cluster.root_key)
    if not cluster.HasField("root_rotation"):
        return Issuing(present)
    rotation = cluster.root_rotation
    root = present if rotation.phase == TRUSTING else Root(rotation.root_certificate, rotation.root_key)
    return Issuing(root, rotation.cross_certificate)


def wanted(cluster: objects_pb2.Cluster) -> Wanted:
    """What every node is told."""
    trusts = key_id(cluster.root_certificate)
    return Wanted(cluster.root_rotation.root_key_id or trusts, trusts)


def begin(
    cluster: objects_pb2.Cluster, now_ms: int, worker_secret: str, manager_secret: str
) -> objects_pb2.RootRotation:
    """A rotation to a root made now; the secrets are those of the join tokens once it is the cluster's root."""
    assert cluster.root_rotation.phase != TRUSTING
    new = new_root(cluster.meta.id, now_ms)
    return objects_pb2.RootRotation(
        phase=objects_pb2.ROTATION_ISSUING, root_certificate=new.certificate_pem, root_key=new.key_pem,
        cross_certificate=cross_sign(
            Root(cluster.root_certificate, cluster.root_key), new.certificate_pem, now_ms
        ),
        root_key_id=key_id(new.certificate_pem), worker_secret=worker_secret, manager_secret=manager_secret,
        started_ms=now_ms,
    )  # fmt: skip
