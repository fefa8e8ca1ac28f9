"""Temporary join tokens: when one is over, and their removal an hour later. See manager/tokens for their use.

An ended token stays for a while, so that whoever still tries it is told why it is refused. One that names a root
which is the cluster's no longer joins nobody (the joining node checks that root first): it goes at once.

Keys: token ids. Deletes tokens; looks again when the next one is due.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import ChangeEvent, Draft, NewId, Plan, View, earliest, is_full, limited
from swarmpy.proto import objects_pb2, store_pb2

KEPT_MS = 3_600_000


class TokensPlanner:
    """See the module."""

    name = "tokens"
    heeds = (store_pb2.KIND_TOKEN, store_pb2.KIND_CLUSTER)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_TOKEN:
            return (event.id,)
        old, new = event.old, event.new
        if isinstance(old, objects_pb2.Cluster) and isinstance(new, objects_pb2.Cluster):
            return self.all_keys(view) if old.root_certificate != new.root_certificate else ()
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        return [token.meta.id for token in view.all(store_pb2.KIND_TOKEN)]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft, wake_ms = Draft(view), None
        for key in keys:
            if is_full(draft):
                break
            token = view.get(store_pb2.KIND_TOKEN, key)
            if not isinstance(token, objects_pb2.Token):
                continue
            if is_void(view, token) or now_ms >= ended_ms(token) + KEPT_MS:
                draft.delete(store_pb2.KIND_TOKEN, key)
            else:
                wake_ms = earliest(wake_ms, ended_ms(token) + KEPT_MS)
        return limited(draft, now_ms, wake_ms)


def root_of(cluster: objects_pb2.Cluster) -> bytes:
    """What tokens that are made now name."""
    return hashlib.sha256(cluster.root_certificate).digest()


def is_void(view: View, token: objects_pb2.Token) -> bool:
    """Whether it is of a root that is not the cluster's (any more)."""
    cluster = view.cluster()
    return cluster is None or token.root_sha256 != root_of(cluster)


def is_used_up(token: objects_pb2.Token) -> bool:
    return bool(token.uses_max) and token.uses >= token.uses_max


def ended_ms(token: objects_pb2.Token) -> int:
    """Since when, or from when on, it joins nobody; its last use was its last change."""
    return min(token.meta.updated_ms, token.expires_ms) if is_used_up(token) else token.expires_ms
