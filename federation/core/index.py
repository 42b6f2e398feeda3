"""The contracts of what keeps index entries, action results and assets: here, and elsewhere."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from federation.core.digest import Digest, DigestFunction
from federation.core.provenance import FROM_CLIENT, Provenance, Source


class EntryKind(enum.IntEnum):
    """The three kinds of index entries; they never mix, even under one name."""

    ACTION_RESULT = 1
    ASSET_BLOB = 2
    ASSET_DIRECTORY = 3


class EntryKey(NamedTuple):
    """Where an index entry lives: kind, REAPI instance name, and a name unique within both.

    The name of an action result is function byte + hash + size (8 bytes, big-endian); that of an
    asset is the SHA-256 of its digest function, URI and sorted qualifiers (wire/asset_key.py).
    """

    kind: EntryKind
    instance: str
    name: bytes


def name_of_action(action: Digest) -> bytes:
    """Return the name of the results of an action: see EntryKey."""
    raw, size_bytes, function = action
    return bytes((function,)) + raw + size_bytes.to_bytes(8, "big")


class Stamp(NamedTuple):
    """When a name was given its value, by a hybrid logical clock; the greater one wins everywhere.

    ticks: milliseconds of the wall clock * 65536 + a counter. Comparing tuples compares stamps.
    """

    ticks: int = 0
    node: str = ""  # id of the node whose client gave the value; breaks ties


# First parts of the namespaces of keyed entries, which stand at the end of an instance name.
NAMESPACES = frozenset({"kv", "gradle", "nx", "turborepo"})
LIKE_MAX = 16  # entries that Index.get_like returns for one key

NO_STAMP = Stamp()  # of what came from an upstream: any other wins
PULLED_TICKS = 1  # of what an upstream gave, where one node sends it to another


class Entry(NamedTuple):
    """An index entry as stored: value is the serialized message exactly as its client sent it."""

    key: EntryKey
    value: bytes
    label: str  # for people and rules: the URI, or the action's digest
    stored_at_s: float = 0.0  # wall clock; set by put
    expires_at_s: float | None = None  # wall clock; None: never
    source: Source = Source.CLIENT  # of the provenance given to put
    origin: str = ""  # likewise
    stamp: Stamp = NO_STAMP  # given by put, except to what a peer sends: that keeps its own


class Index(Protocol):
    """Action results and assets by key."""

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """Return each entry as stored, expired ones too; None where there is none.

        Marks the found ones as used. Raises SourceUnavailable when a remote does not answer.
        """
        ...

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        """Return the entries whose names begin with the name of one of the keys, newest first.

        At most LIKE_MAX of each. Does not mark them as used. Raises as get() does.
        """
        ...

    def recall(self, key: EntryKey) -> Entry | None:
        """Return the entry, and mark it as used, if memory has what is stored under the key now.

        None: not known, as the catalogue would have to be asked. Never waits.
        """
        ...

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """Return whether it is known without waiting that there is no entry under these keys."""
        ...

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        """Store all entries durably in one step; the last write of a key wins.

        The last one over all nodes: one from a peer (provenance PEER) whose stamp is not greater
        than that of what is held is ignored. One with a greater stamp is taken over even if its
        value is the same: a third value in between would win here and lose elsewhere.

        One that comes from an upstream does not replace one that does not and has not expired: it
        is ignored.

        Raises StorageFull, StorageFailed, InvalidRequest (a stamp from a peer that is further
        ahead of the wall clock than storage.clock-drift): none of them is stored.
        """
        ...

    async def put_over(
        self, entry: Entry, held: Entry | None, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        """Store an entry as put() does, if what is stored under its key is still held.

        held: as get() returned it; None: nothing is. False: another value is there by now, from
        any process of this node, and nothing was stored.
        """
        ...


class FetchedAsset(NamedTuple):
    """What another server answered to a Fetch."""

    uri: str  # which of those asked for it is
    digest: Digest  # of the blob, or of the root directory
    expires_at_s: float | None = None  # wall clock; None: never
    qualifiers: Mapping[str, str] = MappingProxyType({})


class IndexElsewhere(Protocol):
    """The index entries of another server, such as an upstream. Nothing that it names is checked.

    All reads return None where there is no entry, and raise SourceUnavailable where the server
    gave no answer. Those with an instance ask the server's configured one if it is None.
    """

    def instance_below(self, name: str) -> str:
        """Return the instance of this name below the configured one."""
        ...

    async def get_action_result(self, action: Digest, instance: str | None = None) -> bytes | None:
        """Return the serialized ActionResult as it was sent."""
        ...

    async def fetch_blob(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
    ) -> FetchedAsset | None:
        """Return the blob that any of the URIs names.

        oldest_content_accepted_s: wall clock; what was stored before is not wanted.
        """
        ...

    async def fetch_directory(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
    ) -> FetchedAsset | None:
        """Return the directory that any of the URIs names; else as fetch_blob."""
        ...
