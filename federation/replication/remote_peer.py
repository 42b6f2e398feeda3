"""A peer over the wire, through the client for any server of the protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.closure.names import function_of_entry
from federation.core import hops
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.pins import Pin, PinKind
from federation.core.purges import Purge
from federation.remote.client import Remote
from federation.remote.failures import (
    Denied,
    FailureKind,
    RequestRefused,
    Unsupported,
    failure,
)
from federation.remote.holdings import find_lacking
from federation.remote.index import RemoteIndex
from federation.remote.methods import (
    FETCH_BLOB,
    FETCH_DIRECTORY,
    FIND_LACKING,
    GET_RESULT,
    PUSH_BLOB,
    PUSH_DIRECTORY,
    UPDATE_RESULT,
)
from federation.remote.pins import apply_pins
from federation.remote.purges import apply_purges
from federation.remote.store import RemoteStore
from federation.replication.peer_api import Identity, ObjectHistory, OpenAt, Theirs
from federation.wire.asset_request import content_of, pushed_of

_log = structlog.get_logger(__name__)

_NO_OBJECT = ObjectHistory()  # for questions
_METHODS = {
    EntryKind.ACTION_RESULT: UPDATE_RESULT,
    EntryKind.ASSET_BLOB: PUSH_BLOB,
    EntryKind.ASSET_DIRECTORY: PUSH_DIRECTORY,
}
_COMPARES = {
    EntryKind.ACTION_RESULT: GET_RESULT,
    EntryKind.ASSET_BLOB: FETCH_BLOB,
    EntryKind.ASSET_DIRECTORY: FETCH_DIRECTORY,
}


class RemotePeer:
    """See PeerApi."""

    def __init__(self, remote: Remote, for_large: Remote, names: Mapping[str, str] | None) -> None:
        """Use two connections to one peer.

        Args:
            remote: for everything but
            for_large: large blobs. What the kernel and HTTP/2 have taken of one on a slow link may
                be minutes of it, and on one connection small objects would wait behind that.
            names: what instances are called there; None: as they are here.
        """
        self._remote = remote
        self._for_large = for_large
        self._store = RemoteStore(remote)
        self._large_store = RemoteStore(for_large)
        # A peer without the service has an unknown value, which must not be overwritten.
        self._index = RemoteIndex(remote, lacking_is_miss=False)
        self._names = names
        # Drawn anew by each process, so that a restart never continues an upload of its past self.
        self._salt = remote.random.getrandbits(128)

    def __repr__(self) -> str:
        return f"<RemotePeer {self._remote!r}>"

    @property
    def identity(self) -> Identity:
        """See PeerApi."""
        return Identity(self._remote.node_id, self._remote.log_seen)

    @property
    def batch_bytes(self) -> int:
        """See PeerApi."""
        return self._remote.known.batch_bytes

    def hashes_with(self, function: DigestFunction) -> bool:
        """See PeerApi."""
        return self._remote.known.hashes_with(function)

    def lacks(self, kind: EntryKind) -> bool:
        """See PeerApi."""
        return self._remote.calls.lacks(_METHODS[kind])

    async def greet(self) -> None:
        """See PeerApi."""
        await self._remote.greet()

    async def meet(self) -> None:
        """See PeerApi."""
        with _replicating(_NO_OBJECT):
            await self._remote.capabilities()

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See PeerApi."""
        with _replicating(_NO_OBJECT):
            return await self._store.find_missing(digests)

    async def find_absent(self, digests: Collection[Digest]) -> set[Digest]:
        """See PeerApi. Nodes of this project tell their id only to callers with the peer role."""
        await self.meet()
        calls = self._remote.calls
        if not self._remote.node_id or calls.lacks(FIND_LACKING):
            return await self.find_missing(digests)
        # The empty blob is held everywhere, and has no row that the peer could look up.
        asked = [digest for digest in digests if not digest.is_empty]
        try:
            with _replicating(_NO_OBJECT):
                return await find_lacking(self._remote, asked)
        except Unsupported:
            # An older version, or a proxy: then FindMissing serves for the next ten minutes.
            calls.believe_lacking(FIND_LACKING)
        except (Denied, RequestRefused) as error:  # e.g. a proxy that passes known methods only
            _log.debug("summaries_refused", peer=self._remote.name, reason=error.reason)
        return await self.find_missing(digests)

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], history: ObjectHistory
    ) -> list[FederationError | None]:
        """See PeerApi."""
        with _replicating(history):
            return await self._store.write_small(blobs)

    async def send(
        self, digest: Digest, open_at: OpenAt, history: ObjectHistory, *, goes_on: bool = False
    ) -> None:
        """See PeerApi."""
        # A blob has one upload at a time, so a fixed number lets the peer recognize it.
        number = int.from_bytes(digest.hash[:16], "big") ^ self._salt
        with _replicating(history):
            await self._large_store.send(digest, open_at, number=number, goes_on=goes_on)

    async def push(self, entry: Entry, history: ObjectHistory, node_id: str) -> None:
        """See PeerApi."""
        instance = self._instance_of(entry)
        await self.meet()
        if node_id and self._remote.node_id != node_id:
            raise failure(self._remote.name, FailureKind.UNAVAILABLE, "another node answers now")
        with _replicating(history, entry.stamp):
            if entry.key.kind is EntryKind.ACTION_RESULT:
                await self._update_action_result(entry, instance)
                return
            pushed = pushed_of(entry)
            # An entry is stored without its URI, which is the key's.
            pushed.uris.append(entry.label)
            if isinstance(pushed, asset.PushBlobRequest):
                await self._index.push_blob(pushed, instance)
            else:
                await self._index.push_directory(pushed, instance)

    async def _update_action_result(self, entry: Entry, instance: str) -> None:
        try:
            action = action_of(entry.key)
            await self._index.update_action_result(action, entry.value, instance)
        except Unsupported:
            # The capabilities confirm it, so one answer is enough; otherwise a proxy may have given
            # it.
            if self._remote.known.takes_results is False:
                self._remote.calls.believe_lacking(UPDATE_RESULT)
            raise

    async def tell_purges(self, purges: Sequence[Purge]) -> None:
        """See PeerApi. An entry has its instance's name there; one without any stays away."""
        known = [named for each in purges if (named := self._named(each)) is not None]
        with _replicating(_NO_OBJECT):
            await apply_purges(self._remote, known)

    def _named(self, purge: Purge) -> Purge | None:
        """Return a record as the peer knows the name; None: it has no such name."""
        if isinstance(purge.thing, Digest) or self._names is None:
            return purge
        instance = self._names.get(purge.thing.instance)
        if instance is None:
            return None
        return purge._replace(thing=purge.thing._replace(instance=instance))

    async def tell_pins(self, pins: Sequence[Pin]) -> None:
        """See PeerApi. A pin in all instances is one in each of those that are sent there."""
        known = [named for each in pins for named in self._pins_there(each)]
        with _replicating(_NO_OBJECT):
            await apply_pins(self._remote, known)

    def _pins_there(self, pin: Pin) -> list[Pin]:
        """Return a record as the peer knows its instances."""
        target, names = pin.target, self._names
        if names is None or target.kind is PinKind.BLOB:
            return [pin]
        return [
            pin._replace(target=target._replace(instance=there))
            for here, there in names.items()
            if target.instance in {None, here}
        ]

    async def compare(self, entry: Entry) -> Theirs:
        """See PeerApi. Of an asset its content and end are compared, not what it refers to."""
        try:
            return await self._compare(entry)
        except Unsupported:
            # It serves no such names to anybody, so there is nothing to overwrite.
            if self._remote.calls.lacks(_COMPARES[entry.key.kind]):
                return Theirs.NOTHING
            raise

    async def _compare(self, entry: Entry) -> Theirs:
        instance = self._instance_of(entry)
        with _replicating(_NO_OBJECT):
            if entry.key.kind is EntryKind.ACTION_RESULT:
                value = await self._index.get_action_result(action_of(entry.key), instance)
                return _theirs(value, entry.value)
            pushed, function = pushed_of(entry), function_of_entry(entry)
            qualifiers = {each.name: each.value for each in pushed.qualifiers}
            fetch: Any = self._index.fetch_directory
            if entry.key.kind is EntryKind.ASSET_BLOB:
                fetch = self._index.fetch_blob
            found = await fetch([entry.label], qualifiers, function, instance=instance)
            theirs = None if found is None else (found.digest, found.expires_at_s)
            return _theirs(theirs, (content_of(pushed), entry.expires_at_s))

    def _instance_of(self, entry: Entry) -> str:
        """Return the name of the entry's instance at the peer; rules leave out all others."""
        return entry.key.instance if self._names is None else self._names[entry.key.instance]

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows of the connection."""
        return self._remote.describe()

    async def close(self) -> None:
        """See PeerApi."""
        await self._for_large.close()
        await self._remote.close()


@contextmanager
def _replicating(history: ObjectHistory, stamp: Stamp | None = None) -> Iterator[None]:
    """Mark calls within as replication of an object with this history."""
    with hops.serving(hops.of_replication(history.via, stamp, history.unused_s)):
        yield


def _theirs(theirs: object, ours: object) -> Theirs:
    if theirs is None:
        return Theirs.NOTHING
    return Theirs.SAME if theirs == ours else Theirs.OTHER


def action_of(key: EntryKey) -> Digest:
    """Return the digest of the action whose result has this key."""
    name = key.name
    size_bytes = int.from_bytes(name[-8:], "big")
    return Digest(name[1:-8], size_bytes, DigestFunction(name[0]))
