"""The rotation of the root: the planner's steps, and `ca show` and `ca rotate` against one real manager."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from swarmpy.cli.errors import NotConverged
from swarmpy.node.agent.renewal import SPREAD_MAX_S, spread_s
from swarmpy.node.ca import authority, join, rotation
from swarmpy.node.ca.errors import PinMismatch, WrongToken
from swarmpy.node.ca.identity import Identity, new_key_and_csr
from swarmpy.node.config import Paths
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.outcome import field_changes
from swarmpy.node.plan.roots import RootsPlanner, after, waited_for
from swarmpy.proto import ca_pb2, control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.levels import LEVEL
from swarmpy.raft.store import Store
from swarmpy.raft.tables import wrap

from tests.sim.plan_world import World
from tests.unit.test_manager_process import Running, paths, run
from tests.unit.test_plan_cli import cli

__all__ = ["paths"]
OLD, NEW = b"old", b"new"


def rotating(world: World) -> None:
    cluster = copy_of(the_cluster(world.store))
    cluster.root_certificate, cluster.worker_secret = OLD, "old secret"
    cluster.root_rotation.root_certificate, cluster.root_rotation.root_key_id = NEW, NEW
    cluster.root_rotation.worker_secret = "new secret"
    world.put(cluster)


def the_cluster(store: Store) -> objects_pb2.Cluster:
    cluster = store.cluster()
    assert cluster is not None
    return cluster


def says(world: World, node_id: str, issuer: bytes, trusts: bytes) -> None:
    def edit(node: objects_pb2.Node) -> None:
        node.description.issuer, node.description.trusts = issuer, trusts

    world.set_node(node_id, edit)
    world.run(1000)


def phase(world: World) -> str:
    cluster = the_cluster(world.store)
    if not cluster.HasField("root_rotation"):
        return "over"
    return objects_pb2.RotationPhase.Name(cluster.root_rotation.phase)


def test_it_goes_on_when_no_node_is_behind_whoever_leads_and_a_removed_node_is_not_waited_for() -> None:
    world = World(7, nodes=3)
    rotating(world)
    for node_id in ("node0", "node1"):
        says(world, node_id, NEW, OLD)
    world.kill("node2")
    world.run(10_000)
    assert phase(world) == "ROTATION_ISSUING"
    assert [node.meta.id for node in waited_for(world.store, the_cluster(world.store))] == ["node2"]
    world.elect()
    world.run(1000)
    says(world, "node0", NEW, OLD)
    assert phase(world) == "ROTATION_ISSUING"
    world.set_node("node2", lambda node: setattr(node, "removed", True))
    world.run(1000)
    cluster = the_cluster(world.store)
    assert phase(world) == "ROTATION_TRUSTING"
    assert (cluster.root_certificate, cluster.worker_secret) == (NEW, "new secret")
    assert cluster.root_rotation.former_certificate == OLD
    says(world, "node0", NEW, NEW)
    assert phase(world) == "ROTATION_TRUSTING"
    world.elect()
    says(world, "node1", NEW, NEW)
    assert phase(world) == "over"
    assert the_cluster(world.store).root_rotated_ms > 0


def test_without_a_rotation_nothing_is_looked_at() -> None:
    world = World(7, nodes=2)
    planner = RootsPlanner()
    assert list(planner.all_keys(world.store)) == []
    assert planner.plan(world.store, ["cluster"], 1, lambda: "").changes == []


def test_requests_of_many_nodes_are_spread() -> None:
    assert spread_s(0) == 0
    assert spread_s(3) < 0.1
    assert spread_s(10_000) == SPREAD_MAX_S


def test_a_plan_shows_no_key() -> None:
    cluster = objects_pb2.Cluster()
    cluster.root_rotation.root_key, cluster.root_rotation.worker_secret = b"canary", "canary"
    assert "canary" not in str(list(field_changes(objects_pb2.Cluster(), cluster)))


# --- one manager, and what its node would say ---------------------------------------------------------


class Node:
    """What the agent of the manager's node does, by hand."""

    def __init__(self, m: Running, paths: Paths) -> None:
        self.m, self.certs = m, paths.certs

    async def says(self, level: int = LEVEL) -> None:
        mine = Identity.load(self.certs)
        (node,) = self.m.store.nodes()
        said = copy_of(node)
        said.description.state_level = level
        said.description.issuer, said.description.trusts = mine.issuer, mine.trusts
        change = store_pb2.Change(put=wrap(said), any_version=True)
        await self.m.process.leader.commit([change], "test")

    async def renews(self) -> Identity:
        mine = Identity.load(self.certs)
        fresh = await join.renew(self.m.channel(mine), mine)
        fresh.save(self.certs)
        await self.says()
        return fresh

    async def joins(self, token: str) -> ca_pb2.IssueResponse:
        address = f"127.0.0.1:{self.m.process.config.ports.join}"
        request = ca_pb2.IssueRequest(csr=new_key_and_csr()[1], hostname="other", request_id=token[:60])
        return await join.join([address], request, token, 10)


def story(paths: Paths, told: Callable[[Running, Node], object]) -> None:
    async def whole(m: Running) -> None:
        await told(m, Node(m, paths))  # type: ignore[misc]

    run(paths, whole)


