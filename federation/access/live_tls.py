"""The TLS certificate and client lists of a listener, which follow their files on disk.

Also warns before certificates expire: the listener's own, and each listed one.
"""

from __future__ import annotations

import structlog

from federation.access.allowlist import alike
from federation.access.tls import KeyPair, end_of, load_pair
from federation.access.watched_file import LiveFile
from federation.config.model import TlsConfig
from federation.core.clock import Clock, utc_text

_log = structlog.get_logger(__name__)
_DATES_SHOWN = 20  # lines about expired certificates each time the list is read
_DAY_S = 86400.0
_WARNED_AT_DAYS = (14, 7, 3, 1, 0)  # of the server's certificate; each is logged once


ALIKE = (
    "these certificates have one subject and different keys, and not all have identifiers of the "
    "subject's and the authority's key: TLS takes the first for all, and the owners of the others "
    "cannot connect. Make them anew with other subjects, or by `federation keygen client`"
)


class LiveTls:
    """The pair, and the lists if there are any, of one listener.

    refresh() is for one thread only.
    """

    def __init__(self, tls: TlsConfig, where: str, pair: KeyPair, clock: Clock) -> None:
        """Begin with a pair that was read from these files; `where` is their place in messages."""
        lists = (tls.client_certs, tls.peer_certs, tls.client_ca, tls.invitations)
        paths = (tls.server_cert, tls.server_key, *lists)
        self._files = LiveFile(
            "tls_files", where, paths, lambda: load_pair(tls, where), pair, _facts
        )
        self._path = tls.server_cert
        self._where = where
        self._clock = clock
        self._dated: KeyPair | None = None  # the pair that what follows is about
        self._end_s: float | None = None
        self._told: set[tuple[str, bool]] = set()
        self._warned_at_days: int | None = None
        self._told_alike = False
        self._adopt()

    def __repr__(self) -> str:
        clients = self.pair.clients
        listed = "no list" if clients is None else f"{len(clients.by_fingerprint)} listed"
        return f"<LiveTls {self._where} {listed}>"

    @property
    def pair(self) -> KeyPair:
        """The current pair and lists; from any thread."""
        return self._files.value

    @property
    def end_s(self) -> float | None:
        """Until when the server's certificate is valid; None: not known."""
        return self._end_s

    def end_warning(self) -> str | None:
        """Return a warning from 14 days before the certificate expires."""
        if self._end_s is None:
            return None
        left_s = self._end_s - self._clock.wall_s()
        if left_s >= _WARNED_AT_DAYS[0] * _DAY_S:
            return None
        ends = utc_text(self._end_s)
        if left_s < 0:
            return f"the server's certificate expired on {ends}"
        return f"the server's certificate expires on {ends}, in {left_s / _DAY_S:.1f} days"

    def refresh(self, *, asked: bool) -> None:
        """See LiveFile."""
        self._files.refresh(asked=asked)
        self.log_dates()

    def log_dates(self) -> None:
        """Log, once for each, which certificates expire soon or are not admitted."""
        if self._adopt() or not self._told_alike:
            self._tell_alike()
        self._tell_own_end()
        lines = 0
        for each in self.pair.lists:
            for fingerprint, listed in each.by_fingerprint.items():
                reason = listed.out_of_date(self._clock.wall_s())
                # Twice for one certificate at most: not valid yet, and not any more.
                key = (fingerprint, listed.until_s < self._clock.wall_s())
                if reason is None or key in self._told:
                    continue
                self._told.add(key)
                lines += 1
                # A list of thousands may expire on one day; the log gets some names and the count.
                if lines <= _DATES_SHOWN:
                    _log.warning(
                        "listed_client_kept_out",
                        reason=reason,
                        subject=listed.subject,
                        fingerprint=fingerprint,
                    )
        if lines > _DATES_SHOWN:
            _log.warning("more_listed_clients_kept_out", count=lines - _DATES_SHOWN)

    def _adopt(self) -> bool:
        """Reset what was logged if the pair is a new one; return whether it is."""
        # By identity: LiveFile replaces the value only where it differs.
        if self._dated is self.pair:
            return False
        self._dated = self.pair
        self._end_s = end_of(self.pair.certificate)
        self._told.clear()
        self._warned_at_days = None
        return True

    def _tell_alike(self) -> None:
        self._told_alike = True
        for group in alike(self.pair.lists)[:_DATES_SHOWN]:
            known = (each.by_fingerprint.get(group[0]) for each in self.pair.lists)
            subject = next(listed.subject for listed in known if listed is not None)
            _log.warning(
                "listed_clients_alike",
                text=ALIKE,
                subject=subject,
                fingerprints=group,
                listener=self._where,
            )

    def _tell_own_end(self) -> None:
        if self._end_s is None:
            return
        left_days = (self._end_s - self._clock.wall_s()) / _DAY_S
        passed = [days for days in _WARNED_AT_DAYS if left_days < days]
        # The last threshold that was passed: after a jump of the clock one warning will do.
        if passed and passed[-1] != self._warned_at_days:
            self._warned_at_days = passed[-1]
            _log.warning(
                "server_certificate_ends",
                text=self.end_warning(),
                file=str(self._path),
                listener=self._where,
            )


def _facts(pair: KeyPair) -> dict[str, int | None]:
    counts = {
        "listed": pair.clients,
        "peers": pair.peers,
        "authorities": pair.authorities,
        "invitations": pair.invitations,
    }
    return {
        name: None if found is None else len(found.by_fingerprint)
        for name, found in counts.items()
        if found is not None or name == "listed"
    }
