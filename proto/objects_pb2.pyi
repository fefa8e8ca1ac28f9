from swarmpy.proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
ENDPOINT_VIP: EndpointMode
ENDPOINT_DNSRR: EndpointMode
UPDATE_NONE: UpdateState
UPDATE_UPDATING: UpdateState
UPDATE_PAUSED: UpdateState
UPDATE_COMPLETED: UpdateState
UPDATE_ROLLBACK_STARTED: UpdateState
UPDATE_ROLLBACK_PAUSED: UpdateState
UPDATE_ROLLBACK_COMPLETED: UpdateState

class ClusterSpec(_message.Message):
    __slots__ = ("task_history_limit", "heartbeat_ms", "cluster_cidr", "cert_expiry_ms", "raft_profile", "backup_interval_ms", "backup_keep", "autolock")
    TASK_HISTORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_CIDR_FIELD_NUMBER: _ClassVar[int]
    CERT_EXPIRY_MS_FIELD_NUMBER: _ClassVar[int]
    RAFT_PROFILE_FIELD_NUMBER: _ClassVar[int]
    BACKUP_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    BACKUP_KEEP_FIELD_NUMBER: _ClassVar[int]
    AUTOLOCK_FIELD_NUMBER: _ClassVar[int]
    task_history_limit: int
    heartbeat_ms: int
    cluster_cidr: str
    cert_expiry_ms: int
    raft_profile: str
    backup_interval_ms: int
    backup_keep: int
    autolock: bool
    def __init__(self, task_history_limit: _Optional[int] = ..., heartbeat_ms: _Optional[int] = ..., cluster_cidr: _Optional[str] = ..., cert_expiry_ms: _Optional[int] = ..., raft_profile: _Optional[str] = ..., backup_interval_ms: _Optional[int] = ..., backup_keep: _Optional[int] = ..., autolock: _Optional[bool] = ...) -> None: ...

class Cluster(_message.Message):
    __slots__ = ("meta", "spec", "root_certificate", "root_key", "worker_secret", "manager_secret", "vxlan_port", "mtu", "next_node_index", "backup_key", "backup_key_shown_ms", "last_backup_ms", "backup_problem", "unlock_key")
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
    UNLOCK_KEY_FIELD_NUMBER: _ClassVar[int]
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
    unlock_key: bytes
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[ClusterSpec, _Mapping]] = ..., root_certificate: _Optional[bytes] = ..., root_key: _Optional[bytes] = ..., worker_secret: _Optional[str] = ..., manager_secret: _Optional[str] = ..., vxlan_port: _Optional[int] = ..., mtu: _Optional[int] = ..., next_node_index: _Optional[int] = ..., backup_key: _Optional[bytes] = ..., backup_key_shown_ms: _Optional[int] = ..., last_backup_ms: _Optional[int] = ..., backup_problem: _Optional[str] = ..., unlock_key: _Optional[bytes] = ...) -> None: ...

class NodeSpec(_message.Message):
    __slots__ = ("role", "availability")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    role: _types_pb2.Role
    availability: _types_pb2.Availability
    def __init__(self, role: _Optional[_Union[_types_pb2.Role, str]] = ..., availability: _Optional[_Union[_types_pb2.Availability, str]] = ...) -> None: ...

class NodeDescription(_message.Message):
    __slots__ = ("hostname", "platform", "resources", "version", "address", "data_path_address", "agent_port", "underlay_mtu", "labels", "runtime", "manager")
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
    def __init__(self, hostname: _Optional[str] = ..., platform: _Optional[_Union[_types_pb2.Platform, _Mapping]] = ..., resources: _Optional[_Union[_types_pb2.Resources, _Mapping]] = ..., version: _Optional[str] = ..., address: _Optional[str] = ..., data_path_address: _Optional[str] = ..., agent_port: _Optional[int] = ..., underlay_mtu: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., runtime: _Optional[str] = ..., manager: _Optional[_Union[ManagerStatus, _Mapping]] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("state", "message", "since_ms", "address")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    state: _types_pb2.NodeState
    message: str
    since_ms: int
    address: str
    def __init__(self, state: _Optional[_Union[_types_pb2.NodeState, str]] = ..., message: _Optional[str] = ..., since_ms: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("meta", "spec", "description", "status", "role", "manager", "index", "removed")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MANAGER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: NodeSpec
    description: NodeDescription
    status: NodeStatus
    role: _types_pb2.Role
    manager: ManagerStatus
    index: int
    removed: bool
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[NodeSpec, _Mapping]] = ..., description: _Optional[_Union[NodeDescription, _Mapping]] = ..., status: _Optional[_Union[NodeStatus, _Mapping]] = ..., role: _Optional[_Union[_types_pb2.Role, str]] = ..., manager: _Optional[_Union[ManagerStatus, _Mapping]] = ..., index: _Optional[int] = ..., removed: _Optional[bool] = ...) -> None: ...

