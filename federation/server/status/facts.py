"""Everything known about a node as one mapping: stored facts, its processes, its statistics.

The keys are those of `federation status --json`: small letters and dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation.observability.statistics.files import folder_of, read_all
from federation.observability.statistics.report import report
from federation.server.status.attention import attention
from federation.server.status.peer_facts import peers_together, without_peers
from federation.storage.contract import Operations


def gather(
    operations: Operations,
    data_dir: Path,
    processes: Sequence[Mapping[str, Any]],
    configured: Sequence[str] | None,
    wall_s: float,
) -> dict[str, Any]:
    """Return the facts of a node; blocks.

    processes: what each serving process says of itself. configured: the names of the peers in the
    configuration, if one was given.

    Raises StorageRefused.
    """
    history, problems = read_all(folder_of(data_dir))
    return together(
        operations.summary(),
        processes,
        configured,
        {"statistics": report(history, wall_s), "statistics-problems": problems},
    )


def together(
    summary: Mapping[str, Any],
    processes: Sequence[Mapping[str, Any]],
    configured: Sequence[str] | None,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Combine the parts of gather, of which those that are not known are left out."""
    facts = {
        **summary,
        "processes": [without_peers(process) for process in processes],
        "peers": peers_together(summary.get("peers", ()), processes, configured),
        **more,
    }
    return {**facts, "attention": attention(facts)}


def upstreams_of(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what the first process that answers says of the upstreams."""
    found: list[list[Mapping[str, Any]]] = [
        process["upstreams"] for process in facts["processes"] if process.get("upstreams")
    ]
    return found[0] if found else []


def upstream_state(upstream: Mapping[str, Any]) -> str:
    """Return an upstream's state for people: up, untried, failing 3 of 5."""
    state: str = upstream["state"]
    if state == "failing":
        return f"failing {upstream['failures']} of {upstream['failures-max']}"
    return state
