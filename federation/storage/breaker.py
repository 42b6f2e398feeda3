"""Decides whether so many blobs seem damaged that the disk must be suspected. No I/O, no clock.

A disk that fails as a whole looks like many damaged blobs. If too many are found within ten
minutes, nothing more is quarantined or written until the last suspects prove right again, or an
operator has them quarantined (`federation verify --repair`).
"""

from __future__ import annotations

import threading
from collections import deque

from federation.core.digest import Digest

_WITHIN_S = 600.0
_PROVEN_MIN = 100
_PROVEN_PART = 20  # 1/20 of all blobs may be damaged
_UNPROVEN_MAX = 16  # files that cannot be read and may be right
_SUSPECTS_MAX = 16


class DamageBreaker:
    """Decides before a blob is quarantined. May be used from every thread."""

    def __init__(self, medium: str = "disk") -> None:
        """medium: what an operator has to look at."""
        self._medium = medium
        self._lock = threading.Lock()
        self._proven: deque[float] = deque()
        self._unproven: deque[float] = deque()
        self._suspects: deque[tuple[Digest, int]] = deque(maxlen=_SUSPECTS_MAX)
        self._lifted = False
        self.trouble = ""

    def __repr__(self) -> str:
        return f"<DamageBreaker {self.trouble or 'closed'}>"

    def lift(self) -> None:
        """Admit all damage from now on, because an operator requested it."""
        self._lifted = True

    def admit(
        self, now_s: float, digest: Digest, seq: int, held_blobs: int, *, is_proven: bool
    ) -> bool:
        """Return whether a damaged blob (row seq) may be quarantined. False: it must stay.

        now_s is a monotonic time; held_blobs is the number of all blobs.
        """
        with self._lock:
            if self._lifted:
                return True
            found = self._proven if is_proven else self._unproven
            most = max(_PROVEN_MIN, held_blobs // _PROVEN_PART) if is_proven else _UNPROVEN_MAX
            while found and found[0] < now_s - _WITHIN_S:
                found.popleft()
            # Once in trouble nothing is admitted, of either kind: the same disk is at fault.
            if not self.trouble and len(found) < most:
                found.append(now_s)
                return True
            self._suspects.append((digest, seq))
            what = "damaged" if is_proven else "unreadable"
            self.trouble = self.trouble or (
                f"more than {most} blobs were {what} within {_WITHIN_S / 60:.0f} minutes, so no "
                f"more are quarantined. Check the {self._medium}; if they really are {what}, run "
                "`federation verify --repair`"
            )
            return False

    def suspects(self) -> list[tuple[Digest, int]]:
        """Return digests and rows of the last blobs that were found damaged but not admitted."""
        with self._lock:
            return list(self._suspects)

    def close(self) -> None:
        """Reset: none of the suspects is damaged any more."""
        with self._lock:
            self._suspects.clear()
            self._proven.clear()
            self._unproven.clear()
            self.trouble = ""
