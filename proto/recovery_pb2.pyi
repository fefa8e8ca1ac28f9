from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PositionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PositionResponse(_message.Message):
    __slots__ = ("node_id", "term", "last_index", "last_term", "commit_index", "applied_index", "generation", "leader_id", "voters")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    term: int
    last_index: int
    last_term: int
    commit_index: int
    applied_index: int
    generation: int
    leader_id: str
    voters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., generation: _Optional[int] = ..., leader_id: _Optional[str] = ..., voters: _Optional[_Iterable[str]] = ...) -> None: ...

class SurveyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SurveyRow(_message.Message):
    __slots__ = ("node_id", "hostname", "address", "here", "problem", "position")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hostname: str
    address: str
    here: bool
    problem: str
    position: PositionResponse
    def __init__(self, node_id: _Optional[str] = ..., hostname: _Optional[str] = ..., address: _Optional[str] = ..., here: _Optional[bool] = ..., problem: _Optional[str] = ..., position: _Optional[_Union[PositionResponse, _Mapping]] = ...) -> None: ...

class SurveyResponse(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[SurveyRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[SurveyRow, _Mapping]]] = ...) -> None: ...

class RecoverRequest(_message.Message):
    __slots__ = ("force",)
    FORCE_FIELD_NUMBER: _ClassVar[int]
    force: bool
    def __init__(self, force: _Optional[bool] = ...) -> None: ...

class RecoverResponse(_message.Message):
    __slots__ = ("last_index", "removed")
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    last_index: int
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, last_index: _Optional[int] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class BackupPassphrase(_message.Message):
    __slots__ = ("salt", "log2_n", "r", "p")
    SALT_FIELD_NUMBER: _ClassVar[int]
    LOG2_N_FIELD_NUMBER: _ClassVar[int]
    R_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    salt: bytes
    log2_n: int
    r: int
    p: int
    def __init__(self, salt: _Optional[bytes] = ..., log2_n: _Optional[int] = ..., r: _Optional[int] = ..., p: _Optional[int] = ...) -> None: ...

class BackupHeader(_message.Message):
    __slots__ = ("format", "cluster_id", "index", "term", "generation", "version", "created_ms", "node_id", "passphrase", "cluster_key_id", "salt", "key_check")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PASSPHRASE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    KEY_CHECK_FIELD_NUMBER: _ClassVar[int]
    format: int
    cluster_id: str
    index: int
    term: int
    generation: int
    version: str
    created_ms: int
    node_id: str
    passphrase: BackupPassphrase
    cluster_key_id: bytes
    salt: bytes
    key_check: bytes
    def __init__(self, format: _Optional[int] = ..., cluster_id: _Optional[str] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., generation: _Optional[int] = ..., version: _Optional[str] = ..., created_ms: _Optional[int] = ..., node_id: _Optional[str] = ..., passphrase: _Optional[_Union[BackupPassphrase, _Mapping]] = ..., cluster_key_id: _Optional[bytes] = ..., salt: _Optional[bytes] = ..., key_check: _Optional[bytes] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ("with_key",)
    WITH_KEY_FIELD_NUMBER: _ClassVar[int]
    with_key: bool
    def __init__(self, with_key: _Optional[bool] = ...) -> None: ...

class BackupChunk(_message.Message):
    __slots__ = ("header", "cluster_key", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: BackupHeader
    cluster_key: bytes
    data: bytes
    def __init__(self, header: _Optional[_Union[BackupHeader, _Mapping]] = ..., cluster_key: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class ListBackupsRequest(_message.Message):
    __slots__ = ("local",)
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    local: bool
    def __init__(self, local: _Optional[bool] = ...) -> None: ...

class BackupFile(_message.Message):
    __slots__ = ("node_id", "hostname", "path", "size_bytes", "header", "problem")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hostname: str
    path: str
    size_bytes: int
    header: BackupHeader
    problem: str
    def __init__(self, node_id: _Optional[str] = ..., hostname: _Optional[str] = ..., path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., header: _Optional[_Union[BackupHeader, _Mapping]] = ..., problem: _Optional[str] = ...) -> None: ...

class ListBackupsResponse(_message.Message):
    __slots__ = ("files", "last_ms", "interval_ms", "keep", "key_shown", "last_problem")
    FILES_FIELD_NUMBER: _ClassVar[int]
    LAST_MS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    KEY_SHOWN_FIELD_NUMBER: _ClassVar[int]
    LAST_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[BackupFile]
    last_ms: int
    interval_ms: int
    keep: int
    key_shown: bool
    last_problem: str
    def __init__(self, files: _Optional[_Iterable[_Union[BackupFile, _Mapping]]] = ..., last_ms: _Optional[int] = ..., interval_ms: _Optional[int] = ..., keep: _Optional[int] = ..., key_shown: _Optional[bool] = ..., last_problem: _Optional[str] = ...) -> None: ...

class BackupKeyRequest(_message.Message):
    __slots__ = ("rotate",)
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    rotate: bool
    def __init__(self, rotate: _Optional[bool] = ...) -> None: ...

class BackupKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...
