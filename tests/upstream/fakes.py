"""Upstream stores that misbehave by script: what a remote client would report, without a wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

from federation.core.clock import Clock, SystemClock
from federation.core.digest import Digest
from federation.core.errors import SourceUnavailable
from federation.core.store import Chunks, NextBytes
from federation.observability.metrics import Metrics
from federation.upstream.answers import Answers
from federation.upstream.upstream import Upstream
from tests.support.fakes import MemoryStore

_LONG_S = 600.0  # longer than a busy machine, or one that was suspended, keeps a test waiting


@dataclass
class Script:
    """How the next reads go. Offsets are of the whole blob."""

    down: bool = False
    hang_on_open: bool = False
    break_at: list[int] = field(default_factory=list)  # one break a read, at these offsets
    stall_at: int | None = None
    flip_at: int | None = None
    chunk_bytes: int = 64 * 1024
    extra: bytes = b""
    fails_behind: bool = False  # all bytes come, and then a failure
    flips: int | None = None  # how many reads flip_at holds for; None: all
    patience_s: float = inf  # of who reads: a silence of this length ends as a failure
    gate: asyncio.Event | None = None  # waited for before each chunk and each batch
    gate_from: int = 0  # chunks that begin below are not held up


class ScriptedStore(MemoryStore):
    def __init__(self, name: str, script: Script | None = None) -> None:
        super().__init__()
        self.name = name
        self.script = script or Script()
        self.reads: list[tuple[Digest, int]] = []
        self.finds = 0
        self.small_reads = 0

    def _check(self) -> None:
        if self.script.down:
            raise SourceUnavailable(self.name, "refused")

    async def _silence(self, patience_s: float | None = None) -> None:
        await asyncio.sleep(self.script.patience_s if patience_s is None else patience_s)
        raise SourceUnavailable(self.name, "silent")

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        self.finds += 1
        if self.script.hang_on_open:
            await self._silence()
        self._check()
        return await super().find_missing(digests)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        self.small_reads += 1
        if self.script.hang_on_open:
            await self._silence()
        self._check()
        if self.script.gate is not None:
            await self.script.gate.wait()
        return await super().read_small(digests)

    @asynccontextmanager
    async def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AsyncIterator[Chunks]:
        self.reads.append((digest, offset))
        if self.script.hang_on_open:
            await self._silence()
        self._check()
        step = self.script.chunk_bytes
        opened = super().open_read(digest, offset=offset, limit=limit, next_bytes=lambda: step)
        async with opened as chunks:
            yield self._misbehave(chunks, offset, digest.size_bytes)

    async def _misbehave(self, chunks: Chunks, at: int, size: int) -> AsyncIterator[bytes]:
        script = self.script
        break_at = script.break_at.pop(0) if script.break_at else None
        flip_at = script.flip_at if script.flips != 0 else None
        if script.flips:
            script.flips -= 1
        async for right in chunks:
            chunk = right
            if script.gate is not None and at >= script.gate_from:
                await script.gate.wait()
            end = at + len(chunk)
            if flip_at is not None and at <= flip_at < end:
                where = flip_at - at
                chunk = chunk[:where] + bytes([chunk[where] ^ 1]) + chunk[where + 1 :]
            if break_at is not None and end > break_at:
                if break_at > at:
                    yield chunk[: break_at - at]
                raise SourceUnavailable(self.name, "reset")
            yield chunk
            at = end
            if script.stall_at is not None and at >= script.stall_at:
                # A client of a server waits for the end of what has come whole but for a moment.
                await self._silence(0.05 if at == size else None)
        if script.extra:
            yield script.extra
        if script.fails_behind:
            raise SourceUnavailable(self.name, "said so behind the last byte")


def upstream(
    name: str, script: Script | None = None, clock: Clock | None = None, **options: object
) -> tuple[Upstream, ScriptedStore]:
    """clock: the system's if none is given, and then nothing ends because the machine is slow."""
    store = ScriptedStore(name, script)
    present_s, absent_s = (30.0, 5.0) if clock is not None else (_LONG_S, _LONG_S)
    options = {
        "hedge_delay_s": _LONG_S,
        "absent_entries": Answers(present_s=0.0, absent_s=absent_s),
        **options,
    }
    made = Upstream(
        name,
        store,
        clock or SystemClock(),
        random.Random(1),
        Metrics(),
        Answers(present_s=present_s, absent_s=absent_s),
        **options,  # type: ignore[arg-type]
    )
    return made, store


async def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the other side has no event to give
            await asyncio.sleep(0.005)
