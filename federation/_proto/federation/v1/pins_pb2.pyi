from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ApplyPinsRequest(_message.Message):
    __slots__ = ("instance_name", "pins")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    pins: _containers.RepeatedCompositeFieldContainer[PinRecord]
    def __init__(self, instance_name: _Optional[str] = ..., pins: _Optional[_Iterable[_Union[PinRecord, _Mapping]]] = ...) -> None: ...

class PinRecord(_message.Message):
    __slots__ = ("assets", "action", "instance", "blob", "ticks", "node", "is_removed", "until_ms", "label", "note", "by", "at_ms")
    ASSETS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    TICKS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    IS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    assets: PinnedAssets
    action: PinnedAction
    instance: PinnedInstance
    blob: PinnedDigest
    ticks: int
    node: str
    is_removed: bool
    until_ms: int
    label: str
    note: str
    by: str
    at_ms: int
    def __init__(self, assets: _Optional[_Union[PinnedAssets, _Mapping]] = ..., action: _Optional[_Union[PinnedAction, _Mapping]] = ..., instance: _Optional[_Union[PinnedInstance, _Mapping]] = ..., blob: _Optional[_Union[PinnedDigest, _Mapping]] = ..., ticks: _Optional[int] = ..., node: _Optional[str] = ..., is_removed: _Optional[bool] = ..., until_ms: _Optional[int] = ..., label: _Optional[str] = ..., note: _Optional[str] = ..., by: _Optional[str] = ..., at_ms: _Optional[int] = ...) -> None: ...

class PinnedAssets(_message.Message):
    __slots__ = ("instance_name", "pattern")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    pattern: str
    def __init__(self, instance_name: _Optional[str] = ..., pattern: _Optional[str] = ...) -> None: ...

class PinnedAction(_message.Message):
    __slots__ = ("instance_name", "action")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    action: PinnedDigest
    def __init__(self, instance_name: _Optional[str] = ..., action: _Optional[_Union[PinnedDigest, _Mapping]] = ...) -> None: ...

class PinnedInstance(_message.Message):
    __slots__ = ("instance_name",)
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    def __init__(self, instance_name: _Optional[str] = ...) -> None: ...

class PinnedDigest(_message.Message):
    __slots__ = ("digest_function", "hash", "size_bytes")
    DIGEST_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest_function: int
    hash: bytes
    size_bytes: int
    def __init__(self, digest_function: _Optional[int] = ..., hash: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ApplyPinsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
