"""A client for any server of the protocol: a node of ours, casd, BuildGrid, or another.

Upstreams are pulled from and peers are sent to through it. It speaks to one server, keeps within
what that server can do, and says in types how a call failed. It does not choose between servers,
does not continue at another one, and decides nothing by what it reads.
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
