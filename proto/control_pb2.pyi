from swarmpy.proto import types_pb2 as _types_pb2
from swarmpy.proto import objects_pb2 as _objects_pb2
from swarmpy.proto import store_pb2 as _store_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_CREATE: _ClassVar[EventAction]
    EVENT_UPDATE: _ClassVar[EventAction]
    EVENT_DELETE: _ClassVar[EventAction]
    EVENT_SYNC: _ClassVar[EventAction]
    EVENT_PROGRESS: _ClassVar[EventAction]

class PlanAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_STAY: _ClassVar[PlanAction]
    PLAN_START: _ClassVar[PlanAction]
    PLAN_STOP: _ClassVar[PlanAction]
    PLAN_REPLACE: _ClassVar[PlanAction]
    PLAN_MOVE: _ClassVar[PlanAction]
    PLAN_WAIT: _ClassVar[PlanAction]

class RolloutAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_ROLLBACK: _ClassVar[RolloutAction]
    ROLLOUT_PROMOTE: _ClassVar[RolloutAction]
    ROLLOUT_ABORT: _ClassVar[RolloutAction]
    ROLLOUT_PAUSE: _ClassVar[RolloutAction]
    ROLLOUT_RESUME: _ClassVar[RolloutAction]
    ROLLOUT_RESTART: _ClassVar[RolloutAction]
EVENT_CREATE: EventAction
EVENT_UPDATE: EventAction
EVENT_DELETE: EventAction
EVENT_SYNC: EventAction
EVENT_PROGRESS: EventAction
PLAN_STAY: PlanAction
PLAN_START: PlanAction
PLAN_STOP: PlanAction
PLAN_REPLACE: PlanAction
PLAN_MOVE: PlanAction
PLAN_WAIT: PlanAction
ROLLOUT_ROLLBACK: RolloutAction
ROLLOUT_PROMOTE: RolloutAction
ROLLOUT_ABORT: RolloutAction
ROLLOUT_PAUSE: RolloutAction
ROLLOUT_RESUME: RolloutAction
ROLLOUT_RESTART: RolloutAction

