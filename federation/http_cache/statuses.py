"""From the status of a call to one of HTTP that does the client no harm.

Clients build without a cache when they are told so in the right words; in others they turn the
cache off, or fail the build. A read that cannot be answered is a miss for all of them. Each client
has its own word for a write that this node has no room or time for.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from federation.http_cache.target import ClientKind
from federation.services.status_codes import StatusCode

_CALLERS_OWN: Mapping[StatusCode, int] = {  # trouble that only the caller can end
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.OUT_OF_RANGE: 416,
}
_NO_ROOM: Mapping[ClientKind, int] = {
    ClientKind.NX: 403,  # it tries six times and fails the build after any other but 409
    ClientKind.GRADLE: 413,  # after any other it does without the cache for the rest of the build
}
_TOO_LARGE = {ClientKind.NX: 403}


def read_status(code: StatusCode, *, is_probe: bool = False) -> int:
    """Return the status of a GET, HEAD or the like that did not succeed: mostly a miss.

    is_probe: see Target. After any other status sccache does not start, and each compilation fails.
    """
    return 404 if is_probe else _CALLERS_OWN.get(code, 404)


def write_status(code: StatusCode, client: ClientKind, *, too_large: bool = False) -> int:
    """Return the status of a write that did not succeed."""
    if too_large:
        return _TOO_LARGE.get(client, 413)
    if code is StatusCode.NOT_FOUND:
        return 404
    own = _CALLERS_OWN.get(code)
    return own if own is not None else _NO_ROOM.get(client, 503)


def phrase(status: int) -> str:
    """Return the words that a status line has."""
    return HTTPStatus(status).phrase
