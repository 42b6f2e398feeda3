"""Many small blobs: in calls that the remote takes, each with its own outcome."""

from __future__ import annotations

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.errors import DigestMismatch
from federation.remote.failures import Denied, FailureKind, RemoteFailed, RequestRefused
from federation.wire import zstd
from tests.remote import fake_server
from tests.remote.blobs import noise, text
from tests.remote.fake_server import FakeServer, good_capabilities
from tests.remote.served import Here
from tests.support.messages import message_of

Blobs = list[tuple[Digest, bytes]]


def blobs_of(count: int, size: int) -> Blobs:
    made = [noise(size, seed) for seed in range(count)]
    return [(digest_of(data), data) for data in made]


def asked_for(fake: FakeServer) -> list[int]:
    """Return for each BatchReadBlobs how many blobs it asked for."""
    requests = [reapi.BatchReadBlobsRequest.FromString(r.request) for r in fake.calls(READ)]
    return [len(request.digests) for request in requests]


READ, UPDATE = "BatchReadBlobs", "BatchUpdateBlobs"


async def test_blobs_come_in_order_in_one_call(fake: FakeServer, here: Here) -> None:
    digests = [fake.holds(noise(n, n)) for n in (1, 1000, 50_000)]
    absent = digest_of(b"absent")
    wanted = [digests[1], absent, EMPTY, digests[0], digests[1], digests[2]]
    got = await here.store.read_small(wanted)
    assert got == [None if d == absent else fake.blobs.get(d, b"") for d in wanted]
    assert asked_for(fake) == [4]
    assert not fake.calls("Read")


async def test_groups_stay_within_what_the_remote_says(fake: FakeServer, here: Here) -> None:
    fake.capabilities = good_capabilities(batch_bytes=100_000)
    blobs = [(fake.holds(data), data) for _, data in blobs_of(10, 30_000)]
    large = noise(99_900, 99)
    digests = [digest for digest, _ in blobs] + [fake.holds(large)]
    assert await here.store.read_small(digests) == [data for _, data in blobs] + [large]
    assert asked_for(fake) == [3, 3, 3, 1]
    assert len(fake.calls("Read")) == 1
    fake.blobs.clear()
    outcome = await here.store.write_small([*blobs, (digests[-1], large)])
    assert outcome == [None] * 11
    assert len(fake.blobs) == 11
    assert [len(fake.calls(UPDATE)), len(fake.calls("Write"))] == [4, 1]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT])
async def test_a_remote_without_batches_is_asked_one_by_one(
    fake: FakeServer, here: Here, code: grpc.StatusCode
) -> None:
    fake.does[READ] = fake.does[UPDATE] = fake_server.fails(code)
    blobs = blobs_of(3, 500)
    absent = digest_of(b"absent")
    for _ in range(2):
        assert await here.store.write_small(blobs) == [None] * 3
        read = await here.store.read_small([*(digest for digest, _ in blobs), absent])
        assert read == [*(data for _, data in blobs), None]
    assert len(fake.calls(READ)) == len(fake.calls(UPDATE)) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, FailureKind.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, FailureKind.EXHAUSTED),
        (grpc.StatusCode.PERMISSION_DENIED, FailureKind.DENIED),
    ],
)
async def test_silence_of_a_batch_is_no_absence(
    fake: FakeServer, here: Here, code: grpc.StatusCode, kind: FailureKind
) -> None:
    fake.does[READ] = fake.does[UPDATE] = fake_server.fails(code)
    blobs = blobs_of(2, 500)
    with pytest.raises(RemoteFailed) as caught:
        await here.store.read_small([digest for digest, _ in blobs])
    assert caught.value.kind is kind
    for error in await here.store.write_small(blobs):
        assert isinstance(error, RemoteFailed)
        assert error.kind is kind


