"""Logs the connections that a server refuses, in a bounded number of lines."""

from __future__ import annotations

import structlog

from federation.access.incoming_call import PeerAddress
from federation.core.clock import Clock
from federation.observability.native_log import handshake_reason
from federation.observability.rate_limits import LogLimit

_log = structlog.get_logger(__name__)
_PER_SECOND, _BURST = 1 / 30, 10.0  # port scanners cause few lines


class ConnectionLog:
    """The log lines about connections of one listener."""

    def __init__(self, clock: Clock) -> None:
        self._handshakes = LogLimit(clock, _PER_SECOND, _BURST)
        self._refused = LogLimit(clock, _PER_SECOND, _BURST)

    def tls_refused(self, peer: PeerAddress, reason: str, detail: str) -> None:
        """A TLS handshake has failed. reason, detail: OpenSSL's words."""
        if (held_back := self._handshakes.admit()) is not None:
            _log.warning(
                "tls_handshake_failed",
                reason=handshake_reason(reason, detail),
                peer=peer.text,
                held_back=held_back,
            )

    def refused(self, peer: PeerAddress, reason: str) -> None:
        """What came is not HTTP, or not as its rules are."""
        if (held_back := self._refused.admit()) is not None:
            _log.warning("connection_refused", reason=reason, peer=peer.text, held_back=held_back)
