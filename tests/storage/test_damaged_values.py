"""S19: values that no program writes are told as damage, though SQLite reads them as any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.core.uses import Use, counted_as
from federation.storage.storage import Storage
from tests.faults.storage.clean import catalogue
from tests.storage.conftest import opened, short

_DATA = b"a blob"
_KEY = EntryKey(EntryKind.ASSET_BLOB, "", b"name")
_Ask = Callable[[Storage], Awaitable[Any]]


async def fill(path: Path) -> None:
    digest = digest_of(_DATA)
    async with opened(path, short()) as storage:
        assert await storage.write_small([(digest, _DATA)]) == [None]
        await storage.put([Entry(_KEY, b"value", "label")])
        await storage.ledger.save([PeerRecord("peer", Lane.ALWAYS, 1, PeerState.FOLLOWING)])
        await storage.ledger.park([Parked("peer", 1, digest, None, "", "too large", 0.0, 1)])


async def _get_uncached(storage: Storage) -> None:
    with counted_as(Use.PEEK):  # what a client asked for stays in memory
        await storage.get([_KEY])


def damage(path: Path, change: str) -> None:
    with catalogue(path, write=True) as connection:
        connection.execute(change)


@pytest.mark.parametrize(
    ("change", "ask"),
    [
        ("UPDATE peer SET state = 'folowing'", lambda s: s.ledger.peers()),
        ("UPDATE peer SET lane = x'ff'", lambda s: s.ledger.peers()),
        ("UPDATE peer SET cursor = 'x'", lambda s: s.ledger.peers()),
        ("UPDATE parked SET kind = 77", lambda s: s.ledger.parked()),
        ("UPDATE parked SET name = ''", lambda s: s.ledger.parked()),
        ("UPDATE log SET kind = 'x'", lambda s: s.ledger.read(0, 10)),
        ("UPDATE log SET source = 9", lambda s: s.ledger.read(0, 10)),
        ("UPDATE log SET total = 'x'", lambda s: s.ledger.total_bytes(2)),
        ("UPDATE entry SET kind = 77", lambda s: s.ledger.entries(None, 10)),
        ("UPDATE entry SET value = 1.5", lambda s: s.ledger.entries(None, 10)),
        ("UPDATE entry SET source = 9", _get_uncached),
        ("UPDATE blob SET key = x'87'", lambda s: s.ledger.blobs(None, 10)),
        ("UPDATE blob SET used = -9e999", lambda s: s.ledger.blobs(None, 10)),
    ],
)
async def test_a_running_node_stops_writing_and_says_what_to_do(
    tmp_path: Path, change: str, ask: _Ask
) -> None:
    await fill(tmp_path)
    async with opened(tmp_path, short()) as storage:
        await ask(storage)
        damage(tmp_path, change)
        with pytest.raises(SourceUnavailable, match="a value that is never written"):
            await ask(storage)
        is_well, why = storage.health()
        assert not is_well
        assert "federation rebuild" in why


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET value = 'x' WHERE name = 'clock_base_ms'",
        "DELETE FROM meta WHERE name = 'clock_base_ms'",
        "UPDATE meta SET value = 'another'; UPDATE blob SET used = 9e999",
        "UPDATE totals SET bytes = 'x'",
        "UPDATE totals SET seq = -1",
    ],
)
async def test_a_node_is_not_started_on_it(tmp_path: Path, change: str) -> None:
    await fill(tmp_path)
    damage(tmp_path, change)
    with pytest.raises(StorageRefused, match="federation rebuild"):
        async with opened(tmp_path, short()):
            pytest.fail("a node started on a damaged catalogue")
