"""Unix sockets: listening on one that nobody else is let in to, and reaching one by any path.

The kernel takes 107 bytes of a path, and data directories have longer ones: the socket is named
through a descriptor of its folder.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.access.new_files import alone
from federation.core.errors import CannotStart

_BACKLOG = 128


def listen_unix(path: Path, mode: int) -> socket.socket:
    """Return a listening socket at this path; it replaces one that nobody serves any more.

    mode: the permissions; connecting needs the right to write.

    Raises CannotStart.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _undisturbed(path.parent), reachable(path) as short:
            if _is_left_over(path, short):
                path.unlink()
            os.fchmod(listening.fileno(), 0o600)  # what bind gives the file, less the umask
            listening.bind(short)
            path.chmod(mode)
            listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise CannotStart(f"cannot listen on {path}: {error.strerror or error}") from None
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def process_socket(data_dir: Path) -> Path:
    """Return a path for the socket of this process; makes the folder, and room in it.

    Not named after the process id: containers on one directory may have the same. Raises OSError.
    """
    folder = data_dir / "http"
    folder.mkdir(mode=0o700, exist_ok=True)
    _remove_left_over(folder)
    return folder / f"{secrets.token_hex(6)}.sock"


@contextmanager
def _undisturbed(folder: Path) -> Iterator[None]:
    """Keep other processes from removing a socket between its bind and its listen.

    Until then it looks like one that was left behind. Raises OSError.
    """
    if folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        # The folder of `http.socket`: other users could hold its lock for ever, and no process
        # removes another's socket there.
        yield
        return
    with alone(folder):
        yield


def _remove_left_over(folder: Path) -> None:
    """Remove the sockets of processes that were killed. Raises OSError."""
    with _undisturbed(folder):
        for path in folder.glob("*.sock"):
            with reachable(path) as short:
                if path.is_socket() and _is_left_over(path, short):
                    path.unlink(missing_ok=True)


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield a path to connect to while the block runs, however long this one is. Raises OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _is_left_over(path: Path, short: str) -> bool:
    """Whether there is a socket that nobody listens on. Raises CannotStart for any other file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotStart(f"cannot listen on {path}: it is a file, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            # Nothing but connecting tells: a socket's file stays when its process is killed.
            probe.connect(short)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except BlockingIOError:  # its queue is full
            return False
    return False
