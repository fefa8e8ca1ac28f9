"""A compose file on a whole cluster: made, reached, made again, updated, pruned, removed; nothing stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import store_pb2

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
FILE = """
x-quick: &quick {stop_grace_period: 0s, image: "${IMAGE}", x-swarmpy: {drain-delay: 0s, restart-delay: 0s}}
services:
  web:
    <<: *quick
    ports: ["8197:80"]
    depends_on: {store: {condition: service_healthy}}
    configs: [{source: site, target: /etc/site.conf}]
    secrets: [key]
    networks: [inner]
    deploy: {replicas: 2, update_config: {parallelism: 2, monitor: 500ms}}
  store:
    <<: *quick
    command: [sleep, "100000"]
    volumes: ["data:/data"]
    secrets: [{source: key, target: key, mode: 0400}]
    healthcheck: {test: [CMD, "true"], interval: 1s}
    networks: {inner: {aliases: [database]}}
networks: {inner: {internal: true}}
secrets: {key: {file: ./key}}
configs: {site: {content: "${SITE:-one}"}}
volumes: {data: }
"""


def names(cluster: Cluster, kind: store_pb2.Kind) -> list[str]:
    return sorted(obj.meta.name for obj in cluster.listed(kind) if obj.meta.name.startswith("pile_"))


def test_a_stack_from_its_file_to_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(FILE)
    (tmp_path / "key").write_text("hunter2")
    (tmp_path / ".env").write_text(f"IMAGE={IMAGE}\n")
    deploy = ("stack", "deploy", "-q", "-c", str(tmp_path / "compose.yml"))
    planned = cluster.cli(*deploy, "--plan", "pile", check=False)
    assert planned.returncode == 2, planned.stderr
    assert "start    pile_web.1" in planned.stdout
    cluster.cli(*deploy, "pile", timeout_s=120)
    web, store = cluster.running("pile_web"), cluster.running("pile_store")
    assert (len(web), len(store)) == (2, 1)
    assert store[0].status.ready_ms <= min(task.status.started_ms for task in web), "web waited for its store"
    assert cluster.shell(web[0], "cat", "/run/secrets/key", "/etc/site.conf").stdout == "hunter2one"
    assert (
        cluster.shell(web[0], "nslookup", "database").stdout.count(store[0].status.addresses[0].address) <= 1
    )
    assert cluster.get("n4", f"http://{cluster.address('n4')}:8197/cgi-bin/hostname") in {
        task.meta.id[:12] for task in web
    }
    cluster.shell(store[0], "sh", "-c", "echo kept > /data/file")

    again = cluster.cli(*deploy, "pile").stdout
    assert again.splitlines() == ["Service pile_store: as it is", "Service pile_web: as it is"]
    ids = {task.meta.id for task in (*web, *store)}
    assert {task.meta.id for task in (*cluster.running("pile_web"), *cluster.running("pile_store"))} == ids

    changed = cluster.cli(*deploy, "pile", SITE="two", timeout_s=120).stdout
    assert changed.splitlines() == [
        "Creating config pile_site.2", "Service pile_store: as it is", "Updating service pile_web",
    ]  # fmt: skip
    assert {cluster.shell(task, "cat", "/etc/site.conf").stdout for task in cluster.running("pile_web")} == {
        "two"
    }
    assert cluster.running("pile_store")[0].meta.id == store[0].meta.id
    assert cluster.shell(store[0], "cat", "/data/file").stdout == "kept\n"

    rest = FILE[: FILE.index("  store:")] + FILE[FILE.index("networks: {inner: {int") :]
    rest = rest.replace("    depends_on: {store: {condition: service_healthy}}\n", "")
    (tmp_path / "compose.yml").write_text(rest)
    assert (
        "Removing service pile_store"
        in cluster.cli(*deploy, "--prune", "pile", SITE="two", timeout_s=120).stdout
    )
    assert cluster.cli("stack", "services", "--format", "{{.Name}}", "pile").stdout == "pile_web\n"
    assert cluster.cli("stack", "ls", "--format", "{{.Name}} {{.Running}}").stdout == "pile 2\n"

    cluster.cli("stack", "rm", "-v", "pile", timeout_s=120)
    kinds = (
        store_pb2.KIND_SERVICE, store_pb2.KIND_NETWORK, store_pb2.KIND_SECRET, store_pb2.KIND_CONFIG,
        store_pb2.KIND_VOLUME,
    )  # fmt: skip
    for kind in kinds:
        wait_for(lambda kind=kind: not names(cluster, kind), 20, f"none of kind {kind} is left")
    wait_for(lambda: not any(cluster.pids(task_id) for task_id in ids), 10, "no process of it is left")
    tops = [Paths(cluster.state(name)).payloads for name in cluster.nodes()]
    wait_for(lambda: not any(list(top.iterdir()) for top in tops), 10, "no file in memory is left")


@pytest.mark.slow
def test_all_or_nothing_and_back(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(FILE)
    (tmp_path / "key").write_text("hunter2")
    (tmp_path / ".env").write_text(f"IMAGE={IMAGE}\n")
    deploy = ("stack", "deploy", "-q", "--atomic", "-c", str(file), "pile")

    def shown() -> tuple[str, str]:
        (text,) = {
            cluster.shell(task, "cat", "/etc/site.conf").stdout for task in cluster.running("pile_web")
        }
        (store,) = cluster.running("pile_store")
        return text, " ".join(store.spec.container.args or store.spec.container.command)

    cluster.cli(*deploy, timeout_s=120)
    assert shown() == ("one", "sleep 100000")
    file.write_text(FILE.replace("100000", "200000"))
    cluster.cli(*deploy, SITE="two", timeout_s=120)
    assert shown() == ("two", "sleep 200000")

    file.write_text(
        FILE.replace("100000", "300000").replace("    ports:", "    command: [/nowhere]\n    ports:")
    )
    failed = cluster.cli(*deploy, SITE="three", timeout_s=180, check=False)
    assert failed.returncode == 6, failed.stderr
    assert "Everything that was changed is as it was before" in failed.stderr
    assert shown() == ("two", "sleep 200000")
    history = cluster.cli("stack", "history", "pile", "--format", "{{.Revision}} {{.State}}").stdout
    assert history.splitlines() == ["3 taken back", "2 complete (present)", "1 complete"]

    cluster.cli("stack", "rollback", "-q", "pile", timeout_s=120)
    assert shown() == ("one", "sleep 100000")
    cluster.cli("stack", "rollback", "-q", "pile", timeout_s=120)
    assert shown() == ("two", "sleep 200000")
    cluster.cli("stack", "rm", "-v", "pile", timeout_s=120)
    for kind in (store_pb2.KIND_SERVICE, store_pb2.KIND_SECRET, store_pb2.KIND_CONFIG, store_pb2.KIND_STACK):
        wait_for(lambda kind=kind: not cluster.listed(kind), 20, f"none of kind {kind} is left")
