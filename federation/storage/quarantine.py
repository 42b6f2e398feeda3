"""Setting damaged blobs aside: out of sight at once, the bytes kept for people to look at.

The row goes first (in the same transaction as the note of why), then the file is moved, both
under the catalogue's write lock, so that a fresh upload of the same blob cannot be hit.

What is kept is bounded in number and bytes, and counts against the quota. Only what was proven
wrong is removed to stay within that. A file that could not be read may be right: it is looked at
again (`second_look`), and where there is no room for it the blob stays where it is.
"""

from __future__ import annotations

import enum
import errno
import os
from contextlib import suppress
from typing import Any, NamedTuple

import apsw

from federation.core.digest import Digest
from federation.core.store import FROM_CLIENT, Provenance, Source
from federation.storage.blob_files import Damage, Gone
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.catalogue.footprint import in_blocks
from federation.storage.catalogue.transaction import Transaction
from federation.storage.directory import DataDirectory, parse_blob_name
from federation.storage.publishing import place_file

KEPT_MAX = 200  # damaged blobs kept for inspection; older ones are removed
_KEPT_MAX_BYTES = 2**30
_KEPT_PART = 20  # of the quota
_UNREAD = ".unread"  # behind the name of what was not proven wrong


class Aside(enum.Enum):
    """What became of a report of damage."""

    DONE = "set aside"
    STALE = "it is not the same object any more"  # healed, evicted, restored
    NO_ROOM = "its bytes may be right, and there is no room to keep them elsewhere"


class Kept(NamedTuple):
    """A file in quarantine/."""

    name: str
    size_bytes: int
    at_ns: int

    @property
    def is_proven(self) -> bool:
        """Whether it is of no use."""
        return not self.name.endswith(_UNREAD)


def quarantine(
    transaction: Transaction, directory: DataDirectory, digest: Digest, seq: int, damage: Damage
) -> Aside:
    """Make a damaged blob missing. Raises SourceUnavailable (its volume is away)."""
    key = catalogue.key_of(digest)
    row = catalogue.look_up(transaction.connection, [key]).get(key)
    if row is None or row.seq != seq:
        return Aside.STALE
    digest = catalogue.digest_of_key(key, row.size_bytes)
    path = directory.blob_path(digest)
    if isinstance(damage, Gone) and directory.volume.is_intact(path, row.size_bytes):
        return Aside.STALE  # whoever looked did so at a bad moment
    size_bytes = _size_of(row, path)
    aside = f"{os.path.basename(path)}.{seq}{'' if damage.is_proven else _UNREAD}"
    kept = _make_room(transaction, directory, size_bytes)
    if not damage.is_proven and not (kept and _move(path, directory, aside)):
        return Aside.NO_ROOM
    if row.inline:
        _keep_inline(transaction, directory, seq, aside if kept else "")
    catalogue.delete(transaction, row)
    transaction.connection.execute(
        "INSERT INTO quarantine (key, size, reason, found, file) VALUES (?, ?, ?, ?, ?)",
        (key, row.size_bytes, str(damage), transaction.wall_s, aside if kept else ""),
    )
    if not row.inline and damage.is_proven:
        _take_away(path, directory, aside if kept else "")
    transaction.connection.execute(
        "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (KEPT_MAX,)
    )
    return Aside.DONE


def was_set_aside(connection: apsw.Connection, key: bytes) -> bool:
    """Whether a blob with this catalogue key was found damaged, as far back as that is kept."""
    found = connection.execute("SELECT 1 FROM quarantine WHERE key = ? LIMIT 1", (key,)).fetchone()
    return found is not None


def kept_files(directory: DataDirectory) -> list[Kept]:
    """Return what lies in quarantine/, oldest first. Raises OSError."""
    found = []
    with suppress(FileNotFoundError), os.scandir(directory.quarantine) as entries:  # or none yet
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed by people
                continue
            found.append(Kept(entry.name, facts.st_size, facts.st_ctime_ns))
    return sorted(found, key=lambda kept: kept.at_ns)


def kept_bytes(directory: DataDirectory) -> int:
    """Return how much the files in quarantine/ take of the disk. Raises OSError."""
    return sum(in_blocks(kept.size_bytes) for kept in kept_files(directory))


def unread_files(directory: DataDirectory) -> list[tuple[Digest, int, str]]:
    """Return what was set aside unproven: digest, row, name in quarantine/. Raises OSError."""
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
    """Give a file that turned out to be right its place back. False: the blob is held already."""
    received = str(directory.quarantine / name)
    origin = _came(transaction.connection, seq)
    if place_file(transaction, directory, digest, received, origin):
        return True
    _remove(received)  # the same bytes are held
    return False


def give_up(directory: DataDirectory, name: str) -> None:
    """Note that an unproven file is proven wrong now. Raises OSError."""
    path = directory.quarantine / name
    path.rename(str(path).removesuffix(_UNREAD))


def _came(connection: apsw.Connection, seq: int) -> Provenance:
    row: Any = connection.execute(
        "SELECT source, via, origin FROM log WHERE seq = ?", (seq,)
    ).fetchone()
    if row is None:
        return FROM_CLIENT
    return Provenance(Source(row[0]), tuple(row[1].split(",")) if row[1] else (), row[2])


def _size_of(row: BlobRow, path: str) -> int:
    """Return how much would be kept: a damaged file may have any size."""
    if row.inline:
        return row.size_bytes
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def _make_room(transaction: Transaction, directory: DataDirectory, size_bytes: int) -> bool:
    """Remove the oldest that was proven wrong until one more fits; False: it does not."""
    most_bytes = min(_KEPT_MAX_BYTES, transaction.quota_bytes // _KEPT_PART)
    try:
        kept = kept_files(directory)
    except OSError:
        return False
    count, total = len(kept) + 1, sum(one.size_bytes for one in kept) + size_bytes
    for one in kept:
        if size_bytes > most_bytes or (count <= KEPT_MAX and total <= most_bytes):
            break
        if one.is_proven and _remove(str(directory.quarantine / one.name)):
            count, total = count - 1, total - one.size_bytes
    return count <= KEPT_MAX and total <= most_bytes


def _keep_inline(transaction: Transaction, directory: DataDirectory, seq: int, aside: str) -> None:
    """Save damaged inline bytes; without room they are lost, which harms nobody."""
    for (data,) in transaction.connection.execute(
        "SELECT data FROM small WHERE seq = ?", (seq,)
    ).fetchall():
        if not aside or not isinstance(data, bytes):
            return
        try:
            (directory.quarantine / aside).write_bytes(data)
        except OSError:
            return


def _take_away(path: str, directory: DataDirectory, aside: str) -> None:
    """Take what is proven wrong away; what cannot be moved is left to the sweep."""
    if not (aside and _move(path, directory, aside)):
        _remove(path)


def _move(path: str, directory: DataDirectory, aside: str) -> bool:
    try:
        os.rename(path, directory.quarantine / aside)
    except OSError:
        return False
    return True


def _remove(path: str) -> bool:
    """Remove a file, or a folder that is empty."""
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
