"""Checks that blobs/ is the volume that belongs to the catalogue.

An unmounted disk leaves an empty folder, in which every blob looks deleted. So blobs/ contains a
marker file with an id that the catalogue knows. A missing blob file counts as damage only while the
marker exists on the same device as when the directory was opened. Other errors of the disk (EIO,
ESTALE, EACCES, no handle left) say nothing about a blob.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from federation.core.errors import SourceUnavailable
from federation.storage import blob_files
from federation.storage.blob_files import Damage, Gone, OpenBlob, Unreadable
from federation.storage.breaker import DamageBreaker

MARKER = "volume-id"
_MARKER_MAX_BYTES = 200

_T = TypeVar("_T")
_Identity = tuple[int, int, int]  # device, inode, ctime of the marker


class Volume:
    """The folder blobs/. May be used from every thread."""

    def __init__(self, blobs: Path) -> None:
        self._marker = blobs / MARKER
        self._volume_id: str | None = None
        self._identity: _Identity | None = None
        self._away = ""
        self.breaker = DamageBreaker()

    def __repr__(self) -> str:
        return f"<Volume {self._volume_id} {self.trouble or 'in order'}>"

    @property
    def trouble(self) -> str:
        """Why nothing may be written or quarantined now, as last checked; empty: all is well."""
        return self._away or self.breaker.trouble

    def marker(self) -> str | None:
        """Return the volume id in the marker; None: there is no marker. Raises OSError."""
        return _read(self._marker)[0]

    def make_marker(self, volume_id: str) -> None:
        """Write the marker into blobs/ durably. Raises OSError."""
        unfinished = self._marker.with_suffix(".tmp")
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            blob_files.write_whole(fd, f"{volume_id}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        unfinished.rename(self._marker)
        folder = os.open(self._marker.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def expect(self, volume_id: str) -> None:
        """Accept the present volume as the right one; later checks compare with it.

        Raises OSError, SourceUnavailable (the marker has another id).
        """
        found, identity = _read(self._marker)
        if found != volume_id:
            raise SourceUnavailable("blobs/", f"its marker contains {found}, not {volume_id}")
        self._volume_id, self._identity = volume_id, identity

    def check(self) -> None:
        """Check that the volume is mounted, and update trouble. Raises SourceUnavailable."""
        self._away = self._find_trouble()
        if self._away:
            raise SourceUnavailable("blobs/", self._away)

    def check_writable(self) -> None:
        """Raise SourceUnavailable if trouble is known: nothing may be written then."""
        if self.trouble:
            raise SourceUnavailable("blobs/", f"{self.trouble}; until then nothing is stored")

    def check_certain(self) -> None:
        """Check the volume; raise SourceUnavailable if anything is wrong: remove nothing then."""
        self.check()
        if self.trouble:
            raise SourceUnavailable("blobs/", self.trouble)

    def check_quickly(self) -> None:
        """Do what check() does, with a single stat if all is well. Raises SourceUnavailable."""
        try:
            facts = os.stat(self._marker, follow_symlinks=False)
        except OSError:
            self.check()
            return
        # After trouble the marker is read, too: a stat alone does not end a doubt.
        if self._identity != (facts.st_dev, facts.st_ino, facts.st_ctime_ns) or self._away:
            self.check()

    def _find_trouble(self) -> str:
        if self._volume_id is None or self._identity is None:
            return ""  # expect() was not called: an offline command works on any volume
        try:
            found, identity = _read(self._marker)
        except OSError as error:
            return f"{self._marker} cannot be read ({error.strerror}); check the disk"
        if found is None or identity is None:
            return f"{self._marker} is not there; mount the volume that belongs there"
        # A copy of the marker below the mount point has the same id, but another device and inode.
        # Mounting the volume again may change the device, and a chown the ctime; not both at once.
        is_same = identity[0] == self._identity[0] or identity[1:] == self._identity[1:]
        if found != self._volume_id or not is_same:
            return f"{self._marker} belongs to another volume; mount the right one"
        # The next quick look compares with the volume as it is mounted now.
        self._identity = identity
        return ""

    # -- files -----------------------------------------------------------------------------

    def open_blob(self, path: str, size_bytes: int) -> OpenBlob:
        """See blob_files.open_blob. Raises Gone and Unreadable only while the volume is mounted."""
        try:
            return blob_files.open_blob(path, size_bytes)
        except Damage as damage:
            self.confirm(damage, lambda: blob_files.check_file(path, size_bytes))
            raise

    def check_file(self, path: str, size_bytes: int) -> None:
        """See blob_files.check_file. Raises Gone only while the volume is mounted."""
        try:
            blob_files.check_file(path, size_bytes)
        except Damage as damage:
            self.confirm(damage, lambda: blob_files.check_file(path, size_bytes))
            raise

    def is_intact(self, path: str, size_bytes: int) -> bool:
        """Return whether the file exists with this size. Raises SourceUnavailable, TooBusy."""
        try:
            self.check_file(path, size_bytes)
        except Damage:
            return False
        return True

    def read_twice(self, read: Callable[[], _T]) -> _T:
        """Call read, which opens the file itself; call it once more if it raises Unreadable.

        Raises what read raises; Unreadable only after two attempts on a mounted volume.
        """
        try:
            return read()
        except Unreadable:
            self.check()
        try:
            return read()
        except Unreadable:
            self.check()
            raise

    def confirm(self, damage: Damage, look_again: Callable[[], None]) -> None:
        """Confirm that damage concerns the blob, not the volume; else raise SourceUnavailable.

        A missing file is looked for again between two checks of the marker: the volume may have
        been mounted since the file was first looked for.
        """
        if not isinstance(damage, Gone | Unreadable):
            return
        self.check()
        if isinstance(damage, Gone):
            try:
                look_again()
            except Gone:
                self.check()
            else:
                raise SourceUnavailable("blobs/", "its volume was away a moment ago")


def _read(marker: Path) -> tuple[str | None, _Identity | None]:
    """Return the marker's content and identity; (None, None): it is missing. Raises OSError."""
    try:
        fd = os.open(marker, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    try:
        facts = os.fstat(fd)
        text = os.read(fd, _MARKER_MAX_BYTES).decode(errors="replace").strip()
    finally:
        os.close(fd)
    return text, (facts.st_dev, facts.st_ino, facts.st_ctime_ns)
