"""Upstreams that send other bytes, too few or too many: nobody is given them with an OK."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest
from tests.faults.upstream.site import Site, state, upstream
from tests.remote.blobs import noise, text
from tests.remote.fake_server import (
    Context,
    FakeServer,
    StreamDoes,
    answers,
    empty_messages,
    endless,
    ends_after,
    fails_after,
    flipped_bit,
    goes_on_with,
    good_capabilities,
    hangs_after,
)
from tests.support.process import Node
from tests.support.process_client import message, outcome

SIZE = 3 * 2**20
DATA = noise(SIZE)
SMALL = noise(5000)


async def two(site: Site) -> tuple[FakeServer, FakeServer, Node, Digest]:
    """A bad upstream before a good one; both hold DATA."""
    bad, good = await site.fakes(2)
    good.holds(DATA)
    digest = bad.holds(DATA)
    return (
        bad,
        good,
        site.node(upstream("bad", bad.address), upstream("good", good.address)),
        digest,
    )


def offsets(fake: FakeServer) -> list[int]:
    from federation._proto.google.bytestream import bytestream_pb2 as bs

    return [bs.ReadRequest.FromString(each.request).read_offset for each in fake.calls("Read")]


async def test_u01_wrong_bytes_that_nobody_was_given_are_replaced_by_the_next_upstreams(
    site: Site,
) -> None:
    bad, good, node, digest = await two(site)
    bad.streams = flipped_bit
    assert await site.read(node, digest, offset=SIZE - 1000) == DATA[-1000:]
    assert await site.read(node, digest) == DATA
    assert offsets(bad) == offsets(good) == [0]
    assert state(node, "bad")["wrong-bytes"] == 1
    assert "upstream_sent_wrong_bytes" in node.log


async def test_u01_a_reader_who_was_given_wrong_bytes_hears_data_loss_and_never_ok(
    site: Site,
) -> None:
    bad, good, node, digest = await two(site)
    bad.streams = flipped_bit
    client, got = site.client(node), bytearray()

    def read_all() -> None:
        for chunk in client.read_chunks(digest):
            got.extend(chunk)

    assert await site.off(outcome, read_all) is grpc.StatusCode.DATA_LOSS
    assert len(got) < SIZE
    assert await site.off(client.find_missing, [digest]) == set()  # the good one has it
    assert await site.read(node, digest) == DATA
    assert len(bad.calls("Read")) == len(good.calls("Read")) == 1


async def test_u01_a_small_blob_that_comes_wrong_is_taken_from_the_next(site: Site) -> None:
    bad, good, node, _ = await two(site)
    digest = good.holds(SMALL)
    answer = reapi.BatchReadBlobsResponse()
    answer.responses.add(digest=message(digest), data=bytes([SMALL[0] ^ 1]) + SMALL[1:])
    bad.does["BatchReadBlobs"] = answers(answer.SerializeToString())
    assert await site.off(site.client(node).batch_read, [digest]) == {digest: SMALL}
    wrong = node.metrics().value("federation_remote_wrong_blobs_total", remote="bad")
    assert wrong == 1
    assert len(good.calls("BatchReadBlobs")) == 1


@pytest.mark.parametrize(
    "ends",
    [ends_after(SIZE - 1), ends_after(SIZE // 2), fails_after(SIZE // 2, grpc.StatusCode.INTERNAL)],
    ids=["one-short", "half", "status"],
)
async def test_u02_a_stream_that_ends_early_is_continued_by_the_next(
    site: Site, ends: StreamDoes
) -> None:
    bad, good, node, digest = await two(site)
    bad.streams = ends
    assert await site.read(node, digest) == DATA
    (offset,) = offsets(good)
    assert offset > 0


@pytest.mark.parametrize("at_bytes", [1, 20_000, SIZE // 2])
async def test_u02_a_connection_that_is_reset_is_continued_by_the_next(
    site: Site, at_bytes: int
) -> None:
    bad, good = await site.fakes(2)
    digest = bad.holds(DATA)
    good.holds(DATA)
    proxy = await site.proxy(bad.address)
    proxy.cut_after_bytes = at_bytes
    node = site.node(upstream("bad", proxy.address), upstream("good", good.address))
    assert await site.read(node, digest) == DATA
    assert proxy.cuts == 1
    assert len(good.calls("Read")) == 1


@pytest.mark.parametrize(
    "ends",
    [
        fails_after(SIZE, grpc.StatusCode.INTERNAL),
        fails_after(SIZE, grpc.StatusCode.UNAVAILABLE),
        hangs_after(SIZE),
    ],
    ids=["internal", "unavailable", "no end"],
)
async def test_u02_a_blob_that_came_whole_is_kept_whatever_its_upstream_says_then(
    site: Site, ends: StreamDoes
) -> None:
    odd = await site.fake()
    digest = odd.holds(DATA)
    odd.streams = ends
    node = site.node(upstream("odd", odd.address))
    assert await site.read(node, digest) == DATA
    pusher = site.client(node, 1)  # is told of what is held here only
    await site.until(lambda: not pusher.find_missing([digest]), "the blob to be kept")
    assert len(odd.calls("Read")) == 1


async def test_u01_one_that_lies_and_breaks_off_does_not_keep_a_good_one_from_being_asked(
    site: Site,
) -> None:
    bad, good, node, digest = await two(site)

    async def half_of_another(data: bytes, context: Context) -> AsyncIterator[bytes]:
        yield bytes([data[0] ^ 1]) + data[1 : SIZE // 2]
        await context.abort(grpc.StatusCode.INTERNAL, "told to")

    bad.streams = half_of_another
    client = site.client(node)
    assert await site.off(outcome, lambda: client.read(digest)) is grpc.StatusCode.DATA_LOSS
    assert await site.read(node, digest) == DATA
    assert state(node, "good")["wrong-bytes"] == 0
    assert offsets(good)[-1] == 0


async def test_u02_the_only_upstream_ends_early_and_nobody_gets_a_short_ok(site: Site) -> None:
    async def half_and_no_more(data: bytes, _context: Context) -> AsyncIterator[bytes]:
        if len(data) == SIZE:
            yield data[: SIZE // 2]

    bad = await site.fake()
    digest = bad.holds(DATA)
    bad.streams = half_and_no_more
    node = site.node(upstream("bad", bad.address))
    client = site.client(node)
    assert await site.off(outcome, lambda: client.read(digest)) is grpc.StatusCode.UNAVAILABLE
    assert offsets(bad) == [0, SIZE // 2]
    assert await site.off(site.client(node, 1).find_missing, [digest]) == {digest}


@pytest.mark.parametrize("more", [goes_on_with(b"x"), endless], ids=["one-more", "endless"])
async def test_u03_more_bytes_than_the_blob_has_are_cut_off_and_never_kept(
    site: Site, more: StreamDoes
) -> None:
    bad, _, node, digest = await two(site)
    bad.streams = more
    assert await site.read(node, digest) == DATA
    assert len(bad.calls("Read")) == 1
    assert node.rss_bytes() < 400 * 2**20


async def test_u19_broken_zstd_is_replaced_by_plain_bytes(site: Site) -> None:
    bad = await site.fake()
    bad.capabilities = good_capabilities(zstd=True)
    bad.packs = lambda data: b"this is no zstd" + data[:100]
    large, small = text(SIZE), text(5000)
    digests = bad.holds(large), bad.holds(small)
    node = site.node(upstream("bad", bad.address))
    assert await site.read(node, digests[0]) == large
    assert await site.off(site.client(node).batch_read, digests[1:]) == {digests[1]: small}


async def test_u19_zstd_of_other_bytes_is_not_served(site: Site) -> None:
    bad, good = await site.fakes(2)
    bad.capabilities = good_capabilities(zstd=True)
    honest = bad.packs
    bad.packs = lambda data: honest(bytes(len(data)))
    digest = bad.holds(text(SIZE))
    good.holds(text(SIZE))
    node = site.node(upstream("bad", bad.address), upstream("good", good.address))
    assert await site.read(node, digest, offset=SIZE - 100) == text(SIZE)[-100:]
    assert await site.read(node, digest) == text(SIZE)


async def one_huge_message(data: bytes, _context: Context) -> AsyncIterator[bytes]:
    yield data + bytes(17 * 2**20)  # above what the node receives


@pytest.mark.parametrize("sends", [empty_messages, one_huge_message], ids=["empty", "huge"])
async def test_u24_messages_that_are_no_progress_or_too_large_are_left_for_the_next(
    site: Site, sends: StreamDoes
) -> None:
    bad, good, node, digest = await two(site)
    bad.streams = sends
    assert await site.read(node, digest) == DATA
    assert len(good.calls("Read")) == 1
    assert node.rss_bytes() < 400 * 2**20
