from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_NOOP: _ClassVar[EntryKind]
    ENTRY_COMMAND: _ClassVar[EntryKind]
    ENTRY_CONFIGURATION: _ClassVar[EntryKind]
ENTRY_NOOP: EntryKind
ENTRY_COMMAND: EntryKind
ENTRY_CONFIGURATION: EntryKind

class Member(_message.Message):
    __slots__ = ("node_id", "address", "learner", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    address: str
    learner: bool
    incarnation: int
    def __init__(self, node_id: _Optional[str] = ..., address: _Optional[str] = ..., learner: _Optional[bool] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Configuration(_message.Message):
    __slots__ = ("members", "removed", "generation")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    removed: _containers.RepeatedScalarFieldContainer[str]
    generation: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ..., generation: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("index", "term", "kind", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    term: int
    kind: EntryKind
    data: bytes
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ..., kind: _Optional[_Union[EntryKind, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class RaftHello(_message.Message):
    __slots__ = ("node_id", "protocol", "generation", "fresh", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    protocol: int
    generation: int
    fresh: bool
    incarnation: int
    def __init__(self, node_id: _Optional[str] = ..., protocol: _Optional[int] = ..., generation: _Optional[int] = ..., fresh: _Optional[bool] = ..., incarnation: _Optional[int] = ...) -> None: ...

class VoteRequest(_message.Message):
    __slots__ = ("last_index", "last_term", "pre", "force")
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    PRE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    last_index: int
    last_term: int
    pre: bool
    force: bool
    def __init__(self, last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., pre: _Optional[bool] = ..., force: _Optional[bool] = ...) -> None: ...

class VoteResponse(_message.Message):
    __slots__ = ("granted", "pre")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PRE_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    pre: bool
    def __init__(self, granted: _Optional[bool] = ..., pre: _Optional[bool] = ...) -> None: ...

class Append(_message.Message):
    __slots__ = ("prev_index", "prev_term", "commit", "round", "entries")
    PREV_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREV_TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    prev_index: int
    prev_term: int
    commit: int
    round: int
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, prev_index: _Optional[int] = ..., prev_term: _Optional[int] = ..., commit: _Optional[int] = ..., round: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("success", "match_index", "round", "rejected_index", "hint_index", "hint_term")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REJECTED_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_TERM_FIELD_NUMBER: _ClassVar[int]
    success: bool
    match_index: int
    round: int
    rejected_index: int
    hint_index: int
    hint_term: int
    def __init__(self, success: _Optional[bool] = ..., match_index: _Optional[int] = ..., round: _Optional[int] = ..., rejected_index: _Optional[int] = ..., hint_index: _Optional[int] = ..., hint_term: _Optional[int] = ...) -> None: ...

class SnapshotMeta(_message.Message):
    __slots__ = ("index", "term", "configuration", "configuration_index")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_INDEX_FIELD_NUMBER: _ClassVar[int]
    index: int
    term: int
    configuration: Configuration
    configuration_index: int
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ..., configuration: _Optional[_Union[Configuration, _Mapping]] = ..., configuration_index: _Optional[int] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("meta", "offset", "data", "size_bytes")
    META_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    meta: SnapshotMeta
    offset: int
    data: bytes
    size_bytes: int
    def __init__(self, meta: _Optional[_Union[SnapshotMeta, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("index", "next_offset")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    index: int
    next_offset: int
    def __init__(self, index: _Optional[int] = ..., next_offset: _Optional[int] = ...) -> None: ...

class TimeoutNow(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Removed(_message.Message):
    __slots__ = ("configuration_index",)
    CONFIGURATION_INDEX_FIELD_NUMBER: _ClassVar[int]
    configuration_index: int
    def __init__(self, configuration_index: _Optional[int] = ...) -> None: ...

class RaftMessage(_message.Message):
    __slots__ = ("sender", "to", "term", "vote_request", "vote_response", "append", "append_response", "snapshot_chunk", "snapshot_response", "timeout_now", "removed", "sender_incarnation", "to_incarnation")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    VOTE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    VOTE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    APPEND_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NOW_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    SENDER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TO_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    sender: str
    to: str
    term: int
    vote_request: VoteRequest
    vote_response: VoteResponse
    append: Append
    append_response: AppendResponse
    snapshot_chunk: SnapshotChunk
    snapshot_response: SnapshotResponse
    timeout_now: TimeoutNow
    removed: Removed
    sender_incarnation: int
    to_incarnation: int
    def __init__(self, sender: _Optional[str] = ..., to: _Optional[str] = ..., term: _Optional[int] = ..., vote_request: _Optional[_Union[VoteRequest, _Mapping]] = ..., vote_response: _Optional[_Union[VoteResponse, _Mapping]] = ..., append: _Optional[_Union[Append, _Mapping]] = ..., append_response: _Optional[_Union[AppendResponse, _Mapping]] = ..., snapshot_chunk: _Optional[_Union[SnapshotChunk, _Mapping]] = ..., snapshot_response: _Optional[_Union[SnapshotResponse, _Mapping]] = ..., timeout_now: _Optional[_Union[TimeoutNow, _Mapping]] = ..., removed: _Optional[_Union[Removed, _Mapping]] = ..., sender_incarnation: _Optional[int] = ..., to_incarnation: _Optional[int] = ...) -> None: ...

class RaftFrame(_message.Message):
    __slots__ = ("hello", "message")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    hello: RaftHello
    message: RaftMessage
    def __init__(self, hello: _Optional[_Union[RaftHello, _Mapping]] = ..., message: _Optional[_Union[RaftMessage, _Mapping]] = ...) -> None: ...

class JournalSegment(_message.Message):
    __slots__ = ("format", "node_id", "sequence", "prev_index", "prev_term", "term", "vote", "reset", "prev_tag", "incarnation")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PREV_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREV_TERM_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    PREV_TAG_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    format: int
    node_id: str
    sequence: int
    prev_index: int
    prev_term: int
    term: int
    vote: str
    reset: bool
    prev_tag: bytes
    incarnation: int
    def __init__(self, format: _Optional[int] = ..., node_id: _Optional[str] = ..., sequence: _Optional[int] = ..., prev_index: _Optional[int] = ..., prev_term: _Optional[int] = ..., term: _Optional[int] = ..., vote: _Optional[str] = ..., reset: _Optional[bool] = ..., prev_tag: _Optional[bytes] = ..., incarnation: _Optional[int] = ...) -> None: ...

class KeyFile(_message.Message):
    __slots__ = ("format", "cluster_id", "node_id", "locked", "lock_id", "keys")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    LOCK_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    format: int
    cluster_id: str
    node_id: str
    locked: bool
    lock_id: bytes
    keys: bytes
    def __init__(self, format: _Optional[int] = ..., cluster_id: _Optional[str] = ..., node_id: _Optional[str] = ..., locked: _Optional[bool] = ..., lock_id: _Optional[bytes] = ..., keys: _Optional[bytes] = ...) -> None: ...

class DataKey(_message.Message):
    __slots__ = ("id", "key")
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    id: int
    key: bytes
    def __init__(self, id: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class DataKeyList(_message.Message):
    __slots__ = ("keys", "current")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[DataKey]
    current: int
    def __init__(self, keys: _Optional[_Iterable[_Union[DataKey, _Mapping]]] = ..., current: _Optional[int] = ...) -> None: ...

class HardState(_message.Message):
    __slots__ = ("term", "vote")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    term: int
    vote: str
    def __init__(self, term: _Optional[int] = ..., vote: _Optional[str] = ...) -> None: ...
