"""Pins: what operators keep from eviction, with everything that it names.

A pin has a target, which names one blob, or index entries by a pattern, an action or an instance;
it holds for the entries that match now and for those that come later. Each target has at most one
record, its last word, with a stamp of the hybrid logical clock: the later stamp wins on every node,
in whatever order records arrive. A pin that was removed leaves a record, too, for some time.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from fnmatch import translate
from re import compile as compile_pattern
from typing import NamedTuple, Protocol

from federation.core.digest import HASH_BYTES, MAX_SIZE_BYTES, Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.index import Entry, EntryKey, EntryKind, Stamp, name_of_action
from federation.core.store import Readable

PINS_MAX = 1000  # of one node, without those that were removed
REMOVED_MAX = 10_000  # records of removed pins that are kept
REMOVED_KEEP_S = 90 * 86400.0  # for how long, by the wall clock
PATTERN_MAX_CHARS = 2000
LABEL_MAX_CHARS = 2048
NOTE_MAX_CHARS = 500
BY_MAX_CHARS = 200
UNTIL_MAX_S = 253_402_300_799  # wall clock: in the year 9999, the last of protobuf's Timestamp

Matches = Callable[[EntryKey, str], bool]  # called with the key and the label of an entry
# Asks a store about everything that an entry names; False: that could not be found out.
ClosureWalk = Callable[[Readable, Entry], Awaitable[bool]]
FetchBlobs = Callable[[Collection[Digest]], Awaitable[object]]  # brings what others have of them


class PinKind(enum.Enum):
    """How a target names what is pinned."""

    ASSETS = "assets"  # those whose URI matches a pattern
    ACTION = "action"  # the results of an action; keyed entries are such, too
    INSTANCE = "instance"  # all entries of an instance name
    BLOB = "blob"  # one blob


class PinTarget(NamedTuple):
    """What is pinned, apart from how people call it."""

    kind: PinKind
    instance: str | None = None  # None: in all instances, which share their blobs
    pattern: str = ""  # of ASSETS: with *, ? and [...]
    digest: Digest | None = None  # of ACTION and BLOB

    @property
    def name(self) -> str:
        """The text that parse() reads; targets that mean the same have the same."""
        digest = self.digest
        named = (
            None if digest is None else [int(digest.function), digest.hash_hex, digest.size_bytes]
        )
        # One text for one target: it is the key of the record at every node.
        return json.dumps([self.kind.value, self.instance, self.pattern, named], ensure_ascii=False)

    @property
    def blob(self) -> Digest | None:
        """The blob that it names; None: it names entries."""
        return self.digest if self.kind is PinKind.BLOB else None

    @classmethod
    def parse(cls, name: str) -> PinTarget:
        """Read a name. Raises ValueError for what is none."""
        kind, instance, pattern, named = json.loads(name)
        digest = None
        if named is not None:
            function, hash_hex, size_bytes = named
            digest = Digest(bytes.fromhex(hash_hex), size_bytes, DigestFunction(function))
        return cls(PinKind(kind), instance, pattern, digest)

    def matcher(self) -> Matches:
        """Return a function that tells whether an entry matches; no entry matches a blob."""
        of_entry = self._of_entry()
        if self.instance is None:
            return of_entry
        return lambda key, label: key.instance == self.instance and of_entry(key, label)

    def _of_entry(self) -> Matches:
        if self.kind is PinKind.INSTANCE:
            return lambda _key, _label: True
        if self.kind is PinKind.ASSETS:
            # Compiled once: a pin is compared with every entry of the node. translate() anchors it.
            fits = compile_pattern(translate(self.pattern)).match
            return lambda key, label: (
                key.kind is not EntryKind.ACTION_RESULT and fits(label) is not None
            )
        if self.kind is PinKind.ACTION and self.digest is not None:
            name = name_of_action(self.digest)
            return lambda key, _label: key.kind is EntryKind.ACTION_RESULT and key.name == name
        return lambda _key, _label: False


def check_target(target: PinTarget) -> PinTarget:
    """Return a target that can be pinned. Raises InvalidRequest for any other."""
    kind, instance, pattern, digest = target
    if (digest is not None) != (kind in {PinKind.ACTION, PinKind.BLOB}):
        raise InvalidRequest(f"a pin of the kind {kind.value} with the digest {digest}")
    if digest is not None and (
        len(digest.hash) != HASH_BYTES or not 0 <= digest.size_bytes <= MAX_SIZE_BYTES
    ):
        raise InvalidRequest("a pin with a malformed digest")
    # Two names of one thing would be two records, and removing one would leave the other.
    if kind is PinKind.BLOB and (instance is not None or digest is None or digest.is_empty):
        raise InvalidRequest("blobs have no instance, and the empty blob is always held")
    if (kind is PinKind.ASSETS) != bool(pattern) or len(pattern) > PATTERN_MAX_CHARS:
        raise InvalidRequest(
            f"a pattern of asset URIs has 1 to {PATTERN_MAX_CHARS} characters, not {len(pattern)}"
        )
    if kind is PinKind.INSTANCE and instance is None:
        raise InvalidRequest("a pin of an instance without its name")
    return target


class Pin(NamedTuple):
    """The record of one target."""

    target: PinTarget
    stamp: Stamp
    label: str = ""  # what people call the target
    until_s: float | None = None  # wall clock; None: until it is removed
    note: str = ""
    by: str = ""  # who pinned it, for people
    at_s: float = 0.0  # wall clock of the node where it was pinned, or removed
    is_removed: bool = False

    def has_ended(self, wall_s: float) -> bool:
        """Return whether its date has passed."""
        return self.until_s is not None and self.until_s <= wall_s


class PinPage(NamedTuple):
    """Records in the order of their numbers."""

    pins: Sequence[Pin]
    last: int  # the number of the last one; the number that was asked for if there are none


class KeptState(enum.IntEnum):
    """Whether a pin keeps an entry that matches it."""

    WHOLE = 0  # the entry and everything that it names
    INCOMPLETE = 1  # the entry and what is here of that: blobs are missing
    LEFT_OUT = 2  # not at all: pins would take more than they may


class PinReport(NamedTuple):
    """A pin and what it keeps here. What several pins keep counts for one of them."""

    pin: Pin
    is_settled: bool  # all entries that were here when it was pinned have been looked at
    entries: int  # that it keeps, whole or not
    blobs: int
    size_bytes: int  # of the quota
    incomplete: int  # entries of which blobs are missing
    missing: int  # how many blobs are, as far as that is known
    left_out: int  # entries that it does not keep, as pins may take no more

    @property
    def is_whole(self) -> bool:
        """Whether everything is kept that it names."""
        return self.is_settled and not self.incomplete and not self.left_out


class PinsReport(NamedTuple):
    """All pins of a storage."""

    pins: Sequence[PinReport]
    size_bytes: int  # what they keep, and what removed ones have kept and is not given back yet
    max_bytes: int  # what they may keep: storage.pins-max


class Pins(Protocol):
    """The records of one storage. All methods are safe to call concurrently and to cancel.

    They raise SourceUnavailable when the records cannot be read, StorageFailed and StorageFull
    when they cannot be written.
    """

    async def apply(self, pins: Sequence[Pin]) -> int:
        """Take over the records of another node, in one durable step; return how many were newer.

        Their targets are looked for afterwards. Raises InvalidRequest for a malformed one, for more
        than PINS_MAX, and for a stamp that is further ahead of the wall clock than
        storage.clock-drift; none is taken over then.
        """
        ...

    async def page(self, after: int, limit: int) -> PinPage:
        """Return up to limit records with numbers above after (0: all).

        A record gets the next number whenever it changes.
        """
        ...
