"""Temporary join tokens: who is let in by one, how often, until when, and that it goes away."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from swarmpy.node.ca import identity, join, token
from swarmpy.node.ca.errors import JoinError, WrongToken
from swarmpy.node.config import Paths
from swarmpy.node.manager import tokens
from swarmpy.node.manager.errors import Invalid, Refused
from swarmpy.node.manager.errors import WrongToken as Wrong
from swarmpy.node.plan import tokens as planned
from swarmpy.proto import ca_pb2, control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.levels import TOKENS
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

from tests.unit.test_manager_process import MANAGER, WORKER, Running, paths, refused, run

__all__ = ["paths"]
HOUR_MS = 3_600_000
SECRET = token.new_secret(b"0123456789abcdef")


def store_of(*entities: objects_pb2.Token, level: int = TOKENS) -> Store:
    store = Store()
    cluster = objects_pb2.Cluster(state_level=level, root_certificate=b"root")
    cluster.meta.id = "c"
    changes = [store_pb2.Change(put=wrap(entity)) for entity in (cluster, *entities)]
    store.apply(1, transaction(changes, epoch=1, now_ms=1, new_epoch=True))
    assert store.index == 1
    assert store.cluster() is not None
    return store


def made(store: Store, *, now_ms: int = 1, new_id: str = "t1", **fields: object) -> objects_pb2.Token:
    fields.setdefault("ttl_ms", HOUR_MS)
    request = control_pb2.TokenRequest(**fields)  # type: ignore[arg-type]
    return tokens.created(store, request, SECRET, new_id, now_ms)


def joining() -> objects_pb2.Node:
    node = objects_pb2.Node(role=MANAGER)
    node.meta.id = node.meta.name = "n9"
    node.spec.role = MANAGER
    node.manager.raft_address = "10.0.0.9:7379"
    return node


# ---- what may be asked for


def test_the_state_holds_no_secret() -> None:
    found = made(store_of(), uses=2, labels={"zone": "a"})
    assert SECRET.encode() not in found.SerializeToString()
    assert (found.uses_max, found.uses, dict(found.labels), found.expires_ms) == (
        2, 0, {"zone": "a"}, HOUR_MS + 1
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ttl_ms": 999}, "one second to 365 days"),
        ({"ttl_ms": 366 * 24 * HOUR_MS}, "one second to 365 days"),
        ({"uses": 1001}, "at most 1000 nodes"),
        ({"labels": {"a b": ""}}, "no label name"),
        ({"labels": {f"k{number}": "" for number in range(65)}}, "at most 64"),
        ({"rotate": True}, "only the permanent one is rotated"),
    ],
)
def test_what_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        made(store_of(), **fields)


def test_not_before_every_manager_knows_them() -> None:
    with pytest.raises(Refused, match="understood by every manager"):
        made(store_of(level=TOKENS - 1))


def test_their_number_is_bounded() -> None:
    known = [made(store_of(), new_id=f"t{number}") for number in range(tokens.TOKENS_MAX)]
    with pytest.raises(Refused, match="at most 100"):
        made(store_of(*known))


# ---- who is let in


def test_what_a_node_gets() -> None:
    store = store_of(made(store_of(), labels={"zone": "a"}, role=WORKER, uses=1))
    (found,) = store.all(store_pb2.KIND_TOKEN)
    assert isinstance(found, objects_pb2.Token)
    node, used = tokens.admitted(store, joining(), found, 2)
    assert (node.role, node.spec.role, node.HasField("manager")) == (WORKER, WORKER, False)
    assert (dict(node.meta.labels), used.uses, found.uses) == ({"zone": "a"}, 1, 0)
    with pytest.raises(Wrong, match=r"used up.*joining once"):
        tokens.admitted(store, joining(), used, 2)
    with pytest.raises(Wrong, match="expired 1 s ago"):
        tokens.admitted(store, joining(), found, HOUR_MS + 1_001)
    found.root_sha256 = b"another"
    with pytest.raises(Wrong, match="root certificate that was replaced"):
        tokens.admitted(store, joining(), found, 2)


# ---- that it goes away


def planned_for(store: Store, now_ms: int) -> tuple[list[str], int | None]:
    planner = planned.TokensPlanner()
    plan = planner.plan(store, list(planner.all_keys(store)), now_ms, lambda: "x")
    return [change.delete.id for change in plan.changes], plan.wake_ms


def test_an_ended_token_stays_for_an_hour() -> None:
    store = store_of(made(store_of()))
    assert planned_for(store, 5) == ([], 2 * HOUR_MS + 1)
    assert planned_for(store, 2 * HOUR_MS) == ([], 2 * HOUR_MS + 1)
    assert planned_for(store, 2 * HOUR_MS + 1) == (["t1"], None)
    used = made(store_of(), uses=1, new_id="t2")
    used.uses = 1
    assert planned_for(store_of(used), 5) == ([], HOUR_MS + 1), "since its last use, at 1 ms"


def test_one_of_another_root_goes_at_once() -> None:
    store = store_of(made(store_of()))
    before = store.cluster()
    assert before is not None
    new = objects_pb2.Cluster(state_level=TOKENS, root_certificate=b"next")
    new.meta.id = "c"
    change = store_pb2.Change(put=wrap(new), expected_version=1)
    store.apply(2, transaction([change], epoch=1, now_ms=2))
    assert planned_for(store, 3) == (["t1"], None)


# ---- with a real manager, at its join port


async def temporary(m: Running, **fields: object) -> control_pb2.TokenResponse:
    (first, *_) = m.store.nodes()
    if first.description.state_level < TOKENS:  # what its agent would report
        said = objects_pb2.Node()
        said.CopyFrom(first)
        said.description.state_level = TOKENS
        await m.process.leader.commit([store_pb2.Change(put=wrap(said), any_version=True)], "test")
    await m.until(lambda: (found := m.store.cluster()) and found.state_level >= TOKENS, "its level is raised")
    fields.setdefault("ttl_ms", HOUR_MS)
    return await m.control.Token(control_pb2.TokenRequest(**fields))  # type: ignore[arg-type,no-any-return]


async def joined(m: Running, text: str, request_id: str) -> ca_pb2.IssueResponse:
    _, csr = identity.new_key_and_csr()
    request = ca_pb2.IssueRequest(
        csr=csr, hostname="w", address="127.0.0.2", request_id=request_id,
        manager=objects_pb2.ManagerStatus(raft_address=":7379"),
    )  # fmt: skip
    return await join.join([f"127.0.0.1:{m.process.config.ports.join}"], request, text)


async def refusal(m: Running, text: str, request_id: str) -> str:
    with pytest.raises(WrongToken) as caught:
        await joined(m, text, request_id)
    return str(caught.value)


def test_of_many_nodes_at_once_as_many_join_as_the_token_is_for(paths: Paths) -> None:
    async def story(m: Running) -> None:
        answer = await temporary(m, uses=3, labels={"zone": "a"})
        ends = await asyncio.gather(
            *(joined(m, answer.token, f"r{number}") for number in range(12)), return_exceptions=True
        )
        let_in = {end.node_id for end in ends if isinstance(end, ca_pb2.IssueResponse)}
        said = {str(end) for end in ends if isinstance(end, JoinError)}
        assert (len(let_in), len(said)) == (3, 1), ends
        assert "used up, it was for joining 3 times" in said.pop()
        workers = [node for node in m.store.nodes() if node.role == WORKER]
        assert {node.meta.id for node in workers} == let_in
        assert all(dict(node.meta.labels) == {"zone": "a"} for node in workers)
        # A node that lost its answer asks again: it is the same node, and not counted again.
        first = next(number for number, end in enumerate(ends) if isinstance(end, ca_pb2.IssueResponse))
        again = await joined(m, answer.token, f"r{first}")
        assert again.node_id == ends[first].node_id  # type: ignore[union-attr]
        other = await temporary(m)
        assert "for another token" in await refusal(m, other.token, f"r{first}"), (
            "whose id alone opens nothing"
        )
        listed = await m.control.List(control_pb2.ListRequest(kind=store_pb2.KIND_TOKEN))
        shown = {entry.token.meta.id: entry.token for entry in listed.objects}
        assert shown[answer.made.meta.id].uses == 3
        assert not any(entry.secret_sha256 for entry in shown.values())

    run(paths, story)


def test_roles_expiry_and_removal(paths: Paths) -> None:
    async def story(m: Running) -> None:
        removed = await temporary(m)
        asked = control_pb2.DeleteRequest(kind=store_pb2.KIND_TOKEN, ref=removed.made.meta.id)
        planned = await m.control.Plan(
            control_pb2.PlanRequest(writes=[control_pb2.PlannedWrite(delete=asked)])
        )
        assert [entry.action for entry in planned.objects] == [control_pb2.EVENT_DELETE]
        await m.control.Delete(
            control_pb2.DeleteRequest(kind=store_pb2.KIND_TOKEN, ref=removed.made.meta.id[:10])
        )
        assert "wrong, was rotated or removed" in await refusal(m, removed.token, "removed")
        short = await temporary(m, ttl_ms=1_000)
        await m.until(lambda: m.process.leader.now_ms() >= short.made.expires_ms, "it has expired")
        assert "expired" in await refusal(m, short.token, "expired")
        permanent = await m.control.Token(control_pb2.TokenRequest(role=WORKER))
        assert (await joined(m, permanent.token, "permanent")).role == WORKER
        for_managers = await temporary(m, role=MANAGER)
        answer = await joined(m, for_managers.token, "manager")
        assert answer.role == MANAGER
        stored = m.store.node(answer.node_id)
        assert stored is not None
        assert (stored.role, stored.manager.raft_address) == (types_pb2.ROLE_MANAGER, "127.0.0.2:7379")

    run(paths, story)


def test_a_manager_that_does_not_lead_passes_the_hash_on(paths: Paths) -> None:
    async def story(m: Running) -> None:
        answer = await temporary(m, uses=1, labels={"zone": "a"})
        hashed = token.secret_sha256(token.JoinToken.parse(answer.token).secret)
        request = control_pb2.CreateRequest(
            object=wrap(joining()), join_token=hashed, request_id="through a follower"
        )
        code, _ = await refused(m.control.Create(request))
        assert code is grpc.StatusCode.PERMISSION_DENIED, "users let nobody in"
        me = m.process.config.node_id
        stub = control_pb2_grpc.ControlStub(m.channel(m.identity_of(me, MANAGER)))
        made = (await stub.Create(request)).object.node
        assert (made.role, dict(made.meta.labels)) == (WORKER, {"zone": "a"})
        code, says = await refused(
            stub.Create(control_pb2.CreateRequest(object=request.object, join_token=hashed))
        )
        assert (code, "used up" in says) == (grpc.StatusCode.UNAUTHENTICATED, True)

    run(paths, story)
