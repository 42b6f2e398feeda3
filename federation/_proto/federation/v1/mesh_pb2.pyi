from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Member(_message.Message):
    __slots__ = ("name", "url", "server_certificate", "client_certificate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    SERVER_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    url: str
    server_certificate: bytes
    client_certificate: bytes
    def __init__(self, name: _Optional[str] = ..., url: _Optional[str] = ..., server_certificate: _Optional[bytes] = ..., client_certificate: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("joiner",)
    JOINER_FIELD_NUMBER: _ClassVar[int]
    joiner: Member
    def __init__(self, joiner: _Optional[_Union[Member, _Mapping]] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("inviter", "others")
    INVITER_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    inviter: Member
    others: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, inviter: _Optional[_Union[Member, _Mapping]] = ..., others: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class IntroduceRequest(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class IntroduceResponse(_message.Message):
    __slots__ = ("added", "refused")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[str]] = ...) -> None: ...
