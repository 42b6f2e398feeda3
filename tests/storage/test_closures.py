"""Closures over real storage, shared by two processes' worth of it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobDamaged, BlobNotFound
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.store import SMALL_BLOB_BYTES
from federation.storage.storage import Storage
from tests.storage.conftest import put, read, short
from tests.support.messages import directory, message_of, tree

LEAF = hashlib.shake_128(b"leaf").digest(300_000)  # too large for the catalogue: a file

OpenStorage = Callable[..., Awaitable[Storage]]
Pair = list[tuple[Storage, ClosureChecker]]


def entry_of(root: Digest) -> Entry:
    result = reapi.ActionResult()
    result.output_directories.add(path="d", root_directory_digest=message_of(root))
    key = EntryKey(EntryKind.ACTION_RESULT, "", b"\x01" + bytes(40))
    return Entry(key, result.SerializeToString(), "action")


def _damage(storage: Storage, digest: Digest) -> None:
    Path(storage.core.directory.blob_path(digest)).write_bytes(bytes(digest.size_bytes))


@pytest.fixture
async def pair(open_storage: OpenStorage) -> AsyncIterator[Pair]:
    """Two storages on one directory, each with a checker."""
    storages = [await open_storage(short(verify_after=0.0)) for _ in range(2)]
    checkers = [ClosureChecker(each, LimitsConfig(), SystemClock(), each) for each in storages]
    yield list(zip(storages, checkers, strict=True))
    for checker in checkers:
        await checker.close()


async def test_what_one_process_stores_completes_a_closure_in_the_other(pair: Pair) -> None:
    (ours, _), (_, their_checker) = pair
    root = directory({"leaf": digest_of(LEAF)}, {"sub": digest_of(directory({}))})
    entry = entry_of(await put(ours, root))
    assert not await their_checker.complete(entry)
    await put(ours, LEAF)
    assert await their_checker.complete(entry)


async def test_w35_a_blob_quarantined_by_one_process_hides_the_entry_in_the_other(
    pair: Pair,
) -> None:
    (ours, _), (theirs, their_checker) = pair
    leaf = await put(ours, LEAF)
    entry = entry_of(await put(ours, directory({"leaf": leaf})))
    assert await their_checker.complete(entry)
    _damage(ours, leaf)
    with pytest.raises((BlobDamaged, BlobNotFound)):
        await read(ours, leaf)
    assert not await their_checker.complete(entry)
    await put(theirs, LEAF)
    assert await their_checker.complete(entry)


async def test_a_structure_larger_than_a_small_blob_is_read_from_its_file(pair: Pair) -> None:
    (ours, checker), _ = pair
    leaf = await put(ours, LEAF)
    data = tree(directory({f"{n}-{'x' * 1000}": leaf for n in range(SMALL_BLOB_BYTES // 1000)}))
    assert len(data) > SMALL_BLOB_BYTES

    async def chunks() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        yield data[len(data) // 2 :]

    await ours.write(digest_of(data), chunks())
    result = reapi.ActionResult()
    result.output_directories.add(path="d", tree_digest=message_of(digest_of(data)))
    entry = entry_of(leaf)._replace(value=result.SerializeToString())
    assert await checker.complete(entry)
