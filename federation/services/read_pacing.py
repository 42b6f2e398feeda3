"""How large the chunks of one read are, within what all readers may hold together."""

from __future__ import annotations

from typing import NamedTuple

from federation.core.clock import Clock
from federation.core.memory_budget import MemoryBudget
from federation.wire.chunk_sizer import SHORT_BYTES, SMALL_BYTES, ChunkSizer

_HELD_CHUNKS = 3  # of one chunk: as it was read, as a message, and inside the transport
# The windows of a connection take megabytes at once from a reader that is slow behind them. Until
# a long read has taken more than those hold, and again once it is slow, it shares this with all
# others in the same state, and two hundred slow ones together cost no more than it.
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
        self._budget = budgets.on_trial
        self._taken_bytes = 0  # from the budget
        self._sent_bytes = 0  # since the reader was slow
        self._begun_s = 0.0

    def next_bytes(self) -> int:
        """See Store.open_read."""
        self._choose_budget()
        wanted = min(self._sizer.chunk_bytes, self._size_bytes)
        while wanted > SMALL_BYTES and not self._hold(_HELD_CHUNKS * wanted):
            # Smaller chunks instead of a wait: others may keep the budget for long.
            wanted //= 2
        if wanted > SMALL_BYTES:
            return wanted
        self.close()
        return SMALL_BYTES

    def _choose_budget(self) -> None:
        # A short read ends before much can be measured, and holds what it has for as short a time.
        is_proven = self._size_bytes <= SHORT_BYTES or self._sent_bytes >= _PROVEN_BYTES
        budget = self._budgets.proven if is_proven else self._budgets.on_trial
        if budget is not self._budget:
            self.close()
            self._budget = budget

    def _hold(self, size_bytes: int) -> bool:
        """Have so much of the budget, not more; False: there is no room for it."""
        more_bytes = size_bytes - self._taken_bytes
        if more_bytes > 0 and not self._budget.try_acquire(more_bytes):
            return False
        if more_bytes < 0:
            self._budget.release(-more_bytes)
        self._taken_bytes = size_bytes
        return True

    @property
    def speed_bytes(self) -> int:
        """How much is sent in one go of what takes no memory here."""
        return min(self._sizer.chunk_bytes, self._size_bytes)

    def begin(self) -> None:
        """A chunk is handed to the transport."""
        self._begun_s = self._clock.monotonic_s()

    def sent(self, size_bytes: int) -> None:
        """The reader took it."""
        self._sizer.wrote(size_bytes, self._clock.monotonic_s() - self._begun_s)
        self._sent_bytes = 0 if self._sizer.is_slow else self._sent_bytes + size_bytes

    def close(self) -> None:
        """Release what was acquired from the budget."""
        self._budget.release(self._taken_bytes)
        self._taken_bytes = 0
