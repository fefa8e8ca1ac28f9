from swarmpy.proto import store_pb2 as _store_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PayloadRequest(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: _store_pb2.Kind
    id: str
    def __init__(self, kind: _Optional[_Union[_store_pb2.Kind, str]] = ..., id: _Optional[str] = ...) -> None: ...

class PayloadResponse(_message.Message):
    __slots__ = ("data", "template_driver")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_DRIVER_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    template_driver: str
    def __init__(self, data: _Optional[bytes] = ..., template_driver: _Optional[str] = ...) -> None: ...
