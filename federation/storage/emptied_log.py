"""Empties the catalogue's write-ahead log, whose old pages still have what was purged."""

from __future__ import annotations

from typing import Any

import apsw
import structlog

from federation.storage.catalogue import schema
from federation.storage.context import StorageContext

_BUSY_MS = 100  # writers wait that long at most, for readers of old pages
_TRIES = 20
_AGAIN_S = 0.1

_log = structlog.get_logger(__name__)


async def empty_log(core: StorageContext) -> bool:
    """Copy the log into the catalogue and truncate it; return whether that was possible.

    A reader of old pages holds it up. After a few seconds of that the log stays as it is, until
    later pages take the place of the old ones, or the last process on the directory ends.
    """
    reason = ""
    for _ in range(_TRIES):
        try:
            if await core.writes.run(_truncate, core):
                return True
            reason = "another process is reading"
        except apsw.Error as error:  # such as a full disk
            reason = str(error)
        await core.clock.sleep(_AGAIN_S)
    _log.warning("purged_bytes_in_log", file=f"{core.directory.catalogue}-wal", reason=reason)
    return False


def _truncate(core: StorageContext) -> bool:
    # A connection of its own, as its patience is: TRUNCATE keeps writers waiting as long as it
    # waits.
    connection = schema.connect(core.directory.catalogue, create=False, busy_ms=_BUSY_MS)
    try:
        row: Any = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not row[0]
    finally:
        connection.close()
