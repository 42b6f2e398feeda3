"""What an operator should look at, as sentences; nothing if all is well. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from federation.server.status.formats import counted, rounded, span
from federation.server.status.peer_facts import notes_on

FINE_UPSTREAMS = frozenset({"up", "untried"})  # states that need nobody
_SHOWN_MAX = 50
_LAG_S = 600.0  # a peer may be that far behind without a word about it


def attention(facts: Mapping[str, Any]) -> list[str]:
    """Return each matter once, the gravest first."""
    # Workers say the same of upstreams and limits; each is told once.
    found = dict.fromkeys(
        (
            *_of_processes(facts["processes"]),
            *_of_upstreams(facts["processes"]),
            *_of_peers(facts["peers"]),
            *_of_storage(facts),
            *facts.get("statistics-problems", ()),
        )
    )
    return list(found)[:_SHOWN_MAX]


def _of_processes(processes: list[Mapping[str, Any]]) -> Iterator[str]:
    if not processes:
        yield "no process serves this data directory"
    for process in processes:
        if "not-known" in process:
            yield f"process {process.get('pid', '?')} does not answer: {process['not-known']}"
        if process.get("reason"):
            yield f"{process['status']}: {process['reason']}"
        elif process.get("status", "serving") != "serving":
            yield f"process {process.get('pid', '?')} is {process['status']}"
        reloaded = process.get("reload") or {}
        if reloaded.get("error"):
            yield f"the configuration was not read again: {reloaded['error']}"
        if reloaded.get("needs-restart"):
            yield f"wait for a restart: {', '.join(reloaded['needs-restart'])}"
        yield from process.get("warnings", ())
        for limit in process.get("limits-reached", ()):
            yield f"a limit was reached lately: {limit}"
        if process.get("offline"):
            yield "upstreams are not asked: the node is offline"


def _of_upstreams(processes: list[Mapping[str, Any]]) -> Iterator[str]:
    for process in processes:
        for upstream in process.get("upstreams", ()):
            name, state = upstream["name"], upstream["state"]
            if state in FINE_UPSTREAMS:
                continue
            error = f": {upstream['last-error']}" if upstream.get("last-error") else ""
            yield f"upstream {name} is {state}{error}"
            if upstream.get("wrong-bytes"):
                wrong = counted(upstream["wrong-bytes"], "blob", "blobs")
                yield f"upstream {name} sent wrong bytes: {wrong}"


def _of_peers(peers: list[Mapping[str, Any]]) -> Iterator[str]:
    for peer in peers:
        for note in notes_on(peer):
            yield f"peer {note}"
        if (peer.get("lag-s") or 0.0) > _LAG_S and peer["state"] == "following":
            yield f"peer {peer['name']}: lacks what came {span(peer['lag-s'])} ago"


def _of_storage(facts: Mapping[str, Any]) -> Iterator[str]:
    if lost := facts.get("healing", {}).get("lost"):
        yield f"{counted(lost, 'damaged blob has', 'damaged blobs have')} not come back yet"
    pins = facts.get("pins", {})
    if left_out := pins.get("entries-left-out"):
        entries = counted(left_out, "matching entry is", "matching entries are")
        most = rounded(pins["max-bytes"])
        yield f"{entries} not pinned: pins may take {most} (storage.pins-max), see federation pins"
    if incomplete := pins.get("incomplete-entries"):
        entries = counted(incomplete, "pinned entry is", "pinned entries are")
        yield f"{entries} not whole, see federation pins"
