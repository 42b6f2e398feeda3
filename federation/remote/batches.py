"""Small blobs in batches: as many in one call as the remote takes, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from federation.core.digest import Digest, DigestFunction, hash_bytes
from federation.core.errors import DigestMismatch, FederationError, InvalidRequest
from federation.core.store import SMALL_BLOB_BYTES
from federation.remote import codec
from federation.remote.calls import Calls
from federation.remote.capabilities import Capabilities
from federation.remote.codec import BlobSent, Item
from federation.remote.failures import (
    FailureKind,
    NotFound,
    RemoteFailed,
    RequestRefused,
    failure,
)
from federation.remote.methods import BATCH_READ, BATCH_UPDATE
from federation.remote.statuses import from_status
from federation.wire import zstd
from federation.wire.cas_codec import IDENTITY, ZSTD

ITEMS_MAX = 4_000  # of one batch; servers bound it without saying so
_ITEM_BYTES = 128  # what an item costs in a message beside its data
_ZSTD_MIN_BYTES = 1024
_INLINE_BYTES = 128 * 1024  # hashing less costs less than handing it to a thread

# With these a remote says that it does not take batches, or not this one; one by one may work.
_ONE_BY_ONE = frozenset({FailureKind.UNSUPPORTED, FailureKind.REFUSED, FailureKind.MALFORMED})

_T = TypeVar("_T")
_R = TypeVar("_R")
ReadOne = Callable[[Digest], Awaitable[bytes | None]]
WriteOne = Callable[[Digest, bytes], Awaitable[FederationError | None]]


class Batches:
    """BatchReadBlobs and BatchUpdateBlobs of one remote."""

    def __init__(
        self,
        calls: Calls,
        remote: str,
        instance: str,
        on_wrong: Callable[[Sequence[Digest]], None],
        on_bad_zstd: Callable[[str], None],
    ) -> None:
        self._calls = calls
        self._remote = remote
        self._instance = instance
        self._on_wrong = on_wrong
        self._on_bad_zstd = on_bad_zstd

    async def read(
        self, digests: Sequence[Digest], can: Capabilities, use_zstd: bool, read_one: ReadOne
    ) -> dict[Digest, bytes | None]:
        """Return the blobs, each verified; None: not held, or the bytes were wrong.

        Raises RemoteFailed when it is not known of one whether it is held.
        """
        small, large = _split(digests, can)
        found: dict[Digest, bytes | None] = {}
        for function, group in _groups(small, can):
            answers = await self._read_group(function, group, use_zstd)
            if answers is None:
                large += group
                continue
            found |= answers
            large += [digest for digest in group if digest not in answers]
        for digest in large:
            found[digest] = await read_one(digest)
        return found

    async def _read_group(
        self, function: DigestFunction, group: list[Digest], use_zstd: bool
    ) -> dict[Digest, bytes | None] | None:
        """Return the outcomes of one call; None: the remote takes no such batch."""
        request = codec.batch_read(self._instance, group, function, zstd=use_zstd)
        try:
            data = await self._calls.unary(BATCH_READ, request)
            items = codec.batch_read_items(self._remote, data, function, len(group))
        except NotFound:
            return None
        except RemoteFailed as error:
            if error.kind in _ONE_BY_ONE:
                return None
            raise
        asked = set(group)
        held: dict[Digest, Item] = {}
        answers: dict[Digest, bytes | None] = {}
        for item in items:
            digest = item.digest
            # Answers to what was not asked are ignored: nobody waits for them.
            if digest is None or digest not in asked:
                continue
            if item.code == 0:
                held[digest] = item
            # Any other status leaves open whether it is held. One by one says more.
            elif isinstance(from_status(self._remote, item.code, item.message), NotFound):
                answers[digest] = None
        blobs = await _off_loop(sum(len(i.data) for i in held.values()), _unpack_all, held)
        bad = [digest for digest, blob in blobs.items() if blob is None]
        # Bytes that came plain are the remote's. Behind zstd a decoder may be at fault.
        wrong = [digest for digest in bad if held[digest].compressor == IDENTITY]
        if wrong:
            self._on_wrong(wrong)
        if len(wrong) < len(bad):
            self._on_bad_zstd("a blob in a batch came compressed and was not what it should be")
        for digest in set(bad).difference(wrong):
            del blobs[digest]  # asked for again, as plain bytes
        return answers | blobs

    async def write(
        self,
        blobs: Sequence[tuple[Digest, bytes]],
        can: Capabilities,
        use_zstd: bool,
        write_one: WriteOne,
    ) -> list[FederationError | None]:
        """Send a batch; return for each blob None, or why it was not taken."""
        wrong = await _off_loop(sum(len(data) for _, data in blobs), _mismatched, blobs)
        good = {
            digest: data
            for at, (digest, data) in enumerate(blobs)
            # The empty blob is held everywhere; some servers refuse it as an upload.
            if at not in wrong and (data or not digest.is_empty)
        }
        results = await self._write_good(good, can, use_zstd, write_one)
        return [
            DigestMismatch(digest, "other bytes were given") if at in wrong else results.get(digest)
            for at, (digest, _) in enumerate(blobs)
        ]

    async def _write_good(
        self, blobs: dict[Digest, bytes], can: Capabilities, use_zstd: bool, write_one: WriteOne
    ) -> dict[Digest, FederationError | None]:
        small, large = _split(list(blobs), can)
        results: dict[Digest, FederationError | None] = {}
        for function, group in _groups(small, can):
            try:
                answers = await self._write_group(function, group, blobs, use_zstd)
            except RemoteFailed as error:
                answers = dict.fromkeys(group, error)
            results |= answers or {}
            large += [digest for digest in group if digest not in results]
        for digest in large:
            results[digest] = await write_one(digest, blobs[digest])
        return results

    async def _write_group(
        self,
        function: DigestFunction,
        group: list[Digest],
        blobs: dict[Digest, bytes],
        use_zstd: bool,
    ) -> dict[Digest, FederationError | None] | None:
        """Return the outcomes, without blobs refused as zstd. None: the remote takes no batch."""
        sent = [BlobSent(digest, blobs[digest]) for digest in group]
        if use_zstd:
            sent = await _off_loop(sum(len(blob.data) for blob in sent), _pack_all, sent)
        request = codec.batch_update(self._instance, sent, function)
        try:
            data = await self._calls.unary(BATCH_UPDATE, request)
        except NotFound as error:
            detail = f"BatchUpdateBlobs: {error}"
            # Absence means nothing in the answer to a write, and callers take NotFound for a miss.
            raise failure(self._remote, FailureKind.INTERNAL, detail) from None
        except RemoteFailed as error:
            if error.kind in _ONE_BY_ONE:
                return None
            raise
        if codec.all_taken(data, group):
            return dict.fromkeys(group)
        statuses = self._statuses(data, function, len(sent))
        no_answer = failure(self._remote, FailureKind.MALFORMED, "a blob of a batch has no answer")
        outcome = {digest: statuses.get(digest, no_answer) for digest in group}
        for blob in sent:
            # Left without an outcome, so that it is sent plain: the zstd may be what was refused.
            if blob.compressed and isinstance(outcome[blob.digest], RequestRefused):
                del outcome[blob.digest]
        return outcome

    def _statuses(
        self, data: bytes, function: DigestFunction, sent: int
    ) -> dict[Digest | None, FederationError | None]:
        statuses: dict[Digest | None, FederationError | None] = {}
        items = codec.batch_update_items(self._remote, data, function, sent)
        for digest, code, message, *_ in items:
            error = from_status(self._remote, code, message) if code else None
            # REAPI names no such status, but some servers use it for what is there already.
            there = isinstance(error, RemoteFailed) and error.kind is FailureKind.EXISTS
            statuses[digest] = None if there else error
        return statuses


def _split(digests: Sequence[Digest], can: Capabilities) -> tuple[list[Digest], list[Digest]]:
    """Return those that fit in a batch and those that do not."""
    small: list[Digest] = []
    large: list[Digest] = []
    # A blob that fills a batch by itself leaves no room for its own fields.
    most_bytes = min(can.batch_bytes - _ITEM_BYTES, SMALL_BLOB_BYTES)
    for digest in digests:
        (small if digest.size_bytes <= most_bytes else large).append(digest)
    return small, large


def _groups(
    digests: Sequence[Digest], can: Capabilities
) -> list[tuple[DigestFunction, list[Digest]]]:
    groups = []
    # A batch has one digest_function for all of its blobs.
    for function in DigestFunction:
        mine = [digest for digest in digests if digest.function is function]
        sizes = [digest.size_bytes + _ITEM_BYTES for digest in mine]
        cuts = codec.grouped(sizes, can.batch_bytes, ITEMS_MAX)
        groups += [(function, mine[part]) for part in cuts]
    return groups


async def _off_loop(size_bytes: int, work: Callable[[_T], _R], blobs: _T) -> _R:
    """Run work that takes time in proportion to size_bytes, without blocking the event loop."""
    if size_bytes <= _INLINE_BYTES:
        return work(blobs)
    return await asyncio.to_thread(work, blobs)


def _unpack_all(held: dict[Digest, Item]) -> dict[Digest, bytes | None]:
    return {digest: _unpack(digest, item) for digest, item in held.items()}


def _unpack(digest: Digest, item: Item) -> bytes | None:
    """Return the verified blob of an answer; None: its bytes are wrong."""
    data = item.data
    if item.compressor == ZSTD:
        try:
            data = zstd.decode(data, digest.size_bytes)
        except InvalidRequest:
            return None
    elif item.compressor != IDENTITY:
        return None
    right = len(data) == digest.size_bytes and hash_bytes(digest.function, data) == digest.hash
    return data if right else None


def _pack_all(blobs: list[BlobSent]) -> list[BlobSent]:
    return [_pack(blob) for blob in blobs]


def _pack(blob: BlobSent) -> BlobSent:
    if len(blob.data) < _ZSTD_MIN_BYTES:
        return blob
    packed = zstd.encode(blob.data)
    # What is compressed already comes out larger, and would be unpacked for nothing.
    return BlobSent(blob.digest, packed, True) if len(packed) < len(blob.data) else blob


def _mismatched(blobs: Sequence[tuple[Digest, bytes]]) -> set[int]:
    """Return the places of blobs whose bytes do not match their digests."""
    return {
        at
        for at, (digest, data) in enumerate(blobs)
        if len(data) != digest.size_bytes or hash_bytes(digest.function, data) != digest.hash
    }
