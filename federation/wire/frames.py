"""Writing a message's thousands of digests at once, without an object or a call for each field.

All that an item has beside its hash depends on the blob's size, and sizes repeat: it is written
once for each, and all hashes are spelt in one go. That takes a third of the time that one field
after the other takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from federation.core.digest import HASH_BYTES, Digest
from federation.wire.digests import digest_field

Frame = tuple[bytes, bytes]  # what stands before a hash, and behind it


def cut_frame(item: bytes) -> Frame:
    """Return the frame of an item that was written for blank(...)."""
    before, behind = item.split(b"0" * 2 * HASH_BYTES)
    return before, behind


def blank(size_bytes: int) -> Digest:
    """Return a digest to write an item with, of which then the frame is taken."""
    return Digest(bytes(HASH_BYTES), size_bytes)


def framed(digests: Sequence[Digest], frame: Callable[[int], Frame]) -> list[bytes]:
    """Return each digest's hash in hex digits between what frame() returns for its size."""
    text = b"".join([raw for raw, _, _ in digests]).hex(" ", HASH_BYTES).encode()
    frames = [frame(size_bytes) for _, size_bytes, _ in digests]
    return [
        before + spelt + behind
        for spelt, (before, behind) in zip(text.split(), frames, strict=True)
    ]


def digest_list(digests: Sequence[Digest]) -> bytes:
    """Return them as field 2 of a message: there all messages with a list of digests have it."""
    return b"".join(framed(digests, _listed))


@lru_cache(maxsize=4096)
def _listed(size_bytes: int) -> Frame:
    return cut_frame(digest_field(2, blank(size_bytes)))
