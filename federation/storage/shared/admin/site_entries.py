"""Which index entries of a site a selection names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.index import EntryKey, EntryKind
from federation.storage.catalogue.blobs import key_of
from federation.storage.reports import EntryMatch, EntrySelection
from federation.storage.shared.admin.joining import SitePlace, join

_PAGE = 1000
_HIGHEST = b"\xff" * 9  # above whatever follows the hash in the name of an action result


def find_site_entries(place: SitePlace, wanted: EntrySelection) -> Iterator[EntryMatch]:
    """Yield the entries of a selection. Raises StorageRefused."""
    try:
        with asyncio.Runner() as runner:
            catalogue = runner.run(join(place))
            try:
                after = (0, b"", b"")
                while rows := runner.run(catalogue.connections.ask(*_page(wanted, after))):
                    after = rows[-1][:3]
                    yield from (_match(row) for row in rows)
            finally:
                runner.run(catalogue.close())
    except SourceUnavailable as error:
        raise StorageRefused(str(error)) from error


def _page(wanted: EntrySelection, after: tuple[int, bytes, bytes]) -> list[Any]:
    """Return the statement that reads the page after an entry's key, and its values."""
    values: list[Any] = [*after]
    conditions = ["(kind, instance, name) > ($1, $2, $3)"]

    def add(condition: str, value: object) -> None:
        values.append(value)
        conditions.append(condition.format(f"${len(values)}"))

    if wanted.instance is not None:
        add("instance = {}", wanted.instance.encode())
    if wanted.action is not None:
        name = key_of(wanted.action)
        sized = name + wanted.action.size_bytes.to_bytes(8, "big")
        low, high = (sized, sized) if wanted.is_sized else (name, name + _HIGHEST)
        add("kind = {}", int(EntryKind.ACTION_RESULT))
        add("name >= {}", low)
        add("name <= {}", high)
    if wanted.uri is not None:
        add("kind <> {}", int(EntryKind.ACTION_RESULT))
        add("label = {}", wanted.uri.encode())
    if wanted.before_s is not None:
        add("stored < {}", wanted.before_s)
    statement = (
        "SELECT kind, instance, name, label, stored, octet_length(value) FROM entry "  # noqa: S608
        f"WHERE {' AND '.join(conditions)} ORDER BY kind, instance, name LIMIT {_PAGE}"
    )
    return [statement, *values]


def _match(row: Sequence[Any]) -> EntryMatch:
    kind, instance, name, label, stored_s, value_bytes = row
    key = EntryKey(EntryKind(kind), instance.decode(), name)
    return EntryMatch(key, label.decode(), stored_s, value_bytes + len(label))
