"""Queries and updates of blob rows, as plain functions of a connection.

Nothing here opens files or knows threads. Updates take the open Transaction, which keeps totals
and the change log; queries take any connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.digest import HASH_BYTES, Digest, DigestFunction
from federation.core.provenance import Provenance, Source
from federation.core.uses import Use
from federation.storage.catalogue import footprint, keepings
from federation.storage.catalogue.footprint import cost_of_blob, in_blocks
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import (
    BLOB,
    NO_INSTANCE,
    Transaction,
    insert_all,
)

_PREFIX = {function: bytes((function,)) for function in DigestFunction}
_FUNCTION = {int(function): function for function in DigestFunction}  # calling an enum is slow
_LEASED_LAST = "leased_last_ms"  # name in the table meta
_INSERT_SMALL = "INSERT INTO small VALUES (?, ?)"
_INSERT_BLOB = "INSERT INTO blob VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0)"
_INSERT_INLINE = "INSERT INTO blob VALUES (?1, ?2, 1, ?3, {}, {}, 0, 0, {}, {}, 0)"
COLUMNS = "key, size, inline, seq, used, verified, ctime_ns, marked, leased, source"  # of BlobRow
# A list of keys as a table (SQLite's carray): unlike IN (...), it does not sort a copy first.
_WANTED = "FROM carray(?) AS wanted CROSS JOIN blob ON key = wanted.value"
_LOOK_UP = f"SELECT {COLUMNS} {_WANTED}"
# The same for key prefixes. Keys with a prefix sort between the prefix itself and the prefix
# followed by the highest bytes. || turns two blobs into a text, hence the CAST.
_LIKE = (
    "SELECT wanted.value, key, inline AND NOT marked FROM carray(?) AS wanted CROSS JOIN blob "
    "ON key BETWEEN wanted.value AND CAST(wanted.value || ? AS BLOB)"
)
_HIGHEST = b"\xff" * HASH_BYTES
_PRESENT = {
    Use.CLIENT: f"SELECT key, size, NOT inline OR marked OR used < ? {_WANTED}",
    Use.LEASE: f"SELECT key, size, NOT inline OR marked OR max(used, leased) < ? {_WANTED}",
    Use.PEEK: f"SELECT key, size, NOT inline OR marked OR ? IS NULL {_WANTED}",
}
_READ = (
    f"SELECT {COLUMNS.replace('seq', 'blob.seq')}, data {_WANTED} "
    "LEFT JOIN small ON inline AND small.seq = blob.seq"
)


class BlobRow(NamedTuple):
    """A row of the table blob; times are store milliseconds."""

    key: bytes
    size_bytes: int
    inline: int
    seq: int
    used_ms: int  # last use by a client
    verified_ms: int
    ctime_ns: int
    marked_ms: int  # when eviction marked it; 0: it is live
    leased_ms: int  # last lease without a use; 0: never
    source: int

    @property
    def cost_bytes(self) -> int:
        """How much of the quota the blob takes."""
        return cost_of_blob(self.size_bytes, inline=bool(self.inline))

    def renewed_ms(self, use: Use) -> int:
        """Return the stored time that renews the lease for this use; a client's use always does."""
        return self.used_ms if use is Use.CLIENT else max(self.used_ms, self.leased_ms)


def key_of(digest: Digest) -> bytes:
    """Return the catalogue key of a digest: function byte and hash."""
    return _PREFIX[digest.function] + digest.hash


def keys_of(digests: Iterable[Digest]) -> list[bytes]:
    """Return the catalogue keys of many digests, in their order."""
    prefix = _PREFIX
    return [prefix[function] + raw for raw, _, function in digests]


def keys_of_hashes(hashes: Iterable[bytes]) -> list[bytes]:
    """Return the catalogue keys of SHA-256 hashes, in their order."""
    prefix = _PREFIX[DigestFunction.SHA256]
    return [prefix + raw for raw in hashes]


def digest_of_key(key: bytes, size_bytes: int) -> Digest:
    """Return the digest that key_of made this key from."""
    return Digest(key[1:], size_bytes, _FUNCTION[key[0]])


def _rows_of(connection: apsw.Connection, sql: str, keys: Sequence[bytes]) -> Iterable[Any]:
    return connection.execute(sql, (apsw.carray(tuple(keys)),)) if keys else ()


def look_up(connection: apsw.Connection, keys: Sequence[bytes]) -> dict[bytes, BlobRow]:
    """Return the rows of those keys that have one."""
    return {row[0]: BlobRow._make(row) for row in _rows_of(connection, _LOOK_UP, keys)}


