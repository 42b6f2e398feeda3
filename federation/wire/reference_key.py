"""The keys of BuildStream 1's ReferenceStorage, and the asset URI that each one is.

BuildStream 1.6 names the same artifact through Remote Asset where a server has it, so both are one
namespace: what one client pushed, another finds whichever it speaks.
"""

from __future__ import annotations

from urllib.parse import unquote

from federation.core.errors import InvalidRequest

KEY_MAX_BYTES = 4096
_URN = "urn:fdc:buildstream.build:2020:v1:"


def uri_of(key: str) -> str:
    """Return the URI of a reference key such as PROJECT/ELEMENT/CACHE-KEY.

    Raises InvalidRequest for what could be no key: the old server made a path of it, so nobody has
    one that climbs or is absolute.
    """
    if not key:
        raise InvalidRequest("an empty key")
    if len(key) > KEY_MAX_BYTES or len(key.encode()) > KEY_MAX_BYTES:
        raise InvalidRequest(f"a key is longer than {KEY_MAX_BYTES} bytes")
    plain = unquote(key)
    for text in (key, plain):
        if not text.isprintable() or "\\" in text:
            raise InvalidRequest("a key has control characters or a backslash")
        if any(part in {"", ".", ".."} for part in text.split("/")):
            raise InvalidRequest("a key with an empty part, or one that climbs like a path")
    return _URN + key
