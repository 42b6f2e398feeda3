"""How much of the disk objects take: the quota limits what `du` reports of the data directory.

The catalogue is measured in pages, so that everything with rows in it counts: indexes, the change
log, parked objects. Files count in blocks. The costs of single objects are estimates, used to
choose what to evict and to follow the growth within a transaction; the next transaction measures
again.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from federation.storage.catalogue.schema import PAGE_BYTES, can_shrink
from federation.storage.catalogue.transaction import Totals, Transaction

BLOCK_BYTES = 4096
ROW_BYTES = 256  # of a blob: its row, its index entries, its row of the change log
ENTRY_BYTES = 240  # of an index entry, likewise
LOG_ROW_BYTES = 112
_EMPTY_PAGES = 41  # of a catalogue without objects; part of the overhead
_FOLDERS_BYTES = 258 * BLOCK_BYTES
_OVERHEAD_SHARE = 10  # the overhead counts for at most 1/10 of the quota
_SPARE_PAGES = 256
_SPARE_SHARE = 64  # 1/64 of the quota
_GIVEN_BACK_PAGES = 128  # in one transaction, so that uploads do not wait long for the write lock
# SQLite's file format, for pages of this size: a record up to _LOCAL_MAX_BYTES shares a page with
# others. A longer record fills overflow pages of its own, and only the remainder shares a page.
_PER_PAGE_BYTES = PAGE_BYTES - 8
_LOCAL_MAX_BYTES = PAGE_BYTES - 35
_LOCAL_MIN_BYTES = (PAGE_BYTES - 12) * 32 // 255 - 23
_SPILL_BYTES = PAGE_BYTES - 4
_RECORD_BYTES = 4  # header of a record
_CELL_BYTES = 8  # header of a cell, which holds a record
_SHORTEST_BYTES = PAGE_BYTES // (_PER_PAGE_BYTES // (_LOCAL_MIN_BYTES + _CELL_BYTES))

# The same formulas as kept_inline and in_blocks, in SQL over rows of the table blob.
_RECORD = f"(size + {_RECORD_BYTES})"
_REST = f"({_LOCAL_MIN_BYTES} + ({_RECORD} - {_LOCAL_MIN_BYTES}) % {_SPILL_BYTES})"
COST = (
    f"(CASE WHEN NOT inline THEN (size + {BLOCK_BYTES - 1}) / {BLOCK_BYTES} * {BLOCK_BYTES} "
    f"WHEN {_RECORD} <= {_LOCAL_MAX_BYTES} "
    f"THEN {PAGE_BYTES} / ({_PER_PAGE_BYTES} / ({_RECORD} + {_CELL_BYTES})) "
    f"WHEN {_REST} > {_LOCAL_MAX_BYTES} "
    f"THEN ({_RECORD} - {_LOCAL_MIN_BYTES} + {_SPILL_BYTES - 1}) / {_SPILL_BYTES} * {PAGE_BYTES} "
    f"+ {_SHORTEST_BYTES} "
    f"ELSE {_RECORD} / {_SPILL_BYTES} * {PAGE_BYTES} "
    f"+ {PAGE_BYTES} / ({_PER_PAGE_BYTES} / ({_REST} + {_CELL_BYTES})) END + {ROW_BYTES})"
)

ENTRY_SIZE = "length(value) + length(CAST(label AS BLOB))"  # what cost_of_entry takes, in SQL


class Footprint(NamedTuple):
    """How much of the disk is taken, in bytes."""

    held: int  # the catalogue's pages in use, and blob files
    free: int  # free pages of the catalogue's file


def in_blocks(size_bytes: int) -> int:
    """Return how many bytes of the disk a file of this size takes."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@functools.lru_cache(maxsize=2**15)
def kept_inline(size_bytes: int) -> int:
    """Return how many bytes a value of this size takes in the catalogue, wasted space included."""
    record = size_bytes + _RECORD_BYTES
    if record <= _LOCAL_MAX_BYTES:
        return PAGE_BYTES // (_PER_PAGE_BYTES // (record + _CELL_BYTES))
    rest = _LOCAL_MIN_BYTES + (record - _LOCAL_MIN_BYTES) % _SPILL_BYTES
    if rest > _LOCAL_MAX_BYTES:
        spilt = -(-(record - _LOCAL_MIN_BYTES) // _SPILL_BYTES)
        return spilt * PAGE_BYTES + _SHORTEST_BYTES
    local = PAGE_BYTES // (_PER_PAGE_BYTES // (rest + _CELL_BYTES))
    return record // _SPILL_BYTES * PAGE_BYTES + local


def cost_of_blob(size_bytes: int, *, inline: bool) -> int:
    """Return how many bytes of the quota a blob takes, with all its rows."""
    return ROW_BYTES + (kept_inline(size_bytes) if inline else in_blocks(size_bytes))


def cost_of_entry(size_bytes: int) -> int:
    """Return how many bytes an index entry takes whose value and label have this size together."""
    return ENTRY_BYTES + (size_bytes if size_bytes < 1000 else kept_inline(size_bytes))


def measure(connection: apsw.Connection, totals: Totals) -> Footprint:
    """Return what is taken now, including what an open transaction has written.

    The first few objects fit the pages of an empty catalogue; they count with their estimated cost.
    """
    pages, free = _number(connection, "page_count"), _number(connection, "freelist_count")
    taken = max(0, pages - free - _EMPTY_PAGES) * PAGE_BYTES + totals.files_bytes
    counted = totals.size_bytes + ROW_BYTES * totals.blobs + ENTRY_BYTES * totals.entries
    few = min(counted, totals.files_bytes + _EMPTY_PAGES * PAGE_BYTES)
    return Footprint(max(taken, few), free * PAGE_BYTES)


def _number(connection: apsw.Connection, pragma: str) -> int:
    row: Any = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(row[0])


def overhead(root: Path, quarantined_bytes: int) -> int:
    """Return the bytes that the data directory takes beside its objects.

    Raises OSError; a file that does not exist takes nothing.
    """
    found = _FOLDERS_BYTES + _EMPTY_PAGES * PAGE_BYTES + quarantined_bytes
    # What may grow and holds no objects; the other files are of a fixed size, or empty.
    for name in ("catalogue.sqlite-wal", "catalogue.sqlite-shm", "reserve", "epoch"):
        try:
            found += in_blocks((root / name).stat().st_size)
        except FileNotFoundError:
            continue
    return found


def bounded_overhead(quota_bytes: int, overhead_bytes: int) -> int:
    """Return the overhead that counts against a quota: at most 1/10, so a tiny quota is usable."""
    return min(overhead_bytes, quota_bytes // _OVERHEAD_SHARE)


def spare_pages(quota_bytes: int) -> int:
    """Return how many free pages a catalogue keeps for new rows."""
    return max(_SPARE_PAGES, quota_bytes // _SPARE_SHARE // PAGE_BYTES)


def free_to_give(connection: apsw.Connection) -> int:
    """Return how many pages can be given back; 0 if the catalogue has no auto_vacuum."""
    return _number(connection, "freelist_count") if can_shrink(connection) else 0


def give_back(transaction: Transaction) -> None:
    """Give some free pages back to the disk: pages from the file's end are moved into them."""
    transaction.connection.execute(f"PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES})").fetchall()
