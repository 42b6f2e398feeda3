"""A client for any server of the protocol: a node of this project, casd, BuildGrid, or another.

Both upstreams and peers are called through it. It speaks to one server, stays within what that
server supports, and raises typed errors. It does not choose between servers, does not continue at
another one, and does not interpret what it reads.
"""

from federation.remote.client import Remote
from federation.remote.failures import (
    Denied,
    FailureKind,
    RemoteFailed,
    RequestRefused,
    Unsupported,
    WrongBytes,
)
from federation.remote.index import FetchedAsset, RemoteIndex
from federation.remote.settings import RemoteSettings
from federation.remote.store import RemoteStore

__all__ = [
    "Denied",
    "FailureKind",
    "FetchedAsset",
    "Remote",
    "RemoteFailed",
    "RemoteIndex",
    "RemoteSettings",
    "RemoteStore",
    "RequestRefused",
    "Unsupported",
    "WrongBytes",
]
