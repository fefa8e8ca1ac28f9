"""`restore` and `reattach` as files: whose identity, what is kept, what is refused. No daemon runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from swarmpy.node import config as node_config
from swarmpy.node import daemon_recover, daemon_setup
from swarmpy.node.ca import rotation
from swarmpy.node.ca.authority import is_issued_under
from swarmpy.node.ca.identity import Identity
from swarmpy.node.config import Paths
from swarmpy.node.daemon_setup import ClusterOptions, NodeOptions, SetupError
from swarmpy.node.manager import backup_file
from swarmpy.node.manager.backup_file import BackupDamaged, Secret, WrongKey
from swarmpy.node.manager.recovery import Beginning
from swarmpy.node.plan import roots
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import objects_pb2, recovery_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

from tests.integration.cluster import SWARMPY, missing

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
KEY = Secret(cluster_key=bytes(32))
ADDRESS = "10.9.8.7"


class Made:
    """A founded cluster (never started) with one more manager and a worker, and its backup."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "old"
        self.config = daemon_setup.init(
            NodeOptions(self.state, advertise_addr="10.9.8.1", hostname="m1"),
            ClusterOptions(raft_profile="wan"),
        )
        first = store_pb2.Transaction.FromString(Paths(self.state).bootstrap.read_bytes())
        for name, role in (("m2", types_pb2.ROLE_MANAGER), ("w1", types_pb2.ROLE_WORKER)):
            node = objects_pb2.Node(role=role)
            node.meta.id, node.meta.name, node.spec.role = (name * 25)[:25], name, role
            node.status.state = types_pb2.NODE_READY
            first.changes.add(put=wrap(node))
        first.epoch, first.new_epoch = 1, True
        self.store = Store()
        self.store.apply(70, first.SerializeToString())
        self.file = directory / "x.backup"
        header = recovery_pb2.BackupHeader(cluster_id=self.config.cluster_id, index=70, term=5, generation=2)
        backup_file.save(self.file, header, self.store.snapshot(), KEY, replace=False)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def restored(state: Path) -> Store:
    """What the manager process would begin with."""
    seed = Beginning(Paths(state)).seed()
    assert seed is not None
    assert (seed.index, seed.term, seed.generation) == (71, 5, 3)
    store = Store()
    store.restore(seed.chunks())
    return store


def test_new_machine_gets_a_new_identity_of_the_same_authority(made: Made, tmp_path: Path) -> None:
    state = tmp_path / "new"
    config = daemon_recover.restore(made.file, KEY, NodeOptions(state, ADDRESS, hostname="m9"), force=False)
    identity = Identity.load(Paths(state).certs)
    assert identity.cluster_id == made.config.cluster_id == config.cluster_id
    assert identity.node_id == config.node_id != made.config.node_id
    assert identity.role == types_pb2.ROLE_MANAGER
    assert identity.root_pem == Identity.load(Paths(made.state).certs).root_pem
    assert node_config.load(Paths(state)) == config
    assert (config.raft_profile, config.bootstrap) == ("wan", False)
    assert Paths(state).restore.stat().st_mode & 0o777 == 0o600

    store = restored(state)
    nodes = {node.meta.name: node for node in store.nodes()}
    assert set(nodes) == {"m1", "m2", "w1", "m9"}
    assert nodes["m9"].manager.control_address == f"{ADDRESS}:7377"
    managers = {name for name, node in nodes.items() if types_pb2.ROLE_MANAGER in (node.role, node.spec.role)}
    assert managers == {"m9"}
    assert nodes["w1"] == made.store.node(nodes["w1"].meta.id), "workers are as they were"
    assert nodes["w1"].status.state == types_pb2.NODE_READY
    assert store.cluster() == made.store.cluster()


