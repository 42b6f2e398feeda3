from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ApplyPurgesRequest(_message.Message):
    __slots__ = ("instance_name", "purges")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    PURGES_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    purges: _containers.RepeatedCompositeFieldContainer[PurgeRecord]
    def __init__(self, instance_name: _Optional[str] = ..., purges: _Optional[_Iterable[_Union[PurgeRecord, _Mapping]]] = ...) -> None: ...

class PurgeRecord(_message.Message):
    __slots__ = ("blob", "entry", "ticks", "node", "is_allowed", "by", "at_ms")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    TICKS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    IS_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    blob: PurgedBlob
    entry: PurgedEntry
    ticks: int
    node: str
    is_allowed: bool
    by: str
    at_ms: int
    def __init__(self, blob: _Optional[_Union[PurgedBlob, _Mapping]] = ..., entry: _Optional[_Union[PurgedEntry, _Mapping]] = ..., ticks: _Optional[int] = ..., node: _Optional[str] = ..., is_allowed: _Optional[bool] = ..., by: _Optional[str] = ..., at_ms: _Optional[int] = ...) -> None: ...

class PurgedBlob(_message.Message):
    __slots__ = ("digest_function", "hash", "size_bytes")
    DIGEST_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest_function: int
    hash: bytes
    size_bytes: int
    def __init__(self, digest_function: _Optional[int] = ..., hash: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class PurgedEntry(_message.Message):
    __slots__ = ("kind", "instance_name", "name", "label")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    kind: int
    instance_name: str
    name: bytes
    label: str
    def __init__(self, kind: _Optional[int] = ..., instance_name: _Optional[str] = ..., name: _Optional[bytes] = ..., label: _Optional[str] = ...) -> None: ...

class ApplyPurgesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
