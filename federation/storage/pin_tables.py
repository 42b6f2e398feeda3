"""What keeping pins asks of an engine: the records of pins, and what they keep.

Any engine's tables fit below pinning.py, pin_walk.py and upkeep/pin_keeper.py. Each method is one
transaction, unless it says otherwise. A keeping keeps one entry, with all that it names, for one
pin. A blob that several entries name is kept by one of them: see catalogue/keepings.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from federation.core.index import Entry, EntryKey
from federation.core.pins import KeptState, Pin, PinReport, PinTarget

E = TypeVar("E")  # what the engine calls an index entry: its row id, or its key

TRIED_MS = 600_000  # after that time without a sign of it, a command that pins has died
RETURN_MS = 86_400_000  # after an entry was replaced, what its former value named is kept so long
_RETRY_FIRST_MS, _RETRY_MAX_MS = 60_000, 3_600_000
_LEFT_OUT_MAX_MS = 86_400_000
PUT_OFF_MS = _RETRY_MAX_MS  # for what was left out, while there is no room


def retry_after_ms(tries: int) -> int:
    """Return when to look again at what is incomplete: ever more rarely."""
    return min(_RETRY_MAX_MS, _RETRY_FIRST_MS << min(tries, 10))


def left_out_for_ms(tries: int) -> int:
    """Return when to look again at what did not fit."""
    return min(_LEFT_OUT_MAX_MS, _RETRY_MAX_MS << min(tries, 10))


class PinnableEntry(NamedTuple, Generic[E]):
    """An index entry, as far as pins look at it."""

    id: E
    key: EntryKey
    label: str


class PinRow(NamedTuple):
    """A record with what only this storage knows of it."""

    id: int
    seq: int | None  # None: it is being tried
    scanned: bool  # whether all entries that were here when it was made have been looked at
    pin: Pin

    @property
    def is_trial(self) -> bool:
        """Whether a command is still finding out whether it fits."""
        return self.seq is None


class Followed(NamedTuple):
    """How far the change log was looked at; all as of one moment."""

    at: int  # the last row that was
    head: int  # the newest row
    is_whole: bool  # whether all rows in between are there
    live: Sequence[PinRow]  # pins in force, if there are rows to look at; one made later scans all


class Keeping(NamedTuple, Generic[E]):
    """What keeps one entry, or blob, for one pin."""

    id: int
    pin_id: int
    entry: E | None  # None: it keeps a blob
    seq: int  # of the entry's value
    tries: int
    state: int = KeptState.INCOMPLETE


class KeptNow(NamedTuple):
    """What became of some blobs; does_fit False: pins would take too much, nothing was kept."""

    does_fit: bool
    missing: list[bytes]


class KeptTotal(NamedTuple):
    """The sums over keepings."""

    entries: int = 0
    blobs: int = 0
    size_bytes: int = 0
    incomplete: int = 0
    missing: int = 0
    left_out: int = 0


def report_of(row: PinRow, kept: Mapping[int, KeptTotal]) -> PinReport:
    """Return what a pin keeps. kept: by the ids of pins; of one that keeps nothing it has none."""
    sums = kept.get(row.id, KeptTotal())
    return PinReport(
        row.pin,
        is_settled=row.scanned,
        entries=sums.entries,
        blobs=sums.blobs,
        size_bytes=sums.size_bytes,
        incomplete=sums.incomplete,
        missing=sums.missing,
        left_out=sums.left_out,
    )


def reports_of(live: Sequence[PinRow], kept: Mapping[int, KeptTotal]) -> list[PinReport]:
    """Return what each pin in force keeps; live: see PinRecords."""
    return [report_of(row, kept) for row in live if not row.is_trial]


def facts_of_pins(
    live: Sequence[PinRow], kept: Mapping[int, KeptTotal], size_bytes: int, max_bytes: int
) -> dict[str, int]:
    """Return the sums that `federation status` shows; size_bytes: of all that is kept."""
    return {
        "pins": sum(not row.is_trial for row in live),
        "bytes": size_bytes,
        "max-bytes": max_bytes,
        "entries": sum(each.entries for each in kept.values()),
        "incomplete-entries": sum(each.incomplete for each in kept.values()),
        "entries-left-out": sum(each.left_out for each in kept.values()),
    }


class PinRecords(Protocol):
    """The records of pins. See federation.core.pins.Pins for what methods raise."""

    async def unknown_of(self, received: Sequence[Pin]) -> list[Pin]:
        """Return those records that are newer than what is known of their targets."""
        ...

    async def apply(self, received: Sequence[Pin]) -> int:
        """Take over records of other nodes that are newer; return how many.

        Raises InvalidRequest beyond PINS_MAX, and for stamps too far ahead.
        """
        ...

    async def page(self, after: int, limit: int) -> list[tuple[int, Pin]]:
        """Return records with numbers above after, in order, each with its number."""
        ...

    async def get(self, target: PinTarget) -> PinRow | None:
        """Return the record of a target, also of one that was removed."""
        ...

    async def store(self, pin: Pin) -> None:
        """Store a record with a stamp of now. Raises InvalidRequest beyond PINS_MAX."""
        ...

    async def remove(self, targets: Sequence[PinTarget], by: str) -> list[Pin]:
        """Remove the pins of these targets; return the records of those that there were."""
        ...

    async def begin_trial(self, pin: Pin) -> int:
        """Store a record that is not in force yet, beside an older one, and return its id.

        Raises InvalidRequest beyond PINS_MAX, and if another command is trying the same target.
        """
        ...

    async def go_on_trying(self, pin_id: int) -> None:
        """Note that the command still works."""
        ...

    async def end_trial(self, pin_id: int, pin: Pin) -> None:
        """Put a record in force with a stamp of now, in the place of an older one.

        Durable with all that was kept for it. Raises SourceUnavailable if that may be lost.
        """
        ...

    async def drop_trial(self, pin_id: int) -> None:
        """Remove a record that is not in force; what it has kept is given back soon."""
        ...

    async def are_any(self) -> bool:
        """Return whether there is any record, or anything that a pin has kept."""
        ...

    async def live(self) -> list[PinRow]:
        """Return the records that keep something, those that are being tried, too."""
        ...

    async def end_over(self) -> list[PinRow]:
        """End pins whose date has passed, and trials whose command has died; return the pins.

        A pin leaves a record, as one that was removed: with its stamp it wins over an older record
        of a peer that has not heard of that date.
        """
        ...

    async def followed(self) -> Followed:
        """Return how far the change log was looked at."""
        ...

    async def set_followed(self, upto: int) -> None:
        """Note how far the change log was looked at."""
        ...

    async def set_scanned(self, rows: Sequence[PinRow], *, is_scanned: bool) -> None:
        """Note that all entries were looked at for these pins, or that they have to be.

        Nothing is noted of a record that has changed since.
        """
        ...

    async def target_of(self, pin_id: int) -> PinTarget | None:
        """Return the target of a record; None: there is none."""
        ...


class Keepings(Protocol[E]):
    """What keeps entries and blobs. Methods raise SourceUnavailable, StorageFull, StorageFailed.

    What a removed pin has kept counts as ended at once, though its keepings are noted as such
    later: see end_some.
    """

    def max_bytes(self) -> int:
        """Return how many bytes of the quota pins may keep now."""
        ...

    async def total_bytes(self) -> int:
        """Return how much of the quota is kept, with what is not given back yet."""
        ...

    async def totals(self, pin_id: int | None = None) -> Mapping[int, KeptTotal]:
        """Return the sums for each pin that keeps something, or for this one alone."""
        ...

    async def candidates(self, after: E | None, limit: int) -> list[PinnableEntry[E]]:
        """Return entries that follow this one (None: the first ones), in an order of their own."""
        ...

    async def changed(self, after: int, upto: int) -> list[PinnableEntry[E]]:
        """Return the entries that the log has rows of, with numbers above after and to upto."""
        ...

    async def entry(self, entry: E) -> Entry | None:
        """Return the present value of an entry."""
        ...

    async def known(self, pin_id: int, entry: E) -> Keeping[E] | None:
        """Return what keeps the present value of an entry, which is kept itself."""
        ...

    async def begin(
        self, pin_id: int, entry: E | None, max_bytes: int
    ) -> tuple[Keeping[E] | None, bool]:
        """Return what keeps the present value of an entry for a pin, and whether it fits.

        None: one of the two is gone. The entry itself is kept, if pins then take at most max_bytes.
        An earlier value's keeping ends. entry None: of a pinned blob.
        """
        ...

    async def look(self, keys: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return which of these blobs are here and not kept, and which are missing."""
        ...

    async def keep(self, keeping: Keeping[E], keys: Sequence[bytes], max_bytes: int) -> KeptNow:
        """Keep blobs that nothing keeps, if pins then take at most max_bytes.

        Keeps nothing if the pin was removed meanwhile.
        """
        ...

    async def settle(self, keeping: Keeping[E], missing: int, *, is_whole: bool) -> None:
        """Note the result of a walk; what is incomplete is due again, ever more rarely."""
        ...

    async def leave_out(self, keeping: Keeping[E]) -> None:
        """Note that a pin leaves an entry out; what was kept of that already is given back."""
        ...

    async def due(self, limit: int) -> list[Keeping[E]]:
        """Return what is incomplete or left out, and is to be tried again now."""
        ...

    async def put_off(self, waiting: Collection[Keeping[E]]) -> None:
        """Let what was left out wait, as there is no room for it."""
        ...

    async def after(self, keeping_id: int, limit: int) -> list[Keeping[E]]:
        """Return what pins keep, of ids above this one and in their order; not what is left out."""
        ...

    async def end_some(self) -> bool:
        """Note that some keepings of removed pins have ended; return False if there were none.

        One small transaction, as a pin may have a million.
        """
        ...

    async def is_return_due(self) -> bool:
        """Return whether any ended keeping is to be given back now."""
        ...

    async def begin_return(self) -> int:
        """Remember which keepings have ended by now; return how many. Several transactions."""
        ...

    async def give_back(self) -> None:
        """Let eviction have what these keep still, and forget them. Several transactions."""
        ...
