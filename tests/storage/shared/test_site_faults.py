"""A shared site whose bucket or database is away or refuses: no answer is ever a wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import obstore
import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import (
    BlobDamaged,
    FederationError,
    SourceUnavailable,
    StorageRefused,
)
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.part_hashes import hash_part
from federation.storage.shared.storage import SharedStorage
from federation.storage.shared.suspect_blobs import SuspectBlobs
from tests.storage.conftest import until
from tests.storage.shared.test_large_blobs import fresh, kept, pieces, read
from tests.support.bucket_proxy import BucketProxy, proxied
from tests.support.object_store import BUCKET
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
KIB = 1024


class Faulty(NamedTuple):
    node: SharedStorage
    bucket: BucketProxy


def objects_by(site: TestSite, proxy: BucketProxy) -> dict[str, Any]:
    return {**site.keys()["objects"], "endpoint": proxy.endpoint}


@pytest.fixture
async def faulty(site: TestSite, tmp_path: Path) -> AsyncIterator[Faulty]:
    async with (
        proxied(site.servers.bucket.endpoint) as proxy,
        site.node(tmp_path / "data", objects=objects_by(site, proxy)) as node,
    ):
        yield Faulty(node, proxy)


async def test_d03_without_the_bucket_small_blobs_go_on_and_large_ones_are_unavailable(
    site: TestSite, tmp_path: Path, faulty: Faulty
) -> None:
    node = faulty.node
    elsewhere, elsewhere_data = fresh(100 * KIB)
    async with site.node(tmp_path / "other") as other:
        await other.write(elsewhere, pieces(elsewhere_data))
    here, here_data = fresh(100 * KIB)
    await node.write(here, pieces(here_data))
    await kept(node, here)
    faulty.bucket.cut()
    small, small_data = fresh(100)
    new, new_data = fresh(100 * KIB)
    assert await node.write_small([(small, small_data)]) == [None]
    assert await node.find_missing([elsewhere, here, small, new]) == {new}
    assert await read(node, here) == here_data, "the cache has it"
    assert await read(node, small) == small_data
    with pytest.raises(SourceUnavailable):
        await read(node, elsewhere)
    with pytest.raises(SourceUnavailable):
        await node.write(new, pieces(new_data))
    while node.core.bucket.breaker.allows():
        with pytest.raises(SourceUnavailable):
            await read(node, elsewhere)
    serving, reason = node.health()
    assert serving, "it serves what it can"
    assert reason.startswith("the bucket is away: GenericError: HTTP error")
    assert elsewhere.hash_hex not in reason, "else the reason would change with each request"
    assert await node.find_missing([elsewhere, new]) == {new}, "nothing was taken for lost"
    faulty.bucket.restore()

    async def works_again() -> bool:
        try:
            return await node.write(new, pieces(new_data))
        except SourceUnavailable:
            return False

    await until(works_again)
    assert await read(node, elsewhere) == elsewhere_data


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (409, "OperationAborted"),
        (412, "PreconditionFailed"),
        (500, "InternalError"),
        (503, "SlowDown"),
        (507, "InsufficientStorage"),
    ],
)
async def test_d04_a_bucket_that_refuses_makes_uploads_fail_and_no_blob_missing(
    site: TestSite, tmp_path: Path, faulty: Faulty, status: int, code: str
) -> None:
    node = faulty.node
    elsewhere, data = fresh(100 * KIB)
    async with site.node(tmp_path / "other") as other:
        await other.write(elsewhere, pieces(data))
    faulty.bucket.answer(status, code)
    new, new_data = fresh(100 * KIB)
    with pytest.raises(SourceUnavailable) as told:
        await node.write(new, pieces(new_data))
    assert str(status) in str(told.value)
    assert faulty.bucket.endpoint not in str(told.value), "clients need not know where it is"
    (refused,) = await node.write_small([(new, new_data)])
    assert isinstance(refused, SourceUnavailable)
    with pytest.raises(SourceUnavailable):
        await read(node, elsewhere)
    assert await node.find_missing([elsewhere, new]) == {new}


async def test_d03_a_node_starts_without_the_bucket_and_uses_it_once_it_is_there(
    site: TestSite, tmp_path: Path
) -> None:
    small, small_data = fresh(100)
    large, large_data = fresh(100 * KIB)
    async with site.node(tmp_path / "before") as node:
        assert await node.write_small([(small, small_data)]) == [None]
    async with proxied(site.servers.bucket.endpoint) as proxy:
        proxy.cut()
        async with site.node(tmp_path / "data", objects=objects_by(site, proxy)) as node:
            assert await node.find_missing([small, large]) == {large}
            with pytest.raises(SourceUnavailable):
                await node.write(large, pieces(large_data))
            proxy.restore()

            async def is_written() -> bool:
                try:
                    return await node.write(large, pieces(large_data))
                except SourceUnavailable:
                    return False

            await until(is_written)


async def test_d03_a_new_site_needs_its_bucket_at_its_first_start(
    site: TestSite, tmp_path: Path
) -> None:
    async with proxied(site.servers.bucket.endpoint) as proxy:
        proxy.cut()
        with pytest.raises(StorageRefused, match="a new site needs its bucket"):
            async with site.node(tmp_path / "data", objects=objects_by(site, proxy)):
                pytest.fail("it opened")


async def test_d02_without_the_database_the_cache_is_read_and_nothing_is_said_to_be_missing(
    site: TestSite, faulty: Faulty
) -> None:
    node = faulty.node
    here, here_data = fresh(100 * KIB)
    small, small_data = fresh(100)
    await node.write(here, pieces(here_data))
    await node.write_small([(small, small_data)])
    await kept(node, here)
    assert await node.read_small([small]) == [small_data]
    await kept(node, small)
    database = site.servers.database
    await asyncio.to_thread(database.kill)
    try:
        await _says_nothing_wrong(node, [here, small], [here_data, small_data])
    finally:
        await asyncio.to_thread(database.start)

    async def works_again() -> bool:
        try:
            return await node.find_missing([here, small]) == set()
        except SourceUnavailable:
            return False

    await until(works_again)
    assert node.health()[0]


async def _says_nothing_wrong(node: SharedStorage, held: list[Digest], data: list[bytes]) -> None:
    absent, absent_data = fresh(100)
    assert await node.read_small(held) == data
    assert [await read(node, digest) for digest in held] == data
    with pytest.raises(SourceUnavailable):
        await node.find_missing(held)
    with pytest.raises(SourceUnavailable):
        await read(node, absent)
    (refused,) = await node.write_small([(absent, absent_data)])
    assert isinstance(refused, FederationError)
    large, large_data = fresh(100 * KIB)
    with pytest.raises(FederationError):
        await node.write(large, pieces(large_data))
    assert not node.health()[0]


async def test_a_node_ends_in_time_though_the_bucket_is_silent_while_it_is_read(
    site: TestSite, tmp_path: Path
) -> None:
    digest, data = fresh(100 * KIB)
    async with site.node(tmp_path / "other") as other:
        await other.write(digest, pieces(data))
    async with (
        proxied(site.servers.bucket.endpoint) as proxy,
        site.node(tmp_path / "data", objects=objects_by(site, proxy)) as node,
    ):
        proxy.silence()
        reading = asyncio.ensure_future(read(node, digest))

        async def is_under_way() -> bool:
            return repr(node._fills).startswith("<Fills 1 ")

        await until(is_under_way)
        # Leaving the block closes the node, though the bucket may take a minute.
    with pytest.raises(SourceUnavailable, match="given up"):
        await reading


async def test_d05_a_suspected_bucket_is_trusted_again_once_the_suspects_are_right(
    site: TestSite, tmp_path: Path
) -> None:
    digest, data = fresh(100 * KIB)
    async with site.node(tmp_path / "one") as one, site.node(tmp_path / "other") as other:
        await one.write(digest, pieces(data))
        damage, suspects = other.core.damage, SuspectBlobs(other.core)
        for number in range(100):
            now_s = other.core.clock.monotonic_s()
            damage.admit(now_s, digest_of(b"%d" % number), 0, 0, is_proven=True)
        bucket = site.servers.bucket.store(BUCKET, site.prefix)
        (name,) = site.objects()
        obstore.put(bucket, name, b"y" * len(data))
        with pytest.raises(SourceUnavailable, match="Check the bucket"):
            await read(other, digest)
        assert not await suspects.judge()
        assert "Check the bucket" in other.health()[1]
        obstore.put(bucket, name, data)
        assert await suspects.judge()
        assert other.health() == (True, "")
        assert await read(other, digest) == data


async def test_d05_a_blob_of_other_bytes_whose_parts_seem_right_is_never_read_to_its_end(
    site: TestSite, tmp_path: Path
) -> None:
    """In a row of an earlier version: the hashes are of what the node read back from its spool."""
    digest, data = fresh(PART_BYTES + KIB)
    async with site.node(tmp_path / "one") as one:
        await one.write(digest, pieces(data))
    (name,) = (each for each in site.objects() if each.endswith("-00000"))
    changed = bytes([data[0] ^ 1]) + data[1:PART_BYTES]
    obstore.put(site.servers.bucket.store(BUCKET, site.prefix), name, changed)
    hashed = f"'\\x{hash_part(changed).hex()}'::bytea"
    site.sql(f"UPDATE blob SET parts = {hashed} || substr(parts, 33, 32)")
    async with site.node(tmp_path / "other", cache=4 * 2**20) as past_its_cache:
        async with past_its_cache.open_read(digest) as chunks:
            begun = aiter(chunks)
            received = b""
            while len(received) < PART_BYTES:
                received += await anext(begun)
            with pytest.raises(BlobDamaged):
                await anext(begun)
        assert received == changed
        assert await past_its_cache.find_missing([digest]) == {digest}
