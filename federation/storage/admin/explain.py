"""What the catalogue knows about single objects. Changes nothing and gives no lease."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from federation.config import model
from federation.core.clock import Clock, SystemClock, utc_text
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import SourceUnavailable, TooBusy
from federation.core.index import Entry, EntryKey, EntryKind, name_of_action
from federation.core.provenance import Source
from federation.core.purges import Purge
from federation.storage import blob_files
from federation.storage.admin.common import existing, reading, room_of
from federation.storage.admin.eviction_status import EvictionFacts, eviction_status
from federation.storage.admin.object_peers import LoggedObject, peers_of_catalogue
from federation.storage.blob_files import Damage
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import instances, pins, purges
from federation.storage.catalogue.blobs import BlobRow
from federation.storage.catalogue.transaction import BLOB, HOLD, get_meta
from federation.storage.directory import DataDirectory
from federation.storage.offline_switch import OFFLINE_SINCE
from federation.storage.reports import FoundEntry
from federation.storage.timing import Timing, boot_id
from federation.storage.verification import check_inline

_SHOWN_MAX = 20  # quarantine records of a blob, entries of a name
_ENTRY = (
    f"SELECT kind, {instances.NAME}, name, value, label, stored, "  # noqa: S608 - constants
    "expires, source, origin, used, seq FROM entry WHERE {} LIMIT ?"
)


@contextmanager
def explaining(data_dir: Path, settings: model.StorageConfig) -> Iterator[CatalogueExplainer]:
    """Open a data directory for questions. Raises StorageRefused, on entry or in the block."""
    directory = existing(data_dir)
    with reading(directory) as connection:
        yield CatalogueExplainer(connection, directory, settings, SystemClock())


class CatalogueExplainer:
    """The Explainer of a data directory: answers from its catalogue and files. Blocks."""

    def __init__(
        self,
        connection: apsw.Connection,
        directory: DataDirectory,
        settings: model.StorageConfig,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._settings = settings
        self._timing = Timing.for_lease(settings.lease)
        self._peers = peers_of_catalogue(connection)
        self._now_ms = self._store_time_ms(clock)
        self.node_id = str(get_meta(connection, "node_id"))
        self.is_switched_offline = get_meta(connection, OFFLINE_SINCE) is not None

    def with_hash(self, function: DigestFunction, raw_hash: bytes) -> Digest | None:
        """Return the digest of a blob that is or was held; None: its size is unknown."""
        key = catalogue.key_of(Digest(raw_hash, 0, function))
        # People often have the hash alone, and that of a blob which was set aside, too.
        row: Any = self._connection.execute(
            "SELECT size FROM blob WHERE key = ?1 UNION ALL "
            "SELECT size FROM quarantine WHERE key = ?1",
            (key,),
        ).fetchone()
        return Digest(raw_hash, row[0], function) if row else None

    def blob(self, digest: Digest) -> dict[str, Any]:
        """Return what is known of a blob; "here": whether a client is told that it is held."""
        if digest.is_empty:
            return {"here": True, "kept": "nowhere: the empty blob is always held"}
        row = self._row(digest)
        facts: dict[str, Any] = {"here": False}
        if row is not None:
            facts = self._held(digest, row)
        return {**facts, "quarantine": self._quarantine(digest)}

    def purges(self, digest: Digest | None = None, label: str = "") -> list[Purge]:
        """See Explainer. Reads all records for a label."""
        if digest is None:
            return purges.labelled(self._connection, label, _SHOWN_MAX)
        found = purges.get(self._connection, digest)
        return [] if found is None else [found]

    def action_results(self, action: Digest, instance: str | None) -> list[FoundEntry]:
        """Return the results of an action in one instance; instance None: in all."""
        name = name_of_action(action)
        kind = int(EntryKind.ACTION_RESULT)
        return self._entries("kind = ? AND name = ?", (kind, name), instance)

    def assets(self, uri: str, instance: str | None) -> list[FoundEntry]:
        """Return the assets of a URI with any qualifiers. Reads the whole index."""
        kind = int(EntryKind.ACTION_RESULT)
        return self._entries("kind != ? AND label = ?", (kind, uri), instance)

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Return the digests that FindMissing would report as missing."""
        by_key = {catalogue.key_of(digest): digest for digest in digests if not digest.is_empty}
        rows = catalogue.look_up(self._connection, list(by_key))
        return {
            digest
            for key, digest in by_key.items()
            if (row := rows.get(key)) is None or self._problem(digest, row)
        }

    def read(self, digest: Digest) -> bytes | None:
        """Return a blob's verified bytes; None: it is missing or damaged."""
        if digest.is_empty:
            return b""
        key = catalogue.key_of(digest)
        row, data = catalogue.read_rows(self._connection, [key]).get(key, (None, None))
        if row is None or self._problem(digest, row):
            return None
        try:
            if data is None:
                with blob_files.open_blob(self._path(digest), digest.size_bytes) as blob:
                    blob_files.verify_file(blob.fd, digest)
                    return blob_files.read_exactly(blob.fd, digest.size_bytes, 0)
            check_inline(digest, data)
        except (Damage, SourceUnavailable, TooBusy):
            return None
        return data

    # -- blobs -----------------------------------------------------------------------------

    def _row(self, digest: Digest) -> BlobRow | None:
        key = catalogue.key_of(digest)
        return catalogue.look_up(self._connection, [key]).get(key)

    def _held(self, digest: Digest, row: BlobRow) -> dict[str, Any]:
        problem = self._problem(digest, row)
        logged = self._logged(BLOB, "", row.key, row.seq)
        return {
            "here": not problem,
            "problem": problem or None,
            "bytes": row.size_bytes,
            "kept": "inside the catalogue" if row.inline else f"in {self._path(digest)}",
            **self._origin(row.seq),
            "last-use-s-ago": self._age_s(row.used_ms),
            "verified-s-ago": self._age_s(row.verified_ms),
            "eviction": self._eviction(
                row.used_ms, logged, pins.of_blob(self._connection, row.key), row.marked_ms
            ),
            **self._peers.facts(logged),
        }

    def _problem(self, digest: Digest, row: BlobRow) -> str:
        """Return why a blob that has a row counts as missing; empty: it does not."""
        if row.size_bytes != digest.size_bytes:
            return f"the blob held under this hash has {row.size_bytes} bytes"
        if row.marked_ms:
            return "it is being evicted"
        return "" if row.inline else self._file_problem(digest)

    def _file_problem(self, digest: Digest) -> str:
        try:
            facts = os.stat(self._path(digest), follow_symlinks=False)
        except OSError as error:
            return f"its file cannot be read: {error.strerror}"
        if not stat.S_ISREG(facts.st_mode):
            return "its file is not a plain file"
        if facts.st_size != digest.size_bytes:
            return f"its file has {facts.st_size} bytes"
        return ""

    def _path(self, digest: Digest) -> str:
        return self._directory.blob_path(digest)

    def _origin(self, seq: int) -> dict[str, Any]:
        """Return who sent an object, from the change log; its oldest rows are trimmed."""
        row: Any = self._connection.execute(
            "SELECT stored, source, via, origin FROM log WHERE seq = ?", (seq,)
        ).fetchone()
        if row is None:
            return {"stored-at": None, "source": "not known: its change log row was trimmed"}
        stored, source, via, origin = row
        return {
            "stored-at": utc_text(stored),
            "source": _source(Source(source), origin),
            "via": via.split(",") if via else [],
        }

    def _logged(self, kind: int, instance: str, name: bytes, seq: int) -> LoggedObject:
        row: Any = self._connection.execute(
            "SELECT source FROM log WHERE seq = ?", (seq,)
        ).fetchone()
        source = None if row is None else Source(row[0])
        return LoggedObject(kind, instance, name, seq, source)

    def _quarantine(self, digest: Digest) -> list[dict[str, Any]]:
        rows: Any = self._connection.execute(
            "SELECT found, reason, file FROM quarantine WHERE key = ? ORDER BY id DESC LIMIT ?",
            (catalogue.key_of(digest), _SHOWN_MAX),
        ).fetchall()
        return [
            {
                "found-at": utc_text(found),
                "reason": reason,
                "file": str(self._directory.quarantine / file) if file else None,
            }
            for found, reason, file in rows
        ]

    # -- entries ---------------------------------------------------------------------------

    def _entries(
        self, condition: str, values: Sequence[object], instance: str | None
    ) -> list[FoundEntry]:
        if instance is not None:
            condition, values = f"{condition} AND instance = {instances.ID}", (*values, instance)
        query = _ENTRY.format(condition)
        rows: Any = self._connection.execute(query, (*values, _SHOWN_MAX)).fetchall()
        return [self._entry(row) for row in rows]

    def _entry(self, row: tuple[Any, ...]) -> FoundEntry:
        kind, instance, name, value, label, stored, expires, *provenance, used_ms, seq = row
        source, origin = provenance
        logged = self._logged(kind, instance, name, seq)
        key = EntryKey(EntryKind(kind), instance, name)
        entry = Entry(key, value, label, stored, expires, Source(source), origin)
        return FoundEntry(
            entry,
            {
                "kind": key.kind.name.lower().replace("_", " "),
                "instance": instance,
                "stored-at": utc_text(stored),
                "expires-at": "never" if expires is None else utc_text(expires),
                "source": _source(entry.source, origin),
                "last-use-s-ago": self._age_s(used_ms),
                "eviction": self._eviction(used_ms, logged, pins.of_entry(self._connection, key)),
                **self._peers.facts(logged),
            },
        )

    # -- eviction --------------------------------------------------------------------------

    def _store_time_ms(self, clock: Clock) -> int:
        """Return store time in ms; after a reboot without a serving node, where it stopped."""
        if get_meta(self._connection, "boot_id") != boot_id():
            return catalogue.newest_ms(self._connection) + 1
        base_ms = int(get_meta(self._connection, "clock_base_ms"))
        return base_ms + int(clock.monotonic_s() * 1000)

    def _age_s(self, then_ms: int) -> float:
        return max(0, self._now_ms - then_ms) / 1000

    def _eviction(
        self, used_ms: int, logged: LoggedObject, pinned_by: str, marked_ms: int = 0
    ) -> str:
        room = room_of(self._directory, self._settings, self._connection)
        older: Any = self._connection.execute(
            "SELECT (SELECT count(*) FROM blob WHERE kept = 0 AND used < ?1) + "
            "(SELECT count(*) FROM entry WHERE kept = 0 AND used < ?1)",
            (used_ms,),
        ).fetchone()
        hold_ms = 0
        # A pause that was noted before this boot is in another store time.
        if get_meta(self._connection, "boot_id") == boot_id():
            hold_ms = (get_meta(self._connection, HOLD) or 0) - self._now_ms
        return eviction_status(
            EvictionFacts(
                age_ms=self._now_ms - used_ms,
                marked=bool(marked_ms),
                hold_ms=hold_ms,
                kept_for=self._peers.kept_for(logged),
                older=older[0],
                stored_bytes=room.held,
                starts_at_bytes=room.marks.starts_at_bytes,
                pinned_by=pinned_by,
            ),
            self._timing,
        )


def _source(source: Source, origin: str) -> str:
    return f"{source.name.lower()} {origin}".rstrip()
