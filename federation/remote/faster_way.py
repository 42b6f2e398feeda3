"""Whether blobs come faster compressed or plain from one remote: it depends on link and content.

On a slow link zstd wins, on a fast one compressing costs more than sending. No setting knows
that, so both ways are timed on the blobs that are read anyway. Without I/O.
"""

from __future__ import annotations

_TRY_OTHER_EVERY = 32  # choices; what was slower may have become faster
_WEIGHT = 0.5  # of the newest rate in the average
LEAST_BYTES = 1024 * 1024  # of a blob whose time says something about the link


class FasterWay:
    """Rates of both ways in bytes a second, uncompressed bytes each; the first choice is zstd."""

    def __init__(self, least_bytes: int = LEAST_BYTES) -> None:
        """least_bytes: of what is read at once, for its time to say something."""
        self._least_bytes = least_bytes
        self._rates: dict[bool, float] = {}
        self._choices = 0

    def __repr__(self) -> str:
        shown = {("zstd" if way else "plain"): f"{rate:.3g}" for way, rate in self._rates.items()}
        return f"<FasterWay {shown}>"

    @property
    def is_zstd(self) -> bool:
        """Whether zstd was the faster way, as far as is known."""
        return self._rates.get(True, 1.0) >= self._rates.get(False, 0.0)

    def choose_zstd(self) -> bool:
        """Choose for the next blob: the faster way, the untried one, or now and then the other."""
        if True not in self._rates:
            return True
        if False not in self._rates:
            return False
        self._choices += 1
        return self.is_zstd != (self._choices % _TRY_OTHER_EVERY == 0)

    def choose_for(self, size_bytes: int) -> bool:
        """Choose for so many bytes; what is too small to say anything goes the faster way."""
        return self.choose_zstd() if size_bytes >= self._least_bytes else self.is_zstd

    def took(self, size_bytes: int, seconds: float, *, zstd: bool) -> None:
        """Learn how long a whole blob, or batch of them, took."""
        if size_bytes < self._least_bytes:
            return
        rate = size_bytes / max(seconds, 1e-6)
        old = self._rates.get(zstd, rate)
        self._rates[zstd] = old + _WEIGHT * (rate - old)
