from swarmpy.proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RotationPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROTATION_ISSUING: _ClassVar[RotationPhase]
    ROTATION_TRUSTING: _ClassVar[RotationPhase]

class BuildState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUILD_SETTLED: _ClassVar[BuildState]
    BUILD_FETCHING: _ClassVar[BuildState]
    BUILD_TRYING: _ClassVar[BuildState]
    BUILD_FAILED: _ClassVar[BuildState]

class DependencyCondition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEPENDENCY_STARTED: _ClassVar[DependencyCondition]
    DEPENDENCY_HEALTHY: _ClassVar[DependencyCondition]
    DEPENDENCY_COMPLETED: _ClassVar[DependencyCondition]

class EndpointMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENDPOINT_VIP: _ClassVar[EndpointMode]
    ENDPOINT_DNSRR: _ClassVar[EndpointMode]

class UpdateState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_NONE: _ClassVar[UpdateState]
    UPDATE_UPDATING: _ClassVar[UpdateState]
    UPDATE_PAUSED: _ClassVar[UpdateState]
    UPDATE_COMPLETED: _ClassVar[UpdateState]
    UPDATE_ROLLBACK_STARTED: _ClassVar[UpdateState]
    UPDATE_ROLLBACK_PAUSED: _ClassVar[UpdateState]
    UPDATE_ROLLBACK_COMPLETED: _ClassVar[UpdateState]
    UPDATE_WAITING: _ClassVar[UpdateState]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_RUNNING: _ClassVar[JobState]
    JOB_COMPLETE: _ClassVar[JobState]
    JOB_FAILED: _ClassVar[JobState]

class ContainerRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTAINER_MAIN: _ClassVar[ContainerRole]
    CONTAINER_INIT: _ClassVar[ContainerRole]
    CONTAINER_SIDECAR: _ClassVar[ContainerRole]

class ContainerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTAINER_WAITING: _ClassVar[ContainerState]
    CONTAINER_RUNNING: _ClassVar[ContainerState]
    CONTAINER_EXITED: _ClassVar[ContainerState]

class ProbeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROBE_LIVENESS: _ClassVar[ProbeKind]
    PROBE_READINESS: _ClassVar[ProbeKind]
    PROBE_STARTUP: _ClassVar[ProbeKind]

class ProbeVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_WAITING: _ClassVar[ProbeVerdict]
    VERDICT_PASSING: _ClassVar[ProbeVerdict]
    VERDICT_FAILING: _ClassVar[ProbeVerdict]

class PolicyDirection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_INGRESS: _ClassVar[PolicyDirection]
    POLICY_EGRESS: _ClassVar[PolicyDirection]

