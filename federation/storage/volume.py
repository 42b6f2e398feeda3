"""Whether the volume below blobs/ is the one that the catalogue is about.

An unmounted disk leaves an empty folder, in which every blob looks deleted. So a marker file lies
in blobs/, with a number that the catalogue knows; and only while it is there, on the device where
it was when the directory was opened, does a file that is not there count as damage. Whatever else
the disk answers (EIO, ESTALE, EACCES, no handle left) says nothing about a blob.
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
    """The folder blobs/. May be used from every thread; trouble is what was found last."""

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
        """Why nothing may be written or called damaged now; empty: nothing is wrong."""
        return self._away or self.breaker.trouble

    def marker(self) -> str | None:
        """Return the number in the marker, None where there is no marker. Raises OSError."""
        return _read(self._marker)[0]

    def make_marker(self, volume_id: str) -> None:
        """Put a marker into blobs/, durably. Raises OSError."""
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
        """Take what lies there now for the right volume; check() compares with it from now on.

        Raises OSError, SourceUnavailable when the marker has another number.
        """
        found, identity = _read(self._marker)
        if found != volume_id:
            raise SourceUnavailable("blobs/", f"its marker says {found}, not {volume_id}")
        self._volume_id, self._identity = volume_id, identity

    def check(self) -> None:
        """Look whether the volume is there now. Raises SourceUnavailable, and remembers why."""
        self._away = self._why_away()
        if self._away:
            raise SourceUnavailable("blobs/", self._away)

    def check_writable(self) -> None:
        """Refuse what would be written to a volume in doubt. Raises SourceUnavailable."""
        if self.trouble:
            raise SourceUnavailable("blobs/", f"{self.trouble}; nothing is stored until then")

    def check_certain(self) -> None:
        """Look, and refuse to remove files of a volume in doubt. Raises SourceUnavailable."""
        self.check()
        if self.trouble:
            raise SourceUnavailable("blobs/", self.trouble)

    def check_quickly(self) -> None:
        """Do what check() does, with one call where all is well. Raises SourceUnavailable."""
        try:
            facts = os.stat(self._marker, follow_symlinks=False)
        except OSError:
            self.check()
            return
        if self._identity != (facts.st_dev, facts.st_ino, facts.st_ctime_ns) or self._away:
            self.check()

    def _why_away(self) -> str:
        if self._volume_id is None or self._identity is None:
            return ""  # nobody said what to expect: offline commands on what they have found
        try:
            found, identity = _read(self._marker)
        except OSError as error:
            return f"{self._marker} cannot be read ({error.strerror}); check the disk"
        if found is None or identity is None:
            return f"{self._marker} is not there; mount the volume that belongs there"
        # A copy that lies below the mount point has the same number. The true one has its device,
        # or, mounted anew under another, still its inode; a chown changes the one and no device.
        is_same = identity[0] == self._identity[0] or identity[1:] == self._identity[1:]
        if found != self._volume_id or not is_same:
            return f"{self._marker} is that of another volume; mount the one that belongs there"
        self._identity = identity
        return ""

    # -- files -----------------------------------------------------------------------------

    def open_blob(self, path: str, size_bytes: int) -> OpenBlob:
        """See blob_files.open_blob; Gone and Unreadable only where the volume is there."""
        try:
            return blob_files.open_blob(path, size_bytes)
        except Damage as damage:
            self.confirm(damage, lambda: blob_files.check_file(path, size_bytes))
            raise

    def check_file(self, path: str, size_bytes: int) -> None:
        """See blob_files.check_file; Gone only where the volume is there."""
        try:
            blob_files.check_file(path, size_bytes)
        except Damage as damage:
            self.confirm(damage, lambda: blob_files.check_file(path, size_bytes))
            raise

    def is_intact(self, path: str, size_bytes: int) -> bool:
        """Whether the file is there and has its size. Raises SourceUnavailable, TooBusy."""
        try:
            self.check_file(path, size_bytes)
        except Damage:
            return False
        return True

    def read_twice(self, read: Callable[[], _T]) -> _T:
        """Read through a descriptor that read opens; through another where the disk gives an error.

        Raises what read does; Unreadable only of a file that could not be read twice.
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
        """Let damage stand that says something of the blob. Raises SourceUnavailable otherwise.

        A file that is not there is looked for once more between two looks at the marker: the
        volume may have come back since the first.
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
    """Return what the marker says and what it is. Raises OSError."""
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
