"""The same objects put and got with obstore alone, as many at once as a node does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import count

import obstore

from benchmarks.base import CallRow
from benchmarks.link import expect
from benchmarks.payloads import large_blob
from benchmarks.site.servers import ObstoreAlone
from federation.storage.shared.naming import PART_BYTES

_AT_ONCE = 4


class _Alone(CallRow):
    """Blobs of one size, cut into parts as a node does it."""

    server: ObstoreAlone

    def __init__(self, server: ObstoreAlone, size_bytes: int) -> None:
        super().__init__(server)
        blob = memoryview(large_blob(size_bytes))
        cuts = range(0, size_bytes, PART_BYTES)
        self._parts = [bytes(blob[at : at + PART_BYTES]) for at in cuts]
        self._numbers = count()

    def prepare(self) -> None:
        """See Row."""
        self.server.start()
        self._runner = asyncio.Runner()
        self.set_up()

    def set_up(self) -> None:
        """See CallRow."""
        self._get(self._store())

    def close(self) -> None:
        """See Row."""
        if hasattr(self, "_runner"):
            self._runner.close()
        self.server.stop()

    def _names(self) -> list[str]:
        number = next(self._numbers)
        return [f"{number:05}-{part:05}" for part in range(len(self._parts))]

    def _store(self) -> list[str]:
        names = self._names()
        self._put(names)
        return names

    def _put(self, names: Sequence[str]) -> None:
        async def put(at: int) -> None:
            data = self._parts[at]
            await obstore.put_async(self.server.store, names[at], data, use_multipart=False)

        self._runner.run(self._each(put))

    def _get(self, names: Sequence[str]) -> None:
        async def get(at: int) -> None:
            answer = await obstore.get_async(self.server.store, names[at])
            came_bytes = len(await answer.bytes_async())
            expect(came_bytes == len(self._parts[at]), f"only {came_bytes} bytes came")

        self._runner.run(self._each(get))

    async def _each(self, work: Callable[[int], Awaitable[None]]) -> None:
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(at: int) -> None:
            async with places:
                await work(at)

        await asyncio.gather(*map(one, range(len(self._parts))))


class PutAlone(_Alone):
    """Puts new objects."""

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            yield partial(self._put, self._names())


class GetAlone(_Alone):
    """Gets objects that were just put."""

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        while True:
            names = self._store()
            os.sync()  # as before a node's read
            yield partial(self._get, names)
