"""What a remote can do: asked once a connection, with defaults for a remote that does not say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.clock import Clock
from federation.core.digest import DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.tasks import Background
from federation.remote.failures import FailureKind, NotFound, RemoteFailed, Unsupported
from federation.wire.bounds import read_request

BATCH_LEAST_BYTES = 64 * 2**10
BATCH_MOST_BYTES = 4 * 2**20 - 64 * 2**10  # what every server takes in one message

ASK_S = 30.0  # how long an answer is of use
_WAIT_S = 2.0  # how long a call waits for it; then it goes ahead with the defaults
_FRESH_S = 600.0
_AGAIN_S = 5.0  # after a failure


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The relevant part of ServerCapabilities; the defaults are for a server that does not say."""

    stated: bool = False
    batch_bytes: int = BATCH_MOST_BYTES  # most blob bytes in one batch call
    functions: frozenset[DigestFunction] | None = None  # None: not stated
    zstd: bool = False  # in ByteStream and BatchReadBlobs
    zstd_update: bool = False  # in BatchUpdateBlobs
    blob_max_bytes: int | None = None
    takes_results: bool | None = None  # whether we may update action results; None: not stated

    def hashes_with(self, function: DigestFunction) -> bool:
        """Whether it may hold blobs under this function."""
        return self.functions is None or function in self.functions


UNSTATED = Capabilities()


def read_capabilities(data: bytes) -> Capabilities:
    """Read a ServerCapabilities; absurd numbers are brought into range.

    Raises DecodeError, InvalidRequest.
    """
    message = read_request(reapi.ServerCapabilities, data)
    cache = message.cache_capabilities
    stated_batch = cache.max_batch_total_size_bytes
    # A function of this list that the node does not know is no fault: it never asks for it.
    known = frozenset(DigestFunction(f) for f in cache.digest_functions if f in _FUNCTIONS)
    return Capabilities(
        stated=True,
        batch_bytes=_clamped(stated_batch) if stated_batch > 0 else BATCH_MOST_BYTES,
        # An empty list is how servers from before the field say nothing about it.
        functions=known if cache.digest_functions else None,
        zstd=reapi.Compressor.ZSTD in cache.supported_compressors,
        zstd_update=reapi.Compressor.ZSTD in cache.supported_batch_update_compressors,
        blob_max_bytes=cache.max_cas_blob_size_bytes if cache.max_cas_blob_size_bytes > 0 else None,
        # A missing submessage says nothing, unlike one whose flag is not set.
        takes_results=(
            cache.action_cache_update_capabilities.update_enabled
            if cache.HasField("action_cache_update_capabilities")
            else None
        ),
    )


_FUNCTIONS = frozenset(int(function) for function in DigestFunction)


def _clamped(batch_bytes: int) -> int:
    return min(max(batch_bytes, BATCH_LEAST_BYTES), BATCH_MOST_BYTES)


class CapabilitiesMemory:
    """Caches the answer and renews it, one question at a time; never makes a call fail."""

    def __init__(
        self, ask: Callable[[], Awaitable[bytes]], clock: Clock, background: Background
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._background = background
        self._known = UNSTATED
        self._fresh_until_s = 0.0
        self._lost = True  # what is known was said over an earlier connection, or nothing is
        self._asking: asyncio.Task[None] | None = None

    @property
    def known(self) -> Capabilities:
        """The last answer, or the defaults."""
        return self._known

    def connection_lost(self) -> None:
        """Ask again: another program may answer the next connection."""
        # Defaults need no renewal at each break; the next stale look asks anyway.
        if self._known.stated:
            self._lost = True

    async def get(self) -> Capabilities:
        """Return what the remote can do; the last answer if it takes longer than two seconds."""
        fresh = self._clock.monotonic_s() < self._fresh_until_s
        if fresh and not self._lost:
            return self._known
        if self._asking is None:
            self._asking = self._background.start(self._learn(), "asking for capabilities")
        if self._lost:
            asking = self._asking
            await asyncio.wait({asking}, timeout=_WAIT_S)
            if not asking.done():
                self._lost = False  # one that is slow to say is waited for once
        return self._known

    async def learn_now(self) -> None:
        """Ask now, even if the answer is fresh. Raises RemoteFailed."""
        try:
            self._known = read_capabilities(await self._ask())
        except (Unsupported, NotFound, DecodeError, InvalidRequest):
            self._known = UNSTATED
        except RemoteFailed as error:
            # The caller is told that nobody answers. After a refusal, abilities are merely unknown.
            if error.is_retryable:
                raise
            self._known = UNSTATED
        self._lost = False
        self._fresh_until_s = self._clock.monotonic_s() + _FRESH_S

    async def _learn(self) -> None:
        fresh_s, reached = _FRESH_S, True
        may_be_another = self._lost  # get() clears it when it has waited for long enough
        try:
            self._known = read_capabilities(await self._ask())
        except (Unsupported, NotFound, DecodeError, InvalidRequest):
            self._known = UNSTATED
        except RemoteFailed as error:
            fresh_s = _AGAIN_S
            if error.kind is FailureKind.UNAVAILABLE:
                # Nobody was reached, so nothing is known of who will be.
                self._known, fresh_s, reached = UNSTATED, 0.0, False
            elif may_be_another or not (error.is_retryable or error.is_local_limit):
                self._known = UNSTATED
            # Else the last answer goes on: a busy server takes no larger batches than before.
        finally:
            self._asking = None
        self._lost = not reached  # then the first call that gets through wants to know
        self._fresh_until_s = self._clock.monotonic_s() + fresh_s