def present_like(
    connection: apsw.Connection, prefixes: Sequence[bytes]
) -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
    """Return the key prefixes under which a live blob is kept inline, and the matches to check.

    Marked blobs and blobs in files need a closer look: each is returned as (prefix, whole key).
    """
    if not prefixes:
        return set(), []
    wanted = (apsw.carray(tuple(prefixes)), _HIGHEST)
    rows: Any = connection.execute(_LIKE, wanted).fetchall()
    plain = {prefix for prefix, _, is_plain in rows if is_plain}
    return plain, [(prefix, key) for prefix, key, is_plain in rows if not is_plain]


def present(
    connection: apsw.Connection, keys: Sequence[bytes], renew_before_ms: int, use: Use = Use.CLIENT
) -> tuple[dict[bytes, int], set[bytes]]:
    """Return the sizes of the keys that have a row, and the keys that need a closer look.

    A key needs none if its blob is inline, live, and was used (for Use.LEASE: used or leased) since
    renew_before_ms. Callers ask for thousands of keys at once, and reading these columns takes half
    the time of reading whole rows.
    """
    wanted = (renew_before_ms, apsw.carray(tuple(keys)))
    rows: Any = connection.execute(_PRESENT[use], wanted).fetchall()
    sizes = {key: size_bytes for key, size_bytes, _ in rows}
    return sizes, {key for key, _, more in rows if more}


def read_rows(
    connection: apsw.Connection, keys: Sequence[bytes]
) -> dict[bytes, tuple[BlobRow, bytes | None]]:
    """Return the rows by key, each with the blob's bytes if they are inline, else None."""
    rows = _rows_of(connection, _READ, keys)
    return {row[0]: (BlobRow._make(row[:10]), row[10]) for row in rows}


def insert(
    transaction: Transaction,
    key: bytes,
    size_bytes: int,
    data: bytes | None,
    ctime_ns: int,
    origin: Provenance,
) -> None:
    """Make a verified blob visible and log it. data None: the bytes are in the blob's file."""
    seq = transaction.next_seq()
    now = transaction.now_ms
    used, leased = _times(now, origin)
    execute = transaction.connection.execute
    if data is not None:
        execute(_INSERT_SMALL, (seq, data))
    inline = int(data is not None)
    source = int(origin.source)
    execute(_INSERT_BLOB, (key, size_bytes, inline, seq, used, now, ctime_ns, leased, source))
    transaction.log(seq, BLOB, NO_INSTANCE, key, size_bytes, origin)
    transaction.totals.blobs += 1
    transaction.totals.size_bytes += size_bytes
    transaction.totals.files_bytes += 0 if inline else in_blocks(size_bytes)
    transaction.grown_bytes += cost_of_blob(size_bytes, inline=bool(inline))


def used_at(now_ms: int, origin: Provenance) -> int:
    """Return when a client last used an object received now, on whichever node; store ms."""
    return max(1, now_ms - int(origin.unused_s * 1000)) if origin.unused_s else now_ms


def _times(now_ms: int, origin: Provenance) -> tuple[int, int]:
    """Return the use and lease times of a blob received now; its sender always gets a lease."""
    used_ms = used_at(now_ms, origin)
    # A use of now leases by itself; 0 takes fewer bytes in the row than a time.
    return used_ms, 0 if used_ms == now_ms else now_ms


def insert_inline(
    transaction: Transaction, blobs: Sequence[tuple[bytes, bytes]], origin: Provenance
) -> None:
    """Make verified inline blobs, as (key, bytes), visible and log them.

    Inserts table by table, in key order where the table has that order: for a thousand blobs that
    takes a quarter less CPU than one by one.
    """
    now = transaction.now_ms
    used, leased = _times(now, origin)
    first = transaction.take_seqs(len(blobs))
    seqs = range(first, first + len(blobs))
    keys = [key for key, _ in blobs]
    sizes = [len(data) for _, data in blobs]
    connection = transaction.connection
    connection.executemany(_INSERT_SMALL, zip(seqs, [data for _, data in blobs], strict=True))
    # The table is ordered by key, so its pages are visited in turn.
    rows = sorted(zip(keys, sizes, seqs, strict=True))
    insert_all(connection, _INSERT_INLINE, rows, (used, now, leased, int(origin.source)))
    transaction.log_blobs(zip(seqs, keys, sizes, strict=True), origin)
    transaction.totals.blobs += len(blobs)
    transaction.totals.size_bytes += sum(sizes)
    transaction.grown_bytes += cost_of_inline(sizes)


def cost_of_inline(sizes: Sequence[int]) -> int:
    """Return how many bytes of the quota inline blobs of these sizes take."""
    return footprint.ROW_BYTES * len(sizes) + sum(map(footprint.kept_inline, sizes))


