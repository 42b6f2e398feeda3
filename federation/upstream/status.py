"""The facts about one upstream for `status` and the index page, from its state and the metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from federation.core.clock import utc_text
from federation.observability.metrics import Metrics
from federation.observability.series import Counter, Histogram, Labelled
from federation.upstream.upstream import Upstream

if TYPE_CHECKING:
    from federation.remote.client import Remote


def describe_upstream(upstream: Upstream, remote: Remote) -> dict[str, Any]:
    """Return the facts that `status` and the index page show, counted since the process began."""
    now_s = upstream.clock.monotonic_s()
    at_s = upstream.last_success_s
    shown = remote.describe()
    failed = shown["last_failure"]
    return {
        "name": upstream.name,
        "url": shown["url"],
        "state": upstream.state,
        "failures": upstream.breaker.failures,  # in a row
        "failures-max": upstream.breaker.failures_max,  # then it is down
        "last-answer-s-ago": None if at_s is None else round(now_s - at_s, 1),
        "last-error": failed and failed["reason"],
        "last-error-at": failed and utc_text(failed["at"]),
        **counted(upstream.metrics, upstream.name),
        "connection": shown["connection"],
        "calls-running": shown["running"],
        "calls-queued": shown["queued"],
        "unsupported": shown["unsupported"],
    }


def counted(metrics: Metrics, name: str) -> dict[str, Any]:
    """Return the counters of one upstream. Times are in milliseconds."""
    answers, entries = metrics.upstream_answers, metrics.upstream_entries
    first_byte = _buckets(metrics.remote_first_byte_seconds.matching(remote=name))
    return {
        "hits": _total(answers, upstream=name, result="hit"),
        "misses": _total(answers, upstream=name, result="miss"),
        "entry-hits": _total(entries, upstream=name, result="hit"),
        "entry-misses": _total(entries, upstream=name, result="miss"),
        "silences": _total(answers, upstream=name, result="silence"),
        "wrong-bytes": _total(metrics.remote_wrong_bytes, remote=name),
        "received-bytes": _total(metrics.remote_bytes, remote=name, direction="in"),
        "reads-saved": _total(metrics.reads_saved, upstream=name),
        "first-byte-ms": {
            f"p{share}": _milliseconds(quantile(first_byte, share / 100)) for share in (50, 99)
        },
    }


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return the value below which this share of the observations lies; None without any.

    buckets: (upper bound, observations up to it), ascending, the last one without a bound. Within a
    bucket the observations count as spread evenly; beyond the last bound the value is that bound.
    """
    if not buckets or not buckets[-1][1]:
        return None
    rank = share * buckets[-1][1]
    for (below, fewer), (bound, count) in pairwise([(0.0, 0.0), *buckets]):
        if count >= rank and count > fewer:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (rank - fewer) / (count - fewer)
    return None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _total(counters: Labelled[Counter], **labels: str) -> int:
    return int(sum(each.value for each in counters.matching(**labels)))


def _buckets(histograms: Iterable[Histogram]) -> list[tuple[float, float]]:
    """Return several histograms as one."""
    counts: defaultdict[float, float] = defaultdict(float)
    for each in histograms:
        for bound, count in each.buckets():
            counts[bound] += count
    # Histograms of all labels have the same bounds, so their counts can be added.
    return sorted(counts.items())
