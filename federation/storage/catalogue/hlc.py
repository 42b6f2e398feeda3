"""The time stamp of a name's value, and which of two values of a name wins. Without I/O.

A hybrid logical clock: stamps follow the wall clock, but never step back, and each is later than
every stamp seen before. If a node knew of one value when it accepted another, the later value wins
whatever the clocks say; of two concurrent values, all nodes choose the one with the later stamp.

A stamp may be ahead of the wall clock by a bounded drift only. A stamp from a peer that is further
ahead is refused, and stamps given here do not follow it, except for the next value of the same
name. The cause may be this node's clock as well as the other's, so redating.py waits before it
corrects stored stamps.
"""

from __future__ import annotations

import enum
import hashlib
from typing import NamedTuple

from federation.core.errors import InvalidRequest
from federation.core.index import NO_STAMP, PULLED_TICKS, Entry, Stamp
from federation.core.provenance import Source

DRIFT_S = 300.0  # unless the configuration says otherwise
_YEAR_S = 366 * 86400.0


class Verdict(enum.Enum):
    """What to do with an entry that was received."""

    TAKE = enum.auto()  # store it, with a new log row
    RENEW = enum.auto()  # the same entry is held already: renew its use
    LET_FALL = enum.auto()  # drop it: the entry held wins
    PURGED = enum.auto()  # drop it: the name was purged later


class Held(NamedTuple):
    """The entry that is held under the same key."""

    value: bytes
    expires_at_s: float | None
    source: Source
    stamp: Stamp


class Dated(NamedTuple):
    """The decision about an entry, and the state of the clock after it."""

    verdict: Verdict
    stamp: Stamp  # of the entry that is held from now on
    ticks: int  # of the greatest stamp given or received


def ticks_at(wall_s: float) -> int:
    """Return the first ticks of a millisecond of the wall clock."""
    # 65,536 stamps in a millisecond before the clock runs ahead of the wall clock.
    return int(wall_s * 1000) << 16


def next_ticks(last: int, wall_s: float, drift_s: float = DRIFT_S) -> int:
    """Return the ticks of a stamp given now, after one with the ticks last.

    If last is too far ahead, the new stamp is ahead of the wall clock by half of the drift: later
    than the stamps of peers whose clocks differ by less, and still accepted by them.
    """
    if last > ticks_at(wall_s + drift_s):
        last = ticks_at(wall_s + drift_s / 2)
    return max(last + 1, ticks_at(wall_s))


def is_too_far(stamp: Stamp, wall_s: float, drift_s: float = _YEAR_S) -> bool:
    """Return whether a stamp is more than drift_s ahead of the wall clock."""
    return stamp.ticks > ticks_at(wall_s + drift_s)


def check(stamp: Stamp, wall_s: float, drift_s: float = DRIFT_S) -> None:
    """Raise InvalidRequest for a stamp that is more than drift_s ahead of the wall clock."""
    if is_too_far(stamp, wall_s, drift_s):
        ahead_s = (stamp.ticks >> 16) / 1000 - wall_s
        raise InvalidRequest(
            f"the stamp {stamp.ticks}-{stamp.node} is {ahead_s:.0f} s ahead of this node's clock, "
            f"more than storage.clock-drift ({drift_s:.0f} s): set the clocks of both nodes right"
        )


def judge(
    held: Held | None, entry: Entry, source: Source, wall_s: float, drift_s: float = _YEAR_S
) -> Verdict:
    """Decide about an entry from this source. A peer's entry is compared by its stamp, if any.

    The same value with a greater stamp is taken, too: otherwise a third value with a stamp in
    between would win here and lose elsewhere.

    A held value that is dated too far ahead loses to a value stamped just now. The peer sends that
    one only once, so it would be lost before the held value is redated; and its stamp shows that
    this node's own clock is right.
    """
    if held is None:
        return Verdict.TAKE
    same = (held.value, held.expires_at_s) == (entry.value, entry.expires_at_s)
    kept = Verdict.RENEW if same else Verdict.LET_FALL
    if source is Source.UPSTREAM:
        return _judge_pulled(held, wall_s, same=same)
    if held.source is Source.UPSTREAM:
        return Verdict.TAKE  # from now on no upstream replaces it, and it is sent to peers
    if is_dated(entry, source):
        is_of_now = entry.stamp.ticks >= ticks_at(wall_s - drift_s)
        if is_of_now and is_too_far(held.stamp, wall_s, drift_s):
            return Verdict.TAKE
        is_later = _rank(entry.stamp, entry.value) > _rank(held.stamp, held.value)
        return Verdict.TAKE if is_later else kept
    return Verdict.RENEW if same else Verdict.TAKE


def is_dated(entry: Entry, source: Source) -> bool:
    """Return whether an entry came from a peer and with a stamp."""
    return source is Source.PEER and entry.stamp != NO_STAMP


def date(
    held: Held | None,
    entry: Entry,
    source: Source,
    ticks: int,
    node_id: str,
    wall_s: float,
    drift_s: float = DRIFT_S,
    purged: Stamp | None = None,
) -> Dated:
    """Decide about an entry, and give it a stamp if it came without one.

    ticks: of the greatest stamp given or received here so far. purged: the stamp of the record that
    the name was purged; older values are let fall. Raises InvalidRequest for a stamp that is too
    far in the future.
    """
    brings_stamp = is_dated(entry, source)
    if brings_stamp:
        check(entry.stamp, wall_s, drift_s)
        # Also of a value that loses: whatever is given here later must be later than all that was
        # seen.
        ticks = max(ticks, entry.stamp.ticks)
    if purged is not None and (
        source is Source.UPSTREAM or (brings_stamp and entry.stamp <= purged)
    ):
        return Dated(Verdict.PURGED, NO_STAMP, ticks)
    both_pulled = brings_stamp and entry.stamp.ticks == PULLED_TICKS
    rival = held
    # Both nodes pulled a value: comparing by node id makes them keep the same one.
    if held and held.source is Source.UPSTREAM and both_pulled:
        rival = held._replace(source=Source.PEER, stamp=Stamp(PULLED_TICKS, node_id))
    verdict = judge(rival, entry, source, wall_s, drift_s)
    if verdict is not Verdict.TAKE and held is not None:
        return Dated(verdict, held.stamp, ticks)
    if brings_stamp:
        return Dated(verdict, entry.stamp, ticks)
    if source is Source.UPSTREAM:
        return Dated(verdict, NO_STAMP, ticks)
    given = next_ticks(ticks, wall_s, drift_s)
    if held is not None:
        given = max(given, held.stamp.ticks + 1)  # peers may hold the old value: the new one wins
    if purged is not None:
        given = max(given, purged.ticks + 1)
    return Dated(verdict, Stamp(given, node_id), max(ticks, given))


def _judge_pulled(held: Held, wall_s: float, *, same: bool) -> Verdict:
    if held.source is Source.UPSTREAM:
        return Verdict.RENEW if same else Verdict.TAKE
    # Nobody is served an expired entry, so an upstream's value replaces it.
    expired = held.expires_at_s is not None and held.expires_at_s <= wall_s
    return Verdict.TAKE if expired else Verdict.LET_FALL


def _rank(stamp: Stamp, value: bytes) -> tuple[Stamp, bytes]:
    # Two values with one stamp (a clone of a node): all nodes must still choose the same one.
    return stamp, hashlib.sha256(value).digest()
