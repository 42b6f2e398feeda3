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

VERSION = 3
SQLITE_OLDEST = (3, 51, 3)
BUSY_MS = 30_000

# One row a blob, in key order (function byte + hash). `seq` is the row of the change log that
# accepted it and, for a blob kept inline, its row in `small`: blob rows stay short, so that
# thousands of look-ups touch few pages. used: when a client last did; leased: when it was promised
# without being used, 0 for never; marked: when eviction did, 0 for live. These are store
# milliseconds. ctime_ns is the file's at its last verification; 0 for inline blobs. source: who
# gave it (federation.core.store.Source); the log, which says more, is trimmed.
# Instance names are kept once; rows have their ids. 0 is the empty name, and what blobs have.
# totals.bytes: of blobs and values; totals.files: what blob files take of the disk.
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE totals (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  bytes INTEGER NOT NULL, blobs INTEGER NOT NULL, entries INTEGER NOT NULL, seq INTEGER NOT NULL,
  logged INTEGER NOT NULL DEFAULT 0, ticks INTEGER NOT NULL DEFAULT 0,
  files INTEGER NOT NULL DEFAULT 0
);
INSERT INTO totals (id, bytes, blobs, entries, seq) VALUES (1, 0, 0, 0, 0);
CREATE TABLE blob (
  key BLOB PRIMARY KEY, size INTEGER NOT NULL, inline INTEGER NOT NULL, seq INTEGER NOT NULL,
  used INTEGER NOT NULL, verified INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  marked INTEGER NOT NULL DEFAULT 0, leased INTEGER NOT NULL DEFAULT 0,
  source INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX blob_by_use ON blob (used);
CREATE TABLE small (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, size INTEGER NOT NULL, reason TEXT NOT NULL,
  found REAL NOT NULL, file TEXT NOT NULL
);
"""
_INSTANCES = """
CREATE TABLE instance (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
INSERT INTO instance VALUES (0, '');
"""
_NAMED_TABLES = """
CREATE TABLE entry (
  id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, instance INTEGER NOT NULL, name BLOB NOT NULL,
  value BLOB NOT NULL, label TEXT NOT NULL, stored REAL NOT NULL, expires REAL,
  source INTEGER NOT NULL, origin TEXT NOT NULL, used INTEGER NOT NULL, seq INTEGER NOT NULL,
  ticks INTEGER NOT NULL, node TEXT NOT NULL, UNIQUE (kind, instance, name)
);
CREATE TABLE log (
  seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, instance INTEGER NOT NULL, name BLOB NOT NULL,
  size INTEGER NOT NULL, stored REAL NOT NULL, source INTEGER NOT NULL, via TEXT NOT NULL,
  origin TEXT NOT NULL, total INTEGER NOT NULL
);
CREATE TABLE parked (
  id INTEGER PRIMARY KEY, peer TEXT NOT NULL, kind INTEGER NOT NULL, instance INTEGER NOT NULL,
  name BLOB NOT NULL, size INTEGER NOT NULL, seq INTEGER NOT NULL, label TEXT NOT NULL,
  reason TEXT NOT NULL, parked REAL NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL,
  UNIQUE (peer, kind, instance, name)
);
"""
# What only an upstream gave goes first: it has indexes of its own, small where there is little.
_INDEXES = """
CREATE INDEX blob_pulled_by_use ON blob (used) WHERE source = 1;
CREATE INDEX blob_marked ON blob (marked, inline, size) WHERE marked > 0;
CREATE INDEX entry_by_use ON entry (used);
CREATE INDEX entry_pulled_by_use ON entry (used) WHERE source = 1;
"""

# How far each lane of each peer has acknowledged the change log (PeerRecord in
# federation.core.replication_log), and what was parked for it. A blob's `parked.name` is its key,
# as in the log.
_HOLDS = ", holds INTEGER NOT NULL DEFAULT 1"
_PEER_TABLE = """
CREATE TABLE peer (
  name TEXT NOT NULL, lane TEXT NOT NULL, cursor INTEGER NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, position TEXT NOT NULL, node_id TEXT NOT NULL, log_seen TEXT NOT NULL,
  served INTEGER NOT NULL, sent_objects INTEGER NOT NULL, sent_bytes INTEGER NOT NULL,
  last_success REAL NOT NULL, last_error TEXT NOT NULL, last_error_at REAL NOT NULL,
  pins_pulled INTEGER NOT NULL, wanted INTEGER NOT NULL DEFAULT 0,
  marks INTEGER NOT NULL DEFAULT 0{}, PRIMARY KEY (name, lane)
) WITHOUT ROWID;
"""
_PARKED_2 = """
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

# Version 3. The columns of blobs get other names and what they say now, without a row being written
# but for pulled ones. Of the log, only what a peer has not acknowledged and the newest rows are
# taken over: it may be longer than all the rest.
_RENAMED = """
ALTER TABLE totals ADD COLUMN files INTEGER NOT NULL DEFAULT 0;
UPDATE totals SET files = ifnull(
  (SELECT sum((size + 4095) / 4096 * 4096) FROM blob WHERE NOT inline), 0);
DROP INDEX blob_by_access;
DROP INDEX blob_marked;
ALTER TABLE blob RENAME COLUMN accessed TO used;
ALTER TABLE blob RENAME COLUMN state TO marked;
ALTER TABLE blob ADD COLUMN leased INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blob ADD COLUMN source INTEGER NOT NULL DEFAULT 0;
UPDATE blob SET source = 1 WHERE key IN (
  SELECT log.name FROM log JOIN blob ON blob.key = log.name AND blob.seq = log.seq
  WHERE log.kind = 0 AND log.source = 1);
CREATE INDEX blob_by_use ON blob (used);
DROP INDEX entry_by_access;
ALTER TABLE entry RENAME TO entry_2;
ALTER TABLE log RENAME TO log_2;
ALTER TABLE parked RENAME TO parked_2;
"""
_INTERNED = """
INSERT INTO instance (name) SELECT instance FROM entry_2 WHERE instance <> '' UNION
  SELECT instance FROM log_2 WHERE instance <> '' UNION
  SELECT instance FROM parked_2 WHERE instance <> '';
"""
_TAKEN_OVER = """
INSERT INTO entry SELECT entry_2.id, kind, instance.id, entry_2.name, value, label, stored,
  expires, source, origin, accessed, seq, ticks, node
  FROM entry_2 JOIN instance ON instance.name = entry_2.instance ORDER BY entry_2.id;
INSERT INTO log SELECT seq, kind, instance.id, log_2.name, size, stored, source, via, origin, total
  FROM log_2 JOIN instance ON instance.name = log_2.instance
  WHERE seq > min((SELECT seq FROM totals) - 100000,
    ifnull((SELECT min(cursor) FROM peer WHERE state = 'following'), 9e18))
  ORDER BY seq;
INSERT INTO parked SELECT parked_2.id, peer, kind, instance.id, parked_2.name, size, seq, label,
  reason, parked, tries, retry
  FROM parked_2 JOIN instance ON instance.name = parked_2.instance ORDER BY parked_2.id;
DROP TABLE entry_2;
DROP TABLE log_2;
DROP TABLE parked_2;
"""
_HELD_FOR_PEERS = """
ALTER TABLE peer ADD COLUMN holds INTEGER NOT NULL DEFAULT 1;
UPDATE peer SET holds = 0 WHERE state <> 'following' AND (marks > 0 OR reason <> 'new');
"""
_USES = "".join(
    (_RENAMED, _INSTANCES, _INTERNED, _NAMED_TABLES, _TAKEN_OVER, _INDEXES, _HELD_FOR_PEERS)
)

_NEW = _TABLES + _INSTANCES + _NAMED_TABLES + _INDEXES + _PEER_TABLE.format(_HOLDS)

# From version N to N + 1. Version 1 is the first.
MIGRATIONS: Mapping[int, str] = {1: _STAMPS + _PEER_TABLE.format("") + _PARKED_2, 2: _USES}


# For questions about a catalogue of an older version, which a node may still serve: what its tables
# would hold, as far as questions go.
_SHOWN = """
CREATE TEMP VIEW blob AS SELECT key, size, inline, seq, accessed AS used, verified, ctime_ns,
  state AS marked, 0 AS leased,
  ifnull((SELECT source FROM main.log WHERE log.seq = blob.seq), 0) AS source FROM main.blob;
CREATE TEMP VIEW entry AS SELECT *, accessed AS used FROM main.entry;
CREATE TEMP VIEW instance AS SELECT instance AS id, instance AS name FROM main.entry
  UNION SELECT instance, instance FROM main.log;
"""
_SHOWN_PEERS = """
CREATE TEMP VIEW peer AS SELECT *, state = 'following' AS holds FROM main.peer;
"""


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


PAGE_BYTES = 4096
_WAL_PAGES = 4000  # after so many, they are written into the catalogue itself
_WAL_PAGES_MIN = 100
_WAL_SHARE = 64  # of a small quota
_SHRUNK_AT_ONCE_BYTES = 256 * 2**20


def wal_pages_for(quota_bytes: int | None) -> int:
    """Return how long the write-ahead log may get: the quota is for it, too."""
    if quota_bytes is None:
        return _WAL_PAGES
    return max(_WAL_PAGES_MIN, min(_WAL_PAGES, quota_bytes // _WAL_SHARE // PAGE_BYTES))


def connect(
    path: Path,
    *,
    read_only: bool = False,
    create: bool = True,
    wal_pages: int = _WAL_PAGES,
    cache_kib: int = 16_000,
) -> apsw.Connection:
    """Open the catalogue with this program's settings. Raises apsw.Error.

    create: a serving node never does: its disk may be away, and an empty catalogue would take the
    place of the one that is there.
    wal_pages: how long the write-ahead log gets before it is taken into the catalogue.

    auto_vacuum=INCREMENTAL: the end of the file can be given back. It takes effect on a catalogue
    that is made, or is made anew by VACUUM.
    synchronous=FULL: WAL with NORMAL loses acknowledged commits at a power cut (measured).
    Memory-mapped reads stay off: a disk error would be a SIGBUS instead of an error.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    if create and not read_only:
        flags |= apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, statementcachesize=200)
    connection.set_busy_timeout(BUSY_MS)
    if not read_only and connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {wal_pages}")
    connection.execute(f"PRAGMA journal_size_limit = {4 * wal_pages * PAGE_BYTES}")
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
            connection.execute(_NEW)
            found = VERSION
        for step in range(found, version):
            connection.execute(migrations[step])
        connection.execute(f"PRAGMA user_version = {version}")


def show_as_current(connection: apsw.Connection) -> None:
    """Let questions about an older catalogue be asked as about a current one. Changes no file."""
    version = stored_version(connection)
    if 0 < version < 3:
        connection.execute("PRAGMA query_only = OFF")
        connection.execute(_SHOWN + (_SHOWN_PEERS if version == 2 else ""))
        connection.execute("PRAGMA query_only = ON")


def can_shrink(connection: apsw.Connection) -> bool:
    """Whether free pages can be given back piece by piece."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone() or (0,)
    return bool(mode)


def make_shrinkable(connection: apsw.Connection) -> bool:
    """Write a catalogue from before version 3 anew where that takes seconds; False: it is too big.

    To be called while nobody else uses it. An interrupted one changes nothing.
    """
    if can_shrink(connection):
        return True
    (pages,) = connection.execute("PRAGMA page_count").fetchone() or (0,)
    if int(pages) * PAGE_BYTES > _SHRUNK_AT_ONCE_BYTES:
        return False
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("VACUUM")
    return can_shrink(connection)
