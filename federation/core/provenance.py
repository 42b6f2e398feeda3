"""Where an object came from, as stores and the change log keep it."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Source(enum.IntEnum):
    """Who gave us an object; kept in the change log."""

    CLIENT = 0
    UPSTREAM = 1
    PEER = 2


class Provenance(NamedTuple):
    """Where an object came from, and the ids of the nodes it has passed, oldest first."""

    source: Source = Source.CLIENT
    via: tuple[str, ...] = ()
    # The upstream's name in our configuration; of what peers send, the id of the node that had it
    # first; empty for clients.
    origin: str = ""
    unused_s: float = 0.0  # for how long no client had used it where a peer sent it from


FROM_CLIENT = Provenance()
