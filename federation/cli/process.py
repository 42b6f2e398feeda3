"""What a serving process sets up once about itself, before anything else runs."""

from __future__ import annotations

import gc
import os
import resource
import signal

from google.protobuf.internal import api_implementation

from federation.errors import CannotStart


def prepare() -> None:
    """Make this process fit to serve. Raises CannotStart."""
    open_standard_files()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    raise_file_limit()
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


def check_protobuf(implementation: str) -> None:
    """Refuse the pure-Python protobuf: it is slow, and deep nesting can end the process."""
    if implementation != "upb":
        raise CannotStart(
            f"protobuf runs on its {implementation} implementation, not on upb: install a wheel "
            "of protobuf, and unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
        )


def settle() -> None:
    """Keep what the start has made out of every later garbage collection."""
    gc.collect()
    gc.freeze()
