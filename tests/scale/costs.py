"""What things cost: measured by tests/scale/measure.py and by the benchmarks, or assumed.

The database was PostgreSQL 17 on a machine of two cores that did other work, too. So its costs are
rather too high: without pauses between the calls and with less other work most were a third.
"""

from __future__ import annotations

from typing import NamedTuple


class StatementCost(NamedTuple):
    """CPU of the database for one statement: base_s, and row_s for each key or row in it."""

    base_s: float
    row_s: float = 0.0

    def of(self, rows: int) -> float:
        """Return the CPU of a statement with so many rows, in seconds."""
        return self.base_s + self.row_s * rows


class DatabaseCosts(NamedTuple):
    """CPU by statement; what a transaction does under the lock of the site is apart."""

    poll: StatementCost = StatementCost(130e-6)
    beat: StatementCost = StatementCost(130e-6)
    find: StatementCost = StatementCost(280e-6, 1.6e-6)
    look_up: StatementCost = StatementCost(470e-6, 5.5e-6)
    entries: StatementCost = StatementCost(410e-6, 5.3e-6)
    insert: StatementCost = StatementCost(280e-6, 1.6e-6)
    insert_locked: StatementCost = StatementCost(190e-6, 16e-6)
    flush: StatementCost = StatementCost(210e-6)
    evict: StatementCost = StatementCost(1250e-6, 33e-6)
    node_s: float = 640e-6  # of the node, for each statement
    cores: int = 16
    disk_s: float = 0.0015  # of one flush to a disk with a protected cache; assumed
    round_trip_s: float = 0.0005  # between a node and the database; assumed


class RowBytes(NamedTuple):
    """What rows take in the database, with their indexes."""

    blob: int = 226
    small: int = 96  # beside the bytes; above 2 KB the database cuts them up, and takes more
    log: int = 132
    entry: int = 721  # with a value of 300 bytes


class ReplicationCosts(NamedTuple):
    """CPU of the nodes that replicate, in seconds an object: docs/performance.md.

    An object that the peer holds already is read from the log and named in a FindMissing.
    """

    send_s: float = 122e-6
    take_s: float = 77e-6
    offer_s: float = 9e-6
    answer_s: float = 4e-6


class BucketPrices(NamedTuple):
    """What object stores of clouds take, in dollars, and how soon they answer; assumed."""

    get: float = 0.4e-6
    list_: float = 5e-6
    gib_month: float = 0.023
    list_s: float = 0.15
    delete_s: float = 0.25  # of up to 1,000 objects


DATABASE = DatabaseCosts()
ROWS = RowBytes()
REPLICATION = ReplicationCosts()
BUCKET = BucketPrices()
