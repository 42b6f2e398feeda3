"""When a name was given its value, and which of two values stays. Without I/O.

A hybrid logical clock: stamps follow the wall clock, but do not step back with it, and are later
than every stamp met before. So the later of two pushes that knew of each other wins whatever the
clocks say, and of two that did not, the one with the later clock, at every node alike.

A stamp is to be ahead of the wall clock by a bounded drift only. From a peer, one that is further
ahead is refused; stamps given here do not follow it, except that of the same name's next value.
Whether its clock was wrong or the clock is now, only time tells: redating.py waits for that.
"""

from __future__ import annotations

import enum
import hashlib
from typing import NamedTuple

from federation.core.errors import InvalidRequest
from federation.core.store import NO_STAMP, PULLED_TICKS, Entry, Source, Stamp

DRIFT_S = 300.0  # unless the configuration says otherwise
_YEAR_S = 366 * 86400.0


class Verdict(enum.Enum):
    """What becomes of an entry that is to be stored."""

    TAKE = enum.auto()  # it replaces what is held: a new log row
    RENEW = enum.auto()  # it is what is held
    LET_FALL = enum.auto()  # what is held stays


class Held(NamedTuple):
    """What is held under the same key."""

    value: bytes
    expires_at_s: float | None
    source: Source
    stamp: Stamp


class Dated(NamedTuple):
    """What becomes of an entry, and of the clock."""

    verdict: Verdict
    stamp: Stamp  # of what is held from now on
    ticks: int  # of the greatest stamp given or met


def ticks_at(wall_s: float) -> int:
    """Return the first ticks of a millisecond of the wall clock."""
    return int(wall_s * 1000) << 16


def next_ticks(last: int, wall_s: float, drift_s: float = DRIFT_S) -> int:
    """Return the ticks of a stamp given now, after one with the ticks last.

    Where last is too far ahead, the new stamp is ahead of the wall clock by half of the drift: that
    outdoes what peers have given until now, as long as their clocks differ by less, and they take
    it.
    """
    if last > ticks_at(wall_s + drift_s):
        last = ticks_at(wall_s + drift_s / 2)
    return max(last + 1, ticks_at(wall_s))


def is_too_far(stamp: Stamp, wall_s: float, drift_s: float = _YEAR_S) -> bool:
    """Whether a stamp is so far ahead that a clock was wrong when it was given."""
    return stamp.ticks > ticks_at(wall_s + drift_s)


def check(stamp: Stamp, wall_s: float, drift_s: float = DRIFT_S) -> None:
    """Raise InvalidRequest for a stamp that is too far in the future."""
    if is_too_far(stamp, wall_s, drift_s):
        ahead_s = (stamp.ticks >> 16) / 1000 - wall_s
        raise InvalidRequest(
            f"the stamp {stamp.ticks}-{stamp.node} is {ahead_s:.0f} s ahead of this node's clock, "
            f"more than storage.clock-drift ({drift_s:.0f} s): set the clocks of both nodes right"
        )


def judge(
    held: Held | None, entry: Entry, source: Source, wall_s: float, drift_s: float = _YEAR_S
) -> Verdict:
    """Decide about an entry from this source; one from a peer counts by its stamp, if it has one.

    The same value with a greater stamp is taken, too: were it let fall, a third value with a stamp
    in between would win here and lose elsewhere. What is dated too far ahead gives way to a value
    of this very moment: that one is sent once, and would be let fall before what is held is dated
    anew. Its being of this moment shows that this node's own clock is right.
    """
    if held is None:
        return Verdict.TAKE
    same = (held.value, held.expires_at_s) == (entry.value, entry.expires_at_s)
    kept = Verdict.RENEW if same else Verdict.LET_FALL
    if source is Source.UPSTREAM:
        return _judge_pulled(held, wall_s, same=same)
    if held.source is Source.UPSTREAM:
        return Verdict.TAKE  # from now on no upstream replaces it, and peers get it
    if is_dated(entry, source):
        is_of_now = entry.stamp.ticks >= ticks_at(wall_s - drift_s)
        if is_of_now and is_too_far(held.stamp, wall_s, drift_s):
            return Verdict.TAKE
        is_later = _rank(entry.stamp, entry.value) > _rank(held.stamp, held.value)
        return Verdict.TAKE if is_later else kept
    return Verdict.RENEW if same else Verdict.TAKE


def is_dated(entry: Entry, source: Source) -> bool:
    """Whether an entry came with a stamp that counts."""
    return source is Source.PEER and entry.stamp != NO_STAMP


def date(
    held: Held | None,
    entry: Entry,
    source: Source,
    ticks: int,
    node_id: str,
    wall_s: float,
    drift_s: float = DRIFT_S,
) -> Dated:
    """Decide about an entry, and date it where it brings no stamp along.

    ticks: of the greatest stamp given or met here so far. Raises what check does.
    """
    brings_stamp = is_dated(entry, source)
    if brings_stamp:
        check(entry.stamp, wall_s, drift_s)
        ticks = max(ticks, entry.stamp.ticks)
    both_pulled = brings_stamp and entry.stamp.ticks == PULLED_TICKS
    rival = held
    if held and held.source is Source.UPSTREAM and both_pulled:  # the same one stays at both nodes
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
        given = max(given, held.stamp.ticks + 1)  # peers may have what is held
    return Dated(verdict, Stamp(given, node_id), max(ticks, given))


def _judge_pulled(held: Held, wall_s: float, *, same: bool) -> Verdict:
    if held.source is Source.UPSTREAM:
        return Verdict.RENEW if same else Verdict.TAKE
    expired = held.expires_at_s is not None and held.expires_at_s <= wall_s
    return Verdict.TAKE if expired else Verdict.LET_FALL


def _rank(stamp: Stamp, value: bytes) -> tuple[Stamp, bytes]:
    return stamp, hashlib.sha256(value).digest()
