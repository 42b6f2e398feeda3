"""The storage on Ceph's radosgw with dbstore, which gives other bytes for parts of objects."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.objects import MARKER
from federation.storage.shared.storage import SharedStorage
from tests.storage.shared.buckets import client
from tests.storage.shared.test_large_blobs import kept, pieces, read
from tests.support.object_store import BUCKET
from tests.support.postgres import Postgres
from tests.support.radosgw import RadosGateway, rados_gateway
from tests.support.sites import SiteServers, TestSite

pytestmark = [pytest.mark.servers, pytest.mark.heavy]
SIZE = 2 * PART_BYTES + 1000  # three parts


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGateway]:
    with rados_gateway(tmp_path_factory.mktemp("rgw")) as started:
        yield started


@pytest.fixture
def site(postgres_server: Postgres, gateway: RadosGateway, tmp_path: Path) -> TestSite:
    return SiteServers(postgres_server, gateway, tmp_path).new_site()


def test_control_a_part_of_an_object_is_other_bytes(gateway: RadosGateway) -> None:
    """Else these tests show nothing: then say so in docs/decisions.md, and use it for more."""
    data = os.urandom(PART_BYTES)
    obstore.put(gateway.store(BUCKET), "ranges", data, use_multipart=False)
    assert obstore.get(gateway.store(BUCKET), "ranges").bytes() == data
    asked = obstore.get_range(gateway.store(BUCKET), "ranges", start=1000, end=2000)
    assert bytes(asked) != data[1000:2000]


async def test_each_part_of_a_blob_is_read_right(nodes: list[SharedStorage]) -> None:
    one, other = nodes
    data = os.urandom(SIZE)
    digest = digest_of(data)
    assert await one.write(digest, pieces(data))
    for offset, limit in ((SIZE - 10, 10), (PART_BYTES - 5, 10), (PART_BYTES, 1), (7, SIZE - 7)):
        assert await read(other, digest, offset=offset, limit=limit) == data[offset:][:limit]
    assert await read(other, digest) == data
    await kept(one, digest)
    assert await read(one, digest, offset=3) == data[3:]


async def test_many_readers_and_writers_at_once(nodes: list[SharedStorage]) -> None:
    one, other = nodes
    blobs = [os.urandom(size) for size in (100, 100_000, PART_BYTES, SIZE)]
    assert await asyncio.gather(*(one.write(digest_of(data), pieces(data)) for data in blobs))
    found = await asyncio.gather(*(read(other, digest_of(data)) for data in blobs * 3))
    assert found == blobs * 3
    assert await other.find_missing([digest_of(data) for data in blobs]) == set()


async def test_objects_are_listed_found_absent_and_deleted(
    gateway: RadosGateway, site: TestSite, nodes: list[SharedStorage]
) -> None:
    data = os.urandom(SIZE)
    digest = digest_of(data)
    assert await nodes[0].write(digest, pieces(data))
    assert sorted(site.objects().values()) == [1000, PART_BYTES, PART_BYTES]
    bucket = client(gateway, site.prefix)
    folder = digest.hash_hex[:2]
    listed = [each.name async for page in bucket.list(folder) for each in page]
    assert len(listed) == 3
    await bucket.delete([*listed, f"{folder}/none"])
    assert site.objects() == {}
    assert await bucket.get(listed[0], PART_BYTES) is None
    await bucket.delete([MARKER])
    with pytest.raises(SourceUnavailable, match="is gone"):
        await bucket.get(listed[0], PART_BYTES)


async def test_a_killed_gateway_has_what_it_acknowledged(
    gateway: RadosGateway, site: TestSite, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    digest = digest_of(data)
    async with site.node(tmp_path / "a") as node:
        assert await node.write(digest, pieces(data))
    gateway.kill()
    await asyncio.to_thread(gateway.start)
    async with site.node(tmp_path / "b") as node:
        assert await read(node, digest) == data
