"""Images of a whole cluster: brought in once, shared by the nodes themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from swarmpy.node.image.build import busybox_layer

from tests.images import config_for, docker_archive, entry, layer
from tests.integration.cluster import Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
BIG_BYTES = 24 << 20


def big_archive(path: Path, name: str) -> Path:
    """busybox and 24 MiB that nothing can compress, in two layers."""
    layers = [busybox_layer(), layer(entry("data", os.urandom(BIG_BYTES)))]
    config = config_for(layers, Cmd=["/bin/busybox", "sleep", "100000"])
    return docker_archive(path, name, layers, config)


def sent_bytes(cluster: Cluster, node: str) -> int:
    """What left the node over its uplink."""
    lines = cluster.inside(node, "cat", "/proc/net/dev").stdout.splitlines()
    links = {name.strip(): numbers.split() for name, _, numbers in (line.partition(":") for line in lines)}
    return int(links["eth0"][8])


def test_five_nodes_share_an_image_among_themselves(cluster: Cluster, service: str, tmp_path: Path) -> None:
    archive = big_archive(tmp_path / "big.tar", "big:1")
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
