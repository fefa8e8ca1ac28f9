"""Which build a node runs: the record, and what is chosen at a start, whatever happened before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from swarmpy.node import builds
from swarmpy.node.builds import Record

A, B = "a" * 64, "b" * 64
INSTALLED = "0.1.0"
SOURCE = Path(__file__).parents[2] / ".src"


def made(state: Path, *names: str) -> None:
    for name in names:
        path = builds.launcher(state, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)


def on_trial(stage: str = builds.ROLES, current: str = "", trial: str = A) -> Record:
    record = Record()
    record.installed, record.current = INSTALLED, current
    record.began(trial, 7, 60.0)
    record.stage = stage
    return record


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = on_trial()
    builds.save(tmp_path, record)
    assert vars(builds.load(tmp_path)) == vars(record)
    assert vars(builds.load(tmp_path / "nothing")) == vars(Record())


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff"])
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str) -> None:
    builds.save(tmp_path, on_trial())
    (tmp_path / "builds" / "record.json").write_bytes(text.encode("latin-1"))
    assert vars(builds.load(tmp_path)) == vars(Record())


def test_a_value_of_another_kind_is_not_taken(tmp_path: Path) -> None:
    builds.save(tmp_path, on_trial())
    (tmp_path / "builds" / "record.json").write_text(
        '{"current": 3, "attempt": "x", "trial": 5, "starts": 2}'
    )
    record = builds.load(tmp_path)
    assert (record.current, record.attempt, record.trial, record.starts) == ("", 0, None, 2)


def test_the_way_of_a_build_that_is_healthy(tmp_path: Path) -> None:
    made(tmp_path, A)
    record = on_trial()
    assert builds.choose(tmp_path, record, INSTALLED) == ""  # its roles run under the daemon at hand
    record.proved()
    assert builds.choose(tmp_path, record, INSTALLED) == A
    record.proved()
    assert (record.current, record.previous, record.trial) == (A, "", None)
    assert builds.choose(tmp_path, record, INSTALLED) == A


def test_a_daemon_that_never_proves_itself_is_started_a_few_times_only(tmp_path: Path) -> None:
    made(tmp_path, A, B)
    record = on_trial(builds.DAEMON, current=B)
    chosen = [builds.choose(tmp_path, record, INSTALLED) for _ in range(builds.START_TRIES + 2)]
    assert chosen == [A] * builds.START_TRIES + [B, B]
    assert record.trial is None
    assert "never healthy" in record.failed
    assert record.attempt == 7


def test_going_back_to_what_is_installed_is_a_trial_like_any(tmp_path: Path) -> None:
    made(tmp_path, A)
    record = on_trial(builds.DAEMON, current=A, trial="")
    assert builds.choose(tmp_path, record, INSTALLED) == ""
    assert record.starts == 1
    record.proved()
    assert (record.current, record.previous) == ("", A)


@pytest.mark.parametrize("stage", [None, builds.ROLES, builds.DAEMON])
def test_what_is_installed_by_hand_wins(tmp_path: Path, stage: str | None) -> None:
    made(tmp_path, A, B)
    record = on_trial(stage or builds.ROLES, current=B)
    if stage is None:
        record.trial = None
    assert builds.choose(tmp_path, record, "0.3.0") == ""
    assert (record.current, record.trial, record.installed) == ("", None, "0.3.0")
    assert builds.choose(tmp_path, record, "0.3.0") == ""


def test_a_build_that_is_gone_leaves_the_node_to_what_is_installed(tmp_path: Path) -> None:
    record = on_trial()
    record.trial, record.current = None, A
    assert builds.choose(tmp_path, record, INSTALLED) == ""
    assert record.current == ""
    assert "not on this node's disk" in record.failed


def test_the_environment_of_another_build_has_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in builds.OWN_VARIABLES:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/builds/{A}/lib:/opt/mine")
    monkeypatch.setenv("KEPT", "1")
    found = builds.environment(tmp_path)
    assert not set(builds.OWN_VARIABLES) & set(found)
    assert (found["PYTHONPATH"], found["KEPT"]) == ("/opt/mine", "1")


def test_the_link_to_the_current_build(tmp_path: Path) -> None:
    made(tmp_path, A, B)
    for name in (A, B):
        builds.point(tmp_path, name)
        assert builds.current_link(tmp_path).resolve().name == name
    builds.point(tmp_path, "")
    builds.point(tmp_path, "")
    assert not builds.current_link(tmp_path).is_symlink()


def command(link: Path, *arguments: str, **variables: str) -> str:
    """What `swarmpy ARGUMENTS` comes to where the node's build is behind `link`."""
    code = "import sys; from pathlib import Path; from swarmpy.cli.main import become_current; "
    code += "become_current(Path(sys.argv.pop(1))); print('stays')"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWARMPY_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(link), *arguments], capture_output=True, text=True, check=True,
        env={**kept, "PYTHONPATH": str(SOURCE), **variables},
    )  # fmt: skip
    return done.stdout.strip()


def test_commands_are_carried_out_by_the_build_that_the_node_runs(tmp_path: Path) -> None:
    made(tmp_path, A)
    builds.launcher(tmp_path, A).write_text('#!/bin/sh\necho "$SWARMPY_INSTALLED: $@"\n')
    link = builds.current_link(tmp_path)
    assert command(link, "node", "ls") == "stays"  # there is none yet
    builds.point(tmp_path, A)
    said = command(link, "node", "ls", SWARMPY_BINARY="/usr/bin/swarmpy")
    assert said == "/usr/bin/swarmpy: -P -m swarmpy.cli.main node ls"
    assert command(link, "node", "ls", SWARMPY_BUILD=A) == "stays"  # it is that build
    for starts_one in ("daemon", "init", "join"):
        assert command(link, starts_one) == "stays"
    builds.launcher(tmp_path, A).write_text("no program")
    assert command(link, "node", "ls") == "stays"
