"""Setting damaged blobs aside: out of sight at once, the bytes kept for people to look at.

The row goes first (in the same transaction as the note of why), then the file is moved, both
under the catalogue's write lock, so that a fresh upload of the same blob cannot be hit.
"""

from __future__ import annotations

import os

import apsw

from federation.core.digest import Digest
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.footprint import in_blocks
from federation.storage.catalogue.transaction import Transaction
from federation.storage.directory import DataDirectory

KEPT_MAX = 200  # damaged blobs kept for inspection; older ones are removed


def quarantine(
    transaction: Transaction, directory: DataDirectory, digest: Digest, seq: int, reason: str
) -> bool:
    """Make a damaged blob missing. False: it is not the same object any more (healed, evicted)."""
    key = catalogue.key_of(digest)
    row = catalogue.look_up(transaction.connection, [key]).get(key)
    if row is None or row.seq != seq:
        return False
    digest = catalogue.digest_of_key(key, row.size_bytes)
    path = directory.blob_path(digest)
    aside = f"{os.path.basename(path)}.{seq}"
    target = directory.quarantine / aside
    if row.inline:
        for (data,) in transaction.connection.execute(
            "SELECT data FROM small WHERE seq = ?", (seq,)
        ).fetchall():
            _keep(str(target), data)
    catalogue.delete(transaction, row)
    transaction.connection.execute(
        "INSERT INTO quarantine (key, size, reason, found, file) VALUES (?, ?, ?, ?, ?)",
        (key, row.size_bytes, reason, transaction.wall_s, aside),
    )
    if not row.inline:
        _move(path, str(target))
    _forget_old(transaction, directory)
    return True


def was_set_aside(connection: apsw.Connection, key: bytes) -> bool:
    """Whether a blob with this catalogue key was found damaged, as far back as that is kept."""
    found = connection.execute("SELECT 1 FROM quarantine WHERE key = ? LIMIT 1", (key,)).fetchone()
    return found is not None


def quarantined_bytes(connection: apsw.Connection) -> int:
    """Return what the blobs set aside take of the disk."""
    rows = connection.execute("SELECT size FROM quarantine").fetchall()
    return sum(in_blocks(int(str(size))) for (size,) in rows)


def _keep(target: str, data: object) -> None:
    """Save damaged inline bytes; without room they are lost, which harms nobody."""
    if isinstance(data, bytes):
        try:
            with open(target, "wb") as file:
                file.write(data)
        except OSError:
            return


def _move(path: str, target: str) -> None:
    """Move what lies there, whatever it is; a crash in between leaves a stray file to the sweep."""
    try:
        os.rename(path, target)
    except OSError:
        return  # gone already, or not movable: the row is gone, so it is never served


def _forget_old(transaction: Transaction, directory: DataDirectory) -> None:
    for (name,) in transaction.connection.execute(
        "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ? RETURNING file",
        (KEPT_MAX,),
    ).fetchall():
        try:
            os.unlink(directory.quarantine / str(name))
        except OSError:
            continue  # removed by people
