"""The walk through the closures of pinned entries, which goes on past what is missing."""

from __future__ import annotations

from functools import partial

import structlog

from federation.closure.names import Structure, names_of_entry
from federation.closure.walk import TooLarge, Walk, WalkContext
from federation.config.model import LimitsConfig
from federation.core.errors import InvalidRequest
from federation.core.index import Entry
from federation.core.pins import ClosureWalk
from federation.core.store import Readable
from federation.wire.protobuf import Buffer

_log = structlog.get_logger(__name__)


class _PastHoles(Walk):
    """Goes on after a structure that cannot be read, such as a missing one, which has no bytes."""

    unreadable = ""  # why something could not be; empty: all could

    async def _take_structure(self, structure: Structure, data: Buffer) -> None:
        try:
            await super()._take_structure(structure, data)
        except InvalidRequest as error:
            # Kept and not raised: what else the entry names is to be pinned all the same.
            self.unreadable = str(error)


def pin_walk(limits: LimitsConfig) -> ClosureWalk:
    """Return a walk that asks a store about all that an entry names.

    The store gives no bytes of what is missing. The walk returns False for an entry that is
    malformed, or names something that is, and for one beyond the limits.
    """
    # One for all walks: it bounds what they hold in memory together.
    context = WalkContext()

    async def walk(store: Readable, entry: Entry) -> bool:
        reading = _PastHoles(store, limits, context)
        try:
            is_whole = await reading.complete(partial(names_of_entry, entry))
            reason = reading.unreadable
        except (InvalidRequest, TooLarge) as error:
            is_whole, reason = False, str(error)
        if reason:
            _log.debug("pinned_entry_unreadable", entry=entry.label, reason=reason)
        return is_whole and not reason

    return walk
