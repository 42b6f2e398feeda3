"""Verifies all blobs of a site against their digests, and its catalogue."""

from __future__ import annotations

from federation.core.errors import BlobDamaged, SourceUnavailable
from federation.core.uses import Use
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import digest_of_key
from federation.storage.contract import Progress
from federation.storage.reports import VerifyReport
from federation.storage.shared.admin.joining import ObjectReader
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.verification import check_inline

_LISTED_MAX = 100
_ROWS = 200  # with the bytes of the small ones
# One statement, and so one snapshot: nodes that write meanwhile do not matter.
_CHECK = """
SELECT s.blobs - b.blobs, s.entries - e.entries, s.bytes - b.bytes - e.bytes,
  s.gone - (SELECT coalesce(sum(size), 0) FROM gone), s.seq - coalesce(l.seq, s.seq),
  s.logged - coalesce(l.total, s.logged), greatest(b.seq, e.seq) > s.seq, e.ticks > s.ticks,
  (SELECT count(*) FROM blob LEFT JOIN small USING (seq) WHERE attempt IS NULL AND data IS NULL),
  s.purges - (SELECT count(*) FROM purge),
  (SELECT count(*) FROM purge p JOIN blob ON p.kind = 0 AND key = p.name WHERE NOT p.allowed),
  (SELECT f.bytes - coalesce(sum(k.bytes), 0) FROM pinned f LEFT JOIN keeping k ON true
    GROUP BY f.bytes)::bigint,
  (SELECT count(*) FROM blob WHERE (kept IS NULL) <> (era < 536870912))
    + (SELECT count(*) FROM entry WHERE (kept IS NULL) <> (era < 536870912)),
  (SELECT count(*) FROM blob WHERE kept IS NOT NULL
    AND NOT EXISTS (SELECT FROM keeping k WHERE k.id = blob.kept))
FROM site s,
  (SELECT count(*) AS blobs, coalesce(sum(size), 0) AS bytes, coalesce(max(seq), 0) AS seq
    FROM blob) b,
  (SELECT count(*) AS entries, coalesce(sum(octet_length(value) + octet_length(label)), 0) AS bytes,
    coalesce(max(seq), 0) AS seq, coalesce(max(ticks), 0) AS ticks FROM entry) e
  LEFT JOIN LATERAL (SELECT seq, total FROM log ORDER BY seq DESC LIMIT 1) l ON true
"""
_PROBLEMS = (
    "the number of blobs differs from that of their rows by {}",
    "the number of entries differs from that of their rows by {}",
    "the bytes differ from those of the rows by {}",
    "the bytes that are to be deleted differ from those of the rows by {}",
    "the end of the change log differs from its last row by {}",
    "the bytes of the change log differ from those of its last row by {}",
    "a row has a number beyond the end of the change log",
    "an entry's stamp is later than the site's clock of stamps",
    "{} small blobs have no bytes",
    "the number of purges differs from that of their records by {}",
    "{} blobs are held though they were purged",
    "the bytes that pins keep differ from those of their keepings by {}",
    "{} blobs or entries are kept by pins and in the order of eviction, or neither",
    "{} blobs are kept by nothing that is known",
)


async def verify_site(
    catalogue: SiteCatalogue, objects: ObjectReader, progress: Progress, *, repair: bool
) -> VerifyReport:
    """See Operations.verify. Raises SourceUnavailable: the database does not answer."""
    report = VerifyReport(repaired=repair)
    differences = await catalogue.connections.ask_one(_CHECK)
    report.catalogue_problems = [
        text.format(found) for text, found in zip(_PROBLEMS, differences, strict=True) if found
    ]
    total = catalogue.watch.totals().blobs
    after = b""
    while rows := await catalogue.blobs.walk(after, _ROWS):
        keys = [key for key, _ in rows]
        found = await catalogue.blobs.look_up(keys, Use.PEEK, with_bytes=True)
        for key, at in found.items():
            await _verify_one(catalogue, objects, report, key, at)
        after = keys[-1]
        progress(report.blobs, max(total, report.blobs))
    return report


async def _verify_one(
    catalogue: SiteCatalogue, objects: ObjectReader, report: VerifyReport, key: bytes, at: BlobAt
) -> None:
    digest = digest_of_key(key, at.size_bytes)
    report.blobs += 1
    report.size_bytes += at.size_bytes
    try:
        if at.attempt is None:
            check_inline(digest, at.data or b"")
        else:
            async for _ in objects.parts(digest, at):
                continue
    except SourceUnavailable:
        report.unknown_blobs += 1
    except (Damage, BlobDamaged) as damage:
        report.damaged_blobs += 1
        if len(report.damaged) < _LISTED_MAX:
            report.damaged.append(f"{digest}: {damage}")
        if report.repaired:
            # One that was uploaded again since it was read stays.
            await catalogue.blobs.set_aside([(key, at.seq)], str(damage))
