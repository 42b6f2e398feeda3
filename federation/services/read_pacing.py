"""How large the chunks of one read are, within what all readers may hold together."""

from __future__ import annotations

from typing import NamedTuple

from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.wire.chunk_sizer import LARGE_BYTES, SMALL_BYTES, ChunkSizer

_HELD_CHUNKS = 3  # of one chunk: as it was read, as a message, and inside the transport
# The windows of a connection take megabytes at once from a reader that is slow behind them. Until
# a reader has taken more than those hold, it shares this with all others in the same state, and
# two hundred slow ones together cost no more than it.
_ON_TRIAL_BYTES = 16 * 2**20
_PROVEN_BYTES = 32 * 2**20


class Budgets(NamedTuple):
    """The budgets for large chunks: of readers not yet known to be fast, and of fast ones."""

    on_trial: MemoryBudget
    proven: MemoryBudget

    @classmethod
    def within(cls, whole: MemoryBudget) -> Budgets:
        """Return a small part of the whole for those on trial, and all of it for the others."""
        return cls(MemoryBudget(_ON_TRIAL_BYTES, part_of=whole), whole)


class ReadPacing:
    """One reader's chunk size, and its share of a budget for more than small chunks."""

    def __init__(self, clock: Clock, budgets: Budgets, size_bytes: int) -> None:
        self._clock = clock
        self._budgets = budgets
        self._size_bytes = size_bytes
        self._sizer = ChunkSizer.for_read(size_bytes)
        # A read of one chunk ends before anything can be measured.
        self._budget = budgets.proven if size_bytes <= LARGE_BYTES else budgets.on_trial
        self._taken_bytes = 0
        self._sent_bytes = 0
        self._begun_s = 0.0

    def next_bytes(self) -> int:
        """See Store.open_read."""
        wanted = min(self._sizer.chunk_bytes, self._size_bytes)
        if wanted <= SMALL_BYTES:
            self.close()
            return SMALL_BYTES
        if self._sent_bytes >= _PROVEN_BYTES and self._budget is self._budgets.on_trial:
            self.close()
            self._budget = self._budgets.proven
        more = _HELD_CHUNKS * wanted - self._taken_bytes
        if more > 0:
            if not self._budget.try_acquire(more):
                return max(SMALL_BYTES, self._taken_bytes // _HELD_CHUNKS)
            self._taken_bytes += more
        return wanted

    @property
    def speed_bytes(self) -> int:
        """How much is sent in one go of what takes no memory here."""
        return min(self._sizer.chunk_bytes, self._size_bytes)

    def begin(self) -> None:
        """A chunk is handed to the transport."""
        self._begun_s = self._clock.monotonic_s()

    def sent(self, size_bytes: int) -> None:
        """The reader took it."""
        self._sent_bytes += size_bytes
        self._sizer.wrote(size_bytes, self._clock.monotonic_s() - self._begun_s)

    def close(self) -> None:
        """Release what was acquired from the budget."""
        self._budget.release(self._taken_bytes)
        self._taken_bytes = 0
