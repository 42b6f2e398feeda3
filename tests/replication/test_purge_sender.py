"""When blobs have to be offered again, because the peer learned late that they may come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.purges import Purge
from federation.remote.failures import FailureKind, failure
from federation.replication.gate import AnsweredCall
from federation.replication.peer_api import Identity, PeerApi
from federation.replication.purge_sender import PurgeSender, ToldPurges
from tests.support.memory_ledger import MemoryStorage

BLOB = digest_of(b"blob")


class FakePeer:
    """Takes records, or refuses them as a proxy in its place does."""

    def __init__(self) -> None:
        self.identity = Identity("theirs")
        self.takes = True

    async def tell_purges(self, purges: Sequence[Purge]) -> None:
        if not self.takes:
            raise failure("there", FailureKind.UNSUPPORTED, "a proxy's 404")


class AnsweredAtOnce:
    async def answer(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()


class Telling:
    def __init__(self) -> None:
        self.peer = FakePeer()
        self.clock = ManualClock()
        self.purges = MemoryStorage("here", self.clock).purges
        self.told = 0
        api, call = cast("PeerApi", self.peer), cast("AnsweredCall", AnsweredAtOnce())
        told = ToldPurges(lambda: self.told, self._note)
        self.sender = PurgeSender("there", self.purges, api, call, told, self.clock)

    def _note(self, last: int) -> None:
        self.told = last

    async def bring(self, *, takes: bool = True) -> None:
        self.peer.takes = takes
        self.clock.advance(61)
        await self.sender.bring()


async def test_what_was_pushed_again_while_the_peer_took_no_records_is_offered_again() -> None:
    telling = Telling()
    telling.purges.purge_one(BLOB)
    await telling.bring()
    telling.purges.allow(BLOB)
    await telling.bring(takes=False)
    assert not telling.sender.take_told_late()
    await telling.bring()
    assert telling.sender.take_told_late()
    assert not telling.sender.take_told_late()


@pytest.mark.parametrize("is_allowed", [False, True])
async def test_otherwise_nothing_is_offered_again(is_allowed: bool) -> None:
    telling = Telling()
    telling.purges.purge_one(BLOB)
    if is_allowed:
        telling.purges.allow(BLOB)
        await telling.bring()
    else:
        await telling.bring(takes=False)
        await telling.bring()
    assert not telling.sender.take_told_late()


async def test_a_resync_that_tells_everything_once_more_does_not_begin_another() -> None:
    telling = Telling()
    telling.purges.purge_one(BLOB)
    telling.purges.allow(BLOB)
    await telling.bring()
    telling.told = 0
    await telling.bring(takes=False)
    await telling.bring()
    assert not telling.sender.take_told_late()
