"""Short ways to the messages that tests store."""

from __future__ import annotations

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest
from federation.wire.protobuf import length_field


def message_of(digest: Digest) -> reapi.Digest:
    return reapi.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


def directory(files: dict[str, Digest], children: dict[str, Digest] | None = None) -> bytes:
    message = reapi.Directory()
    for name, digest in files.items():
        message.files.add(name=name, digest=message_of(digest))
    for name, digest in (children or {}).items():
        message.directories.add(name=name, digest=message_of(digest))
    return message.SerializeToString()


def tree(root: bytes, *children: bytes) -> bytes:
    return length_field(1, root) + b"".join(length_field(2, each) for each in children)
