"""What a process did since it was last asked, for the statistics: from metrics and peers' facts.

    node/               calls
    instance/NAME       hits, misses: reads of blobs and look-ups of entries that found something
                        present, absent: blobs in FindMissing
                        in-bytes, out-bytes
    upstream/NAME       hits, misses, received-bytes, saved-bytes
    peer/NAME           sent-objects, sent-bytes, saved-bytes

`saved-bytes` is what a link did not have to carry. To an upstream: what readers got here less what
upstreams sent, for the upstream that is asked first, as every reader would have asked it. It falls
while a prefetch brings what nobody has read yet. To a peer: objects that it turned out to have.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from federation.observability.metrics import Metrics
from federation.observability.series import Counter, Labelled
from federation.observability.statistics.history import Changes

_OF_PEERS = {
    "sent-objects": "sent-objects",
    "sent-bytes": "sent-bytes",
    "present-bytes": "saved-bytes",
}

Totals = dict[str, dict[str, int]]


class ActivitySampler:
    """Turns counters that only grow into changes."""

    def __init__(
        self,
        metrics: Metrics,
        upstreams: Callable[[], Sequence[str]],
        peers: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        """upstreams: those that have blobs, in the order in which they are asked."""
        self._metrics = metrics
        self._upstreams = upstreams
        self._peers = peers
        self._last: Totals = {}

    def __repr__(self) -> str:
        return f"<ActivitySampler of {len(self._last)} series>"

    def changes(self) -> Changes:
        """Return what happened since the last call."""
        totals = {
            "node/": {"calls": _sum(self._metrics.requests)},
            **self._of_instances(),
            **self._of_upstreams(),
            **{
                f"peer/{peer['name']}": {to: peer[key] for key, to in _OF_PEERS.items()}
                for peer in self._peers()
            },
        }
        found = {series: _since(self._last.get(series, {}), now) for series, now in totals.items()}
        # Replaced as a whole: series of upstreams and peers that have left go with it.
        self._last = totals
        self._add_saved(found)
        return found

    def _of_instances(self) -> Totals:
        found = {}
        for each in self._metrics.traffic:
            asked = dict(each.lookups())
            presence = asked.pop("presence")
            found[f"instance/{each.name}"] = {
                "hits": sum(kind.hits for kind in asked.values()),
                "misses": sum(kind.misses for kind in asked.values()),
                "present": presence.hits,
                "absent": presence.misses,
                "in-bytes": each.in_bytes,
                "out-bytes": each.out_bytes,
            }
        return found

    def _of_upstreams(self) -> Totals:
        metrics = self._metrics
        answers = _by_label(metrics.upstream_answers, "upstream")
        entries = _by_label(metrics.upstream_entries, "upstream")
        received = _by_label(metrics.remote_bytes, "remote")
        return {
            f"upstream/{name}": {
                "hits": answers[name, "hit"] + entries[name, "hit"],
                "misses": answers[name, "miss"] + entries[name, "miss"],
                "received-bytes": received[name, "in"],
            }
            # An upstream that was never asked has no series.
            for name in dict.fromkeys(name for name, _ in answers)
        }

    def _add_saved(self, changes: dict[str, dict[str, int]]) -> None:
        first = next(iter(self._upstreams()), None)
        # Without an upstream nothing was saved: readers would have got nothing.
        if first is None:
            return
        moved = changes.values()
        saved = sum(each.get("out-bytes", 0) - each.get("received-bytes", 0) for each in moved)
        changes.setdefault(f"upstream/{first}", {})["saved-bytes"] = saved


def _since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Return the increases; a counter that is smaller than before began anew."""
    return {
        name: count - before.get(name, 0) if count >= before.get(name, 0) else count
        for name, count in now.items()
    }


def _sum(counters: Labelled[Counter]) -> int:
    return int(sum(each.value for each in counters.matching()))


def _by_label(counters: Labelled[Counter], owner: str) -> Tally[tuple[str, str]]:
    """Return sums by the owner's name and by result or direction."""
    found: Tally[tuple[str, str]] = Tally()
    for labels, counter in counters.each():
        named = dict(labels)
        what = named.get("result") or named.get("direction", "")
        found[named[owner], what] += int(counter.value)
    return found
