"""The files of the statistics: one for each process at a time, in one folder.

A process holds a lock on N.lock as long as it lives, and alone writes N.json. The lock is the
kernel's, so the file of a process that was killed is free for the next one, which adds to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from federation.observability.statistics.history import History, HistoryDamaged

_SLOTS_MAX = 128  # processes on one data directory
_BYTES_MAX = 16 * 2**20


def folder_of(data_dir: Path) -> Path:
    """Return where the statistics of a data directory are."""
    return data_dir / "statistics"


class StatisticsSlot:
    """One file that this process alone writes."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock  # a descriptor

    def __repr__(self) -> str:
        return f"<StatisticsSlot {self._path}>"

    @classmethod
    def take(cls, folder: Path) -> StatisticsSlot:
        """Take the first file that no other process has. Raises OSError, also if all are taken."""
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(_SLOTS_MAX):
            lock = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process lives, and has this one.
            except BlockingIOError:
                os.close(lock)
            except BaseException:
                os.close(lock)
                raise
            else:
                return cls(folder / f"{number}.json", lock)
        raise OSError(errno.EUSERS, f"{_SLOTS_MAX} processes record in {folder} already")

    def read(self) -> History:
        """Return what was written last, by whichever process. Raises OSError, HistoryDamaged."""
        return _read(self._path)

    def write(self, text: str) -> None:
        """Replace the file, so that after a crash it is either the old or the new one.

        Raises OSError.
        """
        # Of a fixed name, as only the process with the lock writes it: a crash leaves one at most.
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a file system may keep the name and not the bytes
        temporary.replace(self._path)

    def release(self) -> None:
        """Let the next process have it."""
        os.close(self._lock)


def read_all(folder: Path) -> tuple[History, list[str]]:
    """Return the sum of all files, and what is wrong with those that cannot be read."""
    history, problems = History(), []
    for number in range(_SLOTS_MAX):
        path = folder / f"{number}.json"
        try:
            history.merge(_read(path))
        except (OSError, HistoryDamaged) as error:
            problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    return history, problems


def _read(path: Path) -> History:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        # A process that has not written yet, or a number that was never taken.
        return History()
    except UnicodeDecodeError as error:
        raise HistoryDamaged(str(error)) from None
    if len(text) > _BYTES_MAX:
        raise HistoryDamaged(f"it has more than {_BYTES_MAX} bytes")
    return History.of_text(text)
