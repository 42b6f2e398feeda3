"""The blobs that an action result in JSON names. moon keeps such results under /ac.

The node keeps them as they are. But whoever has read one asks for its blobs by hash alone, and
their sizes are in it.
"""

from __future__ import annotations

import re
from itertools import islice

from federation.core.digest import Digest, DigestFunction

# A Digest message as protobuf writes it in JSON: fields in their order, 64-bit numbers as strings.
_DIGEST = re.compile(
    rb'"hash"\s*:\s*"([0-9a-f]{64})"\s*,\s*"size(?:B|_b)ytes"\s*:\s*"?([0-9]{1,18})(?![0-9])'
)


def digests_in_json(
    body: bytes, most: int, function: DigestFunction = DigestFunction.SHA256
) -> list[Digest]:
    """Return the digests in a body, at most so many, in their order and as often as they occur."""
    return [
        Digest(bytes.fromhex(found[1].decode()), int(found[2]), function)
        for found in islice(_DIGEST.finditer(body), most)
    ]
