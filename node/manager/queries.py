"""Reads: filters over objects and the status of the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node import config as node_config
from swarmpy.node.manager import stacks
from swarmpy.node.manager.errors import Invalid, NotFound
from swarmpy.node.plan.volume_checks import shown_options
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.core_log import WAN, Profile
from swarmpy.raft.log import Status
from swarmpy.raft.store import Store
from swarmpy.raft.tables import KINDS, Ambiguous, Entity, noun
from swarmpy.raft.tables import NotFound as Missing

FILTERS_OF_ALL = {"id", "name", "label", "node.label"}
FILTERS_OF: dict[store_pb2.Kind, set[str]] = {
    store_pb2.KIND_NODE: {"role", "state"},
    store_pb2.KIND_SERVICE: {"service", "mode"},
    store_pb2.KIND_TASK: {"service", "node", "desired-state", "state"},
    store_pb2.KIND_IMAGE: {"reference"},
    store_pb2.KIND_TOKEN: {"role"},
}


def matches(store: Store, obj: Entity, filters: Sequence[control_pb2.Filter]) -> bool:
    """Like Docker: values of one key are alternatives, different keys must all hold."""
    by_key: dict[str, list[str]] = {}
    for entry in filters:
        by_key.setdefault(entry.key, []).append(entry.value)
    return all(any(_one(store, obj, key, value) for value in values) for key, values in by_key.items())


def check_filters(kinds: Iterable[store_pb2.Kind], filters: Sequence[control_pb2.Filter]) -> None:
    """Raises Invalid for a filter that one of the kinds does not know."""
    for kind in kinds or KINDS:
        for entry in filters:
            if kind not in KINDS:
                raise Invalid(f"kind {kind} is not a kind of object that this version knows")
            if entry.key not in FILTERS_OF_ALL | FILTERS_OF.get(kind, set()):
                raise Invalid(f"filter {entry.key!r} does not fit a {noun(kind)}")


def _one(store: Store, obj: Entity, key: str, value: str) -> bool:
    meta = obj.meta
    match key:
        case "id":
            return bool(meta.id.startswith(value))
        case "name":
            return bool(value in meta.name)
        case "label" | "node.label":
            name, equals, wanted = value.partition("=")
            return name in meta.labels and (not equals or meta.labels[name] == wanted)
    match obj, key:
        case objects_pb2.Node() | objects_pb2.Token(), "role":
            return types_pb2.Role.Name(obj.role).removeprefix("ROLE_").lower() == value
        case objects_pb2.Node(), "state":
            return types_pb2.NodeState.Name(obj.status.state).removeprefix("NODE_").lower() == value
        case objects_pb2.Service(), "service":
            return value == meta.name or meta.id.startswith(value)
        case objects_pb2.Service(), "mode":
            return str(obj.spec.WhichOneof("mode")).replace("_", "-") == value
        case objects_pb2.Task(), "service":
            return value == obj.service_name or obj.service_id.startswith(value)
        case objects_pb2.Task(), "node":
            node = store.node(obj.node_id)
            return bool(obj.node_id) and (
                obj.node_id.startswith(value) or (node is not None and node.meta.name == value)
            )
        case objects_pb2.Task(), "desired-state":
            return types_pb2.TaskState.Name(obj.desired_state).removeprefix("TASK_").lower() == value
        case objects_pb2.Task(), "state":
            return types_pb2.TaskState.Name(obj.status.state).removeprefix("TASK_").lower() == value
        case objects_pb2.Image(), "reference":
            return bool(value in meta.name)
    raise Invalid(f"filter {key!r} does not fit a {type(obj).__name__.lower()}")


def find(store: Store, kind: store_pb2.Kind, ref: str) -> Entity:
    """By id, name or unique beginning of an id; raises NotFound or Invalid."""
    word = store_pb2.Kind.Name(kind).removeprefix("KIND_").lower()
    try:
        return store.find(kind, ref)
    except Missing as error:
        raise NotFound(f"there is no {word} {ref!r}") from error
    except Ambiguous as error:
        raise Invalid(str(error)) from error


def public(obj: Entity, *, whole: bool = False) -> Entity:
    """The object without what must not leave the managers; a config's content only where `whole` is wanted."""
    if isinstance(obj, objects_pb2.Cluster):
        shown = objects_pb2.Cluster()
        shown.CopyFrom(obj)
        for name in ("root_key", "worker_secret", "manager_secret", "unlock_key", "backup_key"):
            shown.ClearField(name)
        if shown.HasField("root_rotation"):
            for name in ("root_key", "worker_secret", "manager_secret"):
                shown.root_rotation.ClearField(name)
        return shown
    if isinstance(obj, objects_pb2.Credential):
        hidden = objects_pb2.Credential()
        hidden.CopyFrom(obj)
        hidden.password, hidden.has_password = "", bool(obj.password)
        return hidden
    if isinstance(obj, objects_pb2.Volume) and (data := shown_options(obj.spec.options)) != obj.spec.options:
        volume = objects_pb2.Volume()
        volume.CopyFrom(obj)
        volume.spec.options.update(data)
        return volume
    if isinstance(obj, objects_pb2.Stack) and not whole:
        return stacks.outline(obj)
    if isinstance(obj, objects_pb2.Token):
        nameless = objects_pb2.Token()
        nameless.CopyFrom(obj)
        nameless.ClearField("secret_sha256")
        return nameless
    if isinstance(obj, objects_pb2.Secret) or (isinstance(obj, objects_pb2.Config) and not whole):
        return type(obj)(meta=obj.meta, size_bytes=obj.size_bytes, template_driver=obj.template_driver)
    return obj


def listing(store: Store, kind: store_pb2.Kind, filters: Sequence[control_pb2.Filter]) -> Iterable[Entity]:
    return (obj for obj in store.all(kind) if matches(store, obj, filters))


def status(
    store: Store, raft: Status, profile: Profile, connected: int, problems: Sequence[str] = ()
) -> control_pb2.StatusResponse:
    cluster = store.cluster()
    nodes = list(store.nodes())
    names = {node.meta.id: node.meta.name for node in nodes}
    voters = [member for member in raft.members if not member.learner]
    return control_pb2.StatusResponse(
        cluster_id=cluster.meta.id if cluster else "",
        node_id=raft.node_id, leader_id=raft.leader_id or "", term=raft.term,
        commit_index=raft.commit_index, applied_index=raft.applied_index, epoch=store.epoch,
        members=[
            control_pb2.MemberStatus(
                node_id=member.node_id, hostname=names.get(member.node_id, ""), address=member.address,
                leader=member.node_id == raft.leader_id,
                reachable=member.reachable or member.node_id == raft.node_id, match_index=member.match_index,
            )
            for member in raft.members
        ],
        version=node_config.release(),
        has_quorum=raft.is_leader or sum(m.reachable or m.node_id == raft.node_id for m in voters) * 2 > len(voters),
        nodes=len(nodes), nodes_ready=sum(node.status.state == types_pb2.NODE_READY for node in nodes),
        nodes_connected=connected, services=sum(1 for _ in store.services()),
        tasks_running=len(store.task_ids_in_state(types_pb2.TASK_RUNNING)),
        problems=problems,
        raft_profile="wan" if profile == WAN else "lan", heartbeat_ms=profile.heartbeat_ms,
        election_min_ms=profile.election_min_ms, election_max_ms=profile.election_max_ms,
    )  # fmt: skip
