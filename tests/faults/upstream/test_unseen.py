"""Misbehaviour that nobody wrote down: statuses, moments, bytes and trailers thrown together.

An odd upstream stands before a good one. Whatever the odd one does, no read ends well with other
bytes (P1), the good one's blob is had in the end, and the good one is never blamed. A seed plays
the same again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest
from tests.faults.upstream.site import Site, state, upstream
from tests.remote.fake_server import CHUNK_BYTES, Context, FakeServer
from tests.support.process import Node
from tests.support.process_client import Client
from tests.support.seeds import by_seed, told

CASES = 12  # of one seed
SIZES = (900, 70_000, 300_000, 1_500_000)
# Those that say "come in" wrong open the breaker at once: test_health.py.
CODES = [
    code
    for code in grpc.StatusCode
    if code
    not in {
        grpc.StatusCode.OK,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
]
TRAILERS: list[tuple[tuple[str, str | bytes], ...]] = [
    (),
    (("grpc-status-details-bin", b"\xff\xff no status"),),
    (("grpc-status-details-bin", b""),),
    (("x-long", "y" * 3000),),
]
FAILURES = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class Case(NamedTuple):
    """What the odd one does with a read."""

    share: float  # of the bytes that come
    flips: bool
    end: str  # status, ok, hang, more
    code: grpc.StatusCode
    trailers: tuple[tuple[str, str | bytes], ...]
    step: int

    async def stream(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        sent = self._bytes(data)
        for at in range(0, len(sent), self.step):
            yield sent[at : at + self.step]
        if self.end == "hang":
            await asyncio.Event().wait()
        elif self.end == "more":
            yield b"more than there is"
        elif self.end == "status":
            await context.abort(self.code, "odd", self.trailers)

    async def batch(self, request: bytes, context: Context) -> bytes:
        if self.end == "hang":
            await asyncio.Event().wait()
        if self.end == "status" and self.share < 0.5:
            await context.abort(self.code, "odd", self.trailers)
        message = reapi.BatchReadBlobsRequest.FromString(request)
        answer = reapi.BatchReadBlobsResponse()
        for digest in message.digests:
            item = answer.responses.add(digest=digest)
            if self.end == "status":
                item.status.code = self.code.value[0]
            item.data = self._bytes(bytes(digest.size_bytes))
        whole = answer.SerializeToString()
        return whole[:-3] if self.end == "more" else whole

    def _bytes(self, data: bytes) -> bytes:
        sent = data[: round(len(data) * self.share)]
        return bytes([sent[0] ^ 1]) + sent[1:] if self.flips and sent else sent


def drawn(rng: random.Random) -> Case:
    return Case(
        share=rng.choice([0.0, 0.001, 0.3, 0.99, 1.0, 1.0]),
        flips=rng.random() < 0.4,
        end=rng.choice(["status", "status", "status", "ok", "hang", "more"]),
        code=rng.choice(CODES),
        trailers=rng.choice(TRAILERS),
        step=rng.choice([1000, CHUNK_BYTES, 2**21]),
    )


class Play:
    def __init__(self, site: Site, seed: int, odd: FakeServer, good: FakeServer) -> None:
        self.site, self.odd, self.good = site, odd, good
        self.rng = random.Random(seed)
        self.node: Node = site.node(
            upstream("odd", odd.address, **{"hedge-delay": "10s"}),
            upstream("good", good.address, **{"hedge-delay": "10s"}),
            name=f"node{seed}",
        )
        self.client: Client = site.client(self.node, timeout_s=60)

    def blob(self) -> tuple[Digest, bytes]:
        data = self.rng.randbytes(self.rng.choice(SIZES))
        digest = self.good.holds(data)
        self.odd.blobs[digest] = data
        return digest, data

    async def run(self, case: Case) -> bool:
        """Return whether the odd one was asked."""
        digest, data = self.blob()
        asked = len(self.odd.asked)
        self.odd.streams = case.stream
        self.odd.does = {"BatchReadBlobs": case.batch}
        offsets = [0, self.rng.randrange(len(data))][: self.rng.choice([1, 2])]
        outcomes = await asyncio.gather(*(self.read(digest, data, at) for at in offsets))
        assert set(outcomes) <= {grpc.StatusCode.OK, *FAILURES}, (case, outcomes)
        await self.site.until(lambda: self.is_had(digest, data), f"the good one's blob: {case}")
        was_asked = len(self.odd.asked) > asked
        self.odd.streams, self.odd.does = FakeServer().streams, {}
        await self.site.until(self.answers_again, f"the odd one to be asked again: {case}")
        return was_asked

    async def read(self, digest: Digest, data: bytes, offset: int) -> grpc.StatusCode:
        got = bytearray()

        def read_all() -> grpc.StatusCode:
            try:
                for chunk in self.client.read_chunks(digest, offset=offset):
                    got.extend(chunk)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        ended = await self.site.off(read_all)
        if ended is grpc.StatusCode.OK:
            assert bytes(got) == data[offset:]
        else:
            assert len(got) < len(data) - offset or not got
        return ended

    def is_had(self, digest: Digest, data: bytes) -> bool:
        """Whether a read gives it, as it must."""
        try:
            found = self.client.read(digest)
        except grpc.RpcError:
            return False
        assert found == data
        return True

    def answers_again(self) -> bool:
        """Whether the odd one is asked first again, now that it does as it should."""
        data = self.rng.randbytes(300)
        digest = self.odd.holds(data)
        return self.client.batch_read([digest]) == {digest: data}


@pytest.mark.timeout(600)
@by_seed(3, 60)
async def test_whatever_an_upstream_does_the_good_one_s_blob_is_had(
    site: Site, seeds: range
) -> None:
    asked = 0
    for seed in told(seeds):
        odd, good = await site.fakes(2)
        play = Play(site, seed, odd, good)
        for _ in range(CASES):
            asked += await play.run(drawn(play.rng))
        shown = state(play.node, "good")
        assert shown["wrong-bytes"] == shown["silences"] == 0, shown
        assert "upstream_is_down" not in "".join(
            line for line in play.node.log.splitlines() if "upstream=good" in line
        )
        await site.end()
    assert asked >= 0.8 * CASES * len(seeds)
