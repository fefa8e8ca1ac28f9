"""Temporary join tokens: made for a role, a time, a number of nodes and their labels. Runs on the leader only.

The state holds the SHA-256 of the secret (128 random bits, so that nothing slower is needed), never the secret.
A node is let in by one transaction that holds the node and the token with one more use, made from the token's
version: however many nodes come at once, no more are let in than the token is for, and a node that repeats its
request is not counted again. Whether the token has expired is judged by the leader's clock.
"""

from __future__ import annotations

import hmac

from swarmpy.node.ca import authority, token
from swarmpy.node.manager import contention, levels
from swarmpy.node.manager.errors import Invalid, Refused, WrongToken
from swarmpy.node.manager.leader import Leader
from swarmpy.node.plan import limits, tokens
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.levels import TOKENS
from swarmpy.raft.store import View
from swarmpy.raft.tables import wrap

TTL_MS_MIN, TTL_MS_MAX = 1_000, 365 * 24 * 3_600_000
USES_MAX = 1_000
LABELS_MAX = 64
TOKENS_MAX = 100  # also ended ones, until the planner removes them


def created(
    view: View, request: control_pb2.TokenRequest, secret: str, new_id: str, now_ms: int
) -> objects_pb2.Token:
    """The token to store. Raises Invalid or Refused."""
    levels.require(view, TOKENS, "join tokens that expire")
    if request.rotate:
        raise Invalid("rotate: a temporary token is new each time, only the permanent one is rotated")
    if not TTL_MS_MIN <= request.ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms: a token is valid for one second to 365 days")
    if request.uses > USES_MAX:
        raise Invalid(f"uses: {request.uses}, at most {USES_MAX} nodes join by one token; 0 is any number")
    problems = [*limits.labels(request.labels, "labels")]
    if len(request.labels) > LABELS_MAX:
        problems.append(limits.Problem("labels", f"{len(request.labels)} of them, at most {LABELS_MAX}"))
    if problems:
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
    present = sum(1 for _ in view.all(store_pb2.KIND_TOKEN))
    if present >= TOKENS_MAX:
        raise Refused(
            f"there are {present} temporary join tokens, at most {TOKENS_MAX}: remove some (swarmpy token ls, "
            "swarmpy token rm), those that ended go within an hour"
        )
    made = objects_pb2.Token(
        role=request.role, secret_sha256=token.secret_sha256(secret), uses_max=request.uses,
        root_sha256=tokens.root_of(contention.cluster_of(view)), expires_ms=now_ms + request.ttl_ms,
        labels=request.labels,
    )  # fmt: skip
    made.meta.id = new_id
    return made


async def create(
    leader: Leader, request: control_pb2.TokenRequest, secret: str, new_id: str, actor: str
) -> tuple[objects_pb2.Token, str]:
    """The stored token and its text, which nobody can be shown again."""

    async def write() -> objects_pb2.Token:
        made = created(leader.store, request, secret, new_id, leader.now_ms())
        await leader.commit([store_pb2.Change(put=wrap(made))], actor, "")
        return made

    made = await contention.settled(write)
    root = contention.cluster_of(leader.store).root_certificate
    return made, str(token.JoinToken(authority.fingerprint(root), secret))


def admitted(
    view: View, node: objects_pb2.Node, found: objects_pb2.Token, now_ms: int
) -> tuple[objects_pb2.Node, objects_pb2.Token]:
    """The node with what the token gives it, and the token with one more use. Raises WrongToken."""
    if tokens.is_void(view, found):
        raise WrongToken("the join token is of a root certificate that was replaced")
    if now_ms >= found.expires_ms:
        ago_s = (now_ms - found.expires_ms) // 1000
        raise WrongToken(f"the join token expired {ago_s} s ago")
    if tokens.is_used_up(found):
        times = "once" if found.uses_max == 1 else f"{found.uses_max} times"
        raise WrongToken(f"the join token is used up, it was for joining {times}")
    joining, used = copy_of(node), copy_of(found)
    joining.role = joining.spec.role = found.role
    if found.role != types_pb2.ROLE_MANAGER:
        joining.ClearField("manager")
    joining.meta.labels.update(found.labels)
    used.uses += 1
    return joining, used


async def admit(
    leader: Leader, node: objects_pb2.Node, secret_sha256: bytes, actor: str, request_id: str
) -> tuple[objects_pb2.Node, int]:
    """The stored node and its index; of a repeated request, the first one's. Raises ManagerError.

    Callers take turns (`contention` would give up where many nodes come at once).
    """

    async def write() -> tuple[objects_pb2.Node, int]:
        store = leader.store
        found = of_secret(store, secret_sha256)
        if found is None:
            raise WrongToken("the join token is wrong, was rotated or removed, or ended long ago")
        if (first := store.answer_of(request_id)) is not None:
            return _again(store, first, found)
        joining, used = admitted(store, node, found, leader.now_ms())
        changes = [
            store_pb2.Change(put=wrap(joining)),
            store_pb2.Change(put=wrap(used), expected_version=found.meta.version),
        ]
        result = await leader.commit(changes, actor, request_id)
        return _again(store, result, found)

    return await contention.settled(write)


def of_secret(view: View, secret_sha256: bytes) -> objects_pb2.Token | None:
    for found in view.all(store_pb2.KIND_TOKEN):
        assert isinstance(found, objects_pb2.Token)
        if hmac.compare_digest(found.secret_sha256, secret_sha256):
            return found
    return None


def _again(
    view: View, first: store_pb2.TransactionResult, found: objects_pb2.Token
) -> tuple[objects_pb2.Node, int]:
    """What that transaction let in, if it was by this token: a request id alone opens nothing."""
    touched = {key.kind: key.id for key in first.touched}
    node = view.node(touched.get(store_pb2.KIND_NODE, ""))
    if touched.get(store_pb2.KIND_TOKEN) != found.meta.id or node is None or node.removed:
        raise WrongToken("this request was answered before, for another token or node")
    return node, first.index
