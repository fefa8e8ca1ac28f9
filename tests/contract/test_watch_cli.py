"""The command line over managers that come and go: watches that go on, writes of unknown outcome."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from swarmpy.cli.client import Client
from swarmpy.cli.main import root
from swarmpy.cli.watch import RESTART, Watcher
from swarmpy.proto import control_pb2, objects_pb2

from tests.contract.cli_double import Double, Refusal, Server


@pytest.fixture
def server() -> Iterator[Server]:
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-watch-", dir="/tmp"))
    made = Server(directory / "control.sock", Double())
    made.start()
    yield made
    made.stop()
    shutil.rmtree(directory)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    made = Client([f"unix://{server.path}"], 5)
    yield made
    made.close()


def put(double: Double, name: str) -> int:
    network = objects_pb2.Network()
    network.meta.name = name
    return int(double.put(network).meta.version)


def names(watcher: Watcher, number: int) -> list[Any]:
    """Names of changes; RESTART and SYNC as they are, but not the ones at the start."""
    found: list[Any] = []
    while len(found) < number:
        event = watcher.get(10)
        assert event is not None, found
        if event is RESTART:
            found.append(RESTART)
        elif event.action != control_pb2.EVENT_SYNC:
            found.append(event.object.network.meta.name)
    return found


def test_after_a_break_it_goes_on_from_where_it_was(server: Server, client: Client) -> None:
    double = server.double
    put(double, "a")
    with Watcher(client, ["network"]) as watcher:
        assert names(watcher, 2) == [RESTART, "a"]
        put(double, "b")
        assert names(watcher, 1) == ["b"]
        double.break_watches()
        put(double, "c")
        put(double, "d")
        assert names(watcher, 2) == ["c", "d"]
    first, second = [r for r in double.requests if isinstance(r, control_pb2.WatchRequest)][:2]
    assert (first.initial_list, first.after_index) == (True, 0)
    assert (second.initial_list, second.after_index) == (False, 2)


def test_where_nobody_knows_so_far_back_it_begins_anew(server: Server, client: Client) -> None:
    double = server.double
    put(double, "a")
    with Watcher(client, ["network"]) as watcher:
        assert names(watcher, 2) == [RESTART, "a"]
        double.past_from = double.index + 10
        put(double, "b")
        assert names(watcher, 1) == ["b"]
        double.break_watches()
        assert names(watcher, 3) == [RESTART, "a", "b"]


def test_a_transaction_cut_in_the_middle_is_shown_once_and_whole(server: Server, client: Client) -> None:
    double = server.double
    with Watcher(client, ["network"]) as watcher:
        assert names(watcher, 1) == [RESTART]
        first = put(double, "a")
        assert names(watcher, 1) == ["a"]
        with double.lock:
            index = double.index + 1
            double.index = index
            parts = [control_pb2.Event(index=index, last_of_index=last) for last in (False, True)]
            for part, name in zip(parts, ("b1", "b2"), strict=True):
                part.object.network.meta.name = name
                double.past.append(("network", part))
            double.watchers[0][1].put(parts[0])  # the other half is lost with the manager
            double.break_watches()
        assert names(watcher, 2) == ["b1", "b2"]
    assert first < index


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE])
def test_a_write_of_unknown_outcome_says_so(server: Server, code: grpc.StatusCode) -> None:
    server.double.refuse += [("Create", Refusal(code, "the answer was lost"))] * 100
    arguments = ["-H", f"unix://{server.path}", "--timeout", "600ms", "network", "create", "x"]
    result = CliRunner().invoke(root, arguments)
    assert result.exit_code == 8
    assert "not known whether the change was made: the answer was lost" in result.stderr
    assert server.double.calls.count("Create") > 1
