"""How a row is measured: every server warmed up, then in turn, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import procfs
from benchmarks.base import RowSpec, Sample
from benchmarks.process import Server

_WARM_UP_SHARE = 0.5  # of a round


@dataclass
class Result:
    """One server's line of a row. Times in seconds for one call, sizes in bytes."""

    row: RowSpec
    server: str
    durability: str
    samples: list[Sample] = field(default_factory=list)
    idle_bytes: int = 0
    peak_bytes: int = 0

    @property
    def medians(self) -> list[float]:
        """The median call of each round."""
        return [statistics.median(sample.values) for sample in self.samples]

    @property
    def value(self) -> float:
        """The median of the rounds' medians."""
        return statistics.median(self.medians)

    @property
    def calls(self) -> int:
        """How many calls were timed."""
        return sum(len(sample.values) for sample in self.samples)

    @property
    def server_cpu_s(self) -> float:
        """The server's CPU time for one call."""
        return sum(sample.server_cpu_s for sample in self.samples) / self.calls

    @property
    def client_cpu_s(self) -> float:
        """This process's CPU time for one call."""
        return sum(sample.client_cpu_s for sample in self.samples) / self.calls


class Bench:
    """Runs rows over the chosen servers below one temporary folder."""

    def __init__(
        self, kinds: Sequence[type[Server]], home: Path, *, repeat: int, seconds: float
    ) -> None:
        self._kinds = kinds
        self._home = home
        self._repeat = repeat
        self._seconds = seconds

    def run(self, spec: RowSpec) -> list[Result]:
        """Measure one row; servers that do not have the feature are left out."""
        kinds = [kind for kind in self._kinds if kind.name in spec.servers]
        home = self._home / spec.name
        pairs = [
            (spec.make(kind(home)), Result(spec, kind.name, kind.durability)) for kind in kinds
        ]
        try:
            for row, result in pairs:
                row.prepare()
                if row.warms_up:
                    row.round(self._seconds * _WARM_UP_SHARE)
                result.idle_bytes = procfs.resident_bytes(row.server.pid)
            for turn in range(self._repeat):
                # Whoever goes first in one round goes last in the next.
                for row, result in pairs[turn % len(pairs) :] + pairs[: turn % len(pairs)]:
                    result.samples.append(row.round(self._seconds))
            for row, result in pairs:
                result.peak_bytes = procfs.resident_bytes(row.server.pid, peak=True)
        finally:
            for row, _ in pairs:
                row.close()
        return [result for _, result in pairs]
