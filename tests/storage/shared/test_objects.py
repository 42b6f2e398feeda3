"""The bucket as the shared engine uses it, on a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import obstore
import pytest

from federation.core.errors import SourceUnavailable
from federation.storage.shared.objects import MARKER, BucketLimits, ObjectBucket
from tests.storage.shared.buckets import KEY, client, client_of, settings
from tests.support.bucket_proxy import proxied
from tests.support.object_store import BUCKET, ObjectStoreServer, running

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    with running(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def prefix(server: ObjectStoreServer) -> str:
    return server.new_prefix()


@pytest.fixture
async def bucket(server: ObjectStoreServer, prefix: str) -> ObjectBucket:
    made = client(server, prefix)
    await made.put(MARKER, b"{}")
    return made


async def test_an_object_comes_back_as_it_was_put(bucket: ObjectBucket) -> None:
    await bucket.put("ab/x", b"x" * 1_000_000)
    assert await bucket.get("ab/x", 1_000_000) == memoryview(b"x" * 1_000_000)


async def test_an_absent_object_is_absent(bucket: ObjectBucket) -> None:
    assert await bucket.get("ab/none", 10) is None


async def test_no_object_is_absent_where_the_marker_of_the_site_is_absent_too(
    server: ObjectStoreServer, prefix: str
) -> None:
    with pytest.raises(SourceUnavailable, match=r"site\.json is gone"):
        await client(server, prefix).get("ab/x", 1)


async def test_an_absent_bucket_is_not_an_absent_object(server: ObjectStoreServer) -> None:
    with pytest.raises(SourceUnavailable):
        await client(server, "", "no-such-bucket").get("ab/x", 1)


async def test_of_an_object_with_another_size_nothing_is_read(bucket: ObjectBucket) -> None:
    await bucket.put("ab/x", b"x" * 1000)
    assert await bucket.get("ab/x", 999) == memoryview(b"")


async def test_deleted_objects_are_gone_and_absent_ones_no_error(bucket: ObjectBucket) -> None:
    await bucket.put("ab/x", b"x")
    await bucket.delete(["ab/x", "ab/none"])
    assert await bucket.get("ab/x", 1) is None


async def test_a_folder_is_listed_whole_and_no_other(bucket: ObjectBucket) -> None:
    for name in ("ab/x", "ab/y", "ac/z"):
        await bucket.put(name, name.encode())
    listed = [each async for page in bucket.list("ab") for each in page]
    assert [(each.name, each.size_bytes) for each in listed] == [("ab/x", 4), ("ab/y", 4)]
    assert listed[0].modified_s > 1_700_000_000


async def test_while_the_bucket_is_away_requests_fail_at_once_and_later_work_again(
    server: ObjectStoreServer, bucket: ObjectBucket, prefix: str
) -> None:
    await bucket.put("ab/x", b"x")
    server.kill()
    try:
        while bucket.breaker.allows():
            with pytest.raises(SourceUnavailable):
                await bucket.get("ab/x", 1)
        with pytest.raises(SourceUnavailable, match="bucket unavailable"):
            await bucket.put("ab/y", b"y")
    finally:
        await asyncio.to_thread(server.start)
    async with asyncio.timeout(60):
        while not bucket.breaker.allows():
            try:
                await bucket.get("ab/x", 1)
            except SourceUnavailable:
                await asyncio.sleep(0.05)
    assert await bucket.get("ab/x", 1) == memoryview(b"x")
    assert "ab/y" not in server.objects(prefix)


async def test_d03_a_bucket_that_does_not_answer_is_given_up_in_time_and_then_at_once(
    server: ObjectStoreServer, prefix: str
) -> None:
    limits = BucketLimits(connect_s=1.0, call_s=0.3, part_s=0.3)
    async with proxied(server.endpoint) as proxy:
        config = settings(server, prefix).model_copy(update={"endpoint": proxy.endpoint})
        slow = client_of(config, limits=limits)
        proxy.silence()
        for send in (slow.put("ab/x", b"x"), slow.get_marker(), slow.now_s()):
            with pytest.raises(SourceUnavailable, match="no answer in time"):
                await send
        assert not slow.breaker.allows()
        with pytest.raises(SourceUnavailable):
            await asyncio.gather(*(slow.put("ab/x", b"x") for _ in range(2)))
        held_back = slow._metrics.requests.labels("put", "held_back")
        assert held_back.value >= 1, "at most one of two is sent, as a probe"


async def test_a_refused_key_opens_the_breaker_and_says_so(
    server: ObjectStoreServer, prefix: str
) -> None:
    stranger = client(server, prefix, key=KEY._replace(secret_access_key="wrong-secret"))
    with pytest.raises(SourceUnavailable) as refused:
        await stranger.get("ab/x", 1)
    assert "wrong-secret" not in str(refused.value)
    assert not stranger.breaker.allows()


async def test_an_object_changed_behind_our_back_is_read_as_it_is(
    server: ObjectStoreServer, bucket: ObjectBucket, prefix: str
) -> None:
    """Whoever reads compares hashes; see the tests of reading."""
    await bucket.put("ab/x", b"right")
    obstore.put(server.store(BUCKET, prefix), "ab/x", b"wrong")
    assert await bucket.get("ab/x", 5) == memoryview(b"wrong")
