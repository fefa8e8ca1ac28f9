"""The roots planner: a rotation of the root certificate goes on once no node is behind.

    ISSUING -> TRUSTING    every node has a certificate from the new root: it becomes the cluster's root, and the
                           join tokens get new secrets
    TRUSTING -> over       every node trusts it: nobody needs the cross-signed certificate any more

Nodes say what they have (`description.issuer`, `description.trusts`); what they shall have is in their assignments
(node/ca/rotation). A node that is down is waited for like any other: it holds the old trust, or the old certificate.
Removing it from the cluster releases the rotation.

Keys: the cluster's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from swarmpy.node.plan.base import ChangeEvent, Draft, NewId, Plan, View, copy_of, limited
from swarmpy.proto import objects_pb2, store_pb2


class RootsPlanner:
    """See the module."""

    name = "roots"

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        return self.all_keys(view) if event.kind in (store_pb2.KIND_CLUSTER, store_pb2.KIND_NODE) else ()

    def all_keys(self, view: View) -> Iterable[str]:
        cluster = view.cluster()
        return (cluster.meta.id,) if cluster is not None and cluster.HasField("root_rotation") else ()

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        cluster = view.cluster()
        if cluster is None or not cluster.HasField("root_rotation"):
            return Plan()
        if next(waited_for(view, cluster), None) is not None:
            return Plan()
        draft = Draft(view)
        draft.put(after(cluster, now_ms))
        return limited(draft, now_ms)


def waited_for(view: View, cluster: objects_pb2.Cluster) -> Iterator[objects_pb2.Node]:
    """The nodes that hold up the rotation in its present phase."""
    rotation = cluster.root_rotation
    for node in view.nodes():
        said = node.description
        has = said.issuer if rotation.phase == objects_pb2.ROTATION_ISSUING else said.trusts
        if not node.removed and has != rotation.root_key_id:
            yield node


def after(cluster: objects_pb2.Cluster, now_ms: int) -> objects_pb2.Cluster:
    """The cluster in the next phase of its rotation, or after it."""
    new = copy_of(cluster)
    rotation = new.root_rotation
    if rotation.phase == objects_pb2.ROTATION_TRUSTING:
        new.ClearField("root_rotation")
        new.root_rotated_ms = now_ms
        return new
    rotation.phase = objects_pb2.ROTATION_TRUSTING
    rotation.former_certificate = new.root_certificate
    new.root_certificate, new.root_key = rotation.root_certificate, rotation.root_key
    new.worker_secret, new.manager_secret = rotation.worker_secret, rotation.manager_secret
    for name in ("root_certificate", "root_key", "worker_secret", "manager_secret"):
        rotation.ClearField(name)
    return new