class Overlap(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERLAP_ALLOW: _ClassVar[Overlap]
    OVERLAP_FORBID: _ClassVar[Overlap]
    OVERLAP_REPLACE: _ClassVar[Overlap]

class VolumeMoveState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VOLUME_MOVE_NONE: _ClassVar[VolumeMoveState]
    VOLUME_MOVE_COPYING: _ClassVar[VolumeMoveState]
    VOLUME_MOVE_STOPPING: _ClassVar[VolumeMoveState]
    VOLUME_MOVE_FINAL: _ClassVar[VolumeMoveState]
    VOLUME_MOVE_DONE: _ClassVar[VolumeMoveState]
    VOLUME_MOVE_FAILED: _ClassVar[VolumeMoveState]

class VolumeReportState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VOLUME_ABSENT: _ClassVar[VolumeReportState]
    VOLUME_HELD: _ClassVar[VolumeReportState]
    VOLUME_COPYING: _ClassVar[VolumeReportState]
    VOLUME_SYNCED: _ClassVar[VolumeReportState]
    VOLUME_COPIED: _ClassVar[VolumeReportState]
    VOLUME_FAILED: _ClassVar[VolumeReportState]

class StackState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STACK_UNFINISHED: _ClassVar[StackState]
    STACK_COMPLETE: _ClassVar[StackState]
    STACK_FAILED: _ClassVar[StackState]
    STACK_UNDONE: _ClassVar[StackState]

class MetricKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_CPU: _ClassVar[MetricKind]
    METRIC_MEMORY: _ClassVar[MetricKind]
    METRIC_CONNECTIONS: _ClassVar[MetricKind]
    METRIC_REQUESTS: _ClassVar[MetricKind]
    METRIC_PROMETHEUS: _ClassVar[MetricKind]
ROTATION_ISSUING: RotationPhase
ROTATION_TRUSTING: RotationPhase
BUILD_SETTLED: BuildState
BUILD_FETCHING: BuildState
BUILD_TRYING: BuildState
BUILD_FAILED: BuildState
DEPENDENCY_STARTED: DependencyCondition
DEPENDENCY_HEALTHY: DependencyCondition
DEPENDENCY_COMPLETED: DependencyCondition
ENDPOINT_VIP: EndpointMode
ENDPOINT_DNSRR: EndpointMode
UPDATE_NONE: UpdateState
UPDATE_UPDATING: UpdateState
UPDATE_PAUSED: UpdateState
UPDATE_COMPLETED: UpdateState
UPDATE_ROLLBACK_STARTED: UpdateState
UPDATE_ROLLBACK_PAUSED: UpdateState
UPDATE_ROLLBACK_COMPLETED: UpdateState
UPDATE_WAITING: UpdateState
JOB_RUNNING: JobState
JOB_COMPLETE: JobState
JOB_FAILED: JobState
CONTAINER_MAIN: ContainerRole
CONTAINER_INIT: ContainerRole
CONTAINER_SIDECAR: ContainerRole
CONTAINER_WAITING: ContainerState
CONTAINER_RUNNING: ContainerState
CONTAINER_EXITED: ContainerState
PROBE_LIVENESS: ProbeKind
PROBE_READINESS: ProbeKind
PROBE_STARTUP: ProbeKind
VERDICT_WAITING: ProbeVerdict
VERDICT_PASSING: ProbeVerdict
VERDICT_FAILING: ProbeVerdict
POLICY_INGRESS: PolicyDirection
POLICY_EGRESS: PolicyDirection
OVERLAP_ALLOW: Overlap
OVERLAP_FORBID: Overlap
OVERLAP_REPLACE: Overlap
VOLUME_MOVE_NONE: VolumeMoveState
VOLUME_MOVE_COPYING: VolumeMoveState
VOLUME_MOVE_STOPPING: VolumeMoveState
VOLUME_MOVE_FINAL: VolumeMoveState
VOLUME_MOVE_DONE: VolumeMoveState
VOLUME_MOVE_FAILED: VolumeMoveState
VOLUME_ABSENT: VolumeReportState
VOLUME_HELD: VolumeReportState
VOLUME_COPYING: VolumeReportState
VOLUME_SYNCED: VolumeReportState
VOLUME_COPIED: VolumeReportState
VOLUME_FAILED: VolumeReportState
STACK_UNFINISHED: StackState
STACK_COMPLETE: StackState
STACK_FAILED: StackState
STACK_UNDONE: StackState
METRIC_CPU: MetricKind
METRIC_MEMORY: MetricKind
METRIC_CONNECTIONS: MetricKind
METRIC_REQUESTS: MetricKind
METRIC_PROMETHEUS: MetricKind

class ClusterSpec(_message.Message):
    __slots__ = ("task_history_limit", "heartbeat_ms", "cluster_cidr", "cert_expiry_ms", "auto_rebalance", "raft_profile", "backup_interval_ms", "backup_keep", "direct_routes", "autolock", "strategy")
    TASK_HISTORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_CIDR_FIELD_NUMBER: _ClassVar[int]
    CERT_EXPIRY_MS_FIELD_NUMBER: _ClassVar[int]
    AUTO_REBALANCE_FIELD_NUMBER: _ClassVar[int]
    RAFT_PROFILE_FIELD_NUMBER: _ClassVar[int]
    BACKUP_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    BACKUP_KEEP_FIELD_NUMBER: _ClassVar[int]
    DIRECT_ROUTES_FIELD_NUMBER: _ClassVar[int]
    AUTOLOCK_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    task_history_limit: int
    heartbeat_ms: int
    cluster_cidr: str
    cert_expiry_ms: int
    auto_rebalance: bool
    raft_profile: str
    backup_interval_ms: int
    backup_keep: int
    direct_routes: str
    autolock: bool
    strategy: str
    def __init__(self, task_history_limit: _Optional[int] = ..., heartbeat_ms: _Optional[int] = ..., cluster_cidr: _Optional[str] = ..., cert_expiry_ms: _Optional[int] = ..., auto_rebalance: _Optional[bool] = ..., raft_profile: _Optional[str] = ..., backup_interval_ms: _Optional[int] = ..., backup_keep: _Optional[int] = ..., direct_routes: _Optional[str] = ..., autolock: _Optional[bool] = ..., strategy: _Optional[str] = ...) -> None: ...

class Cluster(_message.Message):
    __slots__ = ("meta", "spec", "root_certificate", "root_key", "worker_secret", "manager_secret", "vxlan_port", "mtu", "next_node_index", "backup_key", "backup_key_shown_ms", "last_backup_ms", "backup_problem", "state_level", "unlock_key", "planner_troubles", "root_rotation", "root_rotated_ms")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROOT_KEY_FIELD_NUMBER: _ClassVar[int]
    WORKER_SECRET_FIELD_NUMBER: _ClassVar[int]
    MANAGER_SECRET_FIELD_NUMBER: _ClassVar[int]
    VXLAN_PORT_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    NEXT_NODE_INDEX_FIELD_NUMBER: _ClassVar[int]
    BACKUP_KEY_FIELD_NUMBER: _ClassVar[int]
    BACKUP_KEY_SHOWN_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_BACKUP_MS_FIELD_NUMBER: _ClassVar[int]
    BACKUP_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    STATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    UNLOCK_KEY_FIELD_NUMBER: _ClassVar[int]
    PLANNER_TROUBLES_FIELD_NUMBER: _ClassVar[int]
    ROOT_ROTATION_FIELD_NUMBER: _ClassVar[int]
    ROOT_ROTATED_MS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: ClusterSpec
    root_certificate: bytes
    root_key: bytes
    worker_secret: str
    manager_secret: str
    vxlan_port: int
    mtu: int
    next_node_index: int
    backup_key: bytes
    backup_key_shown_ms: int
    last_backup_ms: int
    backup_problem: str
    state_level: int
    unlock_key: bytes
    planner_troubles: _containers.RepeatedCompositeFieldContainer[PlannerTrouble]
    root_rotation: RootRotation
    root_rotated_ms: int
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[ClusterSpec, _Mapping]] = ..., root_certificate: _Optional[bytes] = ..., root_key: _Optional[bytes] = ..., worker_secret: _Optional[str] = ..., manager_secret: _Optional[str] = ..., vxlan_port: _Optional[int] = ..., mtu: _Optional[int] = ..., next_node_index: _Optional[int] = ..., backup_key: _Optional[bytes] = ..., backup_key_shown_ms: _Optional[int] = ..., last_backup_ms: _Optional[int] = ..., backup_problem: _Optional[str] = ..., state_level: _Optional[int] = ..., unlock_key: _Optional[bytes] = ..., planner_troubles: _Optional[_Iterable[_Union[PlannerTrouble, _Mapping]]] = ..., root_rotation: _Optional[_Union[RootRotation, _Mapping]] = ..., root_rotated_ms: _Optional[int] = ...) -> None: ...

class RootRotation(_message.Message):
    __slots__ = ("phase", "root_certificate", "root_key", "worker_secret", "manager_secret", "cross_certificate", "root_key_id", "former_certificate", "started_ms")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROOT_KEY_FIELD_NUMBER: _ClassVar[int]
    WORKER_SECRET_FIELD_NUMBER: _ClassVar[int]
    MANAGER_SECRET_FIELD_NUMBER: _ClassVar[int]
    CROSS_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROOT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    FORMER_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    phase: RotationPhase
    root_certificate: bytes
    root_key: bytes
    worker_secret: str
    manager_secret: str
    cross_certificate: bytes
    root_key_id: bytes
    former_certificate: bytes
    started_ms: int
    def __init__(self, phase: _Optional[_Union[RotationPhase, str]] = ..., root_certificate: _Optional[bytes] = ..., root_key: _Optional[bytes] = ..., worker_secret: _Optional[str] = ..., manager_secret: _Optional[str] = ..., cross_certificate: _Optional[bytes] = ..., root_key_id: _Optional[bytes] = ..., former_certificate: _Optional[bytes] = ..., started_ms: _Optional[int] = ...) -> None: ...

