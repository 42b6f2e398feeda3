"""The sizes of blobs by their hashes, as far as they were learnt.

A server of the Remote Execution API knows a blob by hash and size together, and `/cas/HASH` has no
size. Whoever asks for a blob that is not here has asked for the action result or tree that names it
before; the sizes in those are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from federation.core.digest import Digest

_KEPT = 65_536  # about 10 MB


class SizesByHash:
    """The sizes that were learnt last. One that a client claimed may be wrong."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._sizes: OrderedDict[tuple[bytes, int], int] = OrderedDict()

    def __repr__(self) -> str:
        return f"<SizesByHash {len(self._sizes)}>"

    def learn(self, digests: Iterable[Digest]) -> None:
        """Remember the sizes of these blobs."""
        for raw_hash, size_bytes, function in digests:
            key = (raw_hash, int(function))
            self._sizes[key] = size_bytes
            self._sizes.move_to_end(key)
        while len(self._sizes) > self._kept:
            self._sizes.popitem(last=False)

    def sized(self, named: Digest) -> Digest | None:
        """Return the digest with the size that was learnt; None: none was."""
        size_bytes = self._sizes.get((named.hash, int(named.function)))
        return None if size_bytes is None else named._replace(size_bytes=size_bytes)
