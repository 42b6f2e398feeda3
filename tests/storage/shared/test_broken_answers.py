"""A bucket whose connections break in the middle of objects, and whose ranges are wrong."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from federation.config.storage import ObjectsConfig
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.errors import SourceUnavailable
from federation.observability.metrics import Metrics
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.credentials import BucketKey
from federation.storage.shared.objects import ObjectBucket
from federation.storage.shared.part_hashes import hash_part
from federation.storage.shared.parts import PartDamaged, fetch_part

DATA = b"right" * 20_000
DIGEST = digest_of(DATA)
AT = BlobAt(len(DATA), 1, b"attempt1", hash_part(DATA), None)
HEADERS = {"etag": '"x"', "last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


class BrokenServer:
    """Breaks the first connections in the middle; a range of an object has other bytes."""

    def __init__(self, breaks: int, data: bytes = DATA) -> None:
        self.breaks = breaks
        self.data = data
        self.ranges = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if asked := re.fullmatch(r"bytes=([0-9]+)-[0-9]+", request.headers.get("range", "")):
            self.ranges += 1
            rest = b"w" * (len(self.data) - int(asked[1]))
            told = f"bytes {asked[1]}-{len(self.data) - 1}/{len(self.data)}"
            return web.Response(status=206, body=rest, headers={**HEADERS, "content-range": told})
        if not self.breaks:
            return web.Response(body=self.data, headers=HEADERS)
        self.breaks -= 1
        response = web.StreamResponse(headers={**HEADERS, "content-length": str(len(self.data))})
        await response.prepare(request)
        await response.write(self.data[: len(self.data) // 2])
        assert request.transport is not None
        request.transport.close()
        return response


@asynccontextmanager
async def bucket(server: BrokenServer) -> AsyncIterator[ObjectBucket]:
    app = web.Application()
    app.router.add_get("/{name:.*}", server.answer)
    async with TestServer(app) as running:
        config = ObjectsConfig(bucket="site", endpoint=f"http://127.0.0.1:{running.port}")
        key = BucketKey("test", "test-secret")
        yield ObjectBucket(config, key, SystemClock(), Metrics().bucket, random.Random(1))


async def test_a_wrong_rest_of_a_broken_answer_is_found_and_the_part_asked_for_again() -> None:
    server = BrokenServer(breaks=1)
    async with bucket(server) as asked:
        assert bytes(await fetch_part(asked, DIGEST, AT, 0)) == DATA
    assert server.ranges == 1, "obstore asks for a range: the control"


async def test_a_part_is_not_damaged_because_each_answer_breaks() -> None:
    server = BrokenServer(breaks=100)
    async with bucket(server) as asked:
        with pytest.raises(SourceUnavailable):
            await fetch_part(asked, DIGEST, AT, 0)
    assert server.ranges == 1


async def test_a_part_whose_object_has_other_bytes_is_damaged() -> None:
    async with bucket(BrokenServer(breaks=0, data=DATA[:-1] + b"x")) as asked:
        with pytest.raises(PartDamaged):
            await fetch_part(asked, DIGEST, AT, 0)
