from swarmpy.proto import control_pb2 as _control_pb2
from swarmpy.proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskLogsRequest(_message.Message):
    __slots__ = ("task_id", "follow", "tail", "since_ms", "until_ms", "container")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    follow: bool
    tail: int
    since_ms: int
    until_ms: int
    container: str
    def __init__(self, task_id: _Optional[str] = ..., follow: _Optional[bool] = ..., tail: _Optional[int] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ..., container: _Optional[str] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("reference", "access")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    reference: str
    access: _types_pb2.RegistryAccess
    def __init__(self, reference: _Optional[str] = ..., access: _Optional[_Union[_types_pb2.RegistryAccess, _Mapping]] = ...) -> None: ...

class ResolveResponse(_message.Message):
    __slots__ = ("digest", "reference")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    reference: str
    def __init__(self, digest: _Optional[str] = ..., reference: _Optional[str] = ...) -> None: ...

class PruneRequest(_message.Message):
    __slots__ = ("keep_digests",)
    KEEP_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    keep_digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keep_digests: _Optional[_Iterable[str]] = ...) -> None: ...

class PruneResponse(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class BlobStatRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class BlobStatResponse(_message.Message):
    __slots__ = ("present", "size_bytes")
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    present: bool
    size_bytes: int
    def __init__(self, present: _Optional[bool] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class BlobReadRequest(_message.Message):
    __slots__ = ("digest", "offset", "length")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    length: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class BlobChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
