"""The data directory: which folders and files it has, their names, and durable folder changes.

catalogue.sqlite      what is visible (with -wal and -shm beside it)
blobs/volume-id       says that the right volume lies there
blobs/ab/HASH-SIZE    blobs too large for the catalogue (.blake3 behind the name for BLAKE3)
incoming/RUN-N        blobs being received by the process whose run id begins the name
quarantine/           blobs found damaged, for people to look at; bounded, within the quota
run/RUN.json, .lock   one pair a process that serves this directory
epoch                 a counter shared by all of them through memory
maintenance.lock      held by the one process that evicts, scrubs and sweeps
replication.lock      held by the one process that sends to peers
reserve               room to evict in when the disk is full
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
        self.old_catalogue = root / "catalogue.old.sqlite"  # beside the one that rebuild has made
        self.blobs = root / "blobs"
        self.incoming = root / "incoming"
        self.quarantine = root / "quarantine"
        self.run = root / "run"
        self.epoch = root / "epoch"
        self.maintenance_lock = root / "maintenance.lock"
        self.replication_lock = root / "replication.lock"
        self.open_lock = root / "open.lock"
        self.reserve = root / "reserve"
        self.volume = Volume(self.blobs)
        self._blobs = str(self.blobs)

    def __repr__(self) -> str:
        return f"<DataDirectory {self.root}>"

    def prepare_root(self) -> None:
        """Create the directory itself where it is not there yet. Raises StorageRefused."""
        with self._refused():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StorageRefused(f"data directory {self.root} is not writable by this user")

    def prepare(self) -> None:
        """Create what is not there yet, readable by the owner only.

        Raises StorageRefused when the directory cannot be used, saying what to change.
        """
        self.prepare_root()
        with self._refused():
            for folder in (self.blobs, self.incoming, self.quarantine, self.run):
                folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(256):
                (self.blobs / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.blobs)
            sync_folder(self.root)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageRefused(
                f"data directory {self.root} cannot be used: {error.strerror or error}. "
                "It must be a folder that the user of this process owns and may write, on a disk "
                "with room left."
            ) from error

    def blob_path(self, digest: Digest) -> str:
        """Return where the blob's file is; only digits of its own hash and size make the path."""
        name = digest.hash.hex()
        suffix = IMPLEMENTATIONS[digest.function].suffix
        return f"{self._blobs}/{name[:2]}/{name}-{digest.size_bytes}{suffix}"

    def has_blob_files(self) -> bool:
        """Whether any blob file lies here: then a missing catalogue was lost, it is not new."""
        return next(self.blob_files(), None) is not None

    def blob_files(self) -> Iterator[os.DirEntry[str]]:
        """Walk everything that lies in the blob folders, named as a blob or not."""
        if not self.blobs.is_dir():
            return
        for folder in sorted(os.scandir(self.blobs), key=lambda entry: entry.name):
            if folder.is_dir(follow_symlinks=False):
                with os.scandir(folder.path) as entries:
                    yield from entries


def parse_blob_name(name: str) -> Digest | None:
    """Return the digest that a blob file's name states, None if it is no such name."""
    match = _BLOB_NAME.fullmatch(name)
    if match is None:
        return None
    return Digest(bytes.fromhex(match[1]), int(match[2]), _FUNCTIONS[match[3] or ""])


def sync_folder(path: Path | str) -> None:
    """Make names created or removed in this folder durable. Raises OSError."""
    _sync_and_close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class SpareHandle:
    """A descriptor kept for the moment when this process, or the machine, has none left."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._take()

    def __repr__(self) -> str:
        return f"<SpareHandle {self._fd}>"

    def sync_folder(self, path: str) -> None:
        """Do what sync_folder() does, without needing a descriptor more than there are.

        Raises TooBusy, SourceUnavailable when the folder cannot be opened: then nothing is lost
        that was durable. Raises OSError when it cannot be made durable.
        """
        try:
            fd = self._open(path)
        except OSError as error:
            if error.errno in NO_HANDLES:
                raise TooBusy(f"no file handle left to make {path} durable; try again") from error
            raise SourceUnavailable("disk", f"{path}: {error.strerror}") from error
        try:
            _sync_and_close(fd)
        finally:
            self._take()

    def _open(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(path, flags)
        except OSError as error:
            if error.errno not in NO_HANDLES or self._fd is None:
                raise
        self.close()
        return os.open(path, flags)

    def _take(self) -> None:
        """Keep one where there is one to keep; else the next folder needs one of the others'."""
        if self._fd is None:
            with suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give it back."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@contextmanager
def disk_errors_named(doing: str) -> Iterator[None]:
    """Turn what the disk refuses into errors that callers know.

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
