"""Counters, gauges and histograms: what is counted in memory, whatever shows it.

Counting is what every call does, several times, and showing is for scrapes: exposition.py has it
written out by prometheus_client. Its own counters take four times as long, and importing it is a
twentieth of the CPU of a start.

Everything here may be used from every thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, Protocol, TypeVar

Labels = tuple[tuple[str, str], ...]  # name and value of each, in the order of the declaration


class SeriesSample(NamedTuple):
    """One number that is shown: what follows the metric's name, the labels, and the value."""

    suffix: str
    labels: Labels
    value: float


class Series(Protocol):
    """What is counted for one set of label values."""

    def samples(self, labels: Labels) -> Iterator[SeriesSample]:
        """Yield what is shown of it."""
        ...


class Counter:
    """A number that only grows."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Counter {self.value:g}>"

    def inc(self, by: float = 1) -> None:
        """Add to it; by is not negative."""
        assert by >= 0
        with self._lock:
            # += is a read and a write, and threads may change in between.
            self.value += by

    def samples(self, labels: Labels) -> Iterator[SeriesSample]:
        """See Series."""
        yield SeriesSample("_total", labels, self.value)


class Gauge:
    """A number that goes up and down: set, or asked for when it is shown."""

    __slots__ = ("_ask", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._ask: Callable[[], float] | None = None

    def __repr__(self) -> str:
        return f"<Gauge {self.value:g}>"

    @property
    def value(self) -> float:
        """What it is now."""
        return self._value if self._ask is None else float(self._ask())

    def set(self, value: float) -> None:
        """Take this value."""
        self._value = float(value)

    def set_function(self, ask: Callable[[], float]) -> None:
        """Have the value asked for whenever it is shown."""
        self._ask = ask

    def samples(self, labels: Labels) -> Iterator[SeriesSample]:
        """See Series."""
        yield SeriesSample("", labels, self.value)


class Histogram:
    """A distribution: how many observations were at most each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """bounds: ascending; one without a bound follows."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self._counts)}>"

    def observe(self, value: float) -> None:
        """Count one."""
        # Left: a value that equals a bound is within it (Prometheus: le).
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._sum += value

    def buckets(self) -> list[tuple[float, int]]:
        """Return (bound, observations up to it), ascending; the last bound is infinite."""
        return list(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))

    def samples(self, labels: Labels) -> Iterator[SeriesSample]:
        """See Series."""
        with self._lock:
            # Under one lock, or _count and _sum would be of different moments.
            counted, total = self.buckets(), self._sum
        for bound, count in counted:
            shown = "+Inf" if bound == float("inf") else repr(float(bound))
            yield SeriesSample("_bucket", (*labels, ("le", shown)), count)
        yield SeriesSample("_count", labels, counted[-1][1])
        yield SeriesSample("_sum", labels, total)


S = TypeVar("S", bound=Series)


class Labelled(Generic[S]):
    """A metric with labels: a series for each set of their values that was named."""

    def __init__(self, names: Sequence[str], make: Callable[[], S]) -> None:
        self._names = tuple(names)
        self._make = make
        self._series: dict[tuple[str, ...], S] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Labelled {self._names}, {len(self._series)} series>"

    def labels(self, *values: str, **named: str) -> S:
        """Return the series with these values, one for each label; it is shown from now on.

        values: in the order of the declaration; named: by the labels' names.
        """
        # In the order of the declaration, so that every spelling finds the same series.
        key = values or tuple(named[name] for name in self._names)
        assert len(key) == len(self._names)
        assert len(named) == (0 if values else len(key))
        # Without the lock, as every call comes by here; the worst is a second look below.
        found = self._series.get(key)
        if found is None:
            with self._lock:
                # setdefault: another thread may have made it since the look above.
                found = self._series.setdefault(key, self._make())
        return found

    def remove(self, **values: str) -> None:
        """Stop showing the series with these values, if there is one."""
        with self._lock:
            self._series.pop(tuple(values[name] for name in self._names), None)

    def matching(self, **values: str) -> list[S]:
        """Return all series with these values, whatever the other labels are."""
        return [series for labels, series in self.each() if values.items() <= dict(labels).items()]

    def each(self) -> list[tuple[Labels, S]]:
        """Return every series with its labels."""
        with self._lock:
            found = list(self._series.items())
        return [(tuple(zip(self._names, key, strict=True)), series) for key, series in found]
