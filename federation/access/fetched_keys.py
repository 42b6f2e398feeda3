"""The keys that an issuer publishes at a URL: fetched now and then, and when one is missing.

While the URL does not answer, the keys go on as they were, for a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from federation.access.jwks_url import KeysUnavailable, fetch_jwks
from federation.access.jwt_keys import KEYS_MAX_BYTES, JwtKeys, parse_published
from federation.access.key_schedule import KeySchedule
from federation.config.auth import JwtConfig
from federation.core.clock import Clock, utc_text
from federation.core.errors import ConfigError
from federation.core.fair_share import FairShare, ShareVerdict
from federation.core.tasks import sleep_unless
from federation.observability.metrics import Metrics

_log = structlog.get_logger(__name__)
_WAIT_S = 4.0  # of a call for a fetch; the HTTP address gives an answer 5 s in all
_WAITING_MAX = 100  # calls that wait for a fetch at once; others with an unknown key are refused

Fetch = Callable[[str, Path | None, int], Awaitable[bytes]]


class FetchedKeys:
    """The keys at one URL. Only run() fetches, and only one fetch is under way at a time."""

    def __init__(
        self,
        settings: JwtConfig,
        metrics: Metrics,
        clock: Clock,
        fetch: Fetch = fetch_jwks,
    ) -> None:
        """settings: with a URL."""
        assert settings.keys_url is not None
        self.url = settings.keys_url
        self.value = JwtKeys([], b"")  # replaced as a whole
        self._settings = settings
        self._clock = clock
        self._fetch = fetch
        self._schedule = KeySchedule(settings.keys_refresh, settings.keys_max_age)
        self._asked = asyncio.Event()
        self._ended = asyncio.Event()  # of the fetch under way, or else of the next one
        self._is_fetching = False
        self._waiting = FairShare(lambda: _WAITING_MAX)
        self._trouble = ""  # of the last fetch; empty: it went well
        self._given_at_s = 0.0  # wall clock
        self._fetches = {
            outcome: metrics.access.key_fetches.labels(outcome=outcome)
            for outcome in ("ok", "failed")
        }
        gauge = metrics.access.keys_given.labels(url=self.url)
        gauge.set_function(lambda: self._given_at_s)

    def __repr__(self) -> str:
        return f"<FetchedKeys {self.value!r} of {self.url}, {self._schedule.failures} failures>"

    async def run(self) -> None:
        """Fetch whenever that is due, until cancelled."""
        while True:
            await self.look()
            now_s = self._clock.monotonic_s()
            wait_s = self._schedule.due_in_s(now_s)
            # Also when keys become too old, which may be before the next fetch is due.
            if len(self.value):
                wait_s = min(wait_s, self._schedule.left_s(now_s))
            await sleep_unless(self._asked, wait_s, self._clock)

    async def look(self) -> None:
        """Fetch if that is due, or asked for; let go of keys that are too old."""
        now_s = self._clock.monotonic_s()
        is_asked = self._asked.is_set() and self._schedule.may_ask(now_s)
        self._asked.clear()
        if is_asked or self._schedule.due_in_s(now_s) <= 0:
            await self._fetch_now()
        if len(self.value) and self._schedule.left_s(self._clock.monotonic_s()) <= 0:
            self.value = JwtKeys([], b"")
            _log.error("jwt_keys_dropped", url=self.url, text=self.warning())

    def look_again(self) -> None:
        """Fetch soon, though not more often than the schedule allows."""
        self._asked.set()

    def may_wait(self, caller: str) -> bool:
        """Whether a call may wait for a fetch, as a key is unknown that its token names.

        caller: where it comes from. One address gets half of the places, so that strangers with
        made-up tokens leave some to others.
        """
        is_due = self._is_fetching or self._schedule.may_ask(self._clock.monotonic_s())
        return is_due and self._waiting.judge(caller) is ShareVerdict.GRANTED

    async def renewed(self, caller: str) -> None:
        """Wait for the end of the fetch under way or of a new one, for some seconds at most."""
        self._waiting.add(caller, 1)
        self._asked.set()
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._ended.wait()
        except TimeoutError:
            return  # whoever waited is refused as before
        finally:
            self._waiting.release(caller)

    def warning(self) -> str | None:
        """Return what keeps callers away, or soon will."""
        if not self._trouble:
            return None
        if not len(self.value):
            return f"no JSON Web Token is accepted: no keys from {self.url} ({self._trouble})"
        until_s = self._given_at_s + self._settings.keys_max_age
        return (
            f"no new keys from {self.url} since {utc_text(self._given_at_s)} ({self._trouble}); "
            f"those from then are used until {utc_text(until_s)}"
        )

    async def _fetch_now(self) -> None:
        settings = self._settings
        self._is_fetching = True
        try:
            data = await self._fetch(self.url, settings.keys_server_cert, KEYS_MAX_BYTES)
            self._take(parse_published(data, settings, "the answer"))
        except (KeysUnavailable, ConfigError) as error:
            self._note_failure(str(error))
        finally:
            self._is_fetching = False
            self._asked.clear()  # whoever asked meanwhile waited for this one
            self._ended.set()
            # A new one: whoever comes from now on waits for the next fetch.
            self._ended = asyncio.Event()

    def _take(self, keys: JwtKeys) -> None:
        self._schedule.succeeded(self._clock.monotonic_s())
        self._given_at_s = self._clock.wall_s()
        self._fetches["ok"].inc()
        # The same object stays where nothing changed: decisions that rest on it stay remembered.
        if keys != self.value:
            self.value = keys
            _log.info("jwt_keys_taken", url=self.url, count=len(keys))
        elif self._trouble:
            _log.info("jwt_keys_confirmed", url=self.url)
        self._trouble = ""

    def _note_failure(self, reason: str) -> None:
        self._schedule.failed(self._clock.monotonic_s())
        self._fetches["failed"].inc()
        was_well = not self._trouble
        self._trouble = reason
        # Once per failure, not at each fetch.
        if was_well:
            _log.warning("jwt_keys_not_fetched", url=self.url, text=self.warning())
