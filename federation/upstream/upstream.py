"""One upstream as the pull-through sees it: its store, its health, and its recent answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import structlog

from federation.core import hops
from federation.core.breaker import Breaker
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError, SourceUnavailable
from federation.core.index import EntryKey, EntryKind, IndexElsewhere
from federation.core.store import Store
from federation.observability.metrics import Metrics
from federation.remote.failures import RemoteFailed
from federation.upstream.answers import Answers, Failures

_log = structlog.get_logger(__name__)

_REST_MAX_S = 60.0  # an upstream may ask to be left alone for no longer than this
_REST_FIRST_S, _REST_UNASKED_MAX_S = 0.1, 2.0  # if the upstream names no time
_PATIENCE_S = 10.0  # with an upstream that asks for patience and answers no call meanwhile


@dataclass(slots=True)
class Upstream:
    """Used from the event loop. All callers share its breaker and its remembered answers.

    hedge_delay_s: if it has not opened a blob by then, the next upstream races it.
    """

    name: str
    store: Store
    clock: Clock
    jitter: random.Random
    metrics: Metrics
    answers: Answers
    index: IndexElsewhere | None = None
    uri_globs: tuple[str, ...] = ()  # the assets to ask it about; empty: all
    serves_blobs: bool = True
    serves_index: bool = True
    trusts_action_results: bool = True
    hedge_delay_s: float = 2.0
    on_wrong_bytes: Callable[[Digest], object] | None = None  # informs the client, which may adapt
    breaker: Breaker = field(default_factory=Breaker)
    absent_entries: Answers = field(default_factory=lambda: Answers(present_s=0.0, absent_s=2.0))
    wrong_bytes: int = 0
    last_success_s: float | None = None
    # Whether calls queue here because it takes no more at once: then it does not count as slow.
    is_crowded: Callable[[], bool] = lambda: False
    rests_until_s: float = 0.0  # monotonic clock; it asked to be left alone until then
    rests: int = 0  # in a row
    impatient_from_s: float | None = None  # from then on, asking for patience counts as silence
    is_this_node: bool = False  # its address leads back here
    wrongs: Failures = field(init=False)  # blobs for which it sent other bytes
    unreadable: Failures = field(init=False)  # blobs that it reported present and did not send

    def __post_init__(self) -> None:
        """Begin every metric series at 0, so that its first increase is visible."""
        # The first time may have been a flipped bit on the way: it may be asked once more.
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
        """Whether this node asks it at all."""
        return self.breaker.allows() and not self.is_this_node and not self._rests

    @property
    def state(self) -> str:
        """The state as `status` shows it."""
        if self.is_this_node:
            return "ignored: it is this node"
        if not self.breaker.allows():
            return self.breaker.state.value
        if self._rests:
            return "resting"
        if self.breaker.failures:
            return "failing"
        return "untried" if self.last_success_s is None else self.breaker.state.value

    @property
    def _rests(self) -> bool:
        return self.clock.monotonic_s() < self.rests_until_s

    def may_have(self, digest: Digest) -> bool:
        """Whether asking it for this blob now may succeed."""
        if not self.serves_blobs or not self.is_up:
            return False
        now_s = self.clock.monotonic_s()
        # Not for good: it may have a right copy by now, and may be the only one that has any.
        if self.wrongs.holds(digest, now_s):
            return False
        return self.answers.recall(digest, now_s) is not False

    def wait_s(self, digest: Digest | None = None) -> float | None:
        """Return after how many seconds it may be asked if it only asked for patience.

        None: waiting is of no use. digest: the blob it would be asked for.
        """
        now_s = self.clock.monotonic_s()
        left_s = self.rests_until_s - now_s
        if not self.breaker.allows() or self.is_this_node or left_s > _PATIENCE_S:
            return None
        # It has asked for patience for so long that readers had better be told a miss.
        if self.impatient_from_s is not None and now_s >= self.impatient_from_s:
            return None
        if digest is not None:
            known = self.answers.recall(digest, now_s)
            if not self.serves_blobs or self.wrongs.holds(digest, now_s) or known is False:
                return None
        return max(0.0, left_s)

    def says_it_has(self, digest: Digest) -> bool | None:
        """Return whether it has a blob, as far as is known without asking; None: not known.

        For a while after it reported a blob present and did not send it, the blob counts as absent.
        """
        now_s = self.clock.monotonic_s()
        # A caller that is told "present" skips what it could do itself, so doubt counts as absence.
        if self.unreadable.holds(digest, now_s) or self.wrongs.holds(digest, now_s):
            return False
        return self.answers.recall(digest, now_s)

    def has_sent_wrong(self, digest: Digest) -> bool:
        """Whether it alone sent other bytes for a blob, and no right ones have come since."""
        return self.wrongs.times(digest, self.clock.monotonic_s()) > 0

    def may_have_entry(self, keys: Sequence[EntryKey], uris: Sequence[str]) -> bool:
        """Whether asking it for an entry under any of these keys now may succeed."""
        return self.is_up and self.suits_entry(keys, uris)

    def suits_entry(self, keys: Sequence[EntryKey], uris: Sequence[str]) -> bool:
        """Whether asking it for an entry under any of these keys may succeed once it is up."""
        if self.index is None or not self.serves_index:
            return False
        # What an action result says cannot be verified, unlike the bytes of a blob.
        if keys[0].kind == EntryKind.ACTION_RESULT and not self.trusts_action_results:
            return False
        if uris and self.uri_globs:
            globs = self.uri_globs
            # fnmatchcase, as URIs keep their case; fnmatch folds it on some systems.
            if not any(fnmatchcase(uri, glob) for uri in uris for glob in globs):
                return False
        now_s = self.clock.monotonic_s()
        return any(self.absent_entries.recall(key, now_s) is not False for key in keys)

    def note_entry(self, keys: Sequence[EntryKey], *, found: bool) -> None:
        """Record its answer to one question about an entry under any of these keys."""
        kind = "action_result" if keys[0].kind is EntryKind.ACTION_RESULT else "asset"
        result = "hit" if found else "miss"
        self.metrics.upstream_entries.labels(upstream=self.name, kind=kind, result=result).inc()
        if not found and _is_own_request():
            self.absent_entries.note(keys, present=False, now_s=self.clock.monotonic_s())

    def note_saved(self, reads: int) -> None:
        """Count reads that share a pull for which it sends the bytes."""
        self.metrics.reads_saved.labels(upstream=self.name).inc(reads)

    def note(self, error: FederationError | None, digests: Iterable[Digest] = ()) -> None:
        """Record the outcome of asking for blobs: None (it had them), BlobNotFound, or silence."""
        now_s = self.clock.monotonic_s()
        digests = list(digests)
        # A miss is an answer: the upstream is well.
        if error is None or isinstance(error, BlobNotFound):
            self.last_success_s = now_s
            self.rests, self.impatient_from_s = 0, None
            if error is None:
                self.answers.note(digests, present=True, now_s=now_s)
            elif _is_own_request():
                self._note_unreadable(digests, now_s)
                self.answers.note(digests, present=False, now_s=now_s)
            # What was remembered is from before it was away: it may be another server by now.
            if self.breaker.succeeded():
                self.metrics.upstream_up.labels(upstream=self.name).set(1)
                self._forget()
                _log.info("upstream_is_back", upstream=self.name)
            self._count(error is None, digests)
        elif isinstance(error, RemoteFailed) and error.is_local_limit:
            return  # a limit of this node was reached: no fault of the upstream
        elif isinstance(error, RemoteFailed) and error.asks_for_patience:
            self._note_busy(error, now_s)
        elif isinstance(error, SourceUnavailable):
            self._note_unreadable(digests, now_s)
            self.metrics.upstream_answers.labels(upstream=self.name, result="silence").inc()
            # Its wish to be left alone counts besides the failure: a probe earlier would fail, too.
            if isinstance(error, RemoteFailed) and error.retry_after_s is not None:
                self.rests_until_s = now_s + min(error.retry_after_s, _REST_MAX_S)
            self._note_silence(error, now_s)

    def _note_busy(self, error: RemoteFailed, now_s: float) -> None:
        """Let it rest for as long as it asked. If it never stops asking, that counts as silence."""
        self.metrics.upstream_answers.labels(upstream=self.name, result="busy").inc()
        if now_s >= self.rests_until_s:  # otherwise the call began before the rest did
            self.rests += 1
        rest_s = error.retry_after_s
        if rest_s is None:
            rest_s = min(_REST_FIRST_S * 2.0 ** min(self.rests - 1, 10), _REST_UNASKED_MAX_S)
            # Spread, or all nodes behind a crowded upstream come back together.
            rest_s *= self.jitter.uniform(0.5, 1.0)
        rest_until_s = now_s + min(rest_s, _REST_MAX_S)
        # A late answer of an earlier call must not shorten a rest.
        self.rests_until_s = max(self.rests_until_s, rest_until_s)
        if self.impatient_from_s is None:
            self.impatient_from_s = now_s + _PATIENCE_S
        elif now_s >= self.impatient_from_s:
            self._note_silence(error, now_s)

    def _note_silence(self, error: SourceUnavailable, now_s: float) -> None:
        needs_operator = isinstance(error, RemoteFailed) and error.needs_operator
        if self.breaker.failed(now_s, str(error), self.jitter, needs_operator=needs_operator):
            self.metrics.upstream_up.labels(upstream=self.name).set(0)
            self._forget()
            _log.warning("upstream_is_down", upstream=self.name, reason=str(error))

    def note_sends(self) -> None:
        """Record that it has begun to send a blob: it is alive, however the read ends."""
        self.last_success_s = self.clock.monotonic_s()

    def note_overtaken(self) -> None:
        """Record that another upstream was asked after this one's hedge delay and was faster.

        That counts as a failure: an upstream that hangs would otherwise cost every question its
        hedge delay.
        """
        # Calls that wait here for its limit have not reached it.
        if not self.is_crowded():
            reason = f"silent for {self.hedge_delay_s:g} s"
            self.note(SourceUnavailable(self.name, reason))

    def _count(self, hit: bool, digests: Iterable[Digest]) -> None:
        if count := len(list(digests)):
            result = "hit" if hit else "miss"
            self.metrics.upstream_answers.labels(upstream=self.name, result=result).inc(count)

    def _note_unreadable(self, digests: Iterable[Digest], now_s: float) -> None:
        """Record that reads failed of blobs that it had reported present."""
        for digest in digests:
            if self.answers.recall(digest, now_s):
                self.unreadable.note(digest, now_s)

    def _forget(self) -> None:
        self.answers.forget()
        self.absent_entries.forget()
        self.wrongs.forget_all()
        self.unreadable.forget_all()

    def note_came(self, digest: Digest) -> None:
        """Forget earlier failures of a blob that came here now, from it or by another way."""
        self.wrongs.forget(digest)
        self.unreadable.forget(digest)

    def note_absent(self, digests: Iterable[Digest]) -> None:
        """Record that it answered and does not have these blobs."""
        digests = list(digests)
        now_s = self.clock.monotonic_s()
        self._count(hit=False, digests=digests)
        if _is_own_request():
            self._note_unreadable(digests, now_s)
            self.answers.note(digests, present=False, now_s=now_s)

    def note_wrong_bytes(self, digest: Digest) -> None:
        """Record that it alone sent bytes that are not the blob's.

        From the second time in a row it is not asked for this blob for a while, each time longer.
        """
        self.metrics.upstream_answers.labels(upstream=self.name, result="wrong_bytes").inc()
        self.wrong_bytes += 1
        if self.on_wrong_bytes is not None:
            self.on_wrong_bytes(digest)
        now_s = self.clock.monotonic_s()
        self.wrongs.note(digest, now_s)
        self.unreadable.note(digest, now_s)
        _log.error("upstream_sent_wrong_bytes", upstream=self.name, digest=str(digest))


def _is_own_request() -> bool:
    """Whether the request began at this node, so that an absence may be remembered.

    To a request that has passed other nodes, an upstream may answer without asking those nodes.
    """
    return not hops.current().via
