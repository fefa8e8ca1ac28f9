"""Images of a whole cluster: brought in once, shared by the nodes themselves."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.image.build import busybox_layer
from swarmpy.proto import objects_pb2, store_pb2

from tests.image_registry import PASSWORD, TOKEN, USER, TestRegistry
from tests.images import compressed_image, config_for, docker_archive, entry, layer
from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
BIG_BYTES = 24 << 20
SMALL_BYTES = 1 << 20


def made_archive(path: Path, name: str, size_bytes: int) -> Path:
    """busybox and bytes that nothing can compress, in two layers."""
    layers = [busybox_layer(), layer(entry("data", os.urandom(size_bytes)))]
    config = config_for(layers, Cmd=["/bin/busybox", "sleep", "100000"])
    return docker_archive(path, name, layers, config)


def sent_bytes(cluster: Cluster, node: str) -> int:
    """What left the node over its uplink."""
    lines = cluster.inside(node, "cat", "/proc/net/dev").stdout.splitlines()
    links = {name.strip(): numbers.split() for name, _, numbers in (line.partition(":") for line in lines)}
    return int(links["eth0"][8])


def test_five_nodes_share_an_image_among_themselves(cluster: Cluster, service: str, tmp_path: Path) -> None:
    archive = made_archive(tmp_path / "big.tar", "big:1", BIG_BYTES)
    source = cluster.leader()
    cluster.cli("image", "load", "-i", str(archive))
    before = {node: sent_bytes(cluster, node) for node in cluster.nodes()}
    cluster.cli("service", "create", "-q", "--name", service, "--mode", "global", *QUICK, "big:1")
    wait_for(lambda: len(cluster.running(service)) == 5, 30, "a task on every node")
    sent = {node: sent_bytes(cluster, node) - bytes_ for node, bytes_ in before.items()}
    # To four nodes: thrice as much and more if each had come to the source.
    assert sent[source] < 2 * BIG_BYTES, sent
    assert sum(sent.values()) > 4 * BIG_BYTES
    assert sum(count > BIG_BYTES // 8 for node, count in sent.items() if node != source) >= 2, sent


def test_an_image_is_looked_at_named_saved_and_pruned(cluster: Cluster, service: str, tmp_path: Path) -> None:
    archive = made_archive(tmp_path / "small.tar", "look:1", SMALL_BYTES)
    cluster.cli("image", "load", "-i", str(archive))
    found = rows(cluster, "image", "where", "look:1")
    assert [row["State"] for row in found].count("complete") == 1
    assert [row["State"] for row in found].count("absent") == 4
    (described,) = json.loads(cluster.cli("image", "inspect", "look:1").stdout)
    assert described["RepoTags"] == ["docker.io/library/look:1"]
    assert described["Config"]["Cmd"] == ["/bin/busybox", "sleep", "100000"]
    assert len(described["RootFS"]["Layers"]) == 2
    cluster.cli("image", "tag", "look:1", "look:stable")
    saved = tmp_path / "saved.tar"
    cluster.cli("image", "save", "-o", str(saved), "look:stable")
    with tarfile.open(saved) as tar:
        listing = tar.extractfile("manifest.json")
        assert listing is not None
        assert json.load(listing)[0]["RepoTags"] == ["docker.io/library/look:stable"]
    cluster.cli("image", "rm", "look:1")  # the other name keeps the content
    cluster.cli("service", "create", "-q", "--name", service, *QUICK, "look:stable")
    assert "used by service" in cluster.cli("image", "rm", "look:stable", check=False).stderr
    assert "look:stable" not in cluster.cli("image", "prune", "-a", "--plan").stdout
    before = {row["Node"]: row["Blobs"] for row in rows(cluster, "system", "df")}
    assert len(before) == 5
    cluster.cli("service", "rm", service)
    wait_for(lambda: not cluster.tasks(service), 20, "the service's tasks gone")
    assert "Would remove: look:stable" in cluster.cli("image", "prune", "-a", "--plan").stdout
    assert "look:stable" in cluster.cli("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout
    try:
        assert "Removed: look:stable" in cluster.cli("image", "prune", "-a", "-f", timeout_s=90).stdout
        assert "look" not in cluster.cli("image", "ls").stdout
    finally:
        cluster.load_image(tmp_path, IMAGE)  # the other tests' image went, too
    again = cluster.cli("image", "load", "-i", str(saved)).stdout
    assert again == "Loaded image: look:stable\n"
    cluster.cli("image", "rm", "look:stable")


def rows(cluster: Cluster, *command: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in cluster.cli(*command, "--format", "json").stdout.splitlines()]


def test_nodes_pull_with_the_clusters_credentials(cluster: Cluster, service: str) -> None:
    """A registry in the network of n4 that wants a token; the image runs on n5, a worker."""
    document, blobs = compressed_image([busybox_layer()], Cmd=["/bin/busybox", "sleep", "100000"])
    with registry_at(cluster, "n4") as server:
        name = server.put("team/app", "v1", document, blobs)
        assert "registry trust" in cluster.cli("image", "pull", name, check=False).stderr
        cluster.cli("registry", "trust", server.host, "--insecure")
        assert "registry login" in cluster.cli("image", "pull", name, check=False).stderr
        login = ("registry", "login", server.host, "-u", USER, "--insecure")
        refused = cluster.cli(*login, "-p", "wrong", check=False)
        assert refused.returncode == 7
        assert "refuses this user and password" in refused.stderr
        cluster.cli(*login, "-p", PASSWORD)
        try:
            create = ("service", "create", "-q", "--name", service, *QUICK, "--with-registry-auth")
            cluster.cli(*create, "--constraint", "node.hostname==n5", name)
            assert cluster.where(service) == ["n5"]
            by_worker = [h for _, path, h in server.requests if "/blobs/" in path]
            assert by_worker
            assert all(h["Authorization"] == f"Bearer {TOKEN}" for h in by_worker)
            everything = [obj.SerializeToString() for obj in cluster.listed(store_pb2.KIND_CREDENTIAL)]
            assert len(everything) == 1
            assert PASSWORD.encode() not in everything[0]
            (shown,) = rows(cluster, "registry", "ls")
            assert (shown["Registry"], shown["User"]) == (server.host, USER)
            for node in cluster.nodes():
                assert f"{USER}:{PASSWORD}" not in cluster.daemon_log(node)
        finally:
            cluster.cli("registry", "logout", server.host)
    # The registry is gone: the others get the image from n5, a new service the digest that is known.
    wait_for(lambda: noted(cluster, name).chunks, 15, "the image's holder known")
    cluster.cli("service", "update", "-q", "--constraint-rm", "node.hostname==n5", "--replicas", "5", service)
    places = cluster.where(service)
    assert len(places) == 5
    assert len(set(places)) >= 4
    wait_for(lambda: len(noted(cluster, name).holders) >= len(set(places)), 10, "as many holders")
    assert not rows(cluster, "registry", "ls")


def test_a_slow_image_holds_up_no_other_task_of_the_node(cluster: Cluster, service: str) -> None:
    """Twelve tasks wait for a registry that has begun to answer; another service starts beside them."""
    document, blobs = compressed_image([busybox_layer()], Cmd=["/bin/busybox", "sleep", "100000"], User="1")
    create = ("service", "create", "-q", *QUICK, "--constraint", "node.hostname==n5")
    other = f"{service}-other"
    with registry_at(cluster, "n4", auth="") as server:
        server.may_send_blobs.clear()
        name = server.put("team/slow", "v1", document, blobs)
        cluster.cli("registry", "trust", server.host, "--insecure")
        try:
            cluster.cli(*create, "-d", "--name", service, "--replicas", "12", name)
            wait_for(lambda: server.asked("blobs"), 20, "n5 asks for the image")
            cluster.cli(*create, "--name", other, IMAGE)  # returns when it runs
            assert not cluster.running(service)
            server.may_send_blobs.set()
            wait_for(lambda: len(cluster.running(service)) == 12, 60, "all tasks of the slow image")
        finally:
            server.may_send_blobs.set()
            cluster.cli("service", "rm", other, check=False)
            cluster.cli("registry", "logout", server.host)


def noted(cluster: Cluster, name: str) -> objects_pb2.Image:
    return next(
        image for image in cluster.listed(store_pb2.KIND_IMAGE) if image.meta.name.startswith(f"{name}@")
    )


@contextlib.contextmanager
def registry_at(cluster: Cluster, node: str, auth: str = "token") -> Iterator[TestRegistry]:
    """A registry that listens in a node's network: the socket is made there, by a thread of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    made: list[TestRegistry] = []

    def make() -> None:
        with cluster.namespace(node).open() as namespace:
            assert libc.setns(namespace.fileno(), 0x40000000) == 0, ctypes.get_errno()  # CLONE_NEWNET
        made.append(TestRegistry(auth=auth, address=cluster.address(node)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with made[0] as server:
        yield server
