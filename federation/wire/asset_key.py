"""The names of assets: when two Remote Asset requests are for the same one; known qualifiers.

An asset's name in the index is a SHA-256 over its digest function, URI and qualifiers, each text
with its length before it and the qualifiers sorted, so that no two different requests share a name
and order does not matter. Qualifiers with credentials are not part of the name, as they identify
the client and not the asset. They are also left out of everything that is stored or logged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote

from federation.core.digest import DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.wanted import URI_MAX_BYTES

CHECKSUM = "checksum.sri"
URIS_MAX = 1000
QUALIFIERS_MAX = 100
QUALIFIER_MAX_BYTES = 8 * 1024  # name and value together

_KNOWN = frozenset({"resource_type", CHECKSUM, "directory", "vcs.branch", "vcs.commit"})
_KNOWN_PREFIXES = ("bazel.", "http_header:", "http_header_url:")
_SECRET_PREFIXES = ("bazel.auth_headers", "http_header:", "http_header_url:")
_VERSION = b"asset 1"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class NameAndValue(Protocol):
    """The fields of a Qualifier message."""

    @property
    def name(self) -> str:
        """What it sub-specifies."""
        ...

    @property
    def value(self) -> str:
        """How."""
        ...


def is_secret(qualifier_name: str) -> bool:
    """Return whether this qualifier's value is a credential."""
    return qualifier_name.startswith(_SECRET_PREFIXES)


def check_uris(uris: Sequence[str]) -> None:
    """Raise InvalidRequest unless these are between 1 and URIS_MAX usable URIs."""
    if not uris:
        raise InvalidRequest("no URI: give at least one in uris")
    if len(uris) > URIS_MAX:
        raise InvalidRequest(f"{len(uris)} URIs; at most {URIS_MAX} are taken in one request")
    for uri in uris:
        if not uri:
            raise InvalidRequest("an empty URI")
        if len(uri.encode()) > URI_MAX_BYTES:
            raise InvalidRequest(f"a URI is longer than {URI_MAX_BYTES} bytes")
        # URIs get into logs and lists with a line for each.
        if _CONTROL.search(uri):
            raise InvalidRequest("a URI has control characters")


def qualifiers_of(messages: Iterable[NameAndValue]) -> dict[str, str]:
    """Return the qualifiers by name, without the secret ones.

    Raises InvalidRequest for a repeated name, an unknown one, or too much of anything. Messages
    never quote a value, which may be a secret under a mistyped name.
    """
    seen: dict[str, str] = {}
    for message in messages:
        name = message.name
        if len(seen) == QUALIFIERS_MAX:
            raise InvalidRequest(f"more than {QUALIFIERS_MAX} qualifiers")
        if len(name.encode()) + len(message.value.encode()) > QUALIFIER_MAX_BYTES:
            raise InvalidRequest(f"a qualifier is longer than {QUALIFIER_MAX_BYTES} bytes")
        # The specification leaves open which of the two would count.
        if name in seen:
            raise InvalidRequest(f"qualifier {name} is repeated")
        # The specification asks for it: a condition that is ignored may give the wrong asset.
        if name not in _KNOWN and not name.startswith(_KNOWN_PREFIXES):
            known = ", ".join((*sorted(_KNOWN), *(f"{prefix}*" for prefix in _KNOWN_PREFIXES)))
            raise InvalidRequest(f"qualifier {name} is not supported; supported are {known}")
        seen[name] = message.value
    return {name: value for name, value in seen.items() if not is_secret(name)}


def asset_names(
    function: DigestFunction, uris: Iterable[str], qualifiers: Mapping[str, str]
) -> list[bytes]:
    """Return for each URI the 32 bytes that name the asset within its kind and instance."""
    qualified = hashlib.sha256()
    for name, value in sorted(qualifiers.items()):
        qualified.update(_sized(name) + _sized(value))
    # The version makes room for another scheme, whose names would not meet these.
    start = _VERSION + bytes((function,)) + qualified.digest()
    return [hashlib.sha256(start + _sized(uri)).digest() for uri in uris]


def _sized(text: str) -> bytes:
    encoded = text.encode()
    # The length first: "ab" and "c" must not be the same as "a" and "bc".
    return len(encoded).to_bytes(8, "big") + encoded


REFERENCE_KEY_MAX_BYTES = 4096
_URN = "urn:fdc:buildstream.build:2020:v1:"


def uri_of(key: str) -> str:
    """Return the asset URI of a key of BuildStream 1's ReferenceStorage: PROJECT/ELEMENT/CACHE-KEY.

    BuildStream 1.6 uses the same URI for an artifact where a server has Remote Asset, so both
    protocols share one namespace: each client finds what the other pushed.

    Raises InvalidRequest for a key that cannot be right. The old server made a file path of it, so
    no client uses one that is absolute or has ".." in it.
    """
    if not key:
        raise InvalidRequest("an empty key")
    if len(key) > REFERENCE_KEY_MAX_BYTES or len(key.encode()) > REFERENCE_KEY_MAX_BYTES:
        raise InvalidRequest(f"a key is longer than {REFERENCE_KEY_MAX_BYTES} bytes")
    plain = unquote(key)
    for text in (key, plain):
        if not text.isprintable() or "\\" in text:
            raise InvalidRequest("a key has control characters or a backslash")
        if any(part in {"", ".", ".."} for part in text.split("/")):
            raise InvalidRequest("a key with an empty part, or one that climbs like a path")
    return _URN + key
