from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VolumeRequest(_message.Message):
    __slots__ = ("volume", "node")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    volume: str
    node: str
    def __init__(self, volume: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class VolumeUsage(_message.Message):
    __slots__ = ("present", "used_bytes", "files", "limit_bytes", "free_bytes", "path", "users", "node_name")
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    present: bool
    used_bytes: int
    files: int
    limit_bytes: int
    free_bytes: int
    path: str
    users: int
    node_name: str
    def __init__(self, present: _Optional[bool] = ..., used_bytes: _Optional[int] = ..., files: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., path: _Optional[str] = ..., users: _Optional[int] = ..., node_name: _Optional[str] = ...) -> None: ...

class VolumeData(_message.Message):
    __slots__ = ("place", "data")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    place: VolumePlace
    data: bytes
    def __init__(self, place: _Optional[_Union[VolumePlace, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class VolumePlace(_message.Message):
    __slots__ = ("volume_id", "node_name", "users", "used_bytes")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    node_name: str
    users: int
    used_bytes: int
    def __init__(self, volume_id: _Optional[str] = ..., node_name: _Optional[str] = ..., users: _Optional[int] = ..., used_bytes: _Optional[int] = ...) -> None: ...

class VolumeRestoreRequest(_message.Message):
    __slots__ = ("start", "data", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: VolumeRequest
    data: bytes
    end: bool
    def __init__(self, start: _Optional[_Union[VolumeRequest, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class VolumeRestoreResponse(_message.Message):
    __slots__ = ("place", "files", "bytes")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    place: VolumePlace
    files: int
    bytes: int
    def __init__(self, place: _Optional[_Union[VolumePlace, _Mapping]] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class TreeRequest(_message.Message):
    __slots__ = ("volume_id", "move", "final")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    move: int
    final: bool
    def __init__(self, volume_id: _Optional[str] = ..., move: _Optional[int] = ..., final: _Optional[bool] = ...) -> None: ...

class TreeEntry(_message.Message):
    __slots__ = ("path", "mode", "uid", "gid", "mtime_ns", "ctime_ns", "size_bytes", "disk_bytes", "link", "device", "inode", "links", "xattrs", "young")
    class XattrsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    CTIME_NS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    XATTRS_FIELD_NUMBER: _ClassVar[int]
    YOUNG_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    size_bytes: int
    disk_bytes: int
    link: bytes
    device: int
    inode: int
    links: int
    xattrs: _containers.ScalarMap[str, bytes]
    young: bool
    def __init__(self, path: _Optional[bytes] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., ctime_ns: _Optional[int] = ..., size_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., link: _Optional[bytes] = ..., device: _Optional[int] = ..., inode: _Optional[int] = ..., links: _Optional[int] = ..., xattrs: _Optional[_Mapping[str, bytes]] = ..., young: _Optional[bool] = ...) -> None: ...

class TreePart(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TreeEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[TreeEntry, _Mapping]]] = ...) -> None: ...

class FilesRequest(_message.Message):
    __slots__ = ("volume_id", "move", "paths", "basis")
    VOLUME_ID_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    volume_id: str
    move: int
    paths: _containers.RepeatedScalarFieldContainer[bytes]
    basis: _containers.RepeatedCompositeFieldContainer[Basis]
    def __init__(self, volume_id: _Optional[str] = ..., move: _Optional[int] = ..., paths: _Optional[_Iterable[bytes]] = ..., basis: _Optional[_Iterable[_Union[Basis, _Mapping]]] = ...) -> None: ...

class Basis(_message.Message):
    __slots__ = ("position", "block_bytes", "sums")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    position: int
    block_bytes: int
    sums: bytes
    def __init__(self, position: _Optional[int] = ..., block_bytes: _Optional[int] = ..., sums: _Optional[bytes] = ...) -> None: ...

class FileData(_message.Message):
    __slots__ = ("position", "offset", "data", "end", "size_bytes", "vanished", "zeros")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VANISHED_FIELD_NUMBER: _ClassVar[int]
    ZEROS_FIELD_NUMBER: _ClassVar[int]
    position: int
    offset: int
    data: bytes
    end: bool
    size_bytes: int
    vanished: bool
    zeros: int
    def __init__(self, position: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., size_bytes: _Optional[int] = ..., vanished: _Optional[bool] = ..., zeros: _Optional[int] = ...) -> None: ...
