"""The names of a blob's objects in the bucket, and the parts that the blob is cut into. Pure.

`ab/HASH-SIZE-ATTEMPT-NNNNN`, where ab begins the hash, BLAKE3 hashes have the suffix .blake3, and
ATTEMPT is random for each upload. No two uploads share a name, so no late delete can hit a new
upload, and no conditional put is needed: servers differ in those. A part is an object of its own
because S3's multipart uploads cannot be listed or aborted through obstore after a crash.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from federation.core.digest import IMPLEMENTATIONS, Digest
from federation.storage.shared.catalogue.rows import BlobObject

PART_BYTES = 8 * 1024 * 1024
SLICES = 256  # prefixes that a bucket is listed by

_FUNCTIONS = {each.suffix: function for function, each in IMPLEMENTATIONS.items()}
_SUFFIXES = "|".join(re.escape(suffix) for suffix in _FUNCTIONS)
_NAME = re.compile(
    rf"([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})({_SUFFIXES})-([0-9]{{1,19}})-([0-9a-f]{{16}})-([0-9]{{5}})"
)


class ObjectName(NamedTuple):
    """The name of one part, taken apart."""

    upload: BlobObject
    part: int


def base_name(upload: BlobObject) -> str:
    """Return what the names of an upload's objects begin with."""
    digest = upload.digest
    name = digest.hash_hex + IMPLEMENTATIONS[digest.function].suffix
    return f"{name[:2]}/{name}-{digest.size_bytes}-{upload.attempt.hex()}"


def part_name(upload: BlobObject, part: int) -> str:
    """Return the name of one object; part counts from 0."""
    return f"{base_name(upload)}-{part:05}"


def part_count(size_bytes: int) -> int:
    """Return how many parts a blob has."""
    return -(-size_bytes // PART_BYTES)


def part_bytes(size_bytes: int, part: int) -> int:
    """Return the size of one part; only the last one is smaller than PART_BYTES."""
    return min(PART_BYTES, size_bytes - part * PART_BYTES)


def part_names(upload: BlobObject) -> list[str]:
    """Return the names of all objects of an upload."""
    base = base_name(upload)
    return [f"{base}-{part:05}" for part in range(part_count(upload.digest.size_bytes))]


def parse(name: str) -> ObjectName | None:
    """Take an object's name apart; None: it is not the name of a blob's part."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    _, raw_hash, suffix, size, attempt, part = match.groups()
    digest = Digest(bytes.fromhex(raw_hash), int(size), _FUNCTIONS[suffix])
    return ObjectName(BlobObject(digest, bytes.fromhex(attempt)), int(part))
