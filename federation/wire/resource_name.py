"""Resource names of the ByteStream service, and the rules for instance names.

Reads:    [INSTANCE/]blobs/[FUNCTION/]HASH/SIZE
          [INSTANCE/]compressed-blobs/zstd/[FUNCTION/]HASH/SIZE
Uploads:  [INSTANCE/]uploads/UUID/(blobs|compressed-blobs/zstd)/[FUNCTION/]HASH/SIZE[/METADATA...]

(REAPI v2, service ContentAddressableStorage.) An instance name may have several parts; a name
with an empty one may begin with "/", as moon sends it. These names never become file paths.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.wire.digests import parse_digest

INSTANCE_MAX_BYTES = 1024
NAME_MAX_CHARS = 4096
UUID_MAX_CHARS = 256
RESERVED = frozenset(
    {
        "blobs",
        "uploads",
        "actions",
        "actionResults",
        "operations",
        "capabilities",
        "compressed-blobs",
    }
)
# REAPI names the function in resource names, where it does not follow from the hash.
_FUNCTIONS = {function.wire_name: function for function in DigestFunction}


class ReadName(NamedTuple):
    """The resource name of a Read."""

    instance: str
    digest: Digest
    compressed: bool


class UploadName(NamedTuple):
    """The resource name of a Write. All of it identifies an upload, as clients reuse uuids."""

    instance: str
    uuid: str
    digest: Digest
    compressed: bool


def check_instance(name: str) -> str:
    """Return the instance name if it is valid, which "" is. Raises InvalidRequest."""
    # Characters first: encoding megabytes only to count them is work for whoever sent them.
    if len(name) > INSTANCE_MAX_BYTES or len(name.encode()) > INSTANCE_MAX_BYTES:
        raise InvalidRequest(f"instance name of more than {INSTANCE_MAX_BYTES} bytes")
    if name:
        for part in name.split("/"):
            _check_instance_part(part)
    return name


def _check_instance_part(part: str) -> None:
    if not part:
        raise InvalidRequest("instance name with an empty part; no leading, trailing or double /")
    if not part.isprintable():
        raise InvalidRequest("instance name with a control character")
    if part in RESERVED:
        raise InvalidRequest(f"instance name with the reserved word {part!r}")
    # Over HTTP instances come in paths, which proxies decode and shorten.
    plain = unquote(part) if "%" in part else part
    if plain in {".", ".."} or "/" in plain or not plain.isprintable():
        raise InvalidRequest("instance name that climbs like a path")


def parse_read(name: str) -> ReadName:
    """Parse a Read's resource name. Raises InvalidRequest."""
    instance, rest = _split(name)
    compressed, rest = _kind(rest)
    digest, rest = _digest(rest)
    if rest:
        raise InvalidRequest("resource name goes on after the size")
    return ReadName(instance, digest, compressed)


def parse_upload(name: str) -> UploadName:
    """Parse a Write's resource name; what follows the size is ignored. Raises InvalidRequest."""
    instance, rest = _split(name)
    if not rest or rest[0] != "uploads":
        raise InvalidRequest("an upload's resource name is [INSTANCE/]uploads/UUID/blobs/HASH/SIZE")
    # Any text will do: clients send names that are no UUIDs.
    uuid = rest[1] if len(rest) > 1 else ""
    if not uuid or len(uuid) > UUID_MAX_CHARS or uuid in {".", ".."} or uuid in RESERVED:
        raise InvalidRequest("resource name without a uuid behind uploads/")
    compressed, rest = _kind(rest[2:])
    # REAPI: a client may append metadata, such as a file's name, for people only.
    digest, _ = _digest(rest)
    return UploadName(instance, uuid, digest, compressed)


def _split(name: str) -> tuple[str, list[str]]:
    """Return the instance, and the parts from the first reserved word on."""
    if len(name) > NAME_MAX_CHARS:
        raise InvalidRequest(f"resource name of more than {NAME_MAX_CHARS} characters")
    if not name.isprintable():
        raise InvalidRequest("resource name with a control character")
    parts = name.split("/")
    # REAPI: an instance name must not contain these words, so the first of them ends it.
    start = next((at for at, part in enumerate(parts) if part in RESERVED), len(parts))
    # moon writes "/uploads/..." where the instance name is empty.
    if start == 1 and not parts[0]:
        return "", parts[1:]
    return check_instance("/".join(parts[:start])), parts[start:]


def _kind(parts: list[str]) -> tuple[bool, list[str]]:
    """Return whether the blob travels as zstd, and what follows that."""
    match parts:
        case ["blobs", *rest]:
            return False, rest
        case ["compressed-blobs", "zstd", *rest]:
            return True, rest
        # REAPI: a compressor that the server does not support is INVALID_ARGUMENT.
        case ["compressed-blobs", *_]:
            raise InvalidRequest("compressor in a resource name that is not zstd")
    raise InvalidRequest("resource name without blobs/ or compressed-blobs/zstd/ before a hash")


def _digest(parts: list[str]) -> tuple[Digest, list[str]]:
    """Return the digest, and what follows it."""
    function = _FUNCTIONS.get(parts[0]) if parts else None
    if function is not None:
        parts = parts[1:]
    if len(parts) < 2:
        raise InvalidRequest("resource name without HASH/SIZE")
    digest = parse_digest(parts[0], parts[1], function or DigestFunction.SHA256)
    return digest, parts[2:]


def read_name(digest: Digest, instance: str = "", *, compressed: bool = False) -> str:
    """Return the resource name; parse_read is the inverse."""
    return f"{instance}/{_tail(digest, compressed)}" if instance else _tail(digest, compressed)


def upload_name(digest: Digest, uuid: str, instance: str = "", *, compressed: bool = False) -> str:
    """Return the resource name; parse_upload is the inverse."""
    tail = f"uploads/{uuid}/{_tail(digest, compressed)}"
    return f"{instance}/{tail}" if instance else tail


def _tail(digest: Digest, compressed: bool) -> str:
    return f"compressed-blobs/zstd/{digest}" if compressed else f"blobs/{digest}"