class Replicated(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    def __init__(self, replicas: _Optional[int] = ...) -> None: ...

class Global(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndpointSpec(_message.Message):
    __slots__ = ("mode", "ports")
    MODE_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    mode: EndpointMode
    ports: _containers.RepeatedCompositeFieldContainer[_types_pb2.Port]
    def __init__(self, mode: _Optional[_Union[EndpointMode, str]] = ..., ports: _Optional[_Iterable[_Union[_types_pb2.Port, _Mapping]]] = ...) -> None: ...

class ServiceSpec(_message.Message):
    __slots__ = ("task", "replicated", "update", "rollback", "endpoint")
    TASK_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    task: _types_pb2.TaskSpec
    replicated: Replicated
    update: _types_pb2.UpdateConfig
    rollback: _types_pb2.UpdateConfig
    endpoint: EndpointSpec
    def __init__(self, task: _Optional[_Union[_types_pb2.TaskSpec, _Mapping]] = ..., replicated: _Optional[_Union[Replicated, _Mapping]] = ..., update: _Optional[_Union[_types_pb2.UpdateConfig, _Mapping]] = ..., rollback: _Optional[_Union[_types_pb2.UpdateConfig, _Mapping]] = ..., endpoint: _Optional[_Union[EndpointSpec, _Mapping]] = ..., **kwargs) -> None: ...

class VirtualIp(_message.Message):
    __slots__ = ("network_id", "address")
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    network_id: str
    address: str
    def __init__(self, network_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("state", "message", "started_ms", "completed_ms")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_MS_FIELD_NUMBER: _ClassVar[int]
    state: UpdateState
    message: str
    started_ms: int
    completed_ms: int
    def __init__(self, state: _Optional[_Union[UpdateState, str]] = ..., message: _Optional[str] = ..., started_ms: _Optional[int] = ..., completed_ms: _Optional[int] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("meta", "spec", "spec_version", "previous_specs", "endpoint", "update_status", "pending_delete")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SPECS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_STATUS_FIELD_NUMBER: _ClassVar[int]
    PENDING_DELETE_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: ServiceSpec
    spec_version: int
    previous_specs: _containers.RepeatedCompositeFieldContainer[ServiceSpec]
    endpoint: Endpoint
    update_status: UpdateStatus
    pending_delete: bool
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[ServiceSpec, _Mapping]] = ..., spec_version: _Optional[int] = ..., previous_specs: _Optional[_Iterable[_Union[ServiceSpec, _Mapping]]] = ..., endpoint: _Optional[_Union[Endpoint, _Mapping]] = ..., update_status: _Optional[_Union[UpdateStatus, _Mapping]] = ..., pending_delete: _Optional[bool] = ...) -> None: ...

class TaskAddress(_message.Message):
    __slots__ = ("network_id", "address")
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    network_id: str
    address: str
    def __init__(self, network_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class TaskStatus(_message.Message):
    __slots__ = ("state", "message", "error", "since_ms", "exit_code", "exited", "addresses", "ready", "reason", "started_ms")
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
    def __init__(self, state: _Optional[_Union[_types_pb2.TaskState, str]] = ..., message: _Optional[str] = ..., error: _Optional[str] = ..., since_ms: _Optional[int] = ..., exit_code: _Optional[int] = ..., exited: _Optional[bool] = ..., addresses: _Optional[_Iterable[_Union[TaskAddress, _Mapping]]] = ..., ready: _Optional[bool] = ..., reason: _Optional[str] = ..., started_ms: _Optional[int] = ...) -> None: ...

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

class Task(_message.Message):
    __slots__ = ("meta", "spec", "service_id", "service_name", "slot", "node_id", "desired_state", "status", "spec_version", "restart", "host_ports", "assigned_ms")
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
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[_types_pb2.TaskSpec, _Mapping]] = ..., service_id: _Optional[str] = ..., service_name: _Optional[str] = ..., slot: _Optional[int] = ..., node_id: _Optional[str] = ..., desired_state: _Optional[_Union[_types_pb2.TaskState, str]] = ..., status: _Optional[_Union[TaskStatus, _Mapping]] = ..., spec_version: _Optional[int] = ..., restart: _Optional[_Union[Restart, _Mapping]] = ..., host_ports: _Optional[_Iterable[_Union[_types_pb2.Port, _Mapping]]] = ..., assigned_ms: _Optional[int] = ...) -> None: ...

class NetworkSpec(_message.Message):
    __slots__ = ("subnet", "internal", "attachable", "options")
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
    subnet: str
    internal: bool
    attachable: bool
    options: _containers.ScalarMap[str, str]
    def __init__(self, subnet: _Optional[str] = ..., internal: _Optional[bool] = ..., attachable: _Optional[bool] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("node_id", "cidr")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CIDR_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    cidr: str
    def __init__(self, node_id: _Optional[str] = ..., cidr: _Optional[str] = ...) -> None: ...

class Network(_message.Message):
    __slots__ = ("meta", "spec", "subnet", "block_bits", "blocks", "is_default", "error", "pending_delete")
    META_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SUBNET_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BITS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PENDING_DELETE_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    spec: NetworkSpec
    subnet: str
    block_bits: int
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    is_default: bool
    error: str
    pending_delete: bool
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., spec: _Optional[_Union[NetworkSpec, _Mapping]] = ..., subnet: _Optional[str] = ..., block_bits: _Optional[int] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ..., is_default: _Optional[bool] = ..., error: _Optional[str] = ..., pending_delete: _Optional[bool] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("meta", "digest", "size_bytes", "holders", "platform")
    META_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    meta: _types_pb2.Meta
    digest: str
    size_bytes: int
    holders: _containers.RepeatedScalarFieldContainer[str]
    platform: _types_pb2.Platform
    def __init__(self, meta: _Optional[_Union[_types_pb2.Meta, _Mapping]] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., holders: _Optional[_Iterable[str]] = ..., platform: _Optional[_Union[_types_pb2.Platform, _Mapping]] = ...) -> None: ...
