"""What a support bundle must not hold, and what it must."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.cli.main import root
from swarmpy.node import daemon_bundle
from swarmpy.node.daemon_bundle import redacted

CANARY = "canary-5b1f"
NAMES = st.sampled_from(["worker_secret", "password", "root_key", "join_token", "registry_auth", "labels"])
VALUES = st.recursive(
    st.just(CANARY),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1),
)


def test_values_of_secrets_are_hidden_and_names_stay() -> None:
    found = redacted({
        "name": "web", "env": [f"DB_PASSWORD={CANARY}", "PATH"], "labels": {"owner": CANARY}, "replicas": 3,
        "registry_auth": CANARY, "health": {"test": ["CMD", "true"]}, "private_key": "", "networks": ["n1"],
    })  # fmt: skip
    assert found["env"] == ["DB_PASSWORD=(hidden)", "PATH=(hidden)"]
    assert found["labels"] == {"owner": "(hidden)"}
    assert (found["name"], found["replicas"], found["health"]) == ("web", 3, {"test": ["CMD", "true"]})
    assert CANARY not in json.dumps(found)


@given(VALUES, NAMES, st.lists(st.sampled_from(["spec", "task", "items"]), max_size=3))
def test_whatever_the_shape_and_depth_a_secret_field_shows_nothing(
    value: object, name: str, above: list[str]
) -> None:
    whole: object = {name: value, "kept": "seen"}
    for outer in above:
        whole = {outer: [whole]}
    shown = json.dumps(redacted(whole))
    assert CANARY not in shown
    assert "seen" in shown


@pytest.mark.skipif(os.geteuid() != 0, reason="the daemon's files belong to root")
def test_the_bundle_of_a_machine_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    (state / "certs").mkdir(parents=True)
    (state / "certs" / "node.key").write_text(CANARY)
    (state / "node.json").write_text(json.dumps({"node_id": "n", "unlock_key": CANARY}))
    (state / "daemon.log").write_text("12:00:00 supervisor started\n")
    monkeypatch.setenv("SWARMPY_STATE_DIR", str(state))
    target = tmp_path / "bundle.tar.gz"
    done = CliRunner().invoke(root, ["support-bundle", "--state-dir", str(state), str(target)])
    assert done.exit_code == 0, done.output
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        content = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    names = {name.removeprefix("swarmpy-support/") for name in content}
    assert set(daemon_bundle.COMMANDS) <= names
    assert {"machine/facts.json", "machine/doctor.json", "node/node.json", "log/daemon.log"} <= names
    assert "cluster/problem.json" in names
    assert not [name for name, data in content.items() if CANARY.encode() in data]
    assert b"certs/node.key" in content["swarmpy-support/node/files.txt"], "that it is there is shown"
    assert not (tmp_path / "bundle.tar.gz.partial").exists()
