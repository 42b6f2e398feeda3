"""The catalogue's questions and changes about blobs, as plain functions of a connection.

Nothing here opens files or knows threads. Changes take the open Transaction, which keeps totals
and the change log; questions take any connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.digest import Digest, DigestFunction
from federation.core.store import Provenance, Source
from federation.storage.catalogue.peer_records import Pins
from federation.storage.catalogue.schema import of_a_row
from federation.storage.catalogue.transaction import BLOB, Transaction

LIVE = 0
MARKED = 1

_PREFIX = {function: bytes((function,)) for function in DigestFunction}
_FUNCTION = {int(function): function for function in DigestFunction}  # calling an enum is slow
_INSERT_SMALL = "INSERT INTO small VALUES (?, ?)"
_INSERT_BLOB = "INSERT INTO blob VALUES (?, ?, ?, ?, ?, ?, ?, 0)"
_COLUMNS = "key, size, inline, seq, accessed, verified, ctime_ns, state"
# A list of keys as a table (SQLite's carray): no copy of it is sorted first, as for IN (...).
_WANTED = "FROM carray(?) AS wanted CROSS JOIN blob ON key = wanted.value"
_LOOK_UP = f"SELECT {_COLUMNS} {_WANTED}"
_PRESENT = f"SELECT key, size, NOT inline OR state OR accessed < ? {_WANTED}"
_READ = (
    f"SELECT {_COLUMNS.replace('seq', 'blob.seq')}, data {_WANTED} "
    "LEFT JOIN small ON inline AND small.seq = blob.seq"
)


class BlobRow(NamedTuple):
    """A row of the table blob; times are store milliseconds."""

    key: bytes
    size_bytes: int
    inline: int
    seq: int
    accessed_ms: int
    verified_ms: int
    ctime_ns: int
    state: int


def key_of(digest: Digest) -> bytes:
    """Return the catalogue key of a digest: function byte and hash."""
    return _PREFIX[digest.function] + digest.hash


def keys_of(digests: Iterable[Digest]) -> list[bytes]:
    """Return the catalogue keys of many digests, in their order."""
    prefix = _PREFIX
    return [prefix[function] + raw for raw, _, function in digests]


def keys_of_hashes(hashes: Iterable[bytes]) -> list[bytes]:
    """Return the same of SHA-256 hashes."""
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


def present(
    connection: apsw.Connection, keys: Sequence[bytes], renew_before_ms: int
) -> tuple[dict[bytes, int], set[bytes]]:
    """Return the sizes of those keys that have a row, and of which there is more to look at.

    There is not where a blob is kept inline, live, and was accessed since renew_before_ms. Asking
    for this much takes half the time of whole rows, and thousands are asked for at once.
    """
    wanted = (renew_before_ms, apsw.carray(tuple(keys)))
    rows: Any = connection.execute(_PRESENT, wanted).fetchall()
    sizes = {key: size_bytes for key, size_bytes, _ in rows}
    return sizes, {key for key, _, more in rows if more}


def read_rows(
    connection: apsw.Connection, keys: Sequence[bytes]
) -> dict[bytes, tuple[BlobRow, bytes | None]]:
    """Return rows and, of blobs kept inline, their bytes."""
    rows = _rows_of(connection, _READ, keys)
    return {row[0]: (BlobRow._make(row[:8]), row[8]) for row in rows}


def insert(
    transaction: Transaction,
    key: bytes,
    size_bytes: int,
    data: bytes | None,
    ctime_ns: int,
    origin: Provenance,
) -> None:
    """Make a verified blob visible, with its change log row. data None: it is in its file."""
    seq = transaction.next_seq()
    now = transaction.now_ms
    execute = transaction.connection.execute
    if data is not None:
        execute(_INSERT_SMALL, (seq, data))
    inline = int(data is not None)
    execute(_INSERT_BLOB, (key, size_bytes, inline, seq, now, now, ctime_ns))
    transaction.log(seq, BLOB, "", key, size_bytes, origin)
    transaction.totals.blobs += 1
    transaction.totals.size_bytes += size_bytes


def insert_inline(
    transaction: Transaction, blobs: Sequence[tuple[bytes, bytes]], origin: Provenance
) -> None:
    """Do the same for blobs, each as its key and its bytes, that live in the catalogue.

    Table by table, and in the order of the keys where that is the table's: a thousand take a
    quarter less CPU than one by one.
    """
    now, execute_all = transaction.now_ms, transaction.connection.executemany
    numbered = list(enumerate(blobs, transaction.take_seqs(len(blobs))))
    execute_all(_INSERT_SMALL, [(seq, data) for seq, (_, data) in numbered])
    table = [(key, len(data), 1, seq, now, now, 0) for seq, (key, data) in numbered]
    execute_all(_INSERT_BLOB, sorted(table))
    transaction.log_blobs([(seq, key, len(data)) for seq, (key, data) in numbered], origin)
    transaction.totals.blobs += len(blobs)
    transaction.totals.size_bytes += sum(len(data) for _, data in blobs)


def revive(transaction: Transaction, key: bytes) -> None:
    """Renew the access time, also of a blob that eviction has marked."""
    transaction.connection.execute(
        "UPDATE blob SET accessed = ?, state = 0 WHERE key = ?", (transaction.now_ms, key)
    )


def renew(transaction: Transaction, row: BlobRow, origin: Provenance) -> None:
    """Note one more upload of a blob that is held.

    One that came from an upstream and now from a client or a peer is theirs from then on: it gets
    a new log row, so that it is replicated like whatever they upload.
    """
    revive(transaction, row.key)
    if origin.source is Source.UPSTREAM or not _was_pulled(transaction.connection, row.seq):
        return
    seq = transaction.next_seq()
    execute = transaction.connection.execute
    if row.inline:
        execute("UPDATE small SET seq = ? WHERE seq = ?", (seq, row.seq))
    execute("UPDATE blob SET seq = ? WHERE key = ?", (seq, row.key))
    transaction.log(seq, BLOB, "", row.key, row.size_bytes, origin)


def renew_all(transaction: Transaction, keys: Sequence[bytes], origin: Provenance) -> None:
    """Do this for those of the keys that are still held."""
    for row in look_up(transaction.connection, keys).values():
        renew(transaction, row, origin)


def _was_pulled(connection: apsw.Connection, seq: int) -> bool:
    """Whether a log row names an upstream; one that was trimmed since is not asked for again."""
    row = connection.execute("SELECT source FROM log WHERE seq = ?", (seq,)).fetchone()
    return row is not None and row[0] == Source.UPSTREAM


def pulled_keys(connection: apsw.Connection, keys: Sequence[bytes]) -> list[bytes]:
    """Return those keys of blobs held whose log row names an upstream."""
    rows = look_up(connection, keys)
    return [key for key, row in rows.items() if _was_pulled(connection, row.seq)]


def touch(connection: apsw.Connection, touched: dict[bytes, int]) -> None:
    """Write access times; a marked blob was leased before the mark, so it lives on."""
    connection.executemany(
        "UPDATE blob SET accessed = ?2, state = 0 WHERE key = ?1 AND accessed < ?2",
        touched.items(),
    )


def set_verified(connection: apsw.Connection, verified: dict[bytes, tuple[int, int]]) -> None:
    """Write when blobs were verified, and the file's ctime at that time."""
    connection.executemany(
        "UPDATE blob SET verified = ?2, ctime_ns = ?3 WHERE key = ?1",
        ((key, when_ms, ctime_ns) for key, (when_ms, ctime_ns) in verified.items()),
    )


