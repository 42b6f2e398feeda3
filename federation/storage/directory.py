"""The data directory: its folders and files, their names, and durable folder changes.

catalogue.sqlite      the catalogue (with -wal and -shm beside it)
blobs/volume-id       marker that identifies the volume
blobs/ab/HASH-SIZE    blobs too large for the catalogue (suffix .blake3 for BLAKE3)
incoming/RUN-N        blobs being received by the process with the run id RUN
quarantine/           damaged blobs, kept for inspection; bounded, and part of the quota
run/RUN.json, .lock   one pair for each process that serves the directory
epoch                 counters that all processes share through memory
maintenance.lock      held by the one process that evicts, scrubs and sweeps
replication.lock      held by the one process that sends to peers
fetch.lock            held by the one process that fetches what no client asks for
open.lock             held while a process opens the directory
reserve               room for eviction to work in when the disk is full
mesh/                 certificates, members and invitations of the mesh; federation/mesh keeps it
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from federation.core.digest import IMPLEMENTATIONS, Digest
from federation.core.errors import SourceUnavailable, StorageFull, StorageRefused, TooBusy
from federation.storage.blob_files import NO_HANDLES
from federation.storage.volume import Volume

_FUNCTIONS = {each.suffix: function for function, each in IMPLEMENTATIONS.items()}
_SUFFIXES = "|".join(re.escape(suffix) for suffix in _FUNCTIONS if suffix)
_BLOB_NAME = re.compile(rf"([0-9a-f]{{64}})-(0|[1-9][0-9]{{0,18}})({_SUFFIXES})?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DataDirectory:
    """Paths below one data directory. Holds no open files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.catalogue = root / "catalogue.sqlite"
        self.old_catalogue = root / "catalogue.old.sqlite"  # kept by rebuild
        self.blobs = root / "blobs"
        self.incoming = root / "incoming"
        self.quarantine = root / "quarantine"
        self.run = root / "run"
        self.epoch = root / "epoch"
        self.maintenance_lock = root / "maintenance.lock"
        self.replication_lock = root / "replication.lock"
        self.fetch_lock = root / "fetch.lock"
        self.open_lock = root / "open.lock"
        self.reserve = root / "reserve"
        self.mesh = root / "mesh"
        self.volume = Volume(self.blobs)
        self._blobs = str(self.blobs)

    def __repr__(self) -> str:
        return f"<DataDirectory {self.root}>"

    def prepare_root(self) -> None:
        """Create the directory itself if it does not exist. Raises StorageRefused."""
        with self._refused():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Asked here, because the first failing write would name a file that nobody knows.
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StorageRefused(f"data directory {self.root} is not writable by this user")

    def prepare(self) -> None:
        """Create the folders that do not exist yet, accessible to the owner only.

        Raises StorageRefused if the directory cannot be used; its message says what to change.
        """
        self.prepare_root()
        with self._refused():
            for folder in (self.blobs, self.incoming, self.quarantine, self.run):
                folder.mkdir(mode=0o700, exist_ok=True)
            with os.scandir(self.blobs) as entries:
                there = {entry.name for entry in entries if entry.is_dir()}
            # All at once, so that no write ever has to make a folder and sync the one above.
            for number in range(256):
                if (name := f"{number:02x}") not in there:
                    (self.blobs / name).mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.blobs)
            sync_folder(self.root)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageRefused(
                f"data directory {self.root} cannot be used: {error.strerror or error}. "
                "It must be a folder that this process's user owns and can write to, on a disk "
                "with free room."
            ) from error

    def blob_path(self, digest: Digest) -> str:
        """Return the path of a blob's file, made of its hash (hex) and size only."""
        # Nothing that a client chose becomes part of a path.
        name = digest.hash.hex()
        suffix = IMPLEMENTATIONS[digest.function].suffix
        return f"{self._blobs}/{name[:2]}/{name}-{digest.size_bytes}{suffix}"

    def has_blob_files(self) -> bool:
        """Return whether there is any blob file: then a missing catalogue was lost."""
        return next(self.blob_files(), None) is not None

    def blob_files(self) -> Iterator[os.DirEntry[str]]:
        """Yield everything in the blob folders, whatever its name."""
        if not self.blobs.is_dir():
            return
        for folder in sorted(os.scandir(self.blobs), key=lambda entry: entry.name):
            if folder.is_dir(follow_symlinks=False):
                with os.scandir(folder.path) as entries:
                    yield from entries


def parse_blob_name(name: str) -> Digest | None:
    """Return the digest that the name of a blob file contains; None: it is no such name."""
    match = _BLOB_NAME.fullmatch(name)
    if match is None:
        return None
    return Digest(bytes.fromhex(match[1]), int(match[2]), _FUNCTIONS[match[3] or ""])


def sync_folder(path: Path | str) -> None:
    """Make the creation and removal of names in this folder durable (fsync). Raises OSError."""
    _sync_and_close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class SpareHandle:
    """A spare file descriptor, for when the process or the machine has none left."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._reopen()

    def __repr__(self) -> str:
        return f"<SpareHandle {self._fd}>"

    def sync_folder(self, path: str) -> None:
        """Make a folder durable like sync_folder(), using the spare descriptor if none is left.

        Raises:
            TooBusy, SourceUnavailable: the folder cannot be opened. What was durable still is.
            OSError: the fsync failed.
        """
        try:
            fd = self._open(path)
        except OSError as error:
            # Nothing was lost, and the next try may find one: no reason to stop writing.
            if error.errno in NO_HANDLES:
                raise TooBusy(f"no file handle left to make {path} durable; try again") from error
            raise SourceUnavailable("disk", f"{path}: {error.strerror}") from error
        try:
            _sync_and_close(fd)
        finally:
            self._reopen()

    def _open(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(path, flags)
        except OSError as error:
            if error.errno not in NO_HANDLES or self._fd is None:
                raise
        self.close()
        return os.open(path, flags)

    def _reopen(self) -> None:
        """Open a spare descriptor if one can be had; otherwise the next call tries again."""
        if self._fd is None:
            with suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the spare descriptor."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@contextmanager
def disk_errors_named(doing: str) -> Iterator[None]:
    """Convert an OSError of the block; doing names the activity in the message.

    Raises StorageFull (no space, no inode, over the disk quota), TooBusy (no file handle left),
    SourceUnavailable (anything else, such as EIO).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"disk full while {doing}: {error.strerror}") from error
        if error.errno in NO_HANDLES:
            raise TooBusy(f"no file handle left while {doing}: {error.strerror}") from error
        raise SourceUnavailable("disk", f"{error.strerror} while {doing}") from error
