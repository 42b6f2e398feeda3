"""Purges, for commands: which index entries a selection names, and purging what was chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from federation.config import model
from federation.core.index import EntryKey, EntryKind
from federation.core.purges import Purgeable, PurgeOutcome
from federation.storage.admin.common import existing, joined, reading
from federation.storage.catalogue import instances
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.schema import of_a_row
from federation.storage.reports import EntryMatch, EntrySelection

_PAGE = 1000
_HIGHEST = b"\xff" * 9  # above whatever follows the hash in the name of an action result


def find_entries(data_dir: Path, wanted: EntrySelection) -> Iterator[EntryMatch]:
    """Yield the entries of a selection. Raises StorageRefused."""
    with reading(existing(data_dir)) as connection:
        after = 0
        while rows := _page(connection, wanted, after):
            # By row id, so that a selection of millions is neither held in memory nor read in one
            # transaction.
            after = rows[-1][0]
            yield from (_match(row) for row in rows)


def purge(
    data_dir: Path,
    settings: model.StorageConfig,
    things: Sequence[tuple[Purgeable, str]],
    by: str,
) -> list[PurgeOutcome]:
    """See Operations. Raises StorageRefused, StorageFull, StorageFailed, InvalidRequest."""

    async def work() -> list[PurgeOutcome]:
        async with joined(data_dir, settings) as storage:
            return await storage.ledger.purges.purge(things, by)

    return asyncio.run(work())


def _page(connection: apsw.Connection, wanted: EntrySelection, after: int) -> list[Any]:
    conditions: list[str] = ["id > ?"]
    values: list[Any] = [after]
    if wanted.instance is not None:
        conditions.append(f"instance = {instances.ID}")
        values.append(wanted.instance)
    if wanted.action is not None:
        name = key_of(wanted.action)
        sized = name + wanted.action.size_bytes.to_bytes(8, "big")
        conditions.append("kind = ? AND name BETWEEN ? AND ?")
        any_size = (name, name + _HIGHEST)
        values += [EntryKind.ACTION_RESULT, *((sized, sized) if wanted.is_sized else any_size)]
    if wanted.uri is not None:
        conditions.append("kind <> ? AND label = ?")
        values += [EntryKind.ACTION_RESULT, wanted.uri]
    if wanted.before_s is not None:
        conditions.append("stored < ?")
        values.append(wanted.before_s)
    query = (
        f"SELECT id, kind, {instances.NAME}, name, label, stored, length(value) "  # noqa: S608
        f"FROM entry WHERE {' AND '.join(conditions)} ORDER BY id LIMIT {_PAGE}"
    )
    return connection.execute(query, values).fetchall()


@of_a_row
def _match(row: Sequence[Any]) -> EntryMatch:
    _, kind, instance, name, label, stored_s, value_bytes = row
    key = EntryKey(EntryKind(kind), instance, name)
    return EntryMatch(key, label, stored_s, value_bytes + len(label.encode()))
