"""What is counted and logged about calls: how each ended, who was refused, what was pushed.

A flood of bad requests must not become a flood of lines, so all but the audit's are limited.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import structlog

from federation.access.rights import Rights
from federation.core.clock import Clock
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LogLimit
from federation.services.status_codes import INTERNAL, OK, TROUBLE_HERE, CallStatus, StatusCode

# Misses, and callers that leave, are what a cache sees all day.
_ORDINARY = frozenset({StatusCode.NOT_FOUND, StatusCode.CANCELLED})

_log = structlog.get_logger(__name__)
# Written at every log level: the audit has a switch of its own.
_audit = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
)


class AuthLog:
    """The lines about callers that were refused: who and why, never what they showed."""

    def __init__(self, log_limit: LogLimit) -> None:
        self._log_limit = log_limit

    def __repr__(self) -> str:
        return f"<AuthLog {self._log_limit!r}>"

    def log_refusal(
        self, error: Exception, method: str, peer: str, rights: Rights | None = None
    ) -> None:
        """Log one. rights: of a caller that is known and may not do this."""
        # A caller without credentials, where none are demanded, is no failed attempt.
        level = _log.info if rights is not None and rights.is_anonymous else _log.warning
        if (held_back := self._log_limit.admit()) is None:
            return
        facts = {"reason": getattr(error, "reason", None) or str(error)}
        for name in ("subject", "fingerprint"):
            if value := getattr(error, name, ""):
                facts[name] = value
        if rights is not None:
            facts["identity"] = rights.identity
        level("client_refused", **facts, peer=peer, method=method, held_back=held_back)


class CallLog:
    """Counts and logs the calls of one listener."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self.metrics = metrics
        self.limit = LogLimit(clock)
        self.refusals = AuthLog(LogLimit(clock))

    def __repr__(self) -> str:
        return f"<CallLog {self.limit!r}>"


class MethodLog:
    """Counts and logs the calls of one method on one listener."""

    def __init__(self, method: str, log: CallLog) -> None:
        self._method = method
        self._limit = log.limit
        self._refusals = log.refusals
        self._requests = log.metrics.requests
        self._seconds = log.metrics.request_seconds.labels(method=method)
        self._lines = _log.bind()  # what get_logger() returns looks it up for each line
        self._ended: dict[StatusCode, Any] = {}  # counters, each made when first used

    def __repr__(self) -> str:
        return f"<MethodLog of {self._method}>"

    def log_bug(self, error: Exception) -> CallStatus:
        """Log an error that has no status; return one that reveals nothing about it."""
        if (held_back := self._limit.admit()) is not None:
            _log.error("call_failed", method=self._method, held_back=held_back, exc_info=error)
        return INTERNAL

    def log_refusal(self, error: Exception, peer: str, rights: Rights | None) -> None:
        """See AuthLog."""
        self._refusals.log_refusal(error, self._method, peer, rights)

    def log_end(self, status: CallStatus, seconds: float, peer: str) -> None:
        """Count a call that has ended, and log it."""
        self._seconds.observe(seconds)
        counter = self._ended.get(status.code)
        if counter is None:
            counter = self._requests.labels(method=self._method, code=status.code.name)
            self._ended[status.code] = counter
        counter.inc()
        if status is OK:  # nearly always, so it has a short way of its own
            self._lines.debug(
                "request", peer=peer, method=self._method, code="OK", seconds=round(seconds, 6)
            )
            return
        code = status.code.name
        facts: dict[str, Any] = {"method": self._method, "code": code, "seconds": round(seconds, 6)}
        if status.message:
            facts["message"] = status.message
        if status.code in _ORDINARY:
            self._lines.debug("request", peer=peer, **facts)
        elif (held_back := self._limit.admit()) is not None:
            level = _log.warning if status.code in TROUBLE_HERE else _log.debug
            level("request", peer=peer, held_back=held_back, **facts)


def push_accepted(
    rights: Rights, peer: str, method: str, instance: str, what: Mapping[str, Any]
) -> None:
    """Write the audit's line of a push. The log escapes and clips what the caller chose."""
    _audit.info(
        "push_accepted", identity=rights.identity, peer=peer, method=method, instance=instance,
        **what,
    )  # fmt: skip
