"""The local half of `swarmpy doctor`: this machine, whether it holds a node or not."""

from __future__ import annotations

from pathlib import Path

from swarmpy.node import config as node_config
from swarmpy.node.agent import diagnosis, machine_checks
from swarmpy.proto import diagnosis_pb2


def local_checks(state_dir: Path) -> list[diagnosis_pb2.Check]:
    """What the machine is like; its ports are asked only where no node of this state directory runs."""
    paths = node_config.Paths(state_dir)
    found = machine_checks.findings(state_dir, running=paths.node_json.exists())
    return [diagnosis.check_of(finding) for finding in found]


def is_worker(state_dir: Path) -> bool:
    """Whether a node is here that no manager can be asked on."""
    try:
        return node_config.load(node_config.Paths(state_dir)).role == node_config.WORKER
    except node_config.ConfigError:
        return False
