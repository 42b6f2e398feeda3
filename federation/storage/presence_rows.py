"""Looks blobs up in the catalogue and at their files, and says what that means for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import apsw

from federation.core.digest import Digest
from federation.core.provenance import Source
from federation.core.uses import Use
from federation.storage import resident_files
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import purges
from federation.storage.catalogue.blobs import BlobRow, digest_of_key
from federation.storage.context import StorageContext

_N = TypeVar("_N")  # how the caller names a blob: a Digest, or its encoded form


@dataclass(slots=True)
class PresenceFound(Generic[_N]):
    """What a look-up found."""

    missing: set[_N] = field(default_factory=set)
    lease: dict[bytes, _N] = field(default_factory=dict)  # the stored access time is getting old
    pulled: list[bytes] = field(default_factory=list)  # they came from upstreams only
    files: set[_N] = field(default_factory=set)  # kept in files, which may vanish at any moment
    is_certain: bool = True  # False: missing may contain blobs that are held
    damaged: list[tuple[Digest, int, Damage]] = field(default_factory=list)
    # Purged blobs that are not asked for, each with its key and the last use of the record.
    purged: dict[_N, tuple[bytes, int]] = field(default_factory=dict)


@dataclass(slots=True)
class PresenceQuestion(Generic[_N]):
    """What is looked up."""

    wanted: Collection[_N]
    keys: Callable[[], list[bytes]]  # the catalogue keys of wanted, in its order
    size_of: Callable[[_N], int]
    asked_ms: int
    use: Use
    and_pulled: bool


def damage_of(core: StorageContext, row: BlobRow) -> Damage | None:
    """Return what is wrong with a blob's file according to stat. Raises SourceUnavailable."""
    if row.inline:
        return None
    directory = core.directory
    path = directory.blob_path(digest_of_key(row.key, row.size_bytes))
    try:
        directory.volume.check_file(path, row.size_bytes)
    except Damage as damage:
        return damage
    return None


def _damage_at_once(core: StorageContext, row: BlobRow) -> None:
    """Return if a blob's file is right. Raises BlockingIOError if a thread has to look."""
    if not row.inline:
        path = core.directory.blob_path(digest_of_key(row.key, row.size_bytes))
        resident_files.check_file(path, row.size_bytes)


def find_few(
    core: StorageContext, connection: apsw.Connection, question: PresenceQuestion[_N]
) -> PresenceFound[_N]:
    """Look up whole rows, which for few blobs takes less than looking twice."""
    found: PresenceFound[_N] = PresenceFound()
    renew_before = question.asked_ms - core.timing.granularity_ms
    keys = question.keys()
    rows = catalogue.look_up(connection, keys)
    wanted = zip(question.wanted, keys, map(question.size_of, question.wanted), strict=True)
    _check_rows(core, wanted, rows, renew_before, question.use, found, _damage_at_once)
    if question.and_pulled:
        found.pulled = [key for key, row in rows.items() if row.source == Source.UPSTREAM]
    _do_not_ask_for(connection, question, keys, found)
    return found


def find(
    core: StorageContext, connection: apsw.Connection, question: PresenceQuestion[_N]
) -> PresenceFound[_N]:
    """Look up sizes, and whole rows of those that need it only. Raises as damage_of does."""
    found: PresenceFound[_N] = PresenceFound()
    wanted, size_of, use = question.wanted, question.size_of, question.use
    renew_before = question.asked_ms - core.timing.granularity_ms
    keys = question.keys()
    held, to_check = catalogue.present(connection, keys, renew_before, use)
    found.missing = {
        name
        for name, key in zip(wanted, keys, strict=True)
        if key not in held or held[key] != size_of(name)
    }
    if to_check:
        candidates = [
            (name, key, held[key])
            for name, key in zip(wanted, keys, strict=True)
            if key in to_check and name not in found.missing
        ]
        rows = catalogue.look_up(connection, [key for _, key, _ in candidates])
        _check_rows(core, candidates, rows, renew_before, use, found, damage_of)
    if question.and_pulled and held:
        found.pulled = catalogue.pulled_keys(connection, list(held))
    _do_not_ask_for(connection, question, keys, found)
    return found


def _do_not_ask_for(
    connection: apsw.Connection,
    question: PresenceQuestion[_N],
    keys: Sequence[bytes],
    found: PresenceFound[_N],
) -> None:
    """Leave purged blobs out of what a peer that replicates is told to be missing.

    It would send them again and again. A client is told the truth.
    """
    # So ask those who replicate, and what fetches blobs unasked: neither is to bring one back (see
    # decisions, "Purged blobs are not missing for those who replicate").
    if question.use is not Use.LEASE or not found.missing:
        return
    missing = {
        key: name for name, key in zip(question.wanted, keys, strict=True) if name in found.missing
    }
    purged = purges.blobs_among(connection, missing)
    found.purged = {missing[key]: (key, used_ms) for key, used_ms in purged.items()}
    found.missing.difference_update(found.purged)


def _check_rows(
    core: StorageContext,
    wanted: Iterable[tuple[_N, bytes, int]],
    rows: Mapping[bytes, BlobRow],
    renew_before_ms: int,
    use: Use,
    found: PresenceFound[_N],
    find_damage: Callable[[StorageContext, BlobRow], Damage | None],
) -> None:
    """Decide about blobs by whole rows and by files.

    Raises what find_damage does.
    """
    for name, key, size_bytes in wanted:
        row = rows.get(key)
        if row is None or row.size_bytes != size_bytes or row.marked_ms:
            found.missing.add(name)
            continue
        if (damage := find_damage(core, row)) is not None:
            found.missing.add(name)
            found.damaged.append((digest_of_key(key, size_bytes), row.seq, damage))
            continue
        if not row.inline:
            found.files.add(name)
        if row.renewed_ms(use) < renew_before_ms:
            found.lease[key] = name
