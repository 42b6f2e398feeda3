"""Where a write comes from: a client, or a peer that tells which nodes it has passed.

What a caller says of that counts only if it has the peer role: otherwise anybody could keep an
object from being replicated, or date an entry so that no later one replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.core import hops
from federation.core.store import FROM_CLIENT, Entry, Provenance, Source
from federation.services.call import Call


def provenance_of(call: Call) -> Provenance:
    """Return what is kept about who wrote, for the request being served."""
    return told_by(hops.current()) if call.is_peer else FROM_CLIENT


def told_by(passed: hops.Hops) -> Provenance:
    """Return what the hops of a peer's request say; without any it writes as a client does."""
    if not passed.via:
        return FROM_CLIENT
    return Provenance(Source.PEER, passed.via, passed.origin or "", float(passed.unused_s))


def dated(entries: Sequence[Entry], call: Call) -> Sequence[Entry]:
    """Return the entries with the stamp that a peer sent along; others get theirs when stored."""
    stamp = hops.current().stamp
    if stamp is None or not call.is_replication:
        return entries
    return [entry._replace(stamp=stamp) for entry in entries]
