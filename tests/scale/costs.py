"""What things cost: measured by tests/scale/reality.py and by the benchmarks, and what is bought.

CPU is that of one core of the machine on which it was measured: AMD EPYC, PostgreSQL 17.
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
    """CPU by statement. What a transaction does under the lock of the site is apart."""

    poll: StatementCost = StatementCost(60e-6)
    beat: StatementCost = StatementCost(60e-6)
    find: StatementCost = StatementCost(90e-6, 2.5e-6)
    look_up: StatementCost = StatementCost(110e-6, 8e-6)
    entries: StatementCost = StatementCost(90e-6, 12e-6)
    insert: StatementCost = StatementCost(120e-6, 3e-6)
    evict: StatementCost = StatementCost(400e-6, 30e-6)
    insert_locked: StatementCost = StatementCost(300e-6, 25e-6)
    flush: StatementCost = StatementCost(60e-6)
    node_s: float = 300e-6  # of the node, for each statement
    cores: int = 16
    disk_s: float = 0.0015  # of one flush of the log to a disk with a protected cache
    round_trip_s: float = 0.0005  # between a node and the database


class RowBytes(NamedTuple):
    """What rows take in the database, with their indexes; free space of B-trees included."""

    blob: int = 290
    small: int = 60  # beside the bytes
    log: int = 150
    entry: int = 700  # with an action result of usual size


class ReplicationCosts(NamedTuple):
    """CPU of the node that replicates, in seconds an object: docs/performance.md."""

    send_s: float = 122e-6
    take_s: float = 77e-6
    offer_s: float = 9e-6  # that the peer holds already
    answer_s: float = 4e-6


class BucketPrices(NamedTuple):
    """What object stores of clouds take, in dollars, and how they answer."""

    put: float = 5e-6
    get: float = 0.4e-6
    list_: float = 5e-6
    gib_month: float = 0.023
    call_s: float = 0.02  # the median of a request
    list_s: float = 0.15
    delete_s: float = 0.25  # of up to 1,000 objects


DATABASE = DatabaseCosts()
ROWS = RowBytes()
REPLICATION = ReplicationCosts()
BUCKET = BucketPrices()
