"""Quarantine of damaged blobs: they become missing at once; their bytes are kept for inspection.

One transaction deletes the row, records the reason and moves the file. It holds the catalogue's
write lock, so that a new upload of the same blob cannot be affected.

quarantine/ is bounded in number and bytes, and counts against the quota. Only files that are proven
wrong are removed to stay within the bounds. A file that could not be read may be right: VolumeWatch
checks it again later, and if there is no room for it, the blob stays where it is.
"""

from __future__ import annotations

import enum
import errno
import os
from contextlib import suppress
from typing import Any, NamedTuple

import apsw

from federation.core.digest import Digest
from federation.storage.blob_files import Damage, Gone
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import change_log, lost
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.catalogue.footprint import in_blocks
from federation.storage.catalogue.transaction import Transaction
from federation.storage.directory import DataDirectory, parse_blob_name
from federation.storage.publishing import place_file

KEPT_MAX = 200  # damaged blobs kept for inspection; older ones are removed
_KEPT_MAX_BYTES = 2**30
_KEPT_PART = 20  # 1/20 of the quota
_UNREAD = ".unread"  # suffix of files that are not proven wrong


class QuarantineOutcome(enum.Enum):
    """What a report of damage led to."""

    DONE = "quarantined"
    STALE = "the blob was replaced or removed since it was read"
    NO_ROOM = "its bytes may be right, and quarantine/ has no room for them"


class Kept(NamedTuple):
    """A file in quarantine/; at_ns is its ctime."""

    name: str
    size_bytes: int
    at_ns: int

    @property
    def is_proven(self) -> bool:
        """Whether the file is certainly not the blob."""
        return not self.name.endswith(_UNREAD)


def quarantine(
    transaction: Transaction, directory: DataDirectory, digest: Digest, seq: int, damage: Damage
) -> QuarantineOutcome:
    """Make a damaged blob missing, and keep its bytes if there is room.

    seq: the blob's row in the change log when the damage was found.

    Raises SourceUnavailable (its volume is not mounted).
    """
    key = catalogue.key_of(digest)
    row = catalogue.look_up(transaction.connection, [key]).get(key)
    # By the row that was read: a new upload of the same blob is another copy.
    if row is None or row.seq != seq:
        return QuarantineOutcome.STALE
    digest = catalogue.digest_of_key(key, row.size_bytes)
    path = directory.blob_path(digest)
    if isinstance(damage, Gone) and directory.volume.is_intact(path, row.size_bytes):
        return QuarantineOutcome.STALE  # the file was missing for a moment only
    size_bytes = _size_of(row, path)
    name = f"{os.path.basename(path)}.{seq}{'' if damage.is_proven else _UNREAD}"
    has_room = _make_room(transaction, directory, size_bytes)
    # Moved before its row goes: bytes that may be right must not be lost by an error in between.
    if not damage.is_proven and not (has_room and _move(path, directory, name)):
        return QuarantineOutcome.NO_ROOM
    if row.inline:
        _keep_inline(transaction, directory, seq, name if has_room else "")
    catalogue.delete(transaction, row)
    transaction.connection.execute(
        "INSERT INTO quarantine (key, size, reason, found, file) VALUES (?, ?, ?, ?, ?)",
        (key, row.size_bytes, str(damage), transaction.wall_s, name if has_room else ""),
    )
    lost.add(transaction, row, str(damage))
    if not row.inline and damage.is_proven:
        _move_or_remove(path, directory, name if has_room else "")
    transaction.connection.execute(
        "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (KEPT_MAX,)
    )
    return QuarantineOutcome.DONE


def was_set_aside(connection: apsw.Connection, key: bytes) -> bool:
    """Return whether the quarantine's records, of which old ones are removed, have this key."""
    found = connection.execute("SELECT 1 FROM quarantine WHERE key = ? LIMIT 1", (key,)).fetchone()
    return found is not None


