"""Who may call what: the whole authorization table. Pure, default deny.

A caller is of exactly one kind, decided by how it reached the node: `user`
through the root-only unix socket, `manager` or `worker` by its certificate,
`none` on the join port. A method that is not in the table is allowed to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CallerKind = Literal["user", "manager", "worker", "none"]
LOCAL_ROOT = "root@local"


@dataclass(frozen=True)
class Caller:
    """Who calls. `actor` is the person or node to write down: for a manager that
    passes on a user's request, that user."""

    kind: CallerKind
    node_id: str
    cluster_id: str
    actor: str


_PEOPLE: frozenset[CallerKind] = frozenset({"user", "manager"})  # manager = on behalf of a user
_LOCAL: frozenset[CallerKind] = frozenset({"user"})  # acts on the very manager that is asked
_NODES: frozenset[CallerKind] = frozenset({"worker", "manager"})
_MANAGERS: frozenset[CallerKind] = frozenset({"manager"})
_LOCAL_ROOT_ONLY: frozenset[CallerKind] = frozenset({"user"})
_ANYONE_WITH_A_TOKEN: frozenset[CallerKind] = frozenset({"none"})

ACCESS: Mapping[str, frozenset[CallerKind]] = {
    "/swarmpy.v1.Control/Get": _PEOPLE,
    "/swarmpy.v1.Control/List": _PEOPLE,
    "/swarmpy.v1.Control/Create": _PEOPLE,
    "/swarmpy.v1.Control/Update": _PEOPLE,
    "/swarmpy.v1.Control/Delete": _PEOPLE,
    "/swarmpy.v1.Control/Explain": _PEOPLE,
    "/swarmpy.v1.Control/Plan": _PEOPLE,
    "/swarmpy.v1.Control/Rebalance": _PEOPLE,
    "/swarmpy.v1.Control/Rollout": _PEOPLE,
    "/swarmpy.v1.Control/Watch": _PEOPLE,
    "/swarmpy.v1.Control/Write": _PEOPLE,  # and each write of it as its unary call
    "/swarmpy.v1.Control/Status": _PEOPLE,
    "/swarmpy.v1.Control/Token": _PEOPLE,
    "/swarmpy.v1.Control/Logs": _PEOPLE,
    "/swarmpy.v1.Control/LoadImage": _PEOPLE,
    "/swarmpy.v1.Control/PullImage": _PEOPLE,
    "/swarmpy.v1.Control/TransferLead": _PEOPLE,
    "/swarmpy.v1.Control/ShowRoot": _PEOPLE,
    "/swarmpy.v1.Control/RotateRoot": _PEOPLE,
    "/swarmpy.v1.Control/UnlockKey": _PEOPLE,
    "/swarmpy.v1.Control/Unlock": _LOCAL_ROOT_ONLY,
    "/swarmpy.v1.Control/Digest": _MANAGERS,
    "/swarmpy.v1.Recovery/Position": _PEOPLE,
    "/swarmpy.v1.Recovery/Survey": _LOCAL,
    "/swarmpy.v1.Recovery/Recover": _LOCAL,
    "/swarmpy.v1.Recovery/Backup": _PEOPLE,
    "/swarmpy.v1.Recovery/ListBackups": _PEOPLE,
    "/swarmpy.v1.Recovery/BackupKey": _PEOPLE,
    "/swarmpy.v1.Tasks/Exec": _PEOPLE,
    "/swarmpy.v1.Tasks/Attach": _PEOPLE,
    "/swarmpy.v1.Tasks/CopyFrom": _PEOPLE,
    "/swarmpy.v1.Tasks/CopyTo": _PEOPLE,
    "/swarmpy.v1.Tasks/Forward": _PEOPLE,
    "/swarmpy.v1.Tasks/Stats": _PEOPLE,
    "/swarmpy.v1.Tasks/Processes": _PEOPLE,
    "/swarmpy.v1.Volumes/Usage": _PEOPLE,
    "/swarmpy.v1.Volumes/Backup": _PEOPLE,
    "/swarmpy.v1.Volumes/Restore": _PEOPLE,
    "/swarmpy.v1.Networks/Verify": _PEOPLE,
    "/swarmpy.v1.Networks/Trace": _PEOPLE,
    "/swarmpy.v1.AgentNetworks/Verify": _MANAGERS,
    "/swarmpy.v1.AgentNetworks/Trace": _MANAGERS,
    "/swarmpy.v1.AgentNetworks/Arrival": _MANAGERS,
    "/swarmpy.v1.Diagnosis/TestPolicy": _PEOPLE,
    "/swarmpy.v1.Diagnosis/Doctor": _PEOPLE,
    "/swarmpy.v1.AgentDiagnosis/Probe": _MANAGERS,
    "/swarmpy.v1.AgentDiagnosis/Echo": _NODES,
    "/swarmpy.v1.Dispatcher/Attach": _NODES,
    "/swarmpy.v1.ClusterCA/Renew": _NODES,
    "/swarmpy.v1.Join/Issue": _ANYONE_WITH_A_TOKEN,
    "/swarmpy.v1.Agent/Logs": _MANAGERS,
    "/swarmpy.v1.Agent/Resolve": _MANAGERS,
    "/swarmpy.v1.Agent/Pull": _MANAGERS,
    "/swarmpy.v1.Agent/Load": _MANAGERS,
    "/swarmpy.v1.Agent/Prune": _MANAGERS,
    "/swarmpy.v1.AgentTasks/Exec": _MANAGERS,
    "/swarmpy.v1.AgentTasks/Attach": _MANAGERS,
    "/swarmpy.v1.AgentTasks/CopyFrom": _MANAGERS,
    "/swarmpy.v1.AgentTasks/CopyTo": _MANAGERS,
    "/swarmpy.v1.AgentTasks/Forward": _MANAGERS,
    "/swarmpy.v1.AgentTasks/Stats": _MANAGERS,
    "/swarmpy.v1.AgentTasks/Processes": _MANAGERS,
    "/swarmpy.v1.AgentVolumes/Usage": _MANAGERS,
    "/swarmpy.v1.AgentVolumes/Backup": _MANAGERS,
    "/swarmpy.v1.AgentVolumes/Restore": _MANAGERS,
    "/swarmpy.v1.AgentVolumes/Tree": _NODES,  # and only the node that the volume moves to
    "/swarmpy.v1.AgentVolumes/Files": _NODES,
    "/swarmpy.v1.Images/Where": _PEOPLE,
    "/swarmpy.v1.Images/Inspect": _PEOPLE,
    "/swarmpy.v1.Images/Save": _PEOPLE,
    "/swarmpy.v1.Images/Usage": _PEOPLE,
    "/swarmpy.v1.Images/Prune": _PEOPLE,
    "/swarmpy.v1.Images/CheckRegistry": _PEOPLE,
    "/swarmpy.v1.AgentImages/CheckRegistry": _MANAGERS,
    "/swarmpy.v1.AgentImages/Where": _MANAGERS,
    "/swarmpy.v1.AgentImages/Inspect": _MANAGERS,
    "/swarmpy.v1.AgentImages/Save": _MANAGERS,
    "/swarmpy.v1.AgentImages/Usage": _MANAGERS,
    "/swarmpy.v1.AgentImages/Collect": _MANAGERS,
    "/swarmpy.v1.AgentImages/Fetch": _MANAGERS,
    "/swarmpy.v1.Pulls/Credential": _NODES,
    "/swarmpy.v1.Payloads/Fetch": _NODES,  # and only what a task of that node refers to
    "/swarmpy.v1.Swarm/Exchange": _NODES,
    "/swarmpy.v1.Blobs/Stat": _NODES,
    "/swarmpy.v1.Blobs/Read": _NODES,
}


def may_call(kind: CallerKind, method: str) -> bool:
    """Whether a caller of this kind may call the method (full name, with slashes)."""
    return kind in ACCESS.get(method, frozenset())
