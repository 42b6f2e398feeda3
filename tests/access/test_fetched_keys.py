"""Keys come from a URL: fetched seldom whoever asks, and used for some time while it is down."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from federation.access import fetched_keys
from federation.access.access import KeysOutdated, KeysUnknown
from federation.access.authenticator import Authenticator
from federation.access.fetched_keys import FetchedKeys
from federation.access.jwks_url import KeysUnavailable
from federation.access.key_schedule import AGAIN_S, KeySchedule
from federation.config.auth import ListenerAuthConfig
from federation.config.model import ListenerConfig
from federation.core.clock import ManualClock
from federation.core.errors import NotAuthenticated
from federation.observability.metrics import Metrics
from federation.services.status_codes import StatusCode, status_of
from tests.access.test_identity import Shown
from tests.access.test_jwt import EC, OTHER_RSA, RSA, jwk, jwks, settings, token
from tests.support.samples import sample_value

URL = "https://id.example.com/jwks"
OLD, NEW = jwk(RSA, kid="old"), jwk(OTHER_RSA, kid="new")
DAY_S, HOUR_S = 86400.0, 3600.0


def test_a_schedule_fetches_at_once_then_now_and_then() -> None:
    schedule = KeySchedule(HOUR_S, DAY_S)
    assert schedule.due_in_s(5) <= 0
    assert schedule.left_s(5) <= 0
    schedule.succeeded(5)
    assert schedule.due_in_s(5) == HOUR_S
    assert (schedule.left_s(5), schedule.left_s(5 + DAY_S)) == (DAY_S, 0)


def test_a_schedule_tries_again_soon_after_failures_and_not_ever_sooner() -> None:
    schedule = KeySchedule(HOUR_S, DAY_S)
    pauses = []
    for _ in range(6):
        schedule.failed(0)
        pauses.append(schedule.due_in_s(0))
    assert pauses == [10, 20, 40, 60, 60, 60]
    schedule.succeeded(0)
    assert schedule.due_in_s(0) == HOUR_S


def test_strangers_cannot_make_a_schedule_fetch_more_often() -> None:
    schedule = KeySchedule(HOUR_S, DAY_S)
    assert schedule.may_ask(0)
    for fetched in (schedule.succeeded, schedule.failed):
        fetched(100)
        assert not schedule.may_ask(100 + AGAIN_S - 0.1)
        assert schedule.may_ask(100 + AGAIN_S)


class Issuer:
    """A URL that gives keys, or fails; and the callers of a listener that trusts it."""

    def __init__(self, *keys: dict[str, object]) -> None:
        self.answer: bytes | str = jwks(*keys)  # a text is the reason of a failure
        self.fetches = 0
        self.clock, self.metrics = ManualClock(), Metrics()
        wanted = settings(keys=URL)
        self.keys = FetchedKeys(wanted, self.metrics, self.clock, self.fetch)
        auth = ListenerAuthConfig.model_construct(jwt=wanted, anonymous="none", clients=[])
        listener = ListenerConfig.model_construct(address="127.0.0.1:0", push=True, auth=auth)
        self.callers = Authenticator(listener, "here", self.clock, keys=self.keys)

    async def fetch(self, url: str, _server_cert: Path | None, _max_bytes: int) -> bytes:
        assert url == URL
        self.fetches += 1
        if isinstance(self.answer, str):
            raise KeysUnavailable(self.answer)
        return self.answer

    def lets_in(self, shown: str) -> bool:
        try:
            self.callers.rights_of(Shown(f"Bearer {shown}"))
        except NotAuthenticated:
            return False
        return True

    async def lets_in_after_a_wait(self, shown: str) -> bool:
        with pytest.raises(KeysOutdated) as outdated:
            self.callers.rights_of(Shown(f"Bearer {shown}"))
        waiting = asyncio.ensure_future(outdated.value.renewed())
        await asyncio.sleep(0)
        await self.keys.look()
        await waiting
        return self.lets_in(shown)


async def test_keys_are_fetched_once_and_again_when_that_is_due() -> None:
    issuer = Issuer(OLD)
    for _ in range(3):
        await issuer.keys.look()
    assert issuer.fetches == 1
    assert issuer.lets_in(token(RSA, kid="old"))
    issuer.answer = jwks(NEW)
    issuer.clock.advance(HOUR_S)
    await issuer.keys.look()
    assert issuer.fetches == 2
    assert not issuer.lets_in(token(RSA, kid="old"))  # it was remembered, and is so no more
    assert issuer.lets_in(token(OTHER_RSA, kid="new"))
    assert sample_value(issuer.metrics, "federation_jwt_key_fetches_total", {"outcome": "ok"}) == 2


@pytest.mark.parametrize(("kid", "named"), [(None, None), (None, "new"), ("new", None)])
async def test_a_new_key_without_an_id_is_waited_for_too(
    kid: str | None, named: str | None
) -> None:
    issuer = Issuer(jwk(RSA, kid=kid and "old"))
    await issuer.keys.look()
    issuer.answer = jwks(jwk(OTHER_RSA, kid=kid))
    issuer.clock.advance(AGAIN_S)
    assert await issuer.lets_in_after_a_wait(token(OTHER_RSA, kid=named))


async def test_a_token_with_a_new_key_waits_for_one_fetch() -> None:
    issuer = Issuer(OLD)
    await issuer.keys.look()
    issuer.answer = jwks(OLD, NEW)
    issuer.clock.advance(AGAIN_S)
    assert await issuer.lets_in_after_a_wait(token(OTHER_RSA, kid="new"))
    assert issuer.lets_in(token(RSA, kid="old"))
    assert issuer.fetches == 2


async def test_made_up_keys_cause_one_fetch_and_are_refused_at_once_then() -> None:
    issuer = Issuer(OLD)
    await issuer.keys.look()
    issuer.clock.advance(AGAIN_S)
    assert not await issuer.lets_in_after_a_wait(token(OTHER_RSA, kid="made up"))
    for number in range(20):
        shown = Shown(f"Bearer {token(OTHER_RSA, kid=f'made up {number}')}")
        with pytest.raises(NotAuthenticated):
            issuer.callers.rights_of(shown)
        await issuer.keys.look()
    assert issuer.fetches == 2
    assert issuer.lets_in(token(RSA, kid="old"))


async def test_a_wrong_signature_causes_no_fetch() -> None:
    issuer = Issuer(OLD)
    await issuer.keys.look()
    issuer.clock.advance(AGAIN_S)
    with pytest.raises(NotAuthenticated, match="signature"):
        issuer.callers.rights_of(Shown(f"Bearer {token(OTHER_RSA, kid='old')}"))


async def test_only_so_many_calls_wait_and_one_address_gets_half_of_the_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetched_keys, "_WAIT_S", 60)  # a busy machine may stand still meanwhile
    issuer = Issuer(OLD)
    waiting: list[asyncio.Task[None]] = []

    async def wait(caller: str) -> int:
        before = len(waiting)
        while issuer.keys.may_wait(caller):
            waiting.append(asyncio.ensure_future(issuer.keys.renewed(caller)))
            await asyncio.sleep(0)
        return len(waiting) - before

    assert await wait("address 192.0.2.1") == 50
    assert await wait("address 192.0.2.2") == 25
    assert await wait("address 192.0.2.1") == 0
    assert issuer.keys.may_wait("address 192.0.2.3"), "who has no place yet"
    assert sum([await wait(f"address 192.0.2.{at}") for at in range(3, 60)]) == 25
    assert not issuer.keys.may_wait("address 198.51.100.1")
    await issuer.keys.look()
    await asyncio.gather(*waiting)
    issuer.clock.advance(AGAIN_S)
    assert issuer.keys.may_wait("address 192.0.2.1")


async def test_keys_go_on_while_the_url_is_down_and_not_for_ever() -> None:
    issuer = Issuer(OLD)
    assert issuer.keys.warning() is None
    await issuer.keys.look()
    shown = token(RSA, kid="old")
    issuer.answer = "status 503"
    with capture_logs() as logs:
        for passed_s in (HOUR_S, DAY_S - HOUR_S - 1):
            issuer.clock.advance(passed_s)
            await issuer.keys.look()
            assert issuer.lets_in(shown)
        assert "status 503" in (issuer.keys.warning() or "")
        issuer.clock.advance(1)
        await issuer.keys.look()
    assert [each["event"] for each in logs] == ["jwt_keys_not_fetched", "jwt_keys_dropped"]
    with pytest.raises(KeysUnknown, match="their URL gives none"):  # that is no fault of the token
        issuer.callers.rights_of(Shown(f"Bearer {shown}"))
    assert (issuer.keys.warning() or "").startswith("no JSON Web Token is accepted")
    issuer.answer = jwks(OLD)
    issuer.clock.advance(60)
    await issuer.keys.look()
    assert issuer.lets_in(shown)
    assert issuer.keys.warning() is None
    failed = sample_value(issuer.metrics, "federation_jwt_key_fetches_total", {"outcome": "failed"})
    assert failed >= 2


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b"[]", jwks(), jwks(jwk(EC)), b"s" * 48])
async def test_an_answer_without_a_key_changes_nothing(answer: bytes) -> None:
    issuer = Issuer(OLD)
    await issuer.keys.look()
    issuer.answer = answer
    issuer.clock.advance(HOUR_S)
    await issuer.keys.look()
    assert issuer.lets_in(token(RSA, kid="old"))
    assert issuer.keys.warning() is not None


async def test_keys_that_are_of_no_use_here_do_not_spoil_the_others() -> None:
    issuer = Issuer({"kty": "RSA", "kid": "broken"}, {"kty": "new"}, jwk(EC), OLD)
    await issuer.keys.look()
    assert issuer.lets_in(token(RSA, kid="old"))


async def test_a_start_without_the_url_lets_nobody_in_and_says_so() -> None:
    issuer = Issuer()
    issuer.answer = "refused"
    await issuer.keys.look()
    with pytest.raises(KeysUnknown) as unknown:
        issuer.callers.rights_of(Shown(f"Bearer {token(RSA, kid='old')}"))
    assert status_of(unknown.value) == (StatusCode.UNAVAILABLE, str(unknown.value))
    assert not issuer.lets_in("made up")  # that is none of anybody
    assert issuer.keys.warning() == f"no JSON Web Token is accepted: no keys from {URL} (refused)"
