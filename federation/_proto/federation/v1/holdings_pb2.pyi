from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FindLackingRequest(_message.Message):
    __slots__ = ("instance_name", "names")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    names: bytes
    def __init__(self, instance_name: _Optional[str] = ..., names: _Optional[bytes] = ...) -> None: ...

class FindLackingResponse(_message.Message):
    __slots__ = ("lacking",)
    LACKING_FIELD_NUMBER: _ClassVar[int]
    lacking: bytes
    def __init__(self, lacking: _Optional[bytes] = ...) -> None: ...
