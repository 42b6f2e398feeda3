"""Process-wide settings that a serving process makes before anything else runs."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal

from google.protobuf.internal import api_implementation

from federation.core.errors import CannotStart

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_KEPT_BYTES = 64 * 2**20  # what one caller's messages may hold, alone and by default
_MAPPED_FROM_BYTES = 16 * 2**20
_ARENAS = 2
_COLLECT_AFTER = 5_000, 10, 100  # new objects; such collections; collections of those


def prepare() -> None:
    """Prepare this process for serving. Raises CannotStart."""
    open_standard_files()
    os.umask(0o077)  # whatever it makes is for its own user, also where no mode is given
    # A reader of standard error that ends must not end the node; the write fails instead.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    raise_file_limit()
    keep_freed_memory()
    check_protobuf(api_implementation.Type())


def open_standard_files() -> None:
    """Open /dev/null in place of closed standard files.

    Otherwise the next file opened, perhaps a blob, becomes number 2, and what a library writes to
    standard error ends up in it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MiB that was freed, instead of giving back and asking again.

    A read makes and frees megabytes with each message. Given back each time, every page of the
    next message is a fault and has to be cleared: a server that sends 256 MiB from the page cache
    then spends 320 instead of 100 ms of CPU. Many uploads at once free and take again as much as
    their messages may hold together: with 8 MiB kept, an upload of 5 MB took a quarter more of the
    event loop's CPU, and a GB from the bucket of a site, in parts of 8 MiB, 0.75 instead of 0.33 s.
    As each thread would have an arena of its own, which keeps its own, there are two for all: 500
    readers of one blob that is being pulled then leave 25 to 35 MiB behind instead of 100 (with 8
    MiB kept), and reads take no more CPU. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def check_protobuf(implementation: str) -> None:
    """Refuse the pure-Python protobuf: it is slow, and deep nesting can end the process."""
    if implementation != "upb":
        raise CannotStart(
            f"protobuf runs on its {implementation} implementation, not on upb: install a wheel "
            "of protobuf, and unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
        )


def settle() -> None:
    """Exclude what the start has made from every later garbage collection, and make them rarer.

    A full collection looks at all that is alive, on the event loop: 0.15 s with ten peers catching
    up, and several a second with Python's settings. What becomes garbage in cycles here does so
    when it is young; partial collections find it and take milliseconds. The start itself leaves
    less than 1,000 such objects, which are not worth a full collection: it would take a tenth of
    the CPU of a start.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