class Staleness(_message.Message):
    __slots__ = ("index", "age_ms", "node_id")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    index: int
    age_ms: int
    node_id: str
    def __init__(self, index: _Optional[int] = ..., age_ms: _Optional[int] = ..., node_id: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("kind", "ref", "stale", "min_index", "at_index", "at_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    AT_INDEX_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    kind: _store_pb2.Kind
    ref: str
    stale: bool
    min_index: int
    at_index: int
    at_ms: int
    def __init__(self, kind: _Optional[_Union[_store_pb2.Kind, str]] = ..., ref: _Optional[str] = ..., stale: _Optional[bool] = ..., min_index: _Optional[int] = ..., at_index: _Optional[int] = ..., at_ms: _Optional[int] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("object", "index", "staleness")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    object: _store_pb2.Object
    index: int
    staleness: Staleness
    def __init__(self, object: _Optional[_Union[_store_pb2.Object, _Mapping]] = ..., index: _Optional[int] = ..., staleness: _Optional[_Union[Staleness, _Mapping]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("kind", "filters", "stale", "min_index", "at_index", "at_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    AT_INDEX_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    kind: _store_pb2.Kind
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    stale: bool
    min_index: int
    at_index: int
    at_ms: int
    def __init__(self, kind: _Optional[_Union[_store_pb2.Kind, str]] = ..., filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ..., stale: _Optional[bool] = ..., min_index: _Optional[int] = ..., at_index: _Optional[int] = ..., at_ms: _Optional[int] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("objects", "index", "staleness")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[_store_pb2.Object]
    index: int
    staleness: Staleness
    def __init__(self, objects: _Optional[_Iterable[_Union[_store_pb2.Object, _Mapping]]] = ..., index: _Optional[int] = ..., staleness: _Optional[_Union[Staleness, _Mapping]] = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("object", "request_id", "check_index", "join_token")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_INDEX_FIELD_NUMBER: _ClassVar[int]
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    object: _store_pb2.Object
    request_id: str
    check_index: int
    join_token: bytes
    def __init__(self, object: _Optional[_Union[_store_pb2.Object, _Mapping]] = ..., request_id: _Optional[str] = ..., check_index: _Optional[int] = ..., join_token: _Optional[bytes] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("object", "request_id", "check_index", "pinned")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_INDEX_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    object: _store_pb2.Object
    request_id: str
    check_index: int
    pinned: bool
    def __init__(self, object: _Optional[_Union[_store_pb2.Object, _Mapping]] = ..., request_id: _Optional[str] = ..., check_index: _Optional[int] = ..., pinned: _Optional[bool] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("kind", "ref", "force", "request_id", "check_index")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_INDEX_FIELD_NUMBER: _ClassVar[int]
    kind: _store_pb2.Kind
    ref: str
    force: bool
    request_id: str
    check_index: int
    def __init__(self, kind: _Optional[_Union[_store_pb2.Kind, str]] = ..., ref: _Optional[str] = ..., force: _Optional[bool] = ..., request_id: _Optional[str] = ..., check_index: _Optional[int] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("object", "index", "warnings")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    object: _store_pb2.Object
    index: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, object: _Optional[_Union[_store_pb2.Object, _Mapping]] = ..., index: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("kinds", "after_index", "initial_list", "filters", "stale", "min_index", "progress_ms")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_INDEX_FIELD_NUMBER: _ClassVar[int]
    INITIAL_LIST_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_MS_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[_store_pb2.Kind]
    after_index: int
    initial_list: bool
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    stale: bool
    min_index: int
    progress_ms: int
    def __init__(self, kinds: _Optional[_Iterable[_Union[_store_pb2.Kind, str]]] = ..., after_index: _Optional[int] = ..., initial_list: _Optional[bool] = ..., filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ..., stale: _Optional[bool] = ..., min_index: _Optional[int] = ..., progress_ms: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("action", "object", "index", "time_ms", "last_of_index", "staleness")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_OF_INDEX_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    action: EventAction
    object: _store_pb2.Object
    index: int
    time_ms: int
    last_of_index: bool
    staleness: Staleness
    def __init__(self, action: _Optional[_Union[EventAction, str]] = ..., object: _Optional[_Union[_store_pb2.Object, _Mapping]] = ..., index: _Optional[int] = ..., time_ms: _Optional[int] = ..., last_of_index: _Optional[bool] = ..., staleness: _Optional[_Union[Staleness, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("stale", "min_index")
    STALE_FIELD_NUMBER: _ClassVar[int]
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    stale: bool
    min_index: int
    def __init__(self, stale: _Optional[bool] = ..., min_index: _Optional[int] = ...) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("node_id", "hostname", "address", "leader", "reachable", "match_index")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hostname: str
    address: str
    leader: bool
    reachable: bool
    match_index: int
    def __init__(self, node_id: _Optional[str] = ..., hostname: _Optional[str] = ..., address: _Optional[str] = ..., leader: _Optional[bool] = ..., reachable: _Optional[bool] = ..., match_index: _Optional[int] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("cluster_id", "node_id", "leader_id", "term", "commit_index", "applied_index", "epoch", "members", "version", "has_quorum", "nodes", "nodes_ready", "services", "tasks_running", "raft_profile", "staleness", "heartbeat_ms", "election_min_ms", "election_max_ms", "nodes_connected", "locked", "problems")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAS_QUORUM_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODES_READY_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    TASKS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    RAFT_PROFILE_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    ELECTION_MIN_MS_FIELD_NUMBER: _ClassVar[int]
    ELECTION_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    NODES_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    node_id: str
    leader_id: str
    term: int
    commit_index: int
    applied_index: int
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    version: str
    has_quorum: bool
    nodes: int
    nodes_ready: int
    services: int
    tasks_running: int
    raft_profile: str
    staleness: Staleness
    heartbeat_ms: int
    election_min_ms: int
    election_max_ms: int
    nodes_connected: int
    locked: bool
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cluster_id: _Optional[str] = ..., node_id: _Optional[str] = ..., leader_id: _Optional[str] = ..., term: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., version: _Optional[str] = ..., has_quorum: _Optional[bool] = ..., nodes: _Optional[int] = ..., nodes_ready: _Optional[int] = ..., services: _Optional[int] = ..., tasks_running: _Optional[int] = ..., raft_profile: _Optional[str] = ..., staleness: _Optional[_Union[Staleness, _Mapping]] = ..., heartbeat_ms: _Optional[int] = ..., election_min_ms: _Optional[int] = ..., election_max_ms: _Optional[int] = ..., nodes_connected: _Optional[int] = ..., locked: _Optional[bool] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class TokenRequest(_message.Message):
    __slots__ = ("role", "rotate", "ttl_ms", "uses", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    role: _types_pb2.Role
    rotate: bool
    ttl_ms: int
    uses: int
    labels: _containers.ScalarMap[str, str]
    def __init__(self, role: _Optional[_Union[_types_pb2.Role, str]] = ..., rotate: _Optional[bool] = ..., ttl_ms: _Optional[int] = ..., uses: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TokenResponse(_message.Message):
    __slots__ = ("token", "join_addresses", "made")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    JOIN_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    token: str
    join_addresses: _containers.RepeatedScalarFieldContainer[str]
    made: _objects_pb2.Token
    def __init__(self, token: _Optional[str] = ..., join_addresses: _Optional[_Iterable[str]] = ..., made: _Optional[_Union[_objects_pb2.Token, _Mapping]] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("service", "task", "follow", "tail", "since_ms", "until_ms", "targets", "previous", "container")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    service: str
    task: str
    follow: bool
    tail: int
    since_ms: int
    until_ms: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    previous: bool
    container: str
    def __init__(self, service: _Optional[str] = ..., task: _Optional[str] = ..., follow: _Optional[bool] = ..., tail: _Optional[int] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ..., previous: _Optional[bool] = ..., container: _Optional[str] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("task_id", "task_name", "node_name", "time_ns", "stderr", "line", "warning", "container")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    task_name: str
    node_name: str
    time_ns: int
    stderr: bool
    line: bytes
    warning: str
    container: str
    def __init__(self, task_id: _Optional[str] = ..., task_name: _Optional[str] = ..., node_name: _Optional[str] = ..., time_ns: _Optional[int] = ..., stderr: _Optional[bool] = ..., line: _Optional[bytes] = ..., warning: _Optional[str] = ..., container: _Optional[str] = ...) -> None: ...

class ImageChunk(_message.Message):
    __slots__ = ("data", "reference", "format")
    DATA_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    reference: str
    format: str
    def __init__(self, data: _Optional[bytes] = ..., reference: _Optional[str] = ..., format: _Optional[str] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("reference", "access")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    reference: str
    access: _types_pb2.RegistryAccess
    def __init__(self, reference: _Optional[str] = ..., access: _Optional[_Union[_types_pb2.RegistryAccess, _Mapping]] = ...) -> None: ...

class ImageProgress(_message.Message):
    __slots__ = ("status", "blob", "done_bytes", "total_bytes", "images")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    status: str
    blob: str
    done_bytes: int
    total_bytes: int
    images: _containers.RepeatedCompositeFieldContainer[_objects_pb2.Image]
    def __init__(self, status: _Optional[str] = ..., blob: _Optional[str] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., images: _Optional[_Iterable[_Union[_objects_pb2.Image, _Mapping]]] = ...) -> None: ...

class TransferRequest(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: str
    def __init__(self, to: _Optional[str] = ...) -> None: ...

class TransferResponse(_message.Message):
    __slots__ = ("leader_id",)
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    leader_id: str
    def __init__(self, leader_id: _Optional[str] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("index", "agreed")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    index: int
    agreed: bytes
    def __init__(self, index: _Optional[int] = ..., agreed: _Optional[bytes] = ...) -> None: ...

class DigestResponse(_message.Message):
    __slots__ = ("index", "digest")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    index: int
    digest: bytes
    def __init__(self, index: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class RotateRootRequest(_message.Message):
    __slots__ = ("request_id", "plan")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    plan: bool
    def __init__(self, request_id: _Optional[str] = ..., plan: _Optional[bool] = ...) -> None: ...

class ShowRootRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RootCertificate(_message.Message):
    __slots__ = ("subject", "sha256", "not_before_ms", "not_after_ms", "certificate", "nodes")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_MS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    subject: str
    sha256: str
    not_before_ms: int
    not_after_ms: int
    certificate: bytes
    nodes: int
    def __init__(self, subject: _Optional[str] = ..., sha256: _Optional[str] = ..., not_before_ms: _Optional[int] = ..., not_after_ms: _Optional[int] = ..., certificate: _Optional[bytes] = ..., nodes: _Optional[int] = ...) -> None: ...

class RootWait(_message.Message):
    __slots__ = ("node_id", "hostname", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hostname: str
    reason: str
    def __init__(self, node_id: _Optional[str] = ..., hostname: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RootReport(_message.Message):
    __slots__ = ("root", "next", "former", "started_ms", "rotated_ms", "nodes", "unknown", "waits", "waiting")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    FORMER_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    ROTATED_MS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    root: RootCertificate
    next: RootCertificate
    former: RootCertificate
    started_ms: int
    rotated_ms: int
    nodes: int
    unknown: int
    waits: _containers.RepeatedCompositeFieldContainer[RootWait]
    waiting: int
    def __init__(self, root: _Optional[_Union[RootCertificate, _Mapping]] = ..., next: _Optional[_Union[RootCertificate, _Mapping]] = ..., former: _Optional[_Union[RootCertificate, _Mapping]] = ..., started_ms: _Optional[int] = ..., rotated_ms: _Optional[int] = ..., nodes: _Optional[int] = ..., unknown: _Optional[int] = ..., waits: _Optional[_Iterable[_Union[RootWait, _Mapping]]] = ..., waiting: _Optional[int] = ...) -> None: ...

class UnlockKeyRequest(_message.Message):
    __slots__ = ("rotate",)
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    rotate: bool
    def __init__(self, rotate: _Optional[bool] = ...) -> None: ...

class UnlockKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class UnlockRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class UnlockResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PlannedWrite(_message.Message):
    __slots__ = ("create", "update", "delete", "rollout")
    CREATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    create: CreateRequest
    update: UpdateRequest
    delete: DeleteRequest
    rollout: RolloutRequest
    def __init__(self, create: _Optional[_Union[CreateRequest, _Mapping]] = ..., update: _Optional[_Union[UpdateRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ..., rollout: _Optional[_Union[RolloutRequest, _Mapping]] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("writes",)
    WRITES_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[PlannedWrite]
    def __init__(self, writes: _Optional[_Iterable[_Union[PlannedWrite, _Mapping]]] = ...) -> None: ...

class FieldChange(_message.Message):
    __slots__ = ("path", "old", "new")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    path: str
    old: str
    new: str
    def __init__(self, path: _Optional[str] = ..., old: _Optional[str] = ..., new: _Optional[str] = ...) -> None: ...

class ObjectChange(_message.Message):
    __slots__ = ("kind", "name", "action", "fields", "object")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    kind: _store_pb2.Kind
    name: str
    action: EventAction
    fields: _containers.RepeatedCompositeFieldContainer[FieldChange]
    object: _store_pb2.Object
    def __init__(self, kind: _Optional[_Union[_store_pb2.Kind, str]] = ..., name: _Optional[str] = ..., action: _Optional[_Union[EventAction, str]] = ..., fields: _Optional[_Iterable[_Union[FieldChange, _Mapping]]] = ..., object: _Optional[_Union[_store_pb2.Object, _Mapping]] = ...) -> None: ...

class PlannedTask(_message.Message):
    __slots__ = ("action", "service", "slot", "from_node", "to_node", "reason", "task_id")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    TO_NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    action: PlanAction
    service: str
    slot: str
    from_node: str
    to_node: str
    reason: str
    task_id: str
    def __init__(self, action: _Optional[_Union[PlanAction, str]] = ..., service: _Optional[str] = ..., slot: _Optional[str] = ..., from_node: _Optional[str] = ..., to_node: _Optional[str] = ..., reason: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("objects", "tasks", "staying", "index", "took_ms", "cut", "warnings")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    STAYING_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectChange]
    tasks: _containers.RepeatedCompositeFieldContainer[PlannedTask]
    staying: int
    index: int
    took_ms: int
    cut: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, objects: _Optional[_Iterable[_Union[ObjectChange, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[PlannedTask, _Mapping]]] = ..., staying: _Optional[int] = ..., index: _Optional[int] = ..., took_ms: _Optional[int] = ..., cut: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class RolloutRequest(_message.Message):
    __slots__ = ("service", "action", "revision", "batch", "request_id", "check_index")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_INDEX_FIELD_NUMBER: _ClassVar[int]
    service: str
    action: RolloutAction
    revision: int
    batch: str
    request_id: str
    check_index: int
    def __init__(self, service: _Optional[str] = ..., action: _Optional[_Union[RolloutAction, str]] = ..., revision: _Optional[int] = ..., batch: _Optional[str] = ..., request_id: _Optional[str] = ..., check_index: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("target", "labels", "reservations", "reserve")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    target: str
    labels: _containers.ScalarMap[str, str]
    reservations: _types_pb2.Resources
    reserve: bool
    def __init__(self, target: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., reservations: _Optional[_Union[_types_pb2.Resources, _Mapping]] = ..., reserve: _Optional[bool] = ...) -> None: ...

class ExplainedFilter(_message.Message):
    __slots__ = ("name", "problem")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    name: str
    problem: str
    def __init__(self, name: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class ExplainedNode(_message.Message):
    __slots__ = ("node", "filters", "rank", "service_tasks", "tasks", "score", "faulty", "second_choice", "affinity", "free_nano_cpus", "free_memory_bytes", "here", "cpu_percent", "memory_percent")
    NODE_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TASKS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FAULTY_FIELD_NUMBER: _ClassVar[int]
    SECOND_CHOICE_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    FREE_NANO_CPUS_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    node: str
    filters: _containers.RepeatedCompositeFieldContainer[ExplainedFilter]
    rank: int
    service_tasks: int
    tasks: int
    score: float
    faulty: bool
    second_choice: bool
    affinity: int
    free_nano_cpus: int
    free_memory_bytes: int
    here: bool
    cpu_percent: int
    memory_percent: int
    def __init__(self, node: _Optional[str] = ..., filters: _Optional[_Iterable[_Union[ExplainedFilter, _Mapping]]] = ..., rank: _Optional[int] = ..., service_tasks: _Optional[int] = ..., tasks: _Optional[int] = ..., score: _Optional[float] = ..., faulty: _Optional[bool] = ..., second_choice: _Optional[bool] = ..., affinity: _Optional[int] = ..., free_nano_cpus: _Optional[int] = ..., free_memory_bytes: _Optional[int] = ..., here: _Optional[bool] = ..., cpu_percent: _Optional[int] = ..., memory_percent: _Optional[int] = ...) -> None: ...

class ExplainedEvent(_message.Message):
    __slots__ = ("at_ms", "what")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    what: str
    def __init__(self, at_ms: _Optional[int] = ..., what: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("service", "task", "state", "message", "nodes", "events", "advice", "index", "strategy")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    service: str
    task: str
    state: str
    message: str
    nodes: _containers.RepeatedCompositeFieldContainer[ExplainedNode]
    events: _containers.RepeatedCompositeFieldContainer[ExplainedEvent]
    advice: _containers.RepeatedScalarFieldContainer[str]
    index: int
    strategy: str
    def __init__(self, service: _Optional[str] = ..., task: _Optional[str] = ..., state: _Optional[str] = ..., message: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[ExplainedNode, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[ExplainedEvent, _Mapping]]] = ..., advice: _Optional[_Iterable[str]] = ..., index: _Optional[int] = ..., strategy: _Optional[str] = ...) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ("service", "max_moves", "plan", "request_id", "check_index")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    MAX_MOVES_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_INDEX_FIELD_NUMBER: _ClassVar[int]
    service: str
    max_moves: int
    plan: bool
    request_id: str
    check_index: int
    def __init__(self, service: _Optional[str] = ..., max_moves: _Optional[int] = ..., plan: _Optional[bool] = ..., request_id: _Optional[str] = ..., check_index: _Optional[int] = ...) -> None: ...

class RebalanceResponse(_message.Message):
    __slots__ = ("moves", "index", "skipped")
    MOVES_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedCompositeFieldContainer[PlannedTask]
    index: int
    skipped: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, moves: _Optional[_Iterable[_Union[PlannedTask, _Mapping]]] = ..., index: _Optional[int] = ..., skipped: _Optional[_Iterable[str]] = ...) -> None: ...

class WriteCall(_message.Message):
    __slots__ = ("number", "create", "update", "delete", "rollout", "timeout_ms", "actor")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    number: int
    create: CreateRequest
    update: UpdateRequest
    delete: DeleteRequest
    rollout: RolloutRequest
    timeout_ms: int
    actor: str
    def __init__(self, number: _Optional[int] = ..., create: _Optional[_Union[CreateRequest, _Mapping]] = ..., update: _Optional[_Union[UpdateRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ..., rollout: _Optional[_Union[RolloutRequest, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., actor: _Optional[str] = ...) -> None: ...

class WriteCalls(_message.Message):
    __slots__ = ("calls", "cancelled")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[WriteCall]
    cancelled: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, calls: _Optional[_Iterable[_Union[WriteCall, _Mapping]]] = ..., cancelled: _Optional[_Iterable[int]] = ...) -> None: ...

class WriteAnswer(_message.Message):
    __slots__ = ("number", "response", "code", "details", "refused")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    number: int
    response: WriteResponse
    code: int
    details: str
    refused: bool
    def __init__(self, number: _Optional[int] = ..., response: _Optional[_Union[WriteResponse, _Mapping]] = ..., code: _Optional[int] = ..., details: _Optional[str] = ..., refused: _Optional[bool] = ...) -> None: ...

class WriteAnswers(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[WriteAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[WriteAnswer, _Mapping]]] = ...) -> None: ...
