"""Keys come from a URL: fetched seldom whoever asks, and used for some time while it is down."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from federation.access.access import KeysOutdated, KeysUnknown
from federation.access.authenticator import Authenticator
from federation.access.fetched_keys import FetchedKeys
from federation.access.jwks_url import KeysUnavailable, fetch_jwks
from federation.access.key_schedule import AGAIN_S, KeySchedule
from federation.config.auth import ListenerAuthConfig
from federation.config.model import ListenerConfig
from federation.core.clock import ManualClock
from federation.core.errors import NotAuthenticated
from federation.observability.metrics import Metrics
from federation.services.status_codes import StatusCode, status_of
from tests.access.test_identity import Shown
from tests.access.test_jwt import EC, OTHER_RSA, RSA, jwk, jwks, settings, token
from tests.support.certificates import self_signed
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


async def test_only_so_many_calls_wait() -> None:
    issuer = Issuer(OLD)
    waiting = [asyncio.ensure_future(issuer.keys.renewed()) for _ in range(100)]
    await asyncio.sleep(0)
    assert not issuer.keys.may_be_renewed
    await issuer.keys.look()
    await asyncio.gather(*waiting)
    issuer.clock.advance(AGAIN_S)
    assert issuer.keys.may_be_renewed


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


# The fetch itself, from a server on loopback.


def answer(body: bytes = b"{}", status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def serving(
    reply: bytes, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answer every request so; yield the port, and the heads of requests as they come."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def fetch(port: int, scheme: str = "http", server_cert: Path | None = None) -> bytes:
    return await fetch_jwks(f"{scheme}://127.0.0.1:{port}/jwks", server_cert, 1000)


async def test_a_fetch_asks_once_and_returns_the_answer() -> None:
    async with serving(answer(jwks(OLD))) as (port, heard):
        assert await fetch(port) == jwks(OLD)
    (head,) = heard
    assert head.startswith(b"GET /jwks HTTP/1.1\r\n")
    assert b"Authorization" not in head
    assert b"gzip" not in head


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (answer(status="404 Not Found"), "status 404"),
        (answer(b"", "302 Found", "Location: /elsewhere"), "redirects are not followed"),
        (answer(bytes(1001)), "more than 1000 bytes"),
        (answer(b"{}").replace(b"Content-Length: 2", b"Content-Length: 9"), "."),
        (b"nonsense\r\n\r\n", "."),
        (b"", "."),
    ],
)
async def test_anything_but_a_whole_answer_is_a_failure(reply: bytes, says: str) -> None:
    async with serving(reply) as (port, heard):
        with pytest.raises(KeysUnavailable, match=says):
            await fetch(port)
    assert heard
    with pytest.raises(KeysUnavailable):  # nobody listens there any more
        await fetch(port)


def of(path: Path) -> Path:
    return path


def other_than(path: Path) -> Path:
    return self_signed(path.parent, "other").certificate


def not_given(_path: Path) -> None:
    return None


def absent(path: Path) -> Path:
    return path.with_name("absent.crt")


@pytest.mark.parametrize(
    ("choose", "works"), [(of, True), (other_than, False), (not_given, False), (absent, False)]
)
async def test_the_servers_certificate_is_checked(
    tmp_path: Path, choose: Callable[[Path], Path | None], works: bool
) -> None:
    files = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    async with serving(answer(b"{}"), context) as (port, _):
        if works:
            assert await fetch(port, "https", choose(files.certificate)) == b"{}"
        else:
            with pytest.raises(KeysUnavailable):
                await fetch(port, "https", choose(files.certificate))


async def test_a_fetch_goes_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(answer(b"", "403 Forbidden")) as (port, heard):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(KeysUnavailable) as failed:
            await fetch_jwks(URL, None, 1000)
    assert heard[0].startswith(b"CONNECT id.example.com:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in heard[0]
    assert "secret" not in str(failed.value)
