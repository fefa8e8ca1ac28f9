"""Secrets and configs: the managers' rules, who is given what, and what no read shows."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from swarmpy.node import payloads as uses
from swarmpy.node.agent import payloads as agent_payloads
from swarmpy.node.config import ManagerAddress
from swarmpy.node.manager import payloads, queries
from swarmpy.node.manager.errors import Forbidden, Invalid, NotFound, Refused, Taken
from swarmpy.node.plan import validate
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.levels import PAYLOADS
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Entity, wrap

CANARY = b"canary-77aa"
SECRET, CONFIG = store_pb2.KIND_SECRET, store_pb2.KIND_CONFIG


def store_of(*objects: Entity, level: int = PAYLOADS) -> Store:
    store = Store()
    cluster = objects_pb2.Cluster(state_level=level)
    cluster.meta.id = cluster.meta.name = "c"
    objects = (cluster, *objects)
    changes = [store_pb2.Change(put=wrap(obj)) for obj in objects]
    transaction = store_pb2.Transaction(epoch=1, new_epoch=True, now_ms=1, changes=changes)
    result = store_pb2.TransactionResult.FromString(store.apply(1, transaction.SerializeToString()))
    assert not result.error_code, result.error
    return store


def secret(name: str = "token", data: bytes = CANARY, **fields: Any) -> objects_pb2.Secret:
    made = objects_pb2.Secret(data=data, **fields)
    made.meta.name = name
    return made


def stored(name: str = "token", kind: type[Any] = objects_pb2.Secret) -> Any:
    made = kind(data=CANARY)
    made.meta.name = name
    return payloads.created(store_of(), made, f"id-{name}")


def spec_with(**references: str) -> types_pb2.TaskSpec:
    """A task's specification; `secret=NAME`, `config=NAME`: resolved references."""
    spec = types_pb2.TaskSpec()
    spec.container.image = "app:1"
    for kind, name in references.items():
        getattr(spec.container, kind + "s").add(source=name, id=f"id-{name}")
    return spec


def service(name: str = "web", **references: str) -> objects_pb2.Service:
    made = objects_pb2.Service()
    made.meta.id, made.meta.name = f"s-{name}", name
    made.spec.replicated.replicas = 1
    made.spec.task.CopyFrom(spec_with(**references))
    return made


def task(node: str = "n1", state: types_pb2.TaskState = types_pb2.TASK_RUNNING, **references: str) -> Any:
    made = objects_pb2.Task(node_id=node, spec=spec_with(**references))
    made.meta.id = made.meta.name = "t1"
    made.status.state = state
    return made


def test_no_read_shows_a_secret_and_only_get_shows_a_config() -> None:
    for kind in (objects_pb2.Secret, objects_pb2.Config):
        made = stored(kind=kind)
        shown = queries.public(made)
        assert CANARY not in shown.SerializeToString()
        assert (shown.size_bytes, shown.meta.name) == (len(CANARY), "token")  # type: ignore[union-attr]
        assert (CANARY in queries.public(made, whole=True).SerializeToString()) == (
            kind is objects_pb2.Config
        )


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (secret(data=b""), "at least one byte"),
        (secret(data=b"x" * (500 * 1024 + 1)), "at most 512000"),
        (secret("-token"), "meta.name"),
        (secret("to ken"), "meta.name"),
        (secret("x" * 65), "at most 64"),
        (secret(template_driver="jinja"), "write golang"),
        (secret(data=b"{{.Task.Nonsense}}", template_driver="golang"), "is not known"),
        (secret(data=b"\xff", template_driver="golang"), "UTF-8"),
    ],
)
def test_what_is_refused(wanted: objects_pb2.Secret, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        payloads.created(store_of(), wanted, "x1")


def test_every_node_has_to_understand_them_first() -> None:
    with pytest.raises(Refused, match="secrets must be understood by every manager"):
        payloads.created(store_of(level=PAYLOADS - 1), secret(), "x1")
    node = objects_pb2.Node()
    node.meta.id, node.meta.name, node.description.version = "n1", "worker-1", "0.0.9"
    with pytest.raises(Refused, match="start without them: upgrade worker-1 first"):
        payloads.created(store_of(node), secret(), "x1")
    node.description.state_level = PAYLOADS
    assert payloads.created(store_of(node), secret(), "x1").size_bytes == len(CANARY)


def test_the_largest_there_may_be_fit_into_a_transaction() -> None:
    store = store_of()
    for number, (kind, size) in enumerate(((objects_pb2.Secret, 500), (objects_pb2.Config, 1000)), 1):
        wanted = kind(data=b"x" * size * 1024)
        wanted.meta.name = "a"
        change = store_pb2.Change(put=wrap(payloads.created(store, wanted, f"x{number}")))
        transaction = store_pb2.Transaction(epoch=1, now_ms=number + 1, changes=[change]).SerializeToString()
        assert not store_pb2.TransactionResult.FromString(store.apply(number + 1, transaction)).error_code


def test_all_of_them_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "ALL_BYTES_MAX", 20)
    store = store_of(stored("a"))
    with pytest.raises(Refused, match="all secrets and configs together"):
        payloads.created(store, secret("b"), "x2")


def test_the_content_never_changes_and_labels_do() -> None:
    made = stored()
    store = store_of(made)
    with pytest.raises(Taken, match="its content never changes"):
        payloads.created(store, secret(), "x2")
    wanted = queries.public(made)
    assert isinstance(wanted, objects_pb2.Secret)
    wanted.meta.labels["a"] = "b"
    changed = payloads.changed(store, wanted)
    assert (changed.data, dict(changed.meta.labels)) == (CANARY, {"a": "b"})
    wanted.data = CANARY  # the same again is no change
    assert payloads.changed(store, wanted).data == CANARY
    wanted.data = b"other"
    with pytest.raises(Taken, match="never changes: make another one"):
        payloads.changed(store, wanted)


