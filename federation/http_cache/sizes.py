"""The sizes of blobs by their hashes, as far as they were learnt.

A server of the Remote Execution API knows a blob by hash and size together, and `/cas/HASH` has no
size. Whoever asks for a blob that is not here has asked for the action result or tree that names it
before; the sizes in those are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from federation.closure.names import Names, Shape, Structure
from federation.core.digest import Digest

_KEPT = 65_536  # about 10 MB
LEARNT_MAX = 20_000  # from one message
_SHAPES_PART = 8  # so many times fewer of the structures among them


class SizesByHash:
    """The sizes that were learnt last. One that a client claimed may be wrong."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._sizes: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._shapes: OrderedDict[Digest, Shape] = OrderedDict()

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

    def learn_structures(self, structures: Iterable[Structure]) -> None:
        """Remember the sizes of these, and that they name others: see shape_of()."""
        for shape, digest in structures:
            self._shapes[digest] = shape
            self._shapes.move_to_end(digest)
            self.learn([digest])
        while len(self._shapes) > self._kept // _SHAPES_PART:
            self._shapes.popitem(last=False)

    def shape_of(self, digest: Digest) -> Shape | None:
        """Return how to read a blob that names others; None: it is not known to be one."""
        return self._shapes.get(digest)

    def sized(self, named: Digest) -> Digest | None:
        """Return the digest with the size that was learnt; None: none was."""
        size_bytes = self._sizes.get((named.hash, int(named.function)))
        return None if size_bytes is None else named._replace(size_bytes=size_bytes)


def learn_from(parts: Iterable[Names], sizes: SizesByHash) -> None:
    """Learn the sizes of what a message names. Raises InvalidRequest as the parts do."""
    left = LEARNT_MAX
    for names in parts:
        sizes.learn(names.blobs[:left])
        sizes.learn_structures(names.structures[:left])
        left -= len(names.blobs) + len(names.structures)
        if left <= 0:
            return
