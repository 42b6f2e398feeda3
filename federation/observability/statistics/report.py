"""The statistics as `federation status --json` and the dashboard show them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.observability.statistics.history import Bucket, Counts, History, Period

_OF_INSTANCES = ("hits", "misses", "present", "absent", "in-bytes", "out-bytes")
_OF_UPSTREAMS = ("hits", "misses", "received-bytes", "saved-bytes")
_OF_PEERS = ("sent-objects", "sent-bytes", "saved-bytes")


def report(history: History, wall_s: float) -> dict[str, Any]:
    """Return the numbers of the last hour, day and month, each as a whole and in its parts."""
    return {period.label: _of_period(history.total(period, wall_s)) for period in Period}


def hit_rate(counts: Counts) -> float | None:
    """Return the share of look-ups that found something, 0 to 1; None without any."""
    asked = counts.get("hits", 0) + counts.get("misses", 0)
    return round(counts.get("hits", 0) / asked, 4) if asked else None


def _of_period(total: Bucket) -> dict[str, Any]:
    instances = _part(total, "instance", _OF_INSTANCES)
    upstreams = _part(total, "upstream", _OF_UPSTREAMS)
    peers = _part(total, "peer", _OF_PEERS)
    whole = {name: sum(each[name] for each in instances) for name in _OF_INSTANCES}
    saved = sum(each["saved-bytes"] for each in (*upstreams, *peers))
    return {
        "requests": total.get("node/", {}).get("calls", 0),
        "hit-rate": hit_rate(whole),
        **whole,
        "saved-bytes": saved,
        "instances": instances,
        "upstreams": upstreams,
        "peers": peers,
    }


def _part(total: Bucket, kind: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return all series of a kind, those that moved most bytes first."""
    found = []
    for series, counts in total.items():
        if series.startswith(f"{kind}/"):
            shown: Mapping[str, Any] = {
                # What a prefetch brought may not have been read yet: no link carried less than 0.
                name: max(0, counts.get(name, 0))
                for name in names
            }
            rate = {"hit-rate": hit_rate(shown)} if "hits" in names else {}
            found.append({"name": series.removeprefix(f"{kind}/"), **rate, **shown})
    return sorted(found, key=lambda each: (-_bytes(each), each["name"]))


def _bytes(shown: Mapping[str, Any]) -> int:
    return sum(value for name, value in shown.items() if name.endswith("-bytes"))