async def token_of(m: Running) -> str:
    answer = await m.control.Token(control_pb2.TokenRequest(role=types_pb2.ROLE_WORKER))
    return str(answer.token)


async def ca(m: Running, *arguments: str, code: int = 0) -> Result:
    done = await cli(m, "ca", *arguments)
    assert done.exit_code == code, done.output
    return done


def test_the_whole_way_of_a_rotation(paths: Paths) -> None:
    async def told(m: Running, node: Node) -> None:
        refused = await ca(m, "rotate", "-d", code=1)
        assert "must be understood by every manager" in refused.output
        await node.says()
        await m.until(lambda: m.store.cluster().state_level == LEVEL, "the level is in force")  # type: ignore[union-attr]
        old = the_cluster(m.store).root_certificate
        first = await ca(m, "show")
        assert authority.fingerprint(old).hex() in first.output
        assert "1 of 1 nodes" in first.output
        assert "Rotation:" in first.output
        assert (await ca(m, "show", "--pem")).output.encode() == old
        old_token, index = await token_of(m), m.store.index
        assert "which has not been heard of" in (await ca(m, "rotate", "--plan")).output
        assert m.store.index == index

        assert "under way since" in (await ca(m, "rotate", "-d")).output
        begun = the_cluster(m.store).root_rotation.root_key_id
        assert "begin anew" in (await ca(m, "rotate", "--plan")).output
        late = await ca(m, "rotate", "--timeout", "0s", code=NotConverged.exit_code)
        assert "waiting for: n1 has not been heard of" in late.output
        assert the_cluster(m.store).root_rotation.root_key_id not in {b"", begun}
        request = control_pb2.GetRequest(kind=store_pb2.KIND_CLUSTER, ref=m.process.config.cluster_id)
        answer = await m.control.Get(request)
        cluster = the_cluster(m.store)
        for secret in (cluster.root_rotation.root_key, cluster.root_rotation.worker_secret.encode()):
            assert secret
            assert secret not in answer.SerializeToString()

        fresh = await node.renews()
        assert (fresh.issuer, fresh.root_pem) == (cluster.root_rotation.root_key_id, old)
        await m.until(lambda: the_cluster(m.store).root_rotation.phase == rotation.TRUSTING, "all have one")
        assert await token_of(m) != old_token
        assert "The last rotation is not over" in (await ca(m, "rotate", "-d", code=1)).output
        shown = json.loads((await ca(m, "show", "--format", "json")).output)
        assert shown["former"]["sha256"] == authority.fingerprint(old).hex()
        assert [wait["hostname"] for wait in shown["waits"]] == ["n1"]
        with pytest.raises(WrongToken, match="is wrong or was rotated"):
            await node.joins(old_token)

        fresh = await node.renews()
        assert fresh.trusts == fresh.issuer == authority.key_id(the_cluster(m.store).root_certificate)
        await m.until(lambda: not the_cluster(m.store).HasField("root_rotation"), "it is over")
        assert "none, the last one was over" in (await ca(m, "show")).output
        with pytest.raises(PinMismatch, match="root certificate was rotated"):
            await node.joins(old_token)
        joined = await node.joins(await token_of(m))
        assert joined.root == the_cluster(m.store).root_certificate
        assert joined.certificate.count(b"BEGIN") == 1

    story(paths, told)


def test_a_manager_restored_in_the_middle_is_of_both_roots() -> None:
    now_ms = 1_900_000_000_000
    cluster = objects_pb2.Cluster()
    cluster.meta.id = "c" * 25
    root = authority.new_root(cluster.meta.id, now_ms)
    cluster.root_certificate, cluster.root_key = root.certificate_pem, root.key_pem
    cluster.root_rotation.CopyFrom(rotation.begin(cluster, now_ms, "w", "m"))
    issuing, trusting = rotation.issuing(cluster), rotation.issuing(after(cluster, now_ms))
    assert issuing == trusting
    assert issuing.chain_pem
    assert rotation.issuing(after(after(cluster, now_ms), now_ms)).chain_pem == b""


def test_the_command_for_docker_users(paths: Paths, tmp_path: Path) -> None:
    async def told(m: Running, node: Node) -> None:
        done = await cli(m, "swarm", "ca")
        assert done.output.encode() == the_cluster(m.store).root_certificate
        assert (await cli(m, "swarm", "ca", "--detach")).exit_code == 2
        assert "--external-ca is not built yet" in (await cli(m, "swarm", "ca", "--external-ca", "x")).output
        await node.says()
        await m.until(lambda: m.store.cluster().state_level == LEVEL, "the level is in force")  # type: ignore[union-attr]
        ended = asyncio.create_task(cli(m, "swarm", "ca", "--rotate", "--cert-expiry", "100h"))
        await m.until(lambda: the_cluster(m.store).HasField("root_rotation"), "it begins")
        await node.renews()
        await m.until(lambda: the_cluster(m.store).root_rotation.phase == rotation.TRUSTING, "all have one")
        await node.renews()
        done = await ended
        assert done.exit_code == 0, done.output
        assert done.stdout.encode() == the_cluster(m.store).root_certificate
        assert "1 of 1 nodes" in done.stderr or "0 of 1 nodes" in done.stderr
        assert the_cluster(m.store).spec.cert_expiry_ms == 100 * 3600 * 1000

    story(paths, told)
