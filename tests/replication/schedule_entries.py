"""Index entries sent to one peer, and what was set aside tried again, in one life."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey
from federation.core.replication_log import LogRow, Parked
from federation.remote.failures import FailureKind
from federation.replication.closure_sender import LEFT_OUT
from federation.replication.outcomes import PRESENT, SENT, SUPERSEDED, TOO_FAR, Fate, Fault, parked
from federation.replication.retry import is_due
from federation.replication.rules import may_go_on
from tests.replication.schedule_blobs import AGAIN_S, Blobs
from tests.replication.schedule_judge import Road
from tests.replication.schedule_nodes import Way
from tests.replication.schedule_world import Process, Signal, World

_RETRY_S = 2.0


class Entries(Blobs):
    """Index entries, each behind all that it names."""

    def __init__(self, world: World, road: Road) -> None:
        super().__init__(world, road)
        self._pushing: dict[EntryKey, Signal] = {}

    def send(
        self, row: LogRow, entry: Entry, via: Way, way: Way, holes: Sequence[float]
    ) -> Process:
        """Bring one entry to its end. holes: how long it is waited for what is not here."""
        outcome = TOO_FAR
        if may_go_on(via):
            outcome = yield from self._closed(row, entry, via, way, holes)
        if outcome is not PRESENT:
            return outcome
        while entry.key in self._pushing:  # one at a time
            yield self._pushing[entry.key]
        if (entry.key, row.seq) in self.confirmed:
            return PRESENT
        self._pushing[entry.key] = Signal()
        outcome = yield from self._push(row, entry, via, way)
        self.world.fire(self._pushing.pop(entry.key))
        return outcome

    def _push(self, row: LogRow, entry: Entry, via: Way, way: Way) -> Process:
        """Push until it is taken, or is not to be any more."""
        outcome, refused = PRESENT, False
        while outcome is PRESENT:
            generation = yield from self.turn(writes=True)
            if self.road.here.entries[entry.key][0] > row.seq:  # while it waited
                self.gave_up()
                return SUPERSEDED
            work = partial(self.road.push, entry, self.headers(via, entry), way)
            answer, error = yield from self.road.wire.call(work, len(entry.value), 1)
            if (error := error or answer) is None:
                self.succeeded(wrote=True)
                self.faults.taken(entry.key)
                self.confirmed.add((entry.key, row.seq))
                return SENT
            if error.kind is FailureKind.REFUSED and not refused:
                self.gave_up()
                refused = True
                self.confirmed.clear()
            elif self.faults.failed(entry.key, error.kind) is Fault.OBJECT:
                self.gave_up()
                return parked(error.reason)
            else:
                self.failed(error, generation, wrote=True)
                if self.is_open:
                    yield AGAIN_S
            outcome = yield from self._closed(row, entry, via, way, ())
        return outcome

    def _closed(
        self, row: LogRow, entry: Entry, via: Way, way: Way, holes: Sequence[float]
    ) -> Process:
        """Bring all that it names there; PRESENT: it is."""
        here = self.road.here
        needs = here.names[entry.value]
        for delay_s in (*holes, None):
            if here.entries[entry.key][0] > row.seq:
                return SUPERSEDED
            lacks = [digest for digest in needs if digest not in here.blobs]
            if not lacks:
                break
            if delay_s is None:
                return parked(f"it needs blob {lacks[0]}, which is not here")
            yield delay_s
        bounds = self.road.rules.of_entry(entry.key, entry.label).bounds
        wanted = sorted(digest for digest in needs if bounds.admit(digest))
        outcomes = yield from self.ship(wanted, via, way, lambda _digest, _outcome: None)
        for digest, outcome in outcomes.items():
            if not outcome.is_there:
                return parked(f"it needs blob {digest}: {outcome.reason}")
        others = [d for d in needs if not bounds.admit(d) and d not in self.confirmed]
        if others and (yield from self.ask(others)):
            return LEFT_OUT
        return PRESENT


class Parking(Entries):
    """What was set aside, remembered and tried again."""

    def __init__(self, world: World, road: Road) -> None:
        super().__init__(world, road)
        self._delay_s = _RETRY_S
        self._looks = False

    def park(self, row: LogRow, label: str, reason: str) -> None:
        """Set an object aside, durably."""
        here, name = self.road.here, self.road.there.name
        self.road.check_parked(label, reason)
        thing: Any = row.digest or row.key
        tries = getattr(here.parked.get((name, thing)), "tries", 0) + 1
        here.parked[name, thing] = Parked(
            name, row.seq, row.digest, row.key, label, reason, here.wall_s, tries
        )
        self._delay_s = _RETRY_S
        self.look_soon()

    def look_soon(self) -> None:
        """Look for what is to be tried again, ever more rarely while nothing changes."""
        if not self._looks and any(
            peer == self.road.there.name for peer, _ in self.road.here.parked
        ):
            self._looks = True
            self.world.after(self._delay_s, self.world.start, self.life, self._look())
            self._delay_s = min(1800.0, 1.5 * self._delay_s)

    def _look(self) -> Process:
        here, name = self.road.here, self.road.there.name
        for (peer, thing), each in list(here.parked.items()):
            if peer == name and is_due(each, here.wall_s):
                yield from self._try_parked(thing, each)
        self._looks = False
        self.look_soon()

    def _try_parked(self, thing: Digest | EntryKey, each: Parked) -> Process:
        here, outcome = self.road.here, SUPERSEDED
        (row,) = here.rows(each.seq, each.seq)
        if isinstance(thing, Digest):
            outcome = (yield from self.ship([thing], (), (here.name,), lambda *_: None))[thing]
        elif here.entries[thing][0] == each.seq:
            entry = here.entries[thing][1]
            outcome = yield from self.send(row, entry, (), (here.name,), ())
        if outcome.fate is Fate.PARKED:
            self.park(row, each.label, outcome.reason)
        else:
            here.parked.pop((self.road.there.name, thing), None)
