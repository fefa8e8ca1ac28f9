"""`volume …` against a Control server: flags as Docker writes them, lists, pruning, moves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from swarmpy.cli.main import root
from swarmpy.cli.volume_data import source_file, target_file
from swarmpy.proto import objects_pb2, types_pb2

from tests.contract.cli_double import Double, Server, add_node

Run = Callable[..., Result]


@pytest.fixture
def double() -> Iterator[Double]:
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-volume-", dir="/tmp"))
    double = Double()
    for name in ("n1", "n2"):
        add_node(double, name, manager=True)
    made = Server(directory / "control.sock", double)
    made.start()
    double.path = made.path  # type: ignore[attr-defined]
    yield double
    made.stop()
    shutil.rmtree(directory)


@pytest.fixture
def run(double: Double) -> Run:
    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(root, ["-H", f"unix://{double.path}", *arguments], **options)  # type: ignore[attr-defined]

    return invoke


def volume(double: Double, name: str, node: str = "n1", **more: Any) -> Any:
    made = objects_pb2.Volume(**more)
    made.meta.name = name
    if node:
        made.node_id = double.find("node", node).meta.id
        made.holders.append(made.node_id)
    return double.put(made)


def used_by(double: Double, made: Any, service: str = "web") -> None:
    task = objects_pb2.Task(service_name=service, slot=1, desired_state=types_pb2.TASK_RUNNING)
    task.meta.name = f"{service}.1.x"
    task.status.state = types_pb2.TASK_RUNNING
    task.volumes.add(source=made.meta.name, volume_id=made.meta.id)
    double.put(task)


def test_create(run: Run, double: Double) -> None:
    flags = [
        "--driver",
        "local",
        "--opt",
        "type=nfs",
        "-o",
        "device=srv:/x",
        "--opt",
        "o=vers=4,rw",
        "--label",
        "a=b",
    ]
    result = run("volume", "create", *flags, "data")
    assert (result.exit_code, result.stdout) == (0, "data\n")
    made = double.find("volume", "data")
    assert dict(made.spec.options) == {"type": "nfs", "device": "srv:/x", "o": "vers=4,rw"}
    assert dict(made.meta.labels) == {"a": "b"}
    result = run("volume", "create")
    assert len(result.stdout.strip()) == 64, "without a name it has one of 64 digits, as with Docker"
    for wrong in (["--driver", "x"], ["--scope", "single"], ["--opt", "size"], ["--availability", "drain"]):
        assert run("volume", "create", *wrong, "other").exit_code == 2, wrong


def test_mounts(run: Run, double: Double) -> None:
    text = "type=volume,src=db-{{.Task.Slot}},dst=/data,volume-nocopy,volume-label=a=b"
    text += ',volume-opt=type=nfs,"volume-opt=o=addr=h,rw"'
    result = run("service", "create", "-d", "--name", "db", "--mount", text, "ok:1")
    assert result.exit_code == 0, result.output
    mount = double.find("service", "db").spec.task.container.mounts[0]
    assert dict(mount.volume_options) == {"type": "nfs", "o": "addr=h,rw"}
    assert dict(mount.volume_labels) == {"a": "b"}
    assert mount.volume_nocopy
    for wrong in (
        "type=bind,src=/a,dst=/b,volume-nocopy",
        "type=volume,src=a,dst=/b,bind-propagation=rshared",
        "src=a,dst=/b,volume-driver=rexray",
        "type=tmpfs,dst=/b,volume-opt=size=1m",
    ):
        result = run("service", "create", "-d", "--name", "x", "--mount", wrong, "ok:1")
        assert result.exit_code == 2, wrong


def test_lists(run: Run, double: Double) -> None:
    used_by(double, volume(double, "data"))
    moving = volume(double, "moving")
    moving.move.state, moving.move.to_id = objects_pb2.VOLUME_MOVE_COPYING, double.find("node", "n2").meta.id
    double.put(moving)
    volume(double, "share", "", spec=objects_pb2.VolumeSpec(options={"type": "nfs"}))
    volume(double, "gone", pending_delete=True)
    lines = [line.split(maxsplit=3) for line in run("volume", "ls").stdout.splitlines()]
    assert lines == [
        ["DRIVER", "VOLUME", "NAME", "NODE    STATUS"],
        ["local", "data", "n1", "in use"],
        ["local", "gone", "n1", "removing"],
        ["local", "moving", "n1", "moving to n2: copying"],
        ["local", "share", "(nfs)", "unused"],
    ]
    assert run("volume", "ls", "-q", "-f", "dangling=false").stdout == "data\n"
    assert run("volume", "ls", "-q", "-f", "node=n2").stdout == ""
    assert run("volume", "ls", "-q", "-f", "name=o").stdout == "gone\nmoving\n"
    assert run("volume", "ls", "--format", "{{.Name}}@{{.Node}}", "-f", "name=data").stdout == "data@n1\n"
    assert run("volume", "ls", "-f", "size=1").exit_code == 2


def test_prune_keeps_what_has_a_name_and_what_is_named(run: Run, double: Double) -> None:
    used_by(double, volume(double, "used"))
    volume(double, "idle")
    labelled = volume(double, "labelled")
    labelled.meta.labels["keep"] = "yes"
    double.put(labelled)
    volume(double, "named")
    run("service", "create", "-d", "--name", "web", "--mount", "src=named,dst=/x", "ok:1")
    volume(double, "slot-3")
    run("service", "create", "-d", "--name", "db", "--mount", "src=slot-{{.Task.Slot}},dst=/x", "ok:1")
    result = run("volume", "prune", "-f")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "--all: 2 unused" in result.stderr
    result = run("volume", "prune", "-a", "--plan", "--filter", "label!=keep")
    assert (result.exit_code, result.stdout) == (2, "- volume idle\n")
    assert run("volume", "prune", "-a", input="n\n").exit_code == 130
    assert double.find("volume", "idle")
    assert run("volume", "prune", "-a", "--filter", "label!=keep", input="y\n").stdout == "idle\n"
    assert {v.meta.name for v in double.objects["volume"].values()} == {"used", "labelled", "named", "slot-3"}
    assert run("volume", "prune", "-a", "--plan", "--filter", "label=none").exit_code == 0


def test_update_changes_labels(run: Run, double: Double) -> None:
    made = volume(double, "data")
    made.meta.labels.update({"a": "1", "b": "2"})
    double.put(made)
    assert run("volume", "update", "--label-add", "c=3", "--label-rm", "a", "data").stdout == "data\n"
    assert dict(double.find("volume", "data").meta.labels) == {"b": "2", "c": "3"}
    assert run("volume", "update", "data").exit_code == 2
    assert run("volume", "update", "--availability", "drain", "data").exit_code == 2


def test_rm(run: Run, double: Double) -> None:
    volume(double, "a")
    volume(double, "b")
    result = run("volume", "rm", "a", "nothing", "b")
    assert (result.exit_code, result.stdout) == (4, "a\nb\n")
    assert run("volume", "rm", "-f", "nothing").exit_code == 0


def test_move_is_a_wish_that_is_counted(run: Run, double: Double) -> None:
    made = volume(double, "data")
    assert run("volume", "mv", "-d", "data", "n2").stdout == "data\n"
    wanted = double.find("volume", "data")
    assert (wanted.spec.node_id, wanted.spec.moves) == (
        double.find("node", "n2").meta.id,
        made.spec.moves + 1,
    )
    assert run("volume", "mv", "data", "n9").exit_code == 4
    assert run("volume", "mv", "nothing", "n2").exit_code == 4
    assert run("volume", "mv", "--plan", "data", "n1").exit_code == 0, "it is there"


def test_files_appear_whole(tmp_path: Path) -> None:
    for name in ("plain.tar", "packed.tar.gz"):
        file = tmp_path / name
        with target_file(str(file)) as write:
            write(b"some" * 1000)
            assert not file.exists()
        with source_file(str(file)) as archive:
            assert archive.read(10_000) == b"some" * 1000
    with pytest.raises(ValueError, match="broke"), target_file(str(tmp_path / "broken")) as write:
        raise ValueError("broke")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.tar.gz", "plain.tar"]