def forget(transaction: Transaction, directory: DataDirectory, key: bytes) -> None:
    """Remove the records and the files of one blob."""
    rows: Any = transaction.connection.execute(
        "DELETE FROM quarantine WHERE key = ? RETURNING file", (key,)
    ).fetchall()
    for (name,) in rows:
        if name:
            # A file that was proven wrong after it could not be read has lost its suffix.
            _remove(str(directory.quarantine / name))
            _remove(str(directory.quarantine / name.removesuffix(_UNREAD)))


def kept_files(directory: DataDirectory) -> list[Kept]:
    """Return the files in quarantine/, oldest first. Raises OSError."""
    found = []
    with suppress(FileNotFoundError), os.scandir(directory.quarantine) as entries:
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # an operator removed it just now
                continue
            found.append(Kept(entry.name, facts.st_size, facts.st_ctime_ns))
    return sorted(found, key=lambda kept: kept.at_ns)


def kept_bytes(directory: DataDirectory) -> int:
    """Return how many bytes of the disk the files in quarantine/ take. Raises OSError."""
    return sum(in_blocks(kept.size_bytes) for kept in kept_files(directory))


def unread_files(directory: DataDirectory) -> list[tuple[Digest, int, str]]:
    """Return the files not proven wrong: digest, log row, name in quarantine/. Raises OSError."""
    found = []
    for kept in kept_files(directory):
        name, _, seq = kept.name.removesuffix(_UNREAD).rpartition(".")
        digest = parse_blob_name(name)
        if not kept.is_proven and digest is not None and seq.isdecimal():
            found.append((digest, int(seq), kept.name))
    return found


def restore(
    transaction: Transaction, directory: DataDirectory, digest: Digest, seq: int, name: str
) -> bool:
    """Move a file that proved right back to blobs/. Returns False if the blob is held already."""
    received = str(directory.quarantine / name)
    origin = change_log.provenance(transaction.connection, seq)
    if place_file(transaction, directory, digest, received, origin):
        return True
    _remove(received)  # the same bytes are held
    return False


def give_up(directory: DataDirectory, name: str) -> None:
    """Rename a file in quarantine/ that is proven wrong now. Raises OSError."""
    path = directory.quarantine / name
    path.rename(str(path).removesuffix(_UNREAD))


def _size_of(row: BlobRow, path: str) -> int:
    """Return the size of the bytes to keep: a damaged file may have any size."""
    if row.inline:
        return row.size_bytes
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def _make_room(transaction: Transaction, directory: DataDirectory, size_bytes: int) -> bool:
    """Remove the oldest files that are proven wrong until one more fits; return whether it does."""
    most_bytes = min(_KEPT_MAX_BYTES, transaction.quota_bytes // _KEPT_PART)
    try:
        kept = kept_files(directory)
    except OSError:
        return False
    count, total = len(kept) + 1, sum(one.size_bytes for one in kept) + size_bytes
    for one in kept:
        if size_bytes > most_bytes or (count <= KEPT_MAX and total <= most_bytes):
            break
        # What could not be read may be the only copy, so it never makes room.
        if one.is_proven and _remove(str(directory.quarantine / one.name)):
            count, total = count - 1, total - one.size_bytes
    return count <= KEPT_MAX and total <= most_bytes


def _keep_inline(transaction: Transaction, directory: DataDirectory, seq: int, name: str) -> None:
    """Write damaged inline bytes to quarantine/. Without room (name "") they are dropped."""
    for (data,) in transaction.connection.execute(
        "SELECT data FROM small WHERE seq = ?", (seq,)
    ).fetchall():
        if not name or not isinstance(data, bytes):
            return
        try:
            (directory.quarantine / name).write_bytes(data)
        except OSError:
            return


def _move_or_remove(path: str, directory: DataDirectory, name: str) -> None:
    """Move a wrong file to quarantine/, or remove it. If both fail, the sweep removes it later."""
    if not (name and _move(path, directory, name)):
        _remove(path)


def _move(path: str, directory: DataDirectory, name: str) -> bool:
    try:
        os.rename(path, directory.quarantine / name)
    except OSError:
        return False
    return True


def _remove(path: str) -> bool:
    """Remove a file or an empty folder; return whether that worked."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            return False
        try:
            os.rmdir(path)
        except OSError:
            return False
    return True
