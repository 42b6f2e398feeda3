"""Bytes of unfinished uploads: each caller has its bound, and its oldest upload always goes on."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.errors import UploadSuperseded
from federation.services.under_way import UnderWay


class Accounts(UnderWay):
    def __init__(self, most_bytes: int) -> None:
        self.waits: list[str] = []
        super().__init__(lambda: most_bytes, self.waits.append)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_younger_upload_waits_until_the_older_one_has_ended() -> None:
    accounts = Accounts(100)
    older, younger = accounts.begin("a"), accounts.begin("a")
    await older.acquire(60)
    await younger.acquire(40)
    waiting = asyncio.ensure_future(younger.acquire(1))
    await turns()
    await older.acquire(10**9)  # whatever its size
    await turns()
    assert not waiting.done()
    assert accounts.waits == ["a"]
    older.close()
    await waiting
    younger.close()
    assert repr(accounts) == "<UnderWay 0 bytes of 0 callers>"


async def test_others_do_not_wait_for_a_caller_at_its_bound() -> None:
    accounts = Accounts(100)
    await accounts.begin("a").acquire(1000)
    await accounts.begin("b").acquire(100)
    assert accounts.waits == []


async def test_an_upload_that_no_stream_feeds_is_not_waited_for() -> None:
    accounts = Accounts(100)
    parked, younger = accounts.begin("a"), accounts.begin("a")
    await parked.acquire(100)
    waiting = asyncio.ensure_future(younger.acquire(1))
    await turns()
    assert not waiting.done()
    parked.pause()
    await waiting
    parked.resume()  # and is the youngest now
    waiting = asyncio.ensure_future(parked.acquire(1))
    await turns()
    assert not waiting.done()
    younger.close()
    await waiting


async def test_an_upload_that_is_dropped_ends_its_wait() -> None:
    accounts = Accounts(100)
    older, younger = accounts.begin("a"), accounts.begin("a")
    await older.acquire(100)
    waiting = asyncio.ensure_future(younger.acquire(1))
    await turns()
    younger.close()
    younger.close()
    with pytest.raises(UploadSuperseded):
        await waiting
    younger.resume()
    older.close()
    assert repr(accounts) == "<UnderWay 0 bytes of 0 callers>"


async def test_without_a_bound_nobody_waits() -> None:
    accounts = Accounts(0)
    for _ in range(3):
        await accounts.begin("a").acquire(10**12)
    assert accounts.waits == []
