"""The rows of reads through proxies, in the order of their table."""

from __future__ import annotations

from functools import partial

from benchmarks.mirror.measure import MirrorSpec
from benchmarks.mirror.site import Distance
from benchmarks.mirror.work import BatchReads, Reads, Together
from benchmarks.payloads import KIB, MIB

_HEAVY_WARM_UP_BYTES = 32 * MIB
_FAR = Distance(round_trip_ms=20, bytes_s=125e6)  # another city, over 1 Gbit/s
_FAR_AWAY = "upstream 20 ms and 1 Gbit/s away"


def all_rows(*, quick: bool) -> dict[str, MirrorSpec]:
    """Return every row by name; quick makes the heavy ones small."""
    large, shared, readers = (8 * MIB, 4 * MIB, 10) if quick else (1024 * MIB, 256 * MIB, 100)
    small, batches = (5, 5) if quick else (100, 20)
    warm_up = MIB if quick else _HEAVY_WARM_UP_BYTES
    rows = [
        MirrorSpec("mirror-1KiB", "Read 1 KiB", partial(Reads, KIB, small)),
        MirrorSpec("mirror-1MiB", "Read 1 MiB", partial(Reads, MIB, small // 5)),
        MirrorSpec(
            "mirror-1GiB",
            f"Read {large // MIB:,} MiB",
            partial(Reads, large, 1),
            warm_up_bytes=warm_up,
            rounds_max=3,
        ),
        MirrorSpec(
            "mirror-batch-100",
            "BatchRead 100 x 1 KiB",
            partial(BatchReads, 100, batches),
            one_message=True,
        ),
        MirrorSpec(
            "mirror-readers",
            f"{readers} readers of one {shared // MIB} MiB blob",
            partial(Together, shared, readers),
            warm_up_bytes=warm_up,
            rounds_max=1,
        ),
        MirrorSpec(
            "mirror-far-1KiB", f"Read 1 KiB, {_FAR_AWAY}", partial(Reads, KIB, small), distance=_FAR
        ),
        MirrorSpec(
            "mirror-far-1MiB",
            f"Read 1 MiB, {_FAR_AWAY}",
            partial(Reads, MIB, small // 5),
            distance=_FAR,
        ),
        MirrorSpec(
            "mirror-far-1GiB",
            f"Read {large // MIB:,} MiB, {_FAR_AWAY}",
            partial(Reads, large, 1),
            warm_up_bytes=warm_up,
            rounds_max=1,
            distance=_FAR,
        ),
        MirrorSpec(
            "mirror-far-batch-100",
            f"BatchRead 100 x 1 KiB, {_FAR_AWAY}",
            partial(BatchReads, 100, batches),
            one_message=True,
            distance=_FAR,
        ),
    ]
    return {spec.name: spec for spec in rows}
