"""The identity on disk survives a crash between any two of its writes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from swarmpy.node.ca import authority, identity
from swarmpy.node.ca.errors import BadIdentity
from swarmpy.proto import types_pb2

CLUSTER = identity.new_cluster_id()
ROOT = authority.new_root(CLUSTER, int(time.time() * 1000))


def make(node_id: str, lifetime_ms: int = 3_600_000) -> identity.Identity:
    key, csr = identity.new_key_and_csr()
    pem = authority.issue(
        ROOT, csr, node_id=node_id, cluster_id=CLUSTER, role=types_pb2.ROLE_MANAGER,
        now_ms=int(time.time() * 1000), lifetime_ms=lifetime_ms,
    )  # fmt: skip
    return identity.Identity.build(pem, key, ROOT.certificate_pem)


def test_save_and_load(tmp_path: Path) -> None:
    mine = make(identity.new_node_id())
    mine.save(tmp_path / "certs")
    assert identity.Identity.load(tmp_path / "certs") == mine
    assert (tmp_path / "certs").stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "certs").iterdir()} == {
        "node.crt": 0o600, "node.key": 0o600, "ca.crt": 0o600,
    }  # fmt: skip
    assert b"PRIVATE" not in repr(mine).encode()


class Crash(Exception):
    pass


def test_crash_between_writes_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make("a" * 25), make("a" * 25)
    real_replace = os.replace
    outcomes = []
    for survive in range(5):
        old.save(tmp_path)
        left = [survive]

        def replace(source: Path, target: Path, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            real_replace(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            new.save(tmp_path)
        except Crash:
            pass
        monkeypatch.undo()
        found = identity.Identity.load(tmp_path)
        assert found in (old, new)
        outcomes.append(found == new)
    assert outcomes == [False, False, False, True, True]


def test_file_follows_changes_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    first, second = make("a" * 25), make("a" * 25)
    first.save(tmp_path)
    source = identity.IdentityFile(tmp_path)
    assert source.current() == first
    second.save(tmp_path)
    assert source.current() == second
    (tmp_path / "node.crt").write_text("damaged")
    assert source.current() == second
    first.save(tmp_path)
    assert source.current() == first


def test_missing_and_mismatched_files(tmp_path: Path) -> None:
    with pytest.raises(BadIdentity, match="swarmpy join"):
        identity.Identity.load(tmp_path / "none")
    make("a" * 25).save(tmp_path)
    (tmp_path / "node.key").write_bytes(make("b" * 25).key_pem)
    with pytest.raises(BadIdentity, match="does not belong"):
        identity.Identity.load(tmp_path)


def test_renewal_is_due_between_half_and_four_fifths() -> None:
    mine = make("a" * 25, lifetime_ms=1_000_000)
    now_ms = time.time_ns() // 1_000_000
    for _ in range(50):
        assert 490_000 < identity.renewal_due_ms(mine) - now_ms < 805_000
    assert len({identity.renewal_due_ms(mine) for _ in range(20)}) > 10
