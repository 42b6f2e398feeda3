"""When so much is damaged at once that it cannot be believed: a decision, without I/O or clock.

A disk that fails as a whole looks like many damaged blobs. Beyond a number of them within ten
minutes nothing is set aside any more, and nothing written, until what was found damaged last turns
out to be right again, or somebody has set it aside (`federation verify --repair`).
"""

from __future__ import annotations

import threading
from collections import deque

from federation.core.digest import Digest

_WITHIN_S = 600.0
_PROVEN_MIN = 100
_PROVEN_PART = 20  # of all blobs: this part of them may be damaged
_UNPROVEN_MAX = 16  # files that cannot be read, though nobody knows whether they are wrong
_SUSPECTS_MAX = 16


class DamageBreaker:
    """Asked before a blob is set aside. May be used from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._proven: deque[float] = deque()
        self._unproven: deque[float] = deque()
        self._suspects: deque[tuple[Digest, int]] = deque(maxlen=_SUSPECTS_MAX)
        self._lifted = False
        self.trouble = ""

    def __repr__(self) -> str:
        return f"<DamageBreaker {self.trouble or 'closed'}>"

    def lift(self) -> None:
        """Believe all damage: an operator asks for it."""
        self._lifted = True

    def admit(
        self, now_s: float, digest: Digest, seq: int, held_blobs: int, *, is_proven: bool
    ) -> bool:
        """Whether this damage is believed. False: the blob (row seq) has to stay as it is."""
        with self._lock:
            if self._lifted:
                return True
            found = self._proven if is_proven else self._unproven
            most = max(_PROVEN_MIN, held_blobs // _PROVEN_PART) if is_proven else _UNPROVEN_MAX
            while found and found[0] < now_s - _WITHIN_S:
                found.popleft()
            if not self.trouble and len(found) < most:
                found.append(now_s)
                return True
            self._suspects.append((digest, seq))
            what = "damaged" if is_proven else "unreadable"
            self.trouble = self.trouble or (
                f"more than {most} blobs turned out {what} within {_WITHIN_S / 60:.0f} minutes; "
                "none is set aside any more. Check the disk; if they really are, run "
                "`federation verify --repair`"
            )
            return False

    def suspects(self) -> list[tuple[Digest, int]]:
        """Return what was found damaged last and not set aside: digests and rows."""
        with self._lock:
            return list(self._suspects)

    def close(self) -> None:
        """Begin anew: none of the suspects is damaged any more."""
        with self._lock:
            self._suspects.clear()
            self._proven.clear()
            self._unproven.clear()
            self.trouble = ""
