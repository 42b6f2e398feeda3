"""Slows down addresses that go on and on with calls they have no right to, or that nobody serves.

A call that is refused at its headers costs some 60 µs. Of a client that sends them without a pause
every connection would do thousands in a turn of the event loop, while others wait. Such a client
is not read from for a while instead. Nothing is refused for it, and no other address is slower.
"""

from __future__ import annotations

from federation.core.clock import Clock
from federation.core.token_bucket import TokenBucket
from federation.services.status_codes import StatusCode

REFUSALS = frozenset(
    (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED)
)
_PER_S, _BURST = 1000.0, 5000.0  # refused calls of an address: a client that is wrong stays below
_PAUSE_MAX_S = 30.0  # a client that is not read from cannot answer a PING, either


class RefusedCalls:
    """The refused calls of each address."""

    def __init__(self, clock: Clock) -> None:
        self._now_s = clock.monotonic_s
        self._buckets: dict[str, TokenBucket] = {}

    def __repr__(self) -> str:
        return f"<RefusedCalls of {len(self._buckets)} addresses>"

    def note(self, address: str) -> float:
        """Count a refused call; return for how many seconds its connection should not be read."""
        now_s = self._now_s()
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = TokenBucket(_PER_S, _BURST, now_s, tokens=_BURST)
        return min(bucket.spend(1, now_s), _PAUSE_MAX_S)

    def forget(self) -> None:
        """Forget addresses without a refused call for so long that it makes no difference."""
        now_s = self._now_s()
        self._buckets = {
            address: bucket
            for address, bucket in self._buckets.items()
            if (now_s - bucket.now_s) * _PER_S + bucket.tokens < _BURST
        }
