"""Registries' credentials: kept, never read back, given only to who needs them, helpers run safely."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from swarmpy.node.manager import credentials, queries
from swarmpy.node.manager.errors import Forbidden, Invalid, Refused, Taken
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Entity, wrap


def store_of(*objects: Entity) -> Store:
    store = Store()
    changes = [store_pb2.Change(put=wrap(obj)) for obj in objects]
    transaction = store_pb2.Transaction(epoch=1, new_epoch=True, now_ms=1, changes=changes)
    result = store_pb2.TransactionResult.FromString(store.apply(1, transaction.SerializeToString()))
    assert not result.error_code, result.error
    return store


def login(name: str = "r.example:5000", **fields: object) -> objects_pb2.Credential:
    made = objects_pb2.Credential(**fields)  # type: ignore[arg-type]
    made.meta.name = name
    return made


def task(
    image: str, node: str = "n1", state: types_pb2.TaskState = types_pb2.TASK_RUNNING
) -> objects_pb2.Task:
    made = objects_pb2.Task(node_id=node)
    made.meta.id = "t1"
    made.status.state = state
    made.spec.container.image = image
    return made


def test_a_password_is_kept_through_changes_but_never_shown() -> None:
    made = credentials.created(store_of(), login(username="alice", password="secret"), "c1")
    store = store_of(made)
    shown = queries.public(made)
    assert isinstance(shown, objects_pb2.Credential)
    assert (shown.password, shown.has_password) == ("", True)
    assert b"secret" not in shown.SerializeToString()
    shown.mirrors.append("mirror.example/hub")
    assert credentials.changed(store, shown).password == "secret"
    shown.username = "bob"  # somebody else's password is not his
    with pytest.raises(Invalid, match="one is no use without the other"):
        credentials.changed(store, shown)
    with pytest.raises(Taken):
        credentials.created(store, login(), "c2")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (login("no host"), "no registry's host"),
        (login(username="a"), "one is no use"),
        (login(username="a\nb", password="c"), "control characters"),
        (login(helper="docker-credential-x", username="a", password="b"), "one or the other"),
        (login(helper="sh -c evil"), "neither a docker-credential-NAME program"),
        (login(helper="docker-credential-'x"), "quotation"),
        (login(mirrors=["https://m"]), "no host"),
        (login(mirrors=["m"] * 9), "8 at most"),
    ],
)
def test_what_is_refused(wanted: objects_pb2.Credential, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        credentials.created(store_of(), wanted, "c1")


@pytest.mark.parametrize("name", ["", "https://index.docker.io/v1/", "registry-1.docker.io", "docker.io"])
def test_docker_hub_has_one_name(name: str) -> None:
    assert credentials.created(store_of(), login(name), "c1").meta.name == "docker.io"


def test_a_node_gets_only_what_its_tasks_need() -> None:
    store = store_of(task("r.example:5000/app:1"))
    credentials.check_needs(store, "n1", "r.example:5000/other")
    for node, reference in (("n2", "r.example:5000/app:1"), ("n1", "app:1")):
        with pytest.raises(Forbidden, match="no task of node"):
            credentials.check_needs(store, node, reference)
    ended = store_of(task("r.example:5000/app:1", state=types_pb2.TASK_FAILED))
    with pytest.raises(Forbidden):
        credentials.check_needs(ended, "n1", "r.example:5000/app:1")
    pod = task("app:1")
    pod.spec.sidecars.add().container.image = "side.example/log"
    credentials.check_needs(store_of(pod), "n1", "side.example/log")


def helper(directory: Path, text: str) -> str:
    script = directory / "docker-credential-test"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_a_helper_is_asked_by_its_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = helper(
        tmp_path, 'test "$1" = get && url=$(cat) && printf \'{"Username": "u", "Secret": "for %s"}\' "$url"'
    )
    assert asyncio.run(credentials.ask_helper(good, "r.example")) == ("u", "for r.example")
    assert asyncio.run(credentials.ask_helper(good, "docker.io"))[1].endswith("https://index.docker.io/v1/")
    for text, says in (
        ("echo 'credentials not found'; exit 1", "failed: credentials not found"),
        ("echo no json", "did not answer with Username"),
        ("exec sleep 60", "did not answer within"),
    ):
        monkeypatch.setattr(credentials, "HELPER_TIMEOUT_S", 0.3 if "sleep" in text else 15.0)
        with pytest.raises(Refused, match=says):
            asyncio.run(credentials.ask_helper(helper(tmp_path, text), "r.example"))
    with pytest.raises(Refused, match="cannot be run on this manager"):
        asyncio.run(credentials.ask_helper("docker-credential-nowhere", "r.example"))


def test_access_has_the_mirrors_own_credentials(tmp_path: Path) -> None:
    main = credentials.created(
        store_of(), login("docker.io", mirrors=["m.example/hub"], username="a", password="b"), "c1"
    )
    mirror = credentials.created(
        store_of(), login("m.example", username="c", password="d", insecure=True), "c2"
    )
    access = asyncio.run(credentials.access_for(store_of(main, mirror), "nginx"))
    assert (access.registry, access.username, access.password) == ("docker.io", "a", "b")
    (found,) = access.mirrors
    assert (found.registry, found.username, found.password, found.insecure) == (
        "m.example/hub",
        "c",
        "d",
        True,
    )
    assert not asyncio.run(credentials.access_for(store_of(), "x.example/y")).username
