"""What a site's catalogue knows about single objects. Changes nothing and gives no lease."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cached_property
from typing import Any

from federation.core.clock import utc_text
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.index import EntryKey, EntryKind, name_of_action
from federation.core.provenance import Source
from federation.core.purges import Purge
from federation.core.uses import Use
from federation.storage.admin.eviction_status import EvictionFacts, eviction_status
from federation.storage.admin.object_peers import LoggedObject, ObjectPeers
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import BLOB
from federation.storage.reports import FoundEntry
from federation.storage.shared.admin.joining import SitePlace, join
from federation.storage.shared.admin.site_reader import SiteReader, missing_at_site, problem_of
from federation.storage.shared.catalogue import site_purges
from federation.storage.shared.catalogue.entry_rows import COLUMNS, entry_of
from federation.storage.shared.catalogue.rows import HOUR_OF_USE, BlobAt
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.catalogue.texts import split
from federation.storage.timing import Timing

_SHOWN_MAX = 20
_HOUR_MS = 3_600_000
_WITH_HASH = """
SELECT size FROM blob WHERE key = $1 UNION ALL SELECT size FROM quarantine WHERE key = $1 LIMIT 1
"""
_PINNED_BY = """
(SELECT p.label FROM keeping k JOIN pin p ON p.id = k.pin AND NOT p.removed WHERE k.id = kept)
"""
_BLOB = f"SELECT accessed, {HOUR_OF_USE}, {_PINNED_BY} FROM blob WHERE key = $1"  # noqa: S608 - constants
_LOG = "SELECT stored, source, via, origin FROM log WHERE seq = $1"
_QUARANTINE = "SELECT found, reason FROM quarantine WHERE key = $1 ORDER BY id DESC LIMIT $2"
_PARKED = "SELECT peer, reason FROM parked WHERE kind = $1 AND instance = $2 AND name = $3"
_PURGE_OF_BLOB = f"""
SELECT {site_purges.COLUMNS} FROM purge WHERE kind = 0 AND instance = '' AND name = $1
"""  # noqa: S608 - constants
_PURGES_OF_LABEL = f"""
SELECT {site_purges.COLUMNS} FROM purge WHERE kind > 0 AND label = $1 LIMIT $2
"""  # noqa: S608 - constants
_ENTRIES = f"""
SELECT kind, instance, name, seq, accessed, {HOUR_OF_USE}, {_PINNED_BY}, {COLUMNS} FROM entry
WHERE {{}} AND (instance = $3 OR $3 IS NULL) ORDER BY instance, name LIMIT $4
"""  # noqa: S608 - constants
_STATE = """
SELECT c.now_ms, greatest(0, c.hold_ms - c.now_ms), federation_cost(s) - s.gone,
  (SELECT count(*) FROM blob WHERE era < $1) + (SELECT count(*) FROM entry WHERE era < $1)