async def test_every_blob_of_an_update_has_its_own_outcome(fake: FakeServer, here: Here) -> None:
    codes = [
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.PERMISSION_DENIED,
    ]
    blobs = blobs_of(5, 500)
    answer = reapi.BatchUpdateBlobsResponse()
    for (digest, _), code in zip(blobs, codes, strict=False):
        item = answer.responses.add(digest=message_of(digest))
        item.status.code = code.value[0]
    answer.responses.add(digest=message_of(digest_of(b"not asked about")))
    fake.does[UPDATE] = fake_server.answers(answer.SerializeToString())
    outcome = await here.store.write_small(blobs)
    assert outcome[0] is None
    assert type(outcome[1]) is RequestRefused
    assert type(outcome[3]) is Denied
    kinds = [error.kind for error in outcome if isinstance(error, RemoteFailed)]
    assert kinds[1:] == [FailureKind.EXHAUSTED, FailureKind.DENIED, FailureKind.MALFORMED]


async def test_wrong_blobs_are_not_sent_and_the_others_are(fake: FakeServer, here: Here) -> None:
    good = noise(100_000)
    wrong, short = digest_of(noise(50, 8)), digest_of(noise(60, 9))
    blobs = [(wrong, noise(50, 7)), (digest_of(good), good), (short, noise(60, 9)[:-1])]
    outcome = await here.store.write_small([*blobs, (EMPTY, b""), (EMPTY, b"x")])
    assert [type(each) for each in outcome] == [
        DigestMismatch,
        type(None),
        DigestMismatch,
        type(None),
        DigestMismatch,
    ]
    assert list(fake.blobs) == [digest_of(good)]


def with_items(*items: tuple[Digest, bytes, int]) -> fake_server.UnaryDoes:
    """Answer a BatchReadBlobs with these blobs and statuses."""
    answer = reapi.BatchReadBlobsResponse()
    for digest, data, code in items:
        item = answer.responses.add(digest=message_of(digest), data=data)
        item.status.code = code
    return fake_server.answers(answer.SerializeToString())


async def test_u01_wrong_bytes_in_a_batch_are_none_and_counted(
    fake: FakeServer, here: Here
) -> None:
    (one, good), (two, _), (three, _) = blobs_of(3, 1000)
    fake.does[READ] = with_items((one, good, 0), (two, good, 0), (three, good[:-1], 0))
    assert await here.store.read_small([one, two, three]) == [good, None, None]
    assert here.counted("federation_remote_wrong_blobs_total") == 2
    assert not fake.calls("Read")


async def test_what_a_batch_leaves_open_is_asked_for_by_itself(
    fake: FakeServer, here: Here
) -> None:
    blobs = blobs_of(4, 1000)
    (one, _), (two, _), (three, data), (four, _) = blobs
    fake.holds(data)
    unavailable = grpc.StatusCode.UNAVAILABLE.value[0]
    not_found = grpc.StatusCode.NOT_FOUND.value[0]
    fake.does[READ] = with_items((one, b"", not_found), (two, b"", unavailable), (four, b"x", 5))
    assert await here.store.read_small([one, two, three, four]) == [None, None, data, None]
    assert len(fake.calls("Read")) == 2  # two and three


@pytest.mark.parametrize("response", [b"\xff", b"\x0a\x05\x0a\x03abc", b"\x0a\x02\x12\xff"])
async def test_an_answer_that_is_no_message_leaves_all_open(
    fake: FakeServer, here: Here, response: bytes
) -> None:
    data = noise(1000)
    digest = fake.holds(data)
    fake.does[READ] = fake_server.answers(response)
    assert await here.store.read_small([digest]) == [data]
    fake.does[UPDATE] = fake_server.answers(response)
    (error,) = await here.store.write_small([(digest, data)])
    assert isinstance(error, RemoteFailed)
    assert error.kind is FailureKind.MALFORMED


async def test_zstd_is_used_in_batches_where_both_can(fake: FakeServer, here: Here) -> None:
    fake.capabilities = good_capabilities(zstd=True)
    blobs = [(digest_of(data), data) for data in (text(5000), noise(5000), b"tiny")]
    assert await here.store.write_small(blobs) == [None] * 3
    sent = reapi.BatchUpdateBlobsRequest.FromString(fake.calls(UPDATE)[0].request).requests
    assert [item.compressor for item in sent] == [reapi.Compressor.ZSTD, 0, 0]
    assert await here.store.read_small([digest for digest, _ in blobs]) == [d for _, d in blobs]
    assert not fake.calls("Read")


