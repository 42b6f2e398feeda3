"""Whether blobs travel as zstd: by measurement, and by how the remote copes with it.

On a slow link zstd wins; on a fast one compressing costs more than sending. No setting knows that,
so both ways are timed on the blobs that are read anyway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import structlog

from federation.core.digest import Digest
from federation.remote.capabilities import Capabilities
from federation.remote.client import Remote
from federation.remote.failures import FailureKind, RemoteFailed
from federation.remote.reading import Pieces

_TRY_OTHER_EVERY = 32  # choices; what was slower may have become faster
_WEIGHT = 0.5  # of the newest rate in the average
LEAST_BYTES = 1024 * 1024  # of a blob whose time says something about the link


class FasterWay:
    """Rates of both ways, in uncompressed bytes a second. zstd is tried first."""

    def __init__(self, least_bytes: int = LEAST_BYTES) -> None:
        """least_bytes: smaller transfers are not measured."""
        self._least_bytes = least_bytes
        self._rates: dict[bool, float] = {}
        self._choices = 0

    def __repr__(self) -> str:
        shown = {("zstd" if way else "plain"): f"{rate:.3g}" for way, rate in self._rates.items()}
        return f"<FasterWay {shown}>"

    @property
    def is_zstd(self) -> bool:
        """Whether zstd is the faster way, by what was measured."""
        # Until both are measured zstd counts as faster: a wrong guess costs most on a slow link.
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
        """Choose for so many bytes; transfers that are too small to measure go the faster way."""
        return self.choose_zstd() if size_bytes >= self._least_bytes else self.is_zstd

    def took(self, size_bytes: int, seconds: float, *, zstd: bool) -> None:
        """Record how long a whole blob or batch took, in seconds."""
        if size_bytes < self._least_bytes:
            return
        # A transfer may take no time at all by the clock.
        rate = size_bytes / max(seconds, 1e-6)
        old = self._rates.get(zstd, rate)
        self._rates[zstd] = old + _WEIGHT * (rate - old)


_log = structlog.get_logger(__name__)
_LEAST_BYTES = 1024  # of a blob that is worth it
_BATCH_BYTES = 32 * 1024  # of small blobs, whose time together says something
_REST_S = 600.0  # how long a remote whose zstd was broken is asked for plain bytes

# What a remote may answer whose zstd does not work, where plain bytes would.
ZSTD_AT_FAULT = frozenset(
    {
        FailureKind.MALFORMED,
        FailureKind.SHORT,
        FailureKind.OVERRUN,
        FailureKind.INTERNAL,
        FailureKind.REFUSED,
        FailureKind.UNSUPPORTED,
    }
)


class Zstd:
    """Whether zstd is used with one remote."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._resting_until_s = 0.0
        self.way = FasterWay()
        self.batch_way = FasterWay(_BATCH_BYTES)
        self.update_way = FasterWay(_BATCH_BYTES)

    @property
    def rests(self) -> bool:
        """Whether plain bytes are used for a while."""
        return self._remote.clock.monotonic_s() < self._resting_until_s

    @property
    def is_allowed(self) -> bool:
        """Whether zstd may be used if the remote supports it."""
        return self._remote.settings.compression and not self.rests

    def suits(self, can: Capabilities, digest: Digest) -> bool:
        """Whether a whole blob is to travel as zstd."""
        if not can.zstd or digest.size_bytes <= _LEAST_BYTES or not self.is_allowed:
            return False
        return self.way.choose_for(digest.size_bytes)

    def suits_batch(self, can: Capabilities, size_bytes: int) -> bool:
        """Whether a batch of that many bytes is to be read as zstd."""
        return can.zstd and self.is_allowed and self.batch_way.choose_for(size_bytes)

    def suits_update(self, can: Capabilities, size_bytes: int) -> bool:
        """Whether a batch of that many bytes is to be sent as zstd."""
        return can.zstd_update and self.is_allowed and self.update_way.choose_for(size_bytes)

    def rest(self, reason: str) -> None:
        """Use plain bytes for a while."""
        if self.is_allowed:
            _log.info("remote_zstd_rests", remote=self._remote.name, reason=reason)
        self._resting_until_s = self._remote.clock.monotonic_s() + _REST_S


class ZstdOrPlain:
    """The pieces of a blob, compressed on the way; plain from where zstd fails.

    No piece is verified here, neither those before the fault nor those after it: whoever stores
    them does that.
    """

    def __init__(
        self,
        stack: AsyncExitStack,
        opening: AbstractAsyncContextManager[Pieces],
        plain: Callable[[int], Awaitable[Pieces]],
        on_fault: Callable[[str], None],
        size_bytes: int,
    ) -> None:
        self._size_bytes = size_bytes
        self._stack = stack
        self._attempt = AsyncExitStack()
        self._opening = opening
        self._plain = plain
        self._on_fault = on_fault
        self._pieces: Pieces | None = None
        self._given_bytes = 0
        self.is_plain = False

    async def next(self) -> bytes | None:
        """See Pieces."""
        try:
            piece = await self._next()
        except RemoteFailed as error:
            if self.is_plain or error.kind not in ZSTD_AT_FAULT:
                raise
            # All bytes are here, and only their hash can be wrong: plain ones would add nothing.
            if self._given_bytes == self._size_bytes:
                raise
            self._on_fault(error.reason)
            self.is_plain = True
            await self._attempt.aclose()  # its slot is the one to be used next
            self._pieces = await self._plain(self._given_bytes)
            piece = await self._pieces.next()
        self._given_bytes += 0 if piece is None else len(piece)
        return piece

    async def _next(self) -> bytes | None:
        if self._pieces is None:
            # A stack of its own, so that the fault of zstd ends this call and not the caller's.
            await self._stack.enter_async_context(self._attempt)
            self._pieces = await self._attempt.enter_async_context(self._opening)
        return await self._pieces.next()