def delete(transaction: Transaction, row: BlobRow) -> None:
    """Make a blob invisible. Its file, if it has one, is the caller's to remove."""
    execute = transaction.connection.execute
    execute("DELETE FROM blob WHERE key = ?", (row.key,))
    if row.inline:
        execute("DELETE FROM small WHERE seq = ?", (row.seq,))
    transaction.totals.blobs -= 1
    transaction.totals.size_bytes -= row.size_bytes


def eviction_candidates(
    connection: apsw.Connection, from_ms: int, before_ms: int, pins: Pins, limit: int
) -> list[tuple[int, int, bytes]]:
    """Return (accessed, size, key) of live blobs that no peer waits for, oldest first.

    Last accessed in from_ms..before_ms.
    """
    rows: Any = connection.execute(
        "SELECT accessed, size, key FROM blob WHERE accessed >= ? AND accessed < ? AND state = 0 "
        "AND (seq <= ? OR seq <= ? AND (SELECT source FROM log WHERE log.seq = blob.seq) = 1) "
        "ORDER BY accessed LIMIT ?",
        (from_ms, before_ms, *pins, limit),
    ).fetchall()
    return list(rows)


def any_unleased(connection: apsw.Connection, before_ms: int) -> bool:
    """Whether a live blob was not accessed since before_ms, whoever waits for it."""
    row = connection.execute(
        "SELECT 1 FROM blob WHERE accessed < ? AND state = 0 LIMIT 1", (before_ms,)
    ).fetchone()
    return row is not None


def mark(transaction: Transaction, candidates: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """Mark (accessed, key) where nothing touched them since; return the keys marked."""
    marked = []
    for accessed, key in candidates:
        transaction.connection.execute(
            "UPDATE blob SET state = 1 WHERE key = ? AND accessed = ? AND state = 0",
            (key, accessed),
        )
        if transaction.connection.changes():
            marked.append(key)
    return marked


def unmark_all(transaction: Transaction) -> None:
    """Make every marked blob live again."""
    transaction.connection.execute("UPDATE blob SET state = 0 WHERE state = 1")


def marked_keys(connection: apsw.Connection) -> list[bytes]:
    """Return the keys that some process marked and did not come to delete."""
    return [key for (key,) in connection.execute("SELECT key FROM blob WHERE state = 1")]


def delete_marked(transaction: Transaction, keys: Sequence[bytes], before_ms: int) -> list[BlobRow]:
    """Delete those keys that are still marked and untouched since before_ms; return their rows."""
    gone = []
    for row in look_up(transaction.connection, keys).values():
        if row.state == MARKED and row.accessed_ms < before_ms:
            delete(transaction, row)
            gone.append(row)
    return gone


def newest_access_ms(connection: apsw.Connection) -> int:
    """Return the latest access time over blobs and entries."""
    row: Any = connection.execute(
        "SELECT max(ifnull((SELECT max(accessed) FROM blob), 0), "
        "ifnull((SELECT max(accessed) FROM entry), 0))"
    ).fetchone()
    return _time_ms(row)


@of_a_row
def _time_ms(row: Sequence[Any]) -> int:
    return int(row[0])
