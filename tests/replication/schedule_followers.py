"""The change log of a node followed for one peer, in one life."""

from __future__ import annotations

from federation.core.digest import Digest
from federation.core.replication_log import Lane, LogRow
from federation.core.store import SMALL_BLOB_BYTES
from federation.core.window import Window
from federation.replication.cursor import LogProgress
from federation.replication.outcomes import GONE, SUPERSEDED, Fate, SendOutcome
from federation.replication.rules import When
from federation.replication.selection import Choice, Chosen, End, gaps
from tests.replication.schedule_entries import Parking
from tests.replication.schedule_judge import Road
from tests.replication.schedule_nodes import Way
from tests.replication.schedule_world import Process, World

_LINGER_S = 0.04
_SAVE_S = 0.5
_BLOBS_FIRST_S = 5.0
_UNRESOLVED_MAX = 40
_HOLES_S = (0.2, 0.5, 1.0, 2.0)


class Follower:
    """One lane: slices in flight, acknowledged by object."""

    def __init__(self, sender: Sender, lane: Lane, width: int) -> None:
        self._sender = sender
        self._lane = lane
        self._width = width
        self._road = road = sender.road
        self._key = (road.there.name, lane)
        self._when = When(lane)
        begin, end = road.window
        clock = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
        self._window = Window.parse(clock) if lane is Lane.WINDOW else None
        self.progress = LogProgress(road.here.cursors.get(self._key, 0))
        self._claimed: set[int] = set()  # what the judge knows of it
        self._ended: set[int] = set()
        self._wakes = self._saves = self._waits = self._is_held_up = False

    def wake(self, delay_s: float = _LINGER_S) -> None:
        """Look into the log in a moment."""
        if not self._wakes:
            self._wakes = True
            self._sender.world.after(delay_s, self._pump)

    def _pump(self) -> None:
        self._wakes = False
        sender, progress, head = self._sender, self.progress, self._road.here.head
        if sender.life.is_over:
            return
        if self._window and (opens_s := self._window.opens_in_s(self._road.here.wall_s)):
            self._skip_ahead()
            if progress.cursor < head and not self._waits:
                self._waits = True
                sender.world.after(opens_s, self._open)
            return
        newest = self._road.rule_set.is_newest_first
        while progress.unresolved <= _UNRESOLVED_MAX:
            part = progress.claim(head, self._width, newest=newest)
            if part is None:
                return
            self._check_claim(*part, newest=newest)
            if self._window:
                self._road.check_window()
            sender.world.start(sender.life, self._bring(*part))
        self._is_held_up = True

    def _open(self) -> None:
        self._waits = False
        self.wake(0.0)

    def _skip_ahead(self) -> None:
        """Pass what is not for this lane."""
        while (part := self.progress.claim(self._road.here.head, self._width)) is not None:
            self._check_claim(*part)
            wanted = min(self._choose(*part, lambda _row, _outcome: None).seqs(), default=None)
            self._done(part[0], part[1] if wanted is None else wanted - 1)
            if wanted is not None:
                self.progress.release(*part)
                self._claimed -= set(range(part[0], part[1] + 1)) - self._ended
                return

    def _check_claim(self, first: int, last: int, *, newest: bool = False) -> None:
        """Check that rows are claimed once, in order: as far as they go, without what is taken."""
        part, head = set(range(first, last + 1)), self._road.here.head
        unclaimed = range(self.progress.cursor + 1, head + 1)
        free = (seq for seq in (reversed(unclaimed) if newest else unclaimed))
        expected = next((seq for seq in free if seq not in self._claimed), None)
        if part & self._claimed or (last if newest else first) != expected:
            self._road.wrong(f"rows {first}-{last} were claimed, not {expected}")
        self._claimed |= part

    def _choose(self, first: int, last: int, end: End) -> Chosen:
        here = self._road.here
        choice = Choice(self._road.rules, self._sender.node_id, self._when)
        chosen = choice.rows(here.rows(first, last), end)
        found = [here.head_of(row.key) for row in chosen.entries if row.key is not None]
        return chosen._replace(entries=choice.entries(chosen.entries, found, end))

    def _bring(self, first: int, last: int) -> Process:
        world, sender = self._sender.world, self._sender
        for gap in gaps(self._road.here.rows(first, last), first, last):
            self._done(*gap)
        chosen = self._choose(first, last, self._end)
        small: list[Process] = []
        large: list[Process] = []
        for via, rows_of in chosen.blobs.items():
            for is_large, processes in ((False, small), (True, large)):
                some = {
                    d: r
                    for d, r in rows_of.items()
                    if (d.size_bytes > SMALL_BLOB_BYTES) is is_large
                }
                if some:
                    processes.append(self._ship(some, via))
        world.together(sender.life, large)
        shipped = world.together(sender.life, small)
        if chosen.entries:
            if not shipped.is_fired:
                world.after(_BLOBS_FIRST_S, world.fire, shipped)
            yield shipped
            for row in chosen.entries:
                world.start(sender.life, self._push(row))

    def _ship(self, rows_of: dict[Digest, list[LogRow]], via: Way) -> Process:
        def on_outcome(digest: Digest, outcome: SendOutcome) -> None:
            for row in rows_of[digest]:
                self._end(row, outcome)

        (first, *_), *_ = rows_of.values()
        yield from self._sender.ship(rows_of, via, self._way(first), on_outcome)

    def _push(self, row: LogRow) -> Process:
        assert row.key is not None
        seq, entry = self._road.here.entries.get(row.key, (0, None))
        outcome = GONE if entry is None else SUPERSEDED
        if entry is not None and seq == row.seq:
            outcome = yield from self._sender.send(row, entry, row.via, self._way(row), _HOLES_S)
        self._end(row, outcome)

    def _way(self, row: LogRow) -> Way:
        here = self._road.here
        return (*here.facts[row.seq - 1].way, here.name)

    # The ends

    def _end(self, row: LogRow, outcome: SendOutcome) -> None:
        if outcome.fate is Fate.PARKED:
            self._sender.park(row, str(row.key or row.digest), outcome.reason)
        self._done(row.seq, row.seq)

    def _done(self, first: int, last: int) -> None:
        world, before = self._sender.world, self.progress.cursor
        self._ended.update(range(first, last + 1))
        if self.progress.done(first, last):
            self._road.check_cursor(self._lane, before + 1, self.progress.cursor)
            if not self._saves:
                self._saves = True
                world.after(_SAVE_S, self._save)
        if self._is_held_up:
            self._is_held_up = False
            self.wake()

    def _save(self) -> None:
        self._saves = False
        if not self._sender.life.is_over:
            self._road.here.cursors[self._key] = self.progress.cursor


class Sender(Parking):
    """All that sends to one peer."""

    def __init__(self, world: World, road: Road, width: int) -> None:
        super().__init__(world, road)
        self.node_id = ""
        lanes = (Lane.ALWAYS, Lane.WINDOW) if road.rules.has_window else (Lane.ALWAYS,)
        self.followers = [Follower(self, lane, width) for lane in lanes]
        world.start(self.life, self._meet())

    def _meet(self) -> Process:
        """Nothing is sent before it is known who answers."""
        yield from self.ask(())
        self.node_id = self.road.there.name
        self.wake()
        self.look_soon()

    def wake(self) -> None:
        """Look into the log: it has grown."""
        if self.node_id:
            for follower in self.followers:
                follower.wake()