FROM site s, clock c
"""


@contextmanager
def explaining_site(place: SitePlace) -> Iterator[SiteExplainer]:
    """Open a site for questions. Raises StorageRefused, on entry or in the block."""
    try:
        with asyncio.Runner() as runner:
            opened = AsyncExitStack()
            try:
                catalogue = runner.run(join(place))
                opened.push_async_callback(catalogue.close)
                yield SiteExplainer(runner, catalogue, place, opened)
            finally:
                runner.run(opened.aclose())
    except SourceUnavailable as error:
        raise StorageRefused(str(error)) from error


class SiteExplainer:
    """The Explainer of a site: answers from its catalogue, and reads from its bucket. Blocks.

    Methods raise SourceUnavailable where the database does not answer; explaining_site() turns
    that into what its caller expects.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        catalogue: SiteCatalogue,
        place: SitePlace,
        opened: AsyncExitStack,
    ) -> None:
        """opened: closed by the caller at the end, with what is opened on the way."""
        self._runner = runner
        self._catalogue = catalogue
        self._place = place
        self._opened = opened
        self._timing = Timing(
            lease_ms=place.catalogue.lease_ms,
            granularity_ms=place.catalogue.granularity_ms,
            flush_ms=0,
            grace_ms=0,
        )
        self._records = runner.run(catalogue.peers.records())

    @property
    def node_id(self) -> str:
        """See Explainer."""
        return self._catalogue.site_id

    @property
    def is_switched_offline(self) -> bool:
        """See Explainer."""
        return self._catalogue.watch.is_on

    def with_hash(self, function: DigestFunction, raw_hash: bytes) -> Digest | None:
        """See Explainer."""
        rows = self._ask(_WITH_HASH, key_of(Digest(raw_hash, 0, function)))
        return Digest(raw_hash, rows[0][0], function) if rows else None

    def blob(self, digest: Digest) -> dict[str, Any]:
        """See Explainer."""
        if digest.is_empty:
            return {"here": True, "kept": "nowhere: the empty blob is always held"}
        key = key_of(digest)
        at = self._look_up([key]).get(key)
        facts: dict[str, Any] = {"here": False}
        if at is not None:
            facts = self._held(digest, key, at)
        return {**facts, "quarantine": self._quarantine(key)}

    def action_results(self, action: Digest, instance: str | None) -> list[FoundEntry]:
        """See Explainer."""
        kind = int(EntryKind.ACTION_RESULT)
        return self._entries("kind = $1 AND name = $2", kind, name_of_action(action), instance)

    def assets(self, uri: str, instance: str | None) -> list[FoundEntry]:
        """See Explainer."""
        kind = int(EntryKind.ACTION_RESULT)
        return self._entries("kind <> $1 AND label = $2", kind, uri.encode(), instance)

    def purges(self, digest: Digest | None = None, label: str = "") -> list[Purge]:
        """See Explainer."""
        if digest is None:
            rows = self._ask(_PURGES_OF_LABEL, label.encode(), _SHOWN_MAX)
        else:
            rows = self._ask(_PURGE_OF_BLOB, key_of(digest))
        return [site_purges.purge_of(row) for row in rows]

    def missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See Explainer."""
        return self._runner.run(missing_at_site(self._catalogue, digests))

    def read(self, digest: Digest) -> bytes | None:
        """See Explainer."""
        return self._runner.run(self._reader.read(digest))

    @cached_property
    def _reader(self) -> SiteReader:
        """One for all reads, and only if there are any: it needs a client of the bucket."""
        objects = self._runner.run(self._opened.enter_async_context(self._place.open_objects()))
        return SiteReader(self._catalogue, objects)

    # -- blobs -----------------------------------------------------------------------------

    def _ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._runner.run(self._catalogue.connections.ask(statement, *values))

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, BlobAt]:
        look_up = self._catalogue.blobs.look_up(keys, Use.PEEK, with_bytes=False)
        return self._runner.run(look_up)

    def _held(self, digest: Digest, key: bytes, at: BlobAt) -> dict[str, Any]:
        problem = problem_of(digest, at)
        rows = self._ask(_BLOB, key)
        accessed_ms, era, pinned_by = rows[0] if rows else (0, 0, None)
        return {
            "here": not problem,
            "problem": problem or None,
            "bytes": at.size_bytes,
            "kept": "inside the catalogue" if at.attempt is None else "in the bucket",
            **self._shared_facts(BLOB, b"", key, at.seq, accessed_ms, era, pinned_by),
        }

    def _shared_facts(
        self,
        kind: int,
        instance: bytes,
        name: bytes,
        seq: int,
        accessed_ms: int,
        era: int,
        pinned_by: bytes | None,
    ) -> dict[str, Any]:
        """Return what is known alike of blobs and of entries."""
        logged = self._ask(_LOG, seq)
        source = Source(logged[0][1]) if logged else None
        reasons = dict(self._ask(_PARKED, kind, instance, name))
        of = LoggedObject(kind, instance.decode(), name, seq, source)
        peers = ObjectPeers(self._records, lambda peer, _: reasons.get(peer))
        now_ms, hold_ms, held_bytes, older = self._ask(_STATE, era)[0]
        settings = self._place.settings
        facts = EvictionFacts(
            age_ms=now_ms - accessed_ms,
            marked=False,
            hold_ms=hold_ms,
            kept_for=peers.kept_for(of),
            older=older,
            stored_bytes=held_bytes,
            starts_at_bytes=int((settings.quota or 0) * settings.high_watermark),
            pinned_by=(pinned_by or b"").decode(),
        )
        return {
            **_origin(logged),
            "last-use-hours-ago": max(0, now_ms // _HOUR_MS - era),
            "last-lease-s-ago": max(0, now_ms - accessed_ms) / 1000,
            "eviction": eviction_status(facts, self._timing),
            **peers.facts(of),
        }

    def _quarantine(self, key: bytes) -> list[dict[str, Any]]:
        rows = self._ask(_QUARANTINE, key, _SHOWN_MAX)
        return [{"found-at": utc_text(found_s), "reason": reason} for found_s, reason in rows]

    # -- entries ---------------------------------------------------------------------------

    def _entries(
        self, condition: str, kind: int, value: bytes, instance: str | None
    ) -> list[FoundEntry]:
        of = None if instance is None else instance.encode()
        rows = self._ask(_ENTRIES.format(condition), kind, value, of, _SHOWN_MAX)
        return [self._entry(row) for row in rows]

    def _entry(self, row: Sequence[Any]) -> FoundEntry:
        kind, instance, name, seq, accessed_ms, era, pinned_by, *columns = row
        key = EntryKey(EntryKind(kind), instance.decode(), name)
        entry = entry_of(key, columns)
        expires_s = entry.expires_at_s
        facts = {
            "kind": key.kind.name.lower().replace("_", " "),
            "instance": key.instance,
            "expires-at": "never" if expires_s is None else utc_text(expires_s),
            **self._shared_facts(kind, instance, name, seq, accessed_ms, era, pinned_by),
        }
        return FoundEntry(entry, facts)


def _origin(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return who sent an object, from its row of the change log; the oldest rows are trimmed."""
    if not rows:
        return {"stored-at": None, "source": "not known: its change log row was trimmed"}
    stored_s, source, via, origin = rows[0]
    return {
        "stored-at": utc_text(stored_s),
        "source": f"{Source(source).name.lower()} {origin}".rstrip(),
        "via": list(split(via)),
    }
