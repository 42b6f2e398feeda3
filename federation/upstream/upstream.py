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
from federation.upstream.answers import Answers, Failures
from federation.upstream.breaker import Breaker

if TYPE_CHECKING:
    from federation.upstream.index_queries import UpstreamIndex

_log = structlog.get_logger(__name__)

_REST_MAX_S = 60.0  # no upstream may keep itself out for longer at a time
_REST_FIRST_S, _REST_UNASKED_MAX_S = 0.1, 2.0  # of one that does not say for how long
_PATIENCE_S = 10.0  # with one that asks for patience, and does not answer anybody meanwhile


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
    # Whether calls wait here because it takes no more at once: then it is not slow.
    is_crowded: Callable[[], bool] = lambda: False
    rests_until_s: float = 0.0  # monotonic; it asked to be left alone
    rests: int = 0  # in a row
    impatient_from_s: float | None = None  # when it has asked for patience for too long
    is_this_node: bool = False  # its address leads back here
    wrongs: Failures = field(init=False)  # blobs of which other bytes came
    unreadable: Failures = field(init=False)  # blobs that it said it has, and did not give

    def __post_init__(self) -> None:
        """Begin every series at 0, so that a rise from nothing can be seen."""
        # One time may have been a flipped bit on the way: it may be asked once more.
        self.wrongs = Failures(first_s=self.answers.absent_s, free=1)
        self.unreadable = Failures(first_s=self.answers.absent_s)
        self.metrics.upstream_up.labels(upstream=self.name).set(1)
        for result in ("hit", "miss", "silence", "busy", "wrong_bytes"):
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
        if not self.breaker.allows():
            return self.breaker.state.value
        if self._rests:
            return "resting"
        return "untried" if self.last_success_s is None else self.breaker.state.value

    @property
    def _rests(self) -> bool:
        return self.clock.monotonic_s() < self.rests_until_s

    def may_have(self, digest: Digest) -> bool:
        """Whether it makes sense to ask it for this blob now."""
        if not self.serves_blobs or not self.is_up:
            return False
        now_s = self.clock.monotonic_s()
        if self.wrongs.holds(digest, now_s):
            return False
        return self.answers.recall(digest, now_s) is not False

    def wait_s(self, digest: Digest | None = None) -> float | None:
        """Return after how long it may be asked again that only asked for patience; None: no use.

        digest: the blob it would be asked for.
        """
        now_s = self.clock.monotonic_s()
        left_s = self.rests_until_s - now_s
        if not self.breaker.allows() or self.is_this_node or left_s > _PATIENCE_S:
            return None
        if self.impatient_from_s is not None and now_s >= self.impatient_from_s:
            return None
        if digest is not None:
            known = self.answers.recall(digest, now_s)
            if not self.serves_blobs or self.wrongs.holds(digest, now_s) or known is False:
                return None
        return max(0.0, left_s)

    def says_it_has(self, digest: Digest) -> bool | None:
        """Return what is known of a blob without asking; None: nothing.

        That it has what it did not give when it was asked for it, is not believed for a while.
        """
        now_s = self.clock.monotonic_s()
        if self.unreadable.holds(digest, now_s) or self.wrongs.holds(digest, now_s):
            return False
        return self.answers.recall(digest, now_s)

    def has_sent_wrong(self, digest: Digest) -> bool:
        """Whether other bytes of a blob came from it alone, and no right ones since."""
        return self.wrongs.times(digest, self.clock.monotonic_s()) > 0

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
        digests = list(digests)
        if error is None or isinstance(error, BlobNotFound):
            self.last_success_s = now_s
            self.rests, self.impatient_from_s = 0, None
            if error is None:
                self.answers.note(digests, present=True, now_s=now_s)
            elif _is_asked_for_ourselves():
                self._note_unreadable(digests, now_s)
                self.answers.note(digests, present=False, now_s=now_s)
            if self.breaker.succeeded():
                self.metrics.upstream_up.labels(upstream=self.name).set(1)
                self._forget()
                _log.info("upstream_is_back", upstream=self.name)
            self._count(error is None, digests)
        elif isinstance(error, RemoteFailed) and error.is_ours:
            return  # a bound of this node: it says nothing about the upstream
        elif isinstance(error, RemoteFailed) and error.asks_for_patience:
            self._note_busy(error, now_s)
        elif isinstance(error, SourceUnavailable):
            self._note_unreadable(digests, now_s)
            self.metrics.upstream_answers.labels(upstream=self.name, result="silence").inc()
            if isinstance(error, RemoteFailed) and error.retry_after_s is not None:
                self.rests_until_s = now_s + min(error.retry_after_s, _REST_MAX_S)
            self._note_silence(error, now_s)

    def _note_busy(self, error: RemoteFailed, now_s: float) -> None:
        """It is there and wants to be left alone for a while; one that wants that for ever is no
        better than one that is silent.
        """
        self.metrics.upstream_answers.labels(upstream=self.name, result="busy").inc()
        if now_s >= self.rests_until_s:  # else it was asked before it said so
            self.rests += 1
        rest_s = error.retry_after_s
        if rest_s is None:
            rest_s = min(_REST_FIRST_S * 2.0 ** min(self.rests - 1, 10), _REST_UNASKED_MAX_S)
            rest_s *= self.jitter.uniform(0.5, 1.0)
        rest_until_s = now_s + min(rest_s, _REST_MAX_S)
        self.rests_until_s = max(self.rests_until_s, rest_until_s)
        if self.impatient_from_s is None:
            self.impatient_from_s = now_s + _PATIENCE_S
        elif now_s >= self.impatient_from_s:
            self._note_silence(error, now_s)

    def _note_silence(self, error: SourceUnavailable, now_s: float) -> None:
        stubborn = isinstance(error, RemoteFailed) and error.stubborn
        if self.breaker.failed(now_s, str(error), self.jitter, stubborn=stubborn):
            self.metrics.upstream_up.labels(upstream=self.name).set(0)
            self._forget()
            _log.warning("upstream_is_down", upstream=self.name, reason=str(error))

    def note_sends(self) -> None:
        """Bytes of a blob have begun to come: it is there, however they end."""
        self.last_success_s = self.clock.monotonic_s()

    def note_overtaken(self) -> None:
        """Another one was asked because this one had not answered after its delay, and was faster.

        How often that happens counts like failing: one that hangs would otherwise cost every
        question its delay.
        """
        if not self.is_crowded():
            reason = f"silent for {self.hedge_delay_s:g} s"
            self.note(SourceUnavailable(self.name, reason))

    def _count(self, hit: bool, digests: Iterable[Digest]) -> None:
        if count := len(list(digests)):
            result = "hit" if hit else "miss"
            self.metrics.upstream_answers.labels(upstream=self.name, result=result).inc(count)

    def _note_unreadable(self, digests: Iterable[Digest], now_s: float) -> None:
        """A read of these failed: what of them it said it has, is not believed again at once."""
        for digest in digests:
            if self.answers.recall(digest, now_s):
                self.unreadable.note(digest, now_s)

    def _forget(self) -> None:
        self.answers.forget()
        self.unnamed.forget()
        self.wrongs.forget_all()
        self.unreadable.forget_all()

    def note_came(self, digest: Digest) -> None:
        """A blob came right from it, or came here by another way: forget how it failed."""
        self.wrongs.forget(digest)
        self.unreadable.forget(digest)

    def note_absent(self, digests: Iterable[Digest]) -> None:
        """It answered, and has not these."""
        digests = list(digests)
        now_s = self.clock.monotonic_s()
        self._count(hit=False, digests=digests)
        if _is_asked_for_ourselves():
            self._note_unreadable(digests, now_s)
            self.answers.note(digests, present=False, now_s=now_s)

    def note_wrong_bytes(self, digest: Digest) -> None:
        """It alone sent bytes that are not the blob's; after the second time in a row it is not
        asked for this blob for a while, each time for longer.
        """
        self.metrics.upstream_answers.labels(upstream=self.name, result="wrong_bytes").inc()
        self.wrong_bytes += 1
        if self.on_wrong_bytes is not None:
            self.on_wrong_bytes(digest)
        now_s = self.clock.monotonic_s()
        self.wrongs.note(digest, now_s)
        self.unreadable.note(digest, now_s)
        _log.error("upstream_sent_wrong_bytes", upstream=self.name, digest=str(digest))


def _is_asked_for_ourselves() -> bool:
    """Whether an absence may be remembered: what an upstream answers to a request that has passed
    other nodes may leave out what it would have asked those for.
    """
    return not hops.current().via
