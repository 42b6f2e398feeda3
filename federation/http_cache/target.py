"""What the target of an HTTP request names: a blob, an action result, or a keyed entry.

    [INSTANCE/]cas/[blake3/]HASH       [INSTANCE/]ac/[blake3/]HASH
    [INSTANCE/]kv/NAME/KEY...          [INSTANCE/]gradle/KEY
    [INSTANCE/]v8/artifacts/KEY        [INSTANCE/]v1/cache/KEY

Slashes may be repeated, and are one. None of these names becomes a file path.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest, RequestTooLarge
from federation.wire.digests import parse_digest
from federation.wire.resource_name import check_instance

KEY_MAX_BYTES: Final = 1024
_TARGET_MAX_CHARS = 4096
_QUERY_FIELDS_MAX = 20
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"[0-9A-Za-z._-]{1,128}")  # Gradle's and others' are hex or digits
_PROBE = ".sccache_check"
_BLAKE3 = DigestFunction.BLAKE3.wire_name


class Kind(enum.Enum):
    """What is asked for."""

    BLOB = enum.auto()
    RESULT = enum.auto()
    ENTRY = enum.auto()
    FOLDER = enum.auto()  # of keys, e.g. kv/main/ab/: WebDAV clients ask for and make them
    STATUS = enum.auto()  # whether the node serves
    TURBOREPO_STATUS = enum.auto()
    TURBOREPO_EVENTS = enum.auto()
    TURBOREPO_QUERY = enum.auto()


class ClientKind(enum.Enum):
    """Whose paths these are: it decides which status does the client no harm."""

    BAZEL = enum.auto()  # and everybody else with cas/ and ac/
    KEY_VALUE = enum.auto()
    GRADLE = enum.auto()
    TURBOREPO = enum.auto()
    NX = enum.auto()


class Target(NamedTuple):
    """What one request is about."""

    kind: Kind
    client: ClientKind
    instance: str = ""  # whose rights are asked for; for keyed entries it ends with the namespace
    namespace: str = ""  # of a keyed entry
    key: str = ""  # of a keyed entry; for action results the hash
    named: Digest | None = None  # of blobs and action results; without the size, which is 0 here

    @property
    def is_probe(self) -> bool:
        """Whether sccache asks for the file that tells it whether there is a cache."""
        return self.client is ClientKind.KEY_VALUE and self.key.rpartition("/")[2] == _PROBE


@lru_cache(maxsize=2048)  # many clients ask for the same
def parse_target(target: str) -> Target:
    """Parse the target of a request line. Raises InvalidRequest, RequestTooLarge."""
    if len(target) > _TARGET_MAX_CHARS:
        raise RequestTooLarge("target.chars", f"a path of more than {_TARGET_MAX_CHARS} characters")
    path, _, query = target.partition("?")
    if origin := _ORIGIN.match(path):  # the absolute form, which clients of proxies send
        path = path[origin.end() :]
    elif not path.startswith("/"):
        raise InvalidRequest("a path begins with /")
    parts = [_plain(part) for part in path.split("/") if part]
    return _parse(parts, query, is_folder=path.endswith("/"))


def _plain(part: str) -> str:
    """Undo percent-encoding. Raises InvalidRequest for what climbs like a path, or is no text."""
    try:
        # Behind the split, so that an encoded slash stays part of one name, and is refused.
        text = unquote_to_bytes(part).decode() if "%" in part else part
    except UnicodeDecodeError:
        raise InvalidRequest("a path that is not UTF-8") from None
    if text in {".", ".."} or "/" in text or "\\" in text:
        raise InvalidRequest("a path that climbs, or has an encoded slash or a backslash")
    if not text.isprintable():
        raise InvalidRequest("a path with a control character")
    return text


def _parse(parts: Sequence[str], query: str, *, is_folder: bool) -> Target:
    if parts == ["status"]:
        return Target(Kind.STATUS, ClientKind.BAZEL)
    # The first word that names a cache ends the instance, so no instance can have it in its name.
    for at, part in enumerate(parts):
        above, below = parts[:at], parts[at + 1 :]
        if part == "kv":
            return _key_value(above, below, is_folder=is_folder)
        if part == "gradle":
            return _entry(ClientKind.GRADLE, [*above, "gradle"], "gradle", below)
        if part == "v1" and below[:1] == ["cache"]:
            return _entry(ClientKind.NX, [*above, "nx"], "nx", below[1:])
        if part == "v8" and below[:1] == ["artifacts"]:
            return _turborepo(above, below[1:], query)
    return _content(parts)


def _content(parts: Sequence[str]) -> Target:
    *above, last = parts or [""]
    function = DigestFunction.SHA256
    if above[-1:] == [_BLAKE3]:
        function = DigestFunction.BLAKE3
        above.pop()
    kind = {"cas": Kind.BLOB, "ac": Kind.RESULT}.get(above[-1] if above else "")
    if kind is None:
        raise InvalidRequest(
            "the paths are [INSTANCE/]cas/HASH, [INSTANCE/]ac/HASH, kv/NAME/KEY, gradle/KEY, "
            "v8/artifacts/KEY, v1/cache/KEY and status"
        )
    # The path has no size; SizesByHash or the catalogue add it.
    named = parse_digest(last, "0", function)
    instance = check_instance("/".join(above[:-1]))
    key = last if function is DigestFunction.SHA256 else f"{_BLAKE3}/{last}"
    return Target(kind, ClientKind.BAZEL, instance, "ac", key, named)


def _key_value(above: Sequence[str], below: Sequence[str], *, is_folder: bool) -> Target:
    if not below:
        if is_folder:  # the one above all namespaces, which sccache with a key prefix asks for
            return Target(Kind.FOLDER, ClientKind.KEY_VALUE, check_instance("/".join(above)))
        raise InvalidRequest("keys are at kv/NAME/KEY: the name of a namespace is missing")
    name, *key = below
    instance = check_instance("/".join([*above, "kv", name]))
    text = "/".join(key)
    if len(text.encode()) > KEY_MAX_BYTES:
        raise RequestTooLarge("key.bytes", f"a key of more than {KEY_MAX_BYTES} bytes")
    kind = Kind.FOLDER if is_folder or not key else Kind.ENTRY
    return Target(kind, ClientKind.KEY_VALUE, instance, f"kv/{name}", text)


def _entry(client: ClientKind, instance: list[str], namespace: str, key: Sequence[str]) -> Target:
    if len(key) != 1 or not _PLAIN_KEY.fullmatch(key[0]):
        raise InvalidRequest("a key is one part of 1 to 128 letters, digits, ., _ and -")
    return Target(Kind.ENTRY, client, check_instance("/".join(instance)), namespace, key[0])


def _turborepo(above: Sequence[str], below: Sequence[str], query: str) -> Target:
    fields = _fields(query)
    team = fields.get("teamId") or fields.get("slug")
    if team is not None and ("/" in team or not team.isprintable()):
        raise InvalidRequest("a team with a slash or a control character in its name")
    namespace = f"turborepo/{team}" if team else "turborepo"
    instance = [*above, namespace]
    kind = {(): Kind.TURBOREPO_QUERY, ("events",): Kind.TURBOREPO_EVENTS,
            ("status",): Kind.TURBOREPO_STATUS}.get(tuple(below))  # fmt: skip
    if kind is None:
        return _entry(ClientKind.TURBOREPO, instance, namespace, below)
    where = check_instance("/".join(instance))
    return Target(kind, ClientKind.TURBOREPO, where, namespace)


def _fields(query: str) -> Mapping[str, str]:
    try:
        found = parse_qsl(query, max_num_fields=_QUERY_FIELDS_MAX, errors="strict")
    except ValueError:  # also for bytes that are not UTF-8
        raise InvalidRequest("a query that cannot be read") from None
    return dict(found)
