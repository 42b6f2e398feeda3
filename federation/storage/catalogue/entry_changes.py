"""Numbers the changes of index entries, so that caches of all processes know at once of each.

The number is kept twice: in the catalogue, where a reader finds it in the same snapshot as an
entry, and in shared memory, where looking at it costs a microsecond. A transaction that changes
entries announces the next number in shared memory before it commits. So while both numbers are
equal, what was read with this number is what the catalogue has now. A transaction that fails leaves
a number in shared memory that the catalogue does not have: nothing can be cached until the next
change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

import apsw

from federation.core.index import EntryKey
from federation.storage.catalogue.transaction import ENTRY_CHANGES, Transaction, get_meta, set_meta
from federation.storage.shared_memory import Epoch

_STEPS_MAX = 100
_KEYS_MAX = 500  # of one step; more are taken for any


class ChangeStep(NamedTuple):
    """One transaction of this process that changed entries."""

    before: int
    after: int
    keys: Collection[EntryKey] | None  # what it may have changed; None: anything


class EntryChanges:
    """The number, and what this process itself has changed."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._steps: deque[ChangeStep] = deque(maxlen=_STEPS_MAX)

    def __repr__(self) -> str:
        return f"<EntryChanges {self.value}>"

    @property
    def value(self) -> int:
        """The number of the last change that a process has announced; -1: it is not known."""
        return self._epoch.entry_changes

    def announce(self, transaction: Transaction) -> None:
        """Announce that the transaction, which commits next, changes entries. Raises OSError.

        Called in the writer's thread, under the write lock: no other process announces meanwhile.
        """
        before = self.value
        stored = get_meta(transaction.connection, ENTRY_CHANGES) or 0
        # Shared memory is ahead after a transaction that failed, and behind after a reboot.
        after = max(before, stored) + 1
        set_meta(transaction, ENTRY_CHANGES, after)
        keys: Collection[EntryKey] | None = transaction.changed_entries
        if transaction.changes_any_entry or len(transaction.changed_entries) > _KEYS_MAX:
            keys = None
        self._steps.append(ChangeStep(before, after, keys))  # first: who sees the number needs it
        self._epoch.set_entry_changes(after)

    def next_step(self) -> ChangeStep | None:
        """Take the oldest change of this process that was not taken yet; None: there is none."""
        try:
            return self._steps.popleft()
        except IndexError:
            return None


def settle(connection: apsw.Connection, epoch: Epoch) -> None:
    """Begin from what the catalogue has. Call it only while no other process is there."""
    epoch.set_entry_changes(get_meta(connection, ENTRY_CHANGES) or 0)
