"""The log's lines about callers that were refused: who and why, never what they showed."""

from __future__ import annotations

import structlog

from federation.access.rights import Rights
from federation.observability.log_limit import LogLimit

_log = structlog.get_logger(__name__)


class AuthLog:
    """Tells of one listener's refusals, a bounded number of them."""

    def __init__(self, log_limit: LogLimit) -> None:
        self._log_limit = log_limit

    def __repr__(self) -> str:
        return f"<AuthLog {self._log_limit!r}>"

    def tell(self, error: Exception, method: str, peer: str, rights: Rights | None = None) -> None:
        """Log one. rights: of a caller that is known and may not do this."""
        # Whoever has shown nothing to a listener that asks for nothing is no failed attempt.
        level = _log.info if rights is not None and rights.is_anonymous else _log.warning
        if (held_back := self._log_limit.take()) is None:
            return
        facts = {"reason": getattr(error, "reason", None) or str(error)}
        for name in ("subject", "fingerprint"):
            if value := getattr(error, name, ""):
                facts[name] = value
        if rights is not None:
            facts["identity"] = rights.identity
        level("client_refused", **facts, peer=peer, method=method, held_back=held_back)
