"""Reads and watches of a real cluster while its leader dies, and while a manager is cut off."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from swarmpy.proto import control_pb2, control_pb2_grpc, store_pb2

from tests.integration.cluster import Cluster, missing, wait_for

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def managers() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    made = Cluster(f"swarmpy-reads-{os.getpid()}")
    try:
        made.up(nodes=3, managers=3)
        yield made
    finally:
        if made.root.exists() or made.run_root.exists():
            made.down()


def leader_of(managers: Cluster) -> str:
    """The leader's host name, when a majority agrees that there is one."""
    try:
        with managers.control(managers.managers()[0]) as stub:
            status = stub.Status(control_pb2.StatusRequest(), timeout=5)
    except grpc.RpcError:  # a killed one has left its socket behind and is not back yet
        return ""
    names = [m.hostname for m in status.members if m.leader and not status.HasField("staleness")]
    return str(names[0]) if names else ""


class Following(threading.Thread):
    """A watch on networks at one manager: what came, and how and when it ended."""

    def __init__(self, stub: control_pb2_grpc.ControlStub, **request: int) -> None:
        super().__init__(daemon=True)
        wanted = control_pb2.WatchRequest(kinds=[store_pb2.KIND_NETWORK], progress_ms=200, **request)
        self.call = stub.Watch(wanted, timeout=60)
        self.events: list[control_pb2.Event] = []
        self.code: grpc.StatusCode | None = None
        self.ended_s = 0.0
        self.start()

    def run(self) -> None:
        try:
            for event in self.call:
                self.events.append(event)
        except grpc.RpcError as error:
            self.code, self.ended_s = error.code(), time.monotonic()

    def names(self) -> list[str]:
        return [e.object.network.meta.name for e in self.events if e.action == control_pb2.EVENT_CREATE]


def test_a_watch_goes_on_without_gap_or_repetition_when_the_leader_is_killed(managers: Cluster) -> None:
    leader = wait_for(lambda: leader_of(managers), 20, "a leader")
    follower = next(name for name in managers.managers() if name != leader)
    managers.cli("network", "create", "before")
    with managers.control(follower) as stub:
        first = Following(stub)
        wait_for(lambda: first.events, 10, "SYNC")
        managers.cli("network", "create", "seen")
        wait_for(lambda: "seen" in first.names(), 10, "the first change")
        managers.kill(leader, "manager")
        managers.cli("network", "create", "during")
        wait_for(lambda: first.code, 10, "the end of the proxied watch")
        assert first.code is grpc.StatusCode.UNAVAILABLE
        managers.cli("network", "create", "after")
        last = max(event.index for event in first.events)
        wait_for(lambda: leader_of(managers), 20, "a leader")
        second = Following(stub, after_index=last)
        wait_for(lambda: len(second.names()) == 2, 10, "the rest")
        second.call.cancel()
    assert first.names() + second.names() == ["seen", "during", "after"]


def test_a_cut_off_leader_shows_nothing_but_a_marked_copy(managers: Cluster) -> None:
    wait_for(lambda: len(managers.managers()) == 3, 20, "three managers")
    leader = wait_for(lambda: leader_of(managers), 20, "a leader")
    others = [name for name in managers.managers() if name != leader]
    listing = control_pb2.ListRequest(kind=store_pb2.KIND_NETWORK)
    with managers.control(leader) as stub:
        watch = Following(stub)
        wait_for(lambda: watch.events, 10, "SYNC")
        managers.demo("partition", f"{leader}|{','.join(others)}")
        try:
            managers.at(others[0], "network", "create", "unseen")
            with pytest.raises(grpc.RpcError) as refused:
                stub.List(listing, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            wait_for(lambda: watch.code, 5, "the end of the watch at the leader that was")
            assert watch.code is grpc.StatusCode.UNAVAILABLE
            listing.stale = True
            copy = stub.List(listing, timeout=5)
            assert "unseen" not in {item.network.meta.name for item in copy.objects}
            assert copy.staleness.age_ms > 500
            shown = managers.at(leader, "--stale", "network", "ls")
            assert "last heard from the others" in shown.stderr
            assert stub.Status(control_pb2.StatusRequest(), timeout=10).HasField("staleness")
        finally:
            managers.demo("heal")
    shown = managers.at(leader, "network", "ls")
    assert "unseen" in shown.stdout
    assert "Stale" not in shown.stderr


def test_a_copy_waits_for_the_clients_own_writes(managers: Cluster) -> None:
    wait_for(lambda: leader_of(managers), 20, "a leader")
    index = 0
    for number in range(5):
        network = store_pb2.Object()
        network.network.meta.name = f"own{number}"
        with managers.control(managers.managers()[0]) as stub:
            index = stub.Create(
                control_pb2.CreateRequest(object=network, request_id=f"own{number}"), timeout=10
            ).index
        for name in managers.managers():
            with managers.control(name) as stub:
                request = control_pb2.GetRequest(
                    kind=store_pb2.KIND_NETWORK, ref=f"own{number}", stale=True, min_index=index
                )
                assert stub.Get(request, timeout=10).staleness.index >= index