def revive(transaction: Transaction, key: bytes, origin: Provenance) -> None:
    """Renew a blob's last use or its lease, and remove eviction's mark."""
    used, leased = _times(transaction.now_ms, origin)
    transaction.connection.execute(
        "UPDATE blob SET used = max(used, ?2), leased = max(leased, ?3), marked = 0 WHERE key = ?1",
        (key, used, leased),
    )


def renew(transaction: Transaction, row: BlobRow, origin: Provenance) -> None:
    """Record a repeated upload of a blob that is held.

    A blob that only an upstream gave becomes the uploader's when a client or a peer sends it: it
    gets a new log row, so that it is replicated like any other upload.
    """
    revive(transaction, row.key, origin)
    # Nothing new for peers: they were sent it when it came first, or it is not sent to them.
    if origin.source is Source.UPSTREAM or row.source != Source.UPSTREAM:
        return
    seq = transaction.next_seq()
    execute = transaction.connection.execute
    if row.inline:
        # The bytes are found by the log's number, which has just changed.
        execute("UPDATE small SET seq = ? WHERE seq = ?", (seq, row.seq))
    source = int(origin.source)
    execute("UPDATE blob SET seq = ?, source = ? WHERE key = ?", (seq, source, row.key))
    transaction.log(seq, BLOB, NO_INSTANCE, row.key, row.size_bytes, origin)
    transaction.grown_bytes += footprint.LOG_ROW_BYTES


def renew_all(transaction: Transaction, keys: Sequence[bytes], origin: Provenance) -> None:
    """Record a repeated upload of each of these keys that is still held."""
    for row in look_up(transaction.connection, keys).values():
        renew(transaction, row, origin)


def pulled_keys(connection: apsw.Connection, keys: Sequence[bytes]) -> list[bytes]:
    """Return the keys whose blobs are held and came from upstreams only."""
    rows = look_up(connection, keys)
    return [key for key, row in rows.items() if row.source == Source.UPSTREAM]


def touch(connection: apsw.Connection, touched: Mapping[bytes, int]) -> None:
    """Write when clients used blobs, and unmark them: the use came before the mark."""
    # Never back: flushes of several processes end in any order.
    connection.executemany(
        "UPDATE blob SET used = ?2, marked = 0 WHERE key = ?1 AND used < ?2", touched.items()
    )


def lease(connection: apsw.Connection, leased: Mapping[bytes, int]) -> None:
    """Write when blobs were leased without a use, and unmark them."""
    connection.executemany(
        "UPDATE blob SET leased = ?2, marked = 0 WHERE key = ?1 AND leased < ?2", leased.items()
    )
    if leased:  # no index covers the column, so newest_ms needs the maximum kept here
        connection.execute(
            "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) "
            "DO UPDATE SET value = max(value, ?2)",
            (_LEASED_LAST, max(leased.values())),
        )


def set_verified(connection: apsw.Connection, verified: dict[bytes, tuple[int, int]]) -> None:
    """Write when blobs were verified, and the file's ctime at that time."""
    connection.executemany(
        "UPDATE blob SET verified = ?2, ctime_ns = ?3 WHERE key = ?1",
        ((key, when_ms, ctime_ns) for key, (when_ms, ctime_ns) in verified.items()),
    )


def delete(transaction: Transaction, row: BlobRow) -> None:
    """Make a blob invisible. If it has a file, the caller has to remove it."""
    execute = transaction.connection.execute
    # `kept` is not in BlobRow, which every look-up would pay for.
    gone: Any = execute("DELETE FROM blob WHERE key = ? RETURNING kept", (row.key,)).fetchone()
    if gone is not None and gone[0]:
        keepings.blob_gone(transaction, gone[0], row.cost_bytes)
    if row.inline:
        execute("DELETE FROM small WHERE seq = ?", (row.seq,))
    transaction.totals.blobs -= 1
    transaction.totals.size_bytes -= row.size_bytes
    transaction.totals.files_bytes -= 0 if row.inline else in_blocks(row.size_bytes)
    transaction.grown_bytes -= row.cost_bytes


def newest_ms(connection: apsw.Connection) -> int:
    """Return the latest use or lease of any blob or entry, in store ms; 0 when there is none."""
    row: Any = connection.execute(
        "SELECT max(ifnull((SELECT max(used) FROM blob WHERE kept = 0), 0), "
        "ifnull((SELECT max(used) FROM blob WHERE kept > 0), 0), "
        "ifnull((SELECT max(used) FROM entry WHERE kept = 0), 0), "
        "ifnull((SELECT max(used) FROM entry WHERE kept > 0), 0), "
        "ifnull((SELECT value FROM meta WHERE name = ?), 0))",
        (_LEASED_LAST,),
    ).fetchone()
    return _time_ms(row)


@of_a_row
def _time_ms(row: Sequence[Any]) -> int:
    return int(row[0])
