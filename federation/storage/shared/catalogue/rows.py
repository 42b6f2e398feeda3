"""What goes into the site's catalogue and comes out of it, as values."""

from __future__ import annotations

import enum
from typing import NamedTuple

from federation.core.digest import Digest
from federation.core.provenance import FROM_CLIENT, Provenance

FIRST_KEPT_ERA = 2**29  # above every hour, below the era of whatever a pin keeps: see schema3.sql
# The hour of last use of a row of blob or entry; of what a pin keeps it is known by the lease.
HOUR_OF_USE = (
    "CASE WHEN kept IS NULL THEN era ELSE greatest(era - 1073741824, accessed / 3600000) END"
)


class NewBlob(NamedTuple):
    """A verified blob that is to become visible: its bytes, or its object in the bucket."""

    digest: Digest
    data: bytes | None  # None: the bytes are in the object of this attempt
    attempt: bytes = b""  # random, 8 bytes: part of the object's name
    parts: bytes = b""  # hashes of the object's parts: see part_hashes.py
    provenance: Provenance = FROM_CLIENT


class Insertion(enum.IntEnum):
    """What became of a NewBlob. Unless STORED, its object is waiting to be deleted (gone)."""

    HELD = 0  # it is held already, and leased
    STORED = 1
    FULL = 2  # the site's quota has no room for it


class BlobAt(NamedTuple):
    """A held blob, and where its bytes are."""

    size_bytes: int
    seq: int  # its row of the change log; another one when the blob was removed and came again
    attempt: bytes | None  # of its object; None: the bytes are in the catalogue
    parts: bytes  # see NewBlob
    data: bytes | None  # None: in the bucket, or not asked for


class BlobObject(NamedTuple):
    """An object in the bucket: the blob, and which upload of it."""

    digest: Digest
    attempt: bytes


class SiteRole(enum.StrEnum):
    """Work that one node of the site does for all."""

    UPKEEP = "upkeep"  # advances the site's clock; evicts, trims, deletes, sweeps, scrubs
    REPLICATION = "replication"
    HEALING = "healing"  # asks other servers for lost blobs


class Lead(NamedTuple):
    """Proof of leading that each write of a lead carries. A later term makes it worthless."""

    role: SiteRole
    term: int


class LeadRow(NamedTuple):
    """Who has a role, as the database says; role may be one that only a newer version knows."""

    role: str
    node: str | None  # None: who had it has left of its own accord
    term: int
    beat: int  # of this term; the lead raises it each second


class SiteTotals(NamedTuple):
    """What the site holds."""

    size_bytes: int  # of blobs and of entries
    blobs: int
    entries: int
    gone_bytes: int  # of objects that are to be deleted from the bucket

    @property
    def cost_bytes(self) -> int:
        """How much of the quota is used."""
        rows = BLOB_ROW_BYTES * self.blobs + ENTRY_ROW_BYTES * self.entries
        return self.size_bytes + self.gone_bytes + rows


BLOB_ROW_BYTES = 256  # what the rows of a blob take of the quota beside its bytes
ENTRY_ROW_BYTES = 240


class Evicted(NamedTuple):
    """The result of one step of eviction."""

    blobs: int
    entries: int
    freed_bytes: int  # of the quota, now or once the objects are deleted
    is_paused: bool = False  # leases may have been lost: nothing is evicted for a lease period
    is_pinned: bool = False  # less was freed than wanted, and there are objects that peers wait for
