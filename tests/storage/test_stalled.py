"""S33: access times that cannot be written. What a node may still promise, and that it recovers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from federation.config.model import LimitsConfig, ScrubConfig
from federation.config.model import StorageConfig as Settings
from federation.core.clock import ManualClock, SystemClock
from federation.observability.metrics import Metrics
from federation.storage.access_times import Touches
from federation.storage.catalogue.schema import connect
from federation.storage.storage import Storage
from federation.storage.upkeep.flusher import Flusher
from tests.storage.conftest import put, until
from tests.support.samples import sample_value

pytestmark = pytest.mark.slow

OLD_S = 61.0  # an access time of this age has to be renewed before a new lease is given
STUCK_S = 6.0  # touches that wait for longer than 5 s are too old


class JumpingClock(SystemClock):
    """The machine's, but for the jumps of a test."""

    jumped_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.jumped_s


class SlowPool:
    """A pool whose next look-up takes a while."""

    def __init__(self, pool: Any, clock: JumpingClock) -> None:
        self._pool = pool
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def query(self, *args: Any) -> Any:
        self._clock.jumped_s += STUCK_S
        return await self._pool.query(*args)


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
async def storage(tmp_path: Path, clock: JumpingClock) -> AsyncIterator[Storage]:
    settings = Settings(scrub=ScrubConfig(rate=0))  # and a lease of an hour
    opened = await Storage.open(tmp_path / "data", settings, LimitsConfig(), Metrics(), clock)
    try:
        yield opened
    finally:
        await opened.close()


@contextmanager
def stuck(storage: Storage) -> Iterator[apsw.Connection]:
    """Let no catalogue write get through, as a disk that hangs does; ROLLBACK ends it."""
    connection = connect(storage.core.directory.catalogue)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.close()


def withheld(storage: Storage) -> float:
    value = sample_value(storage.core.metrics, "federation_leases_withheld_total")
    assert value is not None
    return value


async def test_s33_what_needs_a_new_lease_is_missing_until_leases_are_written_again(
    storage: Storage, clock: JumpingClock
) -> None:
    old = await put(storage, b"old")
    clock.jumped_s += OLD_S
    recent = await put(storage, b"recent")
    with stuck(storage) as catalogue, capture_logs() as logs:
        assert await storage.find_missing([old, recent]) == set()  # a lease that can be written yet
        assert withheld(storage) == 0
        clock.jumped_s += STUCK_S
        assert await storage.find_missing([old, recent]) == {old}
        assert await storage.find_missing([recent]) == set()
        assert withheld(storage) == 1
        assert [each["log_level"] for each in logs if each["event"] == "leases_withheld"] == [
            "warning"
        ]
        catalogue.execute("ROLLBACK")

        async def is_back() -> bool:
            return not await storage.find_missing([old, recent])

        await until(is_back)


async def test_s33_a_look_up_that_took_too_long_promises_nothing_and_delays_no_later_one(
    storage: Storage, clock: JumpingClock
) -> None:
    old = await put(storage, b"old")
    clock.jumped_s += OLD_S
    with stuck(storage):  # so that nothing is mended by a flush
        storage.core.resident.close()  # which asks no thread
        pool = storage.core.pool
        storage.core.pool = SlowPool(pool, clock)  # type: ignore[assignment]
        assert await storage.find_missing([old]) == {old}
        assert withheld(storage) == 1
        storage.core.pool = pool
        assert await storage.find_missing([old]) == set()


async def test_p4_while_a_directory_was_read_without_a_lease_nothing_is_promised(
    storage: Storage, clock: JumpingClock
) -> None:
    """A closure's directories are leased by being read, its files by FindMissing."""
    old, directory = await put(storage, b"old"), await put(storage, b"directory")
    clock.jumped_s += OLD_S
    recent = await put(storage, b"recent")
    with stuck(storage) as catalogue:
        assert await storage.find_missing([old]) == set()
        clock.jumped_s += STUCK_S
        assert await storage.find_missing([recent]) == set()
        assert await storage.read_small([directory]) == [b"directory"]
        assert await storage.find_missing([recent]) == {recent}
        catalogue.execute("ROLLBACK")

        async def is_back() -> bool:
            return not await storage.find_missing([old, directory, recent])

        await until(is_back)


class SlowWriter:
    """Takes so long over each flush, and notes when each begins."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.begun_s: list[float] = []

    async def submit(self, work: Callable[[Any], Any]) -> None:
        self.begun_s.append(self._clock.monotonic_s())
        self._clock.advance(self._seconds)


class EverTouched(Touches):
    """There is always one more blob to lease."""

    def take(self) -> Any:
        self.blobs([b"key"], 0)
        return super().take()


@pytest.mark.parametrize(("takes_s", "every_s"), [(0.5, 2.0), (3.0, 3.0)])
async def test_s32_touches_that_gathered_during_a_slow_flush_are_written_at_once(
    storage: Storage, takes_s: float, every_s: float
) -> None:
    clock = ManualClock()
    writer = SlowWriter(clock, takes_s)
    core = replace(
        storage.core,
        clock=clock,
        writer=writer,  # type: ignore[arg-type]
        touches=EverTouched(),
    )
    pulse = Flusher(core)
    pulse.start()

    async def flushed() -> bool:
        return len(writer.begun_s) >= 4

    await until(flushed)
    await pulse.close()
    gaps_s = [
        after - before for before, after in zip(writer.begun_s, writer.begun_s[1:3], strict=False)
    ]
    assert gaps_s == [every_s, every_s]