@pytest.mark.parametrize("phase", ["issuing", "trusting"])
def test_in_the_middle_of_a_rotation_of_the_root_everybody_accepts_the_new_machine(
    made: Made, tmp_path: Path, phase: str
) -> None:
    old = made.store.cluster()
    assert old is not None
    cluster = copy_of(old)
    cluster.root_rotation.CopyFrom(rotation.begin(old, time.time_ns() // 1_000_000, "w", "m"))
    if phase == "trusting":
        cluster = roots.after(cluster, 1)
    change = store_pb2.Change(put=wrap(cluster), expected_version=old.meta.version)
    made.store.apply(71, transaction([change], epoch=1, now_ms=1))
    header = recovery_pb2.BackupHeader(cluster_id=made.config.cluster_id, index=71, term=5, generation=2)
    backup_file.save(made.file, header, made.store.snapshot(), KEY, replace=True)
    state = tmp_path / "new"
    daemon_recover.restore(made.file, KEY, NodeOptions(state, ADDRESS, hostname="m9"), force=False)
    identity = Identity.load(Paths(state).certs)
    assert identity.issuer == cluster.root_rotation.root_key_id
    assert identity.root_pem == cluster.root_certificate
    leaf, between = x509.load_pem_x509_certificates(identity.certificate_pem)
    for trusted in {old.root_certificate, cluster.root_certificate}:
        assert is_issued_under(leaf, [between], x509.load_pem_x509_certificate(trusted))


def test_old_machine_keeps_its_identity_and_its_containers(made: Made) -> None:
    paths = Paths(made.state)
    paths.raft.mkdir()
    (paths.raft / "0000000000000001.wal").write_text("old")
    paths.agent.mkdir()
    (paths.agent / "assignments.pb").write_text("kept")
    with pytest.raises(SetupError, match=r"already holds a node .* use --force"):
        daemon_recover.restore(made.file, KEY, NodeOptions(made.state), force=False)
    config = daemon_recover.restore(made.file, KEY, NodeOptions(made.state), force=True)
    assert config.node_id == made.config.node_id
    assert (config.advertise_addr, config.hostname) == ("10.9.8.1", "m1")
    assert not paths.raft.exists()
    assert len(list(made.state.glob("raft.before-restore-*/*.wal"))) == 1
    assert (paths.agent / "assignments.pb").read_text() == "kept"
    assert not paths.bootstrap.exists()
    assert {node.meta.name for node in restored(made.state).nodes()} == {"m1", "m2", "w1"}


def test_machine_of_another_cluster_is_cleared_first(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "other"
    before = daemon_setup.init(NodeOptions(other, advertise_addr="10.1.1.1"), ClusterOptions())
    (other / "leftover").write_text("x")
    key = tmp_path / "key"
    key.write_text(backup_file.key_text(KEY.cluster_key))
    # In a network namespace of its own: clearing a node also takes its network away.
    done = subprocess.run(
        ["unshare", "--net", "--", *SWARMPY, "restore", "--no-start", "--force", "--key-file", str(key),
         "--state-dir", str(other), "--advertise-addr", ADDRESS, str(made.file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = node_config.load(Paths(other))
    assert config.cluster_id == made.config.cluster_id != before.cluster_id
    assert not (other / "leftover").exists()


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("secret", "change", "error"),
    [
        (Secret(cluster_key=b"x" * 32), bytes, WrongKey),
        (KEY, flipped, BackupDamaged),
        (KEY, lambda data: data[: len(data) // 2], BackupDamaged),
    ],
    ids=["key", "flip", "cut"],
)
def test_what_cannot_be_read_changes_nothing(
    made: Made, tmp_path: Path, secret: Secret, change: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    file = tmp_path / "y.backup"
    file.write_bytes(change(made.file.read_bytes()))
    before = {path: path.read_bytes() for path in made.state.rglob("*") if path.is_file()}
    for state, force in ((tmp_path / "new", False), (made.state, True)):
        with pytest.raises(error):
            daemon_recover.restore(file, secret, NodeOptions(state, ADDRESS), force=force)
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in made.state.rglob("*") if path.is_file()} == before


def test_reattach_refuses_what_is_no_manager(made: Made) -> None:
    before = Paths(made.state).node_json.read_bytes()
    for address, sentence in (
        ("127.0.0.1:1", "no manager of this node's cluster"),
        ("here:x", "is not HOST"),
    ):
        with pytest.raises(SetupError, match=sentence):
            daemon_recover.reattach(made.state, address)
    assert Paths(made.state).node_json.read_bytes() == before


def test_restoring_needs_root(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError, match="needs root"):
        daemon_recover.restore(made.file, KEY, NodeOptions(tmp_path / "new", ADDRESS), force=False)