@pytest.mark.parametrize("packs", [lambda data: data, lambda data: zstd.encode(data[:-1])])
async def test_u19_broken_zstd_in_a_batch_is_asked_for_as_plain_bytes(
    fake: FakeServer, here: Here, packs: object
) -> None:
    fake.capabilities = good_capabilities(zstd=True)
    fake.packs = packs  # type: ignore[assignment]
    data = text(5000)
    digest = fake.holds(data)
    assert await here.store.read_small([digest]) == [data]
    assert await here.store.read_small([digest]) == [data]
    assert here.counted("federation_remote_wrong_blobs_total") == 0
    accepted = [
        len(reapi.BatchReadBlobsRequest.FromString(r.request).acceptable_compressors)
        for r in fake.calls(READ)
    ]
    assert accepted == [1, 0]


async def test_u19_zstd_refused_in_an_update_is_sent_as_plain_bytes(
    fake: FakeServer, here: Here
) -> None:
    fake.capabilities = good_capabilities(zstd=True)
    data = text(5000)
    digest = digest_of(data)
    answer = reapi.BatchUpdateBlobsResponse()
    answer.responses.add(digest=message_of(digest)).status.code = 3
    fake.does[UPDATE] = fake_server.answers(answer.SerializeToString())
    assert await here.store.write_small([(digest, data)]) == [None]
    assert fake.blobs == {digest: data}


# -- FindMissingBlobs


async def test_missing_is_what_the_remote_says_is_missing(fake: FakeServer, here: Here) -> None:
    held = [fake.holds(noise(10, n)) for n in range(5)]
    absent = [digest_of(noise(10, n)) for n in range(5, 10)]
    assert await here.store.find_missing([*held, *absent, EMPTY]) == set(absent)
    assert len(fake.calls("FindMissingBlobs")) == 1


async def test_many_digests_are_asked_in_several_calls(fake: FakeServer, here: Here) -> None:
    digests = [digest_of(n.to_bytes(4, "big")) for n in range(25_000)]
    assert await here.store.find_missing(digests) == set(digests)
    calls = fake.calls("FindMissingBlobs")
    assert len(calls) == 3
    assert max(len(call.request) for call in calls) < 3.5 * 2**20


async def test_functions_are_asked_about_each_by_themselves(fake: FakeServer, here: Here) -> None:
    data = noise(100)
    one = fake.holds(data, DigestFunction.BLAKE3)
    two = digest_of(data)
    assert await here.store.find_missing([one, two]) == {two}
    assert len(fake.calls("FindMissingBlobs")) == 2


async def test_a_function_the_remote_does_not_have_is_missing_unasked(
    fake: FakeServer, here: Here
) -> None:
    fake.capabilities = reapi.ServerCapabilities(
        cache_capabilities=reapi.CacheCapabilities(digest_functions=["SHA256", "MD5"])
    )
    data = noise(100)
    digest = digest_of(data, DigestFunction.BLAKE3)
    assert await here.store.find_missing([digest]) == {digest}
    assert await here.store.read_small([digest]) == [None]
    assert not fake.calls("FindMissingBlobs")
    assert not fake.calls(READ)


@pytest.mark.parametrize("named", [digest_of(b"other"), digest_of(b"asked")._replace(size_bytes=4)])
async def test_an_answer_about_something_else_says_nothing(
    fake: FakeServer, here: Here, named: Digest
) -> None:
    answer = reapi.FindMissingBlobsResponse(missing_blob_digests=[message_of(named)])
    fake.does["FindMissingBlobs"] = fake_server.answers(answer.SerializeToString())
    with pytest.raises(RemoteFailed) as caught:
        await here.store.find_missing([digest_of(b"asked")])
    assert caught.value.kind is FailureKind.MALFORMED


async def test_not_found_for_find_missing_is_no_absence(fake: FakeServer, here: Here) -> None:
    fake.does["FindMissingBlobs"] = fake_server.fails(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(RemoteFailed):
        await here.store.find_missing([digest_of(b"asked")])
