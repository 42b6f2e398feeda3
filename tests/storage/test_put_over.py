"""Storing an entry only over what was there before: of many writers of one key, one is first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import Provenance, Source
from federation.storage.storage import Storage

Opener = Callable[..., Awaitable[Storage]]

KEY = EntryKey(EntryKind.ACTION_RESULT, "main", b"name")


def entry(value: bytes) -> Entry:
    return Entry(KEY, value, "label")


async def held(storage: Storage) -> Entry | None:
    (found,) = await storage.get([KEY])
    return found


async def test_the_first_of_a_key_stays(open_storage: Opener) -> None:
    storage = await open_storage()
    assert await storage.put_over(entry(b"first"), None)
    head = storage.ledger.head()
    assert not await storage.put_over(entry(b"second"), None)
    found = await held(storage)
    assert found is not None
    assert (found.value, storage.ledger.head()) == (b"first", head)


async def test_what_was_seen_before_is_replaced_and_nothing_else(open_storage: Opener) -> None:
    storage = await open_storage()
    await storage.put([entry(b"first")])
    first = await held(storage)
    assert await storage.put_over(entry(b"second"), first)
    assert not await storage.put_over(entry(b"third"), first)
    found = await held(storage)
    assert found is not None
    assert found.value == b"second"


async def test_the_same_value_given_again_is_another_one(open_storage: Opener) -> None:
    """It has a later stamp: peers that hear of both would keep it."""
    storage = await open_storage()
    await storage.put([entry(b"value")])
    first = await held(storage)
    await storage.put([entry(b"other")])
    await storage.put([entry(b"value")])
    assert not await storage.put_over(entry(b"third"), first)


async def test_what_an_upstream_gave_is_replaced_if_it_was_seen(open_storage: Opener) -> None:
    storage = await open_storage()
    await storage.put([entry(b"pulled")], provenance=Provenance(Source.UPSTREAM))
    assert not await storage.put_over(entry(b"pushed"), None)
    assert await storage.put_over(entry(b"pushed"), await held(storage))


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_writers_in_any_process_one_is_first(
    open_storage: Opener, processes: int
) -> None:
    storages = [await open_storage() for _ in range(processes)]
    values = [b"%d" % number for number in range(40)]
    outcomes = await asyncio.gather(
        *(storages[at % processes].put_over(entry(value), None) for at, value in enumerate(values))
    )
    (winner,) = (value for value, won in zip(values, outcomes, strict=True) if won)
    for storage in storages:
        found = await held(storage)
        assert found is not None
        assert found.value == winner