class PlannerTrouble(_message.Message):
    __slots__ = ("planner", "key", "keys", "error")
    PLANNER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    planner: str
    key: str
    keys: int
    error: str
    def __init__(self, planner: _Optional[str] = ..., key: _Optional[str] = ..., keys: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class GenericResource(_message.Message):
    __slots__ = ("count", "names")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    count: int
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, count: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class BuildWish(_message.Message):
    __slots__ = ("digest", "version", "attempt", "patience_ms")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_MS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    version: str
    attempt: int
    patience_ms: int
    def __init__(self, digest: _Optional[str] = ..., version: _Optional[str] = ..., attempt: _Optional[int] = ..., patience_ms: _Optional[int] = ...) -> None: ...

class BuildStatus(_message.Message):
    __slots__ = ("digest", "attempt", "state", "message")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    attempt: int
    state: BuildState
    message: str
    def __init__(self, digest: _Optional[str] = ..., attempt: _Optional[int] = ..., state: _Optional[_Union[BuildState, str]] = ..., message: _Optional[str] = ...) -> None: ...

class NodeSpec(_message.Message):
    __slots__ = ("role", "drain_parallelism", "drain_deadline_ms", "availability", "taints", "generic", "build", "room_percent")
    class GenericEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: GenericResource
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[GenericResource, _Mapping]] = ...) -> None: ...
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    DRAIN_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    TAINTS_FIELD_NUMBER: _ClassVar[int]
    GENERIC_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    ROOM_PERCENT_FIELD_NUMBER: _ClassVar[int]
    role: _types_pb2.Role
    drain_parallelism: int
    drain_deadline_ms: int
    availability: _types_pb2.Availability
    taints: _containers.RepeatedCompositeFieldContainer[_types_pb2.Taint]
    generic: _containers.MessageMap[str, GenericResource]
    build: BuildWish
    room_percent: int
    def __init__(self, role: _Optional[_Union[_types_pb2.Role, str]] = ..., drain_parallelism: _Optional[int] = ..., drain_deadline_ms: _Optional[int] = ..., availability: _Optional[_Union[_types_pb2.Availability, str]] = ..., taints: _Optional[_Iterable[_Union[_types_pb2.Taint, _Mapping]]] = ..., generic: _Optional[_Mapping[str, GenericResource]] = ..., build: _Optional[_Union[BuildWish, _Mapping]] = ..., room_percent: _Optional[int] = ...) -> None: ...

