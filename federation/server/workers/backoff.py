"""When a worker that died is started again."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_S = 0.5
_LONGEST_S = 30.0
_RAN_WELL_S = 60.0


@dataclass(slots=True)
class RestartBackoff:
    """The delays of one worker: doubling, from the start again after one that ran well."""

    _next_s: float = _FIRST_S

    def ended(self, ran_s: float) -> float:
        """Return how long to wait, after a worker that ran for ran_s."""
        if ran_s >= _RAN_WELL_S:
            self._next_s = _FIRST_S
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, _LONGEST_S)
        return delay_s
