"""Counts over time in buckets of three widths: fine for the last hour, coarse for the month.

Pure: the time comes from the caller, on the wall clock.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

_VERSION: Final = 1
_SERIES_MAX: Final = 256  # in one bucket; what is too many is left out
_COUNT_MAX: Final = 2**62

Counts = Mapping[str, int]  # by what was counted
Changes = Mapping[str, Counts]  # by series: "KIND/NAME", e.g. "instance/main"
Bucket = dict[str, dict[str, int]]


class HistoryDamaged(ValueError):
    """A text is not what History.to_text returned."""


class Period(enum.Enum):
    """A time up to now: the width of its buckets in seconds, and how many it has."""

    HOUR = (60, 60)
    DAY = (600, 144)
    MONTH = (86_400, 30)

    def __init__(self, width_s: int, count: int) -> None:
        self.width_s = width_s
        self.count = count

    @property
    def label(self) -> str:
        """Its name in output."""
        return self.name.lower()

    def place(self, wall_s: float) -> int:
        """Return the number of the bucket that this time is in."""
        return int(wall_s // self.width_s)


class Point(NamedTuple):
    """One bucket of a course."""

    start_s: int  # wall clock
    counts: Counts


class History:
    """Counts of series by time. At most the newest buckets of each period are kept."""

    def __init__(self) -> None:
        self._buckets: dict[Period, dict[int, Bucket]] = {period: {} for period in Period}

    def __repr__(self) -> str:
        kept = ", ".join(f"{len(found)} of a {w.label}" for w, found in self._buckets.items())
        return f"<History {kept}>"

    def add(self, changes: Changes, wall_s: float) -> None:
        """Count changes that happened now. Counts may be negative."""
        for period, buckets in self._buckets.items():
            place = period.place(wall_s)
            _add(buckets.setdefault(place, {}), changes)
            # By number, not by age: a clock that is ahead for a moment must not empty this.
            while len(buckets) > period.count + 1:
                del buckets[min(buckets)]

    def merge(self, other: History) -> None:
        """Add all counts of another history."""
        for period, buckets in self._buckets.items():
            for place, found in other._buckets[period].items():
                _add(buckets.setdefault(place, {}), found)

    def total(self, period: Period, wall_s: float) -> Bucket:
        """Return the sums over a period that ends now."""
        summed: Bucket = {}
        for _, found in self._within(period, wall_s):
            _add(summed, found)
        return summed

    def course(self, period: Period, kind: str, wall_s: float) -> list[Point]:
        """Return the sums of all series of a kind in each bucket of a period, empty ones too."""
        last = period.place(wall_s)
        sums: dict[int, dict[str, int]] = {
            place: {} for place in range(last - period.count + 1, last + 1)
        }
        for place, found in self._within(period, wall_s):
            for series, counts in found.items():
                if series.partition("/")[0] == kind:
                    _add_counts(sums[place], counts)
        return [Point(place * period.width_s, counts) for place, counts in sums.items()]

    def _within(self, period: Period, wall_s: float) -> Iterator[tuple[int, Bucket]]:
        last = period.place(wall_s)
        for place, found in self._buckets[period].items():
            # A bucket of the future comes from a clock that was ahead, and counts when it is time.
            if last - period.count < place <= last:
                yield place, found

    def to_text(self) -> str:
        """Return it as one line of JSON."""
        kept = {period.label: found for period, found in self._buckets.items()}
        return json.dumps({"version": _VERSION, **kept}, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> History:
        """Return what to_text was called on. Raises HistoryDamaged."""
        try:
            facts = json.loads(text)
            if facts["version"] != _VERSION:
                raise HistoryDamaged(f"version {facts['version']!r}, expected {_VERSION}")
            history = cls()
            for period, buckets in history._buckets.items():
                for place, found in facts[period.label].items():
                    _add(buckets.setdefault(int(place), {}), _checked(found))
        except HistoryDamaged:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HistoryDamaged(f"{type(error).__name__}: {error}") from None
        return history


def _add(into: Bucket, changes: Changes) -> None:
    for series, counts in changes.items():
        found = into.get(series)
        if found is None:
            # Instances are the callers' choice; the sums of what is left out stay in the metrics.
            if len(into) >= _SERIES_MAX:
                continue
            found = into[series] = {}
        _add_counts(found, counts)


def _add_counts(into: dict[str, int], counts: Counts) -> None:
    for name, count in counts.items():
        into[name] = into.get(name, 0) + count


def _checked(found: Any) -> Changes:
    for counts in found.values():
        for count in counts.values():
            # A damaged file must not end readers: JSON has numbers without end, and true is an int.
            if type(count) is not int or abs(count) > _COUNT_MAX:
                raise HistoryDamaged(f"{count!r} is no count")
    changes: Changes = found
    return changes
