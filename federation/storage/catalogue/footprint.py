"""What objects take of the disk: the quota is about what `du` says of the data directory.

The catalogue is measured, in pages, so that whatever has rows in it counts: indexes, the change
log, what is parked. Files count in blocks. Costs of single objects are estimates, for choosing what
to evict and for what one transaction adds; each next one measures again.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from federation.storage.catalogue.schema import PAGE_BYTES, can_shrink
from federation.storage.catalogue.transaction import Totals, Transaction

BLOCK_BYTES = 4096
ROW_BYTES = 256  # of a blob: its row, its place in indexes, its row of the change log
ENTRY_BYTES = 240  # of an index entry, likewise
LOG_ROW_BYTES = 112
_EMPTY_PAGES = 32  # of a catalogue that holds nothing; part of the overhead
_FOLDERS_BYTES = 258 * BLOCK_BYTES
_OVERHEAD_SHARE = 10  # at most this part of the quota is taken for what holds nothing
_SPARE_PAGES = 256
_SPARE_SHARE = 64  # of the quota
_GIVEN_BACK_PAGES = 128  # in one transaction: uploads go in between
# Of SQLite's file format, for pages of this size: a record up to _LOCAL_MAX_BYTES lies in one page
# with others; of a longer one the rest fills pages of its own, and the remainder of that lies here.
_PER_PAGE_BYTES = PAGE_BYTES - 8
_LOCAL_MAX_BYTES = PAGE_BYTES - 35
_LOCAL_MIN_BYTES = (PAGE_BYTES - 12) * 32 // 255 - 23
_SPILL_BYTES = PAGE_BYTES - 4
_RECORD_BYTES = 4  # beside the value
_CELL_BYTES = 8  # beside the record
_SHORTEST_BYTES = PAGE_BYTES // (_PER_PAGE_BYTES // (_LOCAL_MIN_BYTES + _CELL_BYTES))

# The same as kept_inline and in_blocks, over rows of blob.
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


class Footprint(NamedTuple):
    """What is taken of the disk, in bytes."""

    held: int  # by all that is kept: the catalogue's pages in use, and blob files
    free: int  # of the catalogue's file, to be used again or given back


def in_blocks(size_bytes: int) -> int:
    """Return what a file of this size takes."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@functools.lru_cache(maxsize=2**15)
def kept_inline(size_bytes: int) -> int:
    """Return what bytes kept in the catalogue take there: few values fit a page without waste."""
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
    """Return what a blob takes, with all its rows."""
    return ROW_BYTES + (kept_inline(size_bytes) if inline else in_blocks(size_bytes))


def cost_of_entry(size_bytes: int) -> int:
    """Return what an index entry takes whose value and label have this size."""
    return ENTRY_BYTES + (size_bytes if size_bytes < 1000 else kept_inline(size_bytes))


def measure(connection: apsw.Connection, totals: Totals) -> Footprint:
    """Return what is taken now, what an open transaction has written included.

    The pages of an empty catalogue hold the first few objects, which count with what they cost.
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
    """Return what the data directory takes beside what it holds. Raises OSError but ENOENT."""
    found = _FOLDERS_BYTES + _EMPTY_PAGES * PAGE_BYTES + quarantined_bytes
    for name in ("catalogue.sqlite-wal", "catalogue.sqlite-shm", "reserve", "epoch"):
        try:
            found += in_blocks((root / name).stat().st_size)
        except FileNotFoundError:
            continue
    return found


def bounded_overhead(quota_bytes: int, overhead_bytes: int) -> int:
    """Return what the overhead takes of a quota: a tiny one is not used up by it."""
    return min(overhead_bytes, quota_bytes // _OVERHEAD_SHARE)


def spare_pages(quota_bytes: int) -> int:
    """Return how many free pages a catalogue may keep for what comes next."""
    return max(_SPARE_PAGES, quota_bytes // _SPARE_SHARE // PAGE_BYTES)


def free_to_give(connection: apsw.Connection) -> int:
    """Return how many pages can be given back; 0 where the catalogue is not made for that."""
    return _number(connection, "freelist_count") if can_shrink(connection) else 0


def give_back(transaction: Transaction) -> None:
    """Give some free pages back to the disk: others move into them from the end of the file."""
    transaction.connection.execute(f"PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES})").fetchall()
