"""Which rows of the change log are sent in one lane of a peer, and why others are not.

Decisions without I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from federation.core.digest import Digest
from federation.core.replication_log import EntryHead, LogRow
from federation.replication.outcomes import GONE, SUPERSEDED, SendOutcome, skipped
from federation.replication.peer_api import Via
from federation.replication.rules import Rules, When, was_there

CAME_FROM_IT = skipped("it came from the peer")
PULLED = skipped("it came from an upstream")
BY_RULE = skipped("a rule leaves it out")

End = Callable[[LogRow, SendOutcome], None]


class Chosen(NamedTuple):
    """The rows to be sent. Blobs are grouped by the nodes they passed, each once."""

    blobs: dict[Via, dict[Digest, list[LogRow]]]
    entries: list[LogRow]

    def seqs(self) -> Iterator[int]:
        """Yield the number of each row, in no order."""
        for rows_of in self.blobs.values():
            for rows in rows_of.values():
                yield from (row.seq for row in rows)
        yield from (row.seq for row in self.entries)


class Choice(NamedTuple):
    """The choice for one lane. node_id: of the peer; empty: not a node of this project."""

    rules: Rules
    node_id: str
    when: When

    def rows(self, rows: Sequence[LogRow], end: End) -> Chosen:
        """Return rows that may be for this lane; entries are decided later. end: for the others."""
        chosen = Chosen({}, [])
        for row in rows:
            if (outcome := self._against(row)) is not None:
                end(row, outcome)
            elif row.digest is None:
                chosen.entries.append(row)
            else:
                rows_of = chosen.blobs.setdefault(row.via, {})
                # A blob may have several rows (pulled, then pushed): it is sent once, and ends all
                # of them.
                rows_of.setdefault(row.digest, []).append(row)
        return chosen

    def entries(
        self, rows: Sequence[LogRow], found: Sequence[EntryHead | None], end: End
    ) -> list[LogRow]:
        """Return the rows for this lane, given the current entries of their names."""
        chosen = []
        for row, now in zip(rows, found, strict=True):
            if (outcome := self._against_entry(row, now)) is not None:
                end(row, outcome)
            else:
                chosen.append(row)
        return chosen

    def _against(self, row: LogRow) -> SendOutcome | None:
        """Return why a row is not sent, as far as the row shows."""
        if was_there(row.via, self.node_id):
            return CAME_FROM_IT
        if not self.rules.takes_from(row.source):
            return PULLED
        if row.digest is not None and self.rules.of_blob(row.digest) is not self.when:
            return BY_RULE
        return None

    def _against_entry(self, row: LogRow, now: EntryHead | None) -> SendOutcome | None:
        """Return why an entry is not sent, given its current state."""
        if now is None:
            return GONE
        # The newer row brings the newer value.
        if now.seq > row.seq:
            return SUPERSEDED
        if self.rules.of_entry(now.key, now.label).when is not self.when:
            return BY_RULE
        return None


def gaps(rows: Sequence[LogRow], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges within first..last that have no row."""
    at = first
    for row in rows:
        if row.seq > at:
            yield at, row.seq - 1
        at = row.seq + 1
    if at <= last:
        yield at, last
