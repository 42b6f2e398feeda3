"""Keyed entries as action results: a value under a key that its client chose, in a namespace.

The digest of a text that names both stands for the digest of an action. The result has the value,
and the headers that are kept with it, as output files. So every server of the protocol can keep and
send on such an entry, and whatever holds for action results holds for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import NAMESPACES
from federation.wire.digests import to_digest
from federation.wire.protobuf import parse_message

_VALUE, _HEADERS = "value", "headers"
HEADERS_MAX_BYTES = 4096


class KeyedValue(NamedTuple):
    """What an entry holds: the value, and the headers that are kept with it (None: none are)."""

    value: Digest
    headers: Digest | None = None


def key_text(namespace: str, key: str) -> bytes:
    """Return the text that stands for the action: no namespace or key has a line break."""
    return f"federation-http/{namespace}\n{key}".encode()


def action_of(namespace: str, key: str) -> Digest:
    """Return the digest that the entry is kept under."""
    return digest_of(key_text(namespace, key))


def split_name(text: str) -> tuple[str, str] | None:
    """Split NAMESPACE/KEY as people write it; None: it begins with no namespace."""
    first, _, rest = text.partition("/")
    # A kv namespace has a name of its own: kv/app and kv/site do not meet.
    if first == "kv":
        name, _, key = rest.partition("/")
        return (f"kv/{name}", key) if name and key else None
    if first == "turborepo":
        # The team is optional, and the key is what Turborepo makes: it has no slash.
        team, slash, key = rest.rpartition("/")
        return (f"turborepo{slash}{team}", key) if key else None
    if first in {"gradle", "nx", "ac"} and rest:
        return first, rest
    return None


def split_instance(name: str) -> tuple[str, str]:
    """Split the instance name of a keyed entry before its namespace: pr/kv/app is pr and kv/app.

    The second part of any other instance name is empty.
    """
    parts = name.split("/")
    # The first: an instance of a keyed entry ends with its namespace, which may have more parts.
    at = next((at for at, part in enumerate(parts) if part in NAMESPACES), len(parts))
    return "/".join(parts[:at]), "/".join(parts[at:])


def encode_entry(entry: KeyedValue) -> bytes:
    """Return the entry as a serialized ActionResult."""
    result = reapi.ActionResult()
    for path, digest in ((_VALUE, entry.value), (_HEADERS, entry.headers)):
        if digest is not None:
            wire = reapi.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)
            result.output_files.add(path=path, digest=wire)
    # The same value has to be the same bytes at every node.
    return result.SerializeToString(deterministic=True)


def decode_entry(value: bytes) -> KeyedValue:
    """Read an entry. Raises InvalidRequest for an action result that is none."""
    result = parse_message(reapi.ActionResult, value)
    files = {file.path: to_digest(file.digest, _FUNCTION) for file in result.output_files}
    # Anybody may push an action result under this digest.
    if _VALUE not in files:
        raise InvalidRequest("an action result without an output file called value")
    return KeyedValue(files[_VALUE], files.get(_HEADERS))


_FUNCTION = DigestFunction.SHA256


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return headers as lines of "name: value"."""
    return "".join(f"{name}: {value}\n" for name, value in sorted(headers.items())).encode()


def decode_headers(data: bytes) -> dict[str, str]:
    """Read encode_headers' bytes; lines that are none are left out."""
    # A blob like others, so it may have been written by anybody who may push.
    lines = data[:HEADERS_MAX_BYTES].decode("utf-8", "replace").splitlines()
    pairs = (line.partition(": ") for line in lines)
    return {name: value for name, colon, value in pairs if colon}
