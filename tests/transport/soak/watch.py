"""What is measured of a node while it is under load, and whether that stayed flat. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Sample(NamedTuple):
    """What a node held at one time."""

    at_s: float
    memory_mib: float
    descriptors: int
    sockets: int  # of these
    threads: int
    calls: int  # being answered
    uploads: int  # begun and not ended

    def __str__(self) -> str:
        return (
            f"{self.at_s:7.0f} s {self.memory_mib:7.1f} MiB {self.descriptors:4} descriptors, "
            f"{self.sockets:4} of sockets {self.threads:3} threads {self.calls:4} calls "
            f"{self.uploads:4} uploads"
        )


# What may grow between the second quarter of the time and the last one. The first is left out:
# caches and pools fill in it.
GROWTH_MIB, GROWTH_OF_MIB = 8.0, 0.05
GROWTH_DESCRIPTORS, GROWTH_OF_DESCRIPTORS = 10, 0.2  # they vary with what is read
GROWTH_THREADS = 2
# What may be left once the load is over. Files and threads that are kept for the next call, and
# memory that the allocator keeps, are no leak.
LEFT_SOCKETS = 2


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what did not stay flat under load."""
    quarter = len(samples) // 4
    if not quarter:
        return ["there are too few samples to say anything"]
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for name, fixed, of_before in (
        ("memory_mib", GROWTH_MIB, GROWTH_OF_MIB),
        ("descriptors", GROWTH_DESCRIPTORS, GROWTH_OF_DESCRIPTORS),
        ("threads", GROWTH_THREADS, 0),
    ):
        before, after = (median(getattr(each, name) for each in part) for part in (early, late))
        allowed = fixed + of_before * before
        if after - before > allowed:
            found.append(f"{name} grew from {before:.0f} to {after:.0f}; {allowed:.0f} are allowed")
    return found


def left(before: Sample, after: Sample) -> list[str]:
    """Return what is still held after the load that was not held before it."""
    found = []
    if after.calls:
        found.append(f"{after.calls} calls are stuck")
    if after.uploads:
        found.append(f"{after.uploads} uploads are stuck")
    if after.sockets > before.sockets + LEFT_SOCKETS:
        found.append(f"{after.sockets - before.sockets} connections are left")
    return found