def test_it_stays_while_anything_uses_it() -> None:
    made = stored()
    alone = store_of(made)
    assert payloads.removal(alone, made).delete.id == made.meta.id
    with pytest.raises(Refused, match="used by service web: remove that, or take it away"):
        payloads.removal(store_of(made, service(secret="token")), made)
    cron = objects_pb2.Schedule()
    cron.meta.id, cron.meta.name = "c1", "nightly"
    cron.spec.service.task.CopyFrom(spec_with(secret="token"))
    with pytest.raises(Refused, match="schedule nightly"):
        payloads.removal(store_of(made, cron), made)
    old = service()  # the service has another one now, a task of before still runs
    with pytest.raises(Refused, match="task t1"):
        payloads.removal(store_of(made, old, task(secret="token")), made)
    ended = task(state=types_pb2.TASK_SHUTDOWN, secret="token")
    assert payloads.removal(store_of(made, old, ended), made)
    old.previous_specs.add(task=spec_with(secret="token"))
    assert payloads.removal(store_of(made, old), made), "an earlier revision alone keeps nothing"
    old.update_status.state = objects_pb2.UPDATE_UPDATING
    with pytest.raises(Refused, match="service web"):
        payloads.removal(store_of(made, old), made)
    config = stored(kind=objects_pb2.Config)  # of the same id: it is not what is used
    assert payloads.removal(store_of(made, config, service(secret="token")), config)


def test_references_get_ids_or_are_refused() -> None:
    store = store_of(stored())
    wanted = objects_pb2.ServiceSpec()
    wanted.task.container.secrets.add(source="token", target="t")
    wanted.task.sidecars.add(name="proxy").container.secrets.add(source="id-token")
    payloads.resolve(store, wanted, "")
    assert [use.reference.id for use in uses.uses_of_task(wanted.task)] == ["id-token", "id-token"]
    assert wanted.task.sidecars[0].container.secrets[0].source == "token", "an id leads to the name"
    wanted.task.container.configs.add(source="token")
    with pytest.raises(NotFound, match="no config 'token': create it first"):
        payloads.resolve(store, wanted, "")
    with pytest.raises(Refused, match="uses config 'gone', which was removed"):
        payloads.check_present(store, service(config="gone"))


def test_a_node_gets_what_its_living_tasks_refer_to() -> None:
    made = stored()
    store = store_of(made, task(secret="token"))
    assert payloads.needed_by(store, "n1", SECRET, "id-token").data == CANARY
    for node, kind, identity in (
        ("n2", SECRET, "id-token"),
        ("n1", CONFIG, "id-token"),
        ("n1", SECRET, "id-x"),
    ):
        with pytest.raises(Forbidden):
            payloads.needed_by(store, node, kind, identity)
    with pytest.raises(Forbidden):  # a credential, say, cannot be had this way
        payloads.needed_by(store, "n1", store_pb2.KIND_CREDENTIAL, "id-token")
    ended = store_of(made, task(state=types_pb2.TASK_SHUTDOWN, secret="token"))
    with pytest.raises(Forbidden):
        payloads.needed_by(ended, "n1", SECRET, "id-token")
    with pytest.raises(NotFound, match="removed"):
        payloads.needed_by(store_of(task(secret="token")), "n1", SECRET, "id-token")


def test_where_files_are_in_a_container() -> None:
    container = types_pb2.ContainerSpec()
    for target in ("", "db", "/etc/db"):
        container.secrets.add(source="token", target=target)
        container.configs.add(source="app.conf", target=target)
    assert [use.target for use in uses.uses(container)] == [
        "/run/secrets/token", "/run/secrets/db", "/etc/db", "/app.conf", "/db", "/etc/db",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ({}, "secrets[1].source"),
        ({"source": "b", "target": "../b"}, "secrets[1].target"),
        ({"source": "b", "target": "/a/"}, "secrets[1].target"),
        ({"source": "b", "target": "token"}, "secrets[1].target"),
        ({"source": "b", "target": "/data"}, "secrets[1].target"),
        ({"source": "b", "mode": 0o4755}, "secrets[1].mode"),
        ({"source": "b", "uid": 2**32 - 1}, "secrets[1]"),
    ],
)
def test_references_are_checked(reference: dict[str, Any], path: str) -> None:
    wanted = service(secret="token")
    wanted.spec.task.container.mounts.add(type=types_pb2.MOUNT_VOLUME, source="v", target="/data")
    assert not validate.validate_service(wanted)
    wanted.spec.task.container.secrets.add(**reference)
    found = [problem.field_path for problem in validate.validate_service(wanted)]
    assert found == [f"spec.task.container.{path}"]


def test_without_a_manager_a_task_is_told_so_and_a_removed_one_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_payloads, "WAIT_S", 0.0)
    [use] = uses.uses(spec_with(secret="token").container)

    async def main() -> None:
        def dial(manager: ManagerAddress) -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(manager.address)

        with pytest.raises(agent_payloads.PayloadUnready, match="connected to no manager"):
            await agent_payloads.Fetcher(lambda: None, dial)(use)
        unreachable = ManagerAddress("m1", "127.0.0.1:1")
        with pytest.raises(agent_payloads.PayloadUnready, match="secret token could not be fetched"):
            await agent_payloads.Fetcher(lambda: unreachable, dial)(use)

    asyncio.run(main())
