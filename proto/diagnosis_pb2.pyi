from swarmpy.proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECK_OK: _ClassVar[CheckResult]
    CHECK_WARNING: _ClassVar[CheckResult]
    CHECK_FAILED: _ClassVar[CheckResult]
    CHECK_SKIPPED: _ClassVar[CheckResult]
CHECK_OK: CheckResult
CHECK_WARNING: CheckResult
CHECK_FAILED: CheckResult
CHECK_SKIPPED: CheckResult

class PolicyTestRequest(_message.Message):
    __slots__ = ("source", "target", "protocol", "port")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    protocol: _types_pb2.Protocol
    port: int
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., protocol: _Optional[_Union[_types_pb2.Protocol, str]] = ..., port: _Optional[int] = ...) -> None: ...

class PolicyVerdict(_message.Message):
    __slots__ = ("network", "allowed", "reasons")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    network: str
    allowed: bool
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, network: _Optional[str] = ..., allowed: _Optional[bool] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class PolicyTestResponse(_message.Message):
    __slots__ = ("allowed", "verdicts")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    verdicts: _containers.RepeatedCompositeFieldContainer[PolicyVerdict]
    def __init__(self, allowed: _Optional[bool] = ..., verdicts: _Optional[_Iterable[_Union[PolicyVerdict, _Mapping]]] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "result", "found", "advice")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    result: CheckResult
    found: str
    advice: str
    def __init__(self, name: _Optional[str] = ..., result: _Optional[_Union[CheckResult, str]] = ..., found: _Optional[str] = ..., advice: _Optional[str] = ...) -> None: ...

class DoctorRequest(_message.Message):
    __slots__ = ("packets",)
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    packets: int
    def __init__(self, packets: _Optional[int] = ...) -> None: ...

class ProbeTarget(_message.Message):
    __slots__ = ("node_id", "name", "tcp")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    tcp: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., tcp: _Optional[_Iterable[str]] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("targets", "packets")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[ProbeTarget]
    packets: int
    def __init__(self, targets: _Optional[_Iterable[_Union[ProbeTarget, _Mapping]]] = ..., packets: _Optional[int] = ...) -> None: ...

class PortFinding(_message.Message):
    __slots__ = ("address", "open", "problem")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    address: str
    open: bool
    problem: str
    def __init__(self, address: _Optional[str] = ..., open: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class PairReport(_message.Message):
    __slots__ = ("node_id", "name", "reachable", "problem", "rtt_ms", "rtt_max_ms", "loss", "path_mtu", "clock_offset_ms", "ports", "udp_blocked", "direct")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    RTT_MS_FIELD_NUMBER: _ClassVar[int]
    RTT_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    PATH_MTU_FIELD_NUMBER: _ClassVar[int]
    CLOCK_OFFSET_MS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    UDP_BLOCKED_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    reachable: bool
    problem: str
    rtt_ms: float
    rtt_max_ms: float
    loss: float
    path_mtu: int
    clock_offset_ms: float
    ports: _containers.RepeatedCompositeFieldContainer[PortFinding]
    udp_blocked: bool
    direct: bool
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., reachable: _Optional[bool] = ..., problem: _Optional[str] = ..., rtt_ms: _Optional[float] = ..., rtt_max_ms: _Optional[float] = ..., loss: _Optional[float] = ..., path_mtu: _Optional[int] = ..., clock_offset_ms: _Optional[float] = ..., ports: _Optional[_Iterable[_Union[PortFinding, _Mapping]]] = ..., udp_blocked: _Optional[bool] = ..., direct: _Optional[bool] = ...) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ("pairs", "checks")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    pairs: _containers.RepeatedCompositeFieldContainer[PairReport]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    def __init__(self, pairs: _Optional[_Iterable[_Union[PairReport, _Mapping]]] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ...) -> None: ...

class EchoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EchoResponse(_message.Message):
    __slots__ = ("received_ns", "answered_ns")
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_NS_FIELD_NUMBER: _ClassVar[int]
    received_ns: int
    answered_ns: int
    def __init__(self, received_ns: _Optional[int] = ..., answered_ns: _Optional[int] = ...) -> None: ...

class NodeReport(_message.Message):
    __slots__ = ("node_id", "name", "problem", "probe")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    problem: str
    probe: ProbeResponse
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., problem: _Optional[str] = ..., probe: _Optional[_Union[ProbeResponse, _Mapping]] = ...) -> None: ...
