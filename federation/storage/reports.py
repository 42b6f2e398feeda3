"""The reports of operations on a storage, independent of its engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from federation.core.clock import utc_text
from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey
from federation.core.replication_log import Lane, PeerRecord, PeerState


class EntrySelection(NamedTuple):
    """Which index entries an operation is about: those that meet every condition given."""

    instance: str | None = None
    action: Digest | None = None  # the results of this action
    is_sized: bool = True  # False: of actions with this hash, whatever their size
    uri: str | None = None  # the assets of this URI, with any qualifiers
    before_s: float | None = None  # those stored before that (wall clock)


class EntryMatch(NamedTuple):
    """An index entry of a selection; size_bytes: of the value and the label."""

    key: EntryKey
    label: str
    stored_at_s: float
    size_bytes: int


@dataclass(slots=True)
class VerifyReport:
    """The result of a verify. damaged lists at most 100 blobs; damaged_blobs counts all."""

    blobs: int = 0
    size_bytes: int = 0
    damaged_blobs: int = 0
    damaged: list[str] = field(default_factory=list)
    unknown_blobs: int = 0  # the disk could not be read
    catalogue_problems: list[str] = field(default_factory=list)
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether all blobs were read, and nothing is wrong."""
        return not (self.damaged_blobs or self.unknown_blobs or self.catalogue_problems)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return {
            "ok": self.ok,
            "blobs": self.blobs,
            "bytes": self.size_bytes,
            "damaged-blobs": self.damaged_blobs,
            "damaged": self.damaged,
            "unknown-blobs": self.unknown_blobs,
            "catalogue-problems": self.catalogue_problems,
            "damaged-blobs-set-aside": self.repaired and self.damaged_blobs > 0,
        }


@dataclass(slots=True)
class CollectReport:
    """What was freed; held_back says why it was less than requested, if it was."""

    freed_bytes: int = 0
    stored_bytes: int = 0
    files_removed: int = 0
    by_running_node: bool = False
    held_back: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return {
            "freed-bytes": self.freed_bytes,
            "stored-bytes": self.stored_bytes,
            "left-over-files-removed": self.files_removed,
            "done-by-running-node": self.by_running_node,
            "held-back": self.held_back or None,
        }


@dataclass(slots=True)
class BackupReport:
    """What a backup has now, or what was restored of one."""

    blobs: int = 0
    size_bytes: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    kept_files: int = 0  # an earlier backup had them
    removed_files: int = 0  # nothing names them any more
    evicted_blobs: int = 0  # while it ran
    damaged_blobs: int = 0  # left out
    seen: int = 0

    @property
    def ok(self) -> bool:
        """Whether every blob that was not evicted is in it."""
        return not self.damaged_blobs

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return {
            "ok": self.ok,
            "blobs": self.blobs,
            "bytes": self.size_bytes,
            "files-copied": self.copied_files,
            "copied-bytes": self.copied_bytes,
            "files-kept": self.kept_files,
            "files-removed": self.removed_files,
            "blobs-evicted-meanwhile": self.evicted_blobs,
            "damaged-blobs-left-out": self.damaged_blobs,
        }


@dataclass(slots=True)
class RebuildReport:
    """What the new catalogue contains, and how many files were not taken into it."""

    files: int = 0
    file_bytes: int = 0
    damaged_files: int = 0
    inline_blobs: int = 0
    entries: int = 0
    peers: int = 0
    old_catalogue: str = "none"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return {
            "files-verified": self.files,
            "file-bytes": self.file_bytes,
            "files-quarantined": self.damaged_files,
            "inline-blobs-saved": self.inline_blobs,
            "entries-saved": self.entries,
            "peers-to-be-compared": self.peers,
            "old-catalogue": self.old_catalogue,
        }


class NewId(NamedTuple):
    """A node's previous and new id."""

    before: str
    now: str


class FoundEntry(NamedTuple):
    """An index entry, and the facts that are shown about it."""

    entry: Entry
    facts: dict[str, Any]


class Lag(NamedTuple):
    """The change log rows that a peer has not acknowledged; some may not be meant for it."""

    objects: int
    size_bytes: int
    oldest_s: float  # age of the oldest row; 0: there is none


class KnownPeer(NamedTuple):
    """One peer as the catalogue knows it."""

    name: str
    lanes: dict[Lane, PeerRecord]
    lags: dict[Lane, Lag]  # only of lanes that follow the log; the lag of others is unknown
    parked: int

    @property
    def main(self) -> PeerRecord:
        """The record of the lane that always sends, or of another one if there is none."""
        return self.lanes.get(Lane.ALWAYS) or next(iter(self.lanes.values()))

    @property
    def is_whole(self) -> bool:
        """Whether the peer has acknowledged everything and nothing is parked for it."""
        following = all(each.state is PeerState.FOLLOWING for each in self.lanes.values())
        return following and not self.parked and not any(lag.objects for lag in self.lags.values())

    @property
    def asked(self) -> int:
        """How many reconciles operators have requested."""
        return self.main.wanted

    @property
    def done(self) -> int:
        """How many requested reconciles are done, not counting what waits for a window."""
        return self.main.served

    @property
    def sent_objects(self) -> int:
        """How many objects were ever sent to the peer."""
        return sum(record.sent_objects for record in self.lanes.values())

    @property
    def sent_bytes(self) -> int:
        """How many bytes were ever sent to the peer."""
        return sum(record.sent_bytes for record in self.lanes.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        main = self.main
        shown = {
            "name": self.name,
            **_lane(main, self.lags.get(main.lane)),
            "parked": self.parked,
            "sent-objects-total": self.sent_objects,
            "sent-bytes-total": self.sent_bytes,
            "last-success": _date(max(r.last_success_s for r in self.lanes.values())),
            **_last_error(self.lanes.values()),
            "node-id": main.node_id or None,
            "reconciles-waiting": max(0, self.asked - self.done),
        }
        held_back = self.lanes.get(Lane.WINDOW)
        if held_back is not None and held_back is not main:
            shown["window"] = _lane(held_back, self.lags.get(Lane.WINDOW))
        return shown


def _lane(record: PeerRecord, lag: Lag | None) -> dict[str, Any]:
    return {
        "state": record.state.value,
        **({"reason": record.reason} if record.reason else {}),
        "lag-objects": None if lag is None else lag.objects,
        "lag-bytes": None if lag is None else lag.size_bytes,
        "lag-s": None if lag is None else round(lag.oldest_s, 1),
    }


def _last_error(records: Iterable[PeerRecord]) -> dict[str, Any]:
    last = max(records, key=lambda record: record.last_error_s)
    return {"last-error": last.last_error or None, "last-error-at": _date(last.last_error_s)}


def _date(wall_s: float) -> str | None:
    return utc_text(wall_s) if wall_s else None
