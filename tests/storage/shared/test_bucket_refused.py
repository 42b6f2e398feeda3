"""A bucket with a rule that deletes objects is refused when a node starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from federation.config.storage import ObjectsConfig
from federation.core.clock import SystemClock
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.storage.shared import bucket_rules
from federation.storage.shared.bucket_rules import refuse_expiry
from tests.storage.shared.test_bucket_rules import EXPIRES, rules

PIECE_BYTES = 2000


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_rules, "_LIMIT_S", 60)  # a busy machine may stand still meanwhile


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), PIECE_BYTES):
        yield body[at : at + PIECE_BYTES]
        for _ in range(20):  # turns of the event loop, in which the client takes it
            await asyncio.sleep(0)


@asynccontextmanager
async def bucket(status: int, body: bytes) -> AsyncIterator[ObjectsConfig]:
    """The settings of a bucket that answers so to whoever asks for its rules."""

    async def answer(request: web.Request) -> web.Response:
        assert request.path_qs == "/build-cache?lifecycle="
        assert "Signature=" in request.headers["authorization"]
        return web.Response(status=status, body=in_pieces(body))

    app = web.Application()
    app.router.add_get("/{bucket}", answer)
    async with TestServer(app) as server:
        yield ObjectsConfig(
            bucket="build-cache", prefix="site-1/", endpoint=f"http://127.0.0.1:{server.port}"
        )


TIDY = f"<ID>tidy</ID><Status>Enabled</Status><Prefix>site-1/</Prefix>{EXPIRES}"


async def test_d08_a_bucket_that_deletes_objects_of_the_site_is_refused() -> None:
    async with bucket(200, rules(TIDY)) as settings:
        with pytest.raises(StorageRefused, match="tidy"):
            await refuse_expiry(settings, SystemClock())


MANY = ["<Status>Enabled</Status><Prefix>logs/</Prefix>"] * 200


async def test_d08_the_last_of_many_rules_is_read() -> None:
    async with bucket(200, rules(*MANY, TIDY)) as settings:
        with pytest.raises(StorageRefused, match="tidy"):
            await refuse_expiry(settings, SystemClock())


@pytest.mark.parametrize(("status", "body"), [(404, b""), (200, rules()), (200, rules(*MANY))])
async def test_a_bucket_without_such_a_rule_is_taken(status: int, body: bytes) -> None:
    async with bucket(status, body) as settings:
        with capture_logs() as logged:
            await refuse_expiry(settings, SystemClock())
    assert not logged


@pytest.mark.parametrize("status", [403, 501])
async def test_rules_that_nobody_may_read_are_logged(status: int) -> None:
    async with bucket(status, b"") as settings:
        with capture_logs() as logged:
            await refuse_expiry(settings, SystemClock())
    assert [each["event"] for each in logged] == ["bucket_rules_unknown"]


async def test_without_a_static_key_nobody_knows_the_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with capture_logs() as logged:
        await refuse_expiry(ObjectsConfig(bucket="build-cache"), SystemClock())
    assert [each["event"] for each in logged] == ["bucket_rules_unknown"]


async def test_a_bucket_that_does_not_answer_says_nothing_about_its_rules() -> None:
    async with bucket(200, rules()) as settings:
        pass
    with pytest.raises(SourceUnavailable):
        await refuse_expiry(settings, SystemClock())
