from swarmpy.proto import types_pb2 as _types_pb2
from swarmpy.proto import objects_pb2 as _objects_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VolumePart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VOLUME_KEEP: _ClassVar[VolumePart]
    VOLUME_RECEIVE: _ClassVar[VolumePart]
    VOLUME_DROP: _ClassVar[VolumePart]

class AssignmentType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ASSIGNMENT_COMPLETE: _ClassVar[AssignmentType]
    ASSIGNMENT_INCREMENTAL: _ClassVar[AssignmentType]
VOLUME_KEEP: VolumePart
VOLUME_RECEIVE: VolumePart
VOLUME_DROP: VolumePart
ASSIGNMENT_COMPLETE: AssignmentType
ASSIGNMENT_INCREMENTAL: AssignmentType

class Hello(_message.Message):
    __slots__ = ("description", "holds", "hears_stored")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    HEARS_STORED_FIELD_NUMBER: _ClassVar[int]
    description: _objects_pb2.NodeDescription
    holds: bytes
    hears_stored: bool
    def __init__(self, description: _Optional[_Union[_objects_pb2.NodeDescription, _Mapping]] = ..., holds: _Optional[bytes] = ..., hears_stored: _Optional[bool] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence", "sent_ms", "usage", "stored")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_MS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    sent_ms: int
    usage: _objects_pb2.MachineUse
    stored: int
    def __init__(self, sequence: _Optional[int] = ..., sent_ms: _Optional[int] = ..., usage: _Optional[_Union[_objects_pb2.MachineUse, _Mapping]] = ..., stored: _Optional[int] = ...) -> None: ...

class TaskReport(_message.Message):
    __slots__ = ("task_id", "status")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    status: _objects_pb2.TaskStatus
    def __init__(self, task_id: _Optional[str] = ..., status: _Optional[_Union[_objects_pb2.TaskStatus, _Mapping]] = ...) -> None: ...

class Reports(_message.Message):
    __slots__ = ("tasks", "sequence", "images", "volumes", "held")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskReport]
    sequence: int
    images: _containers.RepeatedScalarFieldContainer[str]
    volumes: _containers.RepeatedCompositeFieldContainer[_objects_pb2.VolumeReport]
    held: _containers.RepeatedCompositeFieldContainer[ImageHeld]
    def __init__(self, tasks: _Optional[_Iterable[_Union[TaskReport, _Mapping]]] = ..., sequence: _Optional[int] = ..., images: _Optional[_Iterable[str]] = ..., volumes: _Optional[_Iterable[_Union[_objects_pb2.VolumeReport, _Mapping]]] = ..., held: _Optional[_Iterable[_Union[ImageHeld, _Mapping]]] = ...) -> None: ...

