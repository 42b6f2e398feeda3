"""Opens connections to the catalogue, and creates or migrates its tables.

PRAGMA user_version is the schema version. A newer version is refused; an older one is migrated,
one step per version, in one transaction, so that a crash leaves it either done or untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw

from federation.core.errors import StorageRefused
from federation.storage.catalogue.migrations import MIGRATIONS, as_current
from federation.storage.catalogue.tables import NEW

VERSION = 6
SQLITE_OLDEST = (3, 51, 3)
BUSY_MS = 30_000

# What reading the catalogue may raise. Damaged text may not be valid UTF-8.
UNREADABLE = (apsw.Error, UnicodeDecodeError)

_Columns = TypeVar("_Columns")
_Made = TypeVar("_Made")


def of_a_row(make: Callable[[_Columns], _Made]) -> Callable[[_Columns], _Made]:
    """Wrap a function that only converts a row: a value it cannot convert means damage.

    SQLite does not notice damage that turns one value into another. A value that this program never
    writes raises apsw.CorruptError, as does damage that SQLite notices.
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
_WAL_PAGES = 8000  # a checkpoint is due after so many pages of the write-ahead log
_WAL_PAGES_MIN = 100
_WAL_SHARE = 64  # 1/64 of a small quota
_SHRUNK_AT_ONCE_BYTES = 256 * 2**20


def wal_pages_for(quota_bytes: int | None) -> int:
    """Return how many pages the write-ahead log may have: it counts against the quota, too."""
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
    busy_ms: int = BUSY_MS,
    vfs: str | None = None,
) -> apsw.Connection:
    """Open the catalogue with this program's settings. Raises apsw.Error.

    Args:
        path: the catalogue's file.
        read_only: allow queries only.
        create: create a missing file. A node that serves never does: its disk may be unmounted, and
            it would start with an empty catalogue below the mount point.
        wal_pages: the length of the write-ahead log that triggers a checkpoint.
        cache_kib: the size of the page cache.
        busy_ms: how long to wait for the locks of others.
        vfs: the name of what reads and writes files for SQLite; None: its usual one.

    auto_vacuum=INCREMENTAL lets free pages be given back to the disk; it takes effect only on a new
    catalogue or after a VACUUM. synchronous=FULL: with NORMAL, a WAL loses acknowledged commits at
    a power cut (measured). Memory-mapped reads stay off: a disk error would end the process with
    SIGBUS instead of raising an error.
    """
    # Writable also for readers, since a WAL needs its shared memory written; query_only keeps them
    # from writing rows. No mutex: each connection has one thread.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    if create and not read_only:
        flags |= apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=200)
    connection.set_busy_timeout(busy_ms)
    # Only before the first page is written; asked for, as setting it takes a write lock.
    if not read_only and connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    # A full disk must not fail a query that only sorts.
    connection.execute("PRAGMA temp_store = MEMORY")
    # Finds a damaged page where it is read, rather than by what its bytes lead to.
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
    """Run the block in one transaction that takes the write lock at its beginning.

    A transaction that took the lock only at its first write would fail at once, without waiting,
    if another process had written since its first read.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself after some errors
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

    Raises StorageRefused when a newer program wrote the catalogue, which is unchanged then.
    """
    with writing(connection):
        found = stored_version(connection)
        if found > version:
            raise StorageRefused(
                f"{connection.filename} has schema version {found}, this program knows up to "
                f"{version}. Use the program version that wrote it, or a newer one."
            )
        if found == 0:
            connection.execute(NEW)
            found = VERSION
        for step in range(found, version):
            connection.execute(migrations[step])
        connection.execute(f"PRAGMA user_version = {version}")


def show_as_current(connection: apsw.Connection) -> None:
    """Let queries for the current schema read an older catalogue. Changes no file."""
    if views := as_current(stored_version(connection)):
        connection.execute("PRAGMA query_only = OFF")
        connection.execute(views)
        connection.execute("PRAGMA query_only = ON")


def copy_to(connection: apsw.Connection, path: Path) -> None:
    """Write the catalogue as it is at this moment to a new file, durably, for others to open.

    All at once: a copy in steps would begin anew after each commit of another process. Raises
    apsw.Error, OSError.
    """
    path.unlink(missing_ok=True)
    copy = apsw.Connection(str(path))
    try:
        with copy.backup("main", connection, "main") as work:
            work.step(-1)
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
    finally:
        copy.close()


def can_shrink(connection: apsw.Connection) -> bool:
    """Return whether free pages can be given back step by step (auto_vacuum=INCREMENTAL)."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone() or (0,)
    return bool(mode)


def make_shrinkable(connection: apsw.Connection) -> bool:
    """Enable auto_vacuum in a catalogue from before version 3, unless that would take too long.

    Rewrites the whole file (VACUUM), so it must not be in use. An interruption changes nothing.
    Returns whether free pages can be given back now; False: the catalogue is too large.
    """
    if can_shrink(connection):
        return True
    (pages,) = connection.execute("PRAGMA page_count").fetchone() or (0,)
    if int(pages) * PAGE_BYTES > _SHRUNK_AT_ONCE_BYTES:
        return False
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("VACUUM")
    return can_shrink(connection)