class SealKey(_message.Message):
    __slots__ = ("generation", "public_key")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    generation: int
    public_key: bytes
    def __init__(self, generation: _Optional[int] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class NodeDescription(_message.Message):
    __slots__ = ("hostname", "platform", "resources", "version", "address", "data_path_address", "agent_port", "underlay_mtu", "labels", "runtime", "manager", "seal_keys", "seal_ready", "seal_methods", "kernel", "build", "state_level", "runtimes", "gpus", "issuer", "trusts")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    AGENT_PORT_FIELD_NUMBER: _ClassVar[int]
    UNDERLAY_MTU_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    MANAGER_FIELD_NUMBER: _ClassVar[int]
    SEAL_KEYS_FIELD_NUMBER: _ClassVar[int]
    SEAL_READY_FIELD_NUMBER: _ClassVar[int]
    SEAL_METHODS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    STATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    TRUSTS_FIELD_NUMBER: _ClassVar[int]
    hostname: str
    platform: _types_pb2.Platform
    resources: _types_pb2.Resources
    version: str
    address: str
    data_path_address: str
    agent_port: int
    underlay_mtu: int
    labels: _containers.ScalarMap[str, str]
    runtime: str
    manager: ManagerStatus
    seal_keys: _containers.RepeatedCompositeFieldContainer[SealKey]
    seal_ready: int
    seal_methods: _containers.RepeatedScalarFieldContainer[str]
    kernel: str
    build: BuildStatus
    state_level: int
    runtimes: _containers.RepeatedScalarFieldContainer[str]
    gpus: bool
    issuer: bytes
    trusts: bytes
    def __init__(self, hostname: _Optional[str] = ..., platform: _Optional[_Union[_types_pb2.Platform, _Mapping]] = ..., resources: _Optional[_Union[_types_pb2.Resources, _Mapping]] = ..., version: _Optional[str] = ..., address: _Optional[str] = ..., data_path_address: _Optional[str] = ..., agent_port: _Optional[int] = ..., underlay_mtu: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., runtime: _Optional[str] = ..., manager: _Optional[_Union[ManagerStatus, _Mapping]] = ..., seal_keys: _Optional[_Iterable[_Union[SealKey, _Mapping]]] = ..., seal_ready: _Optional[int] = ..., seal_methods: _Optional[_Iterable[str]] = ..., kernel: _Optional[str] = ..., build: _Optional[_Union[BuildStatus, _Mapping]] = ..., state_level: _Optional[int] = ..., runtimes: _Optional[_Iterable[str]] = ..., gpus: _Optional[bool] = ..., issuer: _Optional[bytes] = ..., trusts: _Optional[bytes] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("state", "message", "since_ms", "address", "silent_ms")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    state: _types_pb2.NodeState
    message: str
    since_ms: int
    address: str
    silent_ms: int
    def __init__(self, state: _Optional[_Union[_types_pb2.NodeState, str]] = ..., message: _Optional[str] = ..., since_ms: _Optional[int] = ..., address: _Optional[str] = ..., silent_ms: _Optional[int] = ...) -> None: ...

class ManagerStatus(_message.Message):
    __slots__ = ("raft_address", "control_address", "join_address")
    RAFT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    JOIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    raft_address: str
    control_address: str
    join_address: str
    def __init__(self, raft_address: _Optional[str] = ..., control_address: _Optional[str] = ..., join_address: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("meta", "spec", "description", "status", "role", "manager", "drain_ms", "index", "removed", "usage")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MANAGER_FIELD_NUMBER: _ClassVar[int]
    DRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: NodeSpec
    description: NodeDescription
    status: NodeStatus
    role: _types_pb2.Role
    manager: ManagerStatus
    drain_ms: int
    index: int
    removed: bool
    usage: MachineUse
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[NodeSpec, _Mapping]] = ..., description: _Optional[_Union[NodeDescription, _Mapping]] = ..., status: _Optional[_Union[NodeStatus, _Mapping]] = ..., role: _Optional[_Union[_types_pb2.Role, str]] = ..., manager: _Optional[_Union[ManagerStatus, _Mapping]] = ..., drain_ms: _Optional[int] = ..., index: _Optional[int] = ..., removed: _Optional[bool] = ..., usage: _Optional[_Union[MachineUse, _Mapping]] = ...) -> None: ...

class MachineUse(_message.Message):
    __slots__ = ("cpu_percent", "memory_percent")
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    cpu_percent: int
    memory_percent: int
    def __init__(self, cpu_percent: _Optional[int] = ..., memory_percent: _Optional[int] = ...) -> None: ...

class Replicated(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    def __init__(self, replicas: _Optional[int] = ...) -> None: ...

class Global(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobPolicy(_message.Message):
    __slots__ = ("backoff_limit", "ttl_ms", "deadline_ms")
    BACKOFF_LIMIT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    backoff_limit: int
    ttl_ms: int
    deadline_ms: int
    def __init__(self, backoff_limit: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class ReplicatedJob(_message.Message):
    __slots__ = ("completions", "max_concurrent", "policy")
    COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    completions: int
    max_concurrent: int
    policy: JobPolicy
    def __init__(self, completions: _Optional[int] = ..., max_concurrent: _Optional[int] = ..., policy: _Optional[_Union[JobPolicy, _Mapping]] = ...) -> None: ...

class GlobalJob(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: JobPolicy
    def __init__(self, policy: _Optional[_Union[JobPolicy, _Mapping]] = ...) -> None: ...

class Ordered(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    def __init__(self, replicas: _Optional[int] = ...) -> None: ...

class Dependency(_message.Message):
    __slots__ = ("service", "condition")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    service: str
    condition: DependencyCondition
    def __init__(self, service: _Optional[str] = ..., condition: _Optional[_Union[DependencyCondition, str]] = ...) -> None: ...

class PreDeploy(_message.Message):
    __slots__ = ("image", "image_digest", "args", "timeout_ms")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    image: str
    image_digest: str
    args: _containers.RepeatedScalarFieldContainer[str]
    timeout_ms: int
    def __init__(self, image: _Optional[str] = ..., image_digest: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class EndpointSpec(_message.Message):
    __slots__ = ("mode", "ports", "affinity", "prefer_local")
    MODE_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    PREFER_LOCAL_FIELD_NUMBER: _ClassVar[int]
    mode: EndpointMode
    ports: _containers.RepeatedCompositeFieldContainer[_types_pb2.Port]
    affinity: str
    prefer_local: bool
    def __init__(self, mode: _Optional[_Union[EndpointMode, str]] = ..., ports: _Optional[_Iterable[_Union[_types_pb2.Port, _Mapping]]] = ..., affinity: _Optional[str] = ..., prefer_local: _Optional[bool] = ...) -> None: ...

class ServiceSpec(_message.Message):
    __slots__ = ("task", "replicated", "replicated_job", "global_job", "ordered", "update", "rollback", "endpoint", "priority", "preempt", "min_available", "strategy", "enforce", "stopped", "depends_on", "pre_deploy", "history_limit")
    TASK_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_JOB_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_JOB_FIELD_NUMBER: _ClassVar[int]
    ORDERED_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PREEMPT_FIELD_NUMBER: _ClassVar[int]
    MIN_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    ENFORCE_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    PRE_DEPLOY_FIELD_NUMBER: _ClassVar[int]
    HISTORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    task: _types_pb2.TaskSpec
    replicated: Replicated
    replicated_job: ReplicatedJob
    global_job: GlobalJob
    ordered: Ordered
    update: _types_pb2.UpdateConfig
    rollback: _types_pb2.UpdateConfig
    endpoint: EndpointSpec
    priority: int
    preempt: bool
    min_available: str
    strategy: str
    enforce: str
    stopped: bool
    depends_on: _containers.RepeatedCompositeFieldContainer[Dependency]
    pre_deploy: PreDeploy
    history_limit: int
    def __init__(self, task: _Optional[_Union[_types_pb2.TaskSpec, _Mapping]] = ..., replicated: _Optional[_Union[Replicated, _Mapping]] = ..., replicated_job: _Optional[_Union[ReplicatedJob, _Mapping]] = ..., global_job: _Optional[_Union[GlobalJob, _Mapping]] = ..., ordered: _Optional[_Union[Ordered, _Mapping]] = ..., update: _Optional[_Union[_types_pb2.UpdateConfig, _Mapping]] = ..., rollback: _Optional[_Union[_types_pb2.UpdateConfig, _Mapping]] = ..., endpoint: _Optional[_Union[EndpointSpec, _Mapping]] = ..., priority: _Optional[int] = ..., preempt: _Optional[bool] = ..., min_available: _Optional[str] = ..., strategy: _Optional[str] = ..., enforce: _Optional[str] = ..., stopped: _Optional[bool] = ..., depends_on: _Optional[_Iterable[_Union[Dependency, _Mapping]]] = ..., pre_deploy: _Optional[_Union[PreDeploy, _Mapping]] = ..., history_limit: _Optional[int] = ..., **kwargs) -> None: ...

class VirtualIp(_message.Message):
    __slots__ = ("network_id", "address", "address6")
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS6_FIELD_NUMBER: _ClassVar[int]
    network_id: str
    address: str
    address6: str
    def __init__(self, network_id: _Optional[str] = ..., address: _Optional[str] = ..., address6: _Optional[str] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("ports", "vips", "error")
    PORTS_FIELD_NUMBER: _ClassVar[int]
    VIPS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ports: _containers.RepeatedCompositeFieldContainer[_types_pb2.Port]
    vips: _containers.RepeatedCompositeFieldContainer[VirtualIp]
    error: str
    def __init__(self, ports: _Optional[_Iterable[_Union[_types_pb2.Port, _Mapping]]] = ..., vips: _Optional[_Iterable[_Union[VirtualIp, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class UpdateStatus(_message.Message):
    __slots__ = ("state", "message", "started_ms", "completed_ms", "batch", "waiting_ms", "promoted_ms", "hidden_versions")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WAITING_MS_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_MS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    state: UpdateState
    message: str
    started_ms: int
    completed_ms: int
    batch: str
    waiting_ms: int
    promoted_ms: int
    hidden_versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, state: _Optional[_Union[UpdateState, str]] = ..., message: _Optional[str] = ..., started_ms: _Optional[int] = ..., completed_ms: _Optional[int] = ..., batch: _Optional[str] = ..., waiting_ms: _Optional[int] = ..., promoted_ms: _Optional[int] = ..., hidden_versions: _Optional[_Iterable[int]] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("revision", "since_ms", "problem")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    revision: int
    since_ms: int
    problem: str
    def __init__(self, revision: _Optional[int] = ..., since_ms: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("state", "iteration", "succeeded", "failures", "started_ms", "completed_ms", "message")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_MS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    iteration: int
    succeeded: int
    failures: int
    started_ms: int
    completed_ms: int
    message: str
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., iteration: _Optional[int] = ..., succeeded: _Optional[int] = ..., failures: _Optional[int] = ..., started_ms: _Optional[int] = ..., completed_ms: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("meta", "spec", "spec_version", "previous_specs", "endpoint", "update_status", "pending_delete", "previous", "revision_ms", "job", "waiting", "owner_id", "owner_version", "scheduled_ms", "pre_deployed", "prefetched", "pull_nodes")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SPECS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_STATUS_FIELD_NUMBER: _ClassVar[int]
    PENDING_DELETE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    REVISION_MS_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_MS_FIELD_NUMBER: _ClassVar[int]
    PRE_DEPLOYED_FIELD_NUMBER: _ClassVar[int]
    PREFETCHED_FIELD_NUMBER: _ClassVar[int]
    PULL_NODES_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: ServiceSpec
    spec_version: int
    previous_specs: _containers.RepeatedCompositeFieldContainer[ServiceSpec]
    endpoint: Endpoint
    update_status: UpdateStatus
    pending_delete: bool
    previous: _containers.RepeatedCompositeFieldContainer[Revision]
    revision_ms: int
    job: JobStatus
    waiting: str
    owner_id: str
    owner_version: int
    scheduled_ms: int
    pre_deployed: int
    prefetched: int
    pull_nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[ServiceSpec, _Mapping]] = ..., spec_version: _Optional[int] = ..., previous_specs: _Optional[_Iterable[_Union[ServiceSpec, _Mapping]]] = ..., endpoint: _Optional[_Union[Endpoint, _Mapping]] = ..., update_status: _Optional[_Union[UpdateStatus, _Mapping]] = ..., pending_delete: _Optional[bool] = ..., previous: _Optional[_Iterable[_Union[Revision, _Mapping]]] = ..., revision_ms: _Optional[int] = ..., job: _Optional[_Union[JobStatus, _Mapping]] = ..., waiting: _Optional[str] = ..., owner_id: _Optional[str] = ..., owner_version: _Optional[int] = ..., scheduled_ms: _Optional[int] = ..., pre_deployed: _Optional[int] = ..., prefetched: _Optional[int] = ..., pull_nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class ProbeStatus(_message.Message):
    __slots__ = ("kind", "verdict", "since_ms", "failure", "failure_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MS_FIELD_NUMBER: _ClassVar[int]
    kind: ProbeKind
    verdict: ProbeVerdict
    since_ms: int
    failure: str
    failure_ms: int
    def __init__(self, kind: _Optional[_Union[ProbeKind, str]] = ..., verdict: _Optional[_Union[ProbeVerdict, str]] = ..., since_ms: _Optional[int] = ..., failure: _Optional[str] = ..., failure_ms: _Optional[int] = ...) -> None: ...

class ContainerStatus(_message.Message):
    __slots__ = ("name", "role", "state", "since_ms", "exit_code", "exited", "restarts", "error", "probes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    EXITED_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: ContainerRole
    state: ContainerState
    since_ms: int
    exit_code: int
    exited: bool
    restarts: int
    error: str
    probes: _containers.RepeatedCompositeFieldContainer[ProbeStatus]
    def __init__(self, name: _Optional[str] = ..., role: _Optional[_Union[ContainerRole, str]] = ..., state: _Optional[_Union[ContainerState, str]] = ..., since_ms: _Optional[int] = ..., exit_code: _Optional[int] = ..., exited: _Optional[bool] = ..., restarts: _Optional[int] = ..., error: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[ProbeStatus, _Mapping]]] = ...) -> None: ...

class TaskAddress(_message.Message):
    __slots__ = ("network_id", "address", "address6")
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS6_FIELD_NUMBER: _ClassVar[int]
    network_id: str
    address: str
    address6: str
    def __init__(self, network_id: _Optional[str] = ..., address: _Optional[str] = ..., address6: _Optional[str] = ...) -> None: ...

class Transition(_message.Message):
    __slots__ = ("state", "at_ms", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: _types_pb2.TaskState
    at_ms: int
    reason: str
    def __init__(self, state: _Optional[_Union[_types_pb2.TaskState, str]] = ..., at_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskStatus(_message.Message):
    __slots__ = ("state", "message", "error", "since_ms", "exit_code", "exited", "addresses", "ready", "reason", "started_ms", "history", "containers", "ready_ms", "up_ms")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    EXITED_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    READY_MS_FIELD_NUMBER: _ClassVar[int]
    UP_MS_FIELD_NUMBER: _ClassVar[int]
    state: _types_pb2.TaskState
    message: str
    error: str
    since_ms: int
    exit_code: int
    exited: bool
    addresses: _containers.RepeatedCompositeFieldContainer[TaskAddress]
    ready: bool
    reason: str
    started_ms: int
    history: _containers.RepeatedCompositeFieldContainer[Transition]
    containers: _containers.RepeatedCompositeFieldContainer[ContainerStatus]
    ready_ms: int
    up_ms: int
    def __init__(self, state: _Optional[_Union[_types_pb2.TaskState, str]] = ..., message: _Optional[str] = ..., error: _Optional[str] = ..., since_ms: _Optional[int] = ..., exit_code: _Optional[int] = ..., exited: _Optional[bool] = ..., addresses: _Optional[_Iterable[_Union[TaskAddress, _Mapping]]] = ..., ready: _Optional[bool] = ..., reason: _Optional[str] = ..., started_ms: _Optional[int] = ..., history: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ..., containers: _Optional[_Iterable[_Union[ContainerStatus, _Mapping]]] = ..., ready_ms: _Optional[int] = ..., up_ms: _Optional[int] = ...) -> None: ...

class Restart(_message.Message):
    __slots__ = ("count", "window_start_ms", "window_count", "start_after_ms", "quick_failures")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_MS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_COUNT_FIELD_NUMBER: _ClassVar[int]
    START_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    QUICK_FAILURES_FIELD_NUMBER: _ClassVar[int]
    count: int
    window_start_ms: int
    window_count: int
    start_after_ms: int
    quick_failures: int
    def __init__(self, count: _Optional[int] = ..., window_start_ms: _Optional[int] = ..., window_count: _Optional[int] = ..., start_after_ms: _Optional[int] = ..., quick_failures: _Optional[int] = ...) -> None: ...

class AssignedResource(_message.Message):
    __slots__ = ("kind", "count", "names")
    KIND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    count: int
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[str] = ..., count: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("meta", "spec", "service_id", "service_name", "slot", "node_id", "desired_state", "status", "spec_version", "restart", "host_ports", "assigned_ms", "leaving_ms", "leaving_reason", "stop_reason", "stop_ms", "assigned_resources", "hostname", "env", "volumes", "static_addresses")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DESIRED_STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SPEC_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    HOST_PORTS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_MS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_MS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_MS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    STATIC_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: _types_pb2.TaskSpec
    service_id: str
    service_name: str
    slot: int
    node_id: str
    desired_state: _types_pb2.TaskState
    status: TaskStatus
    spec_version: int
    restart: Restart
    host_ports: _containers.RepeatedCompositeFieldContainer[_types_pb2.Port]
    assigned_ms: int
    leaving_ms: int
    leaving_reason: str
    stop_reason: str
    stop_ms: int
    assigned_resources: _containers.RepeatedCompositeFieldContainer[AssignedResource]
    hostname: str
    env: _containers.RepeatedScalarFieldContainer[str]
    volumes: _containers.RepeatedCompositeFieldContainer[TaskVolume]
    static_addresses: _containers.RepeatedCompositeFieldContainer[TaskAddress]
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[_types_pb2.TaskSpec, _Mapping]] = ..., service_id: _Optional[str] = ..., service_name: _Optional[str] = ..., slot: _Optional[int] = ..., node_id: _Optional[str] = ..., desired_state: _Optional[_Union[_types_pb2.TaskState, str]] = ..., status: _Optional[_Union[TaskStatus, _Mapping]] = ..., spec_version: _Optional[int] = ..., restart: _Optional[_Union[Restart, _Mapping]] = ..., host_ports: _Optional[_Iterable[_Union[_types_pb2.Port, _Mapping]]] = ..., assigned_ms: _Optional[int] = ..., leaving_ms: _Optional[int] = ..., leaving_reason: _Optional[str] = ..., stop_reason: _Optional[str] = ..., stop_ms: _Optional[int] = ..., assigned_resources: _Optional[_Iterable[_Union[AssignedResource, _Mapping]]] = ..., hostname: _Optional[str] = ..., env: _Optional[_Iterable[str]] = ..., volumes: _Optional[_Iterable[_Union[TaskVolume, _Mapping]]] = ..., static_addresses: _Optional[_Iterable[_Union[TaskAddress, _Mapping]]] = ...) -> None: ...

class TaskVolume(_message.Message):
    __slots__ = ("source", "volume_id")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    source: str
    volume_id: str
    def __init__(self, source: _Optional[str] = ..., volume_id: _Optional[str] = ...) -> None: ...

class NetworkSpec(_message.Message):
    __slots__ = ("subnet", "internal", "attachable", "options", "default_deny", "ipv6")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SUBNET_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    ATTACHABLE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DENY_FIELD_NUMBER: _ClassVar[int]
    IPV6_FIELD_NUMBER: _ClassVar[int]
    subnet: str
    internal: bool
    attachable: bool
    options: _containers.ScalarMap[str, str]
    default_deny: bool
    ipv6: bool
    def __init__(self, subnet: _Optional[str] = ..., internal: _Optional[bool] = ..., attachable: _Optional[bool] = ..., options: _Optional[_Mapping[str, str]] = ..., default_deny: _Optional[bool] = ..., ipv6: _Optional[bool] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("node_id", "cidr")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CIDR_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    cidr: str
    def __init__(self, node_id: _Optional[str] = ..., cidr: _Optional[str] = ...) -> None: ...

class StaticAddress(_message.Message):
    __slots__ = ("address", "address6", "service_id", "slot", "task_id", "node_id", "error")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS6_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    address: str
    address6: str
    service_id: str
    slot: int
    task_id: str
    node_id: str
    error: str
    def __init__(self, address: _Optional[str] = ..., address6: _Optional[str] = ..., service_id: _Optional[str] = ..., slot: _Optional[int] = ..., task_id: _Optional[str] = ..., node_id: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Network(_message.Message):
    __slots__ = ("meta", "spec", "subnet", "block_bits", "blocks", "is_default", "seal", "error", "pending_delete", "subnet6", "statics")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SUBNET_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BITS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PENDING_DELETE_FIELD_NUMBER: _ClassVar[int]
    SUBNET6_FIELD_NUMBER: _ClassVar[int]
    STATICS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: NetworkSpec
    subnet: str
    block_bits: int
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    is_default: bool
    seal: str
    error: str
    pending_delete: bool
    subnet6: str
    statics: _containers.RepeatedCompositeFieldContainer[StaticAddress]
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[NetworkSpec, _Mapping]] = ..., subnet: _Optional[str] = ..., block_bits: _Optional[int] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ..., is_default: _Optional[bool] = ..., seal: _Optional[str] = ..., error: _Optional[str] = ..., pending_delete: _Optional[bool] = ..., subnet6: _Optional[str] = ..., statics: _Optional[_Iterable[_Union[StaticAddress, _Mapping]]] = ...) -> None: ...

class PolicySelector(_message.Message):
    __slots__ = ("labels",)
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PolicyBlock(_message.Message):
    __slots__ = ("cidr", "excluded")
    CIDR_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    cidr: str
    excluded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cidr: _Optional[str] = ..., excluded: _Optional[_Iterable[str]] = ...) -> None: ...

class PolicyPort(_message.Message):
    __slots__ = ("protocol", "first", "last")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    protocol: _types_pb2.Protocol
    first: int
    last: int
    def __init__(self, protocol: _Optional[_Union[_types_pb2.Protocol, str]] = ..., first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class PolicySpec(_message.Message):
    __slots__ = ("direction", "subjects", "peers", "blocks", "ports", "network")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    direction: PolicyDirection
    subjects: _containers.RepeatedCompositeFieldContainer[PolicySelector]
    peers: _containers.RepeatedCompositeFieldContainer[PolicySelector]
    blocks: _containers.RepeatedCompositeFieldContainer[PolicyBlock]
    ports: _containers.RepeatedCompositeFieldContainer[PolicyPort]
    network: str
    def __init__(self, direction: _Optional[_Union[PolicyDirection, str]] = ..., subjects: _Optional[_Iterable[_Union[PolicySelector, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[PolicySelector, _Mapping]]] = ..., blocks: _Optional[_Iterable[_Union[PolicyBlock, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[PolicyPort, _Mapping]]] = ..., network: _Optional[str] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("meta", "spec")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: PolicySpec
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[PolicySpec, _Mapping]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("meta", "digest", "size_bytes", "holders", "platform", "chunks", "noted")
    META_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    digest: str
    size_bytes: int
    holders: _containers.RepeatedScalarFieldContainer[str]
    platform: _types_pb2.Platform
    chunks: str
    noted: bool
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., holders: _Optional[_Iterable[str]] = ..., platform: _Optional[_Union[_types_pb2.Platform, _Mapping]] = ..., chunks: _Optional[str] = ..., noted: _Optional[bool] = ...) -> None: ...

class ScheduleSpec(_message.Message):
    __slots__ = ("cron", "time_zone", "overlap", "starting_deadline_ms", "keep_succeeded", "keep_failed", "suspended", "triggers", "service", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CRON_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    STARTING_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    KEEP_FAILED_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    cron: str
    time_zone: str
    overlap: Overlap
    starting_deadline_ms: int
    keep_succeeded: int
    keep_failed: int
    suspended: bool
    triggers: int
    service: ServiceSpec
    labels: _containers.ScalarMap[str, str]
    def __init__(self, cron: _Optional[str] = ..., time_zone: _Optional[str] = ..., overlap: _Optional[_Union[Overlap, str]] = ..., starting_deadline_ms: _Optional[int] = ..., keep_succeeded: _Optional[int] = ..., keep_failed: _Optional[int] = ..., suspended: _Optional[bool] = ..., triggers: _Optional[int] = ..., service: _Optional[_Union[ServiceSpec, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ZoneChange(_message.Message):
    __slots__ = ("at_s", "offset_s")
    AT_S_FIELD_NUMBER: _ClassVar[int]
    OFFSET_S_FIELD_NUMBER: _ClassVar[int]
    at_s: int
    offset_s: int
    def __init__(self, at_s: _Optional[int] = ..., offset_s: _Optional[int] = ...) -> None: ...

class Zone(_message.Message):
    __slots__ = ("offset_s", "changes", "rule")
    OFFSET_S_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    offset_s: int
    changes: _containers.RepeatedCompositeFieldContainer[ZoneChange]
    rule: str
    def __init__(self, offset_s: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[ZoneChange, _Mapping]]] = ..., rule: _Optional[str] = ...) -> None: ...

class ScheduleStatus(_message.Message):
    __slots__ = ("next_ms", "last_ms", "triggered", "runs", "missed", "message", "planned_for")
    NEXT_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_MS_FIELD_NUMBER: _ClassVar[int]
    TRIGGERED_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PLANNED_FOR_FIELD_NUMBER: _ClassVar[int]
    next_ms: int
    last_ms: int
    triggered: int
    runs: int
    missed: int
    message: str
    planned_for: str
    def __init__(self, next_ms: _Optional[int] = ..., last_ms: _Optional[int] = ..., triggered: _Optional[int] = ..., runs: _Optional[int] = ..., missed: _Optional[int] = ..., message: _Optional[str] = ..., planned_for: _Optional[str] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("meta", "spec", "zone", "status")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: ScheduleSpec
    zone: Zone
    status: ScheduleStatus
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[ScheduleSpec, _Mapping]] = ..., zone: _Optional[_Union[Zone, _Mapping]] = ..., status: _Optional[_Union[ScheduleStatus, _Mapping]] = ...) -> None: ...

class VolumeSpec(_message.Message):
    __slots__ = ("driver", "options", "node_id", "moves", "per_node")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    PER_NODE_FIELD_NUMBER: _ClassVar[int]
    driver: str
    options: _containers.ScalarMap[str, str]
    node_id: str
    moves: int
    per_node: bool
    def __init__(self, driver: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., node_id: _Optional[str] = ..., moves: _Optional[int] = ..., per_node: _Optional[bool] = ...) -> None: ...

class VolumeMove(_message.Message):
    __slots__ = ("number", "from_id", "to_id", "state", "message", "started_ms", "stopping_ms", "ended_ms")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FROM_ID_FIELD_NUMBER: _ClassVar[int]
    TO_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    STOPPING_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    number: int
    from_id: str
    to_id: str
    state: VolumeMoveState
    message: str
    started_ms: int
    stopping_ms: int
    ended_ms: int
    def __init__(self, number: _Optional[int] = ..., from_id: _Optional[str] = ..., to_id: _Optional[str] = ..., state: _Optional[_Union[VolumeMoveState, str]] = ..., message: _Optional[str] = ..., started_ms: _Optional[int] = ..., stopping_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ...) -> None: ...

class VolumeReport(_message.Message):
    __slots__ = ("node_id", "state", "message", "move", "round", "done_bytes", "total_bytes", "volume_id", "held")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    state: VolumeReportState
    message: str
    move: int
    round: int
    done_bytes: int
    total_bytes: int
    volume_id: str
    held: bool
    def __init__(self, node_id: _Optional[str] = ..., state: _Optional[_Union[VolumeReportState, str]] = ..., message: _Optional[str] = ..., move: _Optional[int] = ..., round: _Optional[int] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., volume_id: _Optional[str] = ..., held: _Optional[bool] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("meta", "spec", "node_id", "holders", "move", "pending_delete", "reports")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    PENDING_DELETE_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: VolumeSpec
    node_id: str
    holders: _containers.RepeatedScalarFieldContainer[str]
    move: VolumeMove
    pending_delete: bool
    reports: _containers.RepeatedCompositeFieldContainer[VolumeReport]
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[VolumeSpec, _Mapping]] = ..., node_id: _Optional[str] = ..., holders: _Optional[_Iterable[str]] = ..., move: _Optional[_Union[VolumeMove, _Mapping]] = ..., pending_delete: _Optional[bool] = ..., reports: _Optional[_Iterable[_Union[VolumeReport, _Mapping]]] = ...) -> None: ...

class Credential(_message.Message):
    __slots__ = ("meta", "username", "password", "helper", "mirrors", "insecure", "ca", "has_password")
    META_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    HELPER_FIELD_NUMBER: _ClassVar[int]
    MIRRORS_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    HAS_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    username: str
    password: str
    helper: str
    mirrors: _containers.RepeatedScalarFieldContainer[str]
    insecure: bool
    ca: str
    has_password: bool
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., helper: _Optional[str] = ..., mirrors: _Optional[_Iterable[str]] = ..., insecure: _Optional[bool] = ..., ca: _Optional[str] = ..., has_password: _Optional[bool] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("meta", "role", "secret_sha256", "root_sha256", "expires_ms", "uses_max", "uses", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    META_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SECRET_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    USES_MAX_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    role: _types_pb2.Role
    secret_sha256: bytes
    root_sha256: bytes
    expires_ms: int
    uses_max: int
    uses: int
    labels: _containers.ScalarMap[str, str]
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., role: _Optional[_Union[_types_pb2.Role, str]] = ..., secret_sha256: _Optional[bytes] = ..., root_sha256: _Optional[bytes] = ..., expires_ms: _Optional[int] = ..., uses_max: _Optional[int] = ..., uses: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StackService(_message.Message):
    __slots__ = ("name", "labels", "spec", "replicas_given")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_GIVEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.ScalarMap[str, str]
    spec: ServiceSpec
    replicas_given: bool
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., spec: _Optional[_Union[ServiceSpec, _Mapping]] = ..., replicas_given: _Optional[bool] = ...) -> None: ...

class Stack(_message.Message):
    __slots__ = ("meta", "stack", "revision", "state", "message", "file", "services", "networks", "payload_ids")
    META_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_IDS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    stack: str
    revision: int
    state: StackState
    message: str
    file: bytes
    services: _containers.RepeatedCompositeFieldContainer[StackService]
    networks: _containers.RepeatedCompositeFieldContainer[Network]
    payload_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., stack: _Optional[str] = ..., revision: _Optional[int] = ..., state: _Optional[_Union[StackState, str]] = ..., message: _Optional[str] = ..., file: _Optional[bytes] = ..., services: _Optional[_Iterable[_Union[StackService, _Mapping]]] = ..., networks: _Optional[_Iterable[_Union[Network, _Mapping]]] = ..., payload_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Secret(_message.Message):
    __slots__ = ("meta", "data", "size_bytes", "template_driver")
    META_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_DRIVER_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    data: bytes
    size_bytes: int
    template_driver: str
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., data: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., template_driver: _Optional[str] = ...) -> None: ...

class Config(_message.Message):
    __slots__ = ("meta", "data", "size_bytes", "template_driver")
    META_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_DRIVER_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    data: bytes
    size_bytes: int
    template_driver: str
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., data: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., template_driver: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("kind", "target", "url", "query")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    kind: MetricKind
    target: float
    url: str
    query: str
    def __init__(self, kind: _Optional[_Union[MetricKind, str]] = ..., target: _Optional[float] = ..., url: _Optional[str] = ..., query: _Optional[str] = ...) -> None: ...

class ScalePolicy(_message.Message):
    __slots__ = ("tasks", "percent", "period_ms")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    tasks: int
    percent: int
    period_ms: int
    def __init__(self, tasks: _Optional[int] = ..., percent: _Optional[int] = ..., period_ms: _Optional[int] = ...) -> None: ...

class ScaleRules(_message.Message):
    __slots__ = ("policies", "select", "stabilization_ms")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    SELECT_FIELD_NUMBER: _ClassVar[int]
    STABILIZATION_MS_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[ScalePolicy]
    select: str
    stabilization_ms: int
    def __init__(self, policies: _Optional[_Iterable[_Union[ScalePolicy, _Mapping]]] = ..., select: _Optional[str] = ..., stabilization_ms: _Optional[int] = ...) -> None: ...

class AutoscalerSpec(_message.Message):
    __slots__ = ("service_id", "min", "max", "metrics", "up", "down", "dry_run")
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    service_id: str
    min: int
    max: int
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    up: ScaleRules
    down: ScaleRules
    dry_run: bool
    def __init__(self, service_id: _Optional[str] = ..., min: _Optional[int] = ..., max: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., up: _Optional[_Union[ScaleRules, _Mapping]] = ..., down: _Optional[_Union[ScaleRules, _Mapping]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class Recommendation(_message.Message):
    __slots__ = ("at_ms", "replicas")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    replicas: int
    def __init__(self, at_ms: _Optional[int] = ..., replicas: _Optional[int] = ...) -> None: ...

class ScaleEvent(_message.Message):
    __slots__ = ("at_ms", "change")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    change: int
    def __init__(self, at_ms: _Optional[int] = ..., change: _Optional[int] = ...) -> None: ...

class MetricReading(_message.Message):
    __slots__ = ("name", "value", "target", "replicas", "problem", "tasks", "missing", "unready")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    UNREADY_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    target: float
    replicas: int
    problem: str
    tasks: int
    missing: int
    unready: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., target: _Optional[float] = ..., replicas: _Optional[int] = ..., problem: _Optional[str] = ..., tasks: _Optional[int] = ..., missing: _Optional[int] = ..., unready: _Optional[int] = ...) -> None: ...

class ScaleDecision(_message.Message):
    __slots__ = ("at_ms", "to", "reason", "readings")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    to: int
    reason: str
    readings: _containers.RepeatedCompositeFieldContainer[MetricReading]
    def __init__(self, at_ms: _Optional[int] = ..., to: _Optional[int] = ..., reason: _Optional[str] = ..., readings: _Optional[_Iterable[_Union[MetricReading, _Mapping]]] = ..., **kwargs) -> None: ...

class AutoscalerStatus(_message.Message):
    __slots__ = ("recommendations", "events", "decisions")
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    recommendations: _containers.RepeatedCompositeFieldContainer[Recommendation]
    events: _containers.RepeatedCompositeFieldContainer[ScaleEvent]
    decisions: _containers.RepeatedCompositeFieldContainer[ScaleDecision]
    def __init__(self, recommendations: _Optional[_Iterable[_Union[Recommendation, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[ScaleEvent, _Mapping]]] = ..., decisions: _Optional[_Iterable[_Union[ScaleDecision, _Mapping]]] = ...) -> None: ...

class Autoscaler(_message.Message):
    __slots__ = ("meta", "spec", "status")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: AutoscalerSpec
    status: AutoscalerStatus
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[AutoscalerSpec, _Mapping]] = ..., status: _Optional[_Union[AutoscalerStatus, _Mapping]] = ...) -> None: ...
