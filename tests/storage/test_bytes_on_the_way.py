"""How much may be on its way to a disk that does not take it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from federation.core.digest import Digest, digest_of
from federation.storage.catalogue.transaction import Transaction
from federation.storage.storage import Storage
from tests.storage.conftest import MIB, until

Opener = Callable[..., Awaitable[Storage]]
BATCHES = 40


def batch(at: int, size_bytes: int) -> list[tuple[Digest, bytes]]:
    """Return a mebibyte of blobs."""
    found = []
    for number in range(MIB // size_bytes):
        data = (at * MIB + number).to_bytes(8, "big") * (size_bytes // 8)
        found.append((digest_of(data), data))
    return found


@pytest.mark.parametrize("size_bytes", [2**14, MIB], ids=["in the catalogue", "in files"])
async def test_callers_that_leave_a_hung_disk_leave_a_bounded_rest(
    open_storage: Opener, size_bytes: int
) -> None:
    storage = await open_storage()
    writer, hung, go_on = storage.core.writer, threading.Event(), threading.Event()

    def hang(_transaction: Transaction) -> None:
        hung.set()
        go_on.wait()

    hanging = asyncio.ensure_future(writer.submit(hang))
    await asyncio.to_thread(hung.wait)
    try:
        pushed = [
            asyncio.ensure_future(storage.write_small(batch(at, size_bytes)))
            for at in range(BATCHES)
        ]

        async def some_wait() -> bool:
            return writer.held_back > 0

        await until(some_wait, 30)
        for each in pushed:
            each.cancel()
        await asyncio.wait(pushed)
        assert 0 < writer.pending_bytes <= 32 * MIB
        assert writer.held_back == 0
    finally:
        go_on.set()
    await hanging

    async def nothing_is_held() -> bool:
        return writer.pending_bytes == 0

    await until(nothing_is_held, 30)


async def test_who_waits_for_the_disk_is_served_when_it_takes_again(open_storage: Opener) -> None:
    storage = await open_storage()
    await asyncio.gather(*(storage.write_small(batch(at, MIB)) for at in range(BATCHES)))
    asked = [digest for at in range(BATCHES) for digest, _ in batch(at, MIB)]
    assert await storage.find_missing(asked) == set()
    assert storage.core.writer.pending_bytes == 0
