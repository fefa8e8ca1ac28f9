from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerifyRequest(_message.Message):
    __slots__ = ("nodes", "repair")
    NODES_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    repair: bool
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., repair: _Optional[bool] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("node_id", "node_name", "problems", "remaining", "repaired", "error", "kernel_objects", "dns_names", "stale")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    KERNEL_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DNS_NAMES_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    node_name: str
    problems: _containers.RepeatedScalarFieldContainer[str]
    remaining: _containers.RepeatedScalarFieldContainer[str]
    repaired: bool
    error: str
    kernel_objects: int
    dns_names: int
    stale: bool
    def __init__(self, node_id: _Optional[str] = ..., node_name: _Optional[str] = ..., problems: _Optional[_Iterable[str]] = ..., remaining: _Optional[_Iterable[str]] = ..., repaired: _Optional[bool] = ..., error: _Optional[str] = ..., kernel_objects: _Optional[int] = ..., dns_names: _Optional[int] = ..., stale: _Optional[bool] = ...) -> None: ...

class NodeVerifyRequest(_message.Message):
    __slots__ = ("repair", "holds")
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    repair: bool
    holds: bytes
    def __init__(self, repair: _Optional[bool] = ..., holds: _Optional[bytes] = ...) -> None: ...

class TraceRequest(_message.Message):
    __slots__ = ("source", "target", "port", "protocol")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    port: int
    protocol: str
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., port: _Optional[int] = ..., protocol: _Optional[str] = ...) -> None: ...

class TraceStep(_message.Message):
    __slots__ = ("what", "text", "failed", "node_name")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    what: str
    text: str
    failed: bool
    node_name: str
    def __init__(self, what: _Optional[str] = ..., text: _Optional[str] = ..., failed: _Optional[bool] = ..., node_name: _Optional[str] = ...) -> None: ...

class TraceResponse(_message.Message):
    __slots__ = ("steps", "reached")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[TraceStep]
    reached: bool
    def __init__(self, steps: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ..., reached: _Optional[bool] = ...) -> None: ...

class NodeTraceRequest(_message.Message):
    __slots__ = ("task_id", "target", "port", "protocol")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    target: str
    port: int
    protocol: str
    def __init__(self, task_id: _Optional[str] = ..., target: _Optional[str] = ..., port: _Optional[int] = ..., protocol: _Optional[str] = ...) -> None: ...

class TraceBackend(_message.Message):
    __slots__ = ("address", "port", "source", "steps")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    source: str
    steps: _containers.RepeatedCompositeFieldContainer[TraceStep]
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ..., source: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ...) -> None: ...

class NodeTraceResponse(_message.Message):
    __slots__ = ("steps", "backends", "end", "reached")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[TraceStep]
    backends: _containers.RepeatedCompositeFieldContainer[TraceBackend]
    end: _containers.RepeatedCompositeFieldContainer[TraceStep]
    reached: bool
    def __init__(self, steps: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ..., backends: _Optional[_Iterable[_Union[TraceBackend, _Mapping]]] = ..., end: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ..., reached: _Optional[bool] = ...) -> None: ...

class NodeArrivalRequest(_message.Message):
    __slots__ = ("address", "port", "protocol", "source", "source_node_id")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    protocol: str
    source: str
    source_node_id: str
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ..., protocol: _Optional[str] = ..., source: _Optional[str] = ..., source_node_id: _Optional[str] = ...) -> None: ...

class NodeArrivalResponse(_message.Message):
    __slots__ = ("steps", "reached")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[TraceStep]
    reached: bool
    def __init__(self, steps: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ..., reached: _Optional[bool] = ...) -> None: ...
