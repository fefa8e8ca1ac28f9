"""Revisions of stacks: which are kept, what they hold, and the way back to one, against one real manager."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from swarmpy.cli import compose_export, compose_files, stack_apply, stack_deployment
from swarmpy.cli.compose_dump import dump
from swarmpy.node.config import Paths
from swarmpy.node.manager import image_keep, payloads, stacks
from swarmpy.node.manager.errors import Invalid, NotFound, Refused
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import control_pb2, objects_pb2, store_pb2
from swarmpy.raft.levels import STACKS
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

from tests.unit.test_manager_process import DIGEST, Running, get, paths, refused, run, service
from tests.unit.test_plan_cli import cli
from tests.unit.test_stack_cli import CANARY, CONFIG, FILE, NETWORK, SECRET, Shop, story

__all__ = ["paths"]
SERVICE, STACK = store_pb2.KIND_SERVICE, store_pb2.KIND_STACK
OTHER = "sha256:" + "b" * 64


def cluster(level: int = STACKS) -> objects_pb2.Cluster:
    made = objects_pb2.Cluster(state_level=level)
    made.meta.id = "c"
    return made


def store_of(*entities: object) -> Store:
    store = Store()
    changes = [store_pb2.Change(put=wrap(entity)) for entity in entities]  # type: ignore[arg-type]
    store.apply(1, transaction(changes, epoch=1, now_ms=1, new_epoch=True))
    assert store.cluster() is not None
    return store


def revision(number: int, state: int = objects_pb2.STACK_COMPLETE, stack: str = "shop") -> objects_pb2.Stack:
    made = objects_pb2.Stack(stack=stack, revision=number, state=state)  # type: ignore[arg-type]
    made.meta.id, made.meta.name = f"{stack}{number:03d}", f"{stack}.{number}"
    return made


# ---- which are kept


def test_ten_are_kept_and_the_last_good_one() -> None:
    failed = objects_pb2.STACK_FAILED
    known = [revision(1), revision(2), *(revision(n, failed) for n in range(3, 12))]
    store = store_of(cluster(), *known, revision(1, stack="other"))
    made = stacks.created(store, objects_pb2.Stack(stack="shop"), "x")
    assert (made.revision, made.meta.name) == (12, "shop.12")
    assert [change.delete.id for change in stacks.surplus(store, made)] == ["shop001", "shop003"]
    assert stacks.surplus(store, revision(2, stack="other")) == []


def test_what_is_refused() -> None:
    store = store_of(cluster())
    with pytest.raises(Invalid, match="no name of a stack"):
        stacks.created(store, objects_pb2.Stack(stack="a b"), "x")
    with pytest.raises(Refused, match="at most 1000000"):
        stacks.created(store, objects_pb2.Stack(stack="a", file=b"x" * 1_000_001), "x")
    with pytest.raises(Refused, match="understood by every manager"):
        stacks.created(store_of(cluster(STACKS - 1)), objects_pb2.Stack(stack="a"), "x")
    with pytest.raises(NotFound):
        stacks.changed(store, revision(1))


def test_what_it_holds_stays() -> None:
    secret = objects_pb2.Secret(data=b"s")
    secret.meta.id, secret.meta.name = "s1", "shop_key"
    store = store_of(cluster(), secret)
    wanted = objects_pb2.Stack(stack="shop")
    container = wanted.services.add(name="shop_web").spec.task.container
    container.image_digest = DIGEST
    container.secrets.add(source="shop_key")
    made = stacks.created(store, wanted, "x")
    assert list(made.payload_ids) == ["s1"]
    store = store_of(cluster(), secret, made)
    with pytest.raises(Refused, match=r"used by stack shop \(revision 1\)"):
        payloads.removal(store, secret)
    assert image_keep.needed(store, 10) == {DIGEST}
    made.state = objects_pb2.STACK_UNDONE
    undone = stacks.changed(store, made)
    store = store_of(cluster(), secret, undone)
    assert payloads.removal(store, secret).delete.id == "s1"
    assert image_keep.needed(store, 10) == set()
    assert not stacks.outline(made).services[0].HasField("spec"), "lists are short"


# ---- the file by itself


def test_the_file_needs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1$x\n")
    (tmp_path / "c.yml").write_text(
        "x-content: &hidden hidden\nservices:\n"
        "  web: {image: 'a:$${T}', env_file: env, secrets: [k], profiles: [p]}\n  no: {image: b, "
        "profiles: [q]}\nsecrets: {k: {content: *hidden}, unused: {file: nowhere}, own: {external: true}}\n"
    )
    source = compose_files.ComposeFiles([str(tmp_path / "c.yml")], [], ["p"])
    item = compose_export.self_contained(
        source.tree(), {"web": ["A=1$x"]}, {"secrets": {"k": "shop_k.2"}, "configs": {}}
    )
    text = dump(item)
    assert text == (
        "services:\n  web:\n    image: a:$${T}\n    secrets:\n    - k\n    environment:\n    - A=1$$x\n"
        "secrets:\n  k:\n    external: true\n    name: shop_k.2\n  own:\n    external: true\n"
    )


# ---- with a real manager


def test_back_to_what_it_was(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        assert (await shop.deploy("-d")).exit_code == 0
        first = {name: shop.service(name).spec for name in ("shop_db", "shop_web")}
        assert (await shop.deploy("-d")).exit_code == 0
        assert shop.names(STACK) == ["shop.1"], "nothing changed, nothing is kept"
        shop.write("site", "two")
        more = FILE.replace('"8080:80"', '"8081:80"').replace(DIGEST, OTHER).replace(
            "  db:\n", f"  more: {{image: app@{DIGEST}, networks: [back]}}\n  db:\n"
        ) + "networks: {back: {internal: true}}\n"  # fmt: skip
        shop.write("compose.yml", more)
        assert (await shop.deploy("-d")).exit_code == 0
        assert (await cli(shop.m, "service", "scale", "-d", "shop_web=4")).exit_code == 0
        shown = await cli(
            shop.m, "stack", "history", "shop", "--format", "{{.Revision}} {{.State}} {{.ServicesText}}"
        )
        assert shown.stdout.splitlines() == ["2 complete (present) 3", "1 complete 2"], shown.output
        refused = await cli(shop.m, "config", "rm", "shop_site")
        assert (refused.exit_code, "revision 1" in refused.output) == (1, True), refused.output

        foretold = await cli(shop.m, "stack", "rollback", "shop", "--plan")
        assert foretold.exit_code == 2, foretold.output
        assert "- remove service shop_more" in foretold.output
        back = await cli(shop.m, "stack", "rollback", "-d", "shop")
        assert back.exit_code == 0, back.output
        web, db = (copy_of(shop.service(name).spec) for name in ("shop_web", "shop_db"))
        assert web.replicated.replicas == 4, "the file gives no number"
        web.replicated.replicas = 1
        assert (db, web) == (first["shop_db"], first["shop_web"]), "digests, versions, ports and networks"
        await shop.m.until(lambda: shop.names(SERVICE) == ["shop_db", "shop_web"], "what came later is gone")
        found = {obj.revision: obj for obj in stacks.of(shop.m.store, "shop")}
        assert (found[3].message, found[3].state) == (
            "back to revision 1; not waited for",
            objects_pb2.STACK_COMPLETE,
        )

        forth = await cli(shop.m, "stack", "rollback", "-d", "shop", "--to", "2")
        assert forth.exit_code == 0, forth.output
        assert shop.service("shop_web").spec.task.container.image_digest == OTHER
        assert "shop_more" in shop.names(SERVICE)
        assert (await cli(shop.m, "stack", "rollback", "-d", "shop", "--to", "9")).exit_code == 4
        assert (await cli(shop.m, "stack", "rm", "-d", "shop")).exit_code in (0, 1)
        assert shop.names(STACK) == []

    story(paths, tmp_path, told)


def test_what_was_removed_comes_back_with_its_network(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        assert (await shop.deploy("-d")).exit_code == 0
        rest = FILE[: FILE.index("  db:")].replace("    depends_on: [db]\n", "").replace("secrets: [key]", "")
        shop.write(
            "compose.yml", rest.replace("    configs: [site]", "    networks: [b]") + "networks: {b: }\n"
        )
        assert (await shop.deploy("-d", "--prune")).exit_code == 0
        await shop.m.until(lambda: shop.names(SERVICE) == ["shop_web"], "db is gone")
        assert (await shop.deploy("-d", "--prune")).exit_code == 0
        await shop.m.until(lambda: shop.names(NETWORK) == ["shop_b"], "its network, too")
        assert (shop.names(SECRET), shop.names(CONFIG)) == (["shop_key"], ["shop_site"]), (
            "revision 1 holds them"
        )
        back = await cli(shop.m, "stack", "rollback", "-d", "shop")
        assert back.exit_code == 0, back.output
        assert shop.names(SERVICE) == ["shop_db", "shop_web"]
        assert "shop_default" in shop.names(NETWORK)
        assert shop.uses("shop_db") == ["shop_key"]

    story(paths, tmp_path, told)


def test_an_exported_file_makes_the_same(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        assert (await shop.deploy("-d")).exit_code == 0
        shown = await cli(shop.m, "stack", "export", "shop")
        assert (shown.exit_code, CANARY in shown.stdout) == (0, False), shown.output
        for name in ("key", "site"):
            (shop.directory / name).unlink()
        shop.write("compose.yml", shown.stdout)
        planned = await shop.deploy("--plan")
        assert planned.exit_code == 0, planned.output
        spec = await cli(shop.m, "stack", "export", "--spec", "--revision", "1", "shop")
        assert (spec.exit_code, f'"image_digest": "{DIGEST}"' in spec.stdout, CANARY in spec.stdout) == (
            0,
            True,
            False,
        )
        assert (await cli(shop.m, "stack", "export", "nothing")).exit_code == 4

    story(paths, tmp_path, told)


def test_a_deployment_that_broke_off_is_gone_back_from(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(shop: Shop) -> None:
        assert (await shop.deploy("-d")).exit_code == 0
        first = shop.service("shop_db").spec
        shop.write("compose.yml", FILE.replace(DIGEST, OTHER))
        write = stack_deployment.Deployment._write

        def dies(self: stack_deployment.Deployment, one: stack_apply.Write) -> object:
            if one.name == "shop_web":
                raise KeyboardInterrupt
            return write(self, one)

        with monkeypatch.context() as patched:
            patched.setattr(stack_deployment.Deployment, "_write", dies)
            assert (await shop.deploy("-d")).exit_code == 130
        assert shop.service("shop_db").spec != first
        shown = await cli(shop.m, "stack", "history", "shop", "--format", "{{.Revision}} {{.State}}")
        assert shown.stdout.splitlines() == ["2 unfinished (present)", "1 complete"]
        assert (await cli(shop.m, "stack", "rollback", "-d", "shop")).exit_code == 0
        assert shop.service("shop_db").spec == first

    story(paths, tmp_path, told)


def test_digests_that_are_meant_are_not_asked_for_anew(paths: Paths) -> None:
    async def told(m: Running) -> None:
        stored = (await m.control.Create(service("web"))).object
        stored.service.spec.task.container.image = "web:2"
        stored.service.spec.task.container.image_digest = OTHER
        code, says = await refused(m.control.Update(control_pb2.UpdateRequest(object=stored)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION, says  # no registry, no agent to ask one
        current = (await m.control.Get(get("web"))).object
        stored.service.meta.version = current.service.meta.version
        pinned = control_pb2.UpdateRequest(object=stored, pinned=True)
        changed = (await m.control.Update(pinned)).object.service.spec.task.container
        assert (changed.image, changed.image_digest) == ("web:2", OTHER)

    run(paths, told)


def test_without_revisions_until_every_manager_knows_them(paths: Paths, tmp_path: Path) -> None:
    async def told(m: Running) -> None:
        (tmp_path / "c.yml").write_text(f"services: {{web: {{image: app@{DIGEST}}}}}\n")
        made = await cli(m, "stack", "deploy", "-d", "-c", str(tmp_path / "c.yml"), "shop")
        assert (made.exit_code, "not kept as a revision: " in made.output) == (0, True), made.output
        assert m.store.count(STACK) == 0

    run(paths, told)
