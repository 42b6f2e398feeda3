"""One upstream as the pull-through sees it: its store, its health, and what it said lately."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import structlog

from federation.core import hops
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError, SourceUnavailable
from federation.core.store import EntryKey, EntryKind, Store
from federation.observability.metrics import Metrics
from federation.remote import RemoteFailed
from federation.upstream.answers import Answers
from federation.upstream.breaker import Breaker

if TYPE_CHECKING:
    from federation.upstream.index_queries import UpstreamIndex

_log = structlog.get_logger(__name__)

_REST_MAX_S = 60.0  # no upstream may keep itself out for longer at a time


@dataclass(slots=True)
class Upstream:
    """Used from the event loop; all callers share its breaker and answers.

    hedge_delay_s: an upstream that has not opened a blob by then is raced by the next one.
    """

    name: str
    store: Store
    clock: Clock
    jitter: random.Random
    metrics: Metrics
    answers: Answers
    index: UpstreamIndex | None = None
    uri_globs: tuple[str, ...] = ()  # assets it is asked about; empty: all
    serves_blobs: bool = True
    serves_index: bool = True
    trusts_action_results: bool = True
    hedge_delay_s: float = 2.0
    on_wrong_bytes: Callable[[Digest], object] | None = None  # tells its client, which may adapt
    breaker: Breaker = field(default_factory=Breaker)
    unnamed: Answers = field(default_factory=lambda: Answers(present_s=0.0, absent_s=2.0))
    wrong_bytes: int = 0
    last_success_s: float | None = None
    rests_until_s: float = 0.0  # monotonic; it asked to be left alone
    is_this_node: bool = False  # its address leads back here

    def __post_init__(self) -> None:
        """Begin every series at 0, so that a rise from nothing can be seen."""
        self.metrics.upstream_up.labels(upstream=self.name).set(1)
        for result in ("hit", "miss", "silence", "wrong_bytes"):
            self.metrics.upstream_answers.labels(upstream=self.name, result=result)
        self.metrics.reads_saved.labels(upstream=self.name)

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.state}>"

    @property
    def is_up(self) -> bool:
        """Whether it is asked at all."""
        return self.breaker.allows() and not self.is_this_node and not self._rests

    @property
    def state(self) -> str:
        """What people are shown."""
        if self.is_this_node:
            return "ignored: it is this node"
        return "resting" if self._rests and self.breaker.allows() else self.breaker.state.value

    @property
    def _rests(self) -> bool:
        return self.clock.monotonic_s() < self.rests_until_s

    def may_have(self, digest: Digest) -> bool:
        """Whether it makes sense to ask it for this blob now."""
        if not self.serves_blobs or not self.is_up:
            return False
        return self.answers.recall(digest, self.clock.monotonic_s()) is not False

    def may_name(self, keys: Sequence[EntryKey], uris: Sequence[str]) -> bool:
        """Whether it makes sense to ask it for this index entry now."""
        if self.index is None or not self.serves_index or not self.is_up:
            return False
        if keys[0].kind == EntryKind.ACTION_RESULT and not self.trusts_action_results:
            return False
        if uris and self.uri_globs:
            globs = self.uri_globs
            if not any(fnmatchcase(uri, glob) for uri in uris for glob in globs):
                return False
        return self.unnamed.recall(keys[0], self.clock.monotonic_s()) is not False

    def note_entry(self, key: EntryKey, *, found: bool) -> None:
        """It answered whether it has an entry."""
        kind = "action_result" if key.kind is EntryKind.ACTION_RESULT else "asset"
        result = "hit" if found else "miss"
        self.metrics.upstream_entries.labels(upstream=self.name, kind=kind, result=result).inc()
        if not found and _is_asked_for_ourselves():
            self.unnamed.note([key], present=False, now_s=self.clock.monotonic_s())

    def note_saved(self, reads: int) -> None:
        """So many reads were served by one that it sends."""
        self.metrics.reads_saved.labels(upstream=self.name).inc(reads)

    def note(self, error: FederationError | None, digests: Iterable[Digest] = ()) -> None:
        """Take in how asking it went: None (it had them), BlobNotFound, or silence."""
        now_s = self.clock.monotonic_s()
        if error is None or isinstance(error, BlobNotFound):
            self.last_success_s = now_s
            if error is None or _is_asked_for_ourselves():
                self.answers.note(digests, present=error is None, now_s=now_s)
            if self.breaker.succeeded():
                self.metrics.upstream_up.labels(upstream=self.name).set(1)
                self._forget()
                _log.info("upstream_is_back", upstream=self.name)
            self._count(error is None, digests)
        elif isinstance(error, RemoteFailed) and error.is_ours:
            return  # a bound of this node: it says nothing about the upstream
        elif isinstance(error, SourceUnavailable):
            self.metrics.upstream_answers.labels(upstream=self.name, result="silence").inc()
            if isinstance(error, RemoteFailed) and error.retry_after_s is not None:
                self.rests_until_s = now_s + min(error.retry_after_s, _REST_MAX_S)
            stubborn = isinstance(error, RemoteFailed) and error.stubborn
            if self.breaker.failed(now_s, str(error), self.jitter, stubborn=stubborn):
                self.metrics.upstream_up.labels(upstream=self.name).set(0)
                self._forget()
                _log.warning("upstream_is_down", upstream=self.name, reason=str(error))

    def _count(self, hit: bool, digests: Iterable[Digest]) -> None:
        if count := len(list(digests)):
            result = "hit" if hit else "miss"
            self.metrics.upstream_answers.labels(upstream=self.name, result=result).inc(count)

    def _forget(self) -> None:
        self.answers.forget()
        self.unnamed.forget()

    def note_absent(self, digests: Iterable[Digest]) -> None:
        """It answered, and has not these."""
        digests = list(digests)
        self._count(hit=False, digests=digests)
        if _is_asked_for_ourselves():
            self.answers.note(digests, present=False, now_s=self.clock.monotonic_s())

    def note_wrong_bytes(self, digest: Digest) -> None:
        """It sent bytes that are not the blob's: do not ask it for this blob for a while."""
        self.metrics.upstream_answers.labels(upstream=self.name, result="wrong_bytes").inc()
        self.wrong_bytes += 1
        if self.on_wrong_bytes is not None:
            self.on_wrong_bytes(digest)
        self.answers.note([digest], present=False, now_s=self.clock.monotonic_s())
        _log.error("upstream_sent_wrong_bytes", upstream=self.name, digest=str(digest))


def _is_asked_for_ourselves() -> bool:
    """Whether an absence may be remembered: what an upstream answers to a request that has passed
    other nodes may leave out what it would have asked those for.
    """
    return not hops.current().via
