"""Combines what the catalogue and the process that replicates know about each peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NEW = "new"  # PeerRecord.reason of a peer that has never been synchronised
_OF_PEERS = ("peers", "left-peers")
MET_PEERS = frozenset({"following", "reconciling"})
FINE_PEERS = MET_PEERS | {"meeting", "starting"}  # states that need nobody


def peers_together(
    stored: Sequence[Mapping[str, Any]],
    processes: Sequence[Mapping[str, Any]],
    configured: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Return the facts about every peer, including those that only a running process has.

    configured: the names in the configuration, if one was given.
    """
    live = {
        peer["name"]: {**peer, "replicated-by": process.get("pid")}
        for process in processes
        for peer in process.get("peers", ())
    }
    left = {peer["name"] for process in processes for peer in process.get("left-peers", ())}
    found = {peer["name"]: _merged(peer, live.get(peer["name"], {})) for peer in stored}
    found |= {name: peer for name, peer in live.items() if name not in found}
    for name in configured or ():
        found.setdefault(name, {"name": name, "state": "not met yet"})
    for name, peer in found.items():
        if (configured is not None and name not in configured) or name in left:
            peer["configured"] = False
    return [found[name] for name in sorted(found)]


def _merged(stored: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Prefer what the process says, except for the lag of a peer that needs a resync."""
    merged = {**stored, **live}
    # The log does not show what such a peer lacks, so a number would be too small.
    if "lag-objects" in stored and stored["lag-objects"] is None:
        merged |= dict.fromkeys(("lag-objects", "lag-bytes", "lag-s", "caught-up-in-s"))
    return merged


def without_peers(process: Mapping[str, Any]) -> dict[str, Any]:
    """Return a process's facts without those that peers_together returns."""
    return {key: value for key, value in process.items() if key not in _OF_PEERS}


def notes_on(peer: Mapping[str, Any]) -> list[str]:
    """Return what an operator should know about a peer, as sentences."""
    name = peer["name"]
    notes = []
    if peer.get("configured") is False:
        notes.append(f"is no longer in the configuration: federation drop-peer {name}")
    if peer["state"] == "itself":
        return [f"{name}: its url leads back to this node"]
    if peer["state"] != "following" and peer.get("reason"):
        why = "it is new" if peer["reason"] == _NEW else peer["reason"]
        notes.append(f"needs a resync: {why}")
    if peer["state"] == "following" and peer.get("reason"):
        notes.append(peer["reason"])
    if peer.get("forgets"):
        notes.append(f"forgets what it acknowledged: {peer['forgotten']} objects so far")
    for service, count in peer.get("unsupported", {}).items():
        notes.append(f"has no {service}: {count} entries were not sent")
    if peer.get("parked"):
        notes.append(f"{peer['parked']} objects are parked: federation parked --peer {name}")
    if peer.get("pins-not-taken"):
        notes.append(f"takes no pins: {peer['pins-not-taken']}")
    if peer.get("reconciles-waiting"):
        notes.append("a reconcile is waiting or under way")
    if peer["state"] not in MET_PEERS and peer.get("last-error"):
        notes.append(f"last error at {peer['last-error-at']}: {peer['last-error']}")
    return [f"{name}: {note}" for note in notes]
