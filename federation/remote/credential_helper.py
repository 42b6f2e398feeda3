"""The headers that a credential helper gives for one remote: kept until they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from federation.core.clock import Clock
from federation.core.tasks import Background
from federation.remote.failures import FailureKind, RemoteFailed, failure
from federation.remote.helper_answer import HelperAnswer, HelperFailed
from federation.remote.helper_process import run_helper

_log = structlog.get_logger(__name__)
_KEPT_S = 1800.0  # headers without a date, as Bazel keeps them
_EARLY_S = 60.0  # before the end of headers they are asked for anew, while calls go on
_AGAIN_S = 5.0  # between two runs, whatever asks for them

RunHelper = Callable[[Path, str], Awaitable[HelperAnswer]]


class CredentialHelper:
    """Runs one helper when its headers are needed: once for all calls that wait, and seldom."""

    def __init__(
        self, remote: str, program: Path, uri: str, clock: Clock, run: RunHelper = run_helper
    ) -> None:
        """remote: its name. uri: what the helper is asked about."""
        self._remote = remote
        self._program = program
        self._uri = uri
        self._clock = clock
        self._run = run
        self._headers: list[tuple[str, str]] = []
        self._until_s = 0.0  # wall clock
        self._renew_s = 0.0  # wall clock
        self._is_refused = False
        self._run_at_s: float | None = None  # monotonic; the end of the last run
        self._failed: RemoteFailed | None = None  # of the last run
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False
        self._background = Background()

    def __repr__(self) -> str:
        return f"<CredentialHelper {self._program} for {self._remote}>"

    async def headers(self) -> list[tuple[str, str]]:
        """Return the headers for a call. Raises RemoteFailed while the helper gives none."""
        if self._is_closed:
            raise self._closed()
        now_s = self._clock.wall_s()
        is_over = now_s >= self._until_s
        # Due but still valid headers are used while the helper runs: no call waits for it then.
        if (is_over or self._is_refused or now_s >= self._renew_s) and self._may_run():
            self._running = self._background.start(self._renew(), f"helper for {self._remote}")
        if (is_over or self._is_refused) and self._running is not None:
            await self._end_of(self._running)
        # A helper that fails for a while takes nothing from headers that are still valid.
        if self._clock.wall_s() < self._until_s:
            return self._headers
        raise self._failed or self._failure("has given headers that are over already")

    def look_soon(self) -> None:
        """Run the helper before the next call: the remote has refused its headers."""
        self._is_refused = True

    async def close(self) -> None:
        """End a run that is under way; later calls fail."""
        self._is_closed = True
        await self._background.close()

    def _may_run(self) -> bool:
        if self._running is not None:
            return False
        now_s = self._clock.monotonic_s()
        return self._run_at_s is None or now_s - self._run_at_s >= _AGAIN_S

    async def _end_of(self, running: asyncio.Task[None]) -> None:
        """Wait for a run, which goes on if this call is cancelled. Raises RemoteFailed."""
        await asyncio.wait({running})
        if running.cancelled():  # by close(): the call itself is not cancelled
            raise self._closed()
        running.result()

    async def _renew(self) -> None:
        try:
            found = await self._run(self._program, self._uri)
        except HelperFailed as error:
            was_well = self._failed is None
            self._failed = self._failure(str(error))
            # Once, not at each call: status shows that it goes on.
            if was_well:
                reason = self._failed.reason
                _log.warning("credential_helper_failed", remote=self._remote, reason=reason)
        else:
            self._take(found)
        finally:
            # After failures, too: a helper may ask a server that counts failed logins.
            self._run_at_s = self._clock.monotonic_s()
            self._is_refused = False
            self._running = None

    def _take(self, found: HelperAnswer) -> None:
        now_s = self._clock.wall_s()
        until_s = now_s + _KEPT_S if found.expires_s is None else found.expires_s
        if until_s <= now_s:
            self._failed = self._failure("has given headers that are over already")
            return
        self._headers, self._until_s = found.headers, until_s
        # Short-lived headers are renewed in their last tenth, or a minute early would be at once.
        self._renew_s = until_s - min(_EARLY_S, (until_s - now_s) / 10)
        self._failed = None

    def _closed(self) -> RemoteFailed:
        return failure(self._remote, FailureKind.CLOSED, "the client is closed")

    def _failure(self, what: str) -> RemoteFailed:
        detail = (
            f"its credential helper {self._program} {what}; to see why, run "
            f'`echo \'{{"uri": "{self._uri}"}}\' | {self._program} get` as the node\'s user'
        )
        return failure(self._remote, FailureKind.DENIED, detail)
