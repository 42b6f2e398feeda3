"""Closures that were whole when they were last checked, within a bound of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable

from federation.core.clock import Clock
from federation.core.digest import HASH_BYTES, Digest, DigestFunction
from federation.core.store import HeldWatch

ROOM_BYTES = 16 * 2**20
_ITEM_BYTES = 600  # overhead of a closure
_AGE_MAX_S = 600.0  # then it is walked again: structures are read and verified then
_PACKED_BYTES = 1 + 8 + HASH_BYTES
_FUNCTIONS = {int(function): function for function in DigestFunction}


class WholeClosure:
    """One of them: what it names, and the store's watch over that."""

    __slots__ = ("_packed", "bounds", "walked_s", "watch")

    def __init__(
        self,
        watch: HeldWatch,
        bounds: tuple[int, int],
        walked_s: float,
        digests: Iterable[Digest] | None,
    ) -> None:
        """digests: None if there are too many."""
        self.watch = watch
        self.bounds = bounds
        self.walked_s = walked_s
        # One string takes a fifth of the memory of as many digests.
        self._packed = None if digests is None else b"".join(map(_packed, digests))

    def __repr__(self) -> str:
        return f"<WholeClosure of {len(self._packed or b'')} bytes>"

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return _ITEM_BYTES + len(self._packed or b"")

    @property
    def has_digests(self) -> bool:
        """Whether it is known what it names."""
        return self._packed is not None

    def digests(self) -> Collection[Digest]:
        """Return all that it names."""
        packed = self._packed or b""
        return {_unpacked(packed, at) for at in range(0, len(packed), _PACKED_BYTES)}

    def is_certain(self) -> bool:
        """Return whether all is held for certain, without a look-up; it is then leased."""
        return self.watch.renew(None if self._packed is None else self.digests)


class WholeClosures:
    """The most recently used of them."""

    DIGESTS_MAX = 2000  # as many as one look-up takes; of a larger closure none are kept

    def __init__(self, clock: Clock, room_bytes: int = ROOM_BYTES) -> None:
        self._clock = clock
        self._room_bytes = room_bytes
        self._closures: OrderedDict[bytes, WholeClosure] = OrderedDict()  # last used: at the end
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<WholeClosures {len(self)} of {self.size_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._closures)

    def get(self, key: bytes, bounds: tuple[int, int]) -> WholeClosure | None:
        """Return a closure that was walked under these limits, and not too long ago."""
        whole = self._closures.get(key)
        if whole is None:
            return None
        age_s = self._clock.monotonic_s() - whole.walked_s
        # A closure that was within other limits is judged anew.
        if whole.bounds != bounds or age_s > _AGE_MAX_S:
            self._drop(key)
            return None
        self._closures.move_to_end(key)
        return whole

    def add(
        self,
        key: bytes,
        watch: HeldWatch,
        bounds: tuple[int, int],
        digests: Iterable[Digest] | None,
    ) -> None:
        """Remember a closure whose walk, which watch covers, has just ended."""
        self._drop(key)
        whole = WholeClosure(watch, bounds, self._clock.monotonic_s(), digests)
        self._closures[key] = whole
        self.size_bytes += whole.size_bytes
        # What was used longest ago goes first; it costs one walk to have it back.
        while self.size_bytes > self._room_bytes:
            self._drop(next(iter(self._closures)))

    def _drop(self, key: bytes) -> None:
        whole = self._closures.pop(key, None)
        if whole is not None:
            self.size_bytes -= whole.size_bytes


def _packed(digest: Digest) -> bytes:
    raw, size_bytes, function = digest
    return bytes((function,)) + size_bytes.to_bytes(8, "big") + raw


def _unpacked(packed: bytes, at: int) -> Digest:
    hash_at = at + 9
    size_bytes = int.from_bytes(packed[at + 1 : hash_at], "big")
    return Digest(packed[hash_at : at + _PACKED_BYTES], size_bytes, _FUNCTIONS[packed[at]])
