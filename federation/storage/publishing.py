"""Makes verified blobs visible: operations that the catalogue's writer runs.

A file gets its final name inside the write transaction that inserts its row, and is removed only
under the same lock while it has no row. So a late removal can never hit a new upload, and a file
without a row is always garbage, whichever process finds it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

from federation.core.digest import Digest
from federation.core.errors import StorageFull
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import purges
from federation.storage.catalogue.blobs import BlobRow, key_of
from federation.storage.catalogue.footprint import cost_of_blob
from federation.storage.catalogue.transaction import Transaction
from federation.storage.directory import DataDirectory, disk_errors_named

_FULL = "the quota is used up; nothing was stored"


def place_file(
    transaction: Transaction,
    directory: DataDirectory,
    digest: Digest,
    received: str,
    origin: Provenance,
) -> bool:
    """Give a received, verified and synced file its final name and its row.

    Returns False if the blob is held already, or was purged and no client sends it. Unless True is
    returned, the caller has to remove the received file.

    Raises StorageFull, SourceUnavailable (the volume is not mounted, or a disk error), TooBusy.
    """
    directory.volume.check_quickly()
    key = key_of(digest)
    row = catalogue.look_up(transaction.connection, [key]).get(key)
    # Another upload may have been faster since this one began, seconds or hours ago.
    if row is not None:
        if _is_whole(directory, digest, row):
            catalogue.renew(transaction, row, origin)
            return False
        catalogue.delete(transaction, row)
    barred, again = purges.bar(transaction, [key], is_push=origin.source is Source.CLIENT)
    if barred:
        return False
    if not transaction.room_for(cost_of_blob(digest.size_bytes, inline=False)):
        raise StorageFull(_FULL)
    purges.allow(transaction, [digest] if again else ())
    path = directory.blob_path(digest)
    # Before the row: a crash here leaves a file without a row, which is swept.
    _rename(directory, received, path)
    transaction.folders.add(os.path.dirname(path))
    # Behind the rename, which changes it.
    ctime_ns = os.stat(path, follow_symlinks=False).st_ctime_ns
    catalogue.insert(transaction, key, digest.size_bytes, None, ctime_ns, origin)
    return True


def place_inline(
    transaction: Transaction,
    directory: DataDirectory,
    blobs: Sequence[tuple[Digest, bytes]],
    origin: Provenance,
) -> list[bool | StorageFull]:
    """Insert verified small blobs, which must all be different.

    Returns for each blob True (stored), False (held already, or purged and sent by no client) or
    the reason of the refusal.
    """
    keys = catalogue.keys_of([digest for digest, _ in blobs])
    rows = catalogue.look_up(transaction.connection, keys)
    barred, again = purges.bar(transaction, keys, is_push=origin.source is Source.CLIENT)
    cost_bytes = catalogue.cost_of_inline([len(data) for _, data in blobs])
    is_plain = not (rows or barred or again)
    if is_plain and transaction.room_for(cost_bytes):  # the usual case
        new = [(key, data) for key, (_, data) in zip(keys, blobs, strict=True)]
        catalogue.insert_inline(transaction, new, origin)
        return [True] * len(blobs)
    outcomes: list[bool | StorageFull] = []
    new, new_bytes = [], 0
    for (digest, data), key in zip(blobs, keys, strict=True):
        row = rows.get(key)
        if key in barred:
            outcomes.append(False)
            continue
        if row is not None and _is_whole(directory, digest, row):
            catalogue.renew(transaction, row, origin)
            outcomes.append(False)
            continue
        if row is not None:
            catalogue.delete(transaction, row)
        cost_bytes = cost_of_blob(digest.size_bytes, inline=True)
        if not transaction.room_for(new_bytes + cost_bytes):
            outcomes.append(StorageFull(_FULL))
            continue
        if key in again:
            purges.allow(transaction, [digest])
        new.append((key, data))
        new_bytes += cost_bytes
        outcomes.append(True)
    catalogue.insert_inline(transaction, new, origin)
    return outcomes


def find_or_place_inline(
    transaction: Transaction,
    directory: DataDirectory,
    digest: Digest,
    data: bytes,
    origin: Provenance,
) -> bool | StorageFull | BlobRow:
    """Do what place_inline does for one blob, but write nothing if a client's blob is held.

    Returns its row then; the caller has to lease the blob.
    """
    key = key_of(digest)
    row = catalogue.look_up(transaction.connection, [key]).get(key)
    if (
        row is not None
        and row.inline
        and not row.marked_ms
        # One that only an upstream gave becomes the client's, which is a write.
        and row.source != Source.UPSTREAM
        and origin.source is Source.CLIENT
    ):
        return row
    (outcome,) = place_inline(transaction, directory, [(digest, data)], origin)
    return outcome


def rename_stray(
    transaction: Transaction, directory: DataDirectory, path: str, key: bytes, target: str
) -> bool:
    """Rename the file at a blob's path to target if no row claims it; return whether it was.

    Returns False if a row claims it, it is gone or it cannot be renamed. Under its new name it can
    be removed at any time: no upload uses that name.
    """
    row = catalogue.look_up(transaction.connection, [key]).get(key) if key else None
    if row is not None and not row.inline:
        named = directory.blob_path(catalogue.digest_of_key(key, row.size_bytes))
        if named == path:
            return False
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return False
    except OSError:
        return _move_stray(directory, path)
    return True


def discard(directory: DataDirectory, path: str) -> bool:
    """Unlink a file; move a folder, which cannot be unlinked, to quarantine/. False: neither."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return _move_stray(directory, path)
    return True


def _is_whole(directory: DataDirectory, digest: Digest, row: BlobRow) -> bool:
    """Return whether the blob's bytes exist: a lost or cut file must not block a new upload."""
    if row.inline:
        return True
    return directory.volume.is_intact(directory.blob_path(digest), digest.size_bytes)


def _rename(directory: DataDirectory, received: str, path: str) -> None:
    with disk_errors_named("naming a blob"):
        try:
            os.rename(received, path)
        except IsADirectoryError:
            _move_stray(directory, path)
            os.rename(received, path)


def _move_stray(directory: DataDirectory, path: str) -> bool:
    try:
        os.rename(path, directory.quarantine / f"stray-{uuid.uuid4().hex[:12]}")
    except OSError:
        return False
    return True
