"""The records of all peers in the leading process, saved together twice a second."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from federation.core.clock import Clock
from federation.core.errors import FederationError
from federation.core.replication_log import Lane, PeerRecord, PeerState, ReplicationLog

_log = structlog.get_logger(__name__)

_SAVE_EVERY_S = 0.5
_LOOK_EVERY_TURNS = 2  # of saving, between polls

Key = tuple[str, Lane]


class PeerRecordCache:
    """A write-back cache of peer records."""

    def __init__(self, change_log: ReplicationLog, clock: Clock) -> None:
        self._change_log = change_log
        self._clock = clock
        self._records: dict[Key, PeerRecord] = {}
        self._dirty: set[Key] = set()
        self._marked: set[Key] = set()
        self._saving = asyncio.Lock()
        self.in_use: frozenset[str] = frozenset()  # names of the peers that are sent to

    def __repr__(self) -> str:
        return f"<PeerRecordCache {len(self._records)} records, {len(self._dirty)} to be saved>"

    async def load(self) -> None:
        """Read the stored records and drop unsaved changes. Raises SourceUnavailable."""
        # Unsaved changes belong to an earlier time as the lead; another process may have saved
        # since.
        self._records.clear()
        self._dirty.clear()
        self._marked.clear()
        for record in await self._change_log.peers():
            self._records[record.name, record.lane] = record

    def get(self, name: str, lane: Lane) -> PeerRecord | None:
        """Return a record with its unsaved changes; None: there is none."""
        return self._records.get((name, lane))

    def records(self) -> list[PeerRecord]:
        """Return all of them, in order."""
        return [self._records[key] for key in sorted(self._records)]

    def open(self, name: str, lane: Lane) -> PeerRecord:
        """Return a record, made anew for a peer without one."""
        record = self._records.get((name, lane))
        if record is None:
            # From now on everything is kept for it, before it was ever reached: see decisions,
            # "Objects are kept for a peer from the moment it is configured".
            record = PeerRecord(name, lane, cursor=self._change_log.head())
            self._records[name, lane] = record
            self._dirty.add((name, lane))
        return record

    def change(self, name: str, lane: Lane, **fields: Any) -> None:
        """Change fields of a record."""
        key = (name, lane)
        before = self._records[key]
        self._records[key] = after = before._replace(**fields)
        if after != before:
            self._dirty.add(key)

    def take_mark(self, name: str, lane: Lane) -> bool:
        """Whether storage has marked this record since the last call."""
        marked = (name, lane) in self._marked
        self._marked.discard((name, lane))
        return marked

    async def save(self) -> None:
        """Save changed records. Raises StorageFailed, StorageFull."""
        async with self._saving:
            # Taken before the await: what changes meanwhile is dirty again, and goes with the next
            # save.
            keys, self._dirty = sorted(self._dirty), set()
            if not keys:
                return
            try:
                await self._change_log.save([self._records[key] for key in keys])
            # Also when cancelled: whether it was stored is not known, and saving twice does no
            # harm.
            except BaseException:
                self._dirty.update(keys)
                raise

    async def poll(self) -> None:
        """Take over changes by others: marks of storage, requests of operators, dropped peers.

        Raises SourceUnavailable.
        """
        found = await self._change_log.peers()
        # Only a peer that is no longer configured can have been dropped by a command.
        left = {key for key in self._records if key[0] not in self.in_use}
        for key in left - self._dirty - {(stored.name, stored.lane) for stored in found}:
            del self._records[key]
        for stored in found:
            key = (stored.name, stored.lane)
            mine = self._records.get(key)
            if mine is None:
                self._records[key] = stored
                continue
            # Storage marked it after this process read it: that outlives what is here (decisions:
            # Saving a peer's record does not undo a mark that storage made).
            if stored.marks > mine.marks:
                mine = mine._replace(
                    state=PeerState.NEEDS_RESYNC,
                    reason=stored.reason,
                    position="",
                    marks=stored.marks,
                    holds=stored.holds,
                )
                self._marked.add(key)
            # Operators' requests are written by commands, all else by this process.
            self._records[key] = mine._replace(wanted=stored.wanted)

    async def run(self) -> None:
        """Save and poll for ever. A failing catalogue is retried: storage reports it itself."""
        turn = 0
        while True:
            await self._clock.sleep(_SAVE_EVERY_S)
            turn += 1
            try:
                await self.save()
                if turn % _LOOK_EVERY_TURNS == 0:
                    await self.poll()
            except FederationError as error:
                _log.warning("peer_records_not_saved", reason=str(error))
