from swarmpy.proto import objects_pb2 as _objects_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_NONE: _ClassVar[Kind]
    KIND_CLUSTER: _ClassVar[Kind]
    KIND_NODE: _ClassVar[Kind]
    KIND_SERVICE: _ClassVar[Kind]
    KIND_TASK: _ClassVar[Kind]
    KIND_NETWORK: _ClassVar[Kind]
    KIND_IMAGE: _ClassVar[Kind]
    KIND_AUTOSCALER: _ClassVar[Kind]
    KIND_SCHEDULE: _ClassVar[Kind]
    KIND_VOLUME: _ClassVar[Kind]
    KIND_POLICY: _ClassVar[Kind]
    KIND_CREDENTIAL: _ClassVar[Kind]
    KIND_SECRET: _ClassVar[Kind]
    KIND_CONFIG: _ClassVar[Kind]
    KIND_TOKEN: _ClassVar[Kind]
    KIND_STACK: _ClassVar[Kind]
KIND_NONE: Kind
KIND_CLUSTER: Kind
KIND_NODE: Kind
KIND_SERVICE: Kind
KIND_TASK: Kind
KIND_NETWORK: Kind
KIND_IMAGE: Kind
KIND_AUTOSCALER: Kind
KIND_SCHEDULE: Kind
KIND_VOLUME: Kind
KIND_POLICY: Kind
KIND_CREDENTIAL: Kind
KIND_SECRET: Kind
KIND_CONFIG: Kind
KIND_TOKEN: Kind
KIND_STACK: Kind

class Object(_message.Message):
    __slots__ = ("cluster", "node", "service", "task", "network", "image", "autoscaler", "schedule", "volume", "policy", "credential", "secret", "config", "token", "stack")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALER_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    cluster: _objects_pb2.Cluster
    node: _objects_pb2.Node
    service: _objects_pb2.Service
    task: _objects_pb2.Task
    network: _objects_pb2.Network
    image: _objects_pb2.Image
    autoscaler: _objects_pb2.Autoscaler
    schedule: _objects_pb2.Schedule
    volume: _objects_pb2.Volume
    policy: _objects_pb2.Policy
    credential: _objects_pb2.Credential
    secret: _objects_pb2.Secret
    config: _objects_pb2.Config
    token: _objects_pb2.Token
    stack: _objects_pb2.Stack
    def __init__(self, cluster: _Optional[_Union[_objects_pb2.Cluster, _Mapping]] = ..., node: _Optional[_Union[_objects_pb2.Node, _Mapping]] = ..., service: _Optional[_Union[_objects_pb2.Service, _Mapping]] = ..., task: _Optional[_Union[_objects_pb2.Task, _Mapping]] = ..., network: _Optional[_Union[_objects_pb2.Network, _Mapping]] = ..., image: _Optional[_Union[_objects_pb2.Image, _Mapping]] = ..., autoscaler: _Optional[_Union[_objects_pb2.Autoscaler, _Mapping]] = ..., schedule: _Optional[_Union[_objects_pb2.Schedule, _Mapping]] = ..., volume: _Optional[_Union[_objects_pb2.Volume, _Mapping]] = ..., policy: _Optional[_Union[_objects_pb2.Policy, _Mapping]] = ..., credential: _Optional[_Union[_objects_pb2.Credential, _Mapping]] = ..., secret: _Optional[_Union[_objects_pb2.Secret, _Mapping]] = ..., config: _Optional[_Union[_objects_pb2.Config, _Mapping]] = ..., token: _Optional[_Union[_objects_pb2.Token, _Mapping]] = ..., stack: _Optional[_Union[_objects_pb2.Stack, _Mapping]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("put", "delete", "expected_version", "any_version")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    ANY_VERSION_FIELD_NUMBER: _ClassVar[int]
    put: Object
    delete: ObjectKey
    expected_version: int
    any_version: bool
    def __init__(self, put: _Optional[_Union[Object, _Mapping]] = ..., delete: _Optional[_Union[ObjectKey, _Mapping]] = ..., expected_version: _Optional[int] = ..., any_version: _Optional[bool] = ...) -> None: ...

class ObjectKey(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    id: str
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., id: _Optional[str] = ...) -> None: ...

class Transaction(_message.Message):
    __slots__ = ("epoch", "request_id", "now_ms", "changes", "new_epoch", "actor", "check")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    NEW_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    request_id: str
    now_ms: int
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    new_epoch: bool
    actor: str
    check: bool
    def __init__(self, epoch: _Optional[int] = ..., request_id: _Optional[str] = ..., now_ms: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., new_epoch: _Optional[bool] = ..., actor: _Optional[str] = ..., check: _Optional[bool] = ...) -> None: ...

class TransactionResult(_message.Message):
    __slots__ = ("index", "touched", "error_code", "error", "duplicate")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    index: int
    touched: _containers.RepeatedCompositeFieldContainer[ObjectKey]
    error_code: str
    error: str
    duplicate: bool
    def __init__(self, index: _Optional[int] = ..., touched: _Optional[_Iterable[_Union[ObjectKey, _Mapping]]] = ..., error_code: _Optional[str] = ..., error: _Optional[str] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class SnapshotRecord(_message.Message):
    __slots__ = ("header", "object", "request", "end", "request_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    header: SnapshotHeader
    object: Object
    request: TransactionResult
    end: SnapshotEnd
    request_id: str
    def __init__(self, header: _Optional[_Union[SnapshotHeader, _Mapping]] = ..., object: _Optional[_Union[Object, _Mapping]] = ..., request: _Optional[_Union[TransactionResult, _Mapping]] = ..., end: _Optional[_Union[SnapshotEnd, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SnapshotHeader(_message.Message):
    __slots__ = ("format", "index", "epoch", "state_level")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    format: int
    index: int
    epoch: int
    state_level: int
    def __init__(self, format: _Optional[int] = ..., index: _Optional[int] = ..., epoch: _Optional[int] = ..., state_level: _Optional[int] = ...) -> None: ...

class SnapshotEnd(_message.Message):
    __slots__ = ("records", "sha256")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    records: int
    sha256: bytes
    def __init__(self, records: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
