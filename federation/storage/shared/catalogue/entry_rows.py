"""Index entries as the database has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from federation.core.index import Entry, EntryKey, Stamp
from federation.core.provenance import Source
from federation.storage.shared.catalogue import arrays

COLUMNS = "value, label, stored, expires, source, origin, ticks, node"  # as entry_of takes them


class StoredEntry(NamedTuple):
    """An entry and the number of its newest row in the change log."""

    seq: int
    entry: Entry


def key_arrays(
    keys: Sequence[EntryKey],
) -> tuple[arrays.NumberArray, arrays.BytesArray, arrays.BytesArray]:
    """Return the kinds, instances and names of keys."""
    return (
        arrays.numbers([int(key.kind) for key in keys]),
        arrays.blobs([key.instance.encode() for key in keys]),
        arrays.blobs([key.name for key in keys]),
    )


def entry_of(key: EntryKey, columns: Sequence[Any]) -> Entry:
    """Make an entry of its key and the values of COLUMNS."""
    value, label, stored_s, expires_s, source, origin, ticks, node = columns
    expires_at_s = None if math.isinf(expires_s) else expires_s
    stamp = Stamp(ticks, node)
    return Entry(key, value, label.decode(), stored_s, expires_at_s, Source(source), origin, stamp)


def expiry_of(entry: Entry) -> float:
    """Return when an entry expires, as the database has it: infinity for never."""
    return math.inf if entry.expires_at_s is None else entry.expires_at_s
