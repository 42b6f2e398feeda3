"""The eight lines that an operator reads first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from federation.server.status.attention import FINE_UPSTREAMS
from federation.server.status.facts import upstream_state, upstreams_of
from federation.server.status.formats import counted, percent, rounded, span
from federation.server.status.peer_facts import MET_PEERS

_NAMES_MAX = 6  # upstreams or peers in one line


class OverviewLine(NamedTuple):
    """One line: what it is about, its text, and whether all is well there."""

    label: str
    text: str
    fine: bool = True


def overview(facts: Mapping[str, Any], wall_s: float) -> list[OverviewLine]:
    """Return the lines for these facts (facts.py), in this order always."""
    return [
        _node(facts),
        OverviewLine("uptime", _uptime(facts, wall_s)),
        OverviewLine("held", _held(facts)),
        OverviewLine("hit rate", _hit_rate(facts)),
        OverviewLine("requests", _requests(facts)),
        _upstreams(facts),
        _peers(facts),
        _attention(facts["attention"]),
    ]


def _node(facts: Mapping[str, Any]) -> OverviewLine:
    processes = facts["processes"]
    if not processes:
        return OverviewLine("node", f"not running; {facts.get('data-dir', '')}", False)
    # A process that does not answer has only what it announced.
    known = [each for each in processes if "node" in each]
    first = known[0] if known else processes[0]
    states = list(dict.fromkeys(each.get("status", "silent") for each in processes))
    number = f"pid {first.get('pid', '?')}"
    if len(processes) > 1:
        number = counted(len(processes), "process", "processes")
    name = f"{first.get('node', 'unknown')} {first.get('version', '')}".strip()
    return OverviewLine("node", f"{name}, {', '.join(states)} ({number})", states == ["serving"])


def _uptime(facts: Mapping[str, Any], wall_s: float) -> str:
    since = [
        datetime.fromisoformat(each["started-at"]).timestamp()
        for each in facts["processes"]
        if each.get("started-at")
    ]
    return span(max(0.0, wall_s - min(since))) if since else "-"


def _held(facts: Mapping[str, Any]) -> str:
    if "held-bytes" not in facts:
        return "not known: the storage does not answer"
    held, quota = facts["held-bytes"], facts["quota-bytes"]
    share = f", {percent(held / quota)}" if quota else ""
    blobs = counted(facts["blobs"], "blob", "blobs")
    entries = counted(facts["entries"], "entry", "entries")
    pinned = facts.get("pins", {}).get("bytes")
    kept = f"; {rounded(pinned)} pinned" if pinned else ""
    return f"{rounded(held)} of {rounded(quota)}{share}; {blobs}, {entries}{kept}"


def _hit_rate(facts: Mapping[str, Any]) -> str:
    if "statistics" not in facts:
        return "-"
    hour, day = facts["statistics"]["hour"], facts["statistics"]["day"]
    asked = day["hits"] + day["misses"]
    if not asked:
        return "nothing was looked up in the last day"
    last = f"{percent(hour['hit-rate'])} in the last hour, " if hour["hit-rate"] is not None else ""
    sent = f"{rounded(day['out-bytes'])} served"
    if facts["statistics"]["day"]["upstreams"]:
        sent = f"{sent}, {rounded(day['saved-bytes'])} saved"
    looked_up = counted(asked, "look-up", "look-ups")
    return f"{last}{percent(day['hit-rate'])} of {looked_up} in the last day; {sent}"


def _requests(facts: Mapping[str, Any]) -> str:
    rates = [each["requests-per-s"] for each in facts["processes"] if "requests-per-s" in each]
    return f"{sum(rates):,.1f} a second" if rates else "-"


def _upstreams(facts: Mapping[str, Any]) -> OverviewLine:
    found = upstreams_of(facts)
    texts = [f"{each['name']} {upstream_state(each)}" for each in found]
    return OverviewLine(
        "upstreams", _some(texts), all(each["state"] in FINE_UPSTREAMS for each in found)
    )


def _peers(facts: Mapping[str, Any]) -> OverviewLine:
    peers = facts["peers"]
    fine = all(each["state"] in MET_PEERS and not each.get("parked") for each in peers)
    return OverviewLine("peers", _some([_peer(each) for each in peers]), fine)


def _peer(peer: Mapping[str, Any]) -> str:
    text = f"{peer['name']} {peer['state']}"
    behind = peer.get("lag-objects")
    if behind:
        objects = counted(behind, "object", "objects")
        text += f", {objects} ({rounded(peer['lag-bytes'])}) behind"
    return text


def _some(texts: list[str]) -> str:
    if not texts:
        return "none"
    more = len(texts) - _NAMES_MAX
    return "; ".join(texts[:_NAMES_MAX]) + (f"; and {more} more" if more > 0 else "")


def _attention(found: list[str]) -> OverviewLine:
    if not found:
        return OverviewLine("attention", "nothing")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return OverviewLine("attention", f"{found[0]}{more}", False)
