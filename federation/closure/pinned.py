"""The walk through the closures of pinned entries, which goes on past what is missing."""

from __future__ import annotations

from functools import partial

import structlog

from federation.closure.names import names_of_entry
from federation.closure.walk import TooLarge, Walk, WalkContext
from federation.config.model import LimitsConfig
from federation.core.errors import InvalidRequest
from federation.core.index import Entry
from federation.core.pins import ClosureWalk
from federation.core.store import Readable

_log = structlog.get_logger(__name__)


def pin_walk(limits: LimitsConfig) -> ClosureWalk:
    """Return a walk that asks a store about all that an entry names.

    It returns False if the store said that something is missing, and for an entry that is malformed
    or beyond the limits.
    """
    context = WalkContext()

    async def walk(store: Readable, entry: Entry) -> bool:
        try:
            return await Walk(store, limits, context).complete(partial(names_of_entry, entry))
        except (InvalidRequest, TooLarge) as error:
            _log.debug("pinned_entry_unreadable", entry=entry.label, reason=str(error))
            return False

    return walk
