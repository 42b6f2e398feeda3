"""One upstream as the pull-through sees it: its store, its health, and what it said lately."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from federation.clock import Clock
from federation.digest import Digest
from federation.errors import BlobNotFound, FederationError, SourceUnavailable
from federation.store import Store
from federation.upstream.answers import Answers
from federation.upstream.breaker import Breaker

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Upstream:
    """Used from the event loop; all callers share its breaker and answers.

    hedge_delay_s: an upstream that has not opened a blob by then is raced by the next one.
    """

    name: str
    store: Store
    clock: Clock
    jitter: random.Random
    answers: Answers
    serves_blobs: bool = True
    serves_index: bool = True
    trusts_action_results: bool = True
    hedge_delay_s: float = 2.0
    breaker: Breaker = field(default_factory=Breaker)
    wrong_bytes: int = 0
    last_success_s: float | None = None

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.breaker.state.value}>"

    @property
    def is_up(self) -> bool:
        """Whether it is asked at all."""
        return self.breaker.allows()

    def may_have(self, digest: Digest) -> bool:
        """Whether it makes sense to ask it for this blob now."""
        if not self.serves_blobs or not self.is_up:
            return False
        return self.answers.recall(digest, self.clock.monotonic_s()) is not False

    def note(self, error: FederationError | None, digests: Iterable[Digest] = ()) -> None:
        """Take in how asking it went: None (it had them), BlobNotFound, or silence."""
        now_s = self.clock.monotonic_s()
        if error is None or isinstance(error, BlobNotFound):
            self.last_success_s = now_s
            self.answers.note(digests, present=error is None, now_s=now_s)
            if self.breaker.succeeded():
                self.answers.forget()
                _log.info("upstream_is_back", upstream=self.name)
        elif isinstance(error, SourceUnavailable):
            stubborn = getattr(error, "stubborn", False)
            if self.breaker.failed(now_s, str(error), self.jitter, stubborn=stubborn):
                self.answers.forget()
                _log.warning("upstream_is_down", upstream=self.name, reason=str(error))

    def note_absent(self, digests: Iterable[Digest]) -> None:
        """It answered, and has not these."""
        self.answers.note(digests, present=False, now_s=self.clock.monotonic_s())

    def note_wrong_bytes(self, digest: Digest) -> None:
        """It sent bytes that are not the blob's: do not ask it for this blob for a while."""
        self.wrong_bytes += 1
        self.answers.note([digest], present=False, now_s=self.clock.monotonic_s())
        _log.error("upstream_sent_wrong_bytes", upstream=self.name, digest=str(digest))
