"""Every method of every service is in the table, and nothing else is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from swarmpy.node.ca.access import ACCESS, may_call
from swarmpy.proto import ca_pb2

PROTOS = Path(ca_pb2.__file__).parent


def methods() -> set[str]:
    found = set()
    for proto in sorted(PROTOS.glob("*.proto")):
        module = importlib.import_module(f"swarmpy.proto.{proto.stem}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return found


def test_table_is_complete_and_has_nothing_else() -> None:
    assert methods() == set(ACCESS)


LOCAL = {"/swarmpy.v1.Recovery/Survey", "/swarmpy.v1.Recovery/Recover", "/swarmpy.v1.Control/Unlock"}


def expected(method: str) -> set[str]:
    if method in LOCAL:
        return {"user"}
    if method == "/swarmpy.v1.AgentDiagnosis/Echo":
        return {"worker", "manager"}
    if method == "/swarmpy.v1.Control/Digest":
        return {"manager"}
    if method in {"/swarmpy.v1.AgentVolumes/Tree", "/swarmpy.v1.AgentVolumes/Files"}:
        return {"worker", "manager"}
    service = re.sub(r"^/swarmpy\.v1\.(\w+)/.*$", r"\1", method)
    return {
        "Volumes": {"user", "manager"}, "AgentVolumes": {"manager"},
        "Control": {"user", "manager"}, "Dispatcher": {"worker", "manager"},
        "ClusterCA": {"worker", "manager"}, "Recovery": {"user", "manager"},
        "Join": {"none"}, "Agent": {"manager"}, "Tasks": {"user", "manager"},
        "AgentTasks": {"manager"},
        "Networks": {"user", "manager"}, "AgentNetworks": {"manager"}, "Blobs": {"worker", "manager"},
        "Diagnosis": {"user", "manager"}, "AgentDiagnosis": {"manager"},
        "Images": {"user", "manager"}, "AgentImages": {"manager"},
        "Swarm": {"worker", "manager"}, "Pulls": {"worker", "manager"},
        "Payloads": {"worker", "manager"},
    }[service]  # fmt: skip


@pytest.mark.parametrize("method", sorted(ACCESS))
def test_each_kind_of_caller(method: str) -> None:
    allowed = {kind for kind in ("user", "manager", "worker", "none") if may_call(kind, method)}
    assert allowed == expected(method)


@pytest.mark.parametrize("method", ["", "/swarmpy.v1.Control/get", "/swarmpy.v1.Control/Drop", "Control/Get"])
def test_unknown_methods_are_for_nobody(method: str) -> None:
    assert not any(may_call(kind, method) for kind in ("user", "manager", "worker", "none"))
