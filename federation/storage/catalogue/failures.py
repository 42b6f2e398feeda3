"""What an error while writing the catalogue means, as an error of this program."""

from __future__ import annotations

import errno

import apsw

from federation.core.errors import FederationError, SourceUnavailable, StorageFailed, StorageFull

_NO_ROOM = (apsw.SQLITE_IOERR_SHMSIZE,)


def damaged(reason: str) -> str:
    """Return the message for a catalogue that is not written any more because it is damaged."""
    return (
        f"the catalogue is damaged or unreadable ({reason}). Stop the node, check the disk, and "
        "run `federation rebuild`"
    )


def translate(error: Exception) -> FederationError:
    """Return what a transaction that failed means to its callers."""
    if isinstance(error, FederationError):
        return error
    if isinstance(error, apsw.FullError):
        return StorageFull("disk full while writing the catalogue")
    # A full disk recovers, so it must not stop writing for good as another I/O error does.
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) in _NO_ROOM:
        return StorageFull("disk full while growing the catalogue's shared memory")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"disk full while making a folder durable: {error.strerror}")
    if isinstance(error, apsw.BusyError | apsw.CantOpenError):  # nothing was written
        what = "another process holds its write lock"
        if isinstance(error, apsw.CantOpenError):
            what = f"a file of it cannot be opened ({error}); try again"
        return SourceUnavailable("catalogue", what)
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | UnicodeDecodeError):
        reason = damaged(reason)
    else:
        reason = (
            f"catalogue cannot be written ({reason}); this node is read-only until it is "
            "restarted. Check the disk, then `federation verify`."
        )
    return StorageFailed(reason)
