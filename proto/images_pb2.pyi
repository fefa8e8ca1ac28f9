from swarmpy.proto import dispatcher_pb2 as _dispatcher_pb2
from swarmpy.proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SwarmRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: str
    def __init__(self, image: _Optional[str] = ...) -> None: ...

class SwarmUpdate(_message.Message):
    __slots__ = ("complete", "have", "got", "claimed", "peers")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    GOT_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    have: bytes
    got: _containers.RepeatedScalarFieldContainer[int]
    claimed: _containers.RepeatedScalarFieldContainer[int]
    peers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, complete: _Optional[bool] = ..., have: _Optional[bytes] = ..., got: _Optional[_Iterable[int]] = ..., claimed: _Optional[_Iterable[int]] = ..., peers: _Optional[_Iterable[str]] = ...) -> None: ...

class WhereRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: str
    def __init__(self, image: _Optional[str] = ...) -> None: ...

class Whereabouts(_message.Message):
    __slots__ = ("node_id", "node_name", "present_bytes", "total_bytes", "complete", "unpacked", "warning")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    PRESENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    UNPACKED_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    node_name: str
    present_bytes: int
    total_bytes: int
    complete: bool
    unpacked: bool
    warning: str
    def __init__(self, node_id: _Optional[str] = ..., node_name: _Optional[str] = ..., present_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., complete: _Optional[bool] = ..., unpacked: _Optional[bool] = ..., warning: _Optional[str] = ...) -> None: ...

class WhereResponse(_message.Message):
    __slots__ = ("reference", "digest", "nodes")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    nodes: _containers.RepeatedCompositeFieldContainer[Whereabouts]
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Whereabouts, _Mapping]]] = ...) -> None: ...

class ImageReadRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: str
    def __init__(self, image: _Optional[str] = ...) -> None: ...

class ImageLayer(_message.Message):
    __slots__ = ("digest", "diff_id", "size_bytes", "media_type")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIFF_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    diff_id: str
    size_bytes: int
    media_type: str
    def __init__(self, digest: _Optional[str] = ..., diff_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., media_type: _Optional[str] = ...) -> None: ...

class ImageDocuments(_message.Message):
    __slots__ = ("references", "digest", "manifest", "config", "size_bytes", "layers", "node_id")
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    references: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    manifest: bytes
    config: bytes
    size_bytes: int
    layers: _containers.RepeatedCompositeFieldContainer[ImageLayer]
    node_id: str
    def __init__(self, references: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ..., manifest: _Optional[bytes] = ..., config: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[ImageLayer, _Mapping]]] = ..., node_id: _Optional[str] = ...) -> None: ...

class ImageSaveRequest(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, images: _Optional[_Iterable[str]] = ...) -> None: ...

class ArchiveChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class NodeUsage(_message.Message):
    __slots__ = ("node_id", "node_name", "warning", "blob_bytes", "layer_bytes", "partial_bytes", "images", "reclaimable_bytes", "disk_bytes", "disk_free_bytes")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYER_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    RECLAIMABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    node_name: str
    warning: str
    blob_bytes: int
    layer_bytes: int
    partial_bytes: int
    images: int
    reclaimable_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    def __init__(self, node_id: _Optional[str] = ..., node_name: _Optional[str] = ..., warning: _Optional[str] = ..., blob_bytes: _Optional[int] = ..., layer_bytes: _Optional[int] = ..., partial_bytes: _Optional[int] = ..., images: _Optional[int] = ..., reclaimable_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ...) -> None: ...

class UsageRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UsageResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeUsage]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeUsage, _Mapping]]] = ...) -> None: ...

class PruneImagesRequest(_message.Message):
    __slots__ = ("all", "plan", "keep_revisions")
    ALL_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    KEEP_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    all: bool
    plan: bool
    keep_revisions: int
    def __init__(self, all: _Optional[bool] = ..., plan: _Optional[bool] = ..., keep_revisions: _Optional[int] = ...) -> None: ...

class PrunedImage(_message.Message):
    __slots__ = ("name", "digest", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class PruneImagesResponse(_message.Message):
    __slots__ = ("images", "nodes", "freed_bytes")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[PrunedImage]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeUsage]
    freed_bytes: int
    def __init__(self, images: _Optional[_Iterable[_Union[PrunedImage, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[NodeUsage, _Mapping]]] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("source",)
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    source: _dispatcher_pb2.ImageSource
    def __init__(self, source: _Optional[_Union[_dispatcher_pb2.ImageSource, _Mapping]] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("keep_digests", "wanted_bytes")
    KEEP_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    WANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    keep_digests: _containers.RepeatedScalarFieldContainer[str]
    wanted_bytes: int
    def __init__(self, keep_digests: _Optional[_Iterable[str]] = ..., wanted_bytes: _Optional[int] = ...) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class CheckRegistryRequest(_message.Message):
    __slots__ = ("access",)
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    access: _types_pb2.RegistryAccess
    def __init__(self, access: _Optional[_Union[_types_pb2.RegistryAccess, _Mapping]] = ...) -> None: ...

class CheckRegistryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CredentialRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class CredentialResponse(_message.Message):
    __slots__ = ("access",)
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    access: _types_pb2.RegistryAccess
    def __init__(self, access: _Optional[_Union[_types_pb2.RegistryAccess, _Mapping]] = ...) -> None: ...
