"""A change of a service's labels alone concerns no planner and no node; any other change does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.node.manager.assignments import SharedItems
from swarmpy.node.manager.loop import LoopState
from swarmpy.node.plan.planners import all_planners
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.store import Commit, Store, result_of, transaction
from swarmpy.raft.tables import wrap


def changed(change: Callable[[objects_pb2.Service], object]) -> tuple[Store, Commit]:
    """A store with a service, and the commit of a change of it."""
    store, commits = Store(), list[Commit]()
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = "s1"
    service.meta.name = "web"
    service.spec.replicated.replicas = 0
    service.meta.labels["a"] = "1"
    put = store_pb2.Change(put=wrap(service))
    assert not result_of(store.apply(1, transaction([put], epoch=1, now_ms=1, new_epoch=True))).error_code
    store.listeners.append(commits.append)
    change(service)
    put = store_pb2.Change(put=wrap(service), expected_version=1)
    assert not result_of(store.apply(2, transaction([put], epoch=1, now_ms=2))).error_code
    return store, commits[0]


def touched(store: Store, commit: Commit) -> list[str]:
    return [p.name for p in all_planners() if LoopState(p).feed(commit, store)]


@pytest.mark.parametrize("labels", [{}, {"a": "2"}, {"b": "1"}])
def test_labels_alone(labels: dict[str, str]) -> None:
    def relabel(service: objects_pb2.Service) -> None:
        service.meta.labels.clear()
        service.meta.labels.update(labels)

    store, commit = changed(relabel)
    assert commit.events[0].is_relabelled
    assert not touched(store, commit)
    assert not SharedItems(store).feed(commit.events)
    service = store.service("s1")
    assert service is not None
    assert dict(service.meta.labels) == labels
    assert not store.mutated()


def replicas(service: objects_pb2.Service) -> None:
    service.spec.replicated.replicas = 1


def going(service: objects_pb2.Service) -> None:
    service.pending_delete = True


def placed(service: objects_pb2.Service) -> None:
    service.meta.labels["a"] = "2"
    service.endpoint.vips.add(network_id="n1", address="10.64.0.9")


@pytest.mark.parametrize("change", [replicas, going, placed])
def test_anything_else(change: Callable[[objects_pb2.Service], object]) -> None:
    store, commit = changed(change)
    assert not commit.events[0].is_relabelled
    assert "replicated" in touched(store, commit)
