"""Random rotations of the root: whatever happens in which order, everybody's certificate is good for everybody.

Certificates are real. A node is told what to have in order, however late, and may be served by a manager that
lags behind what it was told as far as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from swarmpy.node.agent.renewal import is_behind, is_worse
from swarmpy.node.ca import authority, rotation
from swarmpy.node.ca.identity import Identity, new_key_and_csr
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.roots import RootsPlanner, waited_for
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store, result_of, transaction
from swarmpy.raft.tables import wrap

CLUSTER = "c" * 25
NOW_MS = 1_900_000_000_000
NODES_MAX = 4
KEYS = [new_key_and_csr() for _ in range(NODES_MAX)]


@lru_cache(maxsize=8192)
def accepts(trusted_pem: bytes, certificate_pem: bytes) -> bool:
    leaf, *between = x509.load_pem_x509_certificates(certificate_pem)
    return authority.is_issued_under(leaf, between, x509.load_pem_x509_certificate(trusted_pem))


@dataclass
class Node:
    identity: Identity
    heard: int  # the newest copy of the cluster from which it was told something
    told: dispatcher_pb2.NodeConfig


def told_by(cluster: objects_pb2.Cluster) -> dispatcher_pb2.NodeConfig:
    roots = rotation.wanted(cluster)
    return dispatcher_pb2.NodeConfig(issuer=roots.issuer, trusts=roots.trusts)


class Rotations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store, self.index = Store(), 0
        self.copies: list[objects_pb2.Cluster] = []
        self.nodes: dict[str, Node] = {}
        self.finished = 0

    @initialize(count=st.integers(1, 3))
    def found(self, count: int) -> None:
        root = authority.new_root(CLUSTER, NOW_MS)
        cluster = objects_pb2.Cluster(root_certificate=root.certificate_pem, root_key=root.key_pem)
        cluster.meta.id = CLUSTER
        self.commit(wrap(cluster))
        for _ in range(count):
            self.join()

    def commit(self, *puts: store_pb2.Object, delete: str = "") -> None:
        changes = [
            store_pb2.Change(put=put, expected_version=getattr(put, str(put.WhichOneof("kind"))).meta.version)
            for put in puts
        ]
        if delete:
            key = store_pb2.ObjectKey(kind=store_pb2.KIND_NODE, id=delete)
            changes.append(store_pb2.Change(delete=key, any_version=True))
        self.index += 1
        first = self.index == 1
        command = transaction(changes, epoch=1, now_ms=NOW_MS, new_epoch=first)
        assert not result_of(self.store.apply(self.index, command)).error_code
        if self.cluster != (self.copies[-1] if self.copies else None):
            self.copies.append(copy_of(self.cluster))

    @property
    def cluster(self) -> objects_pb2.Cluster:
        found = self.store.cluster()
        assert found is not None
        return found

    def pick(self, data: st.DataObject) -> tuple[str, Node]:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        return name, self.nodes[name]

    def hear(self, node: Node, copy: int) -> None:
        if copy >= node.heard:
            node.heard, node.told = copy, told_by(self.copies[copy])

    def certified(self, name: str, cluster: objects_pb2.Cluster) -> Identity:
        key, csr = KEYS[int(name[-1])]
        issuing = rotation.issuing(cluster)
        leaf = authority.issue(
            issuing.root, csr, node_id=name, cluster_id=CLUSTER, role=types_pb2.ROLE_WORKER, now_ms=NOW_MS,
            lifetime_ms=3_600_000,
        )  # fmt: skip
        return Identity.build(leaf + issuing.chain_pem, key, cluster.root_certificate)

    @rule()
    def join(self) -> None:
        """A node is created first; who signs for it knows at least that."""
        free = [f"{'n' * 24}{n}" for n in range(NODES_MAX) if f"{'n' * 24}{n}" not in self.nodes]
        if free:
            node = objects_pb2.Node()
            node.meta.id = free[0]
            self.commit(wrap(node))
            identity, newest = self.certified(free[0], self.cluster), len(self.copies) - 1
            self.nodes[free[0]] = Node(identity, newest, told_by(self.cluster))

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name, _ = self.pick(data)
        self.commit(delete=name)
        del self.nodes[name]

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """By a manager whose copy may be older than what the node was told; the session tells what is newer."""
        name, node = self.pick(data)
        copy = data.draw(st.integers(0, len(self.copies) - 1))
        self.hear(node, copy)
        fresh = self.certified(name, self.copies[copy])
        if not is_worse(fresh, node.identity, node.told):
            node.identity = fresh

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        name, node = self.pick(data)
        self.say(name, node)

    def say(self, name: str, node: Node) -> None:
        stored = self.store.node(name)
        assert stored is not None
        said = copy_of(stored)
        said.description.issuer, said.description.trusts = node.identity.issuer, node.identity.trusts
        if said != stored:
            self.commit(wrap(said))

    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        """Some nodes do all that they are told."""
        for name, node in self.nodes.items():
            if data.draw(st.integers(0, 3)):
                self.obey(name, node)

    def obey(self, name: str, node: Node) -> None:
        self.hear(node, len(self.copies) - 1)
        if is_behind(node.identity, node.told):
            node.identity = self.certified(name, self.cluster)
        assert not is_behind(node.identity, node.told)
        self.say(name, node)

    @precondition(lambda self: self.cluster.root_rotation.phase != rotation.TRUSTING)
    @rule()
    def begin(self) -> None:
        """Also anew, while one is under way."""
        changed = copy_of(self.cluster)
        changed.root_rotation.CopyFrom(rotation.begin(self.cluster, NOW_MS, "w", "m"))
        self.commit(wrap(changed))

    @rule()
    def plan(self) -> None:
        under_way = self.cluster.HasField("root_rotation")
        plan = RootsPlanner().plan(self.store, [CLUSTER], NOW_MS, lambda: "")
        assert bool(plan.changes) == (under_way and not list(waited_for(self.store, self.cluster)))
        if plan.changes:
            self.commit(plan.changes[0].put)
            self.finished += not self.cluster.HasField("root_rotation")

    @invariant()
    def everybody_accepts_everybody(self) -> None:
        for name, mine in self.nodes.items():
            for other, theirs in self.nodes.items():
                good = accepts(mine.identity.root_pem, theirs.identity.certificate_pem)
                assert good, f"{name} refuses {other}"

    @invariant()
    def nothing_of_a_rotation_is_left_after_it(self) -> None:
        if self.copies and not self.cluster.HasField("root_rotation"):
            assert rotation.issuing(self.cluster).chain_pem == b""
            assert rotation.wanted(self.cluster).issuer == rotation.wanted(self.cluster).trusts

    def teardown(self) -> None:
        """Whatever was begun comes to its end once every node hears the newest and says what it has."""
        for _ in range(3 if self.copies else 0):
            for name, node in self.nodes.items():
                self.obey(name, node)
                self.everybody_accepts_everybody()
            self.plan()
        assert not self.copies or not self.cluster.HasField("root_rotation")


TestRotations = Rotations.TestCase
TestRotations.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
