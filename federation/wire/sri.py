"""Subresource Integrity text (W3C SRI), the value of the checksum.sri qualifier.

One or more "ALGORITHM-BASE64", separated by spaces, each optionally followed by "?options". Only
the strongest of the algorithms counts, and matching any one of its hashes is enough.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

from federation.core.errors import InvalidRequest

_HASH_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}  # weakest first
_STRENGTH = list(_HASH_BYTES)


class Integrity(NamedTuple):
    """An algorithm by hashlib's name, and the hashes that content may have under it."""

    algorithm: str
    hashes: frozenset[bytes]


def read_integrity(text: str) -> Integrity:
    """Parse SRI text. Raises InvalidRequest when any part of it is malformed or unknown."""
    found = [_read_one(part) for part in text.split()]
    if not found:
        raise InvalidRequest("checksum.sri is empty")
    # W3C SRI: the weaker ones are for readers that do not know this one.
    strongest = max((algorithm for algorithm, _ in found), key=_STRENGTH.index)
    return Integrity(
        strongest, frozenset(raw for algorithm, raw in found if algorithm == strongest)
    )


def _read_one(part: str) -> tuple[str, bytes]:
    algorithm, _, rest = part.partition("-")
    if algorithm not in _HASH_BYTES:
        raise InvalidRequest(f"checksum.sri: use one of {', '.join(_STRENGTH)}")
    try:
        # Behind "?" are options, which the specification reserves and readers ignore.
        raw = base64.b64decode(rest.partition("?")[0], validate=True)
    except ValueError:
        raw = b""
    if len(raw) != _HASH_BYTES[algorithm]:
        wanted = _HASH_BYTES[algorithm]
        raise InvalidRequest(f"checksum.sri: {algorithm} needs {wanted} bytes in base64")
    return algorithm, raw
