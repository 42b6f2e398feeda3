"""Metrics of one remote, labelled with its name in the configuration, and spans of its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation.observability.metrics import Metrics
from federation.remote.methods import Method

if TYPE_CHECKING:
    from federation.observability.tracing.tracer import TracedCall

OK, NOT_FOUND, LEFT = "ok", "not_found", "left"  # outcomes besides the kinds of failure


class Measures:
    """The metrics of one remote."""

    def __init__(self, metrics: Metrics, remote: str, *, is_traced: bool = True) -> None:
        """is_traced: whether its calls are spans of traces, where there are traces."""
        self._metrics = metrics
        self._remote = remote
        self._tracer = metrics.tracer if is_traced else None
        # Looking a series up by its labels takes longer than counting.
        self._calls: dict[tuple[str, str], Any] = {}
        self._received = metrics.remote_bytes.labels(remote=remote, direction="in")
        self._sent = metrics.remote_bytes.labels(remote=remote, direction="out")
        self._wrong = metrics.remote_wrong_bytes.labels(remote=remote)

    def begun(self, method: Method) -> TracedCall | None:
        """Begin the span of a call; None: there are no traces."""
        if self._tracer is None:
            return None
        return self._tracer.calling(self._remote, method.service, method.name)

    def ended(self, method: str, outcome: str, seconds: float, traced: TracedCall | None) -> None:
        """Count a call that has ended, and end its span."""
        if traced is not None:
            # A miss is an answer, and a caller that leaves has not failed.
            traced.came_back(outcome, is_failed=outcome not in {OK, NOT_FOUND, LEFT})
        counter = self._calls.get((method, outcome))
        if counter is None:
            counter = self._metrics.remote_calls.labels(
                remote=self._remote, method=method, outcome=outcome
            )
            self._calls[method, outcome] = counter
        counter.inc()
        self._metrics.remote_seconds.labels(remote=self._remote, method=method).observe(seconds)

    def first_byte(self, method: str, seconds: float) -> None:
        """Record the seconds until the first message of a stream."""
        self._metrics.remote_first_byte_seconds.labels(remote=self._remote, method=method).observe(
            seconds
        )

    def received(self, size_bytes: int) -> None:
        """Count bytes from the remote."""
        self._received.inc(size_bytes)

    def sent(self, size_bytes: int) -> None:
        """Count bytes to the remote."""
        self._sent.inc(size_bytes)

    def wrong(self, blobs: int) -> None:
        """Count blobs whose bytes did not match their digests."""
        self._wrong.inc(blobs)
