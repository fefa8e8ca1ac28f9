"""PySyncObj as the shell: the private names exist; its own wire, disk and pickle cannot be reached."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pysyncobj
import pytest
from pysyncobj import syncobj as parent_module
from swarmpy.raft import shell as shell_module
from swarmpy.raft.core import Core
from swarmpy.raft.core_log import CONFIGURATION, LAN, Configuration, Entry, Log, Member
from swarmpy.raft.shell import SyncObj, Unreachable, Waiter

ROOT = Path(__file__).resolve().parents[2]


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def on_timer(self) -> None:
        self.calls.append("timer")

    def on_message(self, message: object) -> None:
        self.calls.append(message)

    def submit(self, command: bytes, waiter: Waiter) -> None:
        self.calls.append(command)

    def on_lost(self, node_id: str) -> None:
        self.calls.append(("lost", node_id))

    def on_connected(self, node_id: str) -> None:
        self.calls.append(("connected", node_id))


def made() -> tuple[SyncObj, Recorder]:
    members = Configuration(1, (Member("n1", "a:1"), Member("n2", "b:1")))
    log = Log(0, 0, [Entry(1, 1, CONFIGURATION, members.to_message().SerializeToString())])
    recorder = Recorder()
    return SyncObj("n1", Core("n1", LAN, lambda: 0.5, 0, term=1, log=log), recorder), recorder


def test_every_private_name_used_exists_in_the_pinned_version() -> None:
    assert version("pysyncobj") == "0.3.17"
    (cls,) = [
        n for n in ast.parse(inspect.getsource(shell_module)).body if getattr(n, "name", "") == "SyncObj"
    ]
    used = {n.attr for n in ast.walk(cls) if isinstance(n, ast.Attribute) and n.attr.startswith("__")}
    defined = {n.name for n in ast.walk(cls) if isinstance(n, ast.FunctionDef)}
    assigned = {n.id for n in ast.walk(cls) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names = {n for n in used | defined | assigned if n.startswith("_")} - {
        "__init__",
        "__closed",
        "_core",
        "_engine",
    }
    source = inspect.getsource(parent_module)
    missing = {name for name in names if not re.search(rf"(self\.|def ){name}\b", source)}
    assert not missing, f"PySyncObj {version('pysyncobj')} has no {sorted(missing)}"
    assert len(names) > 30


def pickling_methods() -> set[str]:
    """Methods of PySyncObj's SyncObj whose own code pickles, dumps or loads."""
    (cls,) = [
        n for n in ast.parse(inspect.getsource(parent_module)).body
        if isinstance(n, ast.ClassDef) and n.name == "SyncObj"
    ]  # fmt: skip
    found = set()
    for method in cls.body:
        if isinstance(method, ast.FunctionDef):
            text = ast.unparse(method)
            if "pickle." in text or "__serializer.serialize" in text or "__serializer.deserialize" in text:
                found.add(method.name)
    return found


def test_every_method_that_would_pickle_is_closed() -> None:
    shell, _ = made()
    found = pickling_methods()
    assert "__doApplyCommand" in found, "the search finds nothing: PySyncObj changed"
    for name in found:
        own = f"_SyncObj{name}" if name.startswith("__") else name
        if name == "__onMessageReceived":
            continue  # replaced: test_messages_go_to_the_engine
        with pytest.raises(Unreachable):
            getattr(shell, own)(b"x")
    shell.destroy()


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.setCodeVersion(1),
        lambda s: s.addNodeToCluster("host:1"),
        lambda s: s.removeNodeFromCluster("host:1"),
        lambda s: s.transferLeadership(),
        lambda s: s.forceLogCompaction(),
        lambda s: s._applyCommand(b"x", None, 2),
        lambda s: s._checkCommandsToApply(),
        lambda s: s._SyncObj__sendAppendEntries(),
        lambda s: s._SyncObj__tryLogCompaction(),
        lambda s: s._SyncObj__raftLog.add(b"x", 1, 1),
        lambda s: s._SyncObj__transport.send(None, {}),
    ],
)
def test_closed_paths(act: Callable[[SyncObj], object]) -> None:
    shell, _ = made()
    with pytest.raises(Unreachable):
        act(shell)
    shell.destroy()


def test_the_engine_hears_ticks_messages_and_connections() -> None:
    shell, recorder = made()
    shell.doTick()
    assert shell.wire is not None
    shell.wire.connected("n2")
    shell.wire.lost("n2")
    assert recorder.calls == ["timer", ("connected", "n2"), ("lost", "n2")]
    shell.destroy()


def test_status_shows_the_core() -> None:
    shell, _ = made()
    shell.mirror(1, ["n2"])
    assert shell.wire is not None
    shell.wire.connected("n2")
    status = shell.getStatus()
    assert status["self"].id == "n1"
    assert (status["raft_term"], status["last_applied"], status["log_len"]) == (1, 1, 1)
    assert status["partner_nodes_count"] == 1
    assert status["partner_node_status_server_n2"] == 2
    assert shell.hasQuorum
    shell.destroy()


def test_no_pickle_is_called_in_a_running_member(tmp_path: Path) -> None:
    """A cluster of one, commands, a snapshot and a restart, with every pickle call made fatal."""
    code = f"""
import pickle, pysyncobj, pysyncobj.pickle as theirs, pysyncobj.journal, sys
def never(*a, **k): raise SystemExit("pickle was called")
for module in (pickle, theirs, pysyncobj.journal):
    for name in ("loads", "dumps", "load", "dump", "Pickler", "Unpickler"):
        if hasattr(module, name): setattr(module, name, never)
sys.path.insert(0, {str(ROOT)!r})
import asyncio
from pathlib import Path
from tests.integration.raft_cluster import Cluster
from swarmpy.raft.checkpoint import Limits
async def main():
    cluster = Cluster(Path({str(tmp_path)!r}), limits=Limits(snapshot_entries=5, trailing_entries=2))
    await cluster.of_three()
    for i in range(20): await cluster.propose(b"x")
    await cluster.stop_all()
    await cluster.start("n1"); await cluster.start("n2")
    await cluster.propose(b"y")
    await cluster.stop_all()
asyncio.run(main())
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr


def test_it_is_a_pysyncobj() -> None:
    assert issubclass(SyncObj, pysyncobj.SyncObj)
    assert SyncObj.__name__ == pysyncobj.SyncObj.__name__
