"""The rows about replication, in the order of their table."""

from __future__ import annotations

from benchmarks.replication.measure import ReplicationSpec, arrival, catching_up, pushing


def all_rows(*, quick: bool) -> dict[str, ReplicationSpec]:
    """Return every row by name; quick makes them small."""
    burst, away, pushes = (100, 200, 20) if quick else (2000, 20_000, 400)
    rows = [
        ReplicationSpec(
            "replication-burst",
            f"{burst:,} x 4 KiB, from the last OK until they are at the peer",
            arrival,
            burst,
            must="0.5 s",
        ),
        ReplicationSpec(
            "replication-catch-up",
            f"{away:,} x 4 KiB that came while the peer was frozen, from its return",
            catching_up,
            away,
            must="aim 1.5 s",
            rounds_max=3,
        ),
        ReplicationSpec(
            "replication-push",
            "push of 1 x 4 KiB, one after the other",
            pushing,
            pushes,
            must="1.1x of without a peer",
        ),
    ]
    return {spec.name: spec for spec in rows}
