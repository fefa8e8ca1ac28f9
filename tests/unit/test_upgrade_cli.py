"""`swarmpy upgrade`: which files it takes, in which order it goes, and what the cluster is told."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from swarmpy.cli import upgrade, upgrade_file
from swarmpy.cli.errors import CliError
from swarmpy.cli.upgrade_file import Build
from swarmpy.proto import objects_pb2, types_pb2

from tests import builds

BUILD = Build(Path("swarmpy"), "0.2.0", "swarmpy", "amd64")


def node(name: str, *, manager: bool = False, version: str = "0.1.0", **fields: Any) -> objects_pb2.Node:
    made = objects_pb2.Node(role=types_pb2.ROLE_MANAGER if manager else types_pb2.ROLE_WORKER)
    made.meta.id, made.meta.name = f"id-{name}", name
    made.description.version, made.description.state_level = version, 1
    made.description.platform.architecture = "amd64"
    made.status.state = fields.get("state", types_pb2.NODE_READY)
    made.description.build.digest = fields.get("digest", "")
    made.description.build.state = fields.get("build", objects_pb2.BUILD_SETTLED)
    return made


@pytest.mark.parametrize(
    ("one", "other", "far"),
    [
        ("0.1.0", "0.2.0", False), ("0.2.0", "0.1.9", False), ("0.1.0", "0.1.0", False), ("1.9.3", "1.10.0", False),
        ("0.1.0", "0.3.0", True), ("0.9.0", "1.0.0", True), ("0.1.0", "unknown", True), ("", "0.1.0", True),
        ("0.2.0rc1", "0.1.0", False),
    ],
)  # fmt: skip
def test_versions_next_to_each_other_may_run_together(one: str, other: str, far: bool) -> None:
    assert upgrade_file.too_far(one, other) is far


def test_workers_first_and_the_leader_last() -> None:
    nodes = [
        node("n1", manager=True),
        node("n2", manager=True),
        node("n3", manager=True),
        node("w2"),
        node("w1"),
    ]
    plan = upgrade.steps(nodes, "id-n2", "0.2.0", "", skip_down=False)
    assert [(step.node, step.role) for step in plan] == [
        ("w1", "worker"), ("w2", "worker"), ("n1", "manager"), ("n3", "manager"), ("n2", "leader"),
    ]  # fmt: skip
    assert {step.action for step in plan} == {"upgrade"}


def test_run_again_it_goes_on_with_what_is_not_done() -> None:
    nodes = [
        node("w1", version="0.2.0", digest="sha256:new"), node("w2", version="0.2.0", digest="sha256:other"),
        node("w3", version="0.2.0"), node("w4", version="0.2.0", digest="sha256:new", build=objects_pb2.BUILD_TRYING),
        node("w5"), node("w6", state=types_pb2.NODE_DOWN),
    ]  # fmt: skip
    plan = upgrade.steps(nodes, "", "0.2.0", "sha256:new", skip_down=True)
    assert {step.node: step.action for step in plan} == {
        "w1": "skip", "w2": "upgrade", "w3": "skip", "w4": "upgrade", "w5": "upgrade", "w6": "skip",
    }  # fmt: skip
    with pytest.raises(CliError, match="Node w6 is not ready"):
        upgrade.steps(nodes, "", "0.2.0", "sha256:new", skip_down=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: setattr(n.description, "version", "0.4.0"), "only versions next to each other"),
        (lambda n: setattr(n.description, "state_level", 0), "too old to exchange its build"),
        (lambda n: setattr(n.description.platform, "architecture", "arm64"), "is a arm64"),
    ],
)
def test_what_the_cluster_cannot_take_is_refused_before_anything_is_done(change: Any, message: str) -> None:
    cluster, changed = objects_pb2.Cluster(), node("n1")
    upgrade.check([changed], cluster, BUILD, skip_check=False)
    change(changed)
    with pytest.raises(CliError, match=message):
        upgrade.check([changed], cluster, BUILD, skip_check=False)
    cluster.spec.autolock = True
    with pytest.raises(CliError, match="autolock"):
        upgrade.check([node("n1")], cluster, BUILD, skip_check=False)


def test_a_version_further_away_takes_a_flag() -> None:
    upgrade.check([node("n1", version="0.9.0")], objects_pb2.Cluster(), BUILD, skip_check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builds.wheel(tmp_path_factory.mktemp("wheel"), "0.2.0")


def test_a_wheel_and_a_program_are_known_by_what_they_hold(wheel: Path, tmp_path: Path) -> None:
    found = upgrade_file.look_at(wheel)
    assert (found.version, found.member, found.reference) == ("0.2.0", "swarmpy.whl", "swarmpy-build:0.2.0")
    found = upgrade_file.look_at(builds.program(tmp_path, "0.2.1"))
    assert (found.version, found.member) == ("0.2.1", "swarmpy")


def test_files_that_are_no_build_are_refused_with_a_reason(wheel: Path, tmp_path: Path) -> None:
    data = wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    middle = largest.header_offset + largest.compress_size // 2  # of its data
    flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    packed = b'#!/bin/sh\nset -e\ntail -n +4 "$0" | gzip -dc\n' + gzip.compress(b"echo swarmpy 0.2.0\n" * 99)
    cases = {
        "empty": (b"", "has 0 bytes"),
        "cut-wheel": (data[:middle], "is damaged"),
        "flipped-wheel": (flipped, "is damaged"),
        "package": (b"!<arch>\ndebian-binary", "Debian package"),
        "text": (b"hello\n", "no program that runs|no working build"),
        "other": (b"#!/bin/sh\necho other 1.0\n", "no working build.*'other 1.0'"),
        "fails": (b"#!/bin/sh\necho swarmpy 0.2.0\nexit 3\n", "ended with 3"),
        "odd": (b"#!/bin/sh\necho swarmpy banana\n", "no version number"),
        "cut-program": (packed[:-20], "no working build"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CliError, match=message):
            upgrade_file.look_at(path)
    with pytest.raises(CliError, match="cannot be read"):
        upgrade_file.look_at(tmp_path / "absent")


def test_the_same_file_is_the_same_image(tmp_path: Path) -> None:
    program = builds.program(tmp_path, "0.2.0")
    build = upgrade_file.look_at(program)
    texts = []
    for number in (1, 2):
        (directory := tmp_path / f"out{number}").mkdir()
        path = upgrade_file.archive(build, directory)
        texts.append(path.read_bytes())
        assert [entry.name for entry in directory.iterdir()] == ["image.tar"]
    assert texts[0] == texts[1]
    with tarfile.open(tmp_path / "out1" / "image.tar") as archive:
        layer = archive.extractfile("layer.tar")
        assert layer is not None
        with tarfile.open(fileobj=layer) as inner:
            member = inner.extractfile("swarmpy")
            assert member is not None
            assert member.read() == program.read_bytes()


def test_the_plan_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    upgrade._show(upgrade.steps([node("w1")], "", "0.2.0", "", skip_down=False), BUILD, "json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["nodes"][0]["action"] == "upgrade"
    assert shown["version"] == "0.2.0"


def test_tasks_that_somebody_stopped_are_not_lost_and_those_of_a_silent_node_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upgrade, "TASKS_S", 0.0)

    def task(name: str, state: int, desired: int, reason: str = "") -> objects_pb2.Task:
        made = objects_pb2.Task(node_id="n", desired_state=desired, stop_reason=reason)  # type: ignore[arg-type]
        made.meta.id = made.meta.name = name
        made.status.state = state  # type: ignore[assignment]
        return made

    running, shutdown = types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN
    tasks = [
        task("same", running, running), task("scaled-down", shutdown, shutdown, "UPDATE"),
        task("died", types_pb2.TASK_FAILED, running), task("orphan", running, shutdown, "NODE_DOWN"),
        task("replaced", shutdown, shutdown, "NODE_DOWN"),
    ]  # fmt: skip
    client: Any = SimpleNamespace(find=lambda kind, **filters: tasks)
    before = {task.meta.id for task in tasks}
    assert upgrade._lost(client, "n", before) == ["died: failed, ", "replaced: shutdown, NODE_DOWN"]


def test_a_node_that_was_just_restarted_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upgrade, "POLL_S", 0.0)
    seen = [[node("w1", state=types_pb2.NODE_DOWN), node("w2")], [node("w1"), node("w2")]]
    client: Any = SimpleNamespace(find=lambda kind: seen.pop(0))
    assert [found.status.state for found in upgrade._gathered(client, 5_000)] == [types_pb2.NODE_READY] * 2
    assert not seen
    assert capsys.readouterr().err == "Waiting for w1, not ready …\n"


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "GATHER_S", 0.0)
    client: Any = SimpleNamespace(find=lambda kind: [node("w1", state=types_pb2.NODE_DOWN)])
    (found,) = upgrade._gathered(client, 5_000)
    assert found.status.state == types_pb2.NODE_DOWN
