"""What a listener shows its clients and whom it lets in, kept as its files on disk are.

Owns noticing a change and judging the new files; a bad change leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import structlog

from federation.client_list import Listed
from federation.clock import Clock, utc_text
from federation.config import Tls
from federation.errors import ConfigError
from federation.tls import KeyPair, load_pair

_log = structlog.get_logger(__name__)
_DATES_SHOWN = 20  # lines about certificates that do not count, each time the list is read
_TRIES = 3

Stamp = tuple[tuple[int, ...], ...]


class LiveTls:
    """The pair, and the list if there is one, of one listener. refresh() is for one thread only."""

    def __init__(self, tls: Tls, where: str, pair: KeyPair, clock: Clock) -> None:
        """Begin with a pair that was read from these files; `where` is their place in messages."""
        self.pair = pair  # replaced as a whole, so that any thread may read it
        self._tls = tls
        self._where = where
        self._clock = clock
        self._seen: Stamp | None = None
        self._judged: Stamp | None = None
        self._told: set[tuple[str, bool]] = set()

    def __repr__(self) -> str:
        clients = self.pair.clients
        listed = "no list" if clients is None else f"{len(clients.by_fingerprint)} listed"
        return f"<LiveTls {self._where} {listed}>"

    def refusal(self, fingerprint: str) -> str | None:
        """Return why a client with this certificate is kept out; None: it is let in."""
        clients = self.pair.clients
        if clients is None:
            return None
        listed = clients.by_fingerprint.get(fingerprint)
        if listed is None:
            return "the certificate is not in the list"
        return self._out_of_date(listed)

    def refresh(self, *, asked: bool) -> None:
        """Look at the files and take what they say now; blocks.

        A change is taken once the files have been the same for two looks, as they may just be
        being written; asked: at once.
        """
        stamp = self._stamp()
        if asked or (stamp == self._seen and stamp != self._judged):
            self._read()
        self._seen = stamp
        self.tell_dates()

    def _read(self) -> None:
        for _ in range(_TRIES):
            stamp = self._stamp()
            try:
                pair = load_pair(self._tls, self._where)
            except ConfigError as error:
                trouble: str | None = str(error)
            except Exception as error:  # noqa: BLE001 - else nobody would be taken off a list again
                trouble = f"{self._where}: {type(error).__name__}: {error}"
            else:
                trouble = None
            if self._stamp() == stamp:  # else what was read is half of one and half of the other
                break
        else:
            return
        self._judged = stamp
        if trouble is not None:
            _log.error("tls_files_refused", text=trouble, still="the files as they were before")
        elif pair != self.pair:
            self.pair = pair
            self._told.clear()
            listed = None if pair.clients is None else len(pair.clients.by_fingerprint)
            _log.info("tls_files_taken", listener=self._where, listed=listed)

    def tell_dates(self) -> None:
        """Log, once for each, which listed certificates are not, or not any more, let in."""
        if self.pair.clients is None:
            return
        lines = 0
        for fingerprint, listed in self.pair.clients.by_fingerprint.items():
            reason = self._out_of_date(listed)
            key = (fingerprint, listed.until_s < self._clock.wall_s())
            if reason is None or key in self._told:
                continue
            self._told.add(key)
            lines += 1
            if lines <= _DATES_SHOWN:
                _log.warning(
                    "listed_client_kept_out",
                    reason=reason,
                    subject=listed.subject,
                    fingerprint=fingerprint,
                )
        if lines > _DATES_SHOWN:
            _log.warning("more_listed_clients_kept_out", count=lines - _DATES_SHOWN)

    def _out_of_date(self, listed: Listed) -> str | None:
        now_s = self._clock.wall_s()
        if now_s > listed.until_s:
            return f"the certificate expired on {utc_text(listed.until_s)}"
        if now_s < listed.since_s:
            return f"the certificate is not valid before {utc_text(listed.since_s)}"
        return None

    def _stamp(self) -> Stamp:
        return tuple(_stamps(self._tls))


def _stamps(tls: Tls) -> Iterator[tuple[int, ...]]:
    for path in (tls.server_cert, tls.server_key, tls.client_certs):
        yield () if path is None else _stamp_of(path)


def _stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does; one that is not there has a stamp of its own."""
    try:
        facts = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