class ImageHeld(_message.Message):
    __slots__ = ("digest", "chunks", "size_bytes", "platform")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    digest: str
    chunks: str
    size_bytes: int
    platform: _types_pb2.Platform
    def __init__(self, digest: _Optional[str] = ..., chunks: _Optional[str] = ..., size_bytes: _Optional[int] = ..., platform: _Optional[_Union[_types_pb2.Platform, _Mapping]] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("holds",)
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    holds: bytes
    def __init__(self, holds: _Optional[bytes] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AgentMessage(_message.Message):
    __slots__ = ("hello", "heartbeat", "reports", "applied", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    reports: Reports
    applied: Applied
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., reports: _Optional[_Union[Reports, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class PeerNode(_message.Message):
    __slots__ = ("id", "hostname", "index", "data_path_address", "address", "agent_port", "down", "weight", "seal_keys", "seal_ready")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    AGENT_PORT_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SEAL_KEYS_FIELD_NUMBER: _ClassVar[int]
    SEAL_READY_FIELD_NUMBER: _ClassVar[int]
    id: str
    hostname: str
    index: int
    data_path_address: str
    address: str
    agent_port: int
    down: bool
    weight: int
    seal_keys: _containers.RepeatedCompositeFieldContainer[_objects_pb2.SealKey]
    seal_ready: int
    def __init__(self, id: _Optional[str] = ..., hostname: _Optional[str] = ..., index: _Optional[int] = ..., data_path_address: _Optional[str] = ..., address: _Optional[str] = ..., agent_port: _Optional[int] = ..., down: _Optional[bool] = ..., weight: _Optional[int] = ..., seal_keys: _Optional[_Iterable[_Union[_objects_pb2.SealKey, _Mapping]]] = ..., seal_ready: _Optional[int] = ...) -> None: ...

class NetworkAssignment(_message.Message):
    __slots__ = ("id", "name", "subnet", "internal", "is_default", "blocks", "default_deny", "subnet6", "seal", "statics")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBNET_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DENY_FIELD_NUMBER: _ClassVar[int]
    SUBNET6_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    STATICS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    subnet: str
    internal: bool
    is_default: bool
    blocks: _containers.RepeatedCompositeFieldContainer[_objects_pb2.Block]
    default_deny: bool
    subnet6: str
    seal: str
    statics: _containers.RepeatedCompositeFieldContainer[_objects_pb2.StaticAddress]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., subnet: _Optional[str] = ..., internal: _Optional[bool] = ..., is_default: _Optional[bool] = ..., blocks: _Optional[_Iterable[_Union[_objects_pb2.Block, _Mapping]]] = ..., default_deny: _Optional[bool] = ..., subnet6: _Optional[str] = ..., seal: _Optional[str] = ..., statics: _Optional[_Iterable[_Union[_objects_pb2.StaticAddress, _Mapping]]] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("task_id", "slot", "node_id", "addresses", "task_name")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    TASK_NAME_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    slot: int
    node_id: str
    addresses: _containers.RepeatedCompositeFieldContainer[_objects_pb2.TaskAddress]
    task_name: str
    def __init__(self, task_id: _Optional[str] = ..., slot: _Optional[int] = ..., node_id: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[_objects_pb2.TaskAddress, _Mapping]]] = ..., task_name: _Optional[str] = ...) -> None: ...

class ServiceEndpoints(_message.Message):
    __slots__ = ("service_id", "service_name", "mode", "vips", "ports", "backends", "networks", "affinity", "prefer_local")
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    VIPS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    PREFER_LOCAL_FIELD_NUMBER: _ClassVar[int]
    service_id: str
    service_name: str
    mode: _objects_pb2.EndpointMode
    vips: _containers.RepeatedCompositeFieldContainer[_objects_pb2.VirtualIp]
    ports: _containers.RepeatedCompositeFieldContainer[_types_pb2.Port]
    backends: _containers.RepeatedCompositeFieldContainer[Backend]
    networks: _containers.RepeatedCompositeFieldContainer[_types_pb2.NetworkReference]
    affinity: str
    prefer_local: bool
    def __init__(self, service_id: _Optional[str] = ..., service_name: _Optional[str] = ..., mode: _Optional[_Union[_objects_pb2.EndpointMode, str]] = ..., vips: _Optional[_Iterable[_Union[_objects_pb2.VirtualIp, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[_types_pb2.Port, _Mapping]]] = ..., backends: _Optional[_Iterable[_Union[Backend, _Mapping]]] = ..., networks: _Optional[_Iterable[_Union[_types_pb2.NetworkReference, _Mapping]]] = ..., affinity: _Optional[str] = ..., prefer_local: _Optional[bool] = ...) -> None: ...

class PolicyAssignment(_message.Message):
    __slots__ = ("id", "direction", "network_id", "subjects", "peers", "blocks", "ports")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    direction: _objects_pb2.PolicyDirection
    network_id: str
    subjects: _containers.RepeatedScalarFieldContainer[str]
    peers: _containers.RepeatedScalarFieldContainer[str]
    blocks: _containers.RepeatedCompositeFieldContainer[_objects_pb2.PolicyBlock]
    ports: _containers.RepeatedCompositeFieldContainer[_objects_pb2.PolicyPort]
    def __init__(self, id: _Optional[str] = ..., direction: _Optional[_Union[_objects_pb2.PolicyDirection, str]] = ..., network_id: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ..., peers: _Optional[_Iterable[str]] = ..., blocks: _Optional[_Iterable[_Union[_objects_pb2.PolicyBlock, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[_objects_pb2.PolicyPort, _Mapping]]] = ...) -> None: ...

class ServiceMember(_message.Message):
    __slots__ = ("task_id", "addresses")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    addresses: _containers.RepeatedCompositeFieldContainer[_objects_pb2.TaskAddress]
    def __init__(self, task_id: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[_objects_pb2.TaskAddress, _Mapping]]] = ...) -> None: ...

class ServiceMembers(_message.Message):
    __slots__ = ("service_id", "members")
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    service_id: str
    members: _containers.RepeatedCompositeFieldContainer[ServiceMember]
    def __init__(self, service_id: _Optional[str] = ..., members: _Optional[_Iterable[_Union[ServiceMember, _Mapping]]] = ...) -> None: ...

class ImageSource(_message.Message):
    __slots__ = ("digest", "reference", "holders", "chunks")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    reference: str
    holders: _containers.RepeatedCompositeFieldContainer[ImageHolder]
    chunks: str
    def __init__(self, digest: _Optional[str] = ..., reference: _Optional[str] = ..., holders: _Optional[_Iterable[_Union[ImageHolder, _Mapping]]] = ..., chunks: _Optional[str] = ...) -> None: ...

class ImageHolder(_message.Message):
    __slots__ = ("node_id", "address")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    address: str
    def __init__(self, node_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class NodeConfig(_message.Message):
    __slots__ = ("role", "cluster_id", "cluster_cidr", "vxlan_port", "mtu", "index", "managers", "removed", "manager_ids", "prefix6", "direct_off", "issuer", "trusts")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_CIDR_FIELD_NUMBER: _ClassVar[int]
    VXLAN_PORT_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    MANAGER_IDS_FIELD_NUMBER: _ClassVar[int]
    PREFIX6_FIELD_NUMBER: _ClassVar[int]
    DIRECT_OFF_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    TRUSTS_FIELD_NUMBER: _ClassVar[int]
    role: _types_pb2.Role
    cluster_id: str
    cluster_cidr: str
    vxlan_port: int
    mtu: int
    index: int
    managers: _containers.RepeatedScalarFieldContainer[str]
    removed: bool
    manager_ids: _containers.RepeatedScalarFieldContainer[str]
    prefix6: str
    direct_off: bool
    issuer: bytes
    trusts: bytes
    def __init__(self, role: _Optional[_Union[_types_pb2.Role, str]] = ..., cluster_id: _Optional[str] = ..., cluster_cidr: _Optional[str] = ..., vxlan_port: _Optional[int] = ..., mtu: _Optional[int] = ..., index: _Optional[int] = ..., managers: _Optional[_Iterable[str]] = ..., removed: _Optional[bool] = ..., manager_ids: _Optional[_Iterable[str]] = ..., prefix6: _Optional[str] = ..., direct_off: _Optional[bool] = ..., issuer: _Optional[bytes] = ..., trusts: _Optional[bytes] = ...) -> None: ...

class VolumeAssignment(_message.Message):
    __slots__ = ("id", "name", "part", "driver", "options", "labels", "exists", "move", "from_id", "from_address", "final", "to_id")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    FROM_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    TO_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    part: VolumePart
    driver: str
    options: _containers.ScalarMap[str, str]
    labels: _containers.ScalarMap[str, str]
    exists: bool
    move: int
    from_id: str
    from_address: str
    final: bool
    to_id: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., part: _Optional[_Union[VolumePart, str]] = ..., driver: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., exists: _Optional[bool] = ..., move: _Optional[int] = ..., from_id: _Optional[str] = ..., from_address: _Optional[str] = ..., final: _Optional[bool] = ..., to_id: _Optional[str] = ...) -> None: ...

class BuildAssignment(_message.Message):
    __slots__ = ("source", "version", "attempt", "patience_ms", "go")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_MS_FIELD_NUMBER: _ClassVar[int]
    GO_FIELD_NUMBER: _ClassVar[int]
    source: ImageSource
    version: str
    attempt: int
    patience_ms: int
    go: bool
    def __init__(self, source: _Optional[_Union[ImageSource, _Mapping]] = ..., version: _Optional[str] = ..., attempt: _Optional[int] = ..., patience_ms: _Optional[int] = ..., go: _Optional[bool] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("task", "peer", "network", "endpoints", "image", "node", "volume", "policy", "members", "build")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    task: _objects_pb2.Task
    peer: PeerNode
    network: NetworkAssignment
    endpoints: ServiceEndpoints
    image: ImageSource
    node: NodeConfig
    volume: VolumeAssignment
    policy: PolicyAssignment
    members: ServiceMembers
    build: BuildAssignment
    def __init__(self, task: _Optional[_Union[_objects_pb2.Task, _Mapping]] = ..., peer: _Optional[_Union[PeerNode, _Mapping]] = ..., network: _Optional[_Union[NetworkAssignment, _Mapping]] = ..., endpoints: _Optional[_Union[ServiceEndpoints, _Mapping]] = ..., image: _Optional[_Union[ImageSource, _Mapping]] = ..., node: _Optional[_Union[NodeConfig, _Mapping]] = ..., volume: _Optional[_Union[VolumeAssignment, _Mapping]] = ..., policy: _Optional[_Union[PolicyAssignment, _Mapping]] = ..., members: _Optional[_Union[ServiceMembers, _Mapping]] = ..., build: _Optional[_Union[BuildAssignment, _Mapping]] = ...) -> None: ...

class ItemChange(_message.Message):
    __slots__ = ("key", "item")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    key: str
    item: bytes
    def __init__(self, key: _Optional[str] = ..., item: _Optional[bytes] = ...) -> None: ...

class Assignments(_message.Message):
    __slots__ = ("type", "applies_to", "results_in", "changes", "more")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    APPLIES_TO_FIELD_NUMBER: _ClassVar[int]
    RESULTS_IN_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    type: AssignmentType
    applies_to: bytes
    results_in: bytes
    changes: _containers.RepeatedCompositeFieldContainer[ItemChange]
    more: bool
    def __init__(self, type: _Optional[_Union[AssignmentType, str]] = ..., applies_to: _Optional[bytes] = ..., results_in: _Optional[bytes] = ..., changes: _Optional[_Iterable[_Union[ItemChange, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "heartbeat_ms", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    heartbeat_ms: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., heartbeat_ms: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class NotLeader(_message.Message):
    __slots__ = ("leader_id", "leader_address")
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    leader_id: str
    leader_address: str
    def __init__(self, leader_id: _Optional[str] = ..., leader_address: _Optional[str] = ...) -> None: ...

class ReportsStored(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class OutOfService(_message.Message):
    __slots__ = ("task_ids",)
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ManagerMessage(_message.Message):
    __slots__ = ("welcome", "assignments", "not_leader", "stored", "heartbeat", "out_of_service")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    NOT_LEADER_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SERVICE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assignments: Assignments
    not_leader: NotLeader
    stored: ReportsStored
    heartbeat: Heartbeat
    out_of_service: OutOfService
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assignments: _Optional[_Union[Assignments, _Mapping]] = ..., not_leader: _Optional[_Union[NotLeader, _Mapping]] = ..., stored: _Optional[_Union[ReportsStored, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., out_of_service: _Optional[_Union[OutOfService, _Mapping]] = ...) -> None: ...
