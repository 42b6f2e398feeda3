"""The catalogue's tables, how a connection to it is set up, and how older ones are brought up.

user_version is the schema version. A newer one is refused; an older one is migrated, a step a
version, in one transaction, so that a crash leaves it finished or untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw

from federation.core.errors import StorageRefused

VERSION = 2
SQLITE_OLDEST = (3, 51, 3)
BUSY_MS = 30_000

# One row a blob, in key order (function byte + hash). `seq` is the row of the change log that
# accepted it and, for a blob kept inline, its row in `small`: blob rows stay short, so that
# thousands of look-ups touch few pages. state: 0 live, 1 marked by eviction. Times are store
# milliseconds. ctime_ns is the file's at its last verification; 0 for inline blobs.
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE totals (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  bytes INTEGER NOT NULL, blobs INTEGER NOT NULL, entries INTEGER NOT NULL, seq INTEGER NOT NULL,
  logged INTEGER NOT NULL DEFAULT 0, ticks INTEGER NOT NULL DEFAULT 0
);
INSERT INTO totals (id, bytes, blobs, entries, seq) VALUES (1, 0, 0, 0, 0);
CREATE TABLE blob (
  key BLOB PRIMARY KEY, size INTEGER NOT NULL, inline INTEGER NOT NULL, seq INTEGER NOT NULL,
  accessed INTEGER NOT NULL, verified INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX blob_by_access ON blob (accessed);
CREATE INDEX blob_marked ON blob (key) WHERE state = 1;
CREATE TABLE small (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE entry (
  id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, instance TEXT NOT NULL, name BLOB NOT NULL,
  value BLOB NOT NULL, label TEXT NOT NULL, stored REAL NOT NULL, expires REAL,
  source INTEGER NOT NULL, origin TEXT NOT NULL,
  accessed INTEGER NOT NULL, seq INTEGER NOT NULL,
  ticks INTEGER NOT NULL DEFAULT 0, node TEXT NOT NULL DEFAULT '', UNIQUE (kind, instance, name)
);
CREATE INDEX entry_by_access ON entry (accessed);
CREATE TABLE log (
  seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, instance TEXT NOT NULL, name BLOB NOT NULL,
  size INTEGER NOT NULL, stored REAL NOT NULL, source INTEGER NOT NULL, via TEXT NOT NULL,
  origin TEXT NOT NULL, total INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, size INTEGER NOT NULL, reason TEXT NOT NULL,
  found REAL NOT NULL, file TEXT NOT NULL
);
"""

# How far each lane of each peer has acknowledged the change log (PeerRecord in
# federation.core.replication_log), and what was parked for it. A blob's `parked.name` is its key,
# as in the log.
_PEER_TABLES = """
CREATE TABLE peer (
  name TEXT NOT NULL, lane TEXT NOT NULL, cursor INTEGER NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, position TEXT NOT NULL, node_id TEXT NOT NULL, log_seen TEXT NOT NULL,
  served INTEGER NOT NULL, sent_objects INTEGER NOT NULL, sent_bytes INTEGER NOT NULL,
  last_success REAL NOT NULL, last_error TEXT NOT NULL, last_error_at REAL NOT NULL,
  pins_pulled INTEGER NOT NULL, wanted INTEGER NOT NULL DEFAULT 0,
  marks INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (name, lane)
) WITHOUT ROWID;
CREATE TABLE parked (
  id INTEGER PRIMARY KEY, peer TEXT NOT NULL, kind INTEGER NOT NULL, instance TEXT NOT NULL,
  name BLOB NOT NULL, size INTEGER NOT NULL, seq INTEGER NOT NULL, label TEXT NOT NULL,
  reason TEXT NOT NULL, parked REAL NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL,
  UNIQUE (peer, kind, instance, name)
);
"""

# Rows of the log from before count for nothing in its totals: no peer's cursor is among them. An
# entry was given when it was stored, or now, where the clock was ahead then.
_STAMPS = """
ALTER TABLE totals ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE totals ADD COLUMN ticks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN ticks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN node TEXT NOT NULL DEFAULT '';
UPDATE entry SET
  ticks = CAST(min(stored, unixepoch('now', 'subsec')) * 1000 AS INTEGER) << 16,
  node = ifnull((SELECT value FROM meta WHERE name = 'node_id'), '')
  WHERE source <> 1;
UPDATE totals SET ticks = ifnull((SELECT max(ticks) FROM entry), 0);
"""

# From version N to N + 1. Version 1 is the first.
MIGRATIONS: Mapping[int, str] = {1: _STAMPS + _PEER_TABLES}


# What reading the catalogue may raise: where damage has hit a text, its bytes may be none.
UNREADABLE = (apsw.Error, UnicodeDecodeError)

_Columns = TypeVar("_Columns")
_Made = TypeVar("_Made")


def of_a_row(make: Callable[[_Columns], _Made]) -> Callable[[_Columns], _Made]:
    """Wrap what makes a value of a row and does nothing else.

    SQLite does not notice damage that turns a value into another. One that this program never
    writes raises apsw.CorruptError then, as damage that SQLite notices does.
    """

    @functools.wraps(make)
    def checked(columns: _Columns) -> _Made:
        try:
            return make(columns)
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise apsw.CorruptError(f"a row with a value that is never written ({what})") from error

    return checked


def connect(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """Open the catalogue with this program's settings. Raises apsw.Error.

    synchronous=FULL: WAL with NORMAL loses acknowledged commits at a power cut (measured).
    Memory-mapped reads stay off: a disk error would be a SIGBUS instead of an error.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX
    connection = apsw.Connection(str(path), flags=flags, statementcachesize=200)
    connection.set_busy_timeout(BUSY_MS)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA cache_size = -16000")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def check_library(version: str | None = None) -> str:
    """Return the loaded SQLite's version. Raises StorageRefused for one that corrupts a WAL.

    Before 3.51.3 two connections that commit and checkpoint at once could reset a WAL wrongly,
    and several processes on one directory do just that.
    """
    loaded = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in loaded.split(".")[:3]) < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        raise StorageRefused(
            f"SQLite {loaded} is loaded; versions before {oldest} can corrupt a catalogue that "
            "several processes use. Install apsw's own wheel, which bundles a newer one: "
            "pip install --force-reinstall --only-binary :all: apsw"
        )
    return loaded


@contextmanager
def writing(connection: apsw.Connection) -> Iterator[None]:
    """Do all of it or nothing, with the write lock from the beginning.

    A transaction that reads first and then writes fails at once, without waiting for the lock,
    when another process has written in between.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # some errors have undone it already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def stored_version(connection: apsw.Connection) -> int:
    """Return the schema version of an open catalogue; 0 for an empty one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone() or (0,)
    return int(version)


def bring_up(
    connection: apsw.Connection,
    *,
    version: int = VERSION,
    migrations: Mapping[int, str] = MIGRATIONS,
) -> None:
    """Create the tables or migrate them to this version, all or nothing.

    Raises StorageRefused when a newer program wrote the catalogue; nothing is changed then.
    """
    with writing(connection):
        found = stored_version(connection)
        if found > version:
            raise StorageRefused(
                f"the catalogue has schema version {found}, this program knows up to {version}. "
                "Use the program version that wrote it, or a newer one."
            )
        if found == 0:
            connection.execute(_TABLES + _PEER_TABLES)
            found = VERSION
        for step in range(found, version):
            connection.execute(migrations[step])
        connection.execute(f"PRAGMA user_version = {version}")
