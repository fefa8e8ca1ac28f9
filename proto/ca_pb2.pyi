from swarmpy.proto import types_pb2 as _types_pb2
from swarmpy.proto import objects_pb2 as _objects_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IssueRequest(_message.Message):
    __slots__ = ("token", "csr", "hostname", "address", "description", "manager", "availability", "request_id")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MANAGER_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr: bytes
    hostname: str
    address: str
    description: _objects_pb2.NodeDescription
    manager: _objects_pb2.ManagerStatus
    availability: _types_pb2.Availability
    request_id: str
    def __init__(self, token: _Optional[str] = ..., csr: _Optional[bytes] = ..., hostname: _Optional[str] = ..., address: _Optional[str] = ..., description: _Optional[_Union[_objects_pb2.NodeDescription, _Mapping]] = ..., manager: _Optional[_Union[_objects_pb2.ManagerStatus, _Mapping]] = ..., availability: _Optional[_Union[_types_pb2.Availability, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class IssueResponse(_message.Message):
    __slots__ = ("node_id", "cluster_id", "role", "certificate", "root", "managers", "manager_ids", "address", "raft_profile")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    MANAGER_IDS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RAFT_PROFILE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    cluster_id: str
    role: _types_pb2.Role
    certificate: bytes
    root: bytes
    managers: _containers.RepeatedScalarFieldContainer[str]
    manager_ids: _containers.RepeatedScalarFieldContainer[str]
    address: str
    raft_profile: str
    def __init__(self, node_id: _Optional[str] = ..., cluster_id: _Optional[str] = ..., role: _Optional[_Union[_types_pb2.Role, str]] = ..., certificate: _Optional[bytes] = ..., root: _Optional[bytes] = ..., managers: _Optional[_Iterable[str]] = ..., manager_ids: _Optional[_Iterable[str]] = ..., address: _Optional[str] = ..., raft_profile: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate", "root", "role")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    root: bytes
    role: _types_pb2.Role
    def __init__(self, certificate: _Optional[bytes] = ..., root: _Optional[bytes] = ..., role: _Optional[_Union[_types_pb2.Role, str]] = ...) -> None: ...
