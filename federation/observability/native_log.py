"""Turns what gRPC's C core writes to standard error into events of our log, a bounded number.

A failed TLS handshake never reaches a handler, so the core's own line is the only trace of it. All
other output to standard error, by whatever library, passes unchanged.
"""

from __future__ import annotations

import faulthandler
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from federation.core.clock import Clock
from federation.observability import logs
from federation.observability.rate_limits import LogLimit

_log = structlog.get_logger(__name__)

_LINE = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ [^\]]+\] (.*)")
_HANDSHAKE = re.compile(r"Handshake failed with error .*?internal:([A-Z0-9_]+)(?:: (.*))?")
# Two tickets end a handshake, each with the client's certificate; the core has room for 17 KB.
_TOO_LARGE = "SSL_write failed with error SSL_ERROR_WANT_WRITE"
_NOISE = ("WARNING: All log messages before absl", "Log level INFO is not suitable")
_PER_SECOND, _BURST = 1 / 30, 10.0  # port scanners cause few lines
_LINE_MAX_BYTES = 8192
_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate was shown",
    "UNSUPPORTED_PROTOCOL": "a version of TLS below 1.2",
    "WRONG_VERSION_NUMBER": "what came is not TLS; plain text?",
    "HTTP_REQUEST": "what came is not TLS; plain text?",
    "NO_SHARED_CIPHER": "no cipher that both sides know",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not trust the certificate of this one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not take the certificate of this one",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the other side does not take the certificate of this one",
    "BAD_SIGNATURE": "the certificate was shown without its key",
}
_LEVELS = {"W": "warning", "E": "error", "F": "error"}


class Said(NamedTuple):
    """A line of the core as an event."""

    level: str
    event: str
    text: str


def understand(line: str) -> Said | None:
    """Return the event for one of the core's lines; None: it is not logged.

    Raises ValueError for a line that is not the core's.
    """
    # The core writes these at each start, when nothing is wrong.
    if any(noise in line for noise in _NOISE):
        return None
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("not a line of the core's")
    severity, text = found.groups()
    failed = _HANDSHAKE.match(text)
    if failed is not None:
        return Said("warning", "tls_handshake_failed", handshake_reason(failed[1], failed[2] or ""))
    if text == _TOO_LARGE:
        reason = f"a certificate of more than about 8 KB was shown; make a smaller one ({text})"
        return Said("warning", "tls_handshake_failed", reason)
    return Said(_LEVELS[severity], "grpc_message", text) if severity in _LEVELS else None


def handshake_reason(name: str, detail: str) -> str:
    """Return in words why a TLS handshake failed: the TLS library's name of it, and its detail."""
    if name == "CERTIFICATE_VERIFY_FAILED":
        return f"the certificate shown is not one that is let in, or trusted ({detail})"
    return f"{_WORDS[name]} ({name})" if name in _WORDS else name


class _Reader:
    """Reads what is written to the pipe, line by line, until its other end is closed."""

    def __init__(self, source: int, write: Callable[[bytes], object], clock: Clock) -> None:
        self._source = source
        self._write = write
        self._limits = {
            event: LogLimit(clock, _PER_SECOND, _BURST)
            for event in ("tls_handshake_failed", "grpc_message")
        }

    def run(self) -> None:
        with os.fdopen(self._source, "rb") as lines:
            # Bounded: what a library writes need not have line ends.
            while line := lines.readline(_LINE_MAX_BYTES):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            found = understand(line.decode(errors="replace").rstrip("\n"))
        except ValueError:
            # Somebody else's line, as it came.
            self._write(line)
            return
        if found is None:
            return
        held_back = self._limits[found.event].admit()
        if held_back is not None:
            getattr(_log, found.level)(found.event, reason=found.text, held_back=held_back)


@contextmanager
def captured(clock: Clock) -> Iterator[None]:
    """Take over standard error, which the log has a copy of; restore it at the end.

    If the process is aborted meanwhile, its stack goes to the real standard error.
    """
    real = os.dup(2)
    logs.write_to(real)
    # It writes to a descriptor of its own: the pipe's reader does not run when the process aborts.
    faulthandler.enable(real)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    # Descriptor 2 is the only writing end, so that closing it ends the reader.
    os.close(writing)
    reader = _Reader(reading, lambda data: logs.write_all(real, data), clock)
    thread = threading.Thread(target=reader.run, name="native-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(real, 2)  # the last writing end: the reader ends once it has read everything
        # A child process may hold the pipe open for longer.
        thread.join(1.0)
