"""What a credential helper prints: the headers for the calls to a server, and until when.

The format is that of github.com/EngFlow/credential-helper-spec (GetCredentialsResponse).
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, NamedTuple

from federation.core.errors import FederationError

_HEADERS_MAX_BYTES = 8 * 1024  # servers refuse more than that in a call
_NAME = re.compile(r"[0-9a-z_.-]{1,200}")
# What gRPC, HTTP/2 or this node set themselves; -bin values would have to be bytes.
_NOT_TAKEN = re.compile(
    r"grpc-.*|federation-.*|.*-bin|te|host|user-agent|connection|content-.*|transfer-encoding"
)


class HelperFailed(FederationError):
    """A credential helper gave no headers; the message repeats nothing that it printed."""


class HelperAnswer(NamedTuple):
    """The headers for calls to one server."""

    headers: list[tuple[str, str]]
    expires_s: float | None  # wall clock; None: the helper does not say

    def __repr__(self) -> str:
        return f"<HelperAnswer {len(self.headers)} headers>"


def parse_answer(data: bytes) -> HelperAnswer:
    """Read what a helper has printed. Raises HelperFailed."""
    try:
        facts = json.loads(data)
    # Deeply nested JSON from a broken helper must not end the node's task.
    except (ValueError, RecursionError):
        raise HelperFailed("prints no JSON") from None
    if not isinstance(facts, dict) or not isinstance(found := facts.get("headers", {}), dict):
        raise HelperFailed("prints no mapping with headers")
    headers = [
        (_checked_name(name), _checked_value(value))
        for name, values in found.items()
        for value in _as_list(values)
    ]
    if sum(len(name) + len(value) for name, value in headers) > _HEADERS_MAX_BYTES:
        raise HelperFailed(f"gives headers of more than {_HEADERS_MAX_BYTES} bytes")
    return HelperAnswer(headers, _expires_s(facts.get("expires")))


def _as_list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise HelperFailed("gives a header whose values are no list")
    return values


def _checked_name(name: str) -> str:
    lower = name.lower()
    if not _NAME.fullmatch(lower) or _NOT_TAKEN.fullmatch(lower):
        raise HelperFailed("gives a header of a name that calls cannot have")
    return lower


def _checked_value(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise HelperFailed("gives a header whose value is not printable ASCII text")
    return value


def _expires_s(text: Any) -> float | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise HelperFailed("gives a date in expires that is not as in RFC 3339") from None
    # Read as local time it would be wrong by hours, and calls would fail with old headers.
    if found.tzinfo is None:
        raise HelperFailed("gives a date in expires without a time zone")
    return found.timestamp()
